"""Levels of a Locust run: one for each number of users that was asked for.

A request belongs to the level of the user count that was asked for when it was sent. It is a warm-up while users are still
being started or stopped, and so is each user's first request in a level. The master, or a process alone, keeps `ReachedLevels`
and tells workers which level it is.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from loadtest.scenario import Level
from loadtest.targets.run_facts import level_facts
from loadtest.wire import now


@dataclass(frozen=True, slots=True)
class CurrentLevel:
    """The level at the moment when a request is sent."""

    level: int
    steady: bool  # False while users are being started or stopped


# (level, key of run.json's level or RATE_OF a user class, value): what only the processes with users know.
Seen = set[tuple[int, str, float | None]]
SEEN_KEYS = ("input_tokens", "output_tokens")
RATE_OF = "rate of "  # and the name of a user class


class ReachedLevels:
    """Numbers the user counts of a run in the order in which they were asked for, and notes when each was reached."""

    def __init__(
        self, *, input_lengths: str | None = None, output_lengths: str | None = None, open_loop: bool = False
    ) -> None:
        """Name the distributions that lengths are drawn from, where all users draw from one; `open_loop`: all send by a schedule."""
        self._lengths = (input_lengths, output_lengths)
        self._open_loop = open_loop
        self._index: dict[int, int] = {}
        self._ours: dict[int, int] = {}  # of a user count, how many are users of models; a locustfile may have others
        self._since: tuple[int, int] | None = None  # the level whose users all run, and since when, monotonic ns
        self._periods: list[tuple[int, int, int]] = []  # (level, start, end) of earlier times in which all users ran
        self._more: defaultdict[int, dict[str, Any]] = defaultdict(dict)  # what else run.json says of a level
        self.seen: Seen = set()

    def index(self, users: int) -> int:
        return self._index.setdefault(users, len(self._index))

    def ramp(self) -> None:
        """Note that the user count begins to change."""
        if self._since is not None:
            self._periods.append((*self._since, now()))
            self._since = None

    def reached(self, users: int, ours: int | None = None) -> None:
        """Note that all users of a level are running, `ours` of them users of models (None: all)."""
        self._ours[users] = users if ours is None else ours
        self.ramp()
        self._since = self.index(users), now()

    def give_up(self, users: int, why: str) -> None:
        self._more[self.index(users)].setdefault("stopped", why)

    def miss(self, users: int, gone: int) -> None:
        """Note that `gone` of a level's users have ended by themselves; run.json says how many were missing at most."""
        more = self._more[self.index(users)]
        more["users_gone"] = max(gone, more.get("users_gone", 0))

    def facts(self, anchor_ns: int) -> list[dict[str, Any]]:
        """Return what run.json says of each level; started_ns and ended_ns only where it ran in one period."""
        self.ramp()
        asked = ((self._ours.get(users, users), index) for users, index in self._index.items())
        return [self._facts(users, index, anchor_ns) for users, index in asked if users]

    def _facts(self, users: int, index: int, anchor_ns: int) -> dict[str, Any]:
        seen = {key: {value for of, which, value in self.seen if (of, which) == (index, key)} for key in SEEN_KEYS}
        only: dict[str, Any] = {key: next(iter(values)) for key, values in seen.items() if len(values) == 1}
        rates = {(which, value) for of, which, value in self.seen if of == index and which.startswith(RATE_OF)}
        known = len(dict(rates)) == len(rates)  # workers may have been given another rate each
        level = Level(
            index=index,
            concurrency=None if self._open_loop else users,
            rate=(sum(value or 0.0 for _, value in rates) or None) if known else None,
            input_lengths=self._lengths[0] if len(seen["input_tokens"]) > 1 else None,
            output_lengths=self._lengths[1] if len(seen["output_tokens"]) > 1 else None,
            requests=0,
            **only,
        )
        facts = level_facts(level) | self._more[index]
        periods = [(started, ended) for level_then, started, ended in self._periods if level_then == index]
        if len(periods) == 1:
            facts |= {"started_ns": periods[0][0] - anchor_ns, "ended_ns": periods[0][1] - anchor_ns}
        return facts
