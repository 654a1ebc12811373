"""Descriptions of samples: exact percentiles, and intervals that allow for correlated samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from loadtest.analyse.figures.intervals import (
    FEWEST_ROUNDS,
    Ordered,
    Sample,
    ValueCounts,
    mean_interval,
    percentile_interval,
    quantile_of_sorted,
)
from loadtest.analyse.run import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.event_times import Delays, EventGaps, as_seconds
from loadtest.metrics import PERCENTILES, Interval, enough_for

Described = dict[str, float | int | list[float] | None]

# stands for the duration of a request that never ended; a finite number, so that figures can be computed
ENDLESS_S = 1e12
NEVER_S = 1e8  # a figure above it was computed from such a request
MANY = 1 << 19  # pooled values; more of them are counted instead of sorted
FEWEST_FOR_INTERVAL = 20  # samples that an interval needs


def describe_values(
    values: FloatArray, *, block: int = 1, queue: float = 1.0, requests: IntArray | None = None
) -> Described:
    """Return {n, mean, p5, p50, p90, p95, p99, max, ci95_mean, ci95_p5, …, ci95_p99} of `values`, which are in time order.

    Unknown values (nan) are left out. A percentile is None with too few samples (p5, p95: 20, p99: 100). An interval is None
    with fewer than 20 samples, five whole rounds of `block`, or ten independent samples (see intervals.py).

    Args:
        block: how many consecutive requests depend on each other: in a closed loop the concurrency.
        queue: correlation time, at least, of the waits of an open loop (see stationarity.queue_memory).
        requests: the request of each value (equal numbers side by side, none negative), where a request has many values, as
            token gaps: an interval then follows from how much requests differ, not single gaps.
    """
    finite = np.isfinite(values)
    known = values[finite]
    starts = None if requests is None else np.flatnonzero(np.diff(requests[finite], prepend=-1))
    return _described_values(known, np.sort(known), block, starts, queue)


def describe_waits(
    values: FloatArray, left: BoolArray, waited: FloatArray, *, block: int = 1, queue: float = 1.0
) -> dict[str, Any]:
    """Describe waits of which some were not waited out: those marked in `left`, whose users had `waited` so long.

    A user who left ranks as slower than all who stayed. `at_least` names the statistics that such a wait decides: the true
    figure is what is returned, or more.
    """
    if not left.any():
        return describe_values(values, block=block, queue=queue)
    found = describe_values(np.where(left, ENDLESS_S, values), block=block, queue=queue)
    least = describe_values(np.where(left, waited, values), block=block, queue=queue)
    known, at_least = 0.0, []
    for part in ("mean", *PERCENTILES, "max"):
        value, lowest, interval = found[part], least[part], found.get(f"ci95_{part}")
        if isinstance(value, float) and value > NEVER_S and isinstance(lowest, float):
            at_least.append(part)
            value = found[part] = max(lowest, known) if part in PERCENTILES else lowest
        if isinstance(value, float) and part in PERCENTILES:
            known = value
        if isinstance(interval, list) and interval[1] > NEVER_S:
            found[f"ci95_{part}"] = None
    stayed = values[~left & np.isfinite(values)]
    mean = float(stayed.mean()) if len(stayed) else None
    return {**found, "left": int(left.sum()), "at_least": at_least, "mean_stayed": mean}


def describe_pooled(pooled: EventGaps | Delays, rows: BoolArray, *, block: int = 1, queue: float = 1.0) -> Described:
    """Describe all values of the requests marked in `rows`, pooled; percentiles are exact for any number of values."""
    counts = pooled.counts[rows]
    counts = counts[counts > 0]
    total = int(counts.sum())
    values = pooled.of(rows) if total <= MANY else as_seconds(pooled.ticks(rows), total, pooled.unit)
    return _described_values(values, ranked(pooled, rows), block, np.cumsum(counts) - counts, queue)


def ranked(pooled: EventGaps | Delays, rows: BoolArray) -> Ordered:
    """Return all values of the requests marked in `rows` in ascending order."""
    if pooled.counts[rows].sum() <= MANY:
        return np.sort(pooled.of(rows))
    return ValueCounts.of(pooled.ticks(rows), pooled.unit)


def _in_order(intervals: dict[str, Interval]) -> dict[str, Interval]:
    """Cut the intervals of percentiles, in ascending order, by one another: a lower percentile is at most what a higher one may be."""
    lows, highs = zip(*intervals.values(), strict=True) if intervals else ((), ())
    lowest, highest = np.maximum.accumulate(lows), np.minimum.accumulate(highs[::-1])[::-1]
    return dict(zip(intervals, zip(lowest.tolist(), highest.tolist(), strict=True), strict=True))


def _described_values(
    known: FloatArray, ordered: Ordered, block: int, starts: IntArray | None, queue: float = 1.0
) -> Described:
    n = len(known)
    described: Described = {"n": n, "mean": float(known.mean()) if n else None}
    for name, share in PERCENTILES.items():
        described[name] = quantile_of_sorted(ordered, share) if enough_for(share, n) else None
    described["max"] = float(ordered[-1]) if n else None
    found: dict[str, Interval | None] = {}
    sample = Sample.of(known, block=block, queue=queue, starts=starts) if n >= FEWEST_FOR_INTERVAL else None
    if sample is not None and sample.requests >= FEWEST_ROUNDS * block:
        found["mean"] = mean_interval(sample)
        for name, share in PERCENTILES.items():
            found[name] = percentile_interval(sample, ordered, share) if described[name] is not None else None
    found |= _in_order({name: one for name in PERCENTILES if (one := found.get(name))})
    for name in ("mean", *PERCENTILES):
        interval = found.get(name)
        if interval and name == "mean":  # of values like those seen
            interval = max(interval[0], float(ordered[0])), min(interval[1], float(ordered[-1]))
        described[f"ci95_{name}"] = list(interval) if interval else None
    return described
