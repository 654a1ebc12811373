"""Requests files into columns, in two processes where they are large; no Python object a chunk is ever made.

The two long lists of a line, `chunks` and `server_us`, are most of it. They are cut out as text and read by NumPy all at
once; what is left of the line is read as JSON. Where a line is not as this program writes it, all of it is.
"""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

from loadtest import metrics
from loadtest.errors import RunFolderError
from loadtest.records import SCHEMA, Header

IntArray = npt.NDArray[np.int64]
Rows = list[dict[str, Any]]
Columns = dict[str, npt.NDArray[Any]]

LISTS = ("chunks", "server_us")
US = 1e-6
INSTANTS = ("t_sched", "t_connect", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
NUMBERS = ("asked", "asked_input", "prompt_tokens", "output_tokens", "status")
COUNTS = ("id", "level", "seed", "reads", "stamped", "arrivals", "late", "bytes", "target")
TEXTS = ("dialect", "model", "outcome", "token_source", "finish_reason", "error")
FLAGS = ("warmup", "new_conn", "first_coalesced")
REMARKS = ("notes", "doubts")
LARGE = 48_000_000  # bytes of requests files from which on a second process reads half of them
PIECE = 4_000_000  # bytes read at once
_NEEDLES = tuple((name, f'"{name}":['.encode()) for name in LISTS)


@dataclass(frozen=True, slots=True)
class Ragged:
    """Many short rows of integers in one flat array: row i is flat[starts[i]:starts[i + 1]].

    The flat array holds 32-bit integers where all values fit, else 64-bit ones.
    """

    flat: IntArray
    starts: IntArray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return cls.flattened(np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum())), lengths)

    @classmethod
    def flattened(cls, flat: IntArray, lengths: IntArray) -> Self:
        """Take values that lie one row after another already."""
        return cls(_narrow(flat), np.concatenate(([0], np.cumsum(lengths))))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Self:
        """Put the rows of several one after another."""
        return cls.flattened(
            np.concatenate([part.flat for part in parts]), np.concatenate([part.counts for part in parts])
        )

    def take(self, order: IntArray) -> Ragged:
        """Return the rows in another order."""
        if len(order) < 2 or bool((np.diff(order) == 1).all()):
            return self
        return Ragged.flattened(np.concatenate([self.row(int(index)) for index in order]), self.counts[order])

    def row(self, index: int) -> IntArray:
        return self.flat[self.starts[index] : self.starts[index + 1]]

    @property
    def counts(self) -> IntArray:
        return np.diff(self.starts)

    @property
    def owner(self) -> IntArray:
        """The row of every value."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def last(self) -> npt.NDArray[np.float64]:
        """Return each row's last value, nan where a row is empty."""
        out = np.full(len(self.starts) - 1, np.nan)
        full = self.counts > 0
        out[full] = self.flat[self.starts[1:][full] - 1]
        return out


