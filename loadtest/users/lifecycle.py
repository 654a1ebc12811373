"""Where Locust's events meet ours: a process decides on the test or is told, and either way records what its users send."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

import gevent
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
    if runner is not None and environment.parsed_options is not None:
        _end_on_every_signal()
    withhold_passwords(environment)
    if isinstance(runner, WorkerRunner):
        Worker(environment, runner).listen()
    else:
        Decider(environment, runner).listen()


def _end_on_every_signal() -> None:
    """Have a closed terminal and Ctrl-\\ end Locust as SIGTERM does; Locust itself would be gone without a word."""
    for number in (getattr(signal, name, None) for name in ("SIGHUP", "SIGQUIT")):
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            gevent.signal_handler(number, os.kill, os.getpid(), signal.SIGTERM)
