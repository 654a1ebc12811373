"""A data file: where each of its rows stands, so that a row is read when it is sent and a million rows fit in memory.

Every process reads the file through once and gets the same rows. What cannot be read is named by file, line and column.
"""

from __future__ import annotations

import codecs
import csv
import functools
import itertools
import re
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from loadtest.errors import ScenarioError
from loadtest.scenario import MOST_REQUESTS, file_version, short_repr
from loadtest.scenario.wrong_file import is_utf8, not_regular, not_rows
from loadtest.text import counted
from loadtest.workloads.files.csv_mistakes import LONE_RETURNS, wrong_cells, wrong_csv, wrong_head
from loadtest.workloads.files.data_row import (
    IDS,
    KNOWN,
    LENGTH_KEYS,
    SYSTEMS,
    Row,
    RowError,
    is_plain,
    loads,
    plain_column,
    read_row,
    unsent_text,
)
from loadtest.workloads.files.trace import DELIMITERS

BLOCK = 1 << 20  # bytes that are read at once of a JSON array
MOST_ROW = 64 << 20  # bytes
YIELD_EVERY = 10_000  # rows between two pauses, in which a Locust worker tells its master that it lives
PAUSE_S = 0.001  # the length of such a pause
SAME_AS_BEFORE = Row("")  # in place of a row that is like the one before it: nothing of it but a text is sent
JSON_SUFFIXES, CSV_SUFFIXES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
JSON_PIECES = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|"|[\[\]{},]', re.DOTALL)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let cells of a CSV file be as long as a row may be; the limit is one of the whole process."""
    usual = csv.field_size_limit(MOST_ROW)
    try:
        yield
    finally:
        csv.field_size_limit(usual)


class Piece(NamedTuple):
    """A row's place in the file, and its bytes."""

    start: int
    end: int
    body: bytes


