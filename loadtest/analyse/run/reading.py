"""Requests files into columns, in two processes where they are large; no Python object a chunk is ever made.

The two long lists of a line, `chunks` and `server_us`, are most of it. They are cut out as text and read by NumPy all at
once; what is left of the line is read as JSON. Where a line is not as this program writes it, all of it is.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

from loadtest import dialects, metrics
from loadtest.analyse.run.damage import BEFORE_US, COUNT_MOST, LIST, ORDER_NS, Damage, doubles, mended
from loadtest.analyse.run.ragged import BoolArray, IntArray, Ragged
from loadtest.errors import RunFolderError
from loadtest.records import SCHEMA, FileHeader, Outcome, newer, read_line, read_lines

Rows = list[dict[str, Any]]
Columns = dict[str, npt.NDArray[Any]]

LISTS = ("chunks", "server_us")
US = 1e-6
LEAST_S, MOST_S = 1e-10, 1e9  # of a duration that a server says, and of its cached tokens
INSTANTS = ("t_sched", "t_connect", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
NUMBERS = ("asked", "asked_input", "prompt_tokens", "output_tokens", "status", "late_tokens", "late_gaps")
COUNTS = ("id", "level", "seed", "reads", "stamped", "arrivals", "late", "bytes", "target", "unsent_tokens")
TEXTS = ("dialect", "model", "outcome", "token_source", "finish_reason", "error")
FLAGS = ("warmup", "new_conn", "first_coalesced")
REMARKS = ("notes", "doubts")
LARGE = 48_000_000  # bytes of requests files from which on a second process reads half of them
PIECE = 4_000_000  # bytes read at once
_NEEDLES = tuple((name, f'"{name}":['.encode()) for name in LISTS)


@dataclass(frozen=True, slots=True)
class Lines:
    """Some lines of a requests file as columns, one entry a line, and their lists."""

    columns: Columns
    chunks: Ragged
    server_chunks: Ragged
    damage: Damage = field(default_factory=Damage)

    @classmethod
    def of(cls, rows: Rows, lists: Sequence[Ragged], damage: Damage) -> Self:
        """Take parsed lines, whose two lists are given apart; what is no record is left out."""
        good = np.flatnonzero(mended(rows, damage))
        if len(good) < len(rows):
            rows, lists = [rows[index] for index in good], [values.take(good) for values in lists]
        lines = cls(_columns(rows, lists[1], damage), lists[0], lists[1], damage)
        good = np.flatnonzero(_in_order(lines, damage))
        return lines if len(good) == len(rows) else lines.take(good)

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

    def take(self, kept: IntArray) -> Self:
        """Return some of the lines, in the order given."""
        columns = {name: values[kept] for name, values in self.columns.items()}
        return dataclasses.replace(
            self, columns=columns, chunks=self.chunks.take(kept), server_chunks=self.server_chunks.take(kept)
        )


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file, from the first of a line to the last of one."""

    path: Path
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Found:
    """A folder's requests files, read."""

    headers: list[FileHeader]  # a file each
    lines: Lines
    sources: IntArray  # which file each line is from
    trouble: list[str]  # a sentence on each thing that was left out
    lost: int  # records that are missing for it, at least


def requests(folder: Path, *, large: int = LARGE) -> Found:
    """Read a folder's requests files; what cannot be read is left out and said.

    Files without a whole line are left out, as is a last line cut short. Raises RunFolderError for a file of a newer
    schema, and for one that cannot be opened.
    """
    try:
        return _requests(folder, large)
    except OSError as error:
        raise RunFolderError(f"cannot read {error.filename or folder}: {error.strerror}.") from None


