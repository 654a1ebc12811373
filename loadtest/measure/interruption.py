"""What ends a run before its plan is done: the signals of a terminal, a shell and a service manager."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

if TYPE_CHECKING:
    import asyncio

# Ctrl-C, kill, a terminal that was closed, Ctrl-\.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name))


def heeded_signals() -> list[signal.Signals]:
    """Return those of SIGNALS that were not ignored before, as by nohup or in a background job; those stay ignored.

    Python handles signals in the main thread alone: on another there are none.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


class NothingRecorded(KeyboardInterrupt):
    """A run was interrupted before its folder was made: no request had counted yet."""


@contextmanager
def nothing_recorded_without(path: Path) -> Iterator[None]:
    """Have an interrupt say that nothing was recorded where it came before the folder was made."""
    try:
        yield
    except KeyboardInterrupt as error:
        if path.exists():
            raise
        raise NothingRecorded(*error.args) from None


class Stoppable(Protocol):
    def stop(self) -> None: ...


class Stopping:
    """Within this context, on a running loop, the first signal stops the driver in order and the second cancels this task.

    Afterwards all handlers are restored. On another thread than the main one, whoever wants to end the run calls `stop`.
    """

    def __init__(self, driver: Stoppable) -> None:
        self._driver = driver
        self._before: dict[signal.Signals, Any] = {}
        self._count = 0
        self._loop: asyncio.AbstractEventLoop
        self._task: asyncio.Task[Any] | None = None

    def __enter__(self) -> Self:
        import asyncio

        loop = asyncio.get_running_loop()
        self._loop, self._task = loop, asyncio.current_task()
        for number in heeded_signals():
            self._before[number] = signal.getsignal(number)
            loop.add_signal_handler(number, self.stop)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL if before is None else before)

    def stop(self) -> None:
        """Stop the driver in order; called a second time, cancel it. To be called on the loop."""
        self._count += 1
        if self._count == 1:
            self._driver.stop()
        elif self._task is not None:
            self._task.cancel()


def interrupting() -> None:
    """Make every signal that ends a process raise KeyboardInterrupt, as Ctrl-C does, so that everything is tidied up."""

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in heeded_signals():
        signal.signal(number, interrupt)
