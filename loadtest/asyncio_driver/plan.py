"""Which sessions of a level one process sends, where several processes may share the plan."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from loadtest.measure.schedule import PlanShare
from loadtest.scenario import Level
from loadtest.workloads.source import Session
from loadtest.workloads.workload import Workload


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """One process's share of a workload's sessions, in order."""

    workload: Workload
    share: PlanShare

    def warmups(self, level: Level, users: int) -> Iterator[Session]:
        """Yield the warm-up sessions of this process's users."""
        for i in range(users * self.workload.scenario.warmup):
            if self.mine(i, users):
                yield self.workload.session(level, i, warmup=True)

    def counted(self, level: Level, users: int) -> Iterator[Session]:
        """Yield this process's counted sessions; without end where time ends the level."""
        for i in range(level.requests) if self.workload.scenario.duration is None else itertools.count():
            if self.mine(i, users):
                yield self.workload.session(level, i)

    def arrivals(self, level: Level, count: int) -> Iterator[Session]:
        """Yield the sessions of this process's arrivals, of `count` in all."""
        return (self.workload.session(level, i) for i in self.share.pick(range(count)))

    def mine(self, i: int, users: int) -> bool:
        """Whether the i-th session of `users` users is this process's; user j takes sessions j, j + users, …"""
        return self.share.takes(i % users)
