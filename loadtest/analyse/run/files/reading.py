"""The requests files of a run folder, read into columns: one NumPy array a field, and no Python object a chunk.

Nearly all bytes of a record's line are its two lists of integers, `chunks` and `server_us`. Parsing them as JSON would
make an int object of every chunk. So both lists are cut out of the line as text and NumPy parses the texts of many lines
in one call; only the short rest of the line goes through the JSON parser. A piece of a file that holds a line which this
program would not have written (hand-edited, damaged) is parsed as plain JSON instead, which is slower and gives the same.
On one core of a 2.1 GHz server 100,000 requests of 500 chunks take 6 s and 0.9 GB.
"""

from __future__ import annotations

import datetime
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

from loadtest import dialects, metrics
from loadtest.analyse.run.arrays import BoolArray, IntArray
from loadtest.analyse.run.event_times import Ragged
from loadtest.analyse.run.files.damage import BEFORE_US, COUNT_MOST, LIST_ENTRY, ORDER_NS, Damage, mended, repeated_ids
from loadtest.errors import RunFolderError
from loadtest.metrics import NS_PER_S, S_PER_NS, S_PER_US
from loadtest.records import SCHEMA, FileHeader, Outcome, newer, read_line, read_lines, written_lines

ParsedLines = list[dict[str, Any]]
Columns = dict[str, npt.NDArray[Any]]

LIST_FIELDS = ("chunks", "server_us")
APART_S = 1  # by which the clocks of two processes of a machine, read one after the other, may seem to be out of order
LEAST_S, MOST_S = 1e-10, 1e9  # bounds of a duration or a token count that a server may report
INSTANT_FIELDS = (
    "t_sched",
    "t_connect",
    "t_send",
    "t_headers",
    "t_first_byte",
    "t_first_token",
    "t_first_visible",
    "t_end",
)
NUMBER_FIELDS = (
    "asked",
    "asked_input",
    "prompt_tokens",
    "output_tokens",
    "status",
    "late_tokens",
    "late_gaps",
    "user",
    "session",
    "turn",
)
COUNT_FIELDS = (
    "id",
    "level",
    "seed",
    "reads",
    "stamped",
    "arrivals",
    "late",
    "bytes",
    "target",
    "unsent_tokens",
    "connect_us",
)
TEXT_FIELDS = ("dialect", "model", "outcome", "token_source", "finish_reason", "said_model", "error")
FLAG_FIELDS = ("warmup", "new_conn", "first_coalesced")
REMARK_FIELDS = ("notes", "doubts")
DURATION_FIELDS = ("load_duration", "prompt_eval_duration")  # of what an Ollama says
PIECE_BYTES = 4_000_000  # of a file, read and parsed at once: bounds the memory that raw text takes
_NEEDLES = tuple((name, f'"{name}":['.encode()) for name in LIST_FIELDS)


