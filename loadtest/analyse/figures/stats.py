"""Exact percentiles with intervals made for correlated samples."""

from __future__ import annotations

import numpy as np

from loadtest import metrics
from loadtest.analyse.figures.intervals import (
    FEWEST_ROUNDS,
    Ordered,
    Sample,
    ValueCounts,
    mean_interval,
    percentile_interval,
    quantile_of_sorted,
)
from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.frames import Delays, EventGaps, filled

Described = dict[str, float | int | list[float] | None]

PERCENTILES = {"p5": 0.05, "p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
MANY = 1 << 19  # pooled values, above which they are counted and not sorted, and summed up in parts
FEWEST_FOR_INTERVAL = 20  # samples; below, an interval would be invented


def describe(values: FloatArray, *, block: int = 1, requests: IntArray | None = None) -> Described:
    """Return {n, mean, p5, p50, p90, p95, p99, max, ci95_mean, ci95_p5, …, ci95_p99} of `values`, which are in time order.

    nan (unknown) is left out. A percentile that needs more samples than there are (p5, p95: 20, p99: 100) is None, and so is
    an interval with fewer than 20 samples, five whole rounds of `block` or ten independent ones (loadtest.analyse.figures.intervals).

    Args:
        block: how many consecutive requests share their fate, e.g. the concurrency.
        requests: which request each value belongs to (equal numbers side by side), where a request has many, as token
            gaps: an interval then asks how much requests differ, never single gaps.
    """
    finite = np.isfinite(values)
    if finite.all():
        return _figures_of(values, np.sort(values), block, requests=requests)
    known = values[finite]
    return _figures_of(known, np.sort(known), block, requests=None if requests is None else requests[finite])


def describe_pooled(pooled: EventGaps | Delays, rows: BoolArray, *, block: int = 1) -> Described:
    """Return the same of all values of the requests marked in `rows`, pooled; exact however many they are."""
    counts = pooled.counts[rows]
    counts = counts[counts > 0]
    if counts.sum() <= MANY:
        return describe(pooled.of(rows), block=block, requests=np.repeat(np.arange(len(counts)), counts))
    ordered = ranked(pooled, rows)
    values = filled(pooled.ticks(rows), int(counts.sum()), pooled.unit)
    return _figures_of(values, ordered, block, starts=np.cumsum(counts) - counts)


def ranked(pooled: EventGaps | Delays, rows: BoolArray) -> Ordered:
    """Return all values of the requests marked in `rows` by rank."""
    if pooled.counts[rows].sum() <= MANY:
        return np.sort(pooled.of(rows))
    return ValueCounts.of(pooled.ticks(rows), pooled.unit)


def _figures_of(
    known: FloatArray,
    ordered: Ordered,
    block: int,
    requests: IntArray | None = None,
    starts: IntArray | None = None,
) -> Described:
    n = len(known)
    described: Described = {"n": n, "mean": float(known.mean()) if n else None}
    for name, share in PERCENTILES.items():
        described[name] = quantile_of_sorted(ordered, share) if metrics.enough_for(share, n) else None
    described["max"] = float(ordered[-1]) if n else None
    found: dict[str, tuple[float, float] | None] = {}
    sample = Sample.of(known, block=block, requests=requests, starts=starts) if n >= FEWEST_FOR_INTERVAL else None
    if sample is not None and sample.requests >= FEWEST_ROUNDS * block:
        found["mean"] = mean_interval(sample)
        for name, share in PERCENTILES.items():
            found[name] = percentile_interval(sample, ordered, share) if described[name] is not None else None
    for name in ("mean", *PERCENTILES):
        interval = found.get(name)
        if interval and ordered[0] >= 0:  # what is never negative has no negative end
            interval = max(interval[0], 0.0), interval[1]
        described[f"ci95_{name}"] = list(interval) if interval else None
    return described
