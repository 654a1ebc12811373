"""Where Locust's events meet ours: a process decides on the test or is told, and either way records what its users send."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from gevent.event import Event
from locust.env import Environment
from locust.event import Events
from locust.runners import Runner, WorkerRunner

from loadtest.users.coordinator import Coordinator
from loadtest.users.options import add_options
from loadtest.users.run import withhold_passwords
from loadtest.users.signals import Signals
from loadtest.users.worker import LocustWorker

INIT_S = 60.0


def listen_to(events: Events) -> None:
    """Have every test on these events recorded. Call it before others whose figures come of the records."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log a line a request
    hooks: Any = events  # untyped in Locust
    hooks.init_command_line_parser.add_listener(lambda parser, **_: add_options(parser))
    initialised = Event()
    hooks.init.add_listener(_init)
    hooks.init.add_listener(lambda **_: initialised.set())
    hooks.test_start.add_listener(partial(_wait_for_init, initialised))


def _wait_for_init(initialised: Event, environment: Environment, **more: Any) -> None:
    """Hold back the start of a worker that joined a running test: it may be asked for users before its init event.

    Locust calls those who listened when it began to call; who begins to listen at that init event is called here.
    """
    if initialised.is_set() or not getattr(environment.parsed_options, "worker", False):
        return
    start: Any = environment.events.test_start
    before = len(start._handlers)  # noqa: SLF001 - there is no other way to ask who listens
    initialised.wait(INIT_S)
    later: Any = type(start)()
    for listener in start._handlers[before:]:  # noqa: SLF001
        later.add_listener(listener)
    later.fire(environment=environment, **more)


def _init(environment: Environment, runner: Runner | None, **_: Any) -> None:
    withhold_passwords(environment)
    heeded = runner is not None and environment.parsed_options is not None
    if isinstance(runner, WorkerRunner):
        LocustWorker(environment, runner).listen()
        if heeded:
            Signals(environment, runner, begun=lambda: True, interrupt=bool).listen()
        return
    coordinator = Coordinator(environment, runner)
    if heeded:
        assert runner is not None
        Signals(environment, runner, begun=coordinator.has_begun, interrupt=coordinator.interrupt).listen()
    coordinator.listen()