def _narrow(flat: IntArray) -> IntArray:
    limit = np.iinfo(np.int32)
    fits = not len(flat) or (int(flat.min()) >= limit.min and int(flat.max()) <= limit.max)
    return flat.astype(np.int32, copy=False) if fits else flat


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of a requests file as columns, one entry a line, and their lists."""

    columns: Columns
    chunks: Ragged
    server_chunks: Ragged

    @classmethod
    def of(cls, rows: Rows, lists: Sequence[Ragged]) -> Self:
        """Take parsed lines, whose two lists are given apart."""
        return cls(_columns(rows, lists[1]), lists[0], lists[1])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put lines one after another; at least one part."""
        if len(parts) == 1:
            return parts[0]
        names = parts[0].columns
        return cls(
            {name: np.concatenate([part.columns[name] for part in parts]) for name in names},
            Ragged.joined([part.chunks for part in parts]),
            Ragged.joined([part.server_chunks for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file, from the first of a line to the last of one."""

    path: Path
    start: int
    end: int


def requests(folder: Path, *, large: int = LARGE) -> tuple[list[Header], Lines, IntArray]:
    """Read a folder's requests files: their headers, all their lines, and which file each line is from.

    Files without a whole line are left out, as is a last line cut short. Raises RunFolderError for a line that is no JSON
    object or no record, and for a file without a header or of a newer schema.
    """
    headed = [(path, *found) for path in sorted(folder.glob("requests-*.jsonl")) if (found := _header(path))]
    spans = [span for path, _, start in headed for span in _spans(path, start)]
    mine, others = _halves(spans, large)
    with _Helper(others) as helper:
        parts = [read(span) for span in mine]
        parts += helper.result()
    counts = [len(part.columns["id"]) for part in parts]
    files = [path for path, _, _ in headed]
    sources = np.repeat(np.array([files.index(span.path) for span in spans], dtype=np.int64), counts)
    nothing = Ragged.flattened(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    lines = Lines.joined(parts) if parts else Lines.of([], (nothing, nothing))
    return [header for _, header, _ in headed], lines, sources


def _header(path: Path) -> tuple[Header, int] | None:
    """Return a file's header and where its first record begins; None where the file has no whole line."""
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    row = _parsed(line, path, 0)
    schema = row.get("schema", 0)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise RunFolderError(f"{path} was written by a newer loadtest (schema {schema}); update.")
    names = [field.name for field in dataclasses.fields(Header)]
    if missing := [name for name in names if name not in row]:
        raise RunFolderError(f"the first line of {path} is no header: it has no {missing[0]!r}.")
    return Header(**{name: row[name] for name in names}), len(line)


def _spans(path: Path, start: int) -> list[Span]:
    """Cut a file behind its header into pieces of whole lines."""
    spans: list[Span] = []
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while start < size:
            file.seek(start + PIECE)
            file.readline()
            end = min(file.tell(), size)
            spans.append(Span(path, start, end))
            start = end
    return spans


def _halves(spans: list[Span], large: int) -> tuple[list[Span], list[Span]]:
    """Return what this process reads, and what another one does meanwhile."""
    ends = np.cumsum([span.end - span.start for span in spans], dtype=np.int64)
    if len(spans) < 2 or ends[-1] < large or _cores() < 2:
        return spans, []
    half = min(max(int(np.searchsorted(ends, ends[-1] / 2)), 1), len(spans) - 1)
    return spans[:half], spans[half:]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Helper:
    """A second process of this Python that reads spans meanwhile; none where there are no spans."""

    def __init__(self, spans: list[Span]) -> None:
        self._spans = spans
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._spans:
            root = str(Path(__file__).resolve().parent.parent.parent)
            places = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
            code = f"from {__name__} import serve; serve()"
            self._child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": places},
            )
            assert self._child.stdin is not None
            with (
                suppress(BrokenPipeError),
                self._child.stdin as pipe,
            ):  # it died: result() reads nothing, and helps itself
                pipe.write(pickle.dumps(self._spans))
        return self

    def result(self) -> list[Lines]:
        """Wait for the other process; what it could not read is read here, which also says what was wrong."""
        if self._child is None:
            return []
        assert self._child.stdout is not None
        try:
            found: list[Lines] = pickle.load(self._child.stdout)  # noqa: S301 — our own process wrote it
        except (EOFError, pickle.UnpicklingError):
            return [read(span) for span in self._spans]
        return found

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            assert self._child.stdout is not None
            self._child.stdout.close()
            self._child.kill()
            self._child.wait()


def serve() -> None:
    """Be the second process: read the spans named on the standard input, all of them before anything is written."""
    found = [read(span) for span in pickle.load(sys.stdin.buffer)]  # noqa: S301 — our own process wrote it
    pickle.dump(found, sys.stdout.buffer, protocol=5)


def read(span: Span) -> Lines:
    """Read the lines of a piece of a file."""
    with span.path.open("rb") as file:
        file.seek(span.start)
        data = file.read(span.end - span.start)
    lines = data.split(b"\n")
    del lines[-1]  # empty, or cut off by the writer in mid-line: that record never was
    try:
        return Lines.of(*(_fast(lines) or _plain(lines, span)))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunFolderError(f"{span.path.parent} holds a line that is no request record ({error!r}).") from None


def _fast(lines: list[bytes]) -> tuple[Rows, list[Ragged]] | None:
    """Parse lines as RecordWriter writes them; None where one of them is otherwise."""
    rows: Rows = []
    texts: dict[str, list[bytes]] = {name: [] for name in LISTS}
    lengths: dict[str, list[int]] = {name: [] for name in LISTS}
    for line in lines:
        rest = line
        for name, needle in _NEEDLES:
            before, _, after = rest.partition(needle)
            text, _, behind = after.partition(b"]")
            lengths[name].append(text.count(b",") + 1 if text else 0)
            if text:
                rest = before + needle + b"null]" + behind
                texts[name].append(text)
        try:
            row = orjson.loads(rest)
        except orjson.JSONDecodeError:
            return None
        if not isinstance(row, dict):
            return None
        # What was cut out left its mark in the line's own list, or it was some inner object's.
        if any((row.pop(name, None) or []) != [None] * bool(lengths[name][-1]) for name in LISTS):
            return None
        rows.append(row)
    lists = [_numbers(texts[name], lengths[name]) for name in LISTS]
    return (rows, [found for found in lists if found is not None]) if None not in lists else None


def _numbers(texts: list[bytes], lengths: list[int]) -> Ragged | None:
    """Read comma-separated integers; None where they are not."""
    counts = np.array(lengths, dtype=np.int64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # older NumPy warns of what is no integer, newer raises
            flat = np.fromstring(b",".join(texts), dtype=np.int64, sep=",") if texts else np.zeros(0, dtype=np.int64)
    except ValueError:
        return None
    return Ragged.flattened(flat, counts) if len(flat) == counts.sum() else None


def _plain(lines: list[bytes], span: Span) -> tuple[Rows, list[Ragged]]:
    """Parse lines of any JSON."""
    rows, at = [], span.start
    for line in lines:
        rows.append(_parsed(line, span.path, at))
        at += len(line) + 1
    lists = [[row.pop(name, None) or () for row in rows] for name in LISTS]
    return rows, [Ragged.of(values) for values in lists]


def _parsed(line: bytes, path: Path, at: int) -> dict[str, Any]:
    """Parse one line, which begins at byte `at`."""
    said = "does not parse as JSON"
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        row = None
    else:
        said = "is not a JSON object"
    if isinstance(row, dict):
        return row
    with path.open("rb") as file:
        number = file.read(at).count(b"\n") + 1
    raise RunFolderError(f"{path} line {number} {said}.")


def _columns(rows: Rows, server_chunks: Ragged) -> Columns:
    columns: Columns = {}
    for name in ("id", "level", "outcome", "t_sched", "t_end"):
        if any(row[name] is None for row in rows):
            raise ValueError(name)
    for name in (*INSTANTS, *NUMBERS):
        columns[name] = np.array([row.get(name) for row in rows], dtype=np.float64)
    for name in COUNTS:
        columns[name] = np.array([row.get(name) or 0 for row in rows], dtype=np.int64)
    for name in TEXTS:
        known: dict[Any, Any] = {}  # one object for equal texts
        columns[name] = np.array(
            [known.setdefault(text, text) for row in rows for text in (row.get(name),)], dtype=object
        )
    for name in FLAGS:
        columns[name] = np.array([bool(row.get(name)) for row in rows], dtype=np.bool_)
    for name in REMARKS:
        columns[name] = _remarks(rows, name)
    columns["resent"] = np.array([row.get("resent") is not None for row in rows], dtype=np.bool_)
    columns["send_s"] = np.array([row.get("send_us") or 0 for row in rows], dtype=np.float64) * US
    columns["lag_s"] = np.array([row.get("lag_us") or 0 for row in rows], dtype=np.float64) * US
    columns["lag_mean_s"] = np.array([row.get("lag_mean_us") or 0 for row in rows], dtype=np.float64) * US
    said = [metrics.server_said(row.get("server") or {}) for row in rows]
    told = np.array(said, dtype=np.float64).reshape(-1, 4)
    columns["load_s"], columns["prefill_s"], columns["cached_tokens"], columns["llamacpp"] = told.T
    instants = (columns[name] for name in ("t_send", "t_headers", "t_first_token"))
    columns["queue_wait_s"] = np.array(list(map(metrics.queue_wait, *instants, said)), dtype=np.float64)
    columns["stamped_by_server"] = np.array([row.get("server_first") is not None for row in rows], dtype=np.bool_)
    columns["server_first"] = np.array([row.get("server_first") or 0 for row in rows], dtype=np.int64)
    firsts = [server_chunks.row(index)[:2].tolist() for index in range(len(rows))]
    columns["together"] = np.array([metrics.made_together(first) for first in firsts], dtype=np.bool_)
    return columns


def _remarks(rows: Rows, name: str) -> npt.NDArray[Any]:
    """Return a tuple of sentences a line, one empty tuple for all that have none."""
    column = np.empty(len(rows), dtype=object)
    column[:] = [()] * len(rows)
    for index, row in enumerate(rows):
        if said := row.get(name):
            column[index] = tuple(map(str, said))
    return column
