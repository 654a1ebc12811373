"""The asyncio shell: requests over own sockets with kernel arrival stamps, on asyncio's loop or uvloop's."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Self

import httpx

from loadtest.metrics import S_PER_NS
from loadtest.reach import Proxy
from loadtest.wire.clock import Heartbeat, now, stamps_wanted
from loadtest.wire.connecting.address import ConnectFailure, Origin, SocketAddress
from loadtest.wire.connection import Connection
from loadtest.wire.order import Order, Timeouts
from loadtest.wire.poller import Poller
from loadtest.wire.shell import Call, Shell

SWEEP = 0.25  # seconds between two checks for overdue requests
# A stream that has been silent for between these is read once more: see _sweep.
FELL_SILENT_NS = (50_000_000, 1_000_000_000)
OPENING = 64  # connections that `prepare` opens at a time: where an accept queue is full, TCP retries after a second
# Deadlines that a sweep would see too late: how an answer ends, and when a user leaves.
TIMED_LIMITS = ("end", "patience")


class AsyncWire(Shell):
    """An HTTP/1.1 client without a limit on connections, whose answers are neither decoded nor copied (see Received).

    `timeouts` hold for orders that bring none of their own. `heartbeat` runs from the first use to `aclose`.
    """

    def __init__(
        self, *, timeouts: Timeouts | None = None, verify: ssl.SSLContext | None = None, proxy: Proxy | None = None
    ) -> None:
        super().__init__(timeouts, verify, proxy, watches_idle=True)
        self.heartbeat = Heartbeat()
        self._lookups: dict[Origin, asyncio.Task[list[SocketAddress] | ConnectFailure]] = {}
        self._calls: set[Call] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._burst: list[tuple[_AsyncCall, bytes]] = []

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
        """Send `order` and wait until its answer is over; the task that waits is woken once.

        An answer that was cut off inside its body raises nothing: see received.complete and received.failure. Raises
        httpx's ConnectError and ConnectTimeout, ReadTimeout (which limit, in words), ReadError, WriteError or
        RemoteProtocolError. Cancelling the task drops the connection.
        """
        self._start()
        await self._exchange(order)

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

    def release(self, call: Call) -> None:
        self._calls.discard(call)
        super().release(call)

    def send_in_burst(self, call: _AsyncCall, payload: bytes) -> None:
        """Begin a call when all tasks that are ready now have run, right behind the calls that were given before it."""
        if not self._burst:
            asyncio.get_running_loop().call_soon(self._send_burst)
        self._burst.append((call, payload))

    def _send_burst(self) -> None:
        burst, self._burst = self._burst, []
        for call, payload in burst:
            try:
                call.start(payload)
            except Exception as error:  # noqa: BLE001 - raised in the task of this call; the others are sent
                call.spoil(error)

    def _call(self, order: Order, connection: Connection) -> Call:
        call = _AsyncCall(self, order, connection)
        self._calls.add(call)
        return call

    async def _look_up(self, place: Origin, until: float) -> list[SocketAddress] | ConnectFailure:
        lookup = self._lookups.get(place)
        if lookup is None:  # all who wait share one lookup, and a cancelled one leaves it running for the others
            lookup = self._lookups[place] = asyncio.ensure_future(self._ask_resolver(place))
            lookup.add_done_callback(lambda _: self._lookups.pop(place))
        try:
            async with _timeout(until):
                return await asyncio.shield(lookup)
        except TimeoutError as error:
            return ConnectFailure.of(error)

    async def _ask_resolver(self, place: Origin) -> list[SocketAddress] | ConnectFailure:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except OSError as error:
            return ConnectFailure.of(error)
        return self._addresses.put(place, [(family, address) for family, _, _, _, address in found])

    async def _writable(self, fd: int, until: float) -> None:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()
        loop.add_writer(fd, _set_done, writable)
        try:
            async with _timeout(until):
                await writable
        finally:
            loop.remove_writer(fd)

    async def _pump(self, fd: int, step: Callable[[], bool], until: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with _timeout(until):
                while not step():
                    readable: asyncio.Future[None] = loop.create_future()
                    loop.add_reader(fd, _set_done, readable)
                    await readable
        finally:
            loop.remove_reader(fd)

    def _expect_no_stamps(self) -> None:
        self._poller.end_ticks()

    def _watch(self, connection: Connection) -> None:
        self._poller.add(connection.fd, connection.receive)

    def _forget(self, fd: int) -> None:
        if self._loop is not None:
            self._poller.remove(fd)
            self._loop.remove_writer(fd)  # or uvloop keeps the descriptor open


def _timeout(until: float) -> asyncio.Timeout:
    """Return a time limit that ends at an instant, monotonic ns or infinite."""
    return asyncio.timeout(None if until == float("inf") else (until - now()) * S_PER_NS)


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class _AsyncCall(Call):
    """A Call that one task waits for."""

    __slots__ = ("_sharp", "_timer", "_waiter", "_wire")

    def __init__(self, wire: AsyncWire, order: Order, connection: Connection) -> None:
        super().__init__(wire, order, connection)
        self._wire = wire
        self._sharp = self._limits.sharp
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, payload: bytes) -> None:
        if self._in_burst:
            self._wire.send_in_burst(self, payload)
        else:
            self.start(payload)
        while not self.over:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.fail(httpx.ReadError("cancelled before the answer was over"))
                raise

    def start(self, payload: bytes) -> None:
        if not self.begin(payload):
            asyncio.get_running_loop().add_writer(self.connection.fd, self._writable)
        if self._sharp:
            self._set_timer()

    def spoil(self, error: Exception) -> None:
        """Raise `error` in the task that waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

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
        left = max(deadline - now(), 0) * S_PER_NS
        if not self.over and left < float("inf") and (limit in TIMED_LIMITS or self._sharp):
            self._timer = asyncio.get_running_loop().call_later(left, self._deadline_is_due)

    def _deadline_is_due(self) -> None:
        self.check(now())
        self._set_timer()

    def _wake(self) -> None:
        if self.over and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiter is not None:
            _set_done(self._waiter)
