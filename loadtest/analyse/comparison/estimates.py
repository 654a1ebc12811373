"""The figures that runs are compared by, and how sure each is of one run: an estimate with its error.

A figure of a run gets its error from batches of requests (loadtest.analyse.figures.intervals), on a logarithmic scale,
for times and rates change by factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from loadtest.analyse.figures import rates, stats
from loadtest.analyse.figures.intervals import (
    FEWEST_INDEPENDENT,
    Sample,
    correlation_time,
    percentile_interval,
    t_quantile,
)
from loadtest.analyse.run import FloatArray, LevelData, RunData, finite
from loadtest.analyse.server.timing.step_law import StepTimes, well_seen
from loadtest.analyse.server.timing.steps import BLOCKS
from loadtest.analyse.summary import Analysis
from loadtest.metrics import PERCENTILES, Interval, enough_for
from loadtest.text import percent, writer_of

FEWEST_COMPARED = 8  # requests a side
# Effective share of the values, (Σx)² / (n Σx²): 1 where all are equal, 1/2 where they are exponential, 1/8 where three of 60 are
# thirty times as long as the others.
LEAST_EFFECTIVE_SHARE = 0.25
FEWEST_INDEPENDENT_COMPARED = 4.0  # independent ones a side: a queue that never settles has no mean to compare


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure that is compared: its place in summary.json, its name for people, and which way is better."""

    key: str
    part: str | None  # of a described figure: "mean", "p50", "p95"; None: a rate of the level
    name: str
    unit: str  # "s", "1/s" or "share"
    headline: bool = False
    prefill: bool = True  # whether a longer prompt changes it

    def written(self, value: float) -> str:
        """Return a value of it, a rate without its unit."""
        return percent(value) if self.unit == "share" else writer_of(self.key)(value)

    @property
    def lower_is_better(self) -> bool:
        return self.unit == "s"

    @property
    def id(self) -> str:
        return f"{self.key}.{self.part}" if self.part else self.key


METRICS = (
    Metric("ttft_s", "mean", "TTFT mean", "s", headline=True),
    Metric("ttft_s", "p95", "TTFT p95", "s", headline=True),
    Metric("stream_tokens_per_s", "mean", "mean tokens/s a stream", "1/s", headline=True, prefill=False),
    Metric("output_tokens_per_s", None, "output tokens/s", "1/s", headline=True),
    Metric("ttft_s", "p50", "TTFT p50", "s"),
    Metric("ttft_sched_s", "p95", "TTFT p95 from t_sched", "s"),
    Metric("e2e_s", "mean", "E2E mean", "s"),
    Metric("e2e_sched_s", "mean", "E2E mean from t_sched", "s"),
    Metric("tpot_s", "mean", "TPOT mean", "s", prefill=False),
    Metric("queue_wait_s", "mean", "queue wait mean", "s"),
    Metric("prefill_s", "mean", "prefill mean", "s"),
)
OF_REQUESTS = (  # of answers without text, such as embeddings
    Metric("e2e_s", "mean", "E2E mean", "s", headline=True),
    Metric("e2e_s", "p95", "E2E p95", "s", headline=True),
    Metric("requests_per_s", None, "requests/s", "1/s", headline=True),
    Metric("input_tokens_per_s", None, "input tokens/s", "1/s", headline=True),
)
RATE_WEIGHTS = {"output_tokens_per_s": "output_tokens", "input_tokens_per_s": "prompt_tokens"}  # of a rate: its column
WITH_WAITS = ("ttft_s", "ttft_sched_s", "e2e_s", "e2e_sched_s", "queue_wait_s")  # durations that hold waits
# of a level at a rate alone, at the numbers of streams that all runs had: it holds no wait
STEPS = Metric("step_s", None, "step time", "s", headline=True, prefill=False)
FAILED = Metric("failed", None, "failed requests", "share", headline=True)


