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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from loadtest.errors import ScenarioError, os_error_as
from loadtest.scenario import MOST_REQUESTS, file_version
from loadtest.scenario.files import is_utf8, not_regular, not_rows
from loadtest.text import counted
from loadtest.workloads.files.columns import SESSION_IDS, TURNS, NoPromptError, RowError, RowShape, is_plain, row_json
from loadtest.workloads.files.csv_mistakes import LONE_RETURNS, MOST_ROW, wrong_cells, wrong_csv
from loadtest.workloads.files.data_row import HOLDS_COLUMNS, WITHOUT, Row, endpoint_of, read_row
from loadtest.workloads.files.json_rows import BLOCK, RowSpan, array_rows, is_spread, object_rows, remedy
from loadtest.workloads.files.turns import SENT_ROLES
from loadtest.workloads.files.wrong_row import holds_columns, read_head, without_prompt

YIELD_EVERY = 10_000  # rows between two pauses, in which a Locust worker tells its master that it lives
PAUSE_S = 0.001  # the length of such a pause
PLAIN_ROW = Row("")  # stands for any row of which nothing but a text is sent
MOST_HEAD_LINES = 20  # of a CSV file's head, whose names may hold line ends
TEXT_SUFFIX = ".txt"
TEMPLATE = re.compile(r"\{\{\s*[^\W\d]\w*\s*\}\}")  # a name that another tool would fill in: {{topic}}
LINES = ". (A file with a prompt a line has a name in .txt; one text for every request is given with --prompt-file.)"
JSON_SUFFIXES, CSV_SUFFIXES = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")