@dataclass(slots=True)
class DataFile:
    """The rows of a data file. Picklable, for worker processes on this machine."""

    path: Path
    column: str | None
    head: tuple[str, ...] | None = None  # names of a CSV file's columns; None: rows are JSON
    delimiter: str = ","
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    answers: array[int] = field(default_factory=lambda: array("q"))  # length that a row asks for, 0: none
    left_out: int = 0  # conversations in which no user speaks
    own_lengths: int = 0  # rows that say how long their answer may be
    recorded: int = 0  # rows that end in an answer, which is not sent
    with_body: str | None = None  # the keys that the first such row lays over its request's body
    systems: int | None = None  # number of the first row with a system prompt of its own
    unsent: tuple[str, str] | None = None  # of the first row: a long text that is not sent, and the prompt's column

    @classmethod
    def read(cls, path: Path, column: str | None) -> DataFile:
        """Read a file through, row by row; raise ScenarioError. A file that has not changed is read once."""
        return _read_data(path, column, file_version(path))

    def __len__(self) -> int:
        return len(self.starts)

    def row(self, i: int) -> Row:
        """Return row i, which was read before: raises ScenarioError only where the file was changed or taken away since."""
        start, end = self.starts[i], self.ends[i]
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                body = file.read(end - start)
            row = read_row(self._value(body), self.column)
        except OSError as error:
            raise ScenarioError(f"cannot read the data file {self.path}: {error.strerror}.") from None
        except (RowError, ValueError, csv.Error):
            row = None
        if row is None:
            raise ScenarioError(f"the data file {self.path} was changed while it was read; start anew.")
        return row

    def name(self, i: int) -> str:
        """Say which row row i is, for a sentence: its number, its line."""
        return f"row {i + 1} (line {self._line(self.starts[i])})"

    def _value(self, body: bytes) -> Any:
        if self.head is None:
            return loads(body)
        with _long_cells():
            cells = next(csv.reader([body.decode()], delimiter=self.delimiter, strict=True))
        return dict(zip(self.head, cells, strict=False))

    def _line(self, offset: int) -> int:
        """Return the number of the line that begins at or before an offset."""
        count = 1
        with self.path.open("rb") as file:
            while offset > 0 and (block := file.read(min(offset, BLOCK))):
                count += block.count(b"\n")
                offset -= len(block)
        return count

    def take_all(self, file: BinaryIO) -> None:
        """Read the file through, and remember where its rows are."""
        pieces = self._csv_pieces(file) if self.head is not None else self._json_pieces(file)
        keys, plain = None, None  # of a row of which nothing but one text is sent: most rows are alike
        for number, (piece, value) in enumerate(pieces):
            if not number:
                self.unsent = unsent_text(value, self.column)
            elif not number % YIELD_EVERY:
                time.sleep(PAUSE_S)
            row: Row | None = SAME_AS_BEFORE
            if plain is None or value.__class__ is not dict or value.keys() != keys or not is_plain(value[plain]):
                if (plain := plain_column(value, self.column)) is not None:
                    keys = value.keys()
                row = self._read(piece, value)
            if row is None:
                self.left_out += 1
            else:
                self._take(piece, row)
        if len(self.starts) > MOST_REQUESTS:
            raise ScenarioError(f"the data file {self.path} has more than {MOST_REQUESTS} rows; cut it.")

    def _read(self, piece: Piece, value: Any) -> Row | None:
        try:
            return read_row(value, self.column)
        except RowError as error:
            raise self._wrong(piece.start, str(error)) from None
        except UnicodeEncodeError:
            raise self._wrong(piece.start, "holds half a character (a lone surrogate)") from None

    def _take(self, piece: Piece, row: Row) -> None:
        self.starts.append(piece.start)
        self.ends.append(piece.end)
        self.answers.append(row.output_tokens or 0)
        self.own_lengths += row.output_tokens is not None
        self.recorded += row.answer is not None and row.messages is not None
        if row.body and self.with_body is None:
            self.with_body = ", ".join(map(str, row.body))
        if self.systems is None and row.has_system:
            self.systems = len(self.starts)

    def _wrong(self, offset: int, what: str) -> ScenarioError:
        stop = "" if what.endswith("?") else "."
        return ScenarioError(f"the data file {self.path}, line {self._line(offset)}, {what}{stop}")

    # -- JSON ---------------------------------------------------------------------------------------------------------

    def _json_pieces(self, file: BinaryIO) -> Iterator[tuple[Piece, Any]]:
        begin = _after_mark(file)
        first = _first_byte(file)
        file.seek(begin)
        pieces = self._array_pieces(file, begin) if first == b"[" else self._line_pieces(file, begin)
        for piece in pieces:
            yield piece, self._parsed(piece)

    def _parsed(self, piece: Piece) -> Any:
        try:
            return loads(piece.body)
        except orjson.JSONDecodeError as error:
            if b"\0" in piece.body:
                raise self._wrong(piece.start, "holds a NUL byte; save the file as UTF-8 text") from None
            if not is_utf8(piece.body):
                raise self._wrong(piece.start, "is not UTF-8 text; save the file as UTF-8") from None
            line = self._line(piece.start) + error.lineno - 1
            what = re.sub(r":? ?line \d+ column \d+ \(char \d+\)", "", str(error))
            raise ScenarioError(
                f"the data file {self.path}, line {line}, column {error.colno}, is not JSON: {what}{self._spread(piece)}."
            ) from None

    def _spread(self, piece: Piece) -> str:
        """Return a hint where rows seem to be spread over several lines each, or lines end in a way that is none."""
        body = piece.body.strip()
        if b"\r" in body and b"\n" not in body:
            return LONE_RETURNS
        spread = body.endswith((b"{", b",")) or body == b"["
        return "; write each row on a line of its own (JSON lines), or all of them as one array" if spread else ""

    def _line_pieces(self, file: BinaryIO, begin: int) -> Iterator[Piece]:
        at = begin
        for line in iter(functools.partial(file.readline, MOST_ROW + 1), b""):
            start, at = at, at + len(line)
            if len(line) > MOST_ROW:
                raise self._wrong(start, f"is a row of more than {MOST_ROW >> 20} MiB; is it the right file?")
            if line.strip():
                yield Piece(start, at, line)

    def _array_pieces(self, file: BinaryIO, begin: int) -> Iterator[Piece]:
        """Yield the elements of the array that the file is."""
        held, base = b"", begin  # bytes not yet done with, and where they begin
        depth, start, seen = 0, begin, 0  # `seen` bytes of `held` were looked through
        while True:
            block = file.read(max(BLOCK, len(held)))
            held += block
            for found in JSON_PIECES.finditer(held, seen):
                mark, at = found[0], base + found.start()
                if mark == b'"':  # a text that goes on behind what was read
                    break
                seen = found.end()
                if mark in (b"{", b"["):
                    depth += 1
                    start = at + 1 if depth == 1 else start
                elif mark in (b"}", b"]", b","):
                    depth -= mark != b","
                    if depth == 0 or (depth == 1 and mark == b","):
                        element = held[start - base : at - base]
                        if element.strip():
                            yield Piece(start + len(element) - len(element.lstrip()), at, element.lstrip())
                        elif mark == b",":
                            raise self._wrong(at, "has a comma with nothing before it")
                        start = at + 1
                    if depth == 0:
                        if (held[seen:] + file.read(BLOCK)).strip():
                            raise self._wrong(
                                base + seen, "goes on behind the array's end; give one array, or JSON lines"
                            )
                        return
            else:
                seen = len(held)
            if not block:
                begun = start + len(held) - len(held.lstrip())
                raise self._wrong(begun, "begins a row that never ends: the array's closing bracket is missing")
            held, base, seen = held[start - base :], start, seen - (start - base)
            if len(held) > MOST_ROW:
                raise self._wrong(start, f"begins a row of more than {MOST_ROW >> 20} MiB; is it the right file?")

    # -- CSV ----------------------------------------------------------------------------------------------------------

    def _csv_pieces(self, file: BinaryIO) -> Iterator[tuple[Piece, Any]]:
        assert self.head is not None
        lines = _CsvLines(self, file)
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        for number in itertools.count():
            start = lines.at
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise self._wrong(start, wrong_csv(error)) from None
            if not number or not any(cell.strip() for cell in cells):  # the head, or a blank line
                continue
            if len(cells) != len(self.head):
                raise self._wrong(start, wrong_cells(len(cells), len(self.head), self.delimiter))
            yield Piece(start, lines.at, b""), dict(zip(self.head, cells, strict=False))


