"""All sockets of a wire behind one descriptor of the loop, so that one turn of the loop reads whatever has arrived."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any, Protocol

from loadtest.wire.clock import now
from loadtest.wire.timerfd import Timerfd

TICK_NS = 1_000_000
MANY, FEW = 5.0, 2.0  # arrivals a tick: above the first, waiting for ticks begins; below the second, it ends
LOOKS_A_COUNT = 64  # looks at the sockets, after which arrivals a tick are counted anew
MOST_SOCKETS = 1024  # sockets that one look reads at most
EPOLLIN = 1
EPOLL = getattr(select, "epoll", None)  # Linux has it, unless somebody patched it away


class Loop(Protocol):
    """The loop that wakes the process: asyncio's, or another with these two methods."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> Any:
        """Have `callback` called whenever `fd` is readable."""

    def remove_reader(self, fd: int, /) -> Any:
        """Watch `fd` no more."""


class Poller:
    """Calls back for readable sockets: each at once, or, while many reads arrive, all together every millisecond.

    Waking up for each of 15,000 arrivals a second costs more than reading them (measured at 300 streams: 1.7 times a bare
    C reader at once, 1.2 times on ticks). Kernel stamps say when each one came, so that waiting makes no figure less
    true; without stamps `ticks` must be False. A user's next request leaves up to a tick later, and its record says so.
    """

    def __init__(self, loop: Loop, *, ticks: bool, epoll: Callable[[], Any] | None = EPOLL) -> None:
        self._loop = loop
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._epoll = epoll() if epoll is not None else None
        self._timer = Timerfd.open() if ticks and self._epoll is not None else None
        self.ticking = False
        self._looks = self._events = 0
        self._since = now()
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._look)

    def add(self, fd: int, callback: Callable[[], object]) -> None:
        """Have `callback` called whenever `fd` is readable."""
        self._callbacks[fd] = callback
        if self._epoll is None:
            self._loop.add_reader(fd, callback)
        else:
            self._epoll.register(fd, EPOLLIN)

    def remove(self, fd: int) -> None:
        """Stop calling back for `fd`; call this before closing it, for loops hold descriptors."""
        if self._callbacks.pop(fd, None) is None:
            return
        if self._epoll is None:
            self._loop.remove_reader(fd)
        else:
            self._epoll.unregister(fd)

    def end_ticks(self) -> None:
        """Call back at once from now on: some sockets, such as unix sockets, get no stamps from the kernel."""
        if self._timer is not None:
            self._tick_or_not(ticking=False)
            self._timer.close()
            self._timer = None

    def close(self) -> None:
        """Let go of the loop and of every socket; removing one afterwards does nothing."""
        if self._epoll is None:
            for fd in list(self._callbacks):
                self.remove(fd)
            return
        self._callbacks.clear()
        self._tick_or_not(ticking=False)
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        if self._timer is not None:
            self._timer.close()

    def _look(self) -> None:
        assert self._epoll is not None
        callbacks, ready = self._callbacks, self._epoll.poll(0, MOST_SOCKETS)
        for fd, _ in ready:
            callback = callbacks.get(fd)
            if callback is not None:  # the one before may have closed it
                callback()
        self._events += len(ready)
        self._looks += 1
        if self._looks == LOOKS_A_COUNT:
            self._choose_pace()

    def _tick(self) -> None:
        assert self._timer is not None
        self._timer.clear()
        self._look()

    def _choose_pace(self) -> None:
        """Begin or end to wait for ticks, by how many arrivals a tick there were since the last choice."""
        t = now()
        a_tick = self._events * TICK_NS / (t - self._since)
        self._looks, self._events, self._since = 0, 0, t
        if self._timer is not None:
            self._tick_or_not(ticking=a_tick > (FEW if self.ticking else MANY))

    def _tick_or_not(self, *, ticking: bool) -> None:
        assert self._epoll is not None
        if ticking == self.ticking or self._timer is None:
            return
        self.ticking = ticking
        self._timer.every(TICK_NS if ticking else 0)
        waits, rests = (self._timer.fd, self._epoll.fileno()) if ticking else (self._epoll.fileno(), self._timer.fd)
        self._loop.remove_reader(rests)
        self._loop.add_reader(waits, self._tick if ticking else self._look)
