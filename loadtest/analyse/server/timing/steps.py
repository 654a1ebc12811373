"""How the server spends its time: steps by the number of streams, their law, prefill, and stalls by others' prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from loadtest.analyse.figures.intervals import robust_deviation, t_quantile
from loadtest.analyse.run import FloatArray, IntArray, RunData, finite
from loadtest.analyse.server.queue import at_work
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing.pace import PaceChange, level_paces, pace_change, pace_error, pace_scatter
from loadtest.analyse.server.timing.prefill import StepTime, measure_prefill, stalls
from loadtest.analyse.server.timing.prefill_law import Prefill
from loadtest.analyse.server.timing.step_law import (
    FEWEST_STEPS,
    Law,
    StepKind,
    StepTimes,
    fit_law,
    growth_per_stream,
    mean_step,
    well_seen,
)
from loadtest.analyse.server.timing.token_gaps import LEAST_APART, read_gaps, share_out_of_step
from loadtest.metrics import NORMAL_95
from loadtest.simulate.model.timing import StepLaw, Timing

MOST_SAMPLED = 1000  # step times kept for each number of streams, in stretches of consecutive ones
STRETCHES_KEPT = 10  # in so many, evenly apart
FEWEST_WAITS = 8  # of requests alone on the server, from which on a handover is drawn from them
BLOCKS = 40  # of consecutive steps, at most, whose means give the error of the mean
SLOPE_CARRIED_STREAMS = 64  # how many streams past the last measured number the table of step times is extended
HELD_UP = 0.2  # of a prompt token's time, by which it holds up a running stream where both share steps
ASSUMED_HANDOVER_S = 0.002  # from a free slot to the batch loop, where no request had the server to itself

# Steps are of two kinds where three figures are at least so much: the smaller kind's share of them, the ratio of the kinds'
# medians, and the distance of the medians in robust standard deviations. And few steps must lie between the medians: at most
# this share (VALLEY) of those that an even spread would put there.
LEAST_KIND_SHARE, LEAST_RATIO, LEAST_SEPARATION, VALLEY = 0.05, 1.2, 6.0, 0.3
MIRRORED = 0.7  # of the smaller kind: so many gaps on the other side of the larger one are those beside late tokens
FURTHER_PASS = 0.5  # of the time to read the weights, by which a step of two passes is at least longer than one pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What a run shows of the server's time. A value that is None has its reason in the field after it."""

    times: tuple[StepTimes, ...] = ()  # by number of streams, ascending
    law: Law | None = None
    law_reason: str | None  # why there is no law, or why it does not fit
    slope_s: float | None = None  # growth of a step with each stream past the last measured number; None: unknown
    prefill: Prefill | None = None
    prefill_reason: str | None
    interference_s: float | None = None  # by which a running stream stalls for each prompt token of others
    interference_reason: str | None
    stall_s: FloatArray  # per request: time that its decode lost to others' prompts; nan unknown
    handling_s: float = 0.0  # from reading the request to queueing it for a slot
    handover_s: float = 0.0  # from getting a slot to being seen by the batch loop
    handovers: tuple[float, ...] = ()  # such times as they were observed
    # whether streams take a pass each unless their slots are neighbours; None: unknown
    neighbours: bool | None = None
    pace_error: float = 0.0  # by what share the pace of another run may differ (see pace.py); 0 unknown
    pace_scatter: float = 0.0  # standard deviation of the pace within the run, a share
    # by level: factors by which its steps took longer, if known
    paces: Mapping[int, float] = field(default_factory=dict)
    change: PaceChange | None = None  # of the pace within a level
    out_of_step: float | None = None  # share of the pairs of streams that share no steps; None: unknown
    gathered: bool = False  # whether tokens come several at once, so that no single step was seen
    read_from: str | None = None  # which part of a very long run the gaps are from; None: all of it

    @property
    def apart(self) -> bool:
        """Whether streams were seen to have steps of their own, as those of several servers behind one URL have."""
        return self.out_of_step is not None and self.out_of_step >= LEAST_APART

    def timing(self, *, neighbours: bool = False) -> Timing:
        """Return the timing that the engine predicts with; `neighbours`: a pass per run of neighbouring slots.

        For a number of streams that was measured the engine draws from its step times. Between such numbers it
        interpolates their means, and past the last one step times grow by `slope_s` a stream. Raises ValueError where no
        step time or no prefill speed is known.
        """
        known = self.prefill
        if not self.times or known is None:
            raise ValueError("no step time or no prefill speed is known")
        return Timing(
            step=StepLaw(table=step_table(self.times, self.slope_s, neighbours=neighbours), in_order=True),
            prefill_s=known.bare_s,
            context_prefill_s=known.context_s,
            prompt_s=known.fixed_s,
            prompt_jitter=known.jitter,
            prompt_factors=known.factors,
            n_batch=known.n_batch,
            handling_s=self.handling_s,
            handover_s=self.handover_s,
            handovers=self.handovers,
            neighbours=neighbours,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return summary.json's `step_law`; the figures of the law are None where there is none."""
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
            **({"pace_error": self.pace_error, "pace_levels": len(self.paces)} if self.pace_error else {}),
            **({"out_of_step": self.out_of_step} if self.out_of_step else {}),
            **({"read_from": self.read_from} if self.read_from else {}),
        }