@dataclass(frozen=True, slots=True)
class Estimate:
    """One figure of one run, and its standard error in natural logarithms, downwards and upwards."""

    value: float
    down: float  # nan: too few samples tell it, so that only other runs can
    up: float
    freedom: int
    gain: float = 1.0  # how many times as large a change of the server's speed shows in it

    @classmethod
    def even(cls, value: float, share: float, freedom: int) -> Self:
        """Build it from a standard error as a share: skewness is alike in both runs, so that the ratio has none."""
        return cls(value, share, share, freedom)

    @classmethod
    def of(cls, value: float, interval: Interval | None, freedom: int) -> Self | None:
        """Build it from the figure's 95 % interval; None where that is unknown or reaches zero."""
        if interval is None or interval[0] <= 0 or value <= 0:
            return None
        t = t_quantile(freedom)
        return cls(value, math.log(value / interval[0]) / t, math.log(interval[1] / value) / t, freedom)

    @property
    def told(self) -> bool:
        """Whether its own run tells its error."""
        return math.isfinite(self.down)

    def scaled(self, factor: float) -> Self:
        """Return the estimate of a run whose figure is so many times as large, with the same relative error."""
        return replace(self, value=self.value * factor)


def value_of(level: LevelData, metric: Metric) -> float | None:
    return level.figure(metric.key, metric.part or "mean")


def estimate_of(run: RunData, level: LevelData, metric: Metric) -> Estimate | None:
    """Return a metric of a level with its error, nan where too few samples tell it; None where it is unknown."""
    value, share = value_of(level, metric), PERCENTILES.get(metric.part or "")
    known = finite(run.column(metric.key)[run.good(level["index"])]) if metric.part else np.zeros(0)
    if share is not None and metric.part in ((level.get(metric.key) or {}).get("at_least") or ()):
        # a bound, for users hung up: compared is what those had who stayed
        value = float(np.quantile(known, share)) if enough_for(share, len(known)) else None
    if value is None or value <= 0:
        return None
    if metric.part is None:
        found = _rate(run, level, metric)
    elif not _queue_told(run, level):
        found = None
    elif share is None:
        found = mean_of(known, block_of(level)) if _of_many(known) else None
    else:
        found = _percentile(known, share, block_of(level))
    return replace(found or Estimate(value, math.nan, math.nan, 0), gain=gain_of(run, level, metric))


def gain_of(run: RunData, level: LevelData, metric: Metric) -> float:
    """Return how many times as large a change of the server's speed shows in a figure; 1 but for waits of an open loop.

    Requests at a rate do not wait for the server: where it is slower by 1 %, a queue of one server grows by 2 % and by another
    1 % for each request that waits, without bound towards saturation (M/G/1: 1 / (1 - utilisation) is about 1 + the mean number
    waiting). The time outside the queue changes by 1 %.
    """
    if level.get("rate") is None or metric.key not in WITH_WAITS:
        return 1.0
    good = run.good(level["index"])
    whole, waits = (run.column(key)[good] for key in (metric.key, "queue_wait_s"))
    if not np.isfinite(waits).any():
        waits = run.column("ttft_s")[good]
        waits = waits - np.nanquantile(waits, 0.05) if np.isfinite(waits).any() else np.zeros(1)
    wait, mean = float(np.nanmean(waits)), float(np.nanmean(whole))
    waiting = float(level.get("requests_per_s") or level["rate"]) * wait
    return 1.0 + min(wait / mean, 1.0) * (1.0 + waiting)


def note_on_rates(analyses: Iterable[Analysis]) -> str:
    """Say what a queue does to a comparison where any level sent requests at a rate; empty where none did."""
    if not any(level.get("rate") is not None for one in analyses for level in one.levels):
        return ""
    return (
        " At a rate of requests a queue multiplies differences of speed, so waits must differ by more; a level whose requests met "
        f"fewer than {FEWEST_INDEPENDENT} independent queues has too few samples, and needs more requests."
    )


def _queue_told(run: RunData, level: LevelData) -> bool:
    """Whether a level is long enough for its queue: at a rate, requests that met the same queue are one sample, not many."""
    first = finite(run.column("ttft_s")[run.good(level["index"])])
    if level.get("rate") is None:
        return True
    memory = float(level.get("queue_memory", 1.0))
    return len(first) >= FEWEST_INDEPENDENT * max(correlation_time(first), memory)


