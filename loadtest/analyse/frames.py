"""Run folders into arrays: one row a request, every duration through loadtest.metrics, and every chunk kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from loadtest import metrics
from loadtest.errors import RunFolderError
from loadtest.records import Header, Outcome, RunFolder

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Rows = list[dict[str, Any]]
Columns = dict[str, npt.NDArray[Any]]

US = 1e-6
_INSTANTS = ("t_sched", "t_connect", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
_NUMBERS = ("asked", "asked_input", "prompt_tokens", "output_tokens", "status")
_COUNTS = ("id", "level", "seed", "reads", "stamped", "arrivals", "late", "bytes")
_TEXTS = ("dialect", "model", "outcome", "token_source", "finish_reason", "error")
_FLAGS = ("warmup", "new_conn", "first_coalesced")


@dataclass(frozen=True, slots=True)
class Gaps:
    """Intervals between consecutive events of a stream, all streams pooled."""

    seconds: FloatArray
    row: IntArray  # the row of the request that each gap belongs to

    def of(self, rows: BoolArray) -> FloatArray:
        """Return the gaps of the requests marked in `rows` (one flag a request), in seconds."""
        return self.seconds[rows[self.row]]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Many short rows of integers in one flat array: row i is flat[starts[i]:starts[i + 1]]."""

    flat: IntArray
    starts: IntArray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Self:
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        starts = np.concatenate(([0], np.cumsum(lengths)))
        return cls(np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(starts[-1])), starts)

    def row(self, index: int) -> IntArray:
        return self.flat[self.starts[index] : self.starts[index + 1]]

    @property
    def counts(self) -> IntArray:
        return np.diff(self.starts)

    @property
    def owner(self) -> IntArray:
        """The row of every value."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def last(self) -> FloatArray:
        """Return each row's last value, nan where a row is empty."""
        out = np.full(len(self.starts) - 1, np.nan)
        full = self.counts > 0
        out[full] = self.flat[self.starts[1:][full] - 1]
        return out

    def gaps(self, unit: float) -> Gaps:
        """Return the differences inside each row, times `unit`."""
        owner = self.owner
        inside = owner[1:] == owner[:-1]
        return Gaps(np.diff(self.flat)[inside] * unit, owner[1:][inside])


@dataclass(frozen=True, slots=True)
class Zero:
    """The instant that a run's axis counts from, on its clocks: what lays other files beside it."""

    wall_ns: int = 0
    monotonic_ns: int = 0
    host: str | None = None  # None: requests came from several hosts, so only the wall clock counts


@dataclass(frozen=True, slots=True)
class Run:
    """One run folder, read: what was run, and what came of every request.

    requests: one row a request in the order sent; durations in seconds (`ttft_s`, …), instants in seconds since the
    run's first t_sched (`sched`, `send`, `headers`, `first_token`, `last`, `end`; nan where there was none), the
    level's facts joined (`concurrency`, `level_input`, `level_output`, `words`, `rate`).
    """

    path: Path
    facts: dict[str, Any]  # run.json
    levels: list[dict[str, Any]]  # run.json's, and those that only the records know
    requests: pd.DataFrame
    chunks: Ragged  # arrival of content events, µs since the request's t_send
    server_chunks: Ragged  # the same by the server's created_at, µs since the first one's
    itl: Gaps
    server_itl: Gaps
    delivery: Gaps  # arrival − created_at of every content event, less the smallest of its clock
    samples: pd.DataFrame  # the driver's own, `t` in seconds since the run's first t_sched
    zero: Zero = Zero()

    @property
    def name(self) -> str:
        return str(self.facts.get("name") or self.path.name)

    @property
    def simulated(self) -> dict[str, Any] | None:
        """Profile and speed of the simulated server that was measured, None for a real one."""
        found: dict[str, Any] | None = (self.facts.get("server") or {}).get("simulated")
        return found

    def column(self, name: str) -> FloatArray:
        """Return a column of `requests` as floats, one a request."""
        return self.requests[name].to_numpy(dtype=np.float64)

    def measured(self, level: int) -> BoolArray:
        """Mark the requests of a level that count: those that were not warm-up."""
        frame = self.requests
        return np.asarray((frame["level"] == level) & ~frame["warmup"], dtype=np.bool_)

    def good(self, level: int) -> BoolArray:
        """Mark the requests that figures come from: measured, and ended well."""
        return self.measured(level) & np.asarray(self.requests["ok"], dtype=np.bool_)


