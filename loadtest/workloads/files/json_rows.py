"""Where the rows of a JSON file stand: the elements of one array, or objects that are spread over several lines each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from loadtest.errors import ScenarioError
from loadtest.workloads.files.csv_mistakes import MOST_ROW

BLOCK = 1 << 20  # bytes that are read at once
MOST_BEGUN = 1 << 16  # bytes of a line that begins an object of several
OPENING, CLOSING = (b"{", b"["), (b"}", b"]")
MARKS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|"|[\[\]{},]', re.DOTALL)
Wrong = Callable[[int, str], ScenarioError]  # makes what is raised, of an offset and of what is wrong there


class RowSpan(NamedTuple):
    """A row's place in the file, and its bytes."""

    start: int
    end: int
    body: bytes


class _Scanner:
    """Finds the brackets and commas outside of texts, and holds the file from `start` on, where the row begins."""

    def __init__(self, file: BinaryIO, begin: int, wrong: Wrong) -> None:
        self.start = begin
        self.depth = 0  # brackets that are open behind the latest mark
        self._file, self._wrong = file, wrong
        self._held, self._base = b"", begin  # bytes not yet done with, and where they begin

    def held(self, end: int | None = None) -> bytes:
        """Return what stands from the row's start to `end`, or to the end of what was read."""
        return self._held[self.start - self._base : None if end is None else end - self._base]

    def rest(self, at: int) -> bytes:
        """Return what stands behind `at`, or the beginning of it."""
        return self._held[at - self._base :] + self._file.read(BLOCK)

    def marks(self) -> Iterator[tuple[bytes, int]]:
        seen = 0  # so many bytes of `held` were looked through
        while True:
            block = self._file.read(max(BLOCK, len(self._held)))
            self._held += block
            for found in MARKS.finditer(self._held, seen):
                if found[0] == b'"':  # a text that goes on behind what was read
                    break
                seen = found.end()
                if found[0][0] != 0x22:
                    self.depth += (found[0] in OPENING) - (found[0] in CLOSING)
                    yield found[0], self._base + found.start()
            else:
                seen = len(self._held)
            if not block:
                return
            seen -= self.start - self._base
            self._held, self._base = self.held(), self.start
            if len(self._held) > MOST_ROW:
                raise self._wrong(self.start, f"begins a row of more than {MOST_ROW >> 20} MiB; is it the right file?")


def array_rows(file: BinaryIO, begin: int, wrong: Wrong) -> Iterator[RowSpan]:
    """Yield the elements of the array that the file is."""
    scanner = _Scanner(file, begin, wrong)
    for mark, at in scanner.marks():
        if mark in OPENING and scanner.depth == 1:
            scanner.start = at + 1
        if scanner.depth > 1 or (scanner.depth == 1 and mark != b","):
            continue
        element = scanner.held(at)
        if element.strip():
            yield RowSpan(scanner.start + len(element) - len(element.lstrip()), at, element.lstrip())
        elif mark == b",":
            raise wrong(at, "has a comma with nothing before it")
        scanner.start = at + 1
        if scanner.depth == 0:
            if scanner.rest(at + 1).strip():
                raise wrong(at + 1, "goes on behind the array's end; give one array, or JSON lines")
            return
    left = scanner.held()
    begun = scanner.start + len(left) - len(left.lstrip())
    raise wrong(begun, "begins a row that never ends: the array's closing bracket is missing")


def object_rows(file: BinaryIO, begin: int, wrong: Wrong) -> Iterator[RowSpan]:
    """Yield the objects of a file in which they stand one behind the other, each over several lines."""
    scanner = _Scanner(file, begin, wrong)
    for mark, at in scanner.marks():
        if mark in OPENING and scanner.depth == 1:
            if scanner.held(at).strip():
                raise _between(scanner, wrong)
            scanner.start = at
        elif mark in CLOSING and scanner.depth == 0:
            yield RowSpan(scanner.start, at + 1, scanner.held(at + 1))
            scanner.start = at + 1
    if scanner.held().strip():
        raise wrong(scanner.start, "begins a row that never ends") if scanner.depth > 0 else _between(scanner, wrong)


def _between(scanner: _Scanner, wrong: Wrong) -> ScenarioError:
    left = scanner.held()
    return wrong(
        scanner.start + len(left) - len(left.lstrip()),
        "has something between two rows; put nothing but line ends there, or make all rows one array",
    )


def is_spread(line: bytes) -> bool:
    """Whether a line begins an object that goes on in the next one."""
    marks = MARKS.findall(line) if len(line) <= MOST_BEGUN else []
    opened = sum((mark in OPENING) - (mark in CLOSING) for mark in marks)
    return opened > 0 and b'"' not in marks


def remedy(row: bytes, wrong: str) -> str:
    """Return what to do with rows that are not JSON, which follows what is `wrong` with them."""
    body = row.strip()
    if body.endswith((b"{", b",")) or body == b"[" or "after document" in wrong:
        return "; write each row on a line of its own (JSON lines), or all of them as one array"
    return "; mend it, take the row out, or see whether it is the right file"
