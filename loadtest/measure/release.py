"""When requests may leave: an alarm at their instants, within some 50 µs and never before; permits at a rate."""

from __future__ import annotations

import asyncio
import math
from typing import Self

from asyncio_throttle.throttler import Throttler

from loadtest.measure.schedule import Share
from loadtest.metrics import NS_PER_S
from loadtest.wire import Timerfd, now

# A loop's own timers count whole milliseconds, so at 500 requests/s they are as coarse as the gaps. Where the kernel
# offers no timer that a loop can wait for, one of theirs wakes us this early and turns of the loop fill the rest.
EARLY_NS = 1_500_000
BACK_OFF_S = 0.25  # pause of a user after a failure, longer after each further one, so that no dead server is hammered
LONGEST_BACK_OFF_S = 1.0


def back_off(failures: int) -> float:
    """Return how long a user pauses after so many failures in a row, s."""
    return min(BACK_OFF_S * failures, LONGEST_BACK_OFF_S)


class Alarm:
    """Wakes one coroutine at instants of the monotonic clock; a context, for it holds a descriptor."""

    def __init__(self) -> None:
        self._timer: Timerfd | None = None
        self._waiter: asyncio.Future[None] | None = None

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

    async def until(self, due: int) -> None:
        """Return at `due` (monotonic ns) or, where that has passed, after a turn of the loop: what is ready goes first."""
        await asyncio.sleep(0)
        while (left := due - now()) > 0:
            if self._timer is not None:
                self._timer.set(due)
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
            else:
                await asyncio.sleep(max(left - EARLY_NS, 0) / NS_PER_S)

    def _ring(self) -> None:
        assert self._timer is not None
        self._timer.clear()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


async def issue(permits: asyncio.Queue[None], rate: float) -> None:
    """Hand out one permit every 1/rate seconds, for a process that sends alone.

    asyncio-throttle releases a whole period's budget at once and rounds rates below one up, and every waiter polls; so
    one task asks it for one permit per 1/rate, and the streams wait on the queue.
    """
    throttler = Throttler(rate_limit=1, period=1 / rate, retry_interval=min(0.01, 1 / (4 * rate)))
    while True:
        await throttler.acquire()
        await permits.put(None)


class Permits:
    """One process's part of a rate that several share: every `of`-th instant of one grid, so that no rate is multiplied.

    A permit is for whoever waits at its instant; none lies ready, for each process's would leave at once.
    """

    def __init__(self, rate: float, share: Share, origin: int) -> None:
        """`rate` is that of all processes, requests/s; `origin` the grid's first instant, monotonic ns."""
        self._step = share.of / rate * NS_PER_S
        self._first = origin + share.worker / rate * NS_PER_S
        self._next = 0
        self._turn = asyncio.Lock()

    async def take(self) -> None:
        """Wait for the next instant that nobody before us waits for."""
        async with self._turn:
            number = max(self._next, math.ceil((now() - self._first) / self._step))
            self._next = number + 1
            while (left := self._first + number * self._step - now()) > 0:  # noqa: ASYNC110 - timers may be early
                await asyncio.sleep(left / NS_PER_S)
