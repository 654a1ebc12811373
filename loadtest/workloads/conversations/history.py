"""The messages of a conversation as JSON that is appended to: a turn costs what it says, not what was said before."""

from __future__ import annotations

from collections.abc import Mapping
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
