"""Many short rows of integers in one flat array: the chunks of all requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray


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
        return cls(_narrow(flat), np.concatenate(([0], np.cumsum(lengths))))

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Self:
        return cls.flattened(
            np.concatenate([part.flat for part in parts]), np.concatenate([part.counts for part in parts])
        )

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


def _narrow(flat: IntArray) -> IntArray:
    limit = np.iinfo(np.int32)
    fits = limit.min <= flat.min(initial=0) <= flat.max(initial=0) <= limit.max
    return flat.astype(np.int32, copy=False) if fits else flat
