"""What one request says: a text, or the messages of a conversation.

A conversation keeps its messages as bytes of JSON, and each turn appends its own. So a turn costs what it says, not what was
said before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class EncodedMessages:
    """Messages as a JSON array."""

    body: bytes
    system: str | None = None  # the text of the system message that they begin with
    behind_system: int = 0  # where the others begin

    @property
    def array(self) -> orjson.Fragment:
        """All messages, as what orjson puts into a body without reading it."""
        return orjson.Fragment(self.body)

    @property
    def others(self) -> orjson.Fragment:
        """The messages behind the system message, for formats that have a field of its own for that."""
        return orjson.Fragment(b"[" + memoryview(self.body)[self.behind_system :])

    def decoded(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = orjson.loads(self.body)
        return found


class History:
    """What was said in a conversation so far."""

    __slots__ = ("_begin", "_body", "_system")

    def __init__(self, system: str | None = None) -> None:
        self._body = bytearray(b"[")  # without the closing bracket, which `encoded` adds
        self._system, self._begin = system, 1
        if system is not None:
            self.add({"role": "system", "content": system})
            self._begin = len(self._body) + 1  # behind the comma

    def add(self, *messages: Mapping[str, Any]) -> None:
        for message in messages:
            if len(self._body) > 1:
                self._body += b","
            self._body += orjson.dumps(message)

    def encoded(self) -> EncodedMessages:
        """Return all messages so far: one copy, for past 128 kB each costs a turn more than all that it says."""
        self._body += b"]"
        body = bytes(self._body)
        del self._body[-1]
        return EncodedMessages(body, self._system, self._begin)


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be sent: a text, or the messages of a conversation."""

    id: int
    level: int
    seed: int
    prompt: str  # what is said, as text
    input_tokens: int | None  # asked for; None with a text of the user's own
    output_tokens: int | None  # asked for; None: the model decides
    warmup: bool = False
    messages: tuple[Mapping[str, Any], ...] | None = None  # sent as they are, instead of `prompt`
    encoded: EncodedMessages | None = None  # the messages of a conversation, sent as they are too, but JSON already
    session: int | None = None  # which session this is a turn of; None: a request by itself
    turn: int | None = None  # in that session, from 0
    sure_tokens: int = 0  # tokens that this turn's text adds to the prompt, whatever the vocabulary and the template
    row: str | None = None  # of the data file that it comes from
    body: Mapping[str, Any] | None = None  # laid over the request's body; None takes a key out
    inputs: tuple[str, ...] = ()  # texts to be embedded in one request, `prompt` among them; empty: `prompt` alone

    @property
    def conversation(self) -> Sequence[Mapping[str, Any]]:
        """The messages to be sent where an endpoint takes messages."""
        if self.encoded is not None:
            return self.encoded.decoded()
        return self.messages or ({"role": "user", "content": self.prompt},)
