"""What ends Locust before its test is over: the first signal ends it in order, the second at once; neither leaves a traceback.

Locust answers SIGTERM only once its main has come that far (not while a LoadTestShape runs headless, nor while a master
waits for workers), SIGHUP and SIGQUIT never, and SIGINT wherever Python happens to be, in the middle of a user too.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import gevent
import psutil
from locust.env import Environment
from locust.runners import Runner, WorkerRunner

from loadtest.measure.interruption import SIGNALS
from loadtest.users.ending import INTERRUPTED

logger = logging.getLogger(__name__)


class Signals:
    """The signals of a process that Locust's command line runs."""

    def __init__(
        self, environment: Environment, runner: Runner, *, begun: Callable[[], bool], interrupt: Callable[[], object]
    ) -> None:
        """`begun` says whether a test has begun, or whether one need not; `interrupt` notes that it ends early.

        `interrupt` is called once more before the process is gone at once.
        """
        self._environment = environment
        self._runner = runner
        self._begun, self._interrupt = begun, interrupt
        self._heeded: list[signal.Signals] = []
        self._ending = False

    def listen(self) -> None:
        """Take over; a signal that was ignored before (nohup) stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._heeded = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        for number in self._heeded:
            gevent.signal_handler(number, self._first, number)
        events: Any = self._environment.events
        events.quitting.add_listener(self._quitting)

    def _first(self, number: signal.Signals) -> None:
        if self._ending:
            self._again(number)
        self._ending = True
        for other in self._heeded:  # of Python itself: the hub may be busy, and Locust would answer SIGTERM once more
            signal.signal(other, self._again)
        if not self._begun():
            logger.error("interrupted by %s before the test had begun", number.name)
            self._runner.quit()
            _throw(SystemExit(INTERRUPTED))
            return
        self._interrupt()
        if number != signal.SIGTERM or self._shaped():  # SIGTERM is answered by Locust itself
            _throw(KeyboardInterrupt())

    def _shaped(self) -> bool:
        """Whether Locust's main waits for a LoadTestShape to end."""
        shape, options = self._runner.shape_greenlet, self._environment.parsed_options
        return shape is not None and not shape.ready() and bool(getattr(options, "headless", False))

    def _quitting(self, **_: Any) -> None:
        """From here on a signal is one too many: what happened is being summed up."""
        self._ending = True

    def _again(self, number: int, _: object = None) -> None:
        """End the process at once: nothing may wait any more, not even a log's lock."""
        for other in self._heeded:
            signal.signal(other, signal.SIG_IGN)
        self._interrupt()
        os.write(2, f"interrupted again, by {signal.Signals(number).name}: ending at once\n".encode())
        if getattr(self._environment.parsed_options, "processes", None) and not isinstance(self._runner, WorkerRunner):
            for child in psutil.Process().children():  # Locust's workers, which would wait a minute for their master
                child.send_signal(signal.SIGINT)
        os._exit(INTERRUPTED)


def _throw(error: BaseException) -> None:
    """Raise in the main greenlet."""
    hub: Any = gevent.get_hub()
    hub.handle_system_error(type(error), error)