def load(path: Path) -> Run:
    """Read a run folder; raise RunFolderError with one sentence when it is not one or cannot be understood."""
    folder = RunFolder.open(path)
    facts = folder.read_run()
    files = list(folder.requests())
    shift = _shifts([header for header, _ in files])
    rows: Rows = [row for _, lines in files for row in lines]
    sources = np.repeat(np.arange(len(files)), [len(lines) for _, lines in files])
    try:
        columns = _columns(rows)
    except (KeyError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path} holds a line that is no request record ({error!r}).") from None
    offset = np.array([shift(header) for header, _ in files], dtype=np.float64)[sources] if files else np.zeros(0)
    for name in _INSTANTS:
        columns[name] = columns[name] + offset
    order = np.argsort(np.where(np.isnan(columns["t_send"]), columns["t_sched"], columns["t_send"]), kind="stable")
    columns = {name: values[order] for name, values in columns.items()}
    rows = [rows[i] for i in order]
    chunks = Ragged.of([row.get("chunks") or () for row in rows])
    server_chunks = Ragged.of([row.get("server_us") or () for row in rows])
    columns["source"], columns["offset"] = sources[order], offset[order]
    anchors = np.array([header.wall_ns for header, _ in files], dtype=np.int64)
    delivery = _delivery(rows, anchors, columns, chunks, server_chunks)
    start = float(columns["t_sched"].min()) if rows else 0.0
    levels = _levels(facts, columns)
    return Run(
        path=path,
        facts=facts,
        levels=levels,
        requests=_frame(columns, rows, chunks, start, levels),
        chunks=chunks,
        server_chunks=server_chunks,
        itl=chunks.gaps(US),
        server_itl=server_chunks.gaps(US),
        delivery=delivery,
        samples=_samples(folder, shift, start),
        zero=_zero([header for header, _ in files], shift, start),
    )


def _shifts(headers: list[Header]) -> Callable[[Header], float]:
    """Return what to add to a file's instants so that all files share one axis.

    One host: the monotonic clock, which is the same for every process. Several: the wall clock, the best there is.
    """
    one_host = len({header.host for header in headers}) <= 1
    base = min((h.monotonic_ns if one_host else h.wall_ns for h in headers), default=0)
    return lambda header: float((header.monotonic_ns if one_host else header.wall_ns) - base)


def _zero(headers: list[Header], shift: Callable[[Header], float], start: float) -> Zero:
    if not headers:
        return Zero()
    after = round(start - shift(headers[0]))  # from the first file's anchor to the axis's zero
    hosts = {header.host for header in headers}
    return Zero(headers[0].wall_ns + after, headers[0].monotonic_ns + after, hosts.pop() if len(hosts) == 1 else None)


def _columns(rows: Rows) -> Columns:
    columns: Columns = {}
    for name in ("id", "level", "outcome", "t_sched", "t_end"):
        if any(row[name] is None for row in rows):
            raise ValueError(name)
    for name in (*_INSTANTS, *_NUMBERS):
        columns[name] = np.array([row.get(name) for row in rows], dtype=np.float64)
    for name in _COUNTS:
        columns[name] = np.array([row.get(name) or 0 for row in rows], dtype=np.int64)
    for name in _TEXTS:
        columns[name] = np.array([row.get(name) for row in rows], dtype=object)
    for name in _FLAGS:
        columns[name] = np.array([bool(row.get(name)) for row in rows], dtype=np.bool_)
    columns["lag_s"] = np.array([row.get("lag_us") or 0 for row in rows], dtype=np.float64) * US
    columns["lag_mean_s"] = np.array([row.get("lag_mean_us") or 0 for row in rows], dtype=np.float64) * US
    said = [metrics.server_said(row.get("server") or {}) for row in rows]
    told = np.array(said, dtype=np.float64).reshape(-1, 4)
    columns["load_s"], columns["prefill_s"], columns["cached_tokens"], columns["llamacpp"] = told.T
    instants = (columns[name] for name in ("t_send", "t_headers", "t_first_token"))
    columns["queue_wait_s"] = np.array(list(map(metrics.queue_wait, *instants, said)), dtype=np.float64)
    return columns