def _of_many(values: FloatArray) -> bool:
    """Whether a mean is that of many values, and not mostly that of a few long ones: another run may have had more, or none."""
    squares = float(np.square(values).sum())
    return squares > 0 and float(values.sum()) ** 2 / squares >= LEAST_EFFECTIVE_SHARE * len(values)


def block_of(level: LevelData) -> int:
    """Return how many consecutive requests depend on each other: in a closed loop the users, else one."""
    return int(level.get("concurrency") or 1)


def mean_of(values: FloatArray, block: int) -> Estimate | None:
    """Return the mean of a run's values with its error; None where too few samples tell it."""
    known = finite(values)
    if len(known) < FEWEST_COMPARED:
        return None
    sample = Sample.of(known, block=block)
    if sample.batches < 2 or sample.effective < FEWEST_INDEPENDENT_COMPARED:
        return None
    spread, mean = sample.mean(), float(known.mean())
    return Estimate.even(mean, spread.error / mean, spread.freedom) if mean > 0 else None


def _percentile(known: FloatArray, share: float, block: int) -> Estimate | None:
    if len(known) < stats.FEWEST_FOR_INTERVAL:
        return None
    sample = Sample.of(known, block=block)
    ordered = np.sort(known)
    interval = percentile_interval(sample, ordered, share)
    return Estimate.of(float(np.quantile(ordered, share)), interval, max(sample.batches - 2, 1))


def _rate(run: RunData, level: LevelData, metric: Metric) -> Estimate | None:
    """Return the output of a level with its error, from how much its rounds or answers differ."""
    found = rates.flow(run, level)
    weights = run.column(RATE_WEIGHTS[metric.key]) if metric.key in RATE_WEIGHTS else np.ones(len(run.requests))
    spread = rates.spread_of(run, found, weights, growing=level.queue_grew) if found else None
    return Estimate.even(float(level[metric.key]), spread.error, spread.freedom) if spread else None


# -- steps -------------------------------------------------------------------------------------------------------------
# At a rate of requests a server that is slower by a tenth has more streams at work and far longer waits, and how much longer
# is chance in all but long runs. Its steps take a tenth longer, and a run holds thousands of them.

FEWEST_SHARED = 100  # steps at numbers of streams that all runs had
SAME_PIECES = 0.05  # tokens a piece that differ by more: gaps of other things


def step_estimates(times: Sequence[Sequence[StepTimes]]) -> tuple[Estimate, ...]:
    """Return each run's mean step over the numbers of streams that all runs had, weighted alike; () where they share too few."""
    runs = [{entry.streams: entry for entry in well_seen(tuple(each))} for each in times]
    shared = set.intersection(*(set(run) for run in runs)) if runs else set()
    weights = {streams: min(run[streams].n for run in runs) for streams in shared}
    total = sum(weights.values())
    if total < FEWEST_SHARED:
        return ()
    found = []
    for run in runs:
        mean = sum(weight * run[streams].mean_s for streams, weight in weights.items()) / total
        error = math.sqrt(sum((weight * run[streams].error_s) ** 2 for streams, weight in weights.items())) / total
        found.append(Estimate.even(mean, error / mean, BLOCKS - 1))
    return tuple(found)


def steps_at(runs: Sequence[Analysis], levels: Sequence[LevelData]) -> tuple[Estimate, ...]:
    """Return the mean step of one level of each run, over shared numbers of streams; () where a run does not show it."""
    pieces = [one.run.tokens_a_piece(one.run.good(level["index"])) for one, level in zip(runs, levels, strict=True)]
    if not all(math.isfinite(each) for each in pieces) or max(pieces) > (1 + SAME_PIECES) * min(pieces):
        return ()
    found = []
    for one, level, figure in zip(runs, levels, step_estimates([one.steps.times for one in runs]), strict=False):
        count = len(one.run.levels)
        pace = one.steps.paces.get(level["index"]) if count > 1 else 1.0
        if pace is None:
            return ()
        wider = math.sqrt(count)  # a level has that part of the run's steps
        found.append(replace(figure.scaled(pace), down=figure.down * wider, up=figure.up * wider))
    return tuple(found)
