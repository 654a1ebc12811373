"""How long the server's steps take: step time by number of streams decoding, the law where one fits, prefill, stalls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import Run
from loadtest.analyse.server import prefill as prefill_of
from loadtest.analyse.server import token_gaps as gaps_of
from loadtest.analyse.server.prefill import Interval, Prefill
from loadtest.analyse.server.slots import Slots
from loadtest.analyse.server.token_gaps import Decoding
from loadtest.simulate.timing import StepLaw, Timing
from loadtest.text import counted, seconds

MOST_SAMPLED = 400  # step times kept a number of streams
FEWEST_STEPS = 8  # below, a number of streams was only passed through
BLOCKS = 40  # of consecutive steps, for the error of a mean
FEWEST_NUMBERS = 3  # of streams, for a law: a line through two is always exact
LARGEST_RESIDUAL = 0.10  # largest share that a step time may be off its law
LEAST_STEP_ERROR = 0.002  # a step time is never known better than this share
SLOPE_CARRIED_STREAMS = 64  # streams past the last measured, to which the law's slope is carried on
ASSUMED_HANDOVER_S = 0.002  # where no request was ever alone

LEAST_SHARE, LEAST_RATIO, LEAST_SEPARATION = 0.05, 1.2, 6.0  # of two kinds of step
VALLEY = 0.3  # steps between two kinds, against evenly spread ones


@dataclass(frozen=True, slots=True)
class StepKind:
    """One cluster of step times: its median in seconds and its share of the steps."""

    centre_s: float
    share: float


@dataclass(frozen=True, slots=True)
class StepTimes:
    """The steps seen with `streams` streams decoding all through them and no prompt in work; seconds."""

    streams: int
    n: int  # gaps; the streams that share a step see it alike, so there were n / streams steps
    mean_s: float  # of all of them: slow steps are time spent too
    error_s: float  # standard error of mean_s
    median_s: float
    p10_s: float
    p90_s: float
    kinds: tuple[StepKind, ...]  # one, or two where the steps fall into two separate groups; the shorter first
    sample: tuple[float, ...]  # up to 400 of them, evenly thinned by rank: to draw from

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "streams": self.streams,
            "n": self.n,
            "mean_s": self.mean_s,
            "median_s": self.median_s,
            "p10_s": self.p10_s,
            "p90_s": self.p90_s,
            "kinds": [{"centre_s": kind.centre_s, "share": kind.share} for kind in self.kinds],
        }


@dataclass(frozen=True, slots=True)
class Law:
    """Step time = base_s + per_stream_s · B, with 95 % intervals; residual: largest |mean − law| / mean over B."""

    base_s: float
    base_ci95: Interval
    per_stream_s: float
    per_stream_ci95: Interval
    residual: float
    fits: bool  # False: the step time is no line in B, keep to the steps per B

    def at(self, streams: float) -> float:
        """Return the law's step time with `streams` decoding, seconds."""
        return self.base_s + self.per_stream_s * streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a run says about the server's step times. A value that is None has its reason beside it."""

    times: tuple[StepTimes, ...]  # by number of streams, ascending
    law: Law | None
    law_reason: str | None  # why there is none, or why it does not fit
    slope_s: float | None  # by which a step is taken to grow with each stream past the last measured; None: unknown
    prefill: Prefill | None
    prefill_reason: str | None
    interference_s: float | None  # stall of a running stream per prompt token of another's prefill
    interference_reason: str | None
    stall_s: FloatArray  # one a request: what its decode lost to others' prompts; nan unknown
    handling_s: float  # request read → queued for a slot
    handover_s: float  # slot won → seen by the batch loop
    neighbours: bool | None  # two streams cost two passes unless their slots are neighbours; None: not to be seen
    read_from: str | None = None  # which gaps these are, of a run with very many; None: all

    def timing(self, *, prefill_s: float | None = None, neighbours: bool | None = None) -> Timing:
        """Return the engine's timing to run predictions with; arguments take the place of what was measured.

        Each number of streams measured draws from its own steps; between them means are interpolated, past them the
        law's slope goes on. Raises ValueError without any step or prefill speed.
        """
        known = self.prefill
        if not self.times or (known is None and prefill_s is None):
            raise ValueError("no step time or no prefill speed is known")
        split = bool(self.neighbours if neighbours is None else neighbours)
        return Timing(
            step=StepLaw(table=step_table(self.times, self.slope_s, neighbours=split)),
            prefill_s=known.per_token_s if prefill_s is None and known else prefill_s or 0.0,
            prompt_s=known.fixed_s if prefill_s is None and known else 0.0,
            prompt_jitter=known.jitter if known else 0.0,
            n_batch=known.n_batch if known else 512,
            handling_s=self.handling_s,
            handover_s=self.handover_s,
            neighbours=split,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return summary.json's `step_law`; the law's own figures are None where there is none."""
        law = self.law
        return {
            "base_s": law and law.base_s,
            "base_ci95": law and list(law.base_ci95),
            "per_stream_s": law and law.per_stream_s,
            "per_stream_ci95": law and list(law.per_stream_ci95),
            "residual": law and law.residual,
            "fits": bool(law and law.fits),
            "reason": self.law_reason,
            "times": [times.to_dict() for times in self.times],
            "prefill": self.prefill and self.prefill.to_dict(),
            "prefill_reason": self.prefill_reason,
            "interference_s": self.interference_s,
            "interference_reason": self.interference_reason,
            "handling_s": self.handling_s,
            "handover_s": self.handover_s,
            **({"read_from": self.read_from} if self.read_from else {}),
        }


def measure_steps(run: Run, slots: Slots) -> Steps:
    """Measure step times, law, prefill and stalls of a run."""
    found = gaps_of.decoding(run, slots)
    models = sorted({str(model) for model in run.requests["model"][run.requests["ok"]].dropna().unique()})
    if len(models) > 1:  # steps of several servers' models are steps of none
        times: tuple[StepTimes, ...] = ()
        law, slope = None, None
        law_reason: str | None = (
            f"the run measured {len(models)} models ({', '.join(models)}): each has steps of its own"
        )
    else:
        times = by_streams(found)
        law, law_reason = fit_law(times)
        slope = _slope(times)
    reader = _StepTimeByStreams.of(times, slope) if times else None
    prefill, prefill_reason = prefill_of.measure_prefill(run, found, reader)
    stall, interference, interference_reason = prefill_of.stalls(run, found, reader)
    handling, handover = _fixed_costs(run, prefill, reader)
    return Steps(
        times=times,
        law=law,
        law_reason=law_reason,
        slope_s=slope,
        prefill=prefill,
        prefill_reason=prefill_reason,
        interference_s=interference,
        interference_reason=interference_reason,
        stall_s=stall,
        handling_s=handling,
        handover_s=handover,
        neighbours=split_by_neighbours(times),
        read_from=found.said,
    )


def by_streams(gaps: Decoding) -> tuple[StepTimes, ...]:
    """Return the distribution of step times at every number of streams that was held for a step."""
    clean = gaps.clean
    streams, step_s, right = gaps.streams[clean], gaps.step_s[clean], gaps.right[clean]
    return tuple(
        _step_times(int(number), step_s[mine], right[mine])
        for number in np.unique(streams)
        for mine in (streams == number,)
    )


def _step_times(streams: int, step_s: FloatArray, at: FloatArray) -> StepTimes:
    ordered = np.sort(step_s)
    low, middle, high = np.quantile(ordered, (0.1, 0.5, 0.9))
    ranks = np.linspace(0, len(ordered) - 1, min(MOST_SAMPLED, len(ordered))).round().astype(np.int64)
    return StepTimes(
        streams=streams,
        n=len(step_s),
        mean_s=float(step_s.mean()),
        error_s=_error(step_s[np.argsort(at, kind="stable")], streams),
        median_s=float(middle),
        p10_s=float(low),
        p90_s=float(high),
        kinds=step_kinds(ordered),
        sample=tuple(float(value) for value in ordered[ranks]),
    )


def _error(in_time: FloatArray, streams: int) -> float:
    """Return the standard error of the mean of steps in time order, by means of blocks of consecutive ones."""
    steps = len(in_time) // streams
    if steps < 2:
        return float(in_time.mean()) * 0.5
    blocks = np.array_split(in_time, min(BLOCKS, steps))
    means = np.array([block.mean() for block in blocks])
    freedom = len(means) - 1
    widen = t_quantile(freedom) / 1.96  # few blocks know little of their spread
    return float(means.std(ddof=1)) / math.sqrt(len(means)) * widen


def step_kinds(ordered: FloatArray) -> tuple[StepKind, ...]:
    """Return the one kind of step in sorted `ordered`, or two where there is nearly nothing between two groups."""
    n = len(ordered)
    one = (StepKind(float(np.median(ordered)), 1.0),)
    if n < 4 * FEWEST_STEPS:
        return one
    # The best cut in two: the least squares within both parts, from running sums.
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    left = np.arange(1, n)
    within = squares[-1] - sums[:-1] ** 2 / left - (sums[-1] - sums[:-1]) ** 2 / (n - left)
    cut = int(np.argmin(within)) + 1
    low, high = ordered[:cut], ordered[cut:]
    centres = float(np.median(low)), float(np.median(high))
    apart = centres[1] - centres[0]
    spread = 0.5 * sum(1.4826 * float(np.median(np.abs(part - np.median(part)))) for part in (low, high))
    third = ((ordered > centres[0] + apart / 3) & (ordered < centres[1] - apart / 3)).mean()
    smaller = min(len(low), len(high)) / n
    if (
        smaller < LEAST_SHARE
        or centres[1] < LEAST_RATIO * centres[0]
        or apart < LEAST_SEPARATION * spread
        or third > VALLEY * min(1 / 3, smaller)
    ):
        return one
    return StepKind(centres[0], len(low) / n), StepKind(centres[1], len(high) / n)


def _solid(times: tuple[StepTimes, ...]) -> list[StepTimes]:
    """Return the numbers of streams that were held, not only passed through."""
    return [entry for entry in times if entry.n >= FEWEST_STEPS * entry.streams]


def fit_law(times: tuple[StepTimes, ...]) -> tuple[Law | None, str | None]:
    """Fit the line through the mean step times, each weighted by its error; say why there is none, or none that fits.

    A law takes three numbers of streams, a step time above zero and a slope that is not surely below it.
    """
    solid = _solid(times)
    if not solid:
        return None, "no steps between tokens were seen" if not times else "too few steps were seen"
    if len(solid) < FEWEST_NUMBERS:
        seen = " and ".join(str(entry.streams) for entry in solid[:-1]) + (" and " if solid[1:] else "")
        return None, (
            f"only steps with {seen}{counted(solid[-1].streams, 'stream')} decoding were seen: "
            f"measure levels with other numbers of streams, for a law takes {FEWEST_NUMBERS}"
        )
    streams, means, errors = _points(solid)
    base, slope = _weighted_line(streams, means, errors)
    # A line that is further from the means than their errors explain is known less well than those errors say.
    off_by = float((((means - base - slope * streams) / errors) ** 2).sum())
    errors = errors * max(1.0, math.sqrt(off_by / (len(solid) - 2)))
    # Errors drawn anew: what the line would have been with other steps of the same kind.
    draws = means + errors * np.random.default_rng(0).standard_normal((1000, len(solid)))
    lines = np.array([_weighted_line(streams, drawn, errors) for drawn in draws])
    low, high = np.quantile(lines, (0.025, 0.975), axis=0)
    if slope < 0 <= high[1]:  # no growth was seen: a step takes the same with any number
        slope, base = 0.0, float((means / errors**2).sum() / (1 / errors**2).sum())
    if slope < 0 or base <= 0:
        return None, (
            f"the step time follows no law: the best line through it is {seconds(base)} and {seconds(slope)} for each "
            "stream, and neither can be below zero"
        )
    off = np.abs(means - base - slope * streams) / means
    worst = int(np.argmax(off))
    residual = float(off[worst])
    ends = [(max(float(low[i]), 0.0), float(high[i])) for i in (0, 1)]
    law = Law(base, ends[0], slope, ends[1], residual, fits=residual <= LARGEST_RESIDUAL)
    return law, None if law.fits else _why_no_line(solid[worst], residual, law)


def _points(solid: list[StepTimes]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return numbers of streams, mean step times and their errors."""
    streams = np.array([entry.streams for entry in solid], dtype=np.float64)
    means = np.array([entry.mean_s for entry in solid])
    return streams, means, np.hypot([entry.error_s for entry in solid], LEAST_STEP_ERROR * means)


def _slope(times: tuple[StepTimes, ...]) -> float | None:
    """Return by how much a step grows with each stream, as a guess for more streams than were seen; None where unknown.

    Two numbers of streams are enough for it, which make no law.
    """
    solid = _solid(times)
    if len(solid) < 2:
        return None
    slope = _weighted_line(*_points(solid))[1]
    return slope if slope > 0 else None


def _weighted_line(streams: FloatArray, means: FloatArray, errors: FloatArray) -> tuple[float, float]:
    weight = 1 / errors**2
    centre = (weight * streams).sum() / weight.sum()
    slope = (weight * (streams - centre) * means).sum() / (weight * (streams - centre) ** 2).sum()
    return float((weight * means).sum() / weight.sum() - slope * centre), float(slope)


def _why_no_line(entry: StepTimes, residual: float, law: Law) -> str:
    two = ""
    if len(entry.kinds) == 2:
        two = ": two kinds of step, " + " and ".join(f"{seconds(kind.centre_s)}" for kind in entry.kinds)
    return (
        f"the step time is no line in the number of streams: with {counted(entry.streams, 'stream')} a step takes "
        f"{entry.mean_s * 1e3:.1f} ms, the best line says {law.at(entry.streams) * 1e3:.1f} ms "
        f"({residual * 100:.0f} % off){two}"
    )


def split_by_neighbours(times: tuple[StepTimes, ...]) -> bool | None:
    """Tell whether two streams cost two passes unless their slots are neighbours; None where it cannot be seen.

    Seen by a kind of step at B = 2 that takes as long as two steps of one stream, beside or without a shorter one that
    the steps at B = 3 or more stay below.
    """
    found = {entry.streams: entry for entry in _solid(times)}
    if 1 not in found or 2 not in found or max(found) < 3:
        return None
    alone, two = found[1].median_s, found[2]
    slow = two.kinds[-1].centre_s
    more = min(entry.kinds[0].centre_s for streams, entry in found.items() if streams > 2)
    doubled = abs(slow / (2 * alone) - 1) < 0.1
    return bool(doubled and (len(two.kinds) == 2 or slow > 1.1 * more))


def step_table(
    times: tuple[StepTimes, ...], slope: float | None, *, neighbours: bool
) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Return the engine's table of step times: what was measured, and one far entry that carries `slope` on.

    With passes split by neighbours a pass of n streams is the shortest kind of step with n of them.
    """
    solid = _solid(times) or list(times)
    most = solid[-1]
    rows: list[tuple[int, tuple[float, ...]]] = []
    for entry in solid:
        values = np.array(entry.sample)
        if neighbours and len(entry.kinds) == 2 and entry is not most:
            values = values[values < (entry.kinds[0].centre_s + entry.kinds[1].centre_s) / 2]
            rows.append((entry.streams, tuple(values)))
        else:
            edges = np.quantile(values, (0.005, 0.995)) if len(values) > 50 else (values.min(), values.max())
            values = np.clip(values, *edges)
            rows.append((entry.streams, tuple(values * (entry.mean_s / values.mean()))))
    if neighbours:  # a pass of fewer streams takes no longer than one of more
        rows = [
            (streams, values)
            for streams, values in rows
            if streams in (1, most.streams) or np.mean(values) <= 1.1 * most.mean_s
        ]
    if slope:
        last = float(np.mean(rows[-1][1]))
        rows.append((most.streams + SLOPE_CARRIED_STREAMS, (last + SLOPE_CARRIED_STREAMS * slope,)))
    return tuple(rows)


def _fixed_costs(run: Run, prefill: Prefill | None, step: _StepTimeByStreams | None) -> tuple[float, float]:
    """Return the median load duration, and the median wait of requests that had the server to themselves.

    Without the server's durations: what TTFT of such requests has beyond the prompt's cost, in two parts.
    """
    good = np.asarray(run.requests["ok"], dtype=np.bool_)
    alone = prefill_of.lone(run) & good
    load = run.column("load_s")[good]
    load = load[np.isfinite(load)]
    wait = run.column("queue_wait_s")[alone]
    wait = wait[np.isfinite(wait)]
    if len(load) or len(wait):  # llama.cpp says no load: its server loads before it listens
        return float(np.median(load)) if len(load) else 0.0, float(np.median(wait)) if len(wait) else ASSUMED_HANDOVER_S
    if prefill is None or step is None or not alone.any():
        return 0.0, ASSUMED_HANDOVER_S
    tokens = prefill_of.uncached(run)[alone]
    cost = np.maximum(prefill.fixed_s + prefill.per_token_s * tokens, step(np.ones(len(tokens))))
    rest = np.nan_to_num(run.column("ttft_s")[alone] - cost)
    both = max(float(np.median(rest)), 0.0)
    handover = min(ASSUMED_HANDOVER_S, both)
    return both - handover, handover


@dataclass(frozen=True, slots=True)
class _StepTimeByStreams:
    """Step time by number of streams: measured means, interpolated, the law's slope past the last."""

    streams: FloatArray
    means: FloatArray
    slope: float

    @classmethod
    def of(cls, times: tuple[StepTimes, ...], slope: float | None) -> _StepTimeByStreams:
        solid = _solid(times) or list(times)
        return cls(
            np.array([entry.streams for entry in solid], dtype=np.float64),
            np.array([entry.mean_s for entry in solid]),
            slope or 0.0,
        )

    def __call__(self, streams: FloatArray) -> FloatArray:
        inside = np.interp(streams, self.streams, self.means)
        return np.asarray(inside + np.maximum(streams - self.streams[-1], 0.0) * self.slope, dtype=np.float64)