def _frame(columns: Columns, rows: Rows, chunks: Ragged, start: float, levels: list[dict[str, Any]]) -> pd.DataFrame:
    c = columns
    last = c["t_send"] + chunks.last() * 1e3
    tokens = np.where(c["output_tokens"] > 1, c["output_tokens"], np.nan)
    c["chunks"] = chunks.counts
    c["ok"] = c["outcome"] == Outcome.OK
    c["ttft_s"] = metrics.ttft(c["t_first_token"], c["t_send"])
    c["ttft_sched_s"] = metrics.ttft_sched(c["t_first_token"], c["t_sched"])
    c["e2e_s"] = metrics.e2e(last, c["t_send"])
    c["e2e_sched_s"] = metrics.e2e(last, c["t_sched"])
    with np.errstate(divide="ignore", invalid="ignore"):
        c["tpot_s"] = metrics.tpot(c["e2e_s"], c["ttft_s"], tokens)
        c["tpot_s"][c["tpot_s"] <= 0] = np.nan  # all tokens in one chunk: no decode speed was seen
        c["stream_tokens_per_s"] = metrics.stream_tokens_per_s(c["tpot_s"])
        c["e2e_tokens_per_s"] = metrics.e2e_tokens_per_s(c["output_tokens"], c["e2e_s"])
    c["schedule_lag_s"] = metrics.schedule_lag(c["t_send"], c["t_sched"])
    seconds = {name[2:]: (c.pop(name) - start) * metrics.NS for name in _INSTANTS}
    frame = pd.DataFrame({**c, **seconds, "last": (last - start) * metrics.NS})
    facts = {level["index"]: level for level in levels}
    for name, key in (
        ("concurrency", "concurrency"),
        ("level_input", "input_tokens"),
        ("level_output", "output_tokens"),
        ("words", "words"),
        ("rate", "rate"),
    ):
        values = {index: level.get(key) for index, level in facts.items()}
        frame[name] = np.array([values[level] for level in frame["level"]], dtype=np.float64)
    frame["together"] = [metrics.made_together(row.get("server_us")) for row in rows]
    return frame


def _delivery(rows: Rows, anchors: IntArray, columns: Columns, chunks: Ragged, server: Ragged) -> Gaps:
    """Return arrival − created_at, less its smallest value among the requests of one clock (one file). Seconds."""
    usable = (chunks.counts == server.counts) & (chunks.counts > 0)
    usable &= np.array([row.get("server_first") is not None for row in rows], dtype=np.bool_)
    keep = usable[chunks.owner]
    row = chunks.owner[keep]
    source = columns["source"]
    # Whole nanoseconds since the anchor: wall instants as floats would lose 200 ns.
    first = np.zeros(len(rows), dtype=np.int64)
    for index in np.flatnonzero(usable):
        first[index] = rows[index]["server_first"] - anchors[source[index]]
    sent = np.where(usable, columns["t_send"] - columns["offset"], 0.0).astype(np.int64)
    late = (sent - first)[row] + (chunks.flat[keep] - server.flat[usable[server.owner]]) * 1000
    seconds = late * metrics.NS
    for file in np.unique(source[row]):
        mine = source[row] == file
        seconds[mine] -= seconds[mine].min()
    return Gaps(seconds, row)


def _levels(facts: dict[str, Any], columns: Columns) -> list[dict[str, Any]]:
    """Return run.json's levels, and one made up for every level that only records know (a run that was cut off)."""
    levels = [dict(level) for level in facts.get("levels") or []]
    named = {level["index"] for level in levels}
    for index in sorted({int(value) for value in columns["level"]} - named):
        mine = columns["level"] == index
        levels.append(
            {
                "index": index,
                "concurrency": peak_at_once(columns["t_sched"][mine], columns["t_end"][mine]),
                "input_tokens": None,
                "output_tokens": None,
                "words": None,
                "rate": None,
            }
        )
    return levels


def peak_at_once(starts: FloatArray, ends: FloatArray) -> int:
    """Return the most intervals open at once; one that ends exactly where another starts does not overlap it."""
    times = np.concatenate((starts, ends))
    steps = np.concatenate((np.ones(len(starts)), -np.ones(len(ends))))
    order = np.lexsort((steps, times))
    return int(np.cumsum(steps[order]).max(initial=0))


def _samples(folder: RunFolder, shift: Callable[[Header], float], start: float) -> pd.DataFrame:
    names = ("t", "level", "in_flight", "decoding", "waiting", "loop_gap_us", "cpu")
    lines = folder.samples("driver")
    if len(lines) < 2:
        return pd.DataFrame({name: np.zeros(0) for name in names})
    head = lines[0]
    header = Header(1, "", "", "", int(head.get("monotonic_ns", 0)), int(head.get("wall_ns", 0)))
    frame = pd.DataFrame({name: np.array([line.get(name) for line in lines[1:]], dtype=np.float64) for name in names})
    frame["t"] = (frame["t"] + shift(header) - start) * metrics.NS
    return frame
