"""How long the steps of several runs take at the same numbers of streams: the server's speed without what a queue makes of it.

At a rate of requests a server that is slower by a tenth has more streams at work and far longer waits, and how much longer
is chance in all but long runs. Its steps take a tenth longer, and a run holds thousands of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.analyse.comparison.differences import Estimate
from loadtest.analyse.run.arrays import BoolArray
from loadtest.analyse.server.timing.step_law import StepTimes, well_seen
from loadtest.analyse.server.timing.steps import BLOCKS
from loadtest.analyse.summary import Analysis

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


def steps_at(runs: Sequence[Analysis], levels: Sequence[dict[str, Any]]) -> tuple[Estimate, ...]:
    """Return the same of one level of each run; () where a run does not show its steps there."""
    pieces = [_tokens_a_piece(one, one.run.good(level["index"])) for one, level in zip(runs, levels, strict=True)]
    if not all(math.isfinite(each) for each in pieces) or max(pieces) > (1 + SAME_PIECES) * min(pieces):
        return ()
    found = []
    for one, level, figure in zip(runs, levels, step_estimates([one.steps.times for one in runs]), strict=False):
        count = len(one.run.levels)
        pace = one.steps.paces.get(level["index"]) if count > 1 else 1.0
        if pace is None:
            return ()
        wider = math.sqrt(count)  # a level has that part of the run's steps
        found.append(dataclasses.replace(figure.scaled(pace), down=figure.down * wider, up=figure.up * wider))
    return tuple(found)


def _tokens_a_piece(one: Analysis, rows: BoolArray) -> float:
    pieces = int(one.run.chunks.counts[rows].sum())
    return float(np.nansum(one.run.column("output_tokens")[rows])) / pieces if pieces else math.nan
