"""Signals that end a Locust test early: the first ends it in order, the second at once, neither with a traceback.

Locust itself answers SIGTERM only in some of its states (not while a LoadTestShape runs headless, nor while a master waits
for workers), never answers SIGHUP and SIGQUIT, and raises SIGINT wherever Python happens to be, inside a user too.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from typing import Any

import gevent
import psutil
from locust.env import Environment
from locust.runners import Runner, WorkerRunner

from loadtest.errors import INTERRUPTED
from loadtest.measure.interruption import heeded_signals

logger = logging.getLogger(__name__)


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
            for child in psutil.Process().children():  # Locust's workers would wait a minute for their master
                child.send_signal(signal.SIGINT)
        os._exit(INTERRUPTED)


def _throw(error: BaseException) -> None:
    """Raise in the main greenlet."""
    hub: Any = gevent.get_hub()
    hub.handle_system_error(type(error), error)
