"""Event streams whose events are named and numbered, as /v1/responses and /v1/messages send them."""

from __future__ import annotations

import re
from typing import Any

import orjson

from loadtest.dialects.answers.decoded import Decoded, Rows
from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.errors.server_errors import envelope, in_row
from loadtest.dialects.answers.lines.framing import NO_SHAPE, LineShape, shape_around
from loadtest.dialects.answers.rows.native_rows import AnyRows, NativeRows
from loadtest.dialects.answers.rows.ollama_rows import OllamaRows
from loadtest.dialects.answers.rows.openai_rows import OpenAIRows
from loadtest.dialects.base import ContentEvents

NUMBER = b'"sequence_number":'
# before and behind the next line's number, that number, whether it leads the text
Numbered = tuple[bytes, bytes, int, bool]
NO_NUMBER: Numbered = (b"", b"", 0, False)


class NamedEventsDecoder(StreamDecoder):
    """Decodes events of three lines: a name, which the data repeats as its `type`; the data; a blank line.

    A chunk that differs from the last in its text, in a number that is one more, and in OpenAI's padding, is not parsed.
    """

    __slots__ = ("_hidden", "_kind", "_name", "_names", "_numbered", "_padding", "_shape", "_typed")

    def __init__(self, answer: Decoded, own: Rows, names: tuple[bytes, ...]) -> None:
        """`names` begin the names of this format's own events, which say nothing that the data does not."""
        self._names = names
        self._name = b"\n"  # the line that named the latest event of text
        self._kind = ""  # the name of the latest event of this format
        self._typed = False  # a row said its type: a server that leaves the types to the events' names leaves out all
        self._shape = NO_SHAPE
        self._numbered = NO_NUMBER
        self._padding = b""  # what comes between the text and a padding that differs in every line; empty without one
        self._hidden: set[int] | None = None  # where the events of the shape belong, if they are hidden
        super().__init__(answer, own, other=_other_formats)

    def forget(self) -> None:
        self._shape, self._numbered, self._padding = NO_SHAPE, NO_NUMBER, b""

    def feed(self, data: bytes) -> None:
        answer, texts, ends_at = self._answer, self.events.texts, self.events.ends
        (before, after), hidden, name = self._shape, self._hidden, self._name
        (left, right, number, leads), padding = self._numbered, self._padding
        end, skip, least = answer.end, len(before), len(after)
        idle = not (self._held or answer.kind)
        for line in self.lines(data):
            size = len(line)
            end += size + 1
            if size > 1:
                if line == name and idle:
                    continue
                if line.startswith(before) and line.endswith(after):
                    stop = size - least if not padding else _before_padding(line, padding, size - least)
                    try:
                        text = orjson.loads(line[skip:stop])
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
                            skip, least = len(before), len(after)
                        continue
            elif idle and (not size or line == b"\r"):
                continue  # most blank lines end an event that was taken already
            answer.end = end
            if left:
                self._shape, self._numbered = (before, after), (left, right, number, leads)
            if self.line(line):
                self._take_shape(line, self.events)
            (left, right, number, leads), padding = self._numbered, self._padding
            (before, after), hidden, name = self._shape, self._hidden, self._name
            skip, least = len(before), len(after)
            idle = not (self._held or answer.kind)
            if answer.over:
                return
        answer.end = end
        if left:
            self._shape, self._numbered = (before, after), (left, right, number, leads)

    def line(self, line: bytes) -> bool:
        if line.startswith(b"event:") and line[6:].strip().startswith(self._names):
            self._answer.kind = b""
            self._name, self._kind = line, line[6:].strip().decode(errors="replace")
            return False
        return super().line(line)

    def _row(self, row: dict[str, Any]) -> bool:
        """Take a row, which has its event's name for a type where it has none of its own, unless it is an error's."""
        self._typed = self._typed or "type" in row
        if self._kind and not (self._typed or "object" in row or in_row(row) or envelope(row)):
            row = {"type": self._kind, **row}
        return super()._row(row)

    def _take_shape(self, line: bytes, events: ContentEvents) -> None:
        """Take the shape of a line with one event, of which nothing else is to be known."""
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


def _other_formats(answer: Decoded) -> AnyRows:
    return AnyRows(OpenAIRows(answer), OllamaRows(answer), NativeRows(answer))


_PADDING = re.compile(rb'^([^"]*(?:"[a-z]+":(?:\[\]|null),)*"obfuscation": ?")[A-Za-z0-9]*')


def _before_padding(line: bytes, begin: bytes, end: int) -> int:
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


def kind_of(row: dict[str, Any]) -> str:
    """Return the type of an event's data, "" where it has none."""
    kind = row.get("type")
    return kind if isinstance(kind, str) else ""
