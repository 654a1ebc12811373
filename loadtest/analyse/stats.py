"""Exact percentiles with intervals made for correlated samples, the steady window, and throughput inside it.

Neighbouring requests of a closed loop share batches and queues, so their latencies are not independent and the usual
interval (s/√n) is far too narrow. Intervals here resample blocks of consecutive requests, each block as long as the
level has streams or more: the moving-block bootstrap (Künsch, Ann. Stat. 17, 1989); with many samples non-overlapping
batch means (Schmeiser, Oper. Res. 30, 1982), which need no resampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.frames import FloatArray

Described = dict[str, float | int | list[float] | None]

PERCENTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99}
FEWEST_FOR_INTERVAL = 20  # samples; below, an interval would be invented
RESAMPLES = 500
BATCHES = 30
MOST_FOR_BOOTSTRAP = 1000  # samples; above, batch means say the same for a hundredth of the time
SHORTEST_WINDOW = 0.2  # of the level: a shorter steady window says less than the whole level


def describe(values: FloatArray, *, block: int = 1) -> Described:
    """Return {n, mean, p50, p90, p95, p99, max, ci95_mean, ci95_p50} of `values`, which are in time order.

    nan (unknown) is left out. A percentile that needs more samples than there are (p95: 20, p99: 100) is None, and so
    is an interval with fewer than 20. `block` is how many consecutive samples belong together, e.g. the concurrency.
    """
    known = values[np.isfinite(values)]
    n = len(known)
    described: Described = {"n": n, "mean": float(known.mean()) if n else None}
    for name, share in PERCENTILES.items():
        enough = n * (1 - share) >= 1 - 1e-9 or (n > 0 and name == "p50")
        described[name] = float(np.quantile(known, share)) if enough else None
    described["max"] = float(known.max()) if n else None
    mean, median = intervals(known, block=block)
    described["ci95_mean"] = mean
    described["ci95_p50"] = median
    return described


def intervals(known: FloatArray, *, block: int = 1) -> tuple[list[float] | None, list[float] | None]:
    """Return the 95 % intervals of mean and median of samples in time order, None with fewer than 20."""
    n = len(known)
    if n < FEWEST_FOR_INTERVAL:
        return None, None
    if n > MOST_FOR_BOOTSTRAP and n // BATCHES >= block:
        batches = np.array_split(known, BATCHES)
        means = np.array([batch.mean() for batch in batches])
        medians = np.array([np.median(batch) for batch in batches])
        return _batch_interval(float(known.mean()), means), _batch_interval(float(np.median(known)), medians)
    length = max(1, min(max(block, round(n ** (1 / 3))), n // 5))
    blocks = -(-n // length)
    # A fixed seed: the same run folder gives the same report, to the last digit.
    starts = np.random.default_rng(0).integers(0, n, size=(RESAMPLES, blocks))
    index = (starts[:, :, None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :n] % n
    drawn = known[index]
    widen = t_quantile(blocks - 1) / 1.96 * np.sqrt(blocks / (blocks - 1))  # few blocks know little of their spread
    return (
        _bootstrap_interval(float(known.mean()), drawn.mean(axis=1), widen),
        _bootstrap_interval(float(np.median(known)), np.median(drawn, axis=1), widen),
    )


def _bootstrap_interval(estimate: float, drawn: FloatArray, widen: float) -> list[float]:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return [float(estimate + (low - estimate) * widen), float(estimate + (high - estimate) * widen)]


def _batch_interval(estimate: float, batches: FloatArray) -> list[float]:
    half = t_quantile(len(batches) - 1) * float(batches.std(ddof=1)) / len(batches) ** 0.5
    return [estimate - half, estimate + half]


def t_quantile(freedom: int) -> float:
    """Return Student's t at 97.5 % (Cornish-Fisher expansion; within 0.3 % from 4 degrees of freedom on)."""
    z, v = 1.959964, max(freedom, 3)
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
    )


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
    """Tokens and requests a second in a window, with a 95 % interval from tenths of the window."""

    per_second: float
    ci95: list[float] | None


def throughput(instants: FloatArray, weights: FloatArray, window: Window, *, bins: int = 10) -> Throughput | None:
    """Return what arrived in `window` per second; None when it has no length.

    `weights` says what each arrival counts for, e.g. tokens a chunk. The interval takes tenths of the window as batches,
    and is None with fewer arrivals than 20, or where ramp and drain are part of the window.
    """
    if window.seconds <= 0:
        return None
    inside = window.holds(instants)
    rate = float((weights * inside).sum()) / window.seconds
    if not window.steady or inside.sum() < FEWEST_FOR_INTERVAL:
        return Throughput(rate, None)
    edges = np.linspace(window.start, window.end, bins + 1)
    sums, _ = np.histogram(instants, bins=edges, weights=weights * inside)
    return Throughput(rate, _batch_interval(rate, sums / (window.seconds / bins)))
