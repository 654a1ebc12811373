"""Whether a level was stationary (Little's law, a growing queue), and the concurrency at which throughput stops growing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtest.analyse.figures import rates
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.text import counted, listed, number, seconds

LITTLE_TOLERANCE = 0.10  # |L / λW − 1| above it, and above what the window's edges explain, is not stationary
QUEUE_GROWTH = 1.5  # requests in flight in the last third of a level over the first, above which a queue grows …
FEW_IN_FLIGHT = 2.0  # … if it is also more than so many requests …
LEAST_GROWTH_SHARE = 0.01  # … and more than this share of the requests that came: else it is one slow wave
BY_CHANCE = 0.9  # … and than this / √n of them, by which more come than leave for a while without any reason
FEWEST_ARRIVALS = 12  # requests that growth is judged by
FEWEST_WAITS = 4.0  # times as long as its first requests wait for their first tokens, below which a level only fills up
SLOWER = 1.25  # times as long: what answers take later in a level than in its first third, above which more load makes them slower
DIP_SHARE = (
    0.85  # of the output at fewer and at more streams: where it is surely less, something besides the load changed it
)
KNEE_SHARE = 0.95  # of the best throughput; the first level that reaches it is the knee
FEWEST_LEVELS = 3  # of different concurrency, for a knee


@dataclass(frozen=True, slots=True)
class Growth:
    """Mean number of requests in flight when one was sent (itself included), in the first and last third of a level."""

    before: float
    after: float
    per_s: float  # growth of the number in flight, requests per second
    share: float  # the same as a share of the requests that came
    requests: int  # how many those were
    slower: bool = False  # whether answers took far longer later in the level than in its first third
    filled_s: float | None = None  # how long the level filled up, where only what came afterwards was compared

    @property
    def growing(self) -> bool:
        """Whether the queue was still growing when the level ended."""
        more = self.after > QUEUE_GROWTH * self.before or self.slower
        more = more and self.after - self.before > FEW_IN_FLIGHT
        return more and self.share > max(LEAST_GROWTH_SHARE, BY_CHANCE / math.sqrt(self.requests))

    @property
    def sentence(self) -> str:
        return (
            f"the queue was still growing, by {self.per_s:.2g} requests a second: {self.before:.1f} in flight in the first "
            f"third of {part_looked_at(self.filled_s)}, {self.after:.1f} in the last"
        )


def part_looked_at(filled_s: float | None) -> str:
    return "the level" if filled_s is None else f"the level after the {seconds(filled_s)} in which it filled up"


@dataclass(frozen=True, slots=True)
class Little:
    """Little's law over the steady window: L = λW holds in a stationary state."""

    in_flight: float  # L: mean number of requests in flight
    per_second: float  # λ: ends per second
    sojourn_s: float  # W: mean time from send to end of the requests that ended
    allowed: float  # by which the ratio may differ from 1: 10 %, or W / window length if that is more
    growth: Growth | None  # None: too few requests

    @property
    def ratio(self) -> float:
        """L / λW: 1 in a stationary state, above 1 where requests pile up."""
        return self.in_flight / (self.per_second * self.sojourn_s)

    @property
    def holds(self) -> bool:
        return abs(self.ratio - 1) <= self.allowed

    @property
    def sentence(self) -> str | None:
        """Say why the level was not stationary; None where it was."""
        if self.holds:
            return None
        how = "more came than left" if self.ratio > 1 else "more left than came"
        return (
            f"not stationary, {how}: {self.in_flight:.1f} requests in flight, and {self.per_second:.3g} ends a second of "
            f"{seconds(self.sojourn_s)} each make {self.per_second * self.sojourn_s:.1f} (Little's law)"
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
            "in_flight_first": self.growth.before if self.growth else None,
            "in_flight_last": self.growth.after if self.growth else None,
            **({"filled_s": self.growth.filled_s} if self.growth and self.growth.filled_s is not None else {}),
        }


