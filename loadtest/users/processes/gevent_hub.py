"""Waiting under gevent: reads in the hub without switching greenlets, the hub's own lag, and work for quiet moments."""

from __future__ import annotations

import contextlib
import math
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.hub import Waiter as Switch
from gevent.monkey import get_original

from loadtest.measure.backlog import PAUSE_S, Backlog
from loadtest.measure.failure import GivenUpError
from loadtest.metrics import S_PER_NS
from loadtest.wire import Heartbeat, LagLog, Waiter, now
from loadtest.wire.clock import BEAT, stamps_wanted
from loadtest.wire.poller import Poller
from loadtest.wire.sync_wire import Deadline

READ, WRITE = 1, 2  # libev's event masks
OVERDUE_NS = 250_000_000  # between two looks for requests past their deadline where none is nearer: it may come nearer
PORTION_NS = 8_000_000  # longest sending between two reads of the sockets: less than a token gap of fast streams
EARLY_NS = 1_500_000  # a sleep may end 1 ms late: it is made so much shorter, and other greenlets run for the rest


class HubReaders:
    """gevent's hub in the form that a `Poller` waits on."""

    def __init__(self) -> None:
        self._loop: Any = gevent.get_hub().loop
        self._watchers: dict[int, Any] = {}

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        watcher = self._watchers[fd] = self._loop.io(fd, READ)
        watcher.start(callback)

    def remove_reader(self, fd: int) -> None:
        """Stop watching `fd`; do nothing where it is not watched."""
        watcher = self._watchers.pop(fd, None)
        if watcher is not None:
            watcher.stop()
            watcher.close()


class GeventWaiter(Waiter):
    """Waits on gevent's hub: the hub itself reads all sockets together.

    A stream's greenlet sleeps from the headers to the end of its answer. Each arrival costs one recvmsg and its framing
    in the hub: 17 µs a chunk at 300 streams, where a watcher for each socket cost 22 and a cooperative recv 28 to 33.
    A waiter belongs to the thread that made it.
    """

    def __init__(self) -> None:
        self._loop: Any = gevent.get_hub().loop
        epoll = get_original("select", "epoll") if sys.platform == "linux" else None  # gevent's patches hide epoll
        self._poller = Poller(HubReaders(), ticks=stamps_wanted(), epoll=epoll)
        self._waiting: dict[int, tuple[Deadline, Switch[bool]]] = {}
        self._look: Any = None  # the timer of the next look for deadlines that have passed
        self._look_due = math.inf  # monotonic ns
        self._burst: list[Switch[None]] = []

    def interrupt(self, thrown: type[GreenletExit]) -> None:
        """End every greenlet that still waits with this exception, once the hub runs next."""
        for _, switch in self._waiting.values():
            if switch.greenlet is not None:
                gevent.kill(switch.greenlet, thrown)

    def close(self) -> None:
        """Let go of the hub; greenlets that still wait are not woken."""
        if self._look is not None:
            self._look.close()
        self._poller.close()

    def pump(self, fd: int, step: Callable[[], bool], deadline: Deadline) -> bool:
        """Call `step` in the hub whenever `fd` is readable, until it returns True; return False once the deadline passed."""
        switch: Switch[bool] = Switch()
        watched = True
        failed: BaseException | None = None

        def rest() -> None:
            nonlocal watched
            if watched:  # only once: the number may soon be another connection's
                watched = False
                self._poller.remove(fd)

        def readable() -> None:
            nonlocal failed
            try:
                done = step()
            except BaseException as error:  # noqa: BLE001 - raised in the waiting greenlet, not in the hub
                failed, done = error, True
            if done:
                rest()
                switch.switch(True)

        self._poller.add(fd, readable)
        try:
            in_time = self._sleep(fd, switch, deadline)
        finally:
            rest()
        if failed is not None:
            raise failed
        return in_time

    def writable(self, fd: int, deadline: Deadline) -> bool:
        """Wait until `fd` takes bytes; return False once the deadline passed."""
        switch: Switch[bool] = Switch()
        watcher = self._loop.io(fd, WRITE)
        watcher.start(switch.switch, True)
        try:
            return self._sleep(fd, switch, deadline)
        finally:
            watcher.stop()
            watcher.close()

    def wait_for_others(self) -> None:
        """Wait until every greenlet that is ready now has run. Those that wait here then go on, one directly after another."""
        switch: Switch[None] = Switch()
        if not self._burst:
            self._loop.run_callback(self._go_on)
        self._burst.append(switch)
        _answer(switch)

    def _go_on(self) -> None:
        burst, self._burst = self._burst, []
        for switch in burst:
            switch.switch(None)

    def expect_no_stamps(self) -> None:
        """Read each socket at once from now on."""
        self._poller.end_ticks()

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor that is about to be closed, because its number may be reused."""
        self._poller.remove(fd)

    def _sleep(self, fd: int, switch: Switch[bool], deadline: Deadline) -> bool:
        self._waiting[fd] = deadline, switch
        self._look_at(deadline())
        try:
            return bool(_answer(switch))
        finally:
            del self._waiting[fd]

    def _look_at(self, due: float) -> None:
        """Have deadlines looked at by `due`, and often enough to see one that has come nearer meanwhile."""
        t = now()
        due = min(due, t + OVERDUE_NS)
        if due < self._look_due:
            if self._look is not None:
                self._look.close()
            self._look_due = due
            self._look = self._loop.timer(max(due - t, 0) * S_PER_NS)
            self._look.start(self._wake_overdue, update=True)

    def _wake_overdue(self) -> None:
        self._look_due, nearest = math.inf, math.inf
        t = now()
        for deadline, switch in list(self._waiting.values()):
            if (due := deadline()) <= t:
                switch.switch(False)
            else:
                nearest = min(nearest, due)
        if self._waiting:
            self._look_at(nearest)


def _answer(switch: Switch[Any]) -> Any:
    """Wait for a switch, and return what it brings; raise GivenUpError for an exception thrown into this greenlet."""
    try:
        return switch.get()
    except BaseException as thrown:  # noqa: BLE001 - kept inside GivenUpError
        raise GivenUpError(thrown) from None


class GeventHeartbeat(Heartbeat):
    """The wire's heartbeat on gevent's hub instead of an asyncio loop, and the gate that requests pass when sent.

    Streams that end together make their users send together. gevent would run 50 such users (18 ms) before it reads a
    socket again, and segments that wait unread lose their stamps. So the gate lets a wave pass in portions, with reads in
    between.
    """

    def __init__(self, lag: LagLog | None = None) -> None:
        super().__init__(lag)
        self._queue: deque[Switch[None]] = deque()

    def pass_gate(self) -> None:
        """Return at once while the hub keeps beating, else when it is this greenlet's turn."""
        if not self._queue and now() - self._last < PORTION_NS:
            return
        switch: Switch[None] = Switch()
        self._queue.append(switch)
        try:
            _answer(switch)
        finally:
            if switch in self._queue:  # the greenlet was killed while it waited
                self._queue.remove(switch)

    def _set_timer(self) -> None:
        self._timer: Any = gevent.get_hub().loop.timer(BEAT, BEAT)
        self._timer.start(self._beat)

    def stop(self) -> None:
        """Stop beating, and log the gap that is still open."""
        self._timer.stop()
        self._timer.close()
        self._note(now())

    def _beat(self) -> None:
        t = now()
        self._note(t)
        while self._queue and now() - t < PORTION_NS:
            self._queue.popleft().switch(None)


