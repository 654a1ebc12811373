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
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from loadtest.analyse.frames import BoolArray, FloatArray, IntArray

MOST_BATCHES, FEWEST_BATCHES, FEWEST_OF_CLOSED_LOOP = 20, 10, 5
BATCH_TIMES = 5  # a batch is so many correlation times long, where that leaves ten batches
# A few batches show too little of the skewness that there is: with this factor intervals of a long queue's mean hold in
# 94 of 100 cases from an empty start, without it in 93.
SKEWNESS_SEEN = 1.25
# Independent samples' worth that an interval needs; a tail needs more, for too short a run has not seen it.
EFFECTIVE = {0.05: 20, 0.50: 10, 0.90: 10, 0.95: 20, 0.99: 300}
FEWEST_EFFECTIVE = 10


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
    def of(cls, values: FloatArray, *, block: int = 1, requests: IntArray | None = None) -> Self:
        """Cut `values`, at least one and none of them nan, into batches.

        Args:
            block: requests that share their fate in a closed loop, the concurrency: batches hold whole multiples.
            requests: which request each value belongs to, equal numbers side by side.
        """
        starts = None if requests is None else np.flatnonzero(np.diff(requests, prepend=requests[0] - 1))
        n = len(values) if starts is None else len(starts)
        time = correlation_time(_residuals(values, starts))
        batches = min(MOST_BATCHES, max(FEWEST_BATCHES, int(n / (BATCH_TIMES * time))), n)
        whole = n // max(block, 1)  # rounds of the loop
        if whole >= FEWEST_OF_CLOSED_LOOP:
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
        if square <= 1e-24 * max(1.0, float(residuals @ residuals)):
            return Spread(0.0, self.batches - 1)
        variance = square / (self.batches - 1) / max(1 - alike, 0.5)
        skewness = 0.0
        if self.batches > 2:
            bias = math.sqrt(self.batches * (self.batches - 1)) / (self.batches - 2)
            skewness = bias * float((apart**3).mean()) / (square / self.batches) ** 1.5
        lean = SKEWNESS_SEEN * skewness / 6 / math.sqrt(self.batches)
        return Spread(math.sqrt(variance / self.batches), self.batches - 1, lean)

    def above(self, limit: float, share: float) -> Spread:
        """Return how sure the share of values above `limit` is, which is percentile `share`."""
        found = self.spread_of(_residuals((self.values > limit).astype(np.float64), self.starts))
        # In the tail the indicator is too rare to show its own correlation: at least that of the values.
        floor = share * (1 - share) / len(self.values) * (self.time if share > 0.5 else 0.6)
        return Spread(max(found.error, math.sqrt(floor)), found.freedom)


def _residuals(values: FloatArray, starts: IntArray | None) -> FloatArray:
    """Return one residual a request: how much its values add to the mean of all, above their part."""
    apart: FloatArray = values - values.mean()
    if starts is None:
        return apart
    summed: FloatArray = np.add.reduceat(apart, starts) * (len(starts) / len(values))
    return summed


def mean_interval(sample: Sample, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the interval of the mean; None where there are fewer than ten independent samples' worth."""
    if sample.effective < FEWEST_EFFECTIVE:
        return None
    return sample.mean().around(float(sample.values.mean()), confidence)


def percentile_interval(
    sample: Sample, ordered: FloatArray, share: float, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Return the interval of a percentile of `sample`, whose values sorted are `ordered`.

    None where the run is too short to know that tail: by its correlation time, or where the lower end meets the median.
    """
    if sample.effective < FEWEST_EFFECTIVE:
        return None
    if share < 0.5:  # the tail of small values is the upper one, upside down
        flipped = percentile_interval(replace(sample, values=-sample.values), -ordered[::-1], 1 - share, confidence)
        least = 0.0 if ordered[0] >= 0 else -math.inf
        return (max(least, -flipped[1]), -flipped[0]) if flipped else None
    middle = _at(ordered, share)
    spread = sample.above(middle, share)
    effective = min(share * (1 - share) / spread.error**2, len(sample.values) / sample.time)
    if effective < EFFECTIVE.get(share, FEWEST_EFFECTIVE / (1 - share)):
        return None
    logit = math.log(share / (1 - share))
    away = t_quantile(spread.freedom, confidence) * spread.error / (share * (1 - share))
    low, high = (_at(ordered, 1 / (1 + math.exp(-(logit + side)))) for side in (-away, away))
    if share == 0.5 or low == middle == high:
        return low, high
    # Where few long waits were seen the largest one bounds nothing: upwards the tail may be off by the same factor.
    median = _at(ordered, 0.5)
    if low <= median:
        return None
    return low, max(high, median + (middle - median) ** 2 / (low - median))


def _at(ordered: FloatArray, share: float) -> float:
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
    if n < 4 or float(apart @ apart) <= 1e-24 * max(1.0, float(series @ series)):
        return 1.0
    size = 1 << (2 * n - 1).bit_length()
    spectrum = np.fft.rfft(apart, size)
    covariance = np.fft.irfft(spectrum * np.conj(spectrum), size)[: n // 2 + 1]
    sums = 2 * np.cumsum(covariance / covariance[0]) - 1
    ends: BoolArray = np.arange(len(sums)) >= 5 * sums
    return max(1.0, float(sums[np.argmax(ends)] if ends.any() else sums[-1]))


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
