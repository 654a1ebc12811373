"""Objectives held against requests: a level's statistics over all that were sent, and goodput, one request at a time.

The figures of a level are of requests that ended well. By those alone a server that answers half of its requests fast and
drops the others would meet any objective. So a failed request counts as slower than any limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from loadtest.analyse.figures import stats
from loadtest.analyse.figures.keeping_up import fell_behind
from loadtest.analyse.figures.rates import Flow
from loadtest.analyse.figures.stationarity import OF_A_QUEUE
from loadtest.analyse.figures.stats import ENDLESS_S, NEVER_S
from loadtest.analyse.run import BoolArray, FloatArray, LevelData, RunData, grouped
from loadtest.analyse.run.overlaps import open_within
from loadtest.metrics import PERCENTILES, S_PER_US, Interval
from loadtest.slo import Judged, Objective, judge_by_figures

FEWEST_FOR_FAR = 3  # whole rounds of a closed loop, for a limit to be missed by far
BY_CHANCE = 0.025  # that so many requests lie beyond a limit which is met: with less, it is missed by far
OF_WHOLE_ANSWERS = ("e2e_s", "e2e_sched_s", "e2e_tokens_per_s")


def held_against_requests(run: RunData, level: LevelData, objectives: Sequence[Objective]) -> Iterator[Judged]:
    """Judge objectives by a level of summary.json and by the requests of its run."""
    index = int(level["index"])
    good, left = run.good(index), run.left(index)
    textless, seen = run.flag("textless"), np.isfinite(run.column("first_token"))
    answered = good & (seen | textless)
    for each in objectives:
        # Of a user who left in mid-answer the first token and the gaps are known; its answer never ended.
        known = answered if each.figure in OF_WHOLE_ANSWERS else answered | (left & seen)
        sent = run.sent(index) & ~(textless & each.of_tokens)
        yield _all_sent(_judged_objective(run, level, each, sent, known & sent, left & sent & ~known), level)


def _judged_objective(
    run: RunData, level: LevelData, objective: Objective, sent: BoolArray, answered: BoolArray, left: BoolArray
) -> Judged:
    by_figures = judge_by_figures(objective, level)
    failed, requests = int((sent & ~answered).sum()), int(sent.sum())
    if not failed or not objective.a_request:
        return dataclasses.replace(by_figures, far=_far(run, level, objective, sent, answered))
    if objective.figure == "itl_s":
        value, interval = _of_gaps(run, objective, answered, failed), None
    else:
        values = run.column(objective.figure)
        if answered.any() and not np.isfinite(values[answered]).any():
            return by_figures  # this server does not report the figure for any request
        value, interval = _of_requests(objective, values, sent, answered, level)
    if math.isnan(value):
        lost = "failed or were left" if left.any() else "failed"
        few = f"needs {objective.requests} requests and has {requests}, {failed} of them {lost}"
        return Judged(objective, value, None, failed, requests, unjudged=few, few=True, left=int(left.sum()))
    far = _far(run, level, objective, sent, answered)
    return Judged(objective, value, interval, failed, requests, left=int(left.sum()), far=far)


def beyond_limit(objective: Objective, values: FloatArray) -> BoolArray:
    """Mark the values that miss the objective; an unknown one (nan) does not."""
    return values > objective.bound if objective.at_most else values < objective.bound


def _far(run: RunData, level: LevelData, objective: Objective, sent: BoolArray, answered: BoolArray) -> bool:
    """Whether a percentile misses its limit by so far that chance hardly explains it, although only rounds are independent.

    A level of few rounds has no interval, and a miss by far must not be measured again for want of one. In an open loop
    all requests share one queue, and no two of them are independent. But a level in which the server fell behind would only
    wait longer if it lasted, and where not even the requests that find no queue are in time the queue is no excuse.
    """
    share = PERCENTILES.get(objective.statistic)
    if share is None or objective.figure not in run.requests:
        return False
    values = run.column(objective.figure)
    known = sent & (~answered | np.isfinite(values))
    beyond = known & (~answered | beyond_limit(objective, values))
    if not level.is_closed:
        return bool(known.any() and (beyond == known).all()) or (objective.figure in OF_A_QUEUE and fell_behind(level))
    rounds = int(known.sum()) // int(level["concurrency"])
    if rounds < FEWEST_FOR_FAR:
        return False
    allowed = 1 - share if objective.at_most else share
    least = math.floor(float(beyond.sum()) / float(known.sum()) * rounds)
    return binomial_tail(least, rounds, allowed) < BY_CHANCE


def binomial_tail(least: int, tries: int, share: float) -> float:
    """Return the chance that `least` or more of `tries` come true, each with chance `share`; by logarithms, for large numbers."""
    logs = (
        math.lgamma(tries + 1) - math.lgamma(k + 1) - math.lgamma(tries - k + 1)
        + k * math.log(share) + (tries - k) * math.log1p(-share)
        for k in range(least, tries + 1)
    )  # fmt: skip
    return min(math.fsum(map(math.exp, logs)), 1.0)


def _of_requests(
    objective: Objective, values: FloatArray, sent: BoolArray, answered: BoolArray, level: dict[str, Any]
) -> tuple[float, Interval | None]:
    """Return the statistic of a figure over all requests sent, and its interval."""
    if objective.at_most and objective.statistic == "mean":
        return math.inf, None
    worst = ENDLESS_S if objective.at_most else 0.0
    block, queue = int(level.get("concurrency") or 1), level.get("queue_memory", 1.0)
    found = stats.describe_values(np.where(answered, values, worst)[sent], block=block, queue=queue)
    value, interval = found[objective.statistic], found[f"ci95_{objective.statistic}"]
    if not isinstance(value, float):
        # Too few requests for this percentile. But where enough failed, it is a failed request's, however few there are.
        failed = 1 - float(answered.sum()) / float(sent.sum())
        share = PERCENTILES[objective.statistic]
        beyond = failed > (1 - share if objective.at_most else share)
        return (_limited(worst) if beyond else math.nan), None
    return _limited(value), (_limited(interval[0]), _limited(interval[1])) if isinstance(interval, list) else None


def _of_gaps(run: RunData, objective: Objective, answered: BoolArray, failed: int) -> float:
    """Return the statistic of ITL; a failed request counts as the mean number of gaps of the others, each endless."""
    ordered = stats.ranked(run.itl, answered)
    if objective.statistic == "mean" or not len(ordered):
        return math.inf
    rank = PERCENTILES[objective.statistic] * (1 + failed / float(answered.sum())) * (len(ordered) - 1)
    return float(ordered[math.ceil(rank - 1e-9)]) if rank <= len(ordered) - 1 else math.inf


def _limited(value: float) -> float:
    return math.inf if value > NEVER_S else value


def _all_sent(judged: Judged, level: dict[str, Any]) -> Judged:
    """Leave an objective unjudged where it was met but requests were not sent: their wait is unknown."""
    shed = int(level.get("shed") or 0)
    if not shed or not judged.met:
        return judged
    return dataclasses.replace(judged, unjudged=f"is not known of {shed} requests that were not sent (--max-in-flight)")


# -- goodput ----------------------------------------------------------------------------------------------------------


def goodput(
    run: RunData,
    level: int,
    objectives: Iterable[Objective],
    *,
    requests_per_s: float | None,
    flow: Flow | None = None,
) -> dict[str, Any] | None:
    """Return a level's goodput in summary.json: how many requests meet every objective, and the part of `requests_per_s` that does.

    A failed request meets none. Where a figure has several limits (at p50 and p95) a request is held against the widest,
    because the others are about the median and not about each request. ITL of a request is the statistic asked for over its
    own gaps. Objectives on a level's totals do not count. None where no request was sent, no objective applies, or the
    figure of one is unknown.

    Args:
        requests_per_s: rate of the requests that ended well, as in summary.json.
        flow: the level's window, by which requests are weighted as in `requests_per_s`; without it each counts as 1.
    """
    asked = widest(objectives)
    rows = run.sent(level)
    if not asked or not rows.any():
        return None
    ok = run.good(level)
    met = ok.copy()
    for objective in asked:
        values = _values(run, objective)
        if ok.any() and np.isnan(values[ok]).all():
            return None
        # A request without the figure (tokens/s of an answer of one token) does not miss the objective.
        met &= ~beyond_limit(objective, values)
    good, requests = int(met.sum()), int(rows.sum())
    shares = flow.shares if flow is not None else ok.astype(np.float64)
    inside = float(shares[ok].sum())
    rate = None if requests_per_s is None or inside <= 0 else requests_per_s * float(shares[met].sum()) / inside
    return {"good": good, "requests": requests, "share": good / requests, "requests_per_s": rate}


def alone_and_missed(run: RunData, level: int, objectives: Iterable[Objective]) -> int:
    """Return how many requests were alone at the server, where every one of them missed the same objective; else 0.

    Less load would not help them.
    """
    send, end = run.column("send"), run.column("end")
    alone = run.sent(level) & (open_within(send, end, send, end) == 1)
    for objective in objectives:
        values = _values(run, objective) if objective.a_request else np.array(np.nan)
        if objective.a_request and (beyond_limit(objective, values) | ~run.good(level))[alone].all():
            return int(alone.sum())
    return 0


def widest(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Return for each figure the objective whose limit is the easiest for a single request."""
    found = grouped((each.figure, each) for each in objectives if each.a_request)
    return tuple((max if alike[0].at_most else min)(alike, key=lambda each: each.limit) for alike in found.values())


def _values(run: RunData, objective: Objective) -> FloatArray:
    if objective.figure != "itl_s":
        return run.column(objective.figure)
    values = np.full(len(run.requests), np.nan)
    share = PERCENTILES.get(objective.statistic)
    for row in np.flatnonzero(run.itl.counts):
        gaps = np.diff(run.chunks.row(int(row))) * S_PER_US
        values[row] = gaps.mean() if share is None else np.quantile(gaps, share)
    return values
