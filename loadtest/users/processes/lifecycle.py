"""Connects each Locust process to its part, a master or process alone to a Coordinator, a worker to a LocustWorker.

Signals end a test early: the first ends it in order, the second at once, neither with a traceback. Locust itself answers
SIGTERM only in some of its states (not while a LoadTestShape runs headless, nor while a master waits for workers), never
answers SIGHUP and SIGQUIT, and raises SIGINT wherever Python happens to be, inside a user too.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

import gevent
import psutil
from gevent.event import Event
from locust.env import Environment
from locust.event import Events
from locust.exception import StopUser
from locust.runners import Runner, WorkerRunner

from loadtest.errors import INTERRUPTED
from loadtest.measure.interruption import heeded_signals
from loadtest.users.options import add_options
from loadtest.users.processes import recording
from loadtest.users.processes.coordinator import Coordinator
from loadtest.users.processes.gevent_hub import kill_put_off
from loadtest.users.processes.messages import Trouble
from loadtest.users.processes.run import withhold_passwords
from loadtest.users.processes.worker import LocustWorker
from loadtest.users.task_mistakes import misuse, place_in_test

INIT_S = 60.0  # how long a worker that joins a running test may take to its init event

logger = logging.getLogger(__name__)


def listen_to(events: Events) -> None:
    """Record every test on these events. To be called before the listeners that use the records."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # httpx would log a line for each request
    hooks: Any = events  # untyped in Locust
    hooks.init_command_line_parser.add_listener(lambda parser, **_: add_options(parser))
    initialised = Event()
    hooks.init.add_listener(_init)
    hooks.init.add_listener(lambda **_: initialised.set())
    hooks.test_start.add_listener(partial(_wait_for_init, initialised))
    hooks.test_stop.add_listener(_settle)  # before listeners of the locustfile, which then see all requests
    hooks.user_error.add_listener(_end_at_misuse)
    # Locust would print a traceback for each user whose on_start fails.
    logging.getLogger("locust.user.users").addFilter(lambda record: not any(map(misuse, record.args or ())))


def _settle(**_: Any) -> None:
    if (recorder := recording.current_test.recorder) is not None:
        with kill_put_off():
            recorder.backlog.flush()


def _end_at_misuse(user_instance: Any, exception: Exception, tb: TracebackType | None, **_: Any) -> None:
    """End the test where a task uses its client wrongly, and the user before Locust logs the traceback."""
    recorder, why = recording.current_test.recorder, misuse(exception)
    if recorder is None or recorder.on_trouble is None or why is None:
        return
    user = getattr(user_instance, "user", user_instance)  # of a task set
    recorder.on_trouble(Trouble.MISUSE, f"user class {type(user).__name__} ({place_in_test(tb)}): {why}")
    raise StopUser


def _wait_for_init(initialised: Event, environment: Environment, **more: Any) -> None:
    """Delay the start of a worker that joins a running test, because it may be asked for users before its init event.

    Locust calls the listeners that were there when it fired test_start; those added at the init event are called here.
    """
    if initialised.is_set() or not getattr(environment.parsed_options, "worker", False):
        return
    start: Any = environment.events.test_start
    before = len(start._handlers)  # noqa: SLF001 - Locust has no public list of listeners
    initialised.wait(INIT_S)
    for listener in start._handlers[before:]:  # noqa: SLF001
        listener(environment=environment, **more)


def _init(environment: Environment, runner: Runner | None, **_: Any) -> None:
    withhold_passwords(environment)
    heeded = runner is not None and environment.parsed_options is not None
    if isinstance(runner, WorkerRunner):
        worker = LocustWorker(environment, runner)
        worker.listen()
        if heeded:
            Signals(environment, runner, begun=lambda: True, interrupt=worker.interrupt).listen()
        return
    coordinator = Coordinator(environment, runner)
    if heeded:
        assert runner is not None
        Signals(environment, runner, begun=coordinator.has_begun, interrupt=coordinator.interrupt).listen()
    coordinator.listen()


class Signals:
    """The signal handlers of a process that Locust's command line runs."""

    def __init__(
        self, environment: Environment, runner: Runner, *, begun: Callable[[], bool], interrupt: Callable[[], object]
    ) -> None:
        """`begun` says whether a test has begun (or need not), `interrupt` notes that the test ends early.

        `interrupt` is called again before the process ends at once.
        """
        self._environment = environment
        self._runner = runner
        self._begun, self._interrupt = begun, interrupt
        self._heeded: list[signal.Signals] = []
        self._ending = False

    def listen(self) -> None:
        self._heeded = heeded_signals()
        for number in self._heeded:
            gevent.signal_handler(number, self._first, number)
        events: Any = self._environment.events
        events.quitting.add_listener(self._quitting)

    def _first(self, number: signal.Signals) -> None:
        if self._ending:
            self._again(number)
        self._ending = True
        for other in self._heeded:  # by Python itself: gevent's hub may be busy
            signal.signal(other, self._again)
        if not self._begun():
            logger.error("interrupted by %s before the test had begun", number.name)
            self._runner.quit()
            _throw(SystemExit(INTERRUPTED))
            return
        self._interrupt()
        if number != signal.SIGTERM or self._shaped():  # Locust answers SIGTERM itself
            _throw(KeyboardInterrupt())

    def _shaped(self) -> bool:
        """Whether Locust's main waits for a LoadTestShape to end."""
        shape, options = self._runner.shape_greenlet, self._environment.parsed_options
        return shape is not None and not shape.ready() and bool(getattr(options, "headless", False))

    def _quitting(self, **_: Any) -> None:
        """Let any further signal end the process at once, because the results are being written."""
        self._ending = True

    def _again(self, number: int, _: object = None) -> None:
        """End the process at once, without waiting for anything, even a log's lock."""
        for other in self._heeded:
            signal.signal(other, signal.SIG_IGN)
        self._interrupt()
        os.write(2, f"interrupted again, by {signal.Signals(number).name}: ending at once\n".encode())
        if getattr(self._environment.parsed_options, "processes", None) and not isinstance(self._runner, WorkerRunner):
            # Locust's workers would wait a minute for their master, and after one signal for their tasks.
            for child in psutil.Process().children():
                for each in (signal.SIGINT, signal.SIGTERM):
                    child.send_signal(each)
        os._exit(INTERRUPTED)


def _throw(error: BaseException) -> None:
    hub: Any = gevent.get_hub()
    hub.handle_system_error(type(error), error)
