"""Exact percentiles with intervals made for correlated samples, the steady window, and throughput inside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest import metrics
from loadtest.analyse.frames import US, BoolArray, Delays, FloatArray, Gaps, IntArray, Run, blocks, filled
from loadtest.analyse.intervals import (
    FEWEST_EFFECTIVE,
    Counted,
    Ordered,
    Sample,
    Spread,
    mean_interval,
    percentile_interval,
)

Described = dict[str, float | int | list[float] | None]

PERCENTILES = {"p5": 0.05, "p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
MANY = 1 << 19  # pooled values, above which they are counted and not sorted, and summed up in parts
FEWEST_FOR_INTERVAL = 20  # samples; below, an interval would be invented
SHORTEST_WINDOW = 0.2  # of the level: a shorter steady window says less than the whole level


def describe(values: FloatArray, *, block: int = 1, requests: IntArray | None = None) -> Described:
    """Return {n, mean, p5, p50, p90, p95, p99, max, ci95_mean, ci95_p5, …, ci95_p99} of `values`, which are in time order.

    nan (unknown) is left out. A percentile that needs more samples than there are (p5, p95: 20, p99: 100) is None, and so is
    an interval with fewer than 20 samples or too few independent ones (loadtest.analyse.intervals).

    Args:
        block: how many consecutive requests share their fate, e.g. the concurrency.
        requests: which request each value belongs to (equal numbers side by side), where a request has many, as token
            gaps: an interval then asks how much requests differ, never single gaps.
    """
    finite = np.isfinite(values)
    if finite.all():
        return _described(values, np.sort(values), block, requests=requests)
    known = values[finite]
    return _described(known, np.sort(known), block, requests=None if requests is None else requests[finite])


def describe_pooled(pooled: Gaps | Delays, rows: BoolArray, *, block: int = 1) -> Described:
    """Return the same of all values of the requests marked in `rows`, pooled; exact however many they are."""
    counts = pooled.counts[rows]
    counts = counts[counts > 0]
    if counts.sum() <= MANY:
        return describe(pooled.of(rows), block=block, requests=np.repeat(np.arange(len(counts)), counts))
    ordered = in_order(pooled, rows)
    values = filled(pooled.ticks(rows), int(counts.sum()), pooled.unit)
    return _described(values, ordered, block, starts=np.cumsum(counts) - counts)


def in_order(pooled: Gaps | Delays, rows: BoolArray) -> Ordered:
    """Return all values of the requests marked in `rows` by rank."""
    if pooled.counts[rows].sum() <= MANY:
        return np.sort(pooled.of(rows))
    return Counted.of(pooled.ticks(rows), pooled.unit)


def _described(
    known: FloatArray,
    ordered: Ordered,
    block: int,
    requests: IntArray | None = None,
    starts: IntArray | None = None,
) -> Described:
    n = len(known)
    described: Described = {"n": n, "mean": float(known.mean()) if n else None}
    for name, share in PERCENTILES.items():
        described[name] = _quantile(ordered, share) if metrics.enough_for(share, n) else None
    described["max"] = float(ordered[-1]) if n else None
    found: dict[str, tuple[float, float] | None] = {}
    if n >= FEWEST_FOR_INTERVAL:
        sample = Sample.of(known, block=block, requests=requests, starts=starts)
        found["mean"] = mean_interval(sample)
        for name, share in PERCENTILES.items():
            found[name] = percentile_interval(sample, ordered, share) if described[name] is not None else None
    for name in ("mean", *PERCENTILES):
        interval = found.get(name)
        described[f"ci95_{name}"] = list(interval) if interval else None
    return described


def _quantile(ordered: Ordered, share: float) -> float:
    """Return numpy.quantile of sorted values, which it would sort again."""
    rank = share * (len(ordered) - 1)
    below = int(rank)
    two = (ordered[below], ordered[min(below + 1, len(ordered) - 1)])
    return float(np.quantile(two, rank - below))


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a level that throughput is taken over; seconds since the run's first t_sched."""

    start: float
    end: float
    steady: bool  # False: ramp and drain left nothing between them, so this is the whole level

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def holds(self, instants: FloatArray) -> FloatArray:
        """Return 1.0 for every instant inside (start, end], else 0.0."""
        return ((instants > self.start) & (instants <= self.end)).astype(np.float64)