def little(run: RunData, level: int, flow: rates.Flow | None = None) -> Little | None:
    """Apply Little's law to a level, warm-ups and failures included; None where nothing ended in its window.

    Each request counts by its share of the window, as in rates: counted by whole ends, λ would be off by up to a round. Pass
    the level's `flow` where it is known already.
    """
    flow = flow or rates.flow(run, next(each for each in run.levels if each["index"] == level))
    if flow is None or not flow.shares.any():
        return None
    window, rows = flow.window, flow.rows
    send, end, shares = run.column("send")[rows], run.column("end")[rows], flow.shares[rows]
    inside = np.clip(np.minimum(end, window.end) - np.maximum(send, window.start), 0.0, None)
    sojourn = float((shares * (end - send)).sum() / shares.sum())
    if sojourn <= 0:
        return None
    everyone = run.of_level(level) & np.isfinite(run.column("send"))
    return Little(
        in_flight=float(inside.sum()) / window.seconds,
        per_second=float(shares.sum()) / window.seconds,
        sojourn_s=sojourn,
        allowed=max(LITTLE_TOLERANCE, sojourn / window.seconds),
        growth=growth(*(run.column(name)[everyone] for name in ("send", "end", "first_token"))),
    )


def growth(send: FloatArray, end: FloatArray, first: FloatArray | None = None) -> Growth | None:
    """Compare the number in flight early and late, by the send and end of every request of a level, seconds.

    It is meant for open loops; in a closed loop the number of users is the limit. None with fewer than 12 requests.

    Args:
        first: the first token of each, nan where none came. A level fills up for as long as an answer takes, on any server.
            So where more are in flight but no more wait for a first token, only requests sent after that time tell whether
            they pile up; and they do only where answers take longer later on. A level that lasts no longer than a few first
            tokens take does not tell.
    """
    if len(send) < FEWEST_ARRIVALS:
        return None
    found = _grown(send, end, send)
    if first is None or not found.growing:
        return found
    begun = np.where(np.isfinite(first), first, end)
    order, third = np.argsort(send, kind="stable"), len(send) // 3
    if np.ptp(send) < FEWEST_WAITS * float((begun - send)[order[:third]].mean()):
        return None
    if _grown(send, begun, send).growing:
        return found
    lasting, *later_on = (float((end - send)[rows].mean()) for rows in np.split(order, (third, 2 * third)))
    slower, later = max(later_on) > SLOWER * lasting, send[send >= send.min() + lasting]
    if len(later) < FEWEST_ARRIVALS:
        return found if slower else None
    found = replace(_grown(send, end, later), filled_s=lasting, slower=slower)
    return None if found.growing and not slower else found


def _grown(send: FloatArray, until: FloatArray, seen_by: FloatArray) -> Growth:
    """Compare the numbers that the first and the last third of the requests sent at `seen_by` found."""
    seen = np.sort(seen_by)
    sent, over = (np.searchsorted(np.sort(at), seen, side="right") for at in (send, until))
    there, third = sent - over, len(seen) // 3
    before, after = float(there[:third].mean()), float(there[-third:].mean())
    apart = float(seen[-third:].mean() - seen[:third].mean())
    per_s = (after - before) / apart if apart > 0 else 0.0
    return Growth(before, after, per_s, per_s * float(np.ptp(seen)) / len(seen), len(seen))


