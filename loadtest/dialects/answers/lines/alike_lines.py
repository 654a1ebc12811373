"""Lines of one stream that differ in little but their text: many are read at once, which costs a tenth of parsing each."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add
from typing import NamedTuple, Self

import orjson

from loadtest.dialects.base import ContentEvents

MOST_AT_ONCE, FEWEST = 256, 8  # lines that are tried to be taken at once: at first, and where the last try took none
MOST_BETWEEN = 3  # lines between two that are alike, which say nothing: a blank one, the event's name
# What may differ beside the text: numbers and padding that nobody reads, and from a minute's begin on Ollama's instants
_OTHERS = re.compile(
    rb'"(?:sequence_number": ?(?P<number>\d{1,15})(?=[,}])'
    rb'|obfuscation": ?(?P<padding>"[A-Za-z0-9]*")'
    rb'|created_at": ?"\d{4}-\d\d-\d\dT\d\d:\d\d:(?P<seconds>\d\d\.\d+)(?=Z"|[+-]\d\d:\d\d"))'
)
_KINDS: dict[str | None, type] = {"number": int, "padding": str, "seconds": float}
LEADING = b"1"  # before seconds, since no number of JSON begins with a zero: 05.5 is read as 105.5


class LinesTaken(NamedTuple):
    """Lines that are alike, one behind the other, and what they say."""

    lines: int  # those between them included
    texts: list[str]
    ends: list[int]  # of each the offset behind its line
    created: list[int]  # of each the server's instant, ns; empty where the lines have none


@dataclass(frozen=True, slots=True)
class Alike:
    """What the lines of a stream have in common: the bytes around what differs."""

    begin: bytes
    between: tuple[tuple[bytes, bytes], ...]  # those between two values, and what parts the values in a list of JSON
    end: bytes
    leading: bytes  # of the first value
    kinds: tuple[type, ...]  # of the values in a line
    text: int  # the index of the value that is the text
    # the instant, ns since 1970, to which a line's seconds are added; None where lines have no instants
    minute: int | None

    @classmethod
    def like(cls, line: bytes, text: str, created: int | None) -> Self | None:
        """Return what lines like this one have in common; None where the place of its text is not certain.

        In a line without escapes the text stands as it is; where it occurs exactly once, that is its place. `created` is the
        line's own instant, None where it has none.
        """
        literal = b'"%b"' % text.encode(errors="replace")
        if b"\\" in line or line.count(literal) != 1:
            return None
        at = line.index(literal)
        places: list[tuple[int, int, str | None]] = [(at, at + len(literal), None)]
        places += [(*found.span(found.lastgroup or 0), found.lastgroup) for found in _OTHERS.finditer(line)]
        places.sort()
        names = [name for *_, name in places]
        minute = None
        if created is not None:
            if names.count("seconds") != 1:
                return None
            begin, end, _ = places[names.index("seconds")]
            minute = created - round(float(LEADING + line[begin:end]) * 1e9)
        leads = [LEADING if name == "seconds" else b"" for name in names]
        between = (
            (line[end:begin], b"," + lead)
            for (_, end, _), (begin, _, _), lead in zip(places, places[1:], leads[1:], strict=False)
        )
        kinds = tuple(_KINDS.get(name, str) for name in names)
        ends = line[: places[0][0]], line[places[-1][1] :]
        return cls(ends[0], tuple(between), ends[1], leads[0], kinds, names.index(None), minute)

    def take(
        self, lines: Sequence[bytes], at: int, most: int, silent: Container[bytes], offset: int
    ) -> LinesTaken | None:
        """Take up to `most` alike lines from the line `at` on, which begins at this `offset`.

        Lines that are `silent` may stand between them. None where the next line that is not silent is of another kind.
        """
        begin, end, first = self.begin, self.end, at
        while first < len(lines) and first - at < MOST_BETWEEN and lines[first] in silent:
            first += 1
        if first == len(lines) or not lines[first].startswith(begin):
            return None
        step, skip, stop = first - at + 1, len(begin), -len(end) or None
        # the last one is looked for from behind: most go on until the answer's end
        count = min((len(lines) - at) // step, most)
        while count and not ((last := lines[at + count * step - 1]).startswith(begin) and last.endswith(end)):
            count -= 1
        head = b"".join([line + b"\n" for line in lines[at:first]]) + begin
        while count:
            behind = at + count * step
            pieces = [line[skip:stop] for line in lines[first:behind:step]]
            whole = head + (end + b"\n" + head).join(pieces) + end
            if whole == b"\n".join(lines[at:behind]) and (found := self._found(pieces)) is not None:
                texts, created = found
                around = len(head) + len(end) + 1
                bases = range(offset + around, offset + around * (count + 1), around)
                return LinesTaken(
                    len(texts) * step, texts, list(map(add, accumulate(map(len, pieces[: len(texts)])), bases)), created
                )
            count //= 2
        return None

    def _found(self, pieces: list[bytes]) -> tuple[list[str], list[int]] | None:
        """Return the texts of the lines before the first empty one, and their instants; None where a line is of another kind."""
        data, size = (b",\n" + self.leading).join(pieces), len(self.kinds)  # no text of JSON goes on behind a newline
        for between, comma in self.between:
            data = data.replace(between, comma)
        try:
            values = orjson.loads(b"[" + self.leading + data + b"]")
        except orjson.JSONDecodeError:
            return None
        if len(values) != size * len(pieces):
            return None
        for i, kind in enumerate(self.kinds):
            if {*map(type, values[i::size])} != {kind}:
                return None
        texts = values[self.text :: size]
        if not all(texts):
            texts = texts[: texts.index("")]
        if self.minute is None or not texts:
            return (texts, []) if texts else None
        minute, seconds = self.minute, values[self.kinds.index(float) :: size][: len(texts)]
        if min(seconds) < 100 or max(seconds) >= 160:
            return None
        return texts, [minute + round(second * 1e9) for second in seconds]


class AlikeLines:
    """Takes lines of an answer that are like one that was parsed, many at a time."""

    __slots__ = ("_alike", "_events", "_is_hidden", "_most")

    def __init__(self, events: ContentEvents) -> None:
        self._events = events
        self._alike: Alike | None = None  # what lines like the last one have in common
        self._is_hidden = False  # whether their text is hidden
        self._most = MOST_AT_ONCE  # lines that are tried to be taken at once

    def forget(self) -> None:
        """Take no more lines until `learn` was given another."""
        self._alike = None

    def learn(self, line: bytes) -> None:
        """Take for an example a line that was parsed: the latest event is all that it says."""
        events = self._events
        created = events.created[-1] if events.created else None
        if events.created and created is None:
            return
        if (alike := Alike.like(line, events.texts[-1], created)) is not None:
            self._alike, self._most = alike, MOST_AT_ONCE
            self._is_hidden = len(events.texts) - 1 in events.hidden

    def take(self, lines: Sequence[bytes], at: int, silent: Container[bytes], offset: int) -> int:
        """Take the next lines if they are alike (see Alike.take); return how many they are."""
        if self._alike is None:
            return 0
        taken, events = self._alike.take(lines, at, self._most, silent, offset), self._events
        if taken is None:
            self._most = FEWEST
            return 0
        if self._is_hidden:
            events.hidden.update(range(len(events.texts), len(events.texts) + len(taken.texts)))
        events.texts += taken.texts
        events.ends += taken.ends
        events.created += taken.created
        self._most = 4 * len(taken.texts)
        return taken.lines
