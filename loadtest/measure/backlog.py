"""Work that can wait for a quiet moment: decoding what has ended, building what will be sent."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

SLICE_NS = 500_000  # one stream of 100 events decodes in about 0.5 ms, so a slice is at most about 1 ms
PAUSE_S = 0.001  # between slices the sockets get their turn
QUIET_NS = 2_000_000  # streams end in waves: their users' next requests leave before the last answers are looked at
BOUND = 1024  # past this much waiting work no wave is waited for: memory stays bounded


class Backlog:
    """Does small pieces of work in slices between arrivals, and none while requests are being released."""

    def __init__(self) -> None:
        self._work: deque[Callable[[], object]] = deque()
        self._scheduled = False
        self._released = 0

    def released(self, t: int) -> None:
        """Note that a request left at `t`, monotonic ns: others of its wave may follow."""
        self._released = t

    def add(self, work: Callable[[], object]) -> None:
        self._work.append(work)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(PAUSE_S, self._slice)

    def flush(self) -> None:
        """Do everything that waits, now: at the end of a level, when nobody streams."""
        while self._work:
            self._work.popleft()()

    def _slice(self) -> None:
        t = time.perf_counter_ns()
        if t - self._released > QUIET_NS or len(self._work) > BOUND:
            while self._work and time.perf_counter_ns() < t + SLICE_NS:
                self._work.popleft()()
        self._scheduled = bool(self._work)
        if self._work:
            asyncio.get_running_loop().call_later(PAUSE_S, self._slice)
