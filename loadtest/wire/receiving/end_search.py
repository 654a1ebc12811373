"""The search of an answer's body for the lines that end it, while the body comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from loadtest.dialects.answers.lines.framing import is_dataless
from loadtest.dialects.base import End, EndMarks

UNFINISHED = 4096  # bytes; a longer line is looked at only when its newline has come

# Some servers end lines with a b"\r" alone; behind the body's last byte a b"\n" may yet come.
_LINE_END = re.compile(rb"\n|\r(?!\n|\Z)")

Said = tuple[End, int]  # what a line says of the answer's end, and the offset in the body behind the line


class EndSearch:
    """Looks for `marks` in `body`, which grows; asks only lines with a needle of theirs, be it cut by a read or not."""

    __slots__ = ("_body", "_line_has_needle", "_longest", "_marks", "_needles", "_tail", "quiet")

    def __init__(self, marks: EndMarks, body: bytearray) -> None:
        self._marks, self._needles, self._body = marks, marks.needles, body
        self._longest = max(map(len, marks.needles), default=0)
        self._tail = b""  # the end of a line that has no newline yet: a needle may begin in it
        self._line_has_needle = False  # whether that line holds a needle
        self.quiet = False  # the latest read ended with a line, and no needle was in it

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self._needles)

    def take(self, read: bytes) -> Iterator[Said]:
        """Look through the read that was just added to the body."""
        region = self._tail + read
        found, newline, size = self.holds(region), b"\n" in read, len(self._body)
        if found or (self._line_has_needle and read):
            start = self._line_start(size - len(read))
            if newline or size - start < UNFINISHED or b"\r" in read:
                yield from self._ask(start)
        if newline:
            self._line_has_needle = found and self.holds(region.rpartition(b"\n")[2])
        else:
            self._line_has_needle = found or self._line_has_needle
        ended = self._body.endswith(b"\n")
        self._tail = b"" if ended else region[-self._longest :]
        self.quiet = ended and not found

    def tail(self) -> bytes:
        """Return the last lines of the body, from the beginning of one on."""
        return bytes(self._body[self._line_start(max(len(self._body) - UNFINISHED, 0)) :])

    def latest_data(self, known: int, is_empty: Callable[[bytes], bool] | None) -> int | None:
        """Return where the latest line ends that holds data, if that is behind `known`; a line that `is_empty` holds none.

        Comments, other fields of events and signs of life are no data.
        """
        body, end = self._body, len(self._body)
        while end > known:
            start = body.rfind(b"\n", 0, end) + 1
            line = body[start:end]
            if not is_dataless(bytes(line[:64])) and not (is_empty is not None and is_empty(bytes(line))):
                return end
            end = start - 1
        return None

    def holds(self, data: bytes | bytearray) -> bool:
        """Whether a needle is in `data`."""
        for needle in self._needles:  # noqa: SIM110 - any() takes twice as long
            if needle in data:
                return True
        return False

    def _line_start(self, at: int) -> int:
        r"""Return where the line begins that holds `at`; some servers end lines with a b"\r" alone."""
        start = self._body.rfind(b"\n", 0, at) + 1
        return max(start, self._body.rfind(b"\r", start, at) + 1)

    def _ask(self, start: int) -> Iterator[Said]:
        """Ask every line from `start` on whether it ends the answer."""
        for line in _LINE_END.split(self._body[start:]):
            end = start + len(line)
            if line and self.holds(line) and (said := self._marks.read(bytes(line))) is not None:
                yield said, end
            start = end + 1