@dataclass(frozen=True, slots=True)
class RequestColumns:
    """Records as columns, one entry a record, and their two lists as ragged arrays."""

    columns: Columns
    chunks: Ragged
    server_chunks: Ragged

    @classmethod
    def of(cls, rows: ParsedLines, lists: Sequence[Ragged], damage: Damage) -> Self:
        """Make columns of parsed lines, whose two lists come in `lists`; lines that are no record are left out."""
        good = np.flatnonzero(mended(rows, damage))
        rows, lists = [rows[index] for index in good], [values.take(good) for values in lists]
        lines = cls(_columns(rows, lists[1], damage), *lists)
        return lines.take(np.flatnonzero(_possible(lines, damage)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Join parts in order; there must be at least one."""
        return cls(
            {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns},
            Ragged.joined([part.chunks for part in parts]),
            Ragged.joined([part.server_chunks for part in parts]),
        )

    def take(self, kept: IntArray) -> Self:
        """Return the records at these positions, in this order."""
        columns = {name: values[kept] for name, values in self.columns.items()}
        return type(self)(columns, self.chunks.take(kept), self.server_chunks.take(kept))


@dataclass(frozen=True, slots=True)
class RequestsRead:
    headers: list[FileHeader]  # one per file
    lines: RequestColumns
    sources: IntArray  # index of the file that each record is from
    trouble: list[str]  # one sentence on each thing that was left out
    lost: int  # how many records are missing for that, at least


def read_requests(folder: Path, facts: Mapping[str, Any]) -> RequestsRead:
    """Read a folder's requests files; what cannot be read is left out and described in `trouble`.

    A file without a whole line is left out, and so are a last line that was cut short and a file of another run than the
    `facts` of run.json are of. Raises RunFolderError for a file of a newer schema and for one that cannot be opened.
    """
    try:
        return _read_folder(folder, facts)
    except OSError as error:
        raise RunFolderError(f"cannot read {error.filename or folder}: {error.strerror}.") from None


def _read_folder(folder: Path, facts: Mapping[str, Any]) -> RequestsRead:
    paths = [path for path in sorted(folder.glob("requests-*.jsonl")) if path.is_file()]
    found = [(path, *head) for path in paths if (head := _file_header(path))]
    headed = [one for one in found if one[1] is None or not of_another_run(one[1], facts)]
    trouble = [
        f"{path.name} was begun at another time than the run of run.json: it is of another run and is left out."
        for path, *_ in found
        if path not in {one[0] for one in headed}
    ]
    trouble += [
        f"{path.name} does not begin with a header that can be read: its instants are taken as they stand."
        for path, header, _ in headed
        if header is None
    ]
    parts = [parse_lines([], Damage())]  # columns of no records, where no file has any
    counts, lost = np.zeros(len(headed), dtype=np.int64), 0
    for source, (path, _, start) in enumerate(headed):
        damage = Damage()
        pieces = [parse_lines(lines, damage) for lines in _file_pieces(path, start)]
        parts += pieces
        counts[source] = sum(len(piece.columns["id"]) for piece in pieces)
        trouble += damage.sentences(path.name)
        lost += damage.lost
    lines, sources = RequestColumns.joined(parts), np.repeat(np.arange(len(headed)), counts)
    kept, again, strangers = _first_of_each_id(lines.columns)
    if again or strangers:
        lines, sources = lines.take(kept), sources[kept]
        trouble += repeated_ids(again, strangers)
    usual = next((header for _, header, _ in headed if header), None) or sampled_header(folder)
    return RequestsRead([header or usual for _, header, _ in headed], lines, sources, trouble, lost + strangers)


def _first_of_each_id(columns: Columns) -> tuple[IntArray, int, int]:
    """Return the index of each id's first record, how many records repeat one, and how many reuse an id for another request."""
    _, first, place = np.unique(columns["id"], return_index=True, return_inverse=True)
    like = np.ones(len(place), dtype=np.bool_)
    for name in ("seed", "level", "t_sched", "t_end"):
        like &= columns[name] == columns[name][first][place]
    others = int((~like).sum())
    return np.sort(first), len(place) - len(first) - others, others


def _file_header(path: Path) -> tuple[FileHeader | None, int] | None:
    """Return a file's header (None where its first line is not one) and the offset of its records.

    Returns None for a file without a single whole line.
    """
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):
        return None
    row, damaged = read_line(line)
    if row is not None and newer(schema := row.get("schema")):
        raise RunFolderError(f"{path} was written by a newer loadtest (schema {schema}); update.")
    header = FileHeader.of(row) if row is not None else None
    # A header cut short by a full disk may have a record right behind it: that line is read again, as a record.
    whole = header is not None or not (damaged or (row is not None and "outcome" in row))
    return header, len(line) if whole else 0


def sampled_header(folder: Path) -> FileHeader:
    """Return the header of the driver's samples file, which shares its clock anchor with the records; else one at zero."""
    for path in sorted(folder.glob("samples-driver*.jsonl")):
        if header := samples_header(read_lines(path)[0]):
            return header
    return FileHeader(SCHEMA, "", "", "", 0, 0)


def samples_header(lines: ParsedLines) -> FileHeader | None:
    """Return the header of a samples file, which names neither worker nor driver; None where it has none."""
    return FileHeader.of({"worker": "", "driver": "", **lines[0]}) if lines else None


def _file_pieces(path: Path, start: int) -> Iterator[list[bytes]]:
    """Yield the lines of a file from `start` on, piece by piece."""
    with path.open("rb") as file:
        file.seek(start)
        while data := file.read(PIECE_BYTES) + file.readline():
            yield written_lines(data)


def parse_lines(lines: list[bytes], damage: Damage) -> RequestColumns:
    """Return the records on these lines; what cannot be read is counted in `damage`."""
    return RequestColumns.of(*(_parse_usual(lines) or _parse_any(lines, damage)), damage)


def _parse_usual(lines: list[bytes]) -> tuple[ParsedLines, list[Ragged]] | None:
    """Parse lines of the form that RecordWriter writes; return None where any line has another form."""
    rows: ParsedLines = []
    texts: dict[str, list[bytes]] = {name: [] for name in LIST_FIELDS}
    lengths: dict[str, list[int]] = {name: [] for name in LIST_FIELDS}
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
        # A needle may also match inside a nested object (`server`): then the record's own list is not [null].
        if any((row.pop(name, None) or []) != [None] * bool(lengths[name][-1]) for name in LIST_FIELDS):
            return None
        rows.append(row)
    lists = [_parse_integers(texts[name], lengths[name]) for name in LIST_FIELDS]
    return (rows, [found for found in lists if found is not None]) if None not in lists else None


def _parse_integers(texts: list[bytes], lengths: list[int]) -> Ragged | None:
    """Parse comma-separated integers; return None where they are anything else."""
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


def _parse_any(lines: list[bytes], damage: Damage) -> tuple[ParsedLines, list[Ragged]]:
    """Parse lines of any JSON; a list that holds anything but integers makes its record unusable."""
    rows = []
    lists: tuple[list[Any], list[Any]] = ([], [])
    for line in lines:
        row, damaged = read_line(line)
        damage.unread += damaged
        if row is None:
            continue
        rows.append(row)
        for name, values in zip(LIST_FIELDS, lists, strict=True):
            found = row.pop(name, None) or []
            fits = isinstance(found, list) and LIST_ENTRY.fits(found) and None not in found
            values.append(found if fits else [])
            if not fits:
                row[name] = found  # left in the row, where `mended` finds and counts it
    return rows, [Ragged.of(values) for values in lists]


def _columns(rows: ParsedLines, server_chunks: Ragged, damage: Damage) -> Columns:
    columns: Columns = {}
    for name in (*INSTANT_FIELDS, *NUMBER_FIELDS):
        columns[name] = np.array([row.get(name) for row in rows], dtype=np.float64)
    for name in COUNT_FIELDS:
        columns[name] = np.array([row.get(name) or 0 for row in rows], dtype=np.int64)
    for name in TEXT_FIELDS:
        known: dict[Any, Any] = {}  # one object for equal texts
        columns[name] = np.array(
            [known.setdefault(text, text) for row in rows for text in (row.get(name),)], dtype=object
        )
    for name in FLAG_FIELDS:
        columns[name] = np.array([bool(row.get(name)) for row in rows], dtype=np.bool_)
    for name in REMARK_FIELDS:
        columns[name] = _remarks(rows, name)
    again = np.array([row.get("resent") for row in rows], dtype=np.float64)  # nan where it was sent once
    columns["resent_after_s"] = (again - columns["t_send"]) * S_PER_NS
    for name in ("send", "lag"):
        columns[f"{name}_s"] = np.array([row.get(f"{name}_us") or 0 for row in rows], dtype=np.float64) * S_PER_US
    said = [_trusted_durations(row, damage) for row in rows]
    told = np.array(said, dtype=np.float64).reshape(-1, 6)
    names = ("load_s", "prefill_s", "cached_tokens", "llamacpp", "decode_s", "queued_s")
    columns.update(zip(names, told.T, strict=True))
    reached = np.where(np.isfinite(again), again, columns["t_send"])
    waits = map(metrics.queue_wait, reached, columns["t_headers"], columns["t_first_token"], said)
    columns["queue_wait_s"] = np.array(list(waits), dtype=np.float64)
    columns["stamped_by_server"] = np.array([row.get("server_first") is not None for row in rows], dtype=np.bool_)
    columns["server_first"] = np.array([row.get("server_first") or 0 for row in rows], dtype=np.int64)
    firsts = [server_chunks.row(index)[:2].tolist() for index in range(len(rows))]
    columns["together"] = np.array([metrics.made_together(first) for first in firsts], dtype=np.bool_)
    return columns


def _possible(lines: RequestColumns, damage: Damage) -> BoolArray:
    """Mark the records whose instants are possible; count the others by what is wrong with them."""
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
        ("no t_send, but an answer", np.isnan(send) & (got | (c["outcome"] == Outcome.OK))),
        ("a first token, but no chunks", ~got & ~np.isnan(c["t_first_token"])),
        ("chunks, but no first token", got & np.isnan(c["t_first_token"])),
        ("instants out of order", out_of_order),
        ("tokens before the request was sent", early),
        ("chunks out of order", chunks.descends()),
    ):
        if found := int((wrong & kept).sum()):
            damage.records[why] += found
            kept &= ~wrong
    return kept


