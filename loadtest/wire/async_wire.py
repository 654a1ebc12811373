"""The asyncio shell: requests over own sockets with kernel arrival stamps, on asyncio's loop or uvloop's."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any, Self

import httpx

from loadtest.metrics import NS_PER_S
from loadtest.reach import MOST_REFUSAL, Proxy
from loadtest.wire.clock import Heartbeat, LagLog, WallClock, now, stamps_wanted
from loadtest.wire.connecting.address import UNIX, ConnectFailure, Origin, SocketAddress
from loadtest.wire.connecting.hop import Hop
from loadtest.wire.connecting.tls import Tls, Verify
from loadtest.wire.connection import Connection
from loadtest.wire.order import Order, Timeouts
from loadtest.wire.poller import Poller
from loadtest.wire.shell import Call, Shell, until_look

FELL_SILENT_NS = (50_000_000, 1_000_000_000)  # a stream that has been silent for between these is read once more
OPENING = 64  # connections that `prepare` opens at a time: where an accept queue is full, TCP retries after a second


class AsyncWire(Shell):
    """An HTTP/1.1 client without a limit on connections, whose answers are neither decoded nor copied (see Received).

    `timeouts` hold for orders that bring none of their own. `wall`, `lag` and `heartbeat` run from the first use to
    `aclose`.
    """

    def __init__(self, *, timeouts: Timeouts | None = None, verify: Verify = True, proxy: Proxy | None = None) -> None:
        super().__init__(timeouts, verify, proxy)
        self.wall = WallClock()
        self.lag = LagLog()
        self.heartbeat = Heartbeat(self.lag, self.wall)
        self._lookups: dict[Origin, asyncio.Task[list[SocketAddress] | ConnectFailure]] = {}
        self._calls: set[Call] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection; requests in flight fail."""
        if self._loop is None:
            return
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
        await self._fetch(order)

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._poller = Poller(loop, ticks=stamps_wanted())
            self._loop = loop
            self.heartbeat.start()

    def _release(self, call: Call) -> None:
        self._calls.discard(call)
        super()._release(call)

    def _forget(self, fd: int) -> None:
        if self._loop is not None:
            self._poller.remove(fd)
            self._loop.remove_writer(fd)  # or uvloop keeps the descriptor open

    def _watch(self, connection: Connection) -> None:
        if connection.origin.scheme == UNIX:
            self._poller.end_ticks()
        self._poller.add(connection.fd, connection.receive)

    def _new_call(self, order: Order, connection: Connection) -> Call:
        call = _AsyncCall(order, connection, self.timeouts, release=self._release)
        self._calls.add(call)
        return call

    async def _look_up(self, origin: Origin, until: float) -> list[SocketAddress] | ConnectFailure:
        lookup = self._lookups.get(origin)
        if lookup is None:  # all who wait share one lookup, and a cancelled one leaves it running for the others
            lookup = self._lookups[origin] = asyncio.ensure_future(_found(origin))
            lookup.add_done_callback(lambda _: self._lookups.pop(origin))
        try:
            async with _until(until):
                return await asyncio.shield(lookup)
        except TimeoutError as error:
            return ConnectFailure.of(error)

    async def _connect_socket(self, sock: socket.socket, address: Any, hop: Hop | None, until: float) -> None:
        loop = asyncio.get_running_loop()
        async with _until(until):
            await loop.sock_connect(sock, address)
            if hop is None:
                return
            await loop.sock_sendall(sock, hop.outgoing())
            while not hop.over:
                hop.feed(await loop.sock_recv(sock, MOST_REFUSAL))
                await loop.sock_sendall(sock, hop.outgoing())

    async def _await_handshake(self, connection: Connection, tls: Tls, until: float) -> bool:
        ended = asyncio.Event()
        connection.wake = ended.set
        if tls.ready or connection.broken:
            return True
        try:
            async with _until(until):
                await ended.wait()
        except TimeoutError:
            return False
        return True


async def _found(origin: Origin) -> list[SocketAddress] | ConnectFailure:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except OSError as error:
        return ConnectFailure.of(error)
    return [(family, address) for family, _, _, _, address in found]


def _until(instant: float) -> asyncio.Timeout:
    """Return a context that raises TimeoutError at an instant, monotonic ns or infinite."""
    return asyncio.timeout(None if instant == math.inf else (instant - now()) / NS_PER_S)


class _AsyncCall(Call):
    """A Call that one task waits for."""

    _waiter: asyncio.Future[None] | None = None
    _timer: asyncio.TimerHandle | None = None

    async def send(self, payload: bytes) -> None:
        if not self.begin(payload):
            asyncio.get_running_loop().add_writer(self.connection.fd, self._writable)
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

    def _look(self) -> None:
        """End the call where it is overdue, and look again later where it is not: a read sets no timer.

        A stream that just fell silent is read once more: where data and a reset wait together, libuv reports an error
        and uvloop calls the reader for the last time. That call reads the data, and no later one reports the reset.
        """
        self._timer = None
        t, last = now(), self.received.last_read
        if last is not None and FELL_SILENT_NS[0] < t - last < FELL_SILENT_NS[1]:
            self.connection.receive()
        left = self.check(t)
        if self._timer is None and not self.over:
            self._timer = asyncio.get_running_loop().call_later(left, self._look)

    def _set_timer(self) -> None:
        """Let the next look be at the deadline, which may have come nearer; at none once the call is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.over:
            left = until_look(self.deadline[0], now())
            self._timer = asyncio.get_running_loop().call_later(left, self._look)

    def _wake_up(self) -> None:
        self._set_timer()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
