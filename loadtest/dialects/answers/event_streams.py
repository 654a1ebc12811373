"""Event streams, whose chunks differ in little but their text: of /v1/chat/completions, /v1/responses and /v1/messages."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from loadtest.dialects.answers.decoded import Decoded, Rows
from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.errors.error_rows import envelope, in_row
from loadtest.dialects.answers.lines.framing import NO_SHAPE, LineShape, shape_around

NUMBER = b'"sequence_number":'
# before and behind the next line's number, that number, whether it leads the text
Numbered = tuple[bytes, bytes, int, bool]
NO_NUMBER: Numbered = (b"", b"", 0, False)


class EventDecoder(StreamDecoder):
    """Decodes events of two or three lines: a name, where the data repeats it as its `type`; the data; a blank line.

    A chunk that differs from the last in its text, in a number that is one more, and in OpenAI's padding, is not parsed.
    """

    __slots__ = ("_hidden", "_kind", "_name", "_names", "_numbered", "_padding", "_shape", "_typed")

    def __init__(self, own: Callable[[Decoded], Rows], names: tuple[bytes, ...] = ()) -> None:
        """`names` begin the names of this format's own events, which say nothing that the data does not."""
        self._names = names
        self._name = b"\n"  # the line that named the latest event of text
        self._kind = ""  # the name of the latest event of this format
        self._typed = False  # a row said its type: a server that leaves the types to the events' names leaves out all
        self._hidden: set[int] | None = None  # where the events of the shape belong, if they are hidden
        self.forget()
        super().__init__(own)

    def forget(self) -> None:
        # the padding: what comes between the text and characters that differ in every line; empty without them
        self._shape, self._numbered, self._padding = NO_SHAPE, NO_NUMBER, b""

    def feed(self, data: bytes) -> None:
        if self._answer.over:
            self._behind(self._lines.feed(data))
            return
        answer, texts, ends_at, loads = self._answer, self.events.texts, self.events.ends, orjson.loads
        (before, after), hidden, name = self._shape, self._hidden, self._name
        (left, right, number, leads), padding = self._numbered, self._padding
        end, skip, stop = answer.end, len(before), -len(after) or None
        idle = not (self._held or answer.kind)
        lines = iter(self.lines(data))
        for line in lines:
            if not line and idle:  # most blank lines end an event that was taken already
                end += 1
                continue
            end += len(line) + 1
            if line == name and idle:
                continue
            if line[:skip] == before and line[stop:] == after:  # startswith and endswith take twice as long
                try:
                    text = loads(line[skip : _before_padding(line, padding, stop) if padding else stop])
                except orjson.JSONDecodeError:
                    text = None
                if text and type(text) is str:
                    if hidden:
                        hidden.add(len(texts))
                    texts.append(text)
                    ends_at.append(end)
                    if left:
                        number += 1
                        counted = b"%b%d%b" % (left, number, right)
                        before, after = (counted, after) if leads else (before, counted)
                        skip, stop = len(before), -len(after) or None
                    continue
            elif line == b"\r" and idle:
                continue
            answer.end = end
            if left:
                self._shape, self._numbered = (before, after), (left, right, number, leads)
            if self.line(line):
                self._take_shape(line)
            (left, right, number, leads), padding = self._numbered, self._padding
            (before, after), hidden, name = self._shape, self._hidden, self._name
            skip, stop = len(before), -len(after) or None
            idle = not (self._held or answer.kind)
            if answer.over:
                self._behind(lines)
                return
        answer.end = end
        if left:
            self._shape, self._numbered = (before, after), (left, right, number, leads)

    def line(self, line: bytes) -> bool:
        if line.startswith(b"event:") and line[6:].strip().startswith(self._names):
            self._answer.kind = b""
            if line != self._name:  # the same words under another name may be thoughts
                self.forget()
            self._name, self._kind = line, line[6:].strip().decode(errors="replace")
            return False
        return super().line(line)

    def _row(self, row: dict[str, Any]) -> bool:
        """Take a row, which has its event's name for a type where it has none of its own, unless it is an error's."""
        self._typed = self._typed or "type" in row
        if self._kind and not (self._typed or "object" in row or in_row(row) or envelope(row)):
            row = {"type": self._kind, **row}
        return super()._row(row)

    def _take_shape(self, line: bytes) -> None:
        """Take the shape of a line with one event, of which nothing else is to be known."""
        events = self.events
        if (sides := shape_around(line, events.texts[-1])) is None:
            return
        self._hidden = events.hidden if len(events) - 1 in events.hidden else None
        if (cut := _PADDING.search(sides[1])) is not None:
            sides = sides[0], sides[1][cut.end() :]
        self._padding = cut[1] if cut is not None else b""
        self._shape, self._numbered = sides, NO_NUMBER
        if (found := numbered(sides)) is not None:
            left, right, number, leads = self._numbered = found
            after = b"%b%d%b" % (left, number, right)
            self._shape = (after, sides[1]) if leads else (sides[0], after)


_PADDING = re.compile(rb'^([^"]*(?:"[a-z]+":(?:\[\]|null),)*"obfuscation": ?")[A-Za-z0-9]*')


def _before_padding(line: bytes, begin: bytes, end: int | None) -> int:
    """Return where the text ends in a line whose padding begins behind `begin` and goes to `end`; 0 where it is no padding."""
    at = line.rfind(begin, 0, end)
    padding = line[at + len(begin) : end]
    return max(at, 0) if padding.isalnum() or not padding else 0


def numbered(sides: LineShape) -> Numbered | None:
    """Return the number of the line that follows one of this shape, and what stands around it.

    None where the shape has no sequence number, or more than one.
    """
    before, after = sides
    found = before.count(NUMBER), after.count(NUMBER)
    if found not in ((1, 0), (0, 1)):
        return None
    leads = found[0] == 1
    left, _, rest = (before if leads else after).partition(NUMBER)
    digits = len(rest) - len(rest.lstrip(b"0123456789"))
    if not 0 < digits < 16:
        return None
    return left + NUMBER, rest[digits:], int(rest[:digits]) + 1, leads