class _CsvLines:
    """Lines of a CSV file as text, and how far they were read: the reader takes no more of them than a row needs."""

    def __init__(self, data: DataFile, file: BinaryIO) -> None:
        self.at = _after_mark(file)
        self._data, self._file = data, file

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise self._data._wrong(self.at, "is not UTF-8 text; save the file as UTF-8") from None  # noqa: SLF001
        if "\0" in text:
            raise self._data._wrong(self.at, "holds a NUL byte; is it a text file?")  # noqa: SLF001
        self.at += len(line)
        return text


@functools.lru_cache(maxsize=2)
def _read_data(path: Path, column: str | None, _: tuple[int, ...]) -> DataFile:
    try:
        if (other := not_regular(path)) is not None:
            raise ScenarioError(f"the data file {path} {other}.")
        with path.open("rb") as file:
            data = _recognised(path, column, file)
            with _long_cells():
                data.take_all(file)
    except OSError as error:
        raise ScenarioError(f"cannot read the data file {path}: {error.strerror}.") from None
    except ValueError:
        raise ScenarioError(f"cannot read the data file {path!a}: its name holds a NUL byte.") from None
    if not len(data):
        why = f": no user speaks in its {counted(data.left_out, 'conversation')}" if data.left_out else ""
        raise ScenarioError(f"the data file {path} has no row{why}; give one prompt a row.")
    return data


def _recognised(path: Path, column: str | None, file: BinaryIO) -> DataFile:
    """Return the file without its rows yet; raise ScenarioError for one that is neither JSON nor CSV."""
    suffix = path.suffix.lower()
    if (other := not_rows(file.read(512), suffix)) is not None:
        raise ScenarioError(f"the data file {path} {other}.")
    _after_mark(file)
    first = _first_byte(file)
    if not first:
        raise ScenarioError(f"the data file {path} is empty; give one prompt a row.")
    data = DataFile(path, column)
    if suffix in JSON_SUFFIXES or (suffix not in CSV_SUFFIXES and first in (b"{", b"[")):
        return data
    return _with_head(data, next(_CsvLines(data, file)))


def _with_head(data: DataFile, line: str) -> DataFile:
    """Return a CSV file with the names of its columns."""
    heads: dict[str, list[str]] = {}
    wrong = csv.Error()
    for delimiter in DELIMITERS:
        try:
            heads[delimiter] = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error as error:  # "a","b" is none with semicolons
            wrong = error
    if not heads:
        raise ScenarioError(f"the data file {data.path}, line 1, {wrong_csv(wrong)}.")
    data.delimiter = max(heads, key=lambda one: len(heads[one]))
    names = [name.strip() for name in heads[data.delimiter]]
    data.head = tuple(_column_names(names, data.column))
    wanted = [data.column] if data.column is not None else KNOWN
    if trouble := wrong_head(line, data.head, (*wanted, *IDS, *LENGTH_KEYS, *SYSTEMS)):
        raise ScenarioError(f"the data file {data.path}, line 1, {trouble}.")
    if not set(wanted) & set(data.head):
        has = short_repr(", ".join(names))
        if data.column is not None:
            raise ScenarioError(f"the data file {data.path} has no column {short_repr(data.column)}; it has {has}.")
        try:
            read_row(dict.fromkeys(data.head, ""), None)
        except RowError as error:
            if "trace" in str(error):
                raise ScenarioError(f"the data file {data.path}, line 1, {error}.") from None
        raise ScenarioError(
            f"the data file {data.path}, line 1, names no column prompt, text or question; it has {has}: name the prompt's "
            "with --data-column, or write the columns' names above all rows. (One text for every request is given with "
            "--prompt-file.)"
        )
    return data


def _column_names(names: Sequence[str], column: str | None) -> Iterator[str]:
    """Yield the names of columns, those that are known in lower case."""
    for name in names:
        lower = name.lower()
        known = lower in (*KNOWN, *IDS, *LENGTH_KEYS, *SYSTEMS) and name != column
        yield lower if known else name


def _after_mark(file: BinaryIO) -> int:
    """Skip a byte order mark at the beginning of a file; return where the text begins."""
    file.seek(0)
    length = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
    file.seek(length)
    return length


def _first_byte(file: BinaryIO) -> bytes:
    """Return the first byte that is no blank; empty at the file's end."""
    while block := file.read(4096):
        if stripped := block.strip():
            return stripped[:1]
    return b""
