"""Whether a figure of one or several runs differs from another's by more than runs do by themselves.

What a run cannot show of itself, how much runs of one server differ (clock rates, where pages lie, a neighbour), is seen
between several runs, or taken from the user (`noise`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from loadtest.analyse.comparison.estimates import Estimate
from loadtest.analyse.figures.intervals import t_quantile, t_tail
from loadtest.analyse.summary import Analysis
from loadtest.metrics import Interval

RUN_NOISE = 0.03  # standard deviation between runs of one server, as a share, where nothing else is known
NOISE_FROM = "the larger of --run-noise and how much the pace of the same steps differs within a run"
NOISE_WORTH = 10  # degrees of freedom that the noise given is worth beside what several runs show
SURE = 10_000  # degrees of freedom of an error that is known


def noise_between(runs: Iterable[Analysis], asked: float) -> float:
    """Return by how much runs of one server are taken to differ (standard deviation, a share).

    A server whose pace differs by more than was asked for within one run, or between its levels, does so between runs.
    """
    return max(
        asked, *(max(one.steps.pace_scatter, math.log1p(one.steps.pace_error) / t_quantile(SURE)) for one in runs)
    )


def geometric(figures: Sequence[Estimate]) -> float:
    """Return the mean of the runs' figures, by factors."""
    return math.exp(float(np.mean([math.log(each.value) for each in figures])))


def ratio(
    base: Sequence[Estimate], new: Sequence[Estimate], confidence: float, *, noise: float
) -> tuple[float, Interval] | None:
    """Return NEW ÷ BASE of one or several runs a side, with its interval; None where nothing tells their errors.

    Two ways know how far it may be off: by each run's own error and `noise`, corrected by what several runs show; and by
    the spread of several runs alone. With several runs the narrower holds, each way at half the chance of error.
    """
    away = math.log(geometric(new) / geometric(base))
    sides = (base, new)
    apart = [math.log(each.value / geometric(side)) for side in sides for each in side]
    freedom = len(apart) - 2
    if freedom > 0:
        confidence = (1 + confidence) / 2
    square = float(np.square(apart).sum())
    count = sum(1 / len(side) for side in sides)
    halves = []
    if all(each.told for side in sides for each in side):
        if freedom == 0:
            ends = [_error(base[0], new[0], noise, up=up) for up in (False, True)]  # Welch, on the logarithms
            halves.append(tuple(t_quantile(own_freedom, confidence) * error for error, own_freedom in ends))
        else:
            own = float(np.mean([(each.down**2 + each.up**2) / 2 for side in sides for each in side]))
            taken = float(np.mean([(noise * each.gain) ** 2 for side in sides for each in side]))
            variance = (NOISE_WORTH * (taken + own) + square) / (NOISE_WORTH + freedom)
            half = t_quantile(NOISE_WORTH + freedom, confidence) * math.sqrt(variance * count)
            halves.append((half, half))
    if freedom > 0:
        half = t_quantile(freedom, confidence) * math.sqrt(square / freedom * count)
        halves.append((half, half))
    if not halves:
        return None
    down, up = min(halves, key=sum)
    return math.exp(away), (math.exp(away - down), math.exp(away + up))


def chance(base: Estimate, new: Estimate, *, noise: float, scatter: float = 0.0) -> float:
    """Return how probable it is that one run is at least so far from another where nothing differs but noise (two-sided)."""
    away = math.log(new.value / base.value)
    error, freedom = _error(base, new, noise, up=away < 0)
    beyond = max(abs(away) - scatter, 0.0)
    return t_tail(beyond / error, freedom) if error > 0 else float(beyond == 0)


def _error(base: Estimate, new: Estimate, noise: float, *, up: bool) -> tuple[float, int]:
    """Return the standard error of one run over another, as a logarithm, and its degrees of freedom."""
    ours, theirs = (base.down, new.up) if up else (base.up, new.down)
    total = ours**2 + theirs**2 + noise**2 * (base.gain**2 + new.gain**2)
    slack = ours**4 / max(base.freedom, 1) + theirs**4 / max(new.freedom, 1)
    freedom = min(int(total**2 / slack), SURE) if slack > 1e-300 else SURE
    return math.sqrt(total), freedom


def fisher(bad: int, of: int, other_bad: int, other_of: int) -> float:
    """Return the chance of failures at least as unevenly spread over two runs if both fail alike (exact, two-sided)."""
    total = bad + other_bad
    low, high = max(0, total - other_of), min(of, total)
    k = np.arange(low, high)
    # Each count's chance over the one before it: no factorial is needed, and none overflows.
    steps = np.log((of - k) * (total - k) / ((k + 1.0) * (other_of - total + k + 1.0)))
    chances = np.concatenate(([0.0], np.cumsum(steps)))
    chances = np.exp(chances - chances.max())
    return min(1.0, float(chances[chances <= chances[bad - low] * (1 + 1e-7)].sum() / chances.sum()))
