"""What both shells have: a wire without its waiting, and one request on its connection."""

from __future__ import annotations

import errno
import os
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from socket import SO_ERROR, SOL_SOCKET, socket
from typing import Any, Self

import httpx

from loadtest.metrics import NS_PER_S
from loadtest.reach import Proxy, trust
from loadtest.scenario import Scenario
from loadtest.wire.clock import now
from loadtest.wire.connecting.address import (
    NO_TLS,
    UNIX,
    Addresses,
    ConnectFailure,
    Origin,
    SocketAddress,
    connect_error,
    open_socket,
)
from loadtest.wire.connecting.hops import MOST_REFUSAL, Hop, hop_to
from loadtest.wire.connection import Connection, Pool
from loadtest.wire.order import HungUpError, Order, Timeouts

ALONE_NS, TURN_NS = 250_000_000, 20_000_000  # how long the first of several addresses is tried alone; each in its turn
_CONNECTING = (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)


class Call:
    """One request on its connection. Once it is `over`, nothing more will come, and `error` says what spoilt it, if anything."""

    __slots__ = ("_in_burst", "_limits", "_shell", "_started", "connection", "error", "over", "received")

    def __init__(self, shell: Shell, order: Order, connection: Connection) -> None:
        self.received = order.received
        self.connection = connection
        self.over = False
        self.error: httpx.TransportError | None = None
        self._limits = order.limits or shell.timeouts
        if order.patience is not None:
            self._limits = replace(self._limits, patience=order.patience)
        self._shell = shell
        self._in_burst = order.in_burst and order.received.t_send is None  # not a second time
        self._started = now()

    async def send(self, payload: bytes) -> None:
        """Send the request and wait until its answer is over, or the connection turned out to be stale."""
        raise NotImplementedError

    @property
    def deadline(self) -> tuple[float, str]:
        """The instant from which `check` has something to do (monotonic ns or infinite), and why: a limit's name, or "end".

        At "end" the answer may be over without a limit passed: see Received.until and Received.look_at.
        """
        deadline, until = self._limits.deadline(self.received, self._started), self.received.until
        end = self.received.look_at if until is None else until
        return deadline if end is None else min(deadline, (end, "end"))

    def begin(self, payload: bytes) -> bool:
        """Send what the kernel takes of the request; True when that was all."""
        self.connection.begin(payload, self.received, self._changed)
        if self._in_burst:
            self.received.t_turn = now()
        return self.connection.transmit()

    def check(self, t: int) -> None:
        """End the call if it is overdue at `t`."""
        if self.over or t < self.deadline[0]:
            return
        deadline, limit = self.deadline
        if limit == "end":
            if self.received.expire(t):
                self._changed()
            return
        if limit == "idle":
            self.received.catch_up()  # content may have come that nobody has looked for yet
            deadline, limit = self.deadline
        if t >= deadline:
            self.fail(self._limits.error(limit, has_tokens=self.received.has_tokens))

    def fail(self, error: httpx.TransportError) -> None:
        """End the call for `error` and drop its connection, so that the server stops working for it."""
        if not self.over:
            self.connection.fail(error)
            self._changed()

    def raise_error(self) -> None:
        """Raise what spoilt the call, once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame: a cycle otherwise

    def _changed(self) -> None:
        """Take note that something happened on the connection."""
        connection = self.connection
        if self.received.hung_up is not None and not self.received.ended:
            connection.fail(HungUpError(self.received.hung_up))
        if not self.over and (self.received.ended or connection.stale):
            self.over = True
            self.error = None if connection.stale else connection.take_error()
            self._shell.release(self)
            self._wake()
        elif self.received.until is None:
            self._wake()
        else:
            self._expect_end()

    def _wake(self) -> None:
        """Have whoever waits for the call look at it again."""

    def _expect_end(self) -> None:
        """Have `check` called at about received.until, when the answer is over though its framing goes on."""


class Shell:
    """A wire without its waiting.

    What waits is a coroutine here: AsyncWire's suspend, and SyncWire's block where they wait, so that they never suspend.
    Instants until which something may take are monotonic ns, or infinite.
    """

    def __init__(
        self, timeouts: Timeouts | None, verify: ssl.SSLContext | None, proxy: Proxy | None, *, watches_idle: bool
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self.proxy = proxy
        self._verify = verify
        self._addresses = Addresses()
        self._pool = Pool(self._close, watched=watches_idle)

    @classmethod
    def of(cls, scenario: Scenario, **how: Any) -> Self:
        """Return a wire that is to measure: with the scenario's limits for one request, what it trusts, and its proxy."""
        limits = Timeouts(
            connect=scenario.connect_timeout,
            first_token=scenario.first_token_timeout,
            idle=scenario.idle_timeout,
            total=scenario.total_timeout,
        )
        return cls(timeouts=limits, verify=trust(scenario), proxy=Proxy.of(scenario), **how)

    def proxy_to(self, origin: Origin) -> Proxy | None:
        """Return the proxy through which a server is asked; None where it is asked directly."""
        return self.proxy if self.proxy is not None and self.proxy.leads_to(origin) else None

    def release(self, call: Call) -> None:
        """Take back the connection of a call that is over."""
        self._pool.release(call.connection, reusable=call.received.reusable)

    async def _exchange(self, order: Order) -> None:
        """Send `order` and wait until its answer is over; for what it raises see AsyncWire.fetch."""
        received = order.received
        connection = self._pool.take(order.origin)
        while True:
            if connection is None:
                began = now()
                connection = await self._connect(order.origin, (order.limits or self.timeouts).connect)
                received.new_conn, received.t_connect = True, now()
                received.connect_ns = received.t_connect - began if received.t_send is None else 0
            call = self._call(order, connection)
            await call.send(order.payload_by(self.proxy_to(order.origin)))
            if not connection.stale:
                call.raise_error()
                return
            # The server had closed this connection before it saw the request, which goes once more, over a new one.
            connection = None
            received.t_send = received.t_send or now()

    async def _connect(self, origin: Origin, limit: float | None) -> Connection:
        """Return a new connection to `origin`, TLS included, within `limit` seconds."""
        until = float("inf") if limit is None else now() + limit * NS_PER_S
        connection = await self._reach(origin, until, limit)
        if origin.scheme == "https":
            await self._secure(connection, until, limit)
        self._watch(connection)
        return connection

    async def _reach(self, origin: Origin, until: float, limit: float | None) -> Connection:
        """Return a connection to the first address of `origin` that takes one.

        While the first does not answer, the others are tried as well, in turns (RFC 8305): a name may have an address that
        leads nowhere, such as ::1 for localhost.
        """
        failures: list[ConnectFailure] = []
        proxy = self.proxy_to(origin)
        place = origin if proxy is None else Origin(*proxy.place)
        found = self._addresses.get(place) or await self._look_up(place, until)
        if isinstance(found, ConnectFailure):
            raise connect_error(origin, [found], limit, proxy)
        turns, turn, sockets = deque(found), ALONE_NS, dict[SocketAddress, socket]()
        try:
            while turns:
                address = turns.popleft()
                # An address that does not answer, or a proxy there, must leave time for the others.
                share = now() + (until - now()) / (len(turns) + 1)
                turn_ends, turn = min(share, now() + turn) if turns else share, TURN_NS
                try:
                    if address not in sockets:
                        sockets[address] = open_socket(address[0])
                    connection = await self._open(origin, sockets[address], address, turn_ends, share)
                except OSError as error:  # TimeoutError is one
                    failures.append(ConnectFailure.of(error))
                    continue
                if connection is not None:
                    self._addresses.worked(place, address)
                    del sockets[address]
                    return connection
                turns.append(address)
        finally:
            for sock in sockets.values():
                sock.close()
        raise connect_error(origin, failures, limit, proxy)

    async def _open(
        self, origin: Origin, sock: socket, address: SocketAddress, turn_ends: float, until: float
    ) -> Connection | None:
        """Return a connection for `origin` to `address`; None where that has not answered when its turn ends; raises OSError."""
        if origin.scheme == UNIX:
            self._expect_no_stamps()
        try:
            await self._join(sock, address, turn_ends)
        except OSError as error:
            if turn_ends < until and ConnectFailure.of(error).slow:
                return None
            raise
        hop = hop_to(self.proxy_to(origin), origin)
        if hop is not None:
            await self._go_through(sock, hop, until)
        return Connection(sock, origin, None if hop is None else hop.tls)

    async def _join(self, sock: socket, address: SocketAddress, until: float) -> None:
        """Connect a socket, be it once more; raises OSError."""
        code = sock.connect_ex(address[1])
        if code in _CONNECTING:
            await self._writable(sock.fileno(), until)
            code = sock.getsockopt(SOL_SOCKET, SO_ERROR)
        if code not in (0, errno.EISCONN):
            raise OSError(code, os.strerror(code))

    async def _go_through(self, sock: socket, hop: Hop, until: float) -> None:
        """Do with the proxy what comes before the first request; raises OSError, in the proxy's words where it refuses."""

        def step() -> bool:
            try:
                hop.feed(sock.recv(MOST_REFUSAL))
            except (BlockingIOError, InterruptedError):
                return False
            sock.send(hop.outgoing())
            return hop.over

        sock.send(hop.outgoing())  # a new connection takes so few bytes at once
        try:
            await self._pump(sock.fileno(), step, until)
        except TimeoutError:
            hop.give_up()
            raise

    async def _secure(self, connection: Connection, until: float, limit: float | None) -> None:
        """Wait for the TLS handshake; raises httpx.ConnectError where it ends otherwise than well."""

        def step() -> bool:
            connection.receive()
            return tls.ready or connection.broken

        try:
            self._verify = self._verify or ssl.create_default_context()
            tls = connection.start_tls(self._verify)
            connection.transmit()
            await self._pump(connection.fd, step, until)
            if not tls.ready:
                why = connection.error or "the server closed the connection during the TLS handshake"
                raise httpx.ConnectError(f"cannot connect to {connection.origin}: {why}")
        except BaseException as error:
            self._close(connection)
            if isinstance(error, TimeoutError):
                raise connect_error(connection.origin, [NO_TLS], limit) from None
            raise

    def _close(self, connection: Connection) -> None:
        connection.broken = True
        connection.wake = bool
        if connection.fd >= 0:
            self._forget(connection.fd)
        connection.fd = -1
        connection.sock.close()

    def _call(self, order: Order, connection: Connection) -> Call:
        """Return the call of a request on a connection, in this shell's way of waiting."""
        raise NotImplementedError

    async def _look_up(self, place: Origin, until: float) -> list[SocketAddress] | ConnectFailure:
        """Find the addresses of a name that is not resolved yet; return them, or why there are none."""
        raise NotImplementedError

    async def _writable(self, fd: int, until: float) -> None:
        """Wait until `fd` takes bytes; raises TimeoutError."""
        raise NotImplementedError

    async def _pump(self, fd: int, step: Callable[[], bool], until: float) -> None:
        """Call `step`, which reads once, whenever `fd` is readable, until it returns True; raises TimeoutError."""
        raise NotImplementedError

    def _expect_no_stamps(self) -> None:
        """Have reads made at once from now on: the kernel stamps nothing that comes over a unix socket."""
        raise NotImplementedError

    def _watch(self, connection: Connection) -> None:
        """Have a new connection read whenever something has come, where that is not done for each call."""

    def _forget(self, fd: int) -> None:
        """Watch a descriptor no more, which is about to be closed."""
        raise NotImplementedError
