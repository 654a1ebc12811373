"""Records of a Locust run: one Recorder in each process that runs users, one file each in the run's folder.

`record_listeners` are told of every record once it is on disk; `live` says what is in flight; `current_test` is the test that
this process has a part in. All of this is state of the process, as a Locust test is.
"""

from __future__ import annotations

import gc
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.lock import BoundedSemaphore
from locust.runners import Runner

from loadtest.errors import LoadTestError, RunFolderError
from loadtest.measure.descriptors import room_for
from loadtest.measure.failure import FailedInARow
from loadtest.measure.ledger import Ledger
from loadtest.measure.request import Request
from loadtest.records import Clock, Record
from loadtest.run_folder import RecordWriter, RunFolder, SampleWriter
from loadtest.users.channel import Channel
from loadtest.users.processes.gevent_hub import GeventBacklog, GeventHeartbeat, GeventWaiter
from loadtest.users.processes.levels import GONE_OF, CurrentLevel, Seen
from loadtest.users.processes.messages import Trouble
from loadtest.users.processes.user_target import UserTarget
from loadtest.wire import kernel_stamping, now
from loadtest.workloads.data_source import WORKER_STRIDE
from loadtest.workloads.schedule import PlanShare

# limit of ending what is in flight: a task may begin another request whenever one is ended
MOST_TO_END_NS = 1_000_000_000

logger = logging.getLogger(__name__)


# Requests in flight by name: how many are (decoding, waiting for their first token).
InFlight = dict[str, tuple[int, int]]

# Called with (name, record) for every record, cancelled and warm-up ones included, once it is on disk.
record_listeners: list[Callable[[str, Record], None]] = []


class Stopped(GreenletExit):
    """Ends what a user of ours has in flight in greenlets of its own, as the end of the test does."""


@dataclass(frozen=True, slots=True)
class ScheduleShare:
    """This process's part of the schedules of open loops, and when they begin: once all users are there."""

    start: int  # wall clock, ns
    part: PlanShare


@dataclass(slots=True)
class KeptSchedule:
    """How far this process's part of a user class's schedule was sent. Where its keeper is stopped, the next user goes on."""

    one_user: BoundedSemaphore = field(default_factory=BoundedSemaphore)  # held by the keeper
    share: ScheduleShare | None = None  # None before the first one
    due: int = 0  # of the next request, monotonic ns
    later: Iterator[int] = field(default_factory=lambda: iter(()))  # of those behind it


@dataclass(slots=True)
class CurrentTest:
    """The test that this process has a part in; after its end, what is known of it until another one begins."""

    recorder: Recorder | None = None  # while it runs
    over: bool = False  # it has ended, and no other has begun
    folder: RunFolder | None = None  # None before the first test, and where nothing is written
    facts: dict[str, Any] = field(default_factory=dict)  # run.json; empty on a worker, and before the first test
    refusal: str | None = None  # the sentence with which the latest test was refused
    # the process's exit code, whatever listeners of the test's own say: it could not be measured
    code: int | None = None
    share: ScheduleShare | None = None


current_test = CurrentTest()


def live() -> InFlight:
    return current_test.recorder.ledger.by_name() if current_test.recorder is not None else {}


def client_load() -> tuple[float, float] | None:
    """Return what this process last saw of itself, (longest gap between polls in s, CPU in cores); None without a test."""
    return current_test.recorder.ledger.client if current_test.recorder is not None else None


def total_in_flight(flying: InFlight) -> tuple[int, int]:
    """Return how many requests of all names are (decoding, waiting)."""
    return sum(decoding for decoding, _ in flying.values()), sum(waiting for _, waiting in flying.values())


def note_run(folder: RunFolder | None, facts: dict[str, Any]) -> None:
    """Note that a test has begun, into which folder, and what run.json says of it."""
    current_test.folder, current_test.facts, current_test.refusal = folder, facts, None


def open_recorder(**parts: Any) -> Recorder:
    """Begin to record in this process (arguments of Recorder); ends what may still be open."""
    close_recorder()
    current_test.share, current_test.over = None, False
    current_test.recorder = opened = Recorder(**parts)
    return opened


def close_recorder() -> Recorder | None:
    """End recording: every request that ended is on disk and told of. Returns what was closed, for its figures."""
    closed = current_test.recorder
    if closed is not None:
        closed.close()
        current_test.recorder, current_test.over = None, True
    return closed


def _failures_allowed(user_targets: Iterable[UserTarget]) -> dict[int, int]:
    """Return, by index of server and model, how many failures in a row end a level: the fewest that a user class says."""
    found: dict[int, int] = {}
    for one in user_targets:
        if (most := one.scenario.stop_after_errors) is not None:
            found[one.index] = min(most, found.get(one.index, most))
    return found


def why_not(error: Exception) -> str:
    """Return one sentence on what keeps a process from recording; log the traceback where loadtest itself is at fault."""
    if isinstance(error, LoadTestError):
        return str(error)
    if isinstance(error, OSError):
        return f"the run's files cannot be written: {error}."
    logger.error("loadtest itself failed", exc_info=error)
    return f"loadtest itself failed ({type(error).__name__}: {error})."


