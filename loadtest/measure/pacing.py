"""When requests may leave: at an instant, within about 50 µs and never before it; or with a permit, at a rate."""

from __future__ import annotations

import asyncio
import heapq
import math
from typing import Self

from loadtest.measure.backlog import Backlog
from loadtest.metrics import NS_PER_S
from loadtest.wire import Timerfd, now
from loadtest.workloads.schedule import PlanShare

# An event loop's own timers count whole milliseconds, as coarse as the gaps at 500 requests/s. Where the kernel offers no
# timer that a loop can wait for, the loop's timer wakes us this much early and turns of the loop fill the rest.
LOOP_TIMER_NS = 1_500_000
BACK_OFF_S = 0.25  # a user's pause after a failure, longer after each further one, so that a dead server is spared
LONGEST_BACK_OFF_S = 1.0


def back_off(failures: int) -> float:
    """Return how long a user pauses after so many failures in a row, s."""
    return min(BACK_OFF_S * failures, LONGEST_BACK_OFF_S)


class Alarm:
    """Wakes coroutines at instants of the monotonic clock; a context, for it holds a descriptor.

    Work of `backlog`, where there is one, keeps clear of the next instant.
    """

    def __init__(self, backlog: Backlog | None = None) -> None:
        self._timer: Timerfd | None = None
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []  # a heap by instant, in the order asked
        self._asked = 0
        self._backlog = backlog

    def __enter__(self) -> Self:
        self._timer = Timerfd.open()
        if self._timer is not None:
            asyncio.get_running_loop().add_reader(self._timer.fd, self._ring)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            asyncio.get_running_loop().remove_reader(self._timer.fd)  # before close: uvloop holds the descriptor
            self._timer.close()
            self._timer = None
        if self._backlog is not None:
            self._backlog.due = None

    async def until(self, due: int) -> None:
        """Return at `due` (monotonic ns) or, where that has passed, after a turn of the loop: what is ready goes first."""
        await asyncio.sleep(0)
        while (left := due - now()) > 0:
            if self._timer is not None:
                waiter = asyncio.get_running_loop().create_future()
                self._asked += 1
                heapq.heappush(self._waiting, (due, self._asked, waiter))
                if self._waiting[0][2] is waiter:
                    self._set(self._timer)
                await waiter
            else:
                await asyncio.sleep(max(left - LOOP_TIMER_NS, 0) / NS_PER_S)

    def _ring(self) -> None:
        assert self._timer is not None
        self._timer.clear()
        t = now()
        while self._waiting and (self._waiting[0][0] <= t or self._waiting[0][2].done()):
            waiter = heapq.heappop(self._waiting)[2]
            if not waiter.done():
                waiter.set_result(None)
        self._set(self._timer)

    def _set(self, timer: Timerfd) -> None:
        """Let the timer ring at the first instant that somebody waits for."""
        due = self._waiting[0][0] if self._waiting else None
        if due is not None:
            timer.set(due)
        if self._backlog is not None:
            self._backlog.due = due


class Permits:
    """One process's permits of a rate that it may share with others: every `of`-th instant of one grid.

    A permit is for whoever asked for one before its instant, and each instant is one request's. So the rate is never
    exceeded, however many processes share it, and a late wake-up costs no permit that somebody waits for.
    """

    def __init__(self, rate: float, share: PlanShare, origin: int) -> None:
        """`rate` is that of all processes, requests/s; `origin` the grid's first instant, monotonic ns."""
        self._step = share.of / rate * NS_PER_S
        self._first = origin + share.worker / rate * NS_PER_S
        self._next = 0
        self._turn = asyncio.Lock()

    async def take(self) -> int:
        """Wait for the next instant that nobody who asked earlier waits for; return that instant, monotonic ns."""
        asked = now()
        async with self._turn:
            number = max(self._next, math.ceil((asked - self._first) / self._step))
            self._next = number + 1
            due = math.ceil(self._first + number * self._step)
            while (left := due - now()) > 0:  # noqa: ASYNC110 - timers may be early
                await asyncio.sleep(left / NS_PER_S)
        return due