@dataclass(slots=True)
class DataFile:
    """The rows of a data file. Picklable, for worker processes on this machine."""

    path: Path
    column: str | None
    head: tuple[str, ...] | None = None  # names of a CSV file's columns; None: rows are JSON, or lines
    lines: bool = False  # each line is a prompt
    delimiter: str = ","
    starts: array[int] = field(default_factory=lambda: array("q"))
    ends: array[int] = field(default_factory=lambda: array("q"))
    answers: array[int] = field(default_factory=lambda: array("q"))  # length that a row asks for, 0: none
    left_out: int = 0  # conversations in which no user speaks
    own_lengths: int = 0  # rows that say how long their answer may be
    recorded: int = 0  # rows that end in an answer, which is not sent
    sent_to: dict[str, int] = field(default_factory=dict)  # a batch file's rows by the endpoint that they name
    with_body: str | None = None  # the keys that the first such row lays over its request's body
    systems: int | None = None  # number of the first row with a system prompt of its own
    same_ids: int = 0  # rows with the id of one before
    of_sessions: bool = False  # the ids are of sessions
    goes_on: int = 0  # rows in which the user says more after the first answer
    unheard: dict[str, None] = field(default_factory=dict)  # roles of whose words nothing is sent
    in_turn: bool = False  # a column that the user named holds lists of texts
    strange: dict[str, None] = field(default_factory=dict)  # roles that are sent, and that chat APIs do not know
    template: str | None = None  # the first such name in a prompt
    unsent: dict[str, None] = field(default_factory=dict)  # columns that hold something and are not sent
    read_to: int = 0  # how far its text was read, bytes

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
            with os_error_as(ScenarioError, f"cannot read the data file {self.path}"), self.path.open("rb") as file:
                file.seek(start)
                body = file.read(end - start)
            row = read_row(self._value(body), self.column)
        except (RowError, ValueError, csv.Error):
            row = None
        if row is None:
            raise ScenarioError(f"the data file {self.path} was changed while it was read; start anew.")
        return row

    def name(self, i: int) -> str:
        """Say which row row i is, for a sentence: its number, and where it stands."""
        return f"row {i + 1} ({self._place(self.starts[i])})"

    def _value(self, body: bytes) -> Any:
        if self.lines:
            return body.decode().rstrip("\r\n")
        if self.head is None:
            return row_json(body)
        cells = next(csv.reader([body.decode()], delimiter=self.delimiter, strict=True))
        return dict(zip(self.head, cells, strict=False))

    def take_all(self, file: BinaryIO) -> None:
        """Read the file through, and remember where its rows are."""
        self._recognise(file)
        rows = self._line_texts(file) if self.lines else self._csv_rows(file) if self.head else self._json_rows(file)
        shape, ids, columns = RowShape(), array("q"), False
        for number, (span, value) in enumerate(rows):
            if number and not number % YIELD_EVERY:
                time.sleep(PAUSE_S)
            if not shape.has(value):
                shape = RowShape.of(value, self.column)
                self.unsent.update(dict.fromkeys(shape.unsent))
            if isinstance(value, dict) and "body" in value and (to := endpoint_of(value.get("url"))):
                self.sent_to[to] = self.sent_to.get(to, 0) + 1
            plain = shape.text is not None and is_plain(value[shape.text])
            row = PLAIN_ROW if plain else self._read(span, value, rows)
            if shape.id is not None and value[shape.id]:
                ids.append(hash(str(value[shape.id])))
                self.of_sessions = shape.id in SESSION_IDS
            if row is None:
                self.left_out += 1
            else:
                columns = not self.starts and row.questions and holds_columns(value)
                self._take(span, row)
        if columns and len(self.starts) == 1:
            raise self._wrong(self.starts[0], HOLDS_COLUMNS)
        self.same_ids = len(ids) - len(np.unique(np.frombuffer(ids, dtype=np.int64))) if ids else 0
        if len(self.starts) > MOST_REQUESTS:
            raise ScenarioError(f"the data file {self.path} has more than {MOST_REQUESTS} rows; cut it.")

    def _recognise(self, file: BinaryIO) -> None:
        """Tell JSON, CSV and lines apart, and read a CSV file's head; raise ScenarioError for what is none of them."""
        suffix = self.path.suffix.lower()
        if other := not_rows(file.read(512), suffix):
            raise ScenarioError(f"the data file {self.path} {other}.")
        _after_mark(file)
        line = _first_line(file)
        first = line.lstrip()[:1]
        if not first:
            raise ScenarioError(f"the data file {self.path} is empty; give one prompt a row.")
        if suffix == TEXT_SUFFIX and self.column is None and first in (b"{", b"["):
            self.lines = not (_is_json(line) or is_spread(line))
        elif suffix in CSV_SUFFIXES or (suffix not in JSON_SUFFIXES and first not in (b"{", b"[")):
            try:
                self.delimiter, self.head = read_head(_head_line(self._text_lines(file)), self.column)
            except RowError as error:
                if suffix != TEXT_SUFFIX or self.column is not None:
                    raise self._wrong(0, f"{error}{'' if suffix in CSV_SUFFIXES else LINES}") from None
                self.lines = True

    def _read(self, span: RowSpan, value: Any, others: Iterator[tuple[RowSpan, Any]]) -> Row | None:
        """Return what a row asks for; of a row without a prompt say how many of its kind there are, not one at each start."""
        try:
            return self._row(value)
        except RowError as error:
            what = str(error)
        if what.endswith(WITHOUT) and (more := sum(self._has_no_prompt(other) for _, other in others)):
            what += f" ({1 + more} in all)"
        raise self._wrong(span.start, what)

    def _row(self, value: Any) -> Row | None:
        try:
            return read_row(value, self.column)
        except NoPromptError:
            raise RowError(without_prompt(value, self.column)) from None
        except UnicodeEncodeError:
            raise RowError("holds half a character (a lone surrogate)") from None

    def _has_no_prompt(self, value: Any) -> bool:
        try:
            self._row(value)
        except RowError as error:
            return str(error).endswith(WITHOUT)
        return False

    def _take(self, span: RowSpan, row: Row) -> None:
        self.starts.append(span.start)
        self.ends.append(span.end)
        self.answers.append(row.output_tokens or 0)
        self.own_lengths += row.output_tokens is not None
        self.recorded += row.answer is not None and row.messages is not None
        self.goes_on += row.goes_on
        self.unheard.update(dict.fromkeys(row.unheard))
        self.in_turn = self.in_turn or (row.questions and row.goes_on and self.column not in (None, TURNS))
        self.strange.update(dict.fromkeys(one["role"] for one in row.messages or () if one["role"] not in SENT_ROLES))
        if self.template is None and (found := TEMPLATE.search(row.text)):
            self.template = found[0]
        if row.body and self.with_body is None:
            self.with_body = ", ".join(map(str, row.body))
        if self.systems is None and row.messages and row.messages[0].get("role") == "system":
            self.systems = len(self.starts)

    def _wrong(self, offset: int, what: str) -> ScenarioError:
        stop = "" if what.endswith(("?", ".)")) else "."
        return ScenarioError(f"the data file {self.path}, {self._place(offset)}, {what}{stop}")

    def _place(self, offset: int, column: int | None = None) -> str:
        """Return where an offset is: line and column. `column` counts from the offset; None: no column at a line's beginning."""
        before, line = b"", 1
        with self.path.open("rb") as file:
            while offset > 0 and (block := file.read(min(offset, BLOCK))):
                offset -= len(block)
                ends = block.count(b"\n")
                line += ends
                before = block.rpartition(b"\n")[2] if ends else before + block
        before = before.removeprefix(codecs.BOM_UTF8)
        if column is None and before.strip() in (b"", b"["):
            return f"line {line}"
        return f"line {line}, column {len(before.decode(errors='replace')) + (column or 1)}"

    # -- JSON ---------------------------------------------------------------------------------------------------------

    def _json_rows(self, file: BinaryIO) -> Iterator[tuple[RowSpan, Any]]:
        begin = _after_mark(file)
        line = _first_line(file)
        lists = self.path.suffix.lower() != ".json" and len(line) <= BLOCK and _is_json(line) and _first_line(file)
        file.seek(begin)
        if line.lstrip()[:1] == b"[" and not lists:
            spans = array_rows(file, begin, self._wrong)
        elif is_spread(line):
            spans = object_rows(file, begin, self._wrong)
        else:
            spans = self._line_rows(file, begin)
        for span in spans:
            yield span, self._parsed(span)

    def _parsed(self, span: RowSpan) -> Any:
        try:
            return row_json(span.body)
        except orjson.JSONDecodeError as error:
            if b"\0" in span.body:
                raise self._wrong(span.start, "holds a NUL byte; save the file as UTF-8 text") from None
            if not is_utf8(span.body):
                raise self._wrong(span.start, "is not UTF-8 text; save the file as UTF-8") from None
            if span.body.endswith(b"\n"):  # what ends too early ends in its own line
                self._parsed(RowSpan(span.start, span.end, span.body.rstrip()))
            at = span.start + len(b"".join(span.body.splitlines(keepends=True)[: error.lineno - 1]))
            what = re.sub(r":? ?line \d+ column \d+ \(char \d+\)", "", str(error))
            raise ScenarioError(
                f"the data file {self.path}, {self._place(at, error.colno)}, is not JSON: {what}{remedy(span.body, what)}."
            ) from None

    def _line_rows(self, file: BinaryIO, begin: int) -> Iterator[RowSpan]:
        at = begin
        for line in iter(functools.partial(file.readline, MOST_ROW + 1), b""):
            start, at = at, at + len(line)
            if len(line) > MOST_ROW:
                raise self._wrong(start, f"is a row of more than {MOST_ROW >> 20} MiB; is it the right file?")
            if line.strip():
                yield RowSpan(start, at, line)

    # -- lines, CSV ----------------------------------------------------------------------------------------------------------

    def _line_texts(self, file: BinaryIO) -> Iterator[tuple[RowSpan, Any]]:
        start = _after_mark(file)
        for line in self._text_lines(file):
            text = line.rstrip("\r\n")
            if "\r" in text:
                raise self._wrong(start, f"has lone carriage returns{LONE_RETURNS}")
            if text.strip():
                yield RowSpan(start, self.read_to, b""), text
            start = self.read_to

    def _csv_rows(self, file: BinaryIO) -> Iterator[tuple[RowSpan, Any]]:
        assert self.head is not None
        reader = csv.reader(self._text_lines(file), delimiter=self.delimiter, strict=True)
        head = next(reader)
        end = self.read_to
        try:
            for cells in reader:
                start, end = end, self.read_to
                if not any(cell.strip() for cell in cells):
                    continue
                if cells == head:
                    raise self._wrong(start, "names the columns again, as where two files were joined; take it out")
                if len(cells) != len(self.head):
                    raise self._wrong(start, wrong_cells(len(cells), len(self.head), self.delimiter))
                yield RowSpan(start, end, b""), dict(zip(self.head, cells, strict=False))
        except csv.Error as error:
            raise self._wrong(end, wrong_csv(error)) from None

    def _text_lines(self, file: BinaryIO) -> Iterator[str]:
        """Yield the file's lines as text; who reads rows from them takes no more lines than a row needs, which `read_to` tells."""
        self.read_to = _after_mark(file)
        for line in file:
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise self._wrong(self.read_to, "is not UTF-8 text; save the file as UTF-8") from None
            if "\0" in text:
                raise self._wrong(self.read_to, "holds a NUL byte; is it a text file?")
            if text.startswith("\ufeff"):
                raise self._wrong(
                    self.read_to, "begins with a byte order mark, as where two files were joined; take it out"
                )
            self.read_to += len(line)
            yield text


