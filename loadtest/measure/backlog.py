"""Work that can wait for a quiet moment: decoding answers that have ended, making requests that will be sent."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

logger = logging.getLogger(__name__)

SLICE_NS = 500_000  # one stream of 100 events decodes in about 0.5 ms, so a slice is at most about 1 ms
PAUSE_S = 0.001  # between slices the sockets get their turn
WAVE_NS = 2_000_000  # streams end in waves: the users' next requests leave before the answers of this wave are decoded
LONGEST_WAVE_NS = 200_000_000  # on a crowded core some request has always just left: a wave is taken to end after this

CLEAR_NS = 500_000  # before a scheduled request: no work is begun, since one piece may take that long
# Share of the core that reading may take. Above it no work is begun, since arrivals left unread lose their stamps.
BUSY_SHARE = 0.6
LONGEST_NS = 2_000_000_000  # work that has waited this long is done in any case: live figures and memory depend on it
# A slice grows by 1 ns for so many overdue ns: on a full core, slices of one size would fall ever further behind.
CATCH_UP = 20
LONGEST_SLICE_NS = 8_000_000  # shorter than the token gap of fast streams, so that no token is read a gap late


class Backlog:
    """Pieces of work in the order they came, done in moments without releases when reading leaves the core free.

    `due` is when the next request of a schedule leaves (monotonic ns): no work runs into it. Each driver has a subclass,
    which sees to it that the moments come.
    """

    def __init__(self) -> None:
        self.due: int | None = None
        self._work: deque[tuple[int, Callable[[], object]]] = deque()  # each with the instant it came
        self._released = 0
        self._looked = 0, 0  # ns on the clock and of CPU, when `rest` was called

    def __len__(self) -> int:
        return len(self._work)

    def add(self, work: Callable[[], object]) -> None:
        self._work.append((time.perf_counter_ns(), work))
        self._wake()

    def _wake(self) -> None:
        """Have `rest` called now and `work_a_slice` a moment later, again and again until no work is left."""

    def flush(self) -> None:
        """Do all waiting work now: at the end of a level, when nothing streams."""
        while self._work:
            self.do_next()

    def do_next(self) -> None:
        """Do the oldest piece; one that fails is logged, and the others go on. Raises IndexError where there is none."""
        work = self._work.popleft()[1]
        try:
            work()
        except Exception:
            logger.exception("a piece of work that had waited failed")

    def released(self, t: int) -> None:
        """Note that a request left at `t`, monotonic ns: others of its wave may follow."""
        self._released = t

    def rest(self) -> None:
        """Note that no work is done until the next slice: CPU used meanwhile is that of reading."""
        self._looked = time.perf_counter_ns(), time.thread_time_ns()

    def work_a_slice(self) -> None:
        """Do as many pieces as this moment allows, perhaps none."""
        end = self._end(time.perf_counter_ns()) if self._work else 0
        while self._work and time.perf_counter_ns() < end:
            self.do_next()

    def _end(self, t: int) -> int:
        """Return until when to work from `t` on; `t` or earlier means not at all."""
        waited = t - self._work[0][0]
        since, used = self._looked
        if (overdue := waited - LONGEST_NS) > 0:
            # A loop that takes long to come round leaves more work behind in each turn than any fixed length takes away.
            longest = max(LONGEST_SLICE_NS, (t - since) * waited // LONGEST_NS)
            return t + min(SLICE_NS + overdue // CATCH_UP, longest)
        if time.thread_time_ns() - used > BUSY_SHARE * (t - since):
            return t
        if self.due is not None:
            return min(t + SLICE_NS, self.due - CLEAR_NS)
        in_a_wave = t - self._released <= WAVE_NS and waited < LONGEST_WAVE_NS
        return t if in_a_wave else t + SLICE_NS


class AsyncioBacklog(Backlog):
    """Does its work in slices between arrivals, on the running asyncio loop."""

    def __init__(self) -> None:
        super().__init__()
        self._scheduled = False

    def _wake(self) -> None:
        if not self._scheduled:
            self._later()

    def _later(self) -> None:
        self._scheduled = True
        self.rest()
        asyncio.get_running_loop().call_later(PAUSE_S, self._slice)

    def _slice(self) -> None:
        self.work_a_slice()
        self._scheduled = False
        if self._work:
            self._later()
