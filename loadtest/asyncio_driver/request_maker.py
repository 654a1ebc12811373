"""The requests of one driver process: made ahead of the clock where nothing they say depends on an answer."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

from loadtest.asyncio_driver.session_plan import PlannedSession
from loadtest.measure.leaving import Leaving
from loadtest.measure.ledger import Ledger
from loadtest.measure.request import Request
from loadtest.records import Clock
from loadtest.targets.prepare import ReadyTarget
from loadtest.wire import LagLog, Posts, WallClock
from loadtest.workloads.job import Job
from loadtest.workloads.schedule import PlanShare
from loadtest.workloads.source import Session

AHEAD = 256  # requests that may be made ahead, whatever is in flight; an open loop begins with so many


class RequestMaker:
    """Makes the requests of jobs, each with its ordinal in the whole plan; `posts` has an entry for each target."""

    def __init__(self, targets: Sequence[ReadyTarget], posts: Sequence[Posts], clock: Clock, share: PlanShare) -> None:
        workloads = [one.workload for one in targets]
        self._dialects = [one.target.dialect for one in targets]
        self._counts = [workload.counter.count if workload.counter.exact else None for workload in workloads]
        self._posts = posts
        self._clock = clock
        self._numbers = itertools.count(share.worker, share.of)
        self._leaving = Leaving.of(workloads[0].scenario)
        self._save_text = workloads[0].scenario.save_text

    def first_turns(self, sessions: Iterator[PlannedSession], count: int) -> Iterator[Request]:
        for target, session in itertools.islice(sessions, count):
            if (job := session.next(None)) is not None:
                yield self._request(job, session, target)

    def next_turn(self, request: Request, wall: WallClock, lag: LagLog) -> Request | None:
        """Make the next turn of a session, now that the answer before it is there; None where the session is over."""
        job = request.following_job(wall, lag)
        return None if job is None or request.session is None else self._request(job, request.session, request.target)

    def _request(self, job: Job, session: Session, target: int) -> Request:
        """Make the request of a job; t_sched is set at its release."""
        return Request(
            job,
            self._dialects[target],
            self._clock,
            0,
            number=next(self._numbers),
            posts=self._posts[target],
            session=session,
            count=self._counts[target],
            save_text=self._save_text,
            target=target,
            stay=self._leaving.stay(job),
        )


class Stock:
    """The first requests of sessions, to be taken one by one; `count` of them are made at once."""

    def __init__(self, maker: RequestMaker, sessions: Iterator[PlannedSession], count: int, ledger: Ledger) -> None:
        self._maker = maker
        self._sessions = sessions
        self._ahead = deque(maker.first_turns(sessions, count))
        self._ledger = ledger

    def take(self) -> Request | None:
        """Return a request made ahead, else one made now; a quiet moment makes another, unless enough are there."""
        self._ledger.backlog.add(self._restock)
        return self._ahead.popleft() if self._ahead else next(self._maker.first_turns(self._sessions, 1), None)

    def _restock(self) -> None:
        if len(self._ahead) < max(AHEAD, 2 * self._ledger.peak):
            self._ahead.extend(self._maker.first_turns(self._sessions, 1))
