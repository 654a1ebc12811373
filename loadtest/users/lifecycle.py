"""Where Locust's events meet ours: a process decides on the test or is told, and either way records what its users send."""

from __future__ import annotations

import logging
from typing import Any

from locust.env import Environment
from locust.event import Events
from locust.runners import Runner, WorkerRunner

from loadtest.users.decider import Decider
from loadtest.users.options import add_options
from loadtest.users.run import withhold_passwords
from loadtest.users.worker import Worker


def listen(events: Events) -> None:
    """Have every test on these events recorded. Call it before others whose figures come of the records."""
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log a line a request
    hooks: Any = events  # untyped in Locust
    hooks.init_command_line_parser.add_listener(lambda parser, **_: add_options(parser))
    hooks.init.add_listener(_init)


def _init(environment: Environment, runner: Runner | None, **_: Any) -> None:
    withhold_passwords(environment)
    if isinstance(runner, WorkerRunner):
        Worker(environment, runner).listen()
    else:
        Decider(environment, runner).listen()
