"""Gaps between a stream's events, and how long after the server's stamp each arrived: many, so computed on demand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.ragged import Ragged
from loadtest.metrics import S_PER_NS, S_PER_US

CHUNKS_AT_ONCE = 1 << 17  # few enough for the processor's cache, and to spare memory


@dataclass(frozen=True, slots=True)
class EventGaps:
    """Gaps between consecutive events of a stream, of all streams together; computed on demand, because they are many."""

    events: Ragged  # the instants of each stream, µs
    unit: ClassVar[float] = S_PER_US

    @property
    def counts(self) -> IntArray:
        """How many gaps each request has."""
        return np.maximum(self.events.counts - 1, 0)

    def of(self, rows: BoolArray) -> FloatArray:
        """Return the gaps of the requests marked in `rows` (one flag a request), in seconds."""
        return as_seconds(self.ticks(rows), int(self.counts[rows].sum()), self.unit)

    def ticks(self, rows: BoolArray) -> Iterator[IntArray]:
        """Yield the same gaps as whole units, block by block."""
        starts = self.events.starts
        for low, high in blocks(starts, rows):
            steps = np.diff(self.events.flat[starts[low] : starts[high]])
            row = np.repeat(np.arange(low, high), self.events.counts[low:high])
            yield steps[(np.diff(row) == 0) & rows[row[1:]]]


@dataclass(frozen=True, slots=True)
class Delays:
    """Delivery delay of every content event: arrival − created_at, less the smallest of its clock; computed on demand."""

    chunks: Ragged
    server: Ragged
    usable: BoolArray  # requests of which the server stamped every chunk
    # per request: t_send − the first created_at, ns; chunks count from the one, created_at from the other
    ahead: IntArray
    least: IntArray  # per request: the smallest arrival − created_at in its file, ns
    unit: ClassVar[float] = S_PER_NS

    @property
    def counts(self) -> IntArray:
        """How many stamped events each request has."""
        return np.where(self.usable, self.chunks.counts, 0)

    def of(self, rows: BoolArray) -> FloatArray:
        """Return the delays of the requests marked in `rows` (one flag a request), in seconds."""
        rows = rows & self.usable
        counts = self.counts[rows]
        seconds = as_seconds(self._late(rows), int(counts.sum()), self.unit)
        seconds -= np.repeat(self.least[rows] * self.unit, counts)
        return seconds

    def ticks(self, rows: BoolArray) -> Iterator[IntArray]:
        """Yield the same delays in nanoseconds, block by block."""
        return self._late(rows & self.usable, self.least)

    def at(self, row: IntArray, place: IntArray) -> FloatArray:
        """Return the delays of the events at `place` in Run.chunks.flat, of requests `row`; seconds, zero where unknown."""
        known = self.usable[row]
        if not known.any():
            return np.zeros(len(row))
        mirrored = np.where(known, place + (self.server.starts[:-1] - self.chunks.starts[:-1])[row], 0)
        late = (self.chunks.flat[place].astype(np.int64) - self.server.flat[mirrored]) * 1000 + self.ahead[row]
        return np.where(known, late * self.unit - (self.least * self.unit)[row], 0.0)

    def _late(self, rows: BoolArray, less: IntArray | int = 0) -> Iterator[IntArray]:
        """Yield arrival − created_at of usable `rows` in ns, less the request's entry of `less`."""
        ahead = self.ahead - less
        for low, high in blocks(self.chunks.starts, rows):
            ours, theirs = (
                part.flat[part.starts[low] : part.starts[high]][np.repeat(rows[low:high], part.counts[low:high])]
                for part in (self.chunks, self.server)
            )
            counts = np.where(rows[low:high], self.chunks.counts[low:high], 0)
            yield (ours.astype(np.int64) - theirs) * 1000 + np.repeat(ahead[low:high], counts)


def as_seconds(parts: Iterator[IntArray], count: int, unit: float) -> FloatArray:
    """Return parts of whole units, `count` in all, as one array of seconds."""
    out = np.empty(count)
    done = 0
    for part in parts:
        np.multiply(part, unit, out=out[done : done + len(part)])
        done += len(part)
    return out


def blocks(starts: IntArray, rows: BoolArray | None = None, size: int = CHUNKS_AT_ONCE) -> Iterator[tuple[int, int]]:
    """Yield ranges (low, high) of rows with about `size` values each, from the first to the last row marked in `rows`."""
    low, end = 0, len(starts) - 1
    if rows is not None:
        marked = np.flatnonzero(rows)
        low, end = (int(marked[0]), int(marked[-1]) + 1) if len(marked) else (0, 0)
    while low < end:
        high = int(np.searchsorted(starts, starts[low] + size, side="right")) - 1
        high = min(max(high, low + 1), end)
        yield low, high
        low = high
