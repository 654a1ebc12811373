"""Goodput: the requests, and the requests per second, that each met every objective by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.figures.rates import Flow
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.metrics import S_PER_US
from loadtest.slo import STATISTIC_SHARES, Objective


@dataclass(frozen=True, slots=True)
class Goodput:
    """The requests of a level that met every objective that applies to a single request."""

    good: int
    requests: int  # measured ones, including failed ones and without those that loadtest cancelled
    per_second: float | None  # None where the level has no rate

    @property
    def share(self) -> float:
        return self.good / self.requests

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        return {"good": self.good, "requests": self.requests, "share": self.share, "requests_per_s": self.per_second}


def goodput(
    run: RunData,
    level: int,
    objectives: Iterable[Objective],
    *,
    requests_per_s: float | None,
    flow: Flow | None = None,
) -> Goodput | None:
    """Return a level's goodput: how many requests meet every objective, and the part of `requests_per_s` that does.

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
        met &= np.isnan(values) | (values <= objective.limit if objective.at_most else values >= objective.limit)
    good = int(met.sum())
    shares = flow.shares if flow is not None else ok.astype(np.float64)
    inside = float(shares[ok].sum())
    rate = None if requests_per_s is None or inside <= 0 else requests_per_s * float(shares[met].sum()) / inside
    return Goodput(good, int(rows.sum()), rate)


def widest(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Return for each figure the objective whose limit is the easiest for a single request."""
    found: dict[str, Objective] = {}
    for objective in objectives:
        other = found.get(objective.figure)
        if objective.a_request and (other is None or other.met(objective.limit) is False):
            found[objective.figure] = objective
    return tuple(found.values())


def _values(run: RunData, objective: Objective) -> FloatArray:
    if objective.figure != "itl_s":
        return run.column(objective.figure)
    values = np.full(len(run.requests), np.nan)
    share = STATISTIC_SHARES.get(objective.statistic)
    for row in np.flatnonzero(run.itl.counts):
        gaps = np.diff(run.chunks.row(int(row))) * S_PER_US
        values[row] = gaps.mean() if share is None else np.quantile(gaps, share)
    return values