def prompts_hold_up(steps: Steps) -> bool | None:
    """Whether prompts hold up the streams that run, as they do where both share steps; None where no stream ran beside one."""
    if steps.interference_s is None:
        return None
    return steps.prefill is None or steps.interference_s >= HELD_UP * steps.prefill.per_token_s


def measure_steps(run: RunData, slots: Slots) -> Steps:
    """Measure step times, their law, prefill and stalls in a run."""
    found = read_gaps(run, slots)
    out_of_step = share_out_of_step(run, found)
    models = sorted({str(model) for model in run.requests["model"][run.requests["ok"]].dropna().unique()})
    if len(models) > 1:  # each model has its own step times
        times: tuple[StepTimes, ...] = ()
        law, slope = None, None
        law_reason: str | None = (
            f"the run measured {len(models)} models ({', '.join(models)}): each has steps of its own"
        )
    else:
        clean = found.clean
        times = times_by_number(found.streams[clean], found.step_s[clean], found.right[clean])
        law, law_reason = fit_law(times)
        slope = growth_per_stream(times)
        if out_of_step is not None and out_of_step >= LEAST_APART:
            law, law_reason = None, "streams that decode together do not get their tokens together"
    step = partial(mean_step, times, slope) if times else None
    prefill, prefill_reason = measure_prefill(run, found, step)
    stall, interference, interference_reason = stalls(run, found, step)
    handling, handover, handovers = _fixed_costs(run, prefill, step)
    paces = level_paces(run, found) if times else {}
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
        handovers=handovers,
        neighbours=split_by_neighbours(times),
        pace_error=pace_error(paces),
        pace_scatter=pace_scatter(found) if times else 0.0,
        paces=paces,
        change=pace_change(run, found) if times else None,
        out_of_step=out_of_step,
        gathered=found.gathered,
        read_from=found.said,
    )


def times_by_number(numbers: IntArray, step_s: FloatArray, at: FloatArray, fewest: int = 0) -> tuple[StepTimes, ...]:
    """Return the step times at each number of streams that was seen for at least `fewest` steps."""
    of_each = [(number, numbers == number) for number in np.unique(numbers).tolist()]
    return tuple(
        step_times(number, step_s[mine], at[mine])
        for number, mine in of_each
        if mine.sum() >= fewest * number
        and step_s[mine].any()  # behind a proxy that holds answers back all may be zero
    )


def step_times(streams: int, step_s: FloatArray, at: FloatArray) -> StepTimes:
    """Describe the step times of so many streams, each with its instant."""
    ordered, in_time = np.sort(step_s), step_s[np.argsort(at, kind="stable")]
    low, middle, high = np.quantile(ordered, (0.1, 0.5, 0.9))
    return StepTimes(
        streams=streams,
        n=len(step_s),
        mean_s=float(step_s.mean()),
        error_s=_error(in_time, streams),
        median_s=float(middle),
        p10_s=float(low),
        p90_s=float(high),
        kinds=step_kinds(ordered),
        sample=tuple(_stretches(in_time[::streams]).tolist()),
    )


def _stretches(in_time: FloatArray) -> FloatArray:
    """Return at most MOST_SAMPLED of these steps: stretches of consecutive ones, evenly apart."""
    if len(in_time) <= MOST_SAMPLED:
        return in_time
    each = MOST_SAMPLED // STRETCHES_KEPT
    starts = np.linspace(0, len(in_time) - each, STRETCHES_KEPT).astype(np.int64)
    return np.asarray(in_time[(starts[:, None] + np.arange(each)).ravel()])


def _error(in_time: FloatArray, streams: int) -> float:
    """Return the standard error of the mean step time, from the means of blocks of consecutive steps.

    Neighbouring steps resemble each other, so s / √n would be too small. The error is widened by t / NORMAL_95, because a few
    blocks show their own spread only roughly.
    """
    steps = len(in_time) // streams
    if steps < 2:
        return float(in_time.mean()) * 0.5
    blocks = np.array_split(in_time, min(BLOCKS, steps))
    means = np.array([block.mean() for block in blocks])
    return float(means.std(ddof=1)) / math.sqrt(len(means)) * (t_quantile(len(means) - 1) / NORMAL_95)