def _trusted_durations(row: dict[str, Any], damage: Damage) -> metrics.ServerSaid:
    """Return the durations that the server reported; all unknown where one has a type or size that no server sends."""
    try:
        server = row.get("server") or {}
        said = dialects.said_by_server(row.get("dialect"), server)
        right = [isinstance(server.get(name), int | float) or name not in server for name in DURATION_FIELDS]
        right += [isinstance(server.get(name), dict) or name not in server for name in ("usage", "timings", "metrics")]
        within = (value == 0 or LEAST_S <= value < MOST_S for value in said if not math.isnan(value))
        if all(within) and all(right) and all(server.get(name, 0) >= 0 for name in DURATION_FIELDS):
            return said
    except (AttributeError, TypeError, ValueError, OverflowError):
        pass
    damage.values["server"] += 1
    return metrics.server_said({})


def _remarks(rows: ParsedLines, name: str) -> npt.NDArray[Any]:
    """Return a tuple of sentences per record; records without any share one empty tuple."""
    column = np.empty(len(rows), dtype=object)
    column[:] = [()] * len(rows)
    for index, row in enumerate(rows):
        if said := row.get(name):
            column[index] = tuple(map(str, said))
    return column


def of_another_run(header: FileHeader, facts: Mapping[str, Any]) -> bool:
    """Whether a file was begun, by the clock of the machine that began the run too, at another time than the run lasted."""
    try:
        begun, ended = (datetime.datetime.fromisoformat(facts[name]).timestamp() for name in ("started", "ended"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return False
    same_host = header.host == (facts.get("client") or {}).get("host")
    return same_host and not begun - APART_S < header.wall_ns / NS_PER_S < max(begun, ended) + APART_S
