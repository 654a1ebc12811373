"""The asyncio shell: requests over own sockets with kernel arrival stamps, on asyncio's loop or uvloop's."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Self

import httpx

from loadtest.reach import MOST_REFUSAL, Proxy
from loadtest.wire.clock import Heartbeat, LagLog, WallClock, now, stamps_wanted
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
from loadtest.wire.poller import Poller
from loadtest.wire.shell import Call, Shell, check_secured

SWEEP = 0.25  # seconds between two checks for overdue requests
# A stream that has been silent for between these is read once more: see _sweep.
FELL_SILENT_NS = (50_000_000, 1_000_000_000)
OPENING = 64  # connections that `prepare` opens at a time: where an accept queue is full, TCP retries after a second
# Deadlines that a sweep would see too late: how an answer ends, and when a user leaves.
TIMED_LIMITS = ("end", "patience")


class AsyncWire(Shell):
    """An HTTP/1.1 client without a limit on connections, whose answers are neither decoded nor copied (see Received).

    `timeouts` hold for orders that bring none of their own. `wall`, `lag` and `heartbeat` run from the first use to
    `aclose`.
    """

    def __init__(
        self, *, timeouts: Timeouts | None = None, verify: ssl.SSLContext | None = None, proxy: Proxy | None = None
    ) -> None:
        super().__init__(timeouts, verify, proxy, watches_idle=True)
        self.wall = WallClock()
        self.lag = LagLog()
        self.heartbeat = Heartbeat(self.lag, self.wall)
        self._lookups: dict[Origin, asyncio.Task[list[SocketAddress] | ConnectFailure]] = {}
        self._calls: set[Call] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; requests in flight fail."""
        if self._loop is None:
            return
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.heartbeat.stop()
        for call in list(self._calls):
            call.fail(httpx.ReadError("the client was closed"))
        self._pool.close()
        self._poller.close()
        self._loop = None

    async def prepare(self, url: str | httpx.URL, count: int) -> None:
        """Open connections until `count` idle ones lead to the origin of `url`, so that a burst need not; raises as fetch does."""
        self._start()
        origin = Origin.of(url)
        gate = asyncio.Semaphore(OPENING)

        async def open_one() -> None:
            async with gate:
                self._pool.park(await self._connect(origin, self.timeouts.connect))

        missing = count - self._pool.count(origin)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(missing):
                    group.create_task(open_one())
        except* httpx.TransportError as errors:
            failure = errors.exceptions[0]
        else:
            return
        raise failure

    async def fetch(self, order: Order) -> None:
        """Send `order` and wait until its answer is over, which wakes the task that waits once.

        An answer that was cut off inside its body raises nothing: see received.complete and received.failure. Raises
        httpx's ConnectError and ConnectTimeout, ReadTimeout (which limit, in words), ReadError, WriteError or
        RemoteProtocolError. Cancelling the task drops the connection.
        """
        self._start()
        received = order.received
        connection = self._pool.take(order.origin)
        while True:
            if connection is None:
                connection = await self._connect(order.origin, (order.limits or self.timeouts).connect)
                received.new_conn, received.t_connect = True, now()
            call = _AsyncCall(order, connection, self.timeouts, release=self._release)
            self._calls.add(call)
            await call.send(order.payload_by(self.proxy_to(order.origin)))
            if not connection.stale:
                call.raise_error()
                return
            # The server had closed this connection before it saw the request, which goes once more, over a new one.
            connection = None
            received.t_send = received.t_send or now()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._poller = Poller(loop, ticks=stamps_wanted())
            self._loop = loop
            self.heartbeat.start()
            self._sweeper = loop.call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        """Give up overdue requests. One timer serves the whole wire, so that a read sets none.

        A stream that just fell silent is read once more: where data and a reset wait together, libuv reports an error
        and uvloop calls the reader for the last time. That call reads the data, and no later one reports the reset.
        """
        assert self._loop is not None
        t = now()
        for call in list(self._calls):
            last = call.received.last_read
            if last is not None and FELL_SILENT_NS[0] < t - last < FELL_SILENT_NS[1]:
                call.connection.receive()
            call.check(t)
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    def _release(self, call: Call) -> None:
        self._calls.discard(call)
        super()._release(call)

    def _forget(self, fd: int) -> None:
        if self._loop is not None:
            self._poller.remove(fd)
            self._loop.remove_writer(fd)  # or uvloop keeps the descriptor open

    async def _connect(self, origin: Origin, limit: float | None) -> Connection:
        """Return a new connection to `origin`, TLS included, within `limit` seconds."""
        deadline = None if limit is None else asyncio.get_running_loop().time() + limit
        connection = await self._reach(origin, deadline, limit)
        if origin.scheme == "https":
            await self._handshake(connection, deadline, limit)
        return connection

    async def _reach(self, origin: Origin, deadline: float | None, limit: float | None) -> Connection:
        """Return a connection to the first address of `origin` that takes one."""
        time = asyncio.get_running_loop().time
        failures: list[ConnectFailure] = []
        proxy = self.proxy_to(origin)
        place = origin if proxy is None else Origin(*proxy.place)
        try:
            async with asyncio.timeout_at(deadline):
                found = await self._resolve(place)
        except TimeoutError as error:
            found = ConnectFailure.of(error)
        if isinstance(found, ConnectFailure):
            raise connect_error(origin, [found], limit, proxy)
        for i, address in enumerate(found):
            # An address that does not answer must leave time for those behind it.
            share = None if deadline is None else time() + (deadline - time()) / (len(found) - i)
            try:
                connection = await self._open(origin, address, share)
            except OSError as error:  # TimeoutError is one
                failures.append(ConnectFailure.of(error))
            else:
                self._addresses.worked(place, address)
                return connection
        raise connect_error(origin, failures, limit, proxy)

    async def _open(self, origin: Origin, address: SocketAddress, until: float | None) -> Connection:
        """Return a connection for `origin` to `address`, the only place that opens one; raises OSError."""
        sock = open_socket(address[0])
        if origin.scheme == UNIX:
            self._poller.end_ticks()
        try:
            async with asyncio.timeout_at(until):
                await asyncio.get_running_loop().sock_connect(sock, address[1])
                hop = hop_to(self.proxy_to(origin), origin)
                if hop is not None:
                    await self._go_through(sock, hop)
            connection = Connection(sock, origin, None if hop is None else hop.tls)
            self._poller.add(connection.fd, connection.receive)
        except BaseException:
            sock.close()
            raise
        return connection

    @staticmethod
    async def _go_through(sock: socket.socket, hop: Hop) -> None:
        """Do with the proxy what comes before the first request; raises OSError, in the proxy's words where it refuses."""
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, hop.outgoing())
        while not hop.over:
            hop.feed(await loop.sock_recv(sock, MOST_REFUSAL))
            await loop.sock_sendall(sock, hop.outgoing())

    async def _resolve(self, origin: Origin) -> list[SocketAddress] | ConnectFailure:
        """Return the addresses of the origin's name, or why there are none."""
        if (known := self._addresses.get(origin)) is not None:
            return known
        lookup = self._lookups.get(origin)
        if lookup is None:  # all who wait share one lookup, and a cancelled one leaves it running for the others
            lookup = self._lookups[origin] = asyncio.ensure_future(self._look_up(origin))
            lookup.add_done_callback(lambda _: self._lookups.pop(origin))
        return await asyncio.shield(lookup)

    async def _look_up(self, origin: Origin) -> list[SocketAddress] | ConnectFailure:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        except OSError as error:
            return ConnectFailure.of(error)
        return self._addresses.put(origin, [(family, address) for family, _, _, _, address in found])

    async def _handshake(self, connection: Connection, deadline: float | None, limit: float | None) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        try:
            connection.wake = finish
            self._start_tls(connection)
            async with asyncio.timeout_at(deadline):
                await done
            check_secured(connection)
        except BaseException as error:
            self._close(connection)
            if isinstance(error, TimeoutError):
                raise connect_error(connection.origin, [NO_TLS], limit) from None
            raise


