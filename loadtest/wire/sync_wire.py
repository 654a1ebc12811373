"""The blocking shell: the same requests and answers as AsyncWire, for threads and (with a waiter) greenlets."""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Protocol

import httpx

from loadtest.wire.clock import now
from loadtest.wire.connection import (
    Address,
    Addresses,
    Connection,
    Origin,
    Refusal,
    Timeouts,
    connect_error,
    open_socket,
)
from loadtest.wire.pool import Call, Order, Pool
from loadtest.wire.tls import Verify, client_context

LOOK = 250_000_000  # ns between two looks for an answer while the server takes no more of the request

Deadline = Callable[[], float]  # gives the monotonic ns, perhaps infinite, to wait until; reads move it


class Waiter(Protocol):
    """How a SyncWire waits: the one seam through which another kind of concurrency (gevent) comes in.

    Both methods return False once the deadline has passed. A BaseException raised out of them gives the request up.
    """

    def pump(self, fd: int, step: Callable[[], bool], deadline: Deadline) -> bool:
        """Call `step` whenever `fd` is readable until it returns True: a step is one read, most return False."""
        ...

    def writable(self, fd: int, deadline: Deadline) -> bool:
        """Wait until `fd` takes bytes."""
        ...

    def forget(self, fd: int) -> None:
        """Drop what is kept for `fd`: it is about to be closed."""
        ...


class BlockingWaiter:
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

    def forget(self, fd: int) -> None:
        pass


def _ready(poll: select.poll, deadline: Deadline) -> bool:
    while (left := deadline() - now()) > 0:
        if poll.poll(1 + min(int(left / 1e6), 60_000) if left != float("inf") else None):
            return True
    return False


