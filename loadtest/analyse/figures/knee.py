"""How much load a server takes: the knee, from which throughput grows no more, and the rate up to which it kept up.

A queue grows for a while at any rate. That the server does not keep up shows where it also answered fewer requests than came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.figures.stationarity import found_in_flight
from loadtest.analyse.run import LevelData
from loadtest.records import NO_FAILURES
from loadtest.text import counted, listed, number, some_of

# of the output at fewer and at more streams: where it is surely less, something besides the load changed it
DIP_SHARE = 0.85
KNEE_SHARE = 0.95  # of the best throughput; the first level that reaches it is the knee
FEWEST_LEVELS = 3  # of different concurrency, for a knee
FEWER = 0.8  # of the requests that came, where the rate of answers has no interval: so few were answered surely
ABOUT_ALL = 0.95  # of the rate: so many requests came in a short level, or it is said
TOO_FEW = "requests waited to the end, and too few came to tell whether their queue grows"
MOST_UNANSWERED = 0.01  # of a level's requests; with more of them nobody knows whether the server kept up


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
        if self._anywhere:
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
        return self.stops and not (self.dip or self.grows or self._anywhere)

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
    low: float  # of its interval; nan where that is unknown, so that no comparison holds
    high: float

    @classmethod
    def of(cls, level: dict[str, Any]) -> _LevelRate | None:
        """Read a level of summary.json; None where it is of an open loop, or its rate is unknown."""
        users, rate, ci = (level.get(key) for key in ("concurrency", "output_tokens_per_s", "output_tokens_per_s_ci95"))
        if not users or not rate or level.get("rate"):
            return None
        return cls(int(users), float(rate), *map(float, ci or (math.nan, math.nan)))

    def surely_above(self, other: _LevelRate, share: float = 1.0) -> bool:
        """Whether the interval lies above `share` times that of another level."""
        return self.low > share * other.high

    def at_most(self, found: _LevelRate) -> bool:
        """Whether the interval excludes 5 % more than another level may give."""
        return KNEE_SHARE * self.high <= found.high

    def surely_reaches(self, best: _LevelRate) -> bool:
        """Whether the rate is at least 95 % of the best one, by the interval of their difference."""
        halves = (self.high - self.low) / 2, KNEE_SHARE * (best.high - best.low) / 2
        return self.users == best.users or self.rate - KNEE_SHARE * best.rate >= math.hypot(*halves)


def knee(levels: Sequence[dict[str, Any]], void: Sequence[dict[str, Any]] = ()) -> tuple[Knee | None, str | None]:
    """Return the knee of levels of summary.json that differ only in concurrency, or None and the reason.

    `void` are the levels of the same series whose figures are not used: what output does there is not known. The knee is the
    first level within 5 % of the best throughput. Its interval runs from the first level that may be so near, by the levels'
    95 % intervals, to the first that is for sure.
    """
    points = sorted((p for p in map(_LevelRate.of, levels) if p is not None), key=lambda p: p.users)
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
    if not any(math.isnan(p.high) for p in points):
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


@dataclass(frozen=True, slots=True)
class KeptUp:
    """How far a server kept up, by levels of an open loop in summary.json."""

    kept: LevelData | None  # the highest rate at which all was answered and no queue grew, nor at a lower one
    lost: LevelData | None  # the lowest rate at which the queue grew, and fewer were answered than came
    # the lowest rate between them at which not all was answered, or the queue grew by chance
    unclear: LevelData | None

    @classmethod
    def of(cls, levels: Iterable[LevelData]) -> KeptUp | None:
        """Read levels in ascending order of their rate; None where growth is unknown for every one, or the rate itself grew."""
        known = [
            level
            for level in levels
            if level["little"] and level["little"]["growing"] is not None and level.get("rate_to") is None
        ]
        if not known:
            return None
        lost = next((level for level in known if fell_behind(level)), None)
        below = known if lost is None else [one for one in known if one.amount < lost.amount]
        kept = next((level for level in reversed(below) if not why_unclear(level)), None)
        above = [level for level in below if kept is None or level.amount > kept.amount]
        return cls(kept, lost, next(iter(above), None))


def _came(level: LevelData) -> float:
    """Return how many requests a second were due; in a short level chance makes that more or fewer than its rate."""
    return float(level.get("offered_per_s") or level.amount)


def came_fewer(level: LevelData) -> str:
    """Return "7.2 a second came" where by chance that is fewer than the rate; else nothing."""
    return f"{_came(level):.3g} a second came" if _came(level) < ABOUT_ALL * level.amount else ""


def _answered_fewer(level: LevelData, than: float | None = None) -> bool:
    """Whether a level answered fewer requests a second, as far as its answers are enough to tell.

    Fewer than its rate, which is what is named, and than came: more may have come by chance, and fewer too. A rate of sessions
    is none of requests.
    """
    if than is None:
        than = _came(level) if level.get("sessions") else min(_came(level), level.amount)
    answered, ci = level.get("requests_per_s"), level.get("requests_per_s_ci95")
    if answered is None:
        return True
    return bool((ci[1] < than) if ci else (answered <= FEWER * than))


def fell_behind(level: LevelData) -> bool:
    """Whether the queue of a level at one rate grew and fewer were answered than came: the longer it lasts, the longer waits are."""
    steady = level.is_open and level.get("rate_to") is None
    return bool(steady and (level["little"] or {}).get("growing") and _answered_fewer(level))


def why_unclear(level: LevelData) -> str:
    """Say why a level does not show whether the server kept up; empty where it does."""
    if said := unanswered(level):
        return said
    if not level["little"]["growing"]:
        return "" if level["little"].get("steady", True) else TOO_FEW
    grew = " from {in_flight_first:.1f} to {in_flight_last:.1f} requests".format(**level["little"])
    if _answered_fewer(level, _came(level)):
        return f"the queue grew{grew}, as {_came(level):.3g} a second happened to come"
    return f"the queue grew{grew}, which may be chance"


def unanswered(level: LevelData) -> str:
    """Say which requests of a level spared the server work that was meant for it; empty where those are hardly any."""
    outcomes: dict[str, int] = level.get("outcomes") or {}
    shed = int(level.get("shed") or 0)
    left = int((level.get("left") or {}).get("waiting") or 0)
    bad = sum(count for name, count in outcomes.items() if name not in NO_FAILURES)
    whole = sum(outcomes.values())
    if shed + left + bad <= MOST_UNANSWERED * max(whole, 1):
        return ""
    said = [
        f"{some_of(count, whole, 'request')} {what if count > 1 else what.replace('were', 'was')}"
        for count, what in (
            (bad, "failed"),
            (shed, "were not sent (--max-in-flight)"),
            (left, "were left by their users"),
        )
        if count
    ]
    return listed(said)


def kept_up(levels: Iterable[LevelData]) -> str | None:
    """Return a sentence on the rate up to which a server kept up: the queue of no lower level grew.

    `levels` of an open loop in summary.json, by rate. None where growth is unknown for every level, or the rate itself grew.
    """
    found = KeptUp.of(levels)
    if found is None:
        return None
    kept, lost, unclear = found.kept, found.lost, found.unclear
    doubt = "" if unclear is None else f"at {unclear.load} is not known: there {why_unclear(unclear)}"
    if lost is None:
        if kept is None:
            return f"Whether the server can keep up {doubt}."
        more = f"; whether it can {doubt}" if doubt else ""
        return f"The server kept up at {_rate_kept(kept)}: {_steady(kept)}{more}."
    rate, grew = lost.get("requests_per_s"), lost["little"]["growth_per_s"]
    answered = "too few to tell" if rate is None else f"{rate:.3g} requests a second"
    return (
        f"The server kept up at {_rate_kept(kept)}, but not" if kept else "The server did not keep up"
    ) + f" at {lost.load}: there it answered {answered}, and each second {grew:.2g} more were in flight."


def _rate_kept(level: LevelData) -> str:
    fewer = came_fewer(level)
    return f"{level.load}{f' ({fewer})' if fewer else ''}"


def _steady(level: LevelData) -> str:
    law = level["little"]
    return found_in_flight(law["in_flight_first"], law["in_flight_last"], law.get("filled_s"))
