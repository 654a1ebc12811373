"""What both shells share: a request's way over a connection, and how one is opened. How to wait is left to each shell.

Everything that may take time is a coroutine. In an AsyncWire it suspends; in a SyncWire whatever it awaits blocks instead, so
that it is over after its first step.
"""

from __future__ import annotations

import math
import socket
import ssl
from typing import Any

import httpx

from loadtest.metrics import NS_PER_S
from loadtest.reach import Proxy
from loadtest.wire.call import Call
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
from loadtest.wire.connection import Connection, Pool
from loadtest.wire.order import Order, Timeouts


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
            await self._reach_hop(sock, address[1], hop, until)
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
            if not await self._shaken(connection, tls, until):
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
        connection.wake = bool
        if connection.fd >= 0:
            self._forget(connection.fd)
        connection.fd = -1
        connection.sock.close()

    # -- how each shell waits ---------------------------------------------------------------------------------------

    def _call(self, order: Order, connection: Connection) -> Call:
        """Return what carries `order` over a connection."""
        raise NotImplementedError

    async def _look_up(self, origin: Origin, until: float) -> list[SocketAddress] | ConnectFailure:
        """Return the addresses of the origin's name, or why none was found."""
        raise NotImplementedError

    async def _reach_hop(self, sock: socket.socket, address: Any, hop: Hop | None, until: float) -> None:
        """Connect a socket, and do with a proxy what comes before the first request.

        Raises OSError, in the proxy's words where it refuses.
        """
        raise NotImplementedError

    async def _shaken(self, connection: Connection, tls: Tls, until: float) -> bool:
        """Wait until the handshake on `connection` has ended, well or not; return False where it takes too long."""
        raise NotImplementedError

    def _watch(self, connection: Connection) -> None:
        """Take a new connection, before anything is read from it; those of unix sockets get no stamps from the kernel."""
        raise NotImplementedError

    def _forget(self, fd: int) -> None:
        """Watch a descriptor no more, which is about to be closed."""
        raise NotImplementedError
