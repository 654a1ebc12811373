"""Connects each Locust process to its part: a master or process alone to a Coordinator, a worker to a LocustWorker."""

from __future__ import annotations

import logging
from functools import partial
from types import TracebackType
from typing import Any

from gevent.event import Event
from locust.env import Environment
from locust.event import Events
from locust.exception import StopUser
from locust.runners import Runner, WorkerRunner

from loadtest.users.client import misuse, place_in_test
from loadtest.users.options import add_options
from loadtest.users.processes import recording
from loadtest.users.processes.coordinator import Coordinator
from loadtest.users.processes.gevent_hub import kill_put_off
from loadtest.users.processes.run import withhold_passwords
from loadtest.users.processes.signals import Signals
from loadtest.users.processes.worker import LocustWorker

INIT_S = 60.0  # how long a worker that joins a running test may take to its init event


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
    if recorder is None or recorder.on_misuse is None or why is None:
        return
    user = getattr(user_instance, "user", user_instance)  # of a task set
    recorder.on_misuse(f"user class {type(user).__name__} ({place_in_test(tb)}): {why}")
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
        LocustWorker(environment, runner).listen()
        if heeded:
            Signals(environment, runner, begun=lambda: True, interrupt=lambda: None).listen()
        return
    coordinator = Coordinator(environment, runner)
    if heeded:
        assert runner is not None
        Signals(environment, runner, begun=coordinator.has_begun, interrupt=coordinator.interrupt).listen()
    coordinator.listen()
