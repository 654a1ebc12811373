"""Whether a level was stationary (Little's law, a growing queue), and from which concurrency on more brings no more."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse import offered
from loadtest.analyse.frames import FloatArray, Run
from loadtest.analyse.stats import steady_window

OFF = 0.10  # L against λW by more than this, and by more than the window's edges explain: not stationary
QUEUE_GROWTH = 1.5  # last third of a level over its first: a queue that grows
FEW_IN_FLIGHT = 2.0
LEAST_SHARE = 0.01  # of the requests that came: a queue that grows by less is one long wave, of 500/s more than of 1/s
FEWEST_ARRIVALS = 12  # to judge growth by
KNEE_SHARE = 0.95  # of the best throughput: the first level that reaches it is the knee
FEWEST_LEVELS = 3
Z95 = 1.96


@dataclass(frozen=True, slots=True)
class Growth:
    """Mean requests in flight, as each new one found them with itself, in the first and the last third of a level."""

    before: float
    after: float
    per_s: float  # requests in flight that each second added, from the one third to the other
    share: float  # of the requests that came, that were added

    @property
    def growing(self) -> bool:
        """Whether the queue was still growing when the level ended."""
        more = self.after > QUEUE_GROWTH * self.before and self.after - self.before > FEW_IN_FLIGHT
        return more and self.share > LEAST_SHARE

    @property
    def sentence(self) -> str:
        """Say it with its figures."""
        return (
            f"the queue was still growing, by {self.per_s:.2g} requests a second: {self.before:.1f} in flight in the first "
            f"third of the level, {self.after:.1f} in the last"
        )


@dataclass(frozen=True, slots=True)
class Little:
    """Little's law over the steady window: L = λW holds where as many requests end as come."""

    in_flight: float  # L: mean over the window
    per_second: float  # λ: ends a second
    sojourn_s: float  # W: mean time from send to end, of those that ended in the window
    allowed: float  # by which the ratio may be off 1: 10 %, or one sojourn's share of the window
    growth: Growth | None  # None: too few requests

    @property
    def ratio(self) -> float:
        """L ÷ λW; 1 in a steady state, above 1 where requests pile up."""
        return self.in_flight / (self.per_second * self.sojourn_s)

    @property
    def holds(self) -> bool:
        """Whether the ratio is near enough to 1."""
        return abs(self.ratio - 1) <= self.allowed

    @property
    def sentence(self) -> str | None:
        """Say why the level was not stationary; None where it was."""
        if self.holds:
            return None
        how = "more came than left" if self.ratio > 1 else "more left than came"
        return (
            f"not stationary, {how}: {self.in_flight:.1f} requests in flight, and {self.per_second:.3g} ends a second of "
            f"{self.sojourn_s:.3g} s each make {self.per_second * self.sojourn_s:.1f} (Little's law)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds of it."""
        return {
            "in_flight": self.in_flight,
            "ends_per_s": self.per_second,
            "sojourn_s": self.sojourn_s,
            "ratio": self.ratio,
            "holds": self.holds,
            "growing": self.growth.growing if self.growth else None,
            "growth_per_s": self.growth.per_s if self.growth else None,
        }


def little(run: Run, level: int) -> Little | None:
    """Hold Little's law against a level, warm-up and failures included; None where nothing ended in the window."""
    send, end = run.column("send"), run.column("end")
    mine = np.asarray(run.requests["level"] == level, dtype=np.bool_) & np.isfinite(send) & np.isfinite(end)
    measured = mine & run.measured(level)
    if not measured.any():
        return None
    first_measured = float(send[measured].min())
    send, end = send[mine], end[mine]
    window = steady_window(send, end, first_measured)
    ended = (end > window.start) & (end <= window.end)
    if window.seconds <= 0 or not ended.any():
        return None
    inside = np.clip(np.minimum(end, window.end) - np.maximum(send, window.start), 0.0, None)
    sojourn = float((end - send)[ended].mean())
    if sojourn <= 0:
        return None
    return Little(
        in_flight=float(inside.sum()) / window.seconds,
        per_second=int(ended.sum()) / window.seconds,
        sojourn_s=sojourn,
        allowed=max(OFF, sojourn / window.seconds),
        growth=growth(send, end),
    )


def growth(send: FloatArray, end: FloatArray) -> Growth | None:
    """Compare requests in flight early and late, by the send and end of every request of a level, seconds.

    Means something for open loops only: in a closed loop the number of users is the limit. None with too few.
    """
    if len(send) < FEWEST_ARRIVALS:
        return None
    sends, ends = np.sort(send), np.sort(end)
    in_flight = np.arange(1, len(sends) + 1) - np.searchsorted(ends, sends, side="right")
    third = len(sends) // 3
    before, after = float(in_flight[:third].mean()), float(in_flight[-third:].mean())
    seconds = float(sends[-third:].mean() - sends[:third].mean())
    per_s = (after - before) / seconds if seconds > 0 else 0.0
    return Growth(before, after, per_s, per_s * float(np.ptp(sends)) / len(sends))


@dataclass(frozen=True, slots=True)
class Knee:
    """The concurrency from which on throughput stays within 5 % of its best."""

    concurrency: int  # the first measured level that reaches it
    low: int  # the knee is surely not below this …
    high: int | None  # … nor above this; None: throughput may still grow past the last level
    tokens_per_s: float  # at `concurrency`
    grows: bool  # the last level is the first to reach it: there may be no knee yet
    sure: bool  # every level's throughput has an interval of its own

    @property
    def sentence(self) -> str:
        """Say it with its interval."""
        streams = f"{self.concurrency} stream{'s' if self.concurrency != 1 else ''}"
        if self.grows:
            return f"Output still grows with concurrency: {self.tokens_per_s:.1f} tokens/s in all at {streams}."
        if self.high is None:
            between = f" (95 % interval: {self.low} or more)"
        elif self.low < self.high:
            between = f" (95 % interval: {self.low} to {self.high})"
        else:
            between = ""
        return f"Output stops growing at {streams}{between}: {self.tokens_per_s:.1f} tokens/s in all there."

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "concurrency": self.concurrency,
            "ci95": [self.low, self.high],
            "output_tokens_per_s": self.tokens_per_s,
            "grows": self.grows,
        }


