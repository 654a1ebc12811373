"""The instants of every stream's events in one flat array, the gaps between them, and how late each was delivered.

Events are very many, so gaps and delays are computed on demand, block by block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Self

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.metrics import S_PER_NS, S_PER_US

CHUNKS_AT_ONCE = 1 << 17  # few enough for the processor's cache, and to spare memory


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
        """Take values that already lie row after row."""
        limit = np.iinfo(np.int32)
        if limit.min <= flat.min(initial=0) <= flat.max(initial=0) <= limit.max:
            flat = flat.astype(np.int32, copy=False)
        return cls(flat, np.concatenate(([0], np.cumsum(lengths))))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Self:
        return cls.flattened(
            np.concatenate([part.flat for part in parts]), np.concatenate([part.counts for part in parts])
        )

    def only(self, rows: BoolArray) -> Ragged:
        return Ragged.flattened(self.flat[np.repeat(rows, self.counts)], self.counts[rows])

    def take(self, order: IntArray) -> Ragged:
        """Return the rows at these positions, in this order."""
        if np.array_equal(order, np.arange(len(self.starts) - 1)):
            return self
        rows = [self.row(int(index)) for index in order]
        return Ragged.flattened(np.concatenate(rows) if rows else self.flat[:0], self.counts[order])

    def row(self, index: int) -> IntArray:
        return self.flat[self.starts[index] : self.starts[index + 1]]

    @property
    def counts(self) -> IntArray:
        return np.diff(self.starts)

    @property
    def owner(self) -> IntArray:
        """The row that each value belongs to."""
        return np.repeat(np.arange(len(self.starts) - 1), self.counts)

    def first(self) -> FloatArray:
        """Return each row's first value, nan where a row is empty."""
        return self._values_at(self.starts[:-1])

    def last(self) -> FloatArray:
        """Return each row's last value, nan where a row is empty."""
        return self._values_at(self.starts[1:] - 1)

    def descends(self) -> BoolArray:
        """Mark the rows in which a value is below the one before it."""
        owner = self.owner
        down = (self.flat[1:] < self.flat[:-1]) & (owner[1:] == owner[:-1])
        marked = np.zeros(len(self.starts) - 1, dtype=np.bool_)
        marked[owner[1:][down]] = True
        return marked

    def _values_at(self, places: IntArray) -> FloatArray:
        out = np.full(len(places), np.nan)
        full = self.counts > 0
        out[full] = self.flat[places[full]]
        return out


@dataclass(frozen=True, slots=True)
class EventGaps:
    """Gaps between consecutive events of a stream, of all streams together."""

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
        """Yield the gaps of these requests in microseconds, block by block."""
        starts = self.events.starts
        for low, high in blocks(starts, rows):
            steps = np.diff(self.events.flat[starts[low] : starts[high]])
            row = np.repeat(np.arange(low, high), self.events.counts[low:high])
            yield steps[(np.diff(row) == 0) & rows[row[1:]]]


@dataclass(frozen=True, slots=True)
class Delays:
    """Delivery delay of every content event: arrival − created_at, less the smallest of its clock."""

    chunks: Ragged
    server: Ragged
    usable: BoolArray  # requests of which the server stamped every chunk
    # per request: t_send − the first created_at, ns; chunks count from the one, created_at from the other
    ahead: IntArray
    least: IntArray  # per request: the smallest arrival − created_at in its file, ns
    unit: ClassVar[float] = S_PER_NS

    def only(self, rows: BoolArray, chunks: Ragged, server: Ragged) -> Delays:
        """Return the delays of the rows that are marked, whose events are these."""
        return Delays(chunks, server, self.usable[rows], self.ahead[rows], self.least[rows])

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
        """Yield the delays of these requests in nanoseconds, block by block."""
        return self._late(rows & self.usable, self.least)

    def least_of_each(self, rows: BoolArray) -> IntArray:
        """Return the smallest delay of each of these requests that is usable, nanoseconds."""
        rows = rows & self.usable
        found = [np.zeros(0, dtype=np.int64)]
        for (low, high), late in zip(blocks(self.chunks.starts, rows), self._late(rows, self.least), strict=True):
            counts = self.chunks.counts[low:high][rows[low:high]]
            found += [np.minimum.reduceat(late, np.cumsum(counts) - counts)] if len(counts) else []
        return np.concatenate(found)

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
