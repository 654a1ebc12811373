"""How sure a figure is, when neighbouring samples are alike: batch means, adjusted for correlation and skewness.

Requests that share a queue or a batch have latencies that resemble each other, so s/√n is far too small. Samples in time
order are cut into batches of several correlation times; the batches' own spread is the error of the figure (Schmeiser,
Oper. Res. 30, 1982). Latencies are skewed, hence the adjusted t interval of Willink (Commun. Stat. 34, 2005), as in
N-Skart (Tafazzoli, Steiger, Wilson, Oper. Res. 59, 2011). Percentiles are bounded by order statistics, whose ranks come
from the batch means of "above the percentile". `python tests/insight_intervals.py` says how often these intervals hold.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.frames import CHUNKS_AT_ONCE

TABLE = 1 << 20  # whole numbers from 0 that are counted each in its place; what is beyond is sorted
MOST_BATCHES, FEWEST_BATCHES = 20, 10
FEWEST_ROUNDS = 5  # whole rounds of a closed loop that an interval takes
BATCH_TIMES = 5  # a batch is so many correlation times long, where that leaves ten batches
# A few batches show too little of the skewness that there is: with this factor intervals of a long queue's mean hold in
# 94 of 100 cases from an empty start, without it in 93.
SKEWNESS_SEEN = 1.25
# Independent samples' worth that an interval needs; a tail needs more, for too short a run has not seen it.
FEWEST_INDEPENDENT_AT = {0.05: 20, 0.50: 10, 0.90: 10, 0.95: 20, 0.99: 300}
FEWEST_INDEPENDENT = 10


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """Very many values by rank, as a sorted array would have them, but of most only how many there are of each."""

    below: IntArray  # whole numbers under zero, sorted
    upto: IntArray  # how many values come up to each whole number from 0
    above: IntArray  # whole numbers past the table, sorted
    unit: float  # what one stands for; of the other sign: the values are the other way up

    @classmethod
    def of(cls, parts: Iterable[IntArray], unit: float) -> Self:
        """Count whole numbers, block by block."""
        table = np.zeros(TABLE, dtype=np.int64)
        rest: tuple[list[IntArray], list[IntArray]] = ([], [])
        for part in parts:
            inside = (part >= 0) & (part < TABLE)
            if not inside.all():
                rest[0].append(part[part < 0])
                rest[1].append(part[part >= TABLE])
            counts = np.bincount(part[inside])
            table[: len(counts)] += counts
        below, above = (np.concatenate([*found, np.zeros(0, dtype=np.int32)]) for found in rest)
        below.sort()
        above.sort()
        return cls(below, len(below) + np.cumsum(table), above, unit)

    def negative(self) -> ValueCounts:
        """Return the same values with the other sign, sorted again."""
        return replace(self, unit=-self.unit)

    def __len__(self) -> int:
        return int(self.upto[-1]) + len(self.above)

    def __getitem__(self, rank: int) -> float:
        rank %= len(self)
        if self.unit < 0:
            rank = len(self) - 1 - rank
        if rank < len(self.below):
            tick = self.below[rank]
        elif rank < self.upto[-1]:
            tick = np.searchsorted(self.upto, rank, side="right")
        else:
            tick = self.above[rank - self.upto[-1]]
        return float(tick * self.unit)


Ordered = FloatArray | ValueCounts


@dataclass(frozen=True, slots=True)
class Spread:
    """How far a mean may be off: standard error, its degrees of freedom, and the lean of its distribution."""

    error: float
    freedom: int
    lean: float = 0.0  # skewness of the mean ÷ 6

    def around(self, value: float, confidence: float = 0.95) -> tuple[float, float]:
        """Return the interval about `value`, longer on the side that skewness makes less certain."""
        t = t_quantile(self.freedom, confidence)
        return value - self._bent(t) * self.error, value - self._bent(-t) * self.error

    def scaled(self, factor: float) -> Self:
        """Return the spread of `factor` (above 0) times the mean."""
        return replace(self, error=self.error * factor)

    def _bent(self, t: float) -> float:
        if abs(self.lean) < 1e-6:
            return t
        return (float(np.cbrt(1 + 6 * self.lean * (t - self.lean))) - 1) / (2 * self.lean)


@dataclass(frozen=True, slots=True)
class Sample:
    """Values in time order, cut into batches of whole requests.

    A value counts for itself, or many belong to one request (token gaps): then requests are what is batched, and a
    figure of all values is a ratio of sums over requests.
    """

    values: FloatArray
    starts: IntArray | None  # index of each request's first value; None: one value a request
    requests: int
    time: float  # correlation time: how many requests say as much as one independent one; at least 1
    batches: int
    length: int  # requests a batch

    @classmethod
    def of(
        cls,
        values: FloatArray,
        *,
        block: int = 1,
        requests: IntArray | None = None,
        starts: IntArray | None = None,
    ) -> Self:
        """Cut `values`, at least one and none of them nan, into batches.

        Args:
            block: requests that share their fate in a closed loop, the concurrency: batches hold whole multiples.
            requests: which request each value belongs to, equal numbers side by side.
            starts: the same, said by the index of each request's first value.
        """
        if requests is not None:
            starts = np.flatnonzero(np.diff(requests, prepend=requests[0] - 1))
        n = len(values) if starts is None else len(starts)
        time = correlation_time(_residuals(values, starts))
        batches = min(MOST_BATCHES, max(FEWEST_BATCHES, int(n / (BATCH_TIMES * time))), n)
        whole = n // max(block, 1)  # rounds of the loop
        if whole >= FEWEST_ROUNDS:
            batches = min(batches, whole)
            length = n // batches // block * block
        else:
            length = max(1, n // batches)
        return cls(values, starts, n, time, n // length, length)

    @property
    def effective(self) -> float:
        """Independent samples that this one is worth."""
        return self.requests / self.time

    def mean(self) -> Spread:
        """Return how sure the mean is."""
        return self.spread_of(_residuals(self.values, self.starts))

    def spread_of(self, residuals: FloatArray) -> Spread:
        """Return how far the mean of one residual a request may be off; needs two batches."""
        means = residuals[len(residuals) - self.batches * self.length :].reshape(self.batches, self.length).mean(axis=1)
        # Batches of a few correlation times still resemble their neighbours: their spread understates the long run's.
        alike = self.time / self.length if self.time > 1 else 0.0
        apart = means - means.mean()
        square = float(apart @ apart)
        # One less than batches have: their likeness is estimated too, and five rounds show little of it.
        freedom = max(self.batches - 2, 1)
        if square <= 1e-24 * max(1.0, _square(residuals)):
            return Spread(0.0, freedom)
        variance = square / (self.batches - 1) / max(1 - alike, 0.5)
        skewness = 0.0
        if self.batches > 2:
            bias = math.sqrt(self.batches * (self.batches - 1)) / (self.batches - 2)
            skewness = bias * float((apart**3).mean()) / (square / self.batches) ** 1.5
        lean = SKEWNESS_SEEN * skewness / 6 / math.sqrt(self.batches)
        return Spread(math.sqrt(variance / self.batches), freedom, lean)

    def above(self, limit: float, share: float) -> Spread:
        """Return how sure the share of values above `limit` is, which is percentile `share`."""
        found = self.spread_of(_residuals(self.values, self.starts, above=limit))
        # In the tail the indicator is too rare to show its own correlation: at least that of the values.
        floor = share * (1 - share) / len(self.values) * (self.time if share > 0.5 else 0.6)
        return Spread(max(found.error, math.sqrt(floor)), found.freedom)


def _residuals(values: FloatArray, starts: IntArray | None, *, above: float | None = None) -> FloatArray:
    """Return one residual a request: how much its values add to the mean of all, above their part.

    With `above` a value counts as 1 where it is above that limit, else as 0. Worked on in blocks: there may be very many.
    """
    mean = float(values.mean()) if above is None else np.count_nonzero(values > above) / len(values)
    if starts is None:
        return np.asarray((values if above is None else (values > above).astype(np.float64)) - mean)
    summed = np.empty(len(starts))
    ends = np.append(starts[1:], len(values))
    low = 0
    while low < len(starts):
        high = max(int(np.searchsorted(ends, starts[low] + CHUNKS_AT_ONCE)), low + 1)
        part = values[starts[low] : ends[high - 1]]
        apart = (part if above is None else (part > above).astype(np.float64)) - mean
        np.add.reduceat(apart, starts[low:high] - starts[low], out=summed[low:high])
        low = high
    return summed * (len(starts) / len(values))


def mean_interval(sample: Sample, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of the mean; None where there are fewer than ten independent samples' worth."""
    if sample.effective < FEWEST_INDEPENDENT:
        return None
    return sample.mean().around(float(sample.values.mean()), confidence)