def kept_up(levels: Iterable[dict[str, Any]]) -> str | None:
    """Say up to which rate a server keeps up, from an open loop's levels of summary.json in the order of their rates.

    It does while no queue grows. None where that is unknown of every level, or where the rate itself grew.
    """
    known = [
        level
        for level in levels
        if level["little"] and level["little"]["growing"] is not None and level.get("rate_to") is None
    ]
    if not known:
        return None
    lost = next((level for level in known if level["little"]["growing"]), None)
    kept = [level for level in known if lost is None or offered.amount(level) < offered.amount(lost)]
    if lost is None:
        return f"The server keeps up at {offered.name(known[-1])}: it answers {_answered(known[-1])}."
    grew = lost["little"]["growth_per_s"]
    return (
        f"The server keeps up at {offered.name(kept[-1])}, but not" if kept else "The server does not keep up"
    ) + f" at {offered.name(lost)}: there it answers {_answered(lost)}, and each second {grew:.2g} more wait."


def _answered(level: dict[str, Any]) -> str:
    rate = level.get("requests_per_s")
    return "too few to tell" if rate is None else f"{rate:.3g} a second"


@dataclass(frozen=True, slots=True)
class _Point:
    users: int
    rate: float
    error: float  # standard error; nan where no interval is known

    def reaches(self, best: _Point, lean: float) -> bool:
        """Whether the rate is 95 % of the best one, `lean` standard errors of the difference granted to it."""
        if self.users == best.users:
            return True
        error = math.hypot(self.error, KNEE_SHARE * best.error)
        return self.rate - KNEE_SHARE * best.rate + lean * (error if math.isfinite(error) else 0.0) >= 0


def knee(levels: Iterable[dict[str, Any]]) -> tuple[Knee | None, str | None]:
    """Return the knee of a summary's levels that differ in nothing but concurrency, or None and the reason.

    A level counts as there when its throughput is within 5 % of the best one. The interval runs from just above the last
    level that is surely below that to the first that surely reaches it, by the levels' own 95 % intervals.
    """
    points = sorted((p for p in map(_point, levels) if p is not None), key=lambda p: p.users)
    if len({p.users for p in points}) < FEWEST_LEVELS:
        return None, f"a knee takes {FEWEST_LEVELS} levels of a closed loop with a throughput, here are {len(points)}"
    best = max(points, key=lambda p: p.rate)
    found = next(p for p in points if p.reaches(best, 0.0))
    may = next(i for i, p in enumerate(points) if p.reaches(best, Z95))
    surely = next(p for p in points if p.reaches(best, -Z95))
    last = points[-1]
    return Knee(
        concurrency=found.users,
        low=points[may - 1].users + 1 if may else points[0].users,
        high=None if surely.users == last.users else surely.users,
        tokens_per_s=found.rate,
        grows=found.users == last.users,
        sure=all(math.isfinite(p.error) for p in points),
    ), None


def _point(level: dict[str, Any]) -> _Point | None:
    users, rate, ci = (level.get(key) for key in ("concurrency", "output_tokens_per_s", "output_tokens_per_s_ci95"))
    if not users or not rate or level.get("rate"):
        return None
    return _Point(int(users), float(rate), (ci[1] - ci[0]) / 2 / Z95 if ci else math.nan)