class _AsyncCall(Call):
    """A Call that one task waits for."""

    __slots__ = ("_timer", "_waiter")

    def __init__(
        self, order: Order, connection: Connection, timeouts: Timeouts, *, release: Callable[[Call], None]
    ) -> None:
        super().__init__(order, connection, timeouts, release=release)
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, payload: bytes) -> None:
        """Send the request and wait until its answer is over, or the connection turned out to be stale."""
        if not self.begin(payload):
            asyncio.get_running_loop().add_writer(self.connection.fd, self._writable)
        if self._limits.patience is not None:
            self._set_timer()
        while not self.over:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.fail(httpx.ReadError("cancelled before the answer was over"))
                raise

    def _writable(self) -> None:
        if self.connection.transmit() and self.connection.fd >= 0:
            asyncio.get_running_loop().remove_writer(self.connection.fd)

    def _expect_end(self) -> None:
        self._set_timer()

    def _set_timer(self) -> None:
        """Have the call checked at its deadline where the next sweep would be too late; most calls need no timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline, limit = self.deadline
        if not self.over and limit in TIMED_LIMITS:
            left = max(deadline - now(), 0) / 1e9
            self._timer = asyncio.get_running_loop().call_later(left, self._deadline_is_due)

    def _deadline_is_due(self) -> None:
        self.check(now())
        self._set_timer()

    def _wake(self) -> None:
        if self.over and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