def step_kinds(ordered: FloatArray) -> tuple[StepKind, ...]:
    """Return the kinds of step in `ordered` (sorted): two where hardly any step time lies between two clusters, else one.

    One, too, where about as many lie as far on the other side of the larger cluster: then tokens came late.
    """
    n = len(ordered)
    one = (StepKind(float(np.median(ordered)), 1.0),)
    if n < 4 * FEWEST_STEPS:
        return one
    # Cut where the sum of squares within both parts is least (as Otsu and k-means do for two groups), by running sums.
    sums, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    left = np.arange(1, n)
    within = squares[-1] - sums[:-1] ** 2 / left - (sums[-1] - sums[:-1]) ** 2 / (n - left)
    cut = int(np.argmin(within)) + 1
    low, high = ordered[:cut], ordered[cut:]
    centres = float(np.median(low)), float(np.median(high))
    apart = centres[1] - centres[0]
    spread = 0.5 * sum(map(robust_deviation, (low, high)))
    third = ((ordered > centres[0] + apart / 3) & (ordered < centres[1] - apart / 3)).mean()
    smaller = min(len(low), len(high)) / n
    # A token that comes late makes a long gap and then a short one: neither is a kind of step.
    usual, other = centres if len(low) >= len(high) else centres[::-1]
    mirrored = ((ordered - usual) * np.sign(usual - other) > apart / 3).mean()
    if (
        smaller < LEAST_KIND_SHARE
        or centres[1] < LEAST_RATIO * centres[0]
        or apart < LEAST_SEPARATION * spread
        or third > VALLEY * min(1 / 3, smaller)
        or mirrored > MIRRORED * smaller
    ):
        return one
    return StepKind(centres[0], len(low) / n), StepKind(centres[1], len(high) / n)


def split_by_neighbours(times: tuple[StepTimes, ...]) -> bool | None:
    """Return whether streams in slots that are not neighbours take a pass each; None where the run cannot show it.

    llama.cpp decodes streams in one pass only where their slots are neighbours: then a step of some streams is as long as
    one pass of them cannot be.
    """
    longest = _longest_pass(times)
    if not longest:
        return None
    return any(entry.kinds[-1].centre_s > longest.get(entry.streams, math.inf) for entry in well_seen(times))


def _longest_pass(times: tuple[StepTimes, ...]) -> dict[int, float]:
    """Return up to how long one pass of so many streams takes, for numbers between one and the most; {} unknown.

    Nobody's neighbour is missing with one stream, nor with all slots taken. Between them a pass lies near the line, and each
    further pass reads the weights once more.
    """
    solid = {entry.streams: entry.median_s for entry in well_seen(times)}
    most = max(solid, default=0)
    if len(solid) < 3 or 1 not in solid:
        return {}
    each = max(solid[most] - solid[1], 0.0) / (most - 1)
    reading = solid[1] - each
    return {n: solid[1] + each * (n - 1) + FURTHER_PASS * reading for n in solid if reading > 0 and 1 < n < most}


def step_table(
    times: tuple[StepTimes, ...], slope: float | None, *, neighbours: bool
) -> tuple[tuple[int, tuple[float, ...]], ...]:
    """Return the engine's table of step times by streams, with a last entry far out that extends it by `slope`.

    Where passes are split by neighbouring slots (`neighbours`) it is of single passes.
    """
    solid = well_seen(times) or list(times)
    longest = _longest_pass(times) if neighbours else {}
    rows: list[tuple[int, tuple[float, ...]]] = []
    for entry in solid:
        values = np.array(entry.sample)
        if entry.streams in longest:
            values = values[values < longest[entry.streams]]
            if len(values) >= FEWEST_STEPS:
                rows.append((entry.streams, tuple(values)))
            continue
        edges = np.quantile(values, (0.005, 0.995)) if len(values) > 50 else (values.min(), values.max())
        values = np.clip(values, *edges)
        known = values.mean() > 0  # a proxy that gathers tokens may leave nothing but zeros in a sample
        rows.append((entry.streams, tuple(values * (entry.mean_s / values.mean())) if known else (entry.mean_s,)))
    if slope:
        last = float(np.mean(rows[-1][1]))
        rows.append((solid[-1].streams + SLOPE_CARRIED_STREAMS, (last + SLOPE_CARRIED_STREAMS * slope,)))
    return tuple(rows)


def _fixed_costs(
    run: RunData, prefill: Prefill | None, step: StepTime | None
) -> tuple[float, float, tuple[float, ...]]:
    """Return handling (the median load duration), handover (the median wait of requests alone on the server) and those waits.

    Of a server without durations, handling and handover together are the median of TTFT − prompt cost of the requests alone.
    """
    good = run.flag("ok")
    alone = at_work.lone(run) & good
    loading = finite(at_work.before_queue(run)[good])
    wait = finite(run.column("queue_wait_s")[alone])
    if len(loading) or len(wait):  # llama.cpp reports no loading: its server loads the model before it listens
        usual = float(np.median(wait)) if len(wait) >= FEWEST_WAITS else ASSUMED_HANDOVER_S
        every = tuple(map(float, wait[:MOST_SAMPLED])) if len(wait) >= FEWEST_WAITS else ()
        return float(np.median(loading)) if len(loading) else 0.0, usual, every
    if prefill is None or step is None or not alone.any():
        return 0.0, ASSUMED_HANDOVER_S, ()
    tokens = run.uncached_tokens[alone]
    cost = np.maximum(prefill.seconds(tokens), step(np.ones(len(tokens))))
    rest = np.nan_to_num(run.column("ttft_s")[alone] - cost)
    both = max(float(np.median(rest)), 0.0)
    handover = min(ASSUMED_HANDOVER_S, both)
    return both - handover, handover, ()
