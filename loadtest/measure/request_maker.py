"""Makes requests of jobs, for both drivers, and says of each when its user hangs up."""

from __future__ import annotations

import random
from collections.abc import Iterator

from loadtest.dialects import Dialect
from loadtest.measure.request import STAYS, Request, Stay
from loadtest.records import Clock
from loadtest.scenario import Scenario, times_of
from loadtest.wire import Heartbeat, Posts
from loadtest.workloads.conversations import Conversation
from loadtest.workloads.job import Job
from loadtest.workloads.source import Session, seed_from
from loadtest.workloads.tokens import Counter


class RequestMaker:
    """Makes the requests that go to one target in one dialect; what they all have in common stands here once.

    `posts` makes them ready to be sent, and `numbers` gives each its ordinal among all of this process's. `target` is the
    index of the target in run.json.
    """

    def __init__(
        self,
        scenario: Scenario,
        dialect: Dialect,
        posts: Posts,
        counter: Counter,
        *,
        clock: Clock,
        heartbeat: Heartbeat,
        numbers: Iterator[int],
        target: int,
    ) -> None:
        self._dialect = dialect
        self._posts = posts
        self._count = counter.count if counter.exact else None
        self._clock, self._heartbeat = clock, heartbeat
        self._numbers = numbers
        self._target = target
        self._scenario = scenario

    def request(self, job: Job, session: Session | None = None, *, number: int | None = None) -> Request:
        """Make the request of a job; its t_sched is set at its release, and its level by Locust's users."""
        return Request(
            job,
            self._dialect,
            self._clock,
            0,
            number=next(self._numbers) if number is None else number,
            posts=self._posts,
            session=session,
            count=self._count,
            save_text=self._scenario.save_text,
            target=self._target,
            stay=stay_of(self._scenario, job),
            heartbeat=self._heartbeat,
        )

    def following(self, request: Request) -> Request | None:
        """Make the next turn of a session; None where the session is over, or the turn before it failed or was left."""
        session, answer = request.session, request.answered()
        if session is None or answer is None:
            return None
        job = session.next(answer)
        if isinstance(session, Conversation):
            request.remark = session.passed
        return None if job is None else self.request(job, session)


def stay_of(scenario: Scenario, job: Job) -> Stay:
    """Return how long the user of a job stays, by the seed and the job's place in the plan alone.

    Warm-ups stay to the end, for they show nothing.
    """
    share = scenario.leave or 0.0
    if job.warmup or (scenario.patience is None and not share):
        return STAYS
    place = job.session if job.session is not None else job.id
    rng = random.Random(seed_from(scenario.seed, "stay", job.level, place, job.turn))
    patience = None if scenario.patience is None else times_of(scenario.patience).seconds(rng)
    expected = job.output_tokens or 0
    leaves = rng.random() < share and expected > 0
    return Stay(patience, rng.randint(1, max(expected - 1, 1)) if leaves else None, expected)
