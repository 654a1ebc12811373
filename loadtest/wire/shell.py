"""What both shells have: a wire without its waiting, and one request on its connection."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace

import httpx

from loadtest.reach import Proxy
from loadtest.wire.clock import now
from loadtest.wire.connecting.address import Addresses, Origin
from loadtest.wire.connection import Connection, Pool
from loadtest.wire.order import HungUpError, Order, Timeouts


class Call:
    """One request on its connection. Once it is `over`, nothing more will come, and `error` says what spoilt it, if anything."""

    __slots__ = ("_limits", "_release", "_started", "connection", "error", "over", "received")

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
        """When `check` has something to do (monotonic ns or infinite), and why: the name of a limit, or "end".

        "end" is no limit: see Received.until and Received.look_at.
        """
        deadline, until = self._limits.deadline(self.received, self._started), self.received.until
        end = self.received.look_at if until is None else until
        return deadline if end is None else min(deadline, (end, "end"))

    def begin(self, payload: bytes) -> bool:
        """Send what the kernel takes of the request; True when that was all."""
        self.connection.begin(payload, self.received, self._changed)
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
            self._wake()
        elif self.received.until is None:
            self._wake()
        else:
            self._expect_end()

    def _wake(self) -> None:
        """Have whoever waits for the call look at it again."""

    def _expect_end(self) -> None:
        """See to it that `check` is called at about received.until, when the answer is over though its framing goes on."""


class Shell:
    """A wire without its waiting."""

    def __init__(
        self, timeouts: Timeouts | None, verify: ssl.SSLContext | None, proxy: Proxy | None, *, watches_idle: bool
    ) -> None:
        self.timeouts = timeouts or Timeouts()
        self.proxy = proxy
        self._verify = verify
        self._addresses = Addresses()
        self._pool = Pool(self._close, watched=watches_idle)

    def proxy_to(self, origin: Origin) -> Proxy | None:
        """Return the proxy through which a server is asked; None where it is asked directly."""
        return self.proxy if self.proxy is not None and self.proxy.leads_to(origin) else None

    def _start_tls(self, connection: Connection) -> None:
        self._verify = self._verify or ssl.create_default_context()
        connection.start_tls(self._verify)
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
