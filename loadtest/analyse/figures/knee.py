"""The knee: the concurrency from which a server's throughput grows no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.text import counted, listed, number

# of the output at fewer and at more streams: where it is surely less, something besides the load changed it; of that at fewer
# alone, output falls
DIP_SHARE = 0.85
KNEE_SHARE = 0.95  # of the best throughput; the first level that reaches it is the knee
FEWEST_LEVELS = 3  # of different concurrency, for a knee


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
    falls: float | None = None  # tokens/s of the last level, where that is surely less than DIP_SHARE of `tokens_per_s`
    people: bool = False  # whether users hold conversations or think

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
    def doubt(self) -> str:
        """Say why it is not known whether output grows at `concurrency`, a clause; empty where levels show it.

        Levels differ only where their intervals do not overlap.
        """
        if self.interval is None:
            return "too few requests to tell"
        if self.grows:
            return self.void_said if self.in_between else ""
        if self.dip:
            (_, before), (_, low), (_, after) = self.dip
            loads = f"{listed([users for users, _ in self.dip])} {self.noun[1]}"
            return f"output goes from {number(before)} to {number(low)} and {number(after)} tokens/s at {loads}"
        first, last = self.interval
        anywhere = last is None or first == self.first < last
        return "" if self.stops and not anywhere else "the intervals are too wide to tell"

    @property
    def levels_off(self) -> bool:
        """Whether it is sure that output grows no more from `concurrency` on."""
        return not (self.doubt or self.grows)

    @property
    def sentence(self) -> str:
        streams, most = self.load, f"{number(self.tokens_per_s)} tokens/s in all"
        if self.doubt:
            return f"Output reaches {most} at {streams}; whether it grows there is not known: {self.doubt}."
        if self.grows:
            beyond = f"; {self.void_said}" if self.void else ""
            return f"Output still grows with concurrency: {most} at {streams}{beyond}."
        low, high = self.interval or (0, 0)
        between = "" if low == high else f" (95 % interval: {low} to {high})"
        falls = "" if self.falls is None else f", and falls to {number(self.falls)} at {self.last}"
        earlier = f"; it may stop growing earlier: {self.void_said}" if self.in_between else ""
        return f"Output stops growing at {streams}{between}, with {most}{falls}{earlier}."

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
    if (loads := len({p.users for p in points})) < FEWEST_LEVELS:
        be = "is" if loads == 1 else "are"
        good = f" that {be} not void" if void else ""
        return None, f"it takes {FEWEST_LEVELS} loads to tell, and here {be} {loads}{good}"
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
        falls=last.rate if found.surely_above(last, 1 / DIP_SHARE) else None,
        people=any(level.get("sessions") or level.get("thinks") for level in levels),
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