class SyncWire(httpx.BaseTransport):
    """An HTTP/1.1 transport without a limit on connections, for `httpx.Client(transport=wire)`.

    As AsyncWire, blocking. It has no loop, hence no heartbeat: who waits otherwise than blocking its
    own thread measures its own lag. Threads may share it.
    """

    def __init__(
        self, *, timeouts: Timeouts | None = None, verify: Verify = True, waiter: Waiter | None = None
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self._waiter = waiter or BlockingWaiter()
        self._verify = verify
        self._context: ssl.SSLContext | None = None
        self._addresses = Addresses()
        self._pool = Pool(self._close)

    def close(self) -> None:
        """Close the idle connections; those of requests in flight close as these end."""
        self._pool.close()

    def prepare(self, url: str | httpx.URL, count: int) -> None:
        """Have `count` idle connections to the origin of `url`; raises as a request does."""
        origin = Origin.of(httpx.URL(url))
        for _ in range(count - self._pool.count(origin)):
            self._pool.park(self._connect(origin, self.timeouts.connect))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return its response at the headers; raises httpx's TransportErrors."""
        request.read()
        order = Order.ordinary(request)
        body = _Body(self._call(order))
        status, headers = order.received.status or 0, order.received.headers
        return httpx.Response(status, headers=headers, stream=body, extensions={"http_version": b"HTTP/1.1"})

    def fetch(self, order: Order) -> None:
        """Send `order` and wait until its answer is over; raises as AsyncWire.fetch does."""
        order.received.whole = True
        self._call(order).raise_error()

    def _call(self, order: Order) -> _SyncCall:
        """Send `order` over a connection that carries it, and wait until it is answered."""
        received = order.received
        connection = self._take(order.origin)
        fresh = connection is None
        while True:
            if connection is None:
                connection = self._connect(order.origin, (order.limits or self.timeouts).connect)
                received.new_conn, received.t_connect = True, now()
            call = _SyncCall(order, connection, self.timeouts, release=self._pool.release, waiter=self._waiter)
            call.send(order.payload, fresh=fresh)
            if not connection.stale:
                return call
            connection, fresh = None, True  # closed by the server before it saw this request: once more, on a new one
            received.t_send = received.t_send or now()

    def _take(self, origin: Origin) -> Connection | None:
        while (connection := self._pool.take(origin)) is not None:
            connection.receive()  # nobody watched it: has the server closed it since?
            if not connection.broken:
                return connection
            self._close(connection)
        return None

    def _close(self, connection: Connection) -> None:
        connection.broken = True
        connection.wake = bool
        if connection.fd >= 0:
            self._waiter.forget(connection.fd)
        connection.fd = -1
        connection.sock.close()

    def _connect(self, origin: Origin, limit: float | None) -> Connection:
        """Return a new connection, TLS included, to the first address that takes it."""
        refusals: list[Refusal] = []
        deadline = float("inf") if limit is None else now() + limit * 1e9
        try:
            addresses = self._resolve(origin)
        except OSError as error:
            raise connect_error(origin, [Refusal.of(error)], limit) from None
        for i, address in enumerate(addresses):
            # A silent address may not eat the time of those behind it.
            share = now() + (deadline - now()) / (len(addresses) - i)
            sock = None
            try:
                sock = open_socket(address[0])
                self._dial(sock, address, share)
            except OSError as error:
                if sock is not None:
                    sock.close()
                refusals.append(Refusal.of(error))
            except BaseException:
                if sock is not None:
                    sock.close()
                raise
            else:
                self._addresses.worked(origin, address)
                connection = Connection(sock, origin)
                if origin.scheme == "https":
                    self._handshake(connection, deadline, limit)
                return connection
        raise connect_error(origin, refusals, limit)

    def _dial(self, sock: socket.socket, address: Address, until: float) -> None:
        """Connect `sock`; raises OSError, TimeoutError among them."""
        code = sock.connect_ex(address[1])
        if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
            if not self._waiter.writable(sock.fileno(), lambda: until):
                raise TimeoutError
            self._waiter.forget(sock.fileno())
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _resolve(self, origin: Origin) -> list[Address]:
        known = self._addresses.get(origin)
        if known is None:
            found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            known = self._addresses.put(origin, [(family, address) for family, _, _, _, address in found])
        return known

    def _handshake(self, connection: Connection, deadline: float, limit: float | None) -> None:
        if self._context is None:
            self._context = client_context(self._verify)
        try:
            connection.start_tls(self._context)
            connection.transmit()
            assert connection.tls is not None
            while not connection.tls.ready and not connection.broken:
                if not self._waiter.pump(connection.fd, connection.receive, lambda: deadline):
                    raise connect_error(connection.origin, [Refusal(slow=True, why="")], limit)
            if not connection.tls.ready:
                why = connection.error or "the server closed the connection during the TLS handshake"
                raise httpx.ConnectError(f"cannot connect to {connection.origin}: {why}")
        except BaseException:
            self._close(connection)
            raise


class _SyncCall(Call):
    """A Call that is waited for by blocking."""

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

    def send(self, payload: bytes, *, fresh: bool) -> None:
        """Send the request and wait until it is answered; a stale connection shows in connection.stale."""
        sent = self.begin(payload, fresh=fresh)
        while not sent and not self.over:
            self._wait(self._write)
            sent = self.over or self.connection.transmit()
        while not self.answered:
            self._wait(self._read)
        if self.received.t_headers is None and not self.connection.stale:
            self.raise_error()

    def next_body(self) -> bytes | None:
        """Return the next body bytes of an ordinary answer, None at its end."""
        assert self.inbox is not None
        inbox = self.inbox
        while not inbox.chunks and not self.over:
            self._wait(self._read)
        if inbox.chunks:
            return inbox.chunks.popleft()
        self.raise_error()
        return None

    def _write(self) -> bool:
        """Wait to send more, looking now and then whether the server has answered already."""
        look = now() + LOOK
        ready = self._waiter.writable(self.connection.fd, lambda: min(look, self._until()))
        return ready or self.connection.receive()

    def _read(self) -> bool:
        step = self.connection.receive if self.inbox is None else self._step
        return self._waiter.pump(self.connection.fd, step, self._until)

    def _step(self) -> bool:
        return self.connection.receive() or (self.inbox is not None and bool(self.inbox.chunks))

    def _until(self) -> float:
        return self.deadline[0]

    def _wait(self, wait: Callable[[], bool]) -> None:
        try:
            in_time = wait()
        except BaseException:  # KeyboardInterrupt, GreenletExit: the server must not go on for nobody
            self.fail(httpx.ReadError("stopped before the answer was over"))
            raise
        if not in_time:
            self.check(now())


class _Body(httpx.SyncByteStream):
    """An ordinary answer's body for httpx, as it comes."""

    def __init__(self, call: _SyncCall) -> None:
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        while (data := self._call.next_body()) is not None:
            yield data

    def close(self) -> None:
        self._call.fail(httpx.ReadError("closed before the answer was over"))
