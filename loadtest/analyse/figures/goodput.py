"""Goodput: how many requests, and how many a second, each met every objective by itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.figures.rates import Flow
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import Run
from loadtest.metrics import S_PER_US
from loadtest.slo import SHARES, Objective


@dataclass(frozen=True, slots=True)
class Goodput:
    """Requests of a level that met every objective that a single request can meet."""

    good: int
    requests: int  # measured ones, failed ones among them; those that we stopped are not
    per_second: float | None  # None where the level has no length

    @property
    def share(self) -> float:
        return self.good / self.requests

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        return {"good": self.good, "requests": self.requests, "share": self.share, "requests_per_s": self.per_second}


def goodput(
    run: Run,
    level: int,
    objectives: Iterable[Objective],
    *,
    requests_per_s: float | None,
    flow: Flow | None = None,
) -> Goodput | None:
    """Return a level's goodput: how many requests meet every objective, and how many of `requests_per_s` do.

    A failed request meets none. Where a figure has several limits (p50 and p95) the widest counts, for the tighter one
    speaks of the median and not of each request; totals of a level are left out, and itl is a request's own gaps at the
    statistic asked for. None without a request, without such an objective, or where an objective's figure is unknown.

    Args:
        requests_per_s: of the level's requests that ended well, as summary.json has it.
        flow: the level's window: each request then counts by its share of it, as in `requests_per_s`.
    """
    asked = widest(objectives)
    rows = run.measured(level) & np.asarray(run.requests["outcome"] != "cancelled", dtype=np.bool_)
    if not asked or not rows.any():
        return None
    ok = run.good(level)
    met = ok.copy()
    for objective in asked:
        values = _values(run, objective)
        if ok.any() and np.isnan(values[ok]).all():
            return None
        # What a request does not have (the tokens/s of an answer of one token) it cannot miss.
        met &= np.isnan(values) | (values <= objective.limit if objective.at_most else values >= objective.limit)
    good = int(met.sum())
    shares = flow.shares if flow is not None else ok.astype(np.float64)
    inside = float(shares[ok].sum())
    rate = None if requests_per_s is None or inside <= 0 else requests_per_s * float(shares[met].sum()) / inside
    return Goodput(good, int(rows.sum()), rate)


def widest(objectives: Iterable[Objective]) -> tuple[Objective, ...]:
    """Return for each figure the objective that asks the least of a single request."""
    found: dict[str, Objective] = {}
    for objective in objectives:
        other = found.get(objective.figure)
        if objective.a_request and (other is None or other.met(objective.limit) is False):
            found[objective.figure] = objective
    return tuple(found.values())


def _values(run: Run, objective: Objective) -> FloatArray:
    if objective.figure != "itl_s":
        return run.column(objective.figure)
    values = np.full(len(run.requests), np.nan)
    share = SHARES.get(objective.statistic)
    for row in np.flatnonzero(run.itl.counts):
        gaps = np.diff(run.chunks.row(int(row))) * S_PER_US
        values[row] = gaps.mean() if share is None else np.quantile(gaps, share)
    return values
