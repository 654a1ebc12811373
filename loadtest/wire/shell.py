"""What both shells share: a call, which is one request on its connection, and how connections are opened.

How to wait is left to each shell. What may take time is a coroutine: in an AsyncWire it suspends, in a SyncWire whatever it
awaits blocks instead, so that it is over after its first step.
"""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx

from loadtest.metrics import NS_PER_S
from loadtest.reach import Proxy
from loadtest.wire.clock import now
from loadtest.wire.connecting.address import (
    Addresses,
    ConnectFailure,
    Origin,
    SocketAddress,
    connect_error,
    open_socket,
)
from loadtest.wire.connecting.hop import Hop, hop_to
from loadtest.wire.connecting.tls import Tls, Verify, client_context
from loadtest.wire.connection import Connection, Pool, nobody
from loadtest.wire.order import HungUpError, Order, Timeouts

LOOK_NS = 250_000_000  # between two looks at a deadline, which any read may move


def until_look(deadline: float, t: int) -> float:
    """Return how long to wait from `t` on before a deadline is looked at, s: it may be nearer by then, as after a token."""
    return max(min(deadline - t, LOOK_NS), 0) / NS_PER_S


class Call:
    """One request on its connection. Once it is `over`, nothing more will come, and `error` says what spoilt it, if anything."""

    def __init__(
        self, order: Order, connection: Connection, timeouts: Timeouts, *, release: Callable[[Call], None]
    ) -> None:
        self.received = order.received
        self.connection = connection
        self.over = False
        self.error: httpx.TransportError | None = None
        self._limits = order.limits or timeouts
        if order.patience is not None:
            self._limits = replace(self._limits, patience=order.patience)
        self._release = release
        self._started = now()

    @property
    def deadline(self) -> tuple[float, str]:
        """When `check` has something to do (monotonic ns or infinite), and why: the name of a limit, "end" or "look".

        "end" and "look" are no limits: see Received.until and Received.look_at.
        """
        deadline = self._limits.deadline(self.received, self._started)
        if (until := self.received.until) is not None:
            deadline = min(deadline, (until, "end"))
        if (look_at := self.received.look_at) is not None:
            deadline = min(deadline, (look_at, "look"))
        return deadline

    async def send(self, payload: bytes) -> None:
        """Send the request and wait until its answer is over, or the connection turned out to be stale."""
        raise NotImplementedError

    def begin(self, payload: bytes) -> bool:
        """Send what the kernel takes of the request; True when that was all."""
        self.connection.begin(payload, self.received, self._changed)
        return self.connection.transmit()

    def check(self, t: int) -> float:
        """End the call if it is overdue at `t`; return in how many seconds to check it again, where it is not."""
        deadline, limit = self.deadline
        if t >= deadline and not self.over:
            self._do_what_is_due(t, deadline, limit)
            deadline, _ = self.deadline
        return until_look(deadline, t)

    def _do_what_is_due(self, t: int, deadline: float, limit: str) -> None:
        if limit == "look":
            if self.received.look():
                self._changed()
            return
        if limit == "end":
            if self.received.expire(t):
                self._changed()
            return
        if limit == "idle":
            self.received.catch_up()  # content may have come that nobody has looked for yet
            deadline, limit = self.deadline
        if t >= deadline:
            self.fail(self._limits.error(limit))

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
            self._release(self)
        if self.over or self.received.until is None:
            self._wake_up()
        else:
            self._set_timer()

    def _wake_up(self) -> None:
        """Wake whoever waits for this call."""

    def _set_timer(self) -> None:
        """See to it that `check` is called at received.until, when the answer is over though its framing goes on."""


