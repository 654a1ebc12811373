"""Which sessions of a level one process sends to which target, their first requests, made ahead, and which turns count.

Several processes may share the plan.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from loadtest.measure.ledger import Ledger
from loadtest.measure.request import Request
from loadtest.measure.request_maker import RequestMaker
from loadtest.metrics import NS_PER_S
from loadtest.scenario import Level
from loadtest.workloads.schedule import PlanShare, mean_think_time
from loadtest.workloads.source import Session
from loadtest.workloads.workload import Workload

AHEAD = 256  # requests that may be made ahead, whatever is in flight; an open loop begins with so many

PlannedSession = tuple[int, Session]  # the index of a target, and a session that is sent there


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """One process's share of all sessions, in order.

    User j and arrival j are the target's that is the j-th in `rotation`, indices of targets, round after round; `workloads`
    has what is sent to each.
    """

    workloads: Sequence[Workload]
    rotation: Sequence[int]
    share: PlanShare

    def target_of(self, j: int) -> int:
        return self.rotation[j % len(self.rotation)]

    def targets(self, users: int) -> list[int]:
        """Return the targets of this process's users, one entry a user."""
        return [self.target_of(j) for j in self.users(users)]

    def users(self, users: int) -> list[int]:
        """Return which of so many users are this process's."""
        return [j for j in range(users) if self.share.takes(j)]

    def joins(self, users: int) -> list[int]:
        """Return how long after a level's start each user of this process begins, ns.

        Who holds conversations comes alone: people are spread over one mean think time.
        """
        scenario = self.workloads[0].scenario
        step = mean_think_time(scenario) / users if scenario.has_sessions else 0.0
        return [int(user * step * NS_PER_S) for user in self.users(users)]

    def of_level(self, level: Level, users: int) -> tuple[int, dict[int, Iterator[PlannedSession]]]:
        """Return how many warm-up requests are expected of this process's users, and the sessions of each target."""
        mine = self.targets(users)
        scenario = self.workloads[0].scenario
        if scenario.has_sessions:
            expected = round(self.workloads[0].turns_mean * len(mine) * scenario.warmup)
            # Without end: the first conversations are the warm-up, and turns are counted by the driver.
            return expected, {
                target: self.of_users(level, users, target, itertools.count()) for target in dict.fromkeys(mine)
            }
        numbers = range(users * scenario.warmup)
        warmups = {
            target: list(self.of_users(level, users, target, numbers, warmup=True)) for target in dict.fromkeys(mine)
        }
        return sum(map(len, warmups.values())), {
            target: itertools.chain(
                first,
                # without end where time ends the level
                self.of_users(level, users, target, itertools.count() if scenario.duration else range(level.requests)),
            )
            for target, first in warmups.items()
        }

    def of_users(
        self, level: Level, users: int, target: int, numbers: Iterable[int], *, warmup: bool = False
    ) -> Iterator[PlannedSession]:
        """Yield the sessions of these numbers that this process's users send to a target."""
        for i in numbers:
            if self.mine(i, users) and self.target_of(i % users) == target:
                yield target, self.workloads[target].session(level, i, warmup=warmup)

    def warm_arrivals(self, level: Level) -> Iterator[PlannedSession]:
        """Yield the warm-up sessions before a schedule, each with its target: as many for each."""
        for i in range(len(self.workloads) * self.workloads[0].scenario.warmup):
            if self.share.takes(0):
                target = i % len(self.workloads)
                yield target, self.workloads[target].session(level, i, warmup=True)

    def arrivals(self, level: Level, count: int) -> Iterator[PlannedSession]:
        """Yield the sessions of this process's arrivals, of `count` in all, each with its target."""
        for i in self.share.pick(range(count)):
            target = self.target_of(i)
            yield target, self.workloads[target].session(level, i)

    def mine(self, i: int, users: int) -> bool:
        """Whether the i-th session of `users` users is this process's; user j takes sessions j, j + users, …"""
        return self.share.takes(i % users)


class Stock:
    """The first requests of sessions, to be taken one by one; `count` of them are made at once. `makers` are the targets'."""

    def __init__(
        self, makers: Sequence[RequestMaker], sessions: Iterator[PlannedSession], count: int, ledger: Ledger
    ) -> None:
        self._requests = (
            makers[target].request(job, session)
            for target, session in sessions
            if (job := session.next(None)) is not None
        )
        self._ahead = deque(itertools.islice(self._requests, count))
        self._ledger = ledger

    def take(self) -> Request | None:
        """Return a request made ahead, else one made now; a quiet moment makes another, unless enough are there."""
        self._ledger.backlog.add(self._restock)
        return self._ahead.popleft() if self._ahead else next(self._requests, None)

    def _restock(self) -> None:
        if len(self._ahead) < max(AHEAD, 2 * self._ledger.peak):
            self._ahead.extend(itertools.islice(self._requests, 1))


class TurnCount:
    """Counts the turns that one process releases in a level: those from when every user has ended its first sessions."""

    __slots__ = ("_left", "_on_warm", "_owing", "counts")

    def __init__(self, users: Iterable[int], warmup: int, requests: int | None, on_warm: Callable[[], object]) -> None:
        """Each user ends `warmup` sessions first, and `on_warm` is called when all have done so.

        Then `counts` is to be set, and `requests` turns count, None where time ends the level.
        """
        self._owing = dict.fromkeys(users, warmup)
        self._left = requests
        self._on_warm = on_warm
        self.counts = not warmup
        if not self._owing:
            on_warm()

    @property
    def over(self) -> bool:
        """Whether no further turn counts."""
        return self.counts and self._left == 0

    def take(self, request: Request) -> bool:
        """Mark a turn that is about to be released as warm-up or not; return False where none is left to be sent."""
        if self.over:
            return False
        request.job = replace(request.job, warmup=not self.counts)
        if self.counts and self._left is not None:
            self._left -= 1
        return True

    def session_ended(self, user: int) -> None:
        """Note that a user's session is over, however it ended."""
        if self.counts or user not in self._owing:
            return
        self._owing[user] -= 1
        if not self._owing[user]:
            del self._owing[user]
            if not self._owing:
                self._on_warm()
