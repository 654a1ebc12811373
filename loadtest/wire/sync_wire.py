"""The blocking shell: sends and receives as AsyncWire does, for threads and, with a waiter of their own, for greenlets."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable
from typing import Self

import httpx

from loadtest.metrics import NS_PER_S
from loadtest.reach import MOST_REFUSAL, Proxy
from loadtest.wire.clock import now
from loadtest.wire.connecting.address import (
    NO_TLS,
    UNIX,
    ConnectFailure,
    Origin,
    SocketAddress,
    connect_error,
    open_socket,
)
from loadtest.wire.connecting.hops import Hop, hop_to
from loadtest.wire.connection import Connection
from loadtest.wire.order import Order, Timeouts
from loadtest.wire.shell import Call, Shell, check_secured

LOOK_FOR_ANSWER_NS = 250_000_000  # between two looks for an answer while the server takes no more of the request

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
        verify: ssl.SSLContext | None = None,
        proxy: Proxy | None = None,
        waiter: Waiter | None = None,
    ) -> None:
        super().__init__(timeouts, verify, proxy, watches_idle=False)
        self._waiter = waiter or BlockingWaiter()

    def close(self) -> None:
        """Close the idle connections; those of requests in flight close as these end."""
        self._pool.close()

    def prepare(self, url: str | httpx.URL, count: int) -> None:
        """Open connections until `count` idle ones lead to the origin of `url`; raises as fetch does."""
        origin = Origin.of(url)
        for _ in range(count - self._pool.count(origin)):
            self._pool.park(self._connect(origin, self.timeouts.connect))

    def fetch(self, order: Order) -> None:
        """Send `order` and wait until its answer is over; raises as AsyncWire.fetch does."""
        received = order.received
        connection = self._pool.take(order.origin)
        while True:
            if connection is None:
                connection = self._connect(order.origin, (order.limits or self.timeouts).connect)
                received.new_conn, received.t_connect = True, now()
            call = _SyncCall(order, connection, self.timeouts, release=self._release, waiter=self._waiter)
            call.send(order.payload_by(self.proxy_to(order.origin)))
            if not connection.stale:
                call.raise_error()
                return
            # The server had closed this connection before it saw the request, which goes once more, over a new one.
            connection = None
            received.t_send = received.t_send or now()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self, fd: int) -> None:
        self._waiter.forget(fd)

    def _connect(self, origin: Origin, limit: float | None) -> Connection:
        """Return a new connection to `origin`, TLS included, within `limit` seconds."""
        deadline = float("inf") if limit is None else now() + limit * NS_PER_S
        connection = self._reach(origin, deadline, limit)
        if origin.scheme == "https":
            self._handshake(connection, deadline, limit)
        return connection

    def _reach(self, origin: Origin, deadline: float, limit: float | None) -> Connection:
        """Return a connection to the first address of `origin` that takes one."""
        failures: list[ConnectFailure] = []
        proxy = self.proxy_to(origin)
        place = origin if proxy is None else Origin(*proxy.place)
        try:
            addresses = self._resolve(place)
        except OSError as error:
            raise connect_error(origin, [ConnectFailure.of(error)], limit, proxy) from None
        for i, address in enumerate(addresses):
            # An address that does not answer must leave time for those behind it.
            share = now() + (deadline - now()) / (len(addresses) - i)
            try:
                connection = self._open(origin, address, share)
            except OSError as error:
                failures.append(ConnectFailure.of(error))
            else:
                self._addresses.worked(place, address)
                return connection
        raise connect_error(origin, failures, limit, proxy)

    def _open(self, origin: Origin, address: SocketAddress, until: float) -> Connection:
        """Return a connection for `origin` to `address`, the only place that opens one; raises OSError."""
        sock = open_socket(address[0])
        if origin.scheme == UNIX:
            self._waiter.expect_no_stamps()
        try:
            code = sock.connect_ex(address[1])
            if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
                if not self._waiter.writable(sock.fileno(), lambda: until):
                    raise TimeoutError
                self._waiter.forget(sock.fileno())
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code))
            hop = hop_to(self.proxy_to(origin), origin)
            if hop is not None:
                self._go_through(sock, hop, until)
        except BaseException:
            sock.close()
            raise
        return Connection(sock, origin, None if hop is None else hop.tls)

    def _go_through(self, sock: socket.socket, hop: Hop, until: float) -> None:
        """Do with the proxy what comes before the first request; raises OSError, in the proxy's words where it refuses."""
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

    def _resolve(self, origin: Origin) -> list[SocketAddress]:
        known = self._addresses.get(origin)
        if known is None:
            found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            known = self._addresses.put(origin, [(family, address) for family, _, _, _, address in found])
        return known

    def _handshake(self, connection: Connection, deadline: float, limit: float | None) -> None:
        try:
            self._start_tls(connection)
            assert connection.tls is not None
            while not connection.tls.ready and not connection.broken:
                if not self._waiter.pump(connection.fd, connection.receive, lambda: deadline):
                    raise connect_error(connection.origin, [NO_TLS], limit)
            check_secured(connection)
        except BaseException:
            self._close(connection)
            raise


class _SyncCall(Call):
    """A Call whose caller blocks until it is over."""

    __slots__ = ("_waiter",)

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

    def send(self, payload: bytes) -> None:
        """Send the request and wait until its answer is over, or the connection turned out to be stale."""
        sent = self.begin(payload)
        while not sent and not self.over:
            self._wait(self._write)
            sent = self.over or self.connection.transmit()
        while not self.over:
            self._wait(self._read)

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
