"""Confidence intervals of means and percentiles whose samples are correlated: batch means, adjusted for skewness.

Requests that share a queue or a batch have similar latencies, so s / √n is far too small an error. The samples, in time
order, are therefore cut into batches of several correlation times, and the error is the spread of the batch means
(Schmeiser, Oper. Res. 30, 1982). Latencies are skewed, so the interval is the skewness-adjusted t interval of Willink
(Commun. Stat. 34, 2005), as in N-Skart (Tafazzoli, Steiger, Wilson, Oper. Res. 59, 2011). A percentile is bounded by order
statistics; their ranks come from the batch means of the indicator "above the percentile". `scripts/bench intervals`
measures how often these intervals hold the truth.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.event_times import blocks
from loadtest.metrics import NORMAL_95, ONE_SIDE, Interval, needed_beyond

COUNTERS = 1 << 20  # whole numbers from 0 that have a counter each; larger ones are kept and sorted
MOST_BATCHES, FEWEST_BATCHES = 20, 10
FEWEST_ROUNDS = 5  # whole rounds of a closed loop that an interval needs
BATCH_TIMES = 5  # correlation times in a batch, where that leaves at least ten batches
# A few batches show less skewness than there is. With this factor the intervals of the mean TTFT of 200 requests at half load
# held in 93 of 100 runs, and without it in 90.
SKEWNESS_SEEN = 1.25
FEWEST_INDEPENDENT = 10  # effective number of independent samples that an interval needs
MOST_STRETCH = 10.0  # times as far from the median as a percentile is an upper end that says something


@dataclass(frozen=True, slots=True)
class ValueCounts:
    """Very many values that are indexed by rank like a sorted array, but stored as a count per value."""

    below: IntArray  # negative whole numbers, sorted
    upto: IntArray  # how many values are at most 0, 1, 2, …
    above: IntArray  # whole numbers beyond the table, sorted
    unit: float  # seconds that 1 stands for; negative where all values have the other sign

    @classmethod
    def of(cls, parts: Iterable[IntArray], unit: float) -> Self:
        """Count whole numbers, block by block."""
        table = np.zeros(COUNTERS, dtype=np.int64)
        rest: tuple[list[IntArray], list[IntArray]] = ([], [])
        for part in parts:
            inside = (part >= 0) & (part < COUNTERS)
            if not inside.all():
                rest[0].append(part[part < 0])
                rest[1].append(part[part >= COUNTERS])
            counts = np.bincount(part[inside])
            table[: len(counts)] += counts
        below, above = (np.concatenate([*found, np.zeros(0, dtype=np.int32)]) for found in rest)
        below.sort()
        above.sort()
        return cls(below, len(below) + np.cumsum(table), above, unit)

    def negative(self) -> ValueCounts:
        """Return the values with their signs changed, in ascending order again."""
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
    """The error of a mean: standard error, degrees of freedom, and skewness."""

    error: float
    freedom: int
    lean: float = 0.0  # skewness of the mean ÷ 6

    def around(self, value: float) -> Interval:
        """Return the 95 % interval about `value`, which skewness makes longer on one side (Willink's transformation)."""
        t = t_quantile(self.freedom)
        return value - self._bent(t) * self.error, value - self._bent(-t) * self.error

    def _bent(self, t: float) -> float:
        if abs(self.lean) < 1e-6:
            return t
        return (float(np.cbrt(1 + 6 * self.lean * (t - self.lean))) - 1) / (2 * self.lean)


@dataclass(frozen=True, slots=True)
class Sample:
    """Values in time order, cut into batches of whole requests.

    Each value is a request of its own, or many values belong to one request (token gaps). In the second case a figure is a
    ratio of sums over requests, and batches are cut between requests.
    """

    values: FloatArray
    starts: IntArray | None  # index of each request's first value; None: one value a request
    requests: int
    time: float  # correlation time: n requests are worth n / time independent ones; at least 1
    batches: int
    length: int  # requests in a batch
    drains: bool  # whether the last batch holds a closed loop's drain
    queued: bool  # whether they share an open loop's queue

    @classmethod
    def of(cls, values: FloatArray, *, block: int = 1, queue: float = 1.0, starts: IntArray | None = None) -> Self:
        """Cut `values`, at least one and none of them nan, into batches.

        Args:
            block: requests that depend on each other, in a closed loop the concurrency; a batch holds a multiple of them.
            queue: correlation time, at least, of requests that share an open loop's queue (see stationarity.queue_memory).
            starts: index of each request's first value, where requests have many.
        """
        n = len(values) if starts is None else len(starts)
        time = max(correlation_time(_residuals(values, starts)), queue)
        batches = min(MOST_BATCHES, max(FEWEST_BATCHES, int(n / (BATCH_TIMES * time))), n)
        whole = n // max(block, 1)  # whole rounds of a closed loop
        if whole >= FEWEST_ROUNDS:
            batches = min(batches, whole)
            length = n // batches // block * block
        else:
            length = max(1, n // batches)
        drains = block > 1 and whole >= FEWEST_ROUNDS
        return cls(values, starts, n, time, n // length, length, drains, queued=queue > 1)

    @property
    def effective(self) -> float:
        """The effective number of independent samples."""
        return self.requests / self.time

    def mean(self) -> Spread:
        """Return the error of the mean.

        Users that drain decode beside fewer and fewer others, in every run alike. Their batch would count that as chance, and
        make the interval of a decode speed up to twice as wide. Of a queue that the requests outlast by little, batches show
        less than their correlation time does.
        """
        residuals = _residuals(self.values, self.starts)
        found = self._spread(residuals, self.batches - self.drains)
        floor = float(residuals.std()) / math.sqrt(self.effective) if self.queued else 0.0
        return replace(found, error=max(found.error, floor))

    def _spread(self, residuals: FloatArray, batches: int) -> Spread:
        """Return the error of the mean of `residuals`, one per request, from the first `batches`; needs two."""
        cut = residuals[len(residuals) - self.batches * self.length :].reshape(self.batches, self.length)
        means = cut[:batches].mean(axis=1)
        # Batches of a few correlation times still resemble their neighbours, so their spread is too small: divide by 1 − alike.
        alike = self.time / self.length if self.time > 1 else 0.0
        apart = means - means.mean()
        square = float(apart @ apart)
        # One degree of freedom less than batches − 1, because the correlation is estimated from the same values.
        freedom = max(batches - 2, 1)
        if square <= 1e-24 * max(1.0, _square(residuals)):
            return Spread(0.0, freedom)
        variance = square / (batches - 1) / max(1 - alike, 0.5)
        skewness = 0.0
        if batches > 2:
            bias = math.sqrt(batches * (batches - 1)) / (batches - 2)
            skewness = bias * float((apart**3).mean()) / (square / batches) ** 1.5
        lean = SKEWNESS_SEEN * skewness / 6 / math.sqrt(batches)
        return Spread(math.sqrt(variance / self.batches), freedom, lean)

    def above(self, limit: float, share: float) -> Spread:
        """Return the error of the share of values above `limit`, where `limit` is the percentile `share`."""
        found = self._spread(_residuals(self.values, self.starts, above=limit), self.batches)
        # The indicator may be too rare in a tail to show its correlation: take at least that of the values themselves.
        floor = math.sqrt(share * (1 - share) / len(self.values) * self.time)
        # A few requests of many values may hold most of those above, and a calm run met none of them.
        lean = max(found.lean, 0.0) if share > 0.5 else 0.0
        return Spread(max(found.error, floor), found.freedom, lean)

    def independent_at(self, limit: float, share: float) -> float:
        """Return of how many independent values the share above `limit`, the percentile `share`, would be as unsure; at least 2."""
        found = self._spread(_residuals(self.values, self.starts, above=limit), self.batches)
        half = t_quantile(found.freedom) * found.error / NORMAL_95
        return max(2.0, min(self.effective, share * (1 - share) / half**2) if half else self.effective)


def _residuals(values: FloatArray, starts: IntArray | None, *, above: float | None = None) -> FloatArray:
    """Return one residual per request: the sum of its values − their mean, scaled so that the residuals are per request.

    With `above` a value counts as 1 where it is above that limit, else as 0. Values are summed block by block, because
    there may be very many.
    """
    mean = float(values.mean()) if above is None else np.count_nonzero(values > above) / len(values)
    if starts is None:
        return np.asarray((values if above is None else (values > above).astype(np.float64)) - mean)
    summed = np.empty(len(starts))
    edges = np.append(starts, len(values))
    for low, high in blocks(edges):
        part = values[edges[low] : edges[high]]
        apart = (part if above is None else (part > above).astype(np.float64)) - mean
        np.add.reduceat(apart, starts[low:high] - starts[low], out=summed[low:high])
    return summed * (len(starts) / len(values))


def mean_interval(sample: Sample) -> Interval | None:
    """Return the 95 % interval of the mean; None with too few independent samples."""
    if sample.effective < FEWEST_INDEPENDENT:
        return None
    return sample.mean().around(float(sample.values.mean()))


def percentile_interval(sample: Sample, ordered: Ordered, share: float) -> Interval | None:
    """Return the 95 % interval of the percentile `share` of `sample`, whose sorted values are `ordered`.

    None with fewer independent samples than make one beyond that percentile sure: a p95 takes 72. How the values come out
    decides nothing else: a run that met none of few slow requests looks as if it had no tail, and the intervals of such runs
    alone would hold in 0 to 80 of 100.
    """
    if sample.effective < FEWEST_INDEPENDENT:
        return None
    if sample.starts is not None:
        return _pooled_percentile(sample, ordered, share)
    if sample.effective < needed_beyond(share):
        return None
    low, high = order_statistics(int(sample.independent_at(quantile_of_sorted(ordered, share), share)), share)
    return quantile_of_sorted(ordered, low), quantile_of_sorted(ordered, high)


def order_statistics(independent: int, share: float) -> Interval:
    """Return between which of so many independent values their percentile `share` lies, as 0 for the least and 1 for the largest.

    Each of the two is on the wrong side of it in at most 2.5 % of samples, whatever the distribution.
    """
    wide = 8 * math.sqrt(independent * share * (1 - share)) + 8  # hardly any chance lies farther out
    below = np.arange(max(0, int(independent * share - wide)), min(independent, int(independent * share + wide)) + 1)
    odds = np.log((independent - below[:-1]) / below[1:] * (share / (1 - share)))
    # that so many values lie below the percentile
    chances = np.exp(np.append(0.0, np.cumsum(odds)) - odds[odds > 0].sum())
    upto = np.cumsum(chances) / chances.sum()
    low, high = (int(below[np.searchsorted(upto, chance)]) for chance in (ONE_SIDE, 1 - ONE_SIDE))
    return max(low - 1, 0) / (independent - 1), min(high, independent - 1) / (independent - 1)


def _pooled_percentile(sample: Sample, ordered: Ordered, share: float) -> Interval | None:
    """Return the 95 % interval of a percentile of requests that have many values each: ranks from the error of the share above it.

    None where the lower end reaches the median, or comes so near to it that the upper end is unknown.
    """
    if share < 0.5:  # mirror the values, so that the lower tail becomes the upper one
        mirrored = ordered.negative() if isinstance(ordered, ValueCounts) else -ordered[::-1]
        flipped = _pooled_percentile(replace(sample, values=-sample.values), mirrored, 1 - share)
        least = 0.0 if ordered[0] >= 0 else -math.inf
        return (max(least, -flipped[1]), -flipped[0]) if flipped else None
    middle = quantile_of_sorted(ordered, share)
    spread = sample.above(middle, share)
    logit = math.log(share / (1 - share))
    sides = -t_quantile(spread.freedom) * spread.error, spread.around(0.0)[1]
    low, high = (quantile_of_sorted(ordered, 1 / (1 + math.exp(-logit - off / (share * (1 - share))))) for off in sides)
    if share == 0.5 or low == middle == high:
        return low, high
    # The longest gaps of few requests are no upper bound: let the distance from the median be off by the same factor upwards.
    median = quantile_of_sorted(ordered, 0.5)
    if low <= median or middle - median > MOST_STRETCH * (low - median):
        return None
    return low, max(high, median + (middle - median) ** 2 / (low - median))


def quantile_of_sorted(ordered: Ordered, share: float) -> float:
    """Return numpy.quantile of values that are already sorted, without sorting them again."""
    rank = share * (len(ordered) - 1)
    below = min(int(rank), len(ordered) - 2) if len(ordered) > 1 else 0
    above = min(below + 1, len(ordered) - 1)
    return float(ordered[below] + (rank - below) * (ordered[above] - ordered[below]))


def correlation_time(series: FloatArray) -> float:
    """Return the integrated autocorrelation time 1 + 2 · Σ ρ(lag) of a series, at least 1.

    The sum stops at the first lag of at least five times its value so far (Sokal's window), because the rest is noise.
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
    """Return Σ values²; not by BLAS, whose threads take longer than the sum where another process uses a core."""
    return float(np.square(values).sum())


def t_tail(t: float, freedom: int) -> float:
    """Return P(|T| > t) of Student's distribution (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
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
    """Return t with P(|T| ≤ t) = `confidence`; fewer than one degree of freedom count as one."""
    freedom = max(freedom, 1)
    low, high = 0.0, 2.0
    while t_tail(high, freedom) > 1 - confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, freedom) > 1 - confidence else (low, middle)
    return high


def robust_deviation(values: FloatArray) -> float:
    """Return the median absolute deviation, scaled so that a normal distribution's is its standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))