@dataclass(frozen=True, slots=True)
class Knee:
    """The lowest concurrency whose throughput is within 5 % of the best."""

    concurrency: int  # the first measured level that reaches it
    tokens_per_s: float  # at `concurrency`
    # Measured concurrencies: the knee is not below the first nor above the second with 95 % confidence; the second is None
    # where output may still grow past the last level. None as a whole: some level has too few requests for an interval.
    interval: tuple[int, int | None] | None
    first: int  # the lowest level
    last: int  # the highest level
    grows: bool  # the interval of the last level lies above those of all others
    stops: bool  # the intervals of all higher levels exclude 5 % more
    void: tuple[int, ...] = ()  # concurrencies of void levels: next below `concurrency`, else above `last`
    # three levels, the second of which gave surely less than the others: (users, rate)
    dip: tuple[tuple[int, float], ...] = ()
    people: bool = False  # whether users hold conversations

    @property
    def in_between(self) -> bool:
        """Whether a void level lies between `concurrency` and the level before it, so that output may stop growing there."""
        return any(users < self.concurrency for users in self.void)

    @property
    def void_said(self) -> str:
        """Name the void levels: "the level at 4 streams is void"; empty where there is none."""
        if not self.void:
            return ""
        one = len(self.void) == 1
        noun = self.noun[self.void != (1,)]
        return f"the level{'' if one else 's'} at {listed(self.void)} {noun} {'is' if one else 'are'} void"

    @property
    def noun(self) -> tuple[str, str]:
        """What the load counts, one and more of it."""
        return ("person", "people") if self.people else ("stream", "streams")

    @property
    def load(self) -> str:
        """Return `concurrency` in words: "4 streams", "1 person"."""
        return counted(self.concurrency, *self.noun)

    @property
    def sentence(self) -> str:
        """Say what is sure of it: that levels differ only where their intervals do not overlap."""
        streams, more = self.load, f"more {self.noun[1]}"
        most = f"{number(self.tokens_per_s)} tokens/s in all"
        if self.interval is None:
            return f"Output reaches {most} at {streams}; too few requests to tell whether {more} bring more."
        low, high = self.interval
        if self.grows and self.in_between:
            return f"Output reaches {most} at {streams}; whether it still grows there is not known: {self.void_said}."
        if self.grows:
            beyond = f"; {self.void_said}" if self.void else ""
            return f"Output still grows with concurrency: {most} at {streams}{beyond}."
        if self.dip:
            return f"Output reaches {most} at {streams}; whether it grows there is not known: it {self.dip_said}."
        if high is None or self._anywhere:
            return (
                f"Output reaches {most} at {streams}; from {low} to {high or self.last} {self.noun[1]} the intervals overlap, so "
                "whether it grows there is not known."
            )
        if not self.stops:
            return f"Output reaches {most} at {streams}; whether {more} bring more is not known: their intervals are too wide."
        if self.in_between:
            return (
                f"Output grows no more from {streams} on, with {most}; it may stop growing earlier: {self.void_said}."
            )
        if low == high:
            return f"Output stops growing at {streams}, with {most}."
        return f"Output stops growing at {streams} (95 % interval: {low} to {high}), with {most}."

    @property
    def dip_said(self) -> str:
        """Say that output falls and rises again: "goes from 175 to 97.8 and 151 tokens/s at 2, 4 and 8 streams"."""
        (_, before), (_, low), (_, after) = self.dip
        return f"goes from {number(before)} to {number(low)} and {number(after)} tokens/s at {listed([users for users, _ in self.dip])} {self.noun[1]}"

    @property
    def levels_off(self) -> bool:
        """Whether it is sure that output grows no more from `concurrency` on."""
        known = self.interval is not None and self.interval[1] is not None and not self.dip
        return known and self.stops and not self.grows and not self._anywhere

    @property
    def _anywhere(self) -> bool:
        """Whether the knee may be at every level from the first on."""
        if self.interval is None or self.interval[1] is None:
            return True
        return self.interval[0] == self.first and self.interval[0] < self.interval[1]

    def to_dict(self) -> dict[str, Any]:
        return {
            "concurrency": self.concurrency,
            "ci95": list(self.interval) if self.interval else None,
            "output_tokens_per_s": self.tokens_per_s,
            "grows": self.grows,
            **({"void": list(self.void)} if self.void else {}),
        }


