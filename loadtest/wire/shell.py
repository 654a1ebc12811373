"""What both shells have: limits, what is trusted, a proxy, the addresses of names, and idle connections."""

from __future__ import annotations

import ssl

import httpx

from loadtest.reach import Proxy
from loadtest.wire.call import Call
from loadtest.wire.connecting.address import Addresses, Origin
from loadtest.wire.connecting.tls import Verify, client_context
from loadtest.wire.connection import Connection, Pool
from loadtest.wire.order import Timeouts


class Shell:
    """A wire without its waiting."""

    def __init__(self, timeouts: Timeouts | None, verify: Verify, proxy: Proxy | None, *, watches_idle: bool) -> None:
        self.timeouts = timeouts or Timeouts()
        self.proxy = proxy
        self._verify = verify
        self._context: ssl.SSLContext | None = None
        self._addresses = Addresses()
        self._pool = Pool(self._close, watched=watches_idle)

    def proxy_to(self, origin: Origin) -> Proxy | None:
        """Return the proxy through which a server is asked; None where it is asked directly."""
        return self.proxy if self.proxy is not None and self.proxy.leads_to(origin) else None

    def _start_tls(self, connection: Connection) -> None:
        if self._context is None:
            self._context = client_context(self._verify)
        connection.start_tls(self._context)
        connection.transmit()

    def _release(self, call: Call) -> None:
        self._pool.release(call.connection, reusable=call.received.reusable)

    def _close(self, connection: Connection) -> None:
        connection.broken = True
        connection.wake = bool
        if connection.fd >= 0:
            self._forget(connection.fd)
        connection.fd = -1
        connection.sock.close()

    def _forget(self, fd: int) -> None:
        """Watch a descriptor no more, which is about to be closed."""
        raise NotImplementedError


def check_secured(connection: Connection) -> None:
    """Raise httpx.ConnectError where the handshake on `connection` has ended otherwise than well."""
    assert connection.tls is not None
    if not connection.tls.ready:
        why = connection.error or "the server closed the connection during the TLS handshake"
        raise httpx.ConnectError(f"cannot connect to {connection.origin}: {why}")