class GeventBacklog(Backlog):
    """Does its work in slices in a greenlet of its own, because listeners of Locust's events may wait."""

    def __init__(self) -> None:
        super().__init__()
        self._awake = Event()
        self._busy = False
        self._greenlet = gevent.spawn(self._run)

    def _wake(self) -> None:
        self._awake.set()

    def flush(self) -> None:
        """Do all waiting work now, and wait for the piece that is being done."""
        while self._work or (self._busy and gevent.getcurrent() is not self._greenlet):
            if self._work:
                self.do_next()
            else:
                gevent.sleep(PAUSE_S)

    def close(self) -> None:
        """Do all waiting work, and take no more."""
        self.flush()
        if gevent.getcurrent() is not self._greenlet:
            self._greenlet.kill()

    def _run(self) -> None:
        while True:
            self._awake.wait()
            self.rest()
            gevent.sleep(PAUSE_S)
            self._busy = True
            try:
                self.work_a_slice()
            finally:
                self._busy = False
            if not self._work:
                self._awake.clear()


def sleep_until(due: int) -> None:
    """Return at `due` (monotonic ns), or at once where that has passed. gevent's own sleeps count whole milliseconds."""
    if (left := due - now()) > EARLY_NS:
        gevent.sleep((left - EARLY_NS) * S_PER_NS)
    while now() < due:
        gevent.sleep(0)


@contextlib.contextmanager
def kill_put_off() -> Iterator[None]:
    """Put off the kill of this greenlet to the end of the block: a task that calls runner.quit() kills itself in mid-work."""
    killed: GreenletExit | None = None
    try:
        gevent.sleep(0)
    except GreenletExit as kill:
        killed = kill
    try:
        yield
    finally:
        if killed is not None:
            gevent.kill(gevent.getcurrent(), killed)