def _requests(folder: Path, large: int) -> Found:
    paths = [path for path in sorted(folder.glob("requests-*.jsonl")) if path.is_file()]
    headed = [(path, *found) for path in paths if (found := _header(path))]
    trouble = [
        f"{path.name} does not begin with a header that can be read: its instants are taken as they stand."
        for path, header, _ in headed
        if header is None
    ]
    spans = [span for path, _, start in headed for span in _spans(path, start)]
    mine, others = _halves(spans, large)
    with _Helper(others) as helper:
        parts = [read(span) for span in mine]
        parts += helper.result()
    counts = [len(part.columns["id"]) for part in parts]
    files = [path for path, _, _ in headed]
    sources = np.repeat(np.array([files.index(span.path) for span in spans], dtype=np.int64), counts)
    lost = 0
    for path in files:
        damage = Damage.joined([part.damage for part, span in zip(parts, spans, strict=True) if span.path == path])
        trouble += damage.sentences(path.name)
        lost += damage.lost
    nothing = Ragged.flattened(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
    lines = Lines.joined(parts) if parts else Lines.of([], (nothing, nothing), Damage())
    kept, again, strangers = _once(lines.columns)
    if again or strangers:
        lines, sources = lines.take(kept), sources[kept]
        trouble += doubles(again, strangers)
    usual = next((header for _, header, _ in headed if header), None) or _sampled_header(folder)
    return Found([header or usual for _, header, _ in headed], lines, sources, trouble, lost + strangers)


def _once(columns: Columns) -> tuple[IntArray, int, int]:
    """Return the first line of every id, how many repeat it, and how many are other requests under its id."""
    _, first, place = np.unique(columns["id"], return_index=True, return_inverse=True)
    like = np.ones(len(place), dtype=np.bool_)
    for name in ("seed", "level", "t_sched", "t_end"):
        like &= columns[name] == columns[name][first][place]
    others = int((~like).sum())
    return np.sort(first), len(place) - len(first) - others, others


def _header(path: Path) -> tuple[FileHeader | None, int] | None:
    """Return a file's header, None where its first line is none, and where its records begin; None without a whole line."""
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    row, damaged = read_line(line)
    if row is not None and newer(schema := row.get("schema")):
        raise RunFolderError(f"{path} was written by a newer loadtest (schema {schema}); update.")
    header = FileHeader.of(row) if row is not None else None
    # Half a header with a record behind it is read once more, as a record.
    whole = header is not None or not (damaged or (row is not None and "outcome" in row))
    return header, len(line) if whole else 0


def _sampled_header(folder: Path) -> FileHeader:
    """Return the anchor of the driver's own samples, which is that of its records; one at zero where there is none."""
    for path in sorted(folder.glob("samples-driver*.jsonl")):
        rows, _ = read_lines(path)
        if rows and (header := FileHeader.of({"worker": "", "driver": "", **rows[0]})):
            return header
    return FileHeader(SCHEMA, "", "", "", 0, 0)


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
            root = str(Path(__file__).resolve().parent.parent.parent.parent)
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
    damage = Damage()
    return Lines.of(*(_fast(lines) or _plain(lines, damage)), damage)


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
    if len(flat) != counts.sum() or not (-COUNT_MOST <= flat.min(initial=0) <= flat.max(initial=0) <= COUNT_MOST):
        return None
    return Ragged.flattened(flat, counts)


def _plain(lines: list[bytes], damage: Damage) -> tuple[Rows, list[Ragged]]:
    """Parse lines of any JSON; a list of anything but integers makes its record unusable."""
    rows = []
    lists: tuple[list[Any], list[Any]] = ([], [])
    for line in lines:
        row, damaged = read_line(line)
        damage.unread += damaged
        if row is None:
            continue
        rows.append(row)
        for name, values in zip(LISTS, lists, strict=True):
            found = row.pop(name, None) or []
            fits = isinstance(found, list) and LIST.fits(found) and None not in found
            values.append(found if fits else [])
            if not fits:
                row[name] = found  # so that it is seen to be wrong
    return rows, [Ragged.of(values) for values in lists]


def _columns(rows: Rows, server_chunks: Ragged, damage: Damage) -> Columns:
    columns: Columns = {}
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
    said = [_said(row, damage) for row in rows]
    told = np.array(said, dtype=np.float64).reshape(-1, 4)
    columns["load_s"], columns["prefill_s"], columns["cached_tokens"], columns["llamacpp"] = told.T
    instants = (columns[name] for name in ("t_send", "t_headers", "t_first_token"))
    columns["queue_wait_s"] = np.array(list(map(metrics.queue_wait, *instants, said)), dtype=np.float64)
    columns["stamped_by_server"] = np.array([row.get("server_first") is not None for row in rows], dtype=np.bool_)
    columns["server_first"] = np.array([row.get("server_first") or 0 for row in rows], dtype=np.int64)
    firsts = [server_chunks.row(index)[:2].tolist() for index in range(len(rows))]
    columns["together"] = np.array([metrics.made_together(first) for first in firsts], dtype=np.bool_)
    return columns


def _in_order(lines: Lines, damage: Damage) -> BoolArray:
    """Mark the records that could have happened; the others are counted by what is wrong with them."""
    c, chunks = lines.columns, lines.chunks
    sched, send, end = c["t_sched"], c["t_send"], c["t_end"]
    got, first, last = chunks.counts > 0, chunks.first(), send + chunks.last() * 1e3
    late = end + ORDER_NS
    out_of_order = (send < sched - ORDER_NS) | (np.fmax(sched, send) > late) | (last > late)
    for name in ("t_headers", "t_first_byte", "t_first_token", "t_first_visible"):
        out_of_order |= (c[name] > late) | (c[name] < sched - ORDER_NS)
    early = (first < -BEFORE_US) | (c["t_first_token"] < send - BEFORE_US * 1e3)
    kept = np.ones(len(sched), dtype=np.bool_)
    for why, wrong in (
        ("they have no t_send, but an answer", np.isnan(send) & (got | (c["outcome"] == Outcome.OK))),
        ("they have a first token, but no chunks", ~got & ~np.isnan(c["t_first_token"])),
        ("they have chunks, but no first token", got & np.isnan(c["t_first_token"])),
        ("their instants are out of order", out_of_order),
        ("their tokens came before they were sent", early),
        ("their chunks are out of order", chunks.descends()),
    ):
        if found := int((wrong & kept).sum()):
            damage.records[why] += found
            kept &= ~wrong
    return kept


NUMBER = (int, float)
DURATIONS = ("load_duration", "prompt_eval_duration")


def _said(row: dict[str, Any], damage: Damage) -> metrics.ServerSaid:
    """Return what the server said of its durations; nothing where that is of a kind or size that no server says."""
    try:
        server = row.get("server") or {}
        said = dialects.said_by_server(row.get("dialect"), server)
        right = [isinstance(server.get(name), NUMBER) or name not in server for name in DURATIONS]
        right += [isinstance(server.get(name), dict) or name not in server for name in ("usage", "timings")]
        within = (value == 0 or LEAST_S <= value < MOST_S for value in said if not math.isnan(value))
        if all(within) and all(right) and all(server.get(name, 0) >= 0 for name in DURATIONS):
            return said
    except (AttributeError, TypeError, ValueError, OverflowError):
        pass
    damage.values["server"] += 1
    return metrics.server_said({})


def _remarks(rows: Rows, name: str) -> npt.NDArray[Any]:
    """Return a tuple of sentences a line, one empty tuple for all that have none."""
    column = np.empty(len(rows), dtype=object)
    column[:] = [()] * len(rows)
    for index, row in enumerate(rows):
        if said := row.get(name):
            column[index] = tuple(map(str, said))
    return column
