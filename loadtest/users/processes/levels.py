"""Levels of a Locust run: one for each time that another number of users was asked for.

A request belongs to the level that was asked for when it was sent. It is a warm-up while users are still being started or
stopped, and so is each user's first request in a level. The master, or a process alone, keeps `ReachedLevels` and tells workers
which level it is.
"""

from __future__ import annotations

from collections import defaultdict
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


# (level, key of run.json's level, RATE_OF a user class or GONE_OF a worker, value): what only the processes with users know.
Seen = set[tuple[int, str, float | None]]
SEEN_KEYS = ("input_tokens", "output_tokens")
RATE_OF = "rate of "  # and the name of a user class
GONE_OF = "users gone of "  # and the number of a worker: how many of its users had ended by themselves


@dataclass(slots=True)
class _UserCount:
    """A number of users from when it was asked for until another was."""

    users: int
    by_schedule: int = 0  # of them, in an open loop
    reached_ns: int | None = None  # since when all of them ran, monotonic ns
    ended_ns: int | None = None
    more: dict[str, Any] = field(default_factory=dict)  # what else run.json says of it


class ReachedLevels:
    """Numbers the user counts of a run in the order in which they were asked for, and notes when each was reached.

    A number that comes back is another level, because a rate of both together would count what passed in between. While no
    user is asked for there is no new level.
    """

    def __init__(
        self, *, input_lengths: str | None = None, output_lengths: str | None = None, open_loop: bool = False
    ) -> None:
        """Name the distributions that lengths are drawn from, where all users draw from one; `open_loop`: all send by a schedule."""
        self._lengths = (input_lengths, output_lengths)
        self._open_loop = open_loop
        self._asked = 0  # users
        self._stages: list[_UserCount] = []
        self.seen: Seen = set()

    def index(self, users: int) -> int:
        """Return the level of the users that are asked for now; another one begins where their number has changed."""
        if users != self._asked:
            self._asked = users
            self._end_last()
            if users:
                self._stages.append(_UserCount(users))
        return max(len(self._stages) - 1, 0)

    def reached(self, users: int, ours: int | None = None, by_schedule: int = 0) -> None:
        """Note that all users asked for are running, `ours` of them users of models (None: all), `by_schedule` of these in an open loop."""
        self.index(users)
        if users:
            last = self._stages[-1]
            last.users, last.reached_ns = users if ours is None else ours, last.reached_ns or now()
            last.by_schedule = by_schedule

    def give_up(self, why: str) -> None:
        for last in self._stages[-1:]:
            last.more.setdefault("stopped", why)

    def facts(self, anchor_ns: int) -> list[dict[str, Any]]:
        """Return what run.json says of each level; a level that was never reached has no instants."""
        self._end_last()
        return [self._facts(index, stage, anchor_ns) for index, stage in enumerate(self._stages) if stage.users]

    def _end_last(self) -> None:
        for last in self._stages[-1:]:
            last.ended_ns = last.ended_ns or now()

    def _facts(self, index: int, stage: _UserCount, anchor_ns: int) -> dict[str, Any]:
        seen: defaultdict[str, set[Any]] = defaultdict(set)
        for of, which, value in self.seen:
            if of == index:
                seen[which].add(value)
        only: dict[str, Any] = {key: next(iter(seen[key])) for key in SEEN_KEYS if len(seen[key]) == 1}
        rates = [values for which, values in seen.items() if which.startswith(RATE_OF)]
        known = all(len(values) == 1 for values in rates)  # workers may have been given another rate each
        gone = sum(max(values) for which, values in seen.items() if which.startswith(GONE_OF))
        level = Level(
            index=index,
            concurrency=None if self._open_loop else stage.users - stage.by_schedule or None,
            rate=(sum(value or 0.0 for values in rates for value in values) or None) if known else None,
            input_lengths=self._lengths[0] if len(seen["input_tokens"]) > 1 else None,
            output_lengths=self._lengths[1] if len(seen["output_tokens"]) > 1 else None,
            requests=0,
            **only,
        )
        facts = level_facts(level) | stage.more
        if gone:
            facts["users_gone"] = gone
        if level.concurrency and stage.by_schedule:
            facts["by_schedule"] = stage.by_schedule  # users of an open loop beside them
        if stage.reached_ns is not None and stage.ended_ns is not None:
            facts |= {"started_ns": stage.reached_ns - anchor_ns, "ended_ns": stage.ended_ns - anchor_ns}
        return facts