@functools.lru_cache(maxsize=2)
def _read_data(path: Path, column: str | None, _: tuple[int, ...]) -> DataFile:
    try:
        with os_error_as(ScenarioError, f"cannot read the data file {path}"):
            if other := not_regular(path):
                raise ScenarioError(f"the data file {path} {other}.")
            with path.open("rb") as file:
                data = DataFile(path, column)
                data.take_all(file)
    except ValueError:
        raise ScenarioError(f"cannot read the data file {path!a}: its name holds a NUL byte.") from None
    except RecursionError:
        raise ScenarioError(f"the data file {path} has a row that is nested hundreds deep; make it flatter.") from None
    if not len(data):
        why = f": no user speaks in its {counted(data.left_out, 'conversation')}" if data.left_out else ""
        raise ScenarioError(f"the data file {path} has no row{why}; give one prompt a row.")
    return data


def _is_json(line: bytes) -> bool:
    try:
        row_json(line)
    except orjson.JSONDecodeError:
        return False
    return True


def _head_line(lines: Iterable[str]) -> str:
    """Return the first line, with those that follow as far as a name in quotes holds their ends."""
    head = ""
    for line in itertools.islice(lines, MOST_HEAD_LINES):
        head += line
        if not head.count('"') % 2:
            return head
    return head.partition("\n")[0]


def _first_line(file: BinaryIO) -> bytes:
    """Return the next line that is not blank; one that is too long only in part."""
    return next((line for line in iter(functools.partial(file.readline, MOST_ROW + 1), b"") if line.strip()), b"")


def _after_mark(file: BinaryIO) -> int:
    """Skip a byte order mark at the beginning of a file; return where the text begins."""
    file.seek(0)
    length = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
    file.seek(length)
    return length