def percentile_interval(
    sample: Sample, ordered: Ordered, share: float, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return the interval of a percentile of `sample`, whose values sorted are `ordered`.

    None where the run is too short to know that tail: by its correlation time, or where the lower end meets the median.
    """
    if sample.effective < FEWEST_INDEPENDENT:
        return None
    if share < 0.5:  # the tail of small values is the upper one, upside down
        mirrored = ordered.negative() if isinstance(ordered, ValueCounts) else -ordered[::-1]
        flipped = percentile_interval(replace(sample, values=-sample.values), mirrored, 1 - share, confidence)
        least = 0.0 if ordered[0] >= 0 else -math.inf
        return (max(least, -flipped[1]), -flipped[0]) if flipped else None
    middle = quantile_of_sorted(ordered, share)
    spread = sample.above(middle, share)
    effective = min(share * (1 - share) / spread.error**2, len(sample.values) / sample.time)
    if effective < FEWEST_INDEPENDENT_AT.get(share, FEWEST_INDEPENDENT / (1 - share)):
        return None
    logit = math.log(share / (1 - share))
    away = t_quantile(spread.freedom, confidence) * spread.error / (share * (1 - share))
    low, high = (quantile_of_sorted(ordered, 1 / (1 + math.exp(-(logit + side)))) for side in (-away, away))
    if share == 0.5 or low == middle == high:
        return low, high
    # Where few long waits were seen the largest one bounds nothing: upwards the tail may be off by the same factor.
    median = quantile_of_sorted(ordered, 0.5)
    if low <= median:
        return None
    return low, max(high, median + (middle - median) ** 2 / (low - median))


def quantile_of_sorted(ordered: Ordered, share: float) -> float:
    """Return numpy.quantile of values that are sorted already."""
    rank = share * (len(ordered) - 1)
    below = min(int(rank), len(ordered) - 2) if len(ordered) > 1 else 0
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (rank - below) * (ordered[above] - ordered[below]))


def correlation_time(series: FloatArray) -> float:
    """Return 1 + 2·Σ autocorrelation of a series: how many samples say as much as one independent one; at least 1.

    The sum ends at five times its own value (Sokal's window), for the far end of it is noise.
    """
    n = len(series)
    apart = series - series.mean()
    if n < 4 or _square(apart) <= 1e-24 * max(1.0, _square(series)):
        return 1.0
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(apart, size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), size)[: n // 2 + 1]
    sums = 2 * np.cumsum(covariance / covariance[0]) - 1
    ends: BoolArray = np.arange(len(sums)) >= 5 * sums
    return max(1.0, float(sums[np.argmax(ends)] if ends.any() else sums[-1]))


def _square(values: FloatArray) -> float:
    """Return Σ values². Not by BLAS, whose threads cost more than the sum where a core is taken by another process."""
    return float(np.square(values).sum())


def t_tail(t: float, freedom: int) -> float:
    """Return the chance that Student's |t| is above `t` (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(abs(t), math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 or not odd else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = (angle + sine * total) * 2 / math.pi if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


@functools.cache
def t_quantile(freedom: int, confidence: float = 0.95) -> float:
    """Return what Student's |t| stays below with chance `confidence`; at least one degree of freedom is taken."""
    freedom = max(freedom, 1)
    low, high = 0.0, 2.0
    while t_tail(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - confidence else (low, middle)
    return high