@dataclass(frozen=True, slots=True)
class _LevelRate:
    users: int
    rate: float
    ci95: tuple[float, float] | None

    def surely_above(self, other: _LevelRate, share: float = 1.0) -> bool:
        """Whether the interval lies above `share` times that of another level."""
        if self.ci95 is None or other.ci95 is None:
            return False
        return self.ci95[0] > share * other.ci95[1]

    def at_most(self, found: _LevelRate) -> bool:
        """Whether the interval excludes 5 % more than another level may give."""
        return self.ci95 is not None and found.ci95 is not None and KNEE_SHARE * self.ci95[1] <= found.ci95[1]

    def surely_reaches(self, best: _LevelRate) -> bool:
        """Whether the rate is at least 95 % of the best one, by the interval of their difference."""
        if self.users == best.users:
            return True
        if self.ci95 is None or best.ci95 is None:
            return False
        halves = ((self.ci95[1] - self.ci95[0]) / 2, KNEE_SHARE * (best.ci95[1] - best.ci95[0]) / 2)
        return self.rate - KNEE_SHARE * best.rate >= math.hypot(*halves)


def knee(levels: Iterable[dict[str, Any]], void: Sequence[dict[str, Any]] = ()) -> tuple[Knee | None, str | None]:
    """Return the knee of levels of summary.json that differ only in concurrency, or None and the reason.

    `void` are the levels of the same series whose figures are not used: what output does there is not known. The knee is the
    first level within 5 % of the best throughput. Its interval runs from the first level that may be so near, by the levels'
    95 % intervals, to the first that is for sure.
    """
    levels = list(levels)
    points = sorted((p for p in map(_level_rate, levels) if p is not None), key=lambda p: p.users)
    if len({p.users for p in points}) < FEWEST_LEVELS:
        good, be = " that are not void" if void else "", "is" if len(points) == 1 else "are"
        return (
            None,
            f"a knee takes {FEWEST_LEVELS} levels of a closed loop with a throughput{good}, here {be} {len(points)}",
        )
    best = max(points, key=lambda p: p.rate)
    found = next(p for p in points if p.rate >= KNEE_SHARE * best.rate)
    last = points[-1]
    interval = None
    if all(p.ci95 is not None for p in points):
        may = next(p for p in points if p is best or not best.surely_above(p, 1 / KNEE_SHARE))
        surely = next(p for p in points if p.surely_reaches(best))
        interval = (may.users, None if surely.users == last.users else surely.users)
    return Knee(
        concurrency=found.users,
        tokens_per_s=found.rate,
        interval=interval,
        first=points[0].users,
        last=last.users,
        grows=found is last and all(last.surely_above(p) for p in points[:-1]),
        stops=all(p.at_most(found) for p in points if p.users > found.users),
        void=_unknown({int(level["concurrency"]) for level in void if level.get("concurrency")}, points, found.users),
        dip=_dip(points),
        people=any(level.get("sessions") for level in levels),
    ), None


def _dip(points: list[_LevelRate]) -> tuple[tuple[int, float], ...]:
    """Return a level that gave surely less than one of fewer streams and one of more, between these two; empty where none did."""
    for place, low in enumerate(points):
        more = [
            [p for p in side if p.surely_above(low, 1 / DIP_SHARE)] for side in (points[:place], points[place + 1 :])
        ]
        if all(more):
            found = (max(more[0], key=lambda p: p.rate), low, max(more[1], key=lambda p: p.rate))
            return tuple((p.users, p.rate) for p in found)
    return ()


def _unknown(void: set[int], points: list[_LevelRate], knee_at: int) -> tuple[int, ...]:
    """Return the concurrencies of void levels next below the knee, else those above all levels that are known."""
    known = {p.users for p in points}
    below, last = max((users for users in known if users < knee_at), default=0), max(known)
    between = [users for users in void - known if below < users < knee_at]
    return tuple(sorted(between or [users for users in void if users > last]))


def _level_rate(level: dict[str, Any]) -> _LevelRate | None:
    users, rate, ci = (level.get(key) for key in ("concurrency", "output_tokens_per_s", "output_tokens_per_s_ci95"))
    if not users or not rate or level.get("rate"):
        return None
    return _LevelRate(int(users), float(rate), (float(ci[0]), float(ci[1])) if ci else None)
