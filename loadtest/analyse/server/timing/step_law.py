"""The time of a decoding step by the number of streams in it, and the line through it where there is one.

Continuous batching decodes one token of every stream in one step. The time of a step has a part that does not depend on
the number of streams B (reading the weights) and one that grows with it (KV cache, sampling): base + per_stream · B. The
line is fitted to the mean step times by least squares, weighted with 1 / error². Its intervals come from 1,000 fits to
means drawn anew within their errors (parametric bootstrap).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from loadtest.analyse.run import FloatArray
from loadtest.metrics import Interval
from loadtest.text import counted, percent, seconds

FEWEST_STEPS = 8  # with fewer, the load only passed through a number of streams on its way to another
FEWEST_NUMBERS = 3  # of streams that a law needs: a line through two points always fits
LARGEST_RESIDUAL = 0.10  # share by which a mean step time may be off the line for the law to fit …
RESIDUAL_BY_CHANCE = 3.0  # … or so many of its errors by how its usual steps scatter, whichever is more
P10_TO_P90 = 2.563  # standard deviations of a normal distribution
LEAST_STEP_ERROR = 0.002  # share of a step time that its error is never taken to be below


@dataclass(frozen=True, slots=True)
class StepKind:
    """One cluster of step times: its median in seconds and its share of the steps."""

    centre_s: float
    share: float


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Steps through which exactly `streams` streams decoded and no prompt was evaluated; seconds."""

    streams: int
    n: int  # gaps between tokens: every stream of a step sees it as a gap, so there were n / streams steps
    mean_s: float  # outliers included: slow steps are time spent as well
    error_s: float  # standard error of mean_s
    median_s: float
    p10_s: float
    p90_s: float
    kinds: tuple[StepKind, ...]  # one; or two, the shorter first, where step times fall into two separate clusters
    sample: tuple[float, ...]  # up to 1000 step times in the order observed, for predictions to draw from

    def to_dict(self) -> dict[str, Any]:
        found = {name: value for name, value in asdict(self).items() if name not in ("error_s", "sample")}
        return {**found, "kinds": [asdict(kind) for kind in self.kinds]}


@dataclass(frozen=True, slots=True)
class Law:
    """Step time = base_s + per_stream_s · B with 95 % intervals; `residual` is the largest |mean − law| / mean over B."""

    base_s: float
    base_ci95: Interval
    per_stream_s: float
    per_stream_ci95: Interval
    residual: float
    fits: bool  # False: the step time is not linear in B; use the measured step times instead

    def at(self, streams: float) -> float:
        """Return the step time with so many streams decoding, seconds."""
        return self.base_s + self.per_stream_s * streams


def well_seen(times: tuple[StepTimes, ...]) -> list[StepTimes]:
    """Return the numbers of streams that were seen in at least eight steps."""
    return [entry for entry in times if entry.n >= FEWEST_STEPS * entry.streams]


def fit_law(times: tuple[StepTimes, ...]) -> tuple[Law | None, str | None]:
    """Fit the law; the second value says why there is none, or why the line does not fit.

    A law takes three numbers of streams, a base above zero, and a slope whose interval reaches zero or more.
    """
    solid = well_seen(times)
    if not solid:
        return None, "no steps between tokens were seen" if not times else "too few steps were seen"
    if len(solid) < FEWEST_NUMBERS:
        seen = " and ".join(str(entry.streams) for entry in solid[:-1]) + (" and " if solid[1:] else "")
        return None, (
            f"only steps with {seen}{counted(solid[-1].streams, 'stream')} decoding were seen: "
            f"measure levels with other numbers of streams, for a law takes {FEWEST_NUMBERS}"
        )
    streams, means, errors = points_of(solid)
    base, slope = weighted_line(streams, means, errors)
    # Where the means scatter about the line by more than their errors, these are too small: scale them by √(χ² / freedom).
    off_by = float((((means - base - slope * streams) / errors) ** 2).sum())
    errors = errors * max(1.0, math.sqrt(off_by / (len(solid) - 2)))
    # The bootstrap: the line that other steps of the same kind would have given.
    draws = means + errors * np.random.default_rng(0).standard_normal((1000, len(solid)))
    lines = np.array([weighted_line(streams, drawn, errors) for drawn in draws])
    low, high = np.quantile(lines, (0.025, 0.975), axis=0)
    if slope < 0 <= high[1]:  # no growth was seen: a step takes the same time with any number of streams
        slope, base = 0.0, float((means / errors**2).sum() / (1 / errors**2).sum())
    if slope < 0 or base <= 0:
        return None, (
            f"the step time follows no law: the best line through it is {base * 1e3:.3g} and {slope * 1e3:.3g} ms for each "
            "stream, and neither can be below zero"
        )
    off = np.abs(means - base - slope * streams) / means
    usual = np.array([(one.p90_s - one.p10_s) / P10_TO_P90 / math.sqrt(one.n / one.streams) for one in solid])
    bent = off > np.maximum(LARGEST_RESIDUAL, RESIDUAL_BY_CHANCE * usual / means)
    worst = int(np.argmax(np.where(bent.any() & ~bent, 0.0, off)))
    residual = float(off[worst])
    ends = [(max(float(low[i]), 0.0), float(high[i])) for i in (0, 1)]
    law = Law(base, ends[0], slope, ends[1], residual, fits=not bent.any())
    return law, None if law.fits else _why_no_line(solid[worst], residual, law)


def points_of(solid: list[StepTimes]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the numbers of streams, their mean step times and the errors of these."""
    streams = np.array([entry.streams for entry in solid], dtype=np.float64)
    means = np.array([entry.mean_s for entry in solid])
    return streams, means, np.hypot([entry.error_s for entry in solid], LEAST_STEP_ERROR * means)


def mean_step(times: tuple[StepTimes, ...], slope_s: float | None, streams: FloatArray) -> FloatArray:
    """Return the mean step with so many streams: interpolated between the numbers seen, past the last one by the slope."""
    numbers, means, _ = points_of(well_seen(times) or list(times))
    beyond: FloatArray = np.maximum(streams - numbers[-1], 0.0)
    return np.interp(streams, numbers, means) + beyond * (slope_s or 0.0)


def growth_per_stream(times: tuple[StepTimes, ...]) -> float | None:
    """Return by how much a step grows with each stream, for steps of more streams than were seen; None where unknown.

    Two numbers of streams are enough for this estimate, although they are not for a law.
    """
    solid = well_seen(times)
    if len(solid) < 2:
        return None
    slope = weighted_line(*points_of(solid))[1]
    return slope if slope > 0 else None


def weighted_line(streams: FloatArray, means: FloatArray, errors: FloatArray) -> tuple[float, float]:
    weight = 1 / errors**2
    centre = (weight * streams).sum() / weight.sum()
    slope = (weight * (streams - centre) * means).sum() / (weight * (streams - centre) ** 2).sum()
    return float((weight * means).sum() / weight.sum() - slope * centre), float(slope)


def _why_no_line(entry: StepTimes, residual: float, law: Law) -> str:
    two = ""
    if len(entry.kinds) == 2:
        two = ": two kinds of gap between tokens, " + " and ".join(seconds(kind.centre_s) for kind in entry.kinds)
    few = f" on average, as a few took far longer than {seconds(entry.median_s)}" if entry.mean_s > entry.p90_s else ""
    return (
        f"step times do not follow a straight line: with {counted(entry.streams, 'stream')} a step takes "
        f"{seconds(entry.mean_s)}{few}, and the best line gives {seconds(law.at(entry.streams))} "
        f"({percent(residual)} off){two}"
    )
