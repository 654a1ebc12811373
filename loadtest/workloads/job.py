"""What one request says: a text, or messages as JSON that a conversation appends to, and what messages say.

So a turn costs what it says, not what was said before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
        self._body = bytearray(b"[")  # its end is put behind it where it is read
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
    encoded: EncodedMessages | None = None  # likewise, of a conversation: made once
    session: int | None = None  # which session this is a turn of; None: a request by itself
    turn: int | None = None  # in that session, from 0
    sure_tokens: int = 0  # that this turn's own text adds to the prompt, however they are counted
    row: str | None = None  # of the data file that it comes from
    body: Mapping[str, Any] | None = None  # laid over the request's body; None takes a key out
    inputs: tuple[str, ...] = ()  # texts to be embedded in one request, `prompt` among them; empty: `prompt` alone

    @property
    def conversation(self) -> Sequence[Mapping[str, Any]]:
        """The messages to be sent where an endpoint takes messages."""
        if self.encoded is not None:
            return self.encoded.decoded()
        return self.messages or ({"role": "user", "content": self.prompt},)


WITHOUT_CONTENT = ("tool_calls", "function_call")  # a message that calls a tool may say nothing


class Round(NamedTuple):
    """One turn of a recorded conversation."""

    said: tuple[Mapping[str, Any], ...]  # by the user, or by a tool
    answer: Mapping[str, Any] | None  # None where none is recorded


def is_message(message: object) -> bool:
    """Whether this is a message that says something."""
    return isinstance(message, dict) and ("content" in message or any(key in message for key in WITHOUT_CONTENT))


def text_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return what messages say, a line a message: the text of content parts, nothing of images and calls."""
    return "\n".join(_content_text(message.get("content")) for message in messages)


def _content_text(content: Any) -> str:
    match content:
        case str():
            return content
        case list():
            return "".join(_content_text(part.get("text") if isinstance(part, dict) else part) for part in content)
        case None | dict():
            return ""
    return str(content)


def answer_message(text: str, endpoint: str) -> Mapping[str, Any]:
    """Return an answer as a message of the history; /v1/responses takes it as an item of the answer that it gave."""
    if endpoint == "responses":
        said = {"type": "output_text", "text": text, "annotations": []}
        return {"type": "message", "role": "assistant", "status": "completed", "content": [said]}
    return {"role": "assistant", "content": text}


def calls_a_tool(message: Mapping[str, Any]) -> bool:
    """Whether a message asks for a tool, whose answer has to follow."""
    return any(message.get(key) for key in WITHOUT_CONTENT)


def system_apart(messages: Sequence[Mapping[str, Any]]) -> tuple[str | None, Sequence[Mapping[str, Any]]]:
    """Return the text of the system messages that a conversation begins with, and its other messages."""
    count = next((i for i, one in enumerate(messages) if one.get("role") not in ("system", "developer")), len(messages))
    return (text_of(messages[:count]) if count else None), messages[count:]


def rounds(messages: Sequence[Mapping[str, Any]], *, alone: bool = False) -> list[Round]:
    """Return the turns of a conversation; with `alone` each message is one, else those up to an answer are one.

    An answer before the user has said anything is left out, and so is a second answer in a row.
    """
    if alone:
        return [Round((message,), None) for message in messages]
    found: list[Round] = []
    said: list[Mapping[str, Any]] = []
    for message in messages:
        if message.get("role") != "assistant":
            said.append(message)
        elif said:
            found.append(Round(tuple(said), message))
            said = []
    return [*found, Round(tuple(said), None)] if said else found
