"""The middle of a figure over repetitions of a prediction, and the band in which one more would lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.run import FloatArray
from loadtest.metrics import Interval

Figures = dict[str, float]  # by "name.statistic", such as "ttft_s.p95"
SHARE = "cached_share.mean"  # how much was cached does not depend on the server's pace
ENGINE_ERROR = 0.05  # of any figure, in 95 of 100 cases: what the engine was off by on recorded runs of real servers
# error of a share: a template's tokens, which every conversation has in common, are cached or not
SHARE_ERROR = 0.02
MOST_APART = 20.0  # times the least value: values further apart come near zero


def prediction_band(repetitions: Sequence[Figures], key: str, *, share: bool = False) -> Interval:
    """Return the 95 % prediction interval of a figure, or of a share: where one more repetition would show it.

    With three users on two slots half of the requests wait and half do not, so their median jumps from run to run by a
    whole wait, which a few repetitions may not show. The band therefore always reaches as far as the percentiles one
    standard error of the rank below and above.
    """
    values = np.array([figures[key] for figures in repetitions])
    n = len(values)
    widen = t_quantile(n - 1) * math.sqrt(1 + 1 / n) if n > 1 else 0.0
    if _by_factors(values) and not share:
        centre = middle(values)
        half = math.hypot(widen * float(np.std(np.log(values), ddof=1)) if n > 1 else 0.0, ENGINE_ERROR)
        low, high = centre * math.exp(-half), centre * math.exp(half)
    else:
        centre = float(np.mean(values))
        error = SHARE_ERROR if share else ENGINE_ERROR * centre
        half = math.hypot(widen * float(np.std(values, ddof=1)) if n > 1 else 0.0, error)
        low, high = centre - half, centre + half
    low = min(low, middle([figures.get(f"{key}-", figures[key]) for figures in repetitions]))
    high = max(high, middle([figures.get(f"{key}+", figures[key]) for figures in repetitions]))
    return max(low, 0.0), min(high, 1.0 if share else math.inf)


def allowing_for_pace(
    bands: dict[str, Interval], same: Sequence[Figures], others: Sequence[Sequence[Figures]]
) -> dict[str, Interval]:
    """Return bands that hold one more run at another pace, too.

    `same` and each of `others` are the same repetitions at the model's pace and at another one. What a pace does is no share:
    near the most that a server can do, a few hundredths of it are many times the wait.
    """
    wider = dict(bands)
    for key, (low, high) in bands.items():
        here, *there = (middle([figures[key] for figures in each]) for each in (same, *others))
        if key == SHARE or not (min(here, *there) > 0 and high > low > 0):
            continue
        moved = [math.log(value / here) for value in there]
        centre, half = math.sqrt(low * high), math.log(high / low) / 2
        down, up = (math.hypot(half, far) for far in (min(*moved, 0.0), max(*moved, 0.0)))
        wider[key] = centre * math.exp(-down), centre * math.exp(up)
    return wider


def at_other_pace(figures: Figures, factor: float) -> Figures:
    """Return the figures of a closed loop with all times `factor` times as long: nothing in it happens at a set instant."""
    return {
        key: value if key == SHARE else value / factor if "per_s." in key else value * factor
        for key, value in figures.items()
    }


def middle(values: Sequence[float] | FloatArray, *, share: bool = False) -> float:
    """Return the geometric mean, which errs by as many factors to either side; of shares and of values near zero the mean."""
    found = np.asarray(values, dtype=np.float64)
    return float(np.exp(np.log(found).mean())) if _by_factors(found) and not share else float(found.mean())


def _by_factors(values: FloatArray) -> bool:
    """Whether values scatter by factors, as times of a queue do; those of which some are nearly zero do not."""
    return bool((values > 0).all()) and bool(values.max() <= MOST_APART * values.min())
