"""numpy.searchsorted for very many queries at once: a table of equal cells, exact at their edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.frames import FloatArray, IntArray

CELLS = 1 << 21
CROWDED = 16  # values in one cell, above which halving is quicker than the table
FEW = 20_000  # queries, for which a table is not worth its making


@dataclass(slots=True)
class Ranks:
    """Sorted values, and how many of them come before an instant."""

    values: FloatArray
    _table: IntArray | None = None  # how many values lie in the cells before each
    _tabled: bool = False

    def upto(self, at: FloatArray) -> IntArray:
        """Return how many values are at or before each instant."""
        return self._rank(at, "right")

    def before(self, at: FloatArray) -> IntArray:
        """Return how many values are before each instant."""
        return self._rank(at, "left")

    def _rank(self, at: FloatArray, side: str) -> IntArray:
        if len(at) < FEW or not self._prepare() or np.isnan(at).any():
            return np.searchsorted(self.values, at, side="right" if side == "right" else "left")
        assert self._table is not None
        cell = self._cell(at)
        found = self._table[cell]
        ends = self._table[cell + 1]
        open_ = np.flatnonzero(ends > found)
        while len(open_):
            value = self.values[found[open_]]
            passed = value <= at[open_] if side == "right" else value < at[open_]
            open_ = open_[passed]
            found[open_] += 1
            open_ = open_[found[open_] < ends[open_]]
        return found

    def _cell(self, at: FloatArray) -> IntArray:
        scale = CELLS / (self.values[-1] - self.values[0])
        # Monotone in `at`: of two instants the later is never in an earlier cell, which is what makes the table exact.
        place = at - self.values[0]
        place *= scale
        np.clip(place, -1.0, CELLS, out=place)
        cell: IntArray = place.astype(np.int32)
        cell += 1
        return cell

    def _prepare(self) -> bool:
        """Make the table; return whether it is of use."""
        if not self._tabled:
            self._tabled = True
            if len(self.values) > 1 and np.isfinite(self.values).all() and self.values[-1] > self.values[0]:
                counts = np.bincount(self._cell(self.values), minlength=CELLS + 2)
                if counts.max() <= CROWDED:
                    self._table = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
        return self._table is not None
