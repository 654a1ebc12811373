"""A true open loop: requests leave by an absolute schedule, whoever is still waiting for an answer.

The schedule is one for the whole test. Every process makes all of it from the run's seed and sends its share, so neither
the number of users nor that of workers changes the rate; it begins once all users are there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Literal

import gevent
from gevent.pool import Group
from locust import task

from loadtest.errors import ScenarioError
from loadtest.measure.schedule import PlanShare, instants
from loadtest.scenario import Scenario
from loadtest.users import recording
from loadtest.users.levels import Seen
from loadtest.users.options import Settings
from loadtest.users.user import ModelUser
from loadtest.wire import now

EARLY_NS = 1_500_000  # a sleep may end 1 ms late: sleep to this much before the instant, then let others run until it
LATE_NS = 5_000_000  # an arrival that left later than this is counted as late
POLL_S = 0.01

logger = logging.getLogger(__name__)


class OpenLoopUser(ModelUser):
    """Sends by the schedule instead of in a loop: `rate` requests a second over all users and workers together.

    Redefine `arrive` to send something else than a plain ask(); it must hand `t_sched` on. One user of each process
    keeps the schedule, the others stand by.
    """

    abstract = True

    warmup = 0
    rate: float | str = 1.0  # requests/s, or its text as the environment has it
    arrivals: Literal["poisson", "constant", "gamma"] = "poisson"
    burstiness: float | None = None  # of gamma arrivals: 1 is Poisson, below it they come in bursts

    @classmethod
    def schedule(cls, seed: int | None) -> Iterator[int]:
        """Yield when requests are due, ns from the beginning of the test's schedule; raises ScenarioError."""
        if not isinstance(cls.burstiness, int | float | None) or isinstance(cls.burstiness, bool):
            raise ScenarioError(f"burstiness must be a number, not {cls.burstiness!r}.")
        return instants(cls.requests_per_s(), cls.arrivals, seed, burstiness=cls.burstiness)

    @classmethod
    def requests_per_s(cls) -> float:
        """Return `rate` as a number; raises ScenarioError where it is none."""
        try:
            return float("no" if isinstance(cls.rate, bool) else cls.rate)
        except (TypeError, ValueError, OverflowError):
            raise ScenarioError(f"rate must be a number of requests/s, not {cls.rate!r}.") from None

    @classmethod
    def scenario(cls, settings: Settings, *, host: str | None, name: str, seed: int) -> Scenario:
        try:
            next(cls.schedule(seed))
        except ScenarioError as error:
            raise ScenarioError(f"user class {cls.__name__}: {error}") from None
        return super().scenario(settings, host=host, name=name, seed=seed)

    def arrive(self, t_sched: int) -> None:
        """Send the request that was due at `t_sched` (monotonic ns)."""
        self.client.ask(t_sched=t_sched)

    @task
    def keep_schedule(self) -> None:
        """Send this process's share of the schedule until the test stops."""
        recorder = recording.recorder()
        assert recorder is not None
        with recorder.one_schedule:
            while (share := recording.schedule_share()) is None:
                gevent.sleep(POLL_S)
            in_flight = Group()
            try:
                self._keep(recorder, share, in_flight)
            finally:
                in_flight.kill(recording.Stopped)

    def _keep(self, recorder: recording.Recorder, share: tuple[int, int, int], in_flight: Group) -> None:
        wall_ns, rank, of = share
        start = now() + wall_ns - time.time_ns()
        mine = PlanShare(rank, of)
        for number, offset in enumerate(self.schedule(self.client.seed)):
            if not mine.takes(number):
                continue
            due = start + offset
            if (left := due - now()) > EARLY_NS:
                gevent.sleep((left - EARLY_NS) / 1e9)
            while now() < due:
                gevent.sleep(0)
            if (
                recording.schedule_share() != share
            ):  # workers came or went: another share of a schedule that begins anew
                return
            recorder.released += 1
            recorder.late += now() - due > LATE_NS
            recorder.seen.setdefault(recorder.standing().level, Seen()).rates.add(self.requests_per_s())
            in_flight.spawn(self.arrive, due)
