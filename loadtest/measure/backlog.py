"""Work that can wait for a quiet moment: decoding what has ended, building what will be sent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

SLICE_NS = 500_000  # one stream of 100 events decodes in about 0.5 ms, so a slice is at most about 1 ms
PAUSE_S = 0.001  # between slices the sockets get their turn
QUIET_NS = 2_000_000  # streams end in waves: their users' next requests leave before the last answers are looked at
CLEAR_NS = 500_000  # before a scheduled request no work is begun: one piece of it may take that long
BUSY = (
    0.6  # share of the core that reading takes: above it nothing else is begun, for unread arrivals lose their stamps
)
BOUND = 1024  # past this much waiting work no wave is waited for: memory stays bounded


class Backlog:
    """Does small pieces of work in slices between arrivals, and none while requests are being released.

    `due` is when the next request of a schedule leaves (monotonic ns): no slice runs into it.
    """

    def __init__(self) -> None:
        self.due: int | None = None
        self._work: deque[Callable[[], object]] = deque()
        self._scheduled = False
        self._released = 0
        self._looked = 0, 0  # ns on the clock and of CPU, at the end of the last slice

    def released(self, t: int) -> None:
        """Note that a request left at `t`, monotonic ns: others of its wave may follow."""
        self._released = t

    def add(self, work: Callable[[], object]) -> None:
        self._work.append(work)
        if not self._scheduled:
            self._scheduled = True
            self._looked = time.perf_counter_ns(), time.thread_time_ns()
            asyncio.get_running_loop().call_later(PAUSE_S, self._slice)

    def flush(self) -> None:
        """Do everything that waits, now: at the end of a level, when nobody streams."""
        while self._work:
            self._work.popleft()()

    def _slice(self) -> None:
        t = time.perf_counter_ns()
        end = t + SLICE_NS
        if len(self._work) <= BOUND:
            since, used = self._looked
            if time.thread_time_ns() - used > BUSY * (t - since):
                end = t
            elif self.due is not None:
                end = min(end, self.due - CLEAR_NS)
            elif t - self._released <= QUIET_NS:
                end = t
        while self._work and time.perf_counter_ns() < end:
            self._work.popleft()()
        self._scheduled = bool(self._work)
        if self._work:
            self._looked = time.perf_counter_ns(), time.thread_time_ns()
            asyncio.get_running_loop().call_later(PAUSE_S, self._slice)