class Recorder:
    """Everything that one process needs to measure its users' requests: wires, clock, lag, files."""

    def __init__(
        self,
        *,
        user_targets: dict[str, UserTarget],
        folder: RunFolder | None,
        worker: int,
        users: int,
        source: str,
        current_level: Callable[[], CurrentLevel],
        runner: Runner | None = None,
        on_trouble: Callable[[Trouble, str], object] | None = None,
    ) -> None:
        """Prepare everything for about `users` users of this process.

        `folder` None: nothing is written; `runner` None: users run without one; `worker` keeps prompts of several processes apart; `source` names samples;
        `on_trouble` is told what keeps the test from going on, and why (None: nobody is, and Locust shows a misuse's traceback).
        """
        self.on_trouble = on_trouble
        room_for(None if any(one.open_loop for one in user_targets.values()) else users)
        self.current_level = current_level
        self.seen: Seen = set()
        self.late = self.released = 0  # open loop: arrivals sent late, and all of this process
        self.schedules: defaultdict[type, KeptSchedule] = defaultdict(KeptSchedule)  # of open loops, by user class
        self._stack = ExitStack()
        self._stack.enter_context(kernel_stamping())
        self.clock = Clock.now()
        self.heartbeat = GeventHeartbeat()
        self._waiter = GeventWaiter()
        self._stack.callback(self._waiter.close)
        self.backlog = GeventBacklog()
        self._failed = FailedInARow(_failures_allowed(user_targets.values()))
        self._simulated = next(filter(None, (one.target.server.simulated for one in user_targets.values())), None)
        self.ledger = self._open_ledger(folder, str(worker), source)
        numbers = itertools.count(worker * WORKER_STRIDE)
        self.user_numbers = itertools.count(worker * WORKER_STRIDE)
        different = {id(one): one for one in user_targets.values()}  # several classes may share a target
        channels = {
            key: Channel(one, self._waiter, clock=self.clock, heartbeat=self.heartbeat, numbers=numbers)
            for key, one in different.items()
        }
        for channel in channels.values():
            self._stack.callback(channel.wire.close)
            channel.warm_up(users)
        self._by_class = {name: channels[id(one)] for name, one in user_targets.items()}
        self._sampler = gevent.spawn(self._sample, runner, f"{GONE_OF}{worker}")
        gc.collect()
        gc.freeze()  # a full collection over everything imported is a pause of 10 to 30 ms
        self.heartbeat.start()

    def _open_ledger(self, folder: RunFolder | None, worker: str, source: str) -> Ledger:
        records: RecordWriter | None = None
        samples: SampleWriter | None = None
        if folder is not None:
            opened = self._stack.enter_context
            writer = folder.record_writer(self.clock, worker=worker, driver="locust", simulated=self._simulated)
            records = opened(closing(writer))
            samples = opened(closing(folder.sample_writer(self.clock, source=source)))
        return Ledger(
            self.backlog,
            records=records,
            samples=samples,
            stops=(GreenletExit, KeyboardInterrupt, SystemExit),
            on_record=[self._recorded],
            on_broken=lambda why: self._tell(Trouble.BROKEN, why),
        )

    def _recorded(self, name: str, record: Record) -> None:
        """Say where too many requests in a row were failures, and tell the listeners of a record."""
        if (why := self._failed.hopeless(record)) is not None:
            self._tell(Trouble.HOPELESS, why)
        for listener in record_listeners:
            listener(name, record)

    def _tell(self, kind: Trouble, why: str) -> None:
        if self.on_trouble is not None:
            self.on_trouble(kind, why)

    def channel(self, class_name: str) -> Channel:
        if (channel := self._by_class.get(class_name)) is None:
            raise RunFolderError(f"user class {class_name} was not there when the test began; start it anew.")
        return channel

    def begin(self, request: Request, name: str) -> CurrentLevel:
        """Wait for the request's turn to be sent, take it for in flight, and say where the test stands."""
        self.heartbeat.pass_gate()
        current_level, job = self.current_level(), request.job
        self.ledger.begin(request, name)
        level = current_level.level
        self.seen |= {(level, "input_tokens", job.input_tokens), (level, "output_tokens", job.output_tokens)}
        return current_level

    def close(self) -> None:
        """Record what has ended, end what a task left in flight in greenlets of its own, and close the files."""
        until = now() + MOST_TO_END_NS
        while self.ledger.in_flight and now() < until:
            self._waiter.interrupt(Stopped)
            gevent.sleep(0)
        self.backlog.close()
        if self.released:
            logger.info("open loop: %d of %d arrivals left late", self.late, self.released)
        self._sampler.kill()
        self.heartbeat.stop()
        self._stack.close()
        gc.unfreeze()

    def _sample(self, runner: Runner | None, gone_of: str) -> None:
        """Write once a second what this process sees of itself, and notice users that stay away: those of the end may go before it."""
        before = 0
        while True:
            gevent.sleep(1.0)
            current_level = self.current_level()
            self.ledger.sample(current_level.level, self.heartbeat.take())
            gone = runner.target_user_count - runner.user_count if runner is not None and current_level.steady else 0
            if (stay_away := min(gone, before)) > 0:
                self.seen.add((current_level.level, gone_of, stay_away))
            before = gone
