"""Distributions that several processes measure together: percentiles cannot be added up, counts in buckets can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self


class Histogram:
    """A distribution as counts in log-linear buckets, like HdrHistogram's (hdrhistogram.org); two of them can be merged.

    Every power of two is cut into 128 buckets of equal width. A bucket is therefore at most 1/128 of its value wide, and a
    percentile is off by at most half of that, 0.4 %, at any scale. Count, sum, minimum and maximum are exact. Values are
    floats of any unit; a negative value counts as zero, and one that is not finite is left out.
    """

    __slots__ = ("_buckets", "_zeros", "count", "max", "min", "sum")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._zeros = 0  # zero has no logarithm: gaps between events of one read
        self.count = 0
        self.sum = 0.0
        self.min = math.inf
        self.max = -math.inf

    def add(self, *values: float) -> None:
        buckets, known = self._buckets, [max(value, 0.0) for value in values if math.isfinite(value)]
        if not known:
            return
        for value in known:
            if value:
                mantissa, exponent = math.frexp(value)  # value = mantissa · 2^exponent, mantissa from 0.5 to 1
                index = (exponent << 7) + int(mantissa * 256) - 128
                buckets[index] = buckets.get(index, 0) + 1
            else:
                self._zeros += 1
        self.count += len(known)
        self.sum += math.fsum(known)
        self.min = min(self.min, *known)
        self.max = max(self.max, *known)

    def merge(self, other: Self) -> None:
        for index, count in other._buckets.items():
            self._buckets[index] = self._buckets.get(index, 0) + count
        self._zeros += other._zeros
        self.count += other.count
        self.sum += other.sum
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    def percentile(self, share: float) -> float | None:
        """Return the value below which `share` (0 to 1) of all values lie; None where there are no values.

        It is interpolated between neighbouring ranks as numpy.quantile does, and so equals the exact percentile of the
        same values to within half a bucket.
        """
        if not self.count:
            return None
        rank = share * (self.count - 1)
        below = math.floor(rank)
        low, high = self._at(below), self._at(min(below + 1, self.count - 1))
        return low + (rank - below) * (high - low)

    def _at(self, rank: int) -> float:
        """Return the value at a rank, counted from 0: the middle of its bucket; the first and the last are exact."""
        if rank == 0 or rank == self.count - 1:
            return self.min if rank == 0 else self.max
        seen = self._zeros
        if rank < seen:
            return 0.0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if rank < seen:
                return min(max(_middle(index), self.min), self.max)
        raise AssertionError("counts and buckets disagree")

    def at_most(self, bounds: Sequence[float]) -> list[int]:
        """Return how many values are at or below each of `bounds`, which ascend from 0 or more.

        A value within half a bucket (0.4 %) of a bound may count on its other side.
        """
        counts, seen = [], self._zeros
        rest = sorted(self._buckets, reverse=True)
        for bound in bounds:
            while rest and min(_middle(rest[-1]), self.max) <= bound:
                seen += self._buckets[rest.pop()]
            counts.append(seen)
        return counts

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON of a few hundred bytes: buckets that hold nothing are left out."""
        if not self.count:
            return {}
        return {
            "buckets": {str(index): count for index, count in self._buckets.items()},
            "zeros": self._zeros,
            "sum": self.sum,
            "min": self.min,
            "max": self.max,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        histogram = cls()
        if row:
            histogram._buckets = {int(index): count for index, count in row["buckets"].items()}
            histogram._zeros = row["zeros"]
            histogram.count = histogram._zeros + sum(histogram._buckets.values())
            histogram.sum, histogram.min, histogram.max = row["sum"], row["min"], row["max"]
        return histogram


def _middle(index: int) -> float:
    return math.ldexp((index & 127) + 128.5, (index >> 7) - 8)