def steady_window(send: FloatArray, end: FloatArray, first_measured: float) -> Window:
    """Return the level between ramp and drain.

    Ramp ends when the first answer that is over after the first measured request was sent leaves the server; drain
    begins at the first end after the last request was sent. Where that is less than a fifth of the level (one request
    a user), it is the whole level from the first measured request on, and labelled so.

    Args: `send` and `end` of every request of the level, warm-up included; `first_measured`: the first t_send that
    counts.
    """
    whole = Window(first_measured, float(end.max()), steady=False)
    after_first = end[end > first_measured]
    after_last = end[end > float(send.max())]
    if not len(after_first) or not len(after_last):
        return whole
    steady = Window(float(after_first.min()), float(after_last.min()), steady=True)
    return steady if steady.seconds > SHORTEST_WINDOW * whole.seconds else whole


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens and requests a second in a window, with a 95 % interval from the requests that ended in it."""

    per_second: float
    ci95: list[float] | None


def throughput(
    instants: FloatArray,
    weights: FloatArray,
    window: Window,
    *,
    block: int = 1,
    requests: IntArray | None = None,
    sends: FloatArray | None = None,
) -> Throughput | None:
    """Return what arrived in `window` per second; None when it has no length.

    The interval is None where too few requests ended inside, or where ramp and drain are part of the window.

    Args:
        weights: what each arrival counts for, e.g. tokens a chunk.
        block: how many requests share their fate, the concurrency of a closed loop.
        requests: which request each arrival belongs to (equal numbers side by side), where one has many.
        sends: when each arrival's request was sent; of a closed loop only, where a user's time is what is divided.
    """
    starts = None
    if requests is not None and len(requests):
        starts = np.flatnonzero(np.diff(requests, prepend=requests[0] - 1))
        sends = sends[starts] if sends is not None else None
    return _rate([_Arrived.of(instants, weights, window, starts)], window, sends, block)


def token_throughput(
    run: Run, rows: BoolArray, window: Window, *, block: int = 1, closed: bool = False
) -> Throughput | None:
    """Return the output tokens of `rows` per second, each answer's spread evenly over its chunks; as throughput() does.

    None where nothing arrived or the window has no length.
    """
    send, counts = run.column("send"), run.chunks.counts
    a_chunk = run.column("output_tokens") / np.maximum(counts, 1)
    rows = rows & (counts > 0) & np.isfinite(send) & np.isfinite(a_chunk)
    parts = []
    for low, high in blocks(run.chunks.starts, rows, MANY):
        mine = np.flatnonzero(rows[low:high]) + low
        events = run.chunks.flat[run.chunks.starts[low] : run.chunks.starts[high]]
        if len(mine) < high - low:
            events = events[np.repeat(rows[low:high], counts[low:high])]
        many = counts[mine]
        instants = np.repeat(send[mine], many) + events * US
        parts.append(_Arrived.of(instants, np.repeat(a_chunk[mine], many), window, np.cumsum(many) - many))
    return _rate(parts, window, send[rows] if closed else None, block) if parts else None


@dataclass(frozen=True, slots=True)
class _Arrived:
    """What arrived, summed up a request: its last instant, its weight, and all weight inside the window."""

    last: FloatArray
    weight: FloatArray
    inside: float

    @classmethod
    def of(cls, instants: FloatArray, weights: FloatArray, window: Window, starts: IntArray | None) -> _Arrived:
        inside = float((weights * window.holds(instants)).sum())
        if starts is not None:
            instants, weights = np.maximum.reduceat(instants, starts), np.add.reduceat(weights, starts)
        return cls(instants, weights, inside)


def _rate(parts: list[_Arrived], window: Window, sends: FloatArray | None, block: int) -> Throughput | None:
    if window.seconds <= 0:
        return None
    rate = sum(part.inside for part in parts) / window.seconds
    if not window.steady or rate <= 0:
        return Throughput(rate, None)
    last, weight = np.concatenate([part.last for part in parts]), np.concatenate([part.weight for part in parts])
    inside = window.holds(last) > 0
    spread = rate_spread(last[inside], weight[inside], sends[inside] if sends is not None else None, block=block)
    return Throughput(rate, [rate * (1 + off) for off in spread.around(0.0)] if spread else None)


def rate_spread(
    ends: FloatArray,
    amounts: FloatArray,
    sends: FloatArray | None = None,
    *,
    block: int = 1,
    fewest: int = FEWEST_FOR_INTERVAL,
    effective: float = FEWEST_EFFECTIVE,
) -> Spread | None:
    """Return how far Σ amounts / Σ time may be off, as a share of it, from one entry a request.

    A request's time is what its user spent on it (closed loop: `sends` given), else what passed since the last end.
    Batches are rounds of the loop, not tenths of the window, whose edges would cut rounds anywhere. None with fewer than
    `fewest` requests, or fewer than `effective` independent ones.
    """
    order = np.argsort(ends if sends is None else sends, kind="stable")
    spent = np.diff(ends[order]) if sends is None else (ends - sends)[order]
    counted = amounts[order][len(order) - len(spent) :]
    if len(spent) < fewest:
        return None
    if spent.sum() <= 0 or counted.sum() <= 0:
        return None
    sample = Sample.of(counted - counted.sum() / spent.sum() * spent, block=block)
    if sample.effective < effective:
        return None
    return sample.mean().scaled(1 / float(counted.mean()))
