"""The blocking shell: sends and receives as AsyncWire does, for threads and, with a waiter of their own, for greenlets."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import httpx

from loadtest.reach import MOST_REFUSAL, Proxy
from loadtest.wire.clock import now
from loadtest.wire.connecting.address import UNIX, ConnectFailure, Origin, SocketAddress
from loadtest.wire.connecting.hop import Hop
from loadtest.wire.connecting.tls import Tls, Verify
from loadtest.wire.connection import Connection
from loadtest.wire.order import Order, Timeouts
from loadtest.wire.shell import LOOK_NS, Call, Shell

Result = TypeVar("Result")
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

    def forget(self, fd: int) -> None:
        """Drop what is kept for `fd`, which is about to be closed."""

    def expect_no_stamps(self) -> None:
        """See to it that reads are made at once: some sockets get no stamps from the kernel."""


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
        verify: Verify = True,
        proxy: Proxy | None = None,
        waiter: Waiter | None = None,
    ) -> None:
        super().__init__(timeouts, verify, proxy)
        self._waiter = waiter or BlockingWaiter()

    def close(self) -> None:
        """Close the idle connections; those of requests in flight close as these end."""
        self._pool.close()

    def prepare(self, url: str | httpx.URL, count: int) -> None:
        """Open connections until `count` idle ones lead to the origin of `url`; raises as fetch does."""
        origin = Origin.of(url)
        for _ in range(count - self._pool.count(origin)):
            self._pool.park(_without_loop(self._connect(origin, self.timeouts.connect)))

    def fetch(self, order: Order) -> None:
        """Send `order` and wait until its answer is over; raises as AsyncWire.fetch does."""
        _without_loop(self._fetch(order))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self, fd: int) -> None:
        self._waiter.forget(fd)

    def _watch(self, connection: Connection) -> None:
        if connection.origin.scheme == UNIX:
            self._waiter.expect_no_stamps()

    def _new_call(self, order: Order, connection: Connection) -> Call:
        return _SyncCall(order, connection, self.timeouts, release=self._release, waiter=self._waiter)

    async def _look_up(self, origin: Origin, until: float) -> list[SocketAddress] | ConnectFailure:  # noqa: ARG002
        try:
            found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        except OSError as error:
            return ConnectFailure.of(error)
        return [(family, address) for family, _, _, _, address in found]

    async def _connect_socket(self, sock: socket.socket, address: Any, hop: Hop | None, until: float) -> None:
        code = sock.connect_ex(address)
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            if not self._waiter.writable(sock.fileno(), lambda: until):
                raise TimeoutError
            self._waiter.forget(sock.fileno())
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if hop is not None:
            self._go_through(sock, hop, until)

    def _go_through(self, sock: socket.socket, hop: Hop, until: float) -> None:
        sock.send(hop.outgoing())  # a new connection takes so few bytes at once

        def step() -> bool:
            try:
                hop.feed(sock.recv(MOST_REFUSAL))
            except (BlockingIOError, InterruptedError):
                return False
            sock.send(hop.outgoing())
            return hop.over

        try:
            in_time = self._waiter.pump(sock.fileno(), step, lambda: until)
        finally:
            self._waiter.forget(sock.fileno())
        if not in_time:
            raise TimeoutError

    async def _await_handshake(self, connection: Connection, tls: Tls, until: float) -> bool:
        while not tls.ready and not connection.broken:
            if not self._waiter.pump(connection.fd, connection.receive, lambda: until):
                return False
        return True


def _without_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Return the result of a coroutine that never suspends, because what it awaits blocks instead."""
    try:
        work.send(None)
    except StopIteration as over:
        result: Result = over.value
        return result
    raise AssertionError("a blocking wire waited for a loop")


class _SyncCall(Call):
    """A Call whose caller blocks until it is over."""

    def __init__(
        self,
        order: Order,
        connection: Connection,
        timeouts: Timeouts,
        *,
        release: Callable[[Call], None],
        waiter: Waiter,
    ) -> None:
        super().__init__(order, connection, timeouts, release=release)
        self._waiter = waiter

    async def send(self, payload: bytes) -> None:
        sent = self.begin(payload)
        while not sent and not self.over:
            self._wait(self._write)
            sent = self.over or self.connection.transmit()
        while not self.over:
            self._wait(self._read)

    def _write(self) -> bool:
        """Wait to send more, looking now and then whether the server has answered already."""
        look = now() + LOOK_NS
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
