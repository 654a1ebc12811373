"""Levels of a Locust run: one for each number of users that was asked for.

A request belongs to the level of the user count that was asked for when it was sent. It is a warm-up while users are still
being started or stopped, and so is each user's first request in a level. The master, or a process alone, keeps `ReachedLevels`
and tells workers which level it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from loadtest.scenario import Level
from loadtest.targets.run_facts import level_facts
from loadtest.wire import now


@dataclass(frozen=True, slots=True)
class CurrentLevel:
    """The level at the moment when a request is sent."""

    level: int
    steady: bool  # False while users are being started or stopped


@dataclass(slots=True)
class LevelRequests:
    """Lengths and rates of one level's requests, which only the processes with users know."""

    inputs: set[int | None] = field(default_factory=set)
    outputs: set[int | None] = field(default_factory=set)
    rates: set[float] = field(default_factory=set)

    def merge(self, other: LevelRequests) -> None:
        self.inputs |= other.inputs
        self.outputs |= other.outputs
        self.rates |= other.rates

    def to_json(self) -> list[list[Any]]:
        return [list(self.inputs), list(self.outputs), list(self.rates)]

    @classmethod
    def from_json(cls, row: list[list[Any]]) -> LevelRequests:
        return cls(*map(set, row))


@dataclass(slots=True)
class _SteadyPeriod:
    """A period in which all users that were asked for were running."""

    level: int
    started: int  # monotonic ns
    ended: int | None = None


class ReachedLevels:
    """Numbers the user counts of a run in the order in which they were asked for, and notes when each was reached."""

    def __init__(self, *, input_lengths: str | None = None, output_lengths: str | None = None) -> None:
        """Name the distributions that lengths are drawn from, where all users draw from one."""
        self._lengths = (input_lengths, output_lengths)
        self._index: dict[int, int] = {}
        self._periods: list[_SteadyPeriod] = []
        self._given_up: dict[int, str] = {}
        self._missed: dict[int, int] = {}  # level -> most users missing at once, because they ended by themselves
        self.seen: defaultdict[int, LevelRequests] = defaultdict(LevelRequests)

    def index(self, users: int) -> int:
        """Return the level of a user count."""
        return self._index.setdefault(users, len(self._index))

    def ramp(self) -> None:
        """Note that the user count begins to change."""
        if self._periods and self._periods[-1].ended is None:
            self._periods[-1].ended = now()

    def reached(self, users: int) -> None:
        """Note that all users of a level are running."""
        self.ramp()
        self._periods.append(_SteadyPeriod(self.index(users), now()))

    def give_up(self, users: int, why: str) -> None:
        """Note that a level was ended early, and why."""
        self._given_up.setdefault(self.index(users), why)

    def miss(self, users: int, gone: int) -> None:
        """Note that `gone` of a level's users have ended."""
        level = self.index(users)
        self._missed[level] = max(gone, self._missed.get(level, 0))

    def merge_seen(self, seen: dict[int, LevelRequests]) -> None:
        for level, facts in seen.items():
            self.seen[level].merge(facts)

    def facts(self, anchor_ns: int) -> list[dict[str, Any]]:
        """Return what run.json says of each level; started_ns and ended_ns only where it ran in one period."""
        self.ramp()
        return [self._facts(users, index, anchor_ns) for users, index in self._index.items() if users]

    def _facts(self, users: int, index: int, anchor_ns: int) -> dict[str, Any]:
        seen = self.seen[index]
        level = Level(
            index=index,
            concurrency=users,
            input_tokens=_only(seen.inputs),
            output_tokens=_only(seen.outputs),
            input_lengths=self._lengths[0] if len(seen.inputs) > 1 else None,
            output_lengths=self._lengths[1] if len(seen.outputs) > 1 else None,
            words=None,
            requests=0,
        )
        periods = [period for period in self._periods if period.level == index and period.ended is not None]
        facts = {**level_facts(level), "rate": _only(seen.rates)}
        if index in self._given_up:
            facts["stopped"] = self._given_up[index]
        if index in self._missed:
            facts["users_gone"] = self._missed[index]
        if len(periods) == 1 and periods[0].ended is not None:
            facts |= {"started_ns": periods[0].started - anchor_ns, "ended_ns": periods[0].ended - anchor_ns}
        return facts


def _only(values: Collection[Any]) -> Any:
    return next(iter(values)) if len(values) == 1 else None