class Shell:
    """A wire without its waiting. Instants until which to wait are monotonic ns, infinite where there is no limit."""

    def __init__(self, timeouts: Timeouts | None, verify: Verify, proxy: Proxy | None) -> None:
        self.timeouts = timeouts or Timeouts()
        self.proxy = proxy
        self._verify = verify
        self._context: ssl.SSLContext | None = None
        self._addresses = Addresses()
        self._pool = Pool(self._close)

    def proxy_to(self, origin: Origin) -> Proxy | None:
        """Return the proxy through which a server is asked; None where it is asked directly."""
        return self.proxy if self.proxy is not None and self.proxy.leads_to(origin) else None

    async def _fetch(self, order: Order) -> None:
        received = order.received
        connection = self._pool.take(order.origin)
        while True:
            if connection is None:
                connection = await self._connect(order.origin, (order.limits or self.timeouts).connect)
                received.new_conn, received.t_connect = True, now()
            call = self._new_call(order, connection)
            await call.send(order.payload_by(self.proxy_to(order.origin)))
            if not connection.stale:
                call.raise_error()
                return
            # The server had closed this connection before it saw the request, which goes once more, over a new one.
            connection = None
            received.t_send = received.t_send or now()

    async def _connect(self, origin: Origin, limit: float | None) -> Connection:
        """Return a new connection to `origin`, TLS included, within `limit` seconds."""
        until = math.inf if limit is None else now() + limit * NS_PER_S
        connection = await self._reach(origin, until, limit)
        if origin.scheme == "https":
            await self._secure(connection, until, limit)
        return connection

    async def _reach(self, origin: Origin, until: float, limit: float | None) -> Connection:
        """Return a connection to the first address of `origin` that takes one."""
        failures: list[ConnectFailure] = []
        proxy = self.proxy_to(origin)
        place = origin if proxy is None else Origin(*proxy.place)
        addresses = self._addresses.get(place)
        if addresses is None:
            found = await self._look_up(place, until)
            if isinstance(found, ConnectFailure):
                raise connect_error(origin, [found], limit, proxy)
            addresses = self._addresses.put(place, found)
        for i, address in enumerate(addresses):
            # An address that does not answer must leave time for those behind it.
            share = now() + (until - now()) / (len(addresses) - i)
            try:
                connection = await self._open(origin, address, share)
            except OSError as error:  # TimeoutError is one
                failures.append(ConnectFailure.of(error))
            else:
                self._addresses.worked(place, address)
                return connection
        raise connect_error(origin, failures, limit, proxy)

    async def _open(self, origin: Origin, address: SocketAddress, until: float) -> Connection:
        """Return a connection for `origin` to `address`, the only place that opens one; raises OSError."""
        sock = open_socket(address[0])
        try:
            hop = hop_to(self.proxy_to(origin), origin)
            await self._connect_socket(sock, address[1], hop, until)
            connection = Connection(sock, origin, None if hop is None else hop.tls)
            self._watch(connection)
        except BaseException:
            sock.close()
            raise
        return connection

    async def _secure(self, connection: Connection, until: float, limit: float | None) -> None:
        """Shake hands over a new connection; raises httpx.ConnectError where that ends otherwise than well."""
        if self._context is None:
            self._context = client_context(self._verify)
        try:
            tls = connection.start_tls(self._context)
            connection.transmit()
            if not await self._await_handshake(connection, tls, until):
                raise connect_error(connection.origin, [ConnectFailure(slow=True, why="")], limit)
            if not tls.ready:
                why = connection.error or "the server closed the connection during the TLS handshake"
                raise httpx.ConnectError(f"cannot connect to {connection.origin}: {why}")
        except BaseException:
            self._close(connection)
            raise

    def _release(self, call: Call) -> None:
        self._pool.release(call.connection, reusable=call.received.reusable)

    def _close(self, connection: Connection) -> None:
        connection.broken = True
        connection.wake = nobody
        if connection.fd >= 0:
            self._forget(connection.fd)
        connection.fd = -1
        connection.sock.close()

    # -- how each shell waits ---------------------------------------------------------------------------------------

    def _new_call(self, order: Order, connection: Connection) -> Call:
        """Return what carries `order` over a connection."""
        raise NotImplementedError

    async def _look_up(self, origin: Origin, until: float) -> list[SocketAddress] | ConnectFailure:
        """Return the addresses of the origin's name, or why none was found."""
        raise NotImplementedError

    async def _connect_socket(self, sock: socket.socket, address: Any, hop: Hop | None, until: float) -> None:
        """Connect a socket, and do with a proxy what comes before the first request.

        Raises OSError, in the proxy's words where it refuses.
        """
        raise NotImplementedError

    async def _await_handshake(self, connection: Connection, tls: Tls, until: float) -> bool:
        """Wait until the handshake on `connection` has ended, well or not; return False where it takes too long."""
        raise NotImplementedError

    def _watch(self, connection: Connection) -> None:
        """Take a new connection, before anything is read from it; those of unix sockets get no stamps from the kernel."""
        raise NotImplementedError

    def _forget(self, fd: int) -> None:
        """Watch a descriptor no more, which is about to be closed."""
        raise NotImplementedError
