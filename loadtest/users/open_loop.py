"""An open loop: requests are sent by an absolute schedule, however many are still unanswered.

Each user class has one schedule for the whole test. Every process makes all of it from the run's seed and sends its share, so
the rate does not depend on the number of users or workers. The schedule begins once all users are running.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import gevent
from gevent.pool import Group
from locust import task
from locust.exception import StopUser

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.users.answer import CONTROL
from loadtest.users.options import Settings
from loadtest.users.processes import recording
from loadtest.users.processes.gevent_hub import sleep_until
from loadtest.users.processes.levels import RATE_OF
from loadtest.users.user import ModelUser
from loadtest.wire import now
from loadtest.workloads.schedule import instants

LATE_NS = 5_000_000  # a request sent later than this after its instant counts as late
SHARE_POLL_S = 0.01

logger = logging.getLogger(__name__)


class OpenLoopUser(ModelUser):
    """Sends `rate` requests a second by the schedule, over all users and workers together.

    Override `arrive` to send something other than a plain ask(); it must pass `t_sched` on. In each process one user of a
    class keeps its schedule, the others do nothing.
    """

    abstract = True

    warmup = 0
    rate: float | str = 1.0  # requests/s, or its text as the environment has it
    arrivals: Literal["poisson", "constant", "gamma"] = "poisson"
    burstiness: float | None = None  # of gamma arrivals: 1 is Poisson, below 1 requests come in bursts

    @classmethod
    def schedule(cls, seed: object) -> Iterator[int]:
        """Yield when requests are due, ns from the beginning of the schedule; raise ScenarioError."""
        return instants(cls.requests_per_s(), cls.arrivals, seed, burstiness=cls.burstiness)

    @classmethod
    def requests_per_s(cls) -> float:
        """Return `rate` as a number; raise ScenarioError where it is not one."""
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
        recorder = recording.current_test.recorder
        assert recorder is not None
        schedule = recorder.schedules[type(self)]
        with schedule.one_user:
            while (share := recording.current_test.share) is None:
                gevent.sleep(SHARE_POLL_S)
            if schedule.share != share:
                start, mine = now() + share.start - time.time_ns(), share.part
                every = type(self).schedule(f"{self.client.seed} {type(self).__name__}")
                schedule.later = (start + offset for offset in islice(every, mine.worker, None, mine.of))
                schedule.share, schedule.due = share, next(schedule.later)
            in_flight = Group()
            try:
                self._keep(recorder, schedule, in_flight)
            finally:
                in_flight.kill(recording.Stopped)

    def _keep(self, recorder: recording.Recorder, schedule: recording.KeptSchedule, in_flight: Group) -> None:
        while True:
            sleep_until(schedule.due)
            if recording.current_test.share != schedule.share:  # users or workers came or went: it begins anew
                return
            recorder.released += 1
            recorder.late += now() - schedule.due > LATE_NS
            recorder.seen.add((recorder.current_level().level, RATE_OF + type(self).__name__, self.requests_per_s()))
            in_flight.spawn(self._arrive, schedule.due)
            schedule.due = next(schedule.later)

    def _arrive(self, due: int) -> None:
        """Send the request that is due; report to Locust, as a task's, what a locustfile's own `arrive` raises."""
        events: Any = self.environment.events  # untyped in Locust
        try:
            self.arrive(due)
        except CONTROL:
            pass  # these steer a task, and an arrival is none
        except Exception as error:
            with contextlib.suppress(StopUser):  # a listener may end the test by it
                events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)
                logger.exception("arrive() failed")
