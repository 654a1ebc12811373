"""Objectives held against every request that was sent: one that failed, or never got a token, is slower than any limit.

Figures of a level are of requests that ended well; a server that answers half of its requests fast and drops the rest
would meet any objective by those.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from loadtest.analyse.figures import stats
from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import Run
from loadtest.records import Outcome
from loadtest.slo import SHARES, Judged, Objective, by_figures

ENDLESS_S = 1e12  # stands for a failed request's duration: what is computed stays a number
NEVER_S = 1e8  # from here on a duration has a failed request's in it


def held_against_requests(run: Run, level: dict[str, Any], objectives: Sequence[Objective]) -> list[Judged]:
    """Hold objectives against a level of summary.json and the requests of the run that it is of."""
    index = int(level["index"])
    good = run.good(index)
    answered = good & np.isfinite(run.column("first_token"))
    sent = run.measured(index) & np.asarray(run.requests["outcome"] != Outcome.CANCELLED, dtype=np.bool_)
    return [_all_sent(_judged_objective(run, level, each, sent, answered), level) for each in objectives]


def _judged_objective(
    run: Run, level: dict[str, Any], objective: Objective, sent: BoolArray, answered: BoolArray
) -> Judged:
    told = by_figures(objective, level)
    failed, requests = int((sent & ~answered).sum()), int(sent.sum())
    if not failed or not objective.a_request:
        return told
    if objective.figure == "itl_s":
        value, interval = _of_gaps(run, objective, answered, failed), None
    else:
        values = run.column(objective.figure)
        if answered.any() and not np.isfinite(values[answered]).any():
            return told  # this server does not say it of any request
        value, interval = _of_requests(objective, values, sent, answered, block=int(level.get("concurrency") or 1))
    if math.isnan(value):
        few = f"takes {objective.requests} requests and has {requests}, {failed} of them failed"
        return Judged(objective, value, None, failed, requests, unjudged=few, few=True)
    return Judged(objective, value, interval, failed, requests)


def _of_requests(
    objective: Objective, values: FloatArray, sent: BoolArray, answered: BoolArray, *, block: int
) -> tuple[float, tuple[float, float] | None]:
    """Return the figure's statistic over all requests sent, and its interval."""
    worst = ENDLESS_S if objective.at_most else 0.0
    everyone = np.where(answered, values, worst)[sent]
    found = stats.describe(everyone, block=block)
    value, interval = found[objective.statistic], found[f"ci95_{objective.statistic}"]
    failed = 1 - float(answered.sum()) / float(sent.sum())
    if value is None:  # too few for this percentile, and yet so many failed that more could not mend it
        beyond = failed > 1 - SHARES[objective.statistic] if objective.at_most else failed > SHARES[objective.statistic]
        return (_limited(worst) if beyond else math.nan), None
    assert isinstance(value, float)
    bounds = (float(interval[0]), float(interval[1])) if isinstance(interval, list) else None
    if objective.at_most and objective.statistic == "mean":
        return math.inf, None
    return _limited(value), None if bounds is None else (_limited(bounds[0]), _limited(bounds[1]))


def _of_gaps(run: Run, objective: Objective, answered: BoolArray, failed: int) -> float:
    """Return ITL's statistic where each failed request counts as so many endless gaps as the others have on average."""
    ordered = stats.ranked(run.itl, answered)
    if objective.statistic == "mean" or not len(ordered):
        return math.inf
    rank = SHARES[objective.statistic] * (1 + failed / float(answered.sum())) * (len(ordered) - 1)
    return float(ordered[math.ceil(rank - 1e-9)]) if rank <= len(ordered) - 1 else math.inf


def _limited(value: float) -> float:
    return math.inf if value > NEVER_S else value


def _all_sent(judged: Judged, level: dict[str, Any]) -> Judged:
    """Refuse to call an objective met where requests that were due were not sent: nobody knows what they would have waited."""
    shed = int(level.get("shed") or 0)
    if not shed or not judged.met:
        return judged
    why = f"is not known of {shed} requests that were not sent (--max-in-flight)"
    return dataclasses.replace(judged, unjudged=why)
