"""The blocking shell: sends and receives as AsyncWire does, for threads and, with a waiter of their own, for greenlets."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import httpx

from loadtest.reach import Proxy
from loadtest.wire.clock import now
from loadtest.wire.connecting.address import ConnectFailure, Origin, SocketAddress
from loadtest.wire.connection import Connection
from loadtest.wire.order import Order, Timeouts
from loadtest.wire.shell import Call, Shell

LOOK_FOR_ANSWER_NS = 250_000_000  # between two looks for an answer while the server takes no more of the request

T = TypeVar("T")
Deadline = Callable[[], float]  # returns until when to wait, monotonic ns or infinite; each read may move it


class Waiter:
    """How a SyncWire waits. Another kind of concurrency, such as gevent, brings its own Waiter.

    `pump` and `writable` return False once the deadline has passed. An exception out of them ends the request.
    """

    def pump(self, fd: int, step: Callable[[], bool], deadline: Deadline) -> bool:
        """Call `step`, which reads once, whenever `fd` is readable, until it returns True; most steps return False."""
        raise NotImplementedError

    def writable(self, fd: int, deadline: Deadline) -> bool:
        """Wait until `fd` takes bytes."""
        raise NotImplementedError

    def wait_for_others(self) -> None:
        """Wait until all that can run now have run; where each blocks a thread of its own there are none to wait for."""

    def forget(self, fd: int) -> None:
        """Drop what is kept for `fd`, which is about to be closed."""

    def expect_no_stamps(self) -> None:
        """Have reads made at once from now on: some sockets get no stamps from the kernel."""


class BlockingWaiter(Waiter):
    """Waits by poll(2), blocking its thread."""

    def pump(self, fd: int, step: Callable[[], bool], deadline: Deadline) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while _ready(poll, deadline):
            if step():
                return True
        return False

    def writable(self, fd: int, deadline: Deadline) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        return _ready(poll, deadline)


def _ready(poll: select.poll, deadline: Deadline) -> bool:
    while (left := deadline() - now()) > 0:
        if poll.poll(1 + min(int(left / 1e6), 60_000) if left != float("inf") else None):
            return True
    return False


class SyncWire(Shell):
    """AsyncWire for callers that block: threads, which may share it, or greenlets.

    It has no loop and hence no heartbeat: whoever waits otherwise than by blocking a thread measures lag elsewhere.
    """

    def __init__(
        self,
        *,
        timeouts: Timeouts | None = None,
        verify: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        waiter: Waiter | None = None,
    ) -> None:
        super().__init__(timeouts, verify, proxy, watches_idle=False)
        self.waiter = waiter or BlockingWaiter()

    def close(self) -> None:
        """Close the idle connections; those of requests in flight close as these end."""
        self._pool.close()

    def prepare(self, url: str | httpx.URL, count: int) -> None:
        """Open connections until `count` idle ones lead to the origin of `url`; raises as fetch does."""
        origin = Origin.of(url)
        for _ in range(count - self._pool.count(origin)):
            self._pool.park(_ended(self._connect(origin, self.timeouts.connect)))

    def fetch(self, order: Order) -> None:
        """Send `order` and wait until its answer is over; raises as AsyncWire.fetch does."""
        _ended(self._exchange(order))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, order: Order, connection: Connection) -> Call:
        return _SyncCall(self, order, connection)

    async def _look_up(self, place: Origin, until: float) -> list[SocketAddress] | ConnectFailure:  # noqa: ARG002
        try:
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except OSError as error:
            return ConnectFailure.of(error)
        return self._addresses.put(place, [(family, address) for family, _, _, _, address in found])

    async def _writable(self, fd: int, until: float) -> None:
        if not self.waiter.writable(fd, lambda: until):
            raise TimeoutError

    async def _pump(self, fd: int, step: Callable[[], bool], until: float) -> None:
        if not self.waiter.pump(fd, step, lambda: until):
            raise TimeoutError

    def _expect_no_stamps(self) -> None:
        self.waiter.expect_no_stamps()

    def _forget(self, fd: int) -> None:
        self.waiter.forget(fd)


def _ended(steps: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that blocks where it waits, and so never suspends; return its result."""
    try:
        steps.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("nothing suspends in a wire that blocks")


class _SyncCall(Call):
    """A Call whose caller blocks until it is over."""

    __slots__ = ("_waiter",)

    def __init__(self, wire: SyncWire, order: Order, connection: Connection) -> None:
        super().__init__(wire, order, connection)
        self._waiter = wire.waiter

    async def send(self, payload: bytes) -> None:
        if self._in_burst:
            self._wait(self._others)
        sent = self.over or self.begin(payload)
        while not sent and not self.over:
            self._wait(self._write)
            sent = self.over or self.connection.transmit()
        while not self.over:
            self._wait(self._read)

    def _others(self) -> bool:
        self._waiter.wait_for_others()
        return True

    def _write(self) -> bool:
        """Wait to send more, looking now and then whether the server has answered already."""
        look = now() + LOOK_FOR_ANSWER_NS
        ready = self._waiter.writable(self.connection.fd, lambda: min(look, self._until()))
        return ready or self.connection.receive()

    def _read(self) -> bool:
        return self._waiter.pump(self.connection.fd, self.connection.receive, self._until)

    def _until(self) -> float:
        return self.deadline[0]

    def _wait(self, wait: Callable[[], bool]) -> None:
        try:
            in_time = wait()
        except BaseException:
            # as KeyboardInterrupt and GreenletExit: the server must not go on working for a client that has left
            self.fail(httpx.ReadError("stopped before the answer was over"))
            raise
        if not in_time:
            self.check(now())
