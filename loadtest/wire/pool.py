"""One request's way over a connection, and the pool that connections come from: what the shells wait for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import httpx

from loadtest.wire.clock import now
from loadtest.wire.connection import Connection, Inbox, Origin, Timeouts, encode_request
from loadtest.wire.received import Received


@dataclass(slots=True)
class Order:
    """A request made ready: where it goes, its bytes, and the Received to fill. With an inbox it is an ordinary one."""

    origin: Origin
    payload: bytes
    received: Received
    limits: Timeouts | None = None  # None: the wire's own
    inbox: Inbox | None = None  # takes the body as it comes

    @classmethod
    def ordinary(cls, request: httpx.Request) -> Self:
        """Make ready what httpx asks a transport for; its own limits hold."""
        inbox = Inbox()
        return cls._of(request, Received(live=inbox.put), Timeouts.of(request), inbox)

    @classmethod
    def measured(cls, request: httpx.Request, received: Received) -> Self:
        """Make ready a request whose answer is measured: neither compressed by the server nor decoded here."""
        request.headers["Accept-Encoding"] = "identity"
        return cls._of(request, received)

    @classmethod
    def _of(cls, request: httpx.Request, received: Received, *rest: Any) -> Self:
        if request.method == "HEAD":
            received.expect_no_body()
        return cls(Origin.of(request.url), encode_request(request), received, *rest)


class Posts:
    """Makes orders of one client's POST requests below one URL: their heads differ in the body's length alone.

    To build a request with httpx and send it through its client takes 0.25 ms, and a wave of 300 users then leaves over
    75 ms; the bytes are the same.
    """

    def __init__(self, client: httpx.Client | httpx.AsyncClient, url: str) -> None:
        self._client = client
        self._url = url
        self._heads: dict[str, tuple[Origin, bytes]] = {}

    def order(self, path: str, body: bytes, received: Received) -> Order:
        """Return a POST of `body` to `path`; raises httpx.UnsupportedProtocol or httpx.LocalProtocolError."""
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self._head(path)
        origin, fixed = head
        return Order(origin, b"%bContent-Length: %d\r\n\r\n%b" % (fixed, len(body), body), received)

    def _head(self, path: str) -> tuple[Origin, bytes]:
        request = self._client.build_request("POST", self._url + path)
        del request.headers["Content-Length"]
        order = Order.measured(request, Received())
        return order.origin, order.payload.removesuffix(b"\r\n")


class Pool:
    """Idle connections by origin, as many as there are; the last one parked is taken first."""

    def __init__(self, close: Callable[[Connection], None]) -> None:
        self._idle: dict[Origin, list[Connection]] = {}
        self._close = close

    def count(self, origin: Origin) -> int:
        return len(self._idle.get(origin, ()))

    def take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        return idle.pop() if idle else None

    def park(self, connection: Connection) -> None:
        """Keep an idle connection; one that breaks while idle (the server closes it) is dropped when that is seen."""
        if connection.broken:
            self._close(connection)
            return
        idle = self._idle.setdefault(connection.origin, [])

        def drop() -> None:
            if connection.broken and connection in idle:
                idle.remove(connection)
                self._close(connection)

        connection.received = None
        connection.wake = drop
        idle.append(connection)

    def release(self, call: Call) -> None:
        """Take back the connection of a call that is over, for the next one if it can carry one."""
        if call.received.reusable and not call.connection.unsent:
            self.park(call.connection)
        else:
            self._close(call.connection)

    def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                self._close(idle.pop())


class Call:
    """One request on its connection. `over` once nothing more will come; then `error` says what spoilt it, if anything."""

    def __init__(
        self,
        order: Order,
        connection: Connection,
        timeouts: Timeouts,
        *,
        release: Callable[[Call], None],
        wake: Callable[[], object] = bool,
    ) -> None:
        self.received = order.received
        self.connection = connection
        self.inbox = order.inbox
        self.over = False
        self.error: httpx.TransportError | None = None
        self._limits = order.limits or timeouts
        self._release = release
        self._wake = wake
        self._started = now()
        if order.inbox is not None:
            order.inbox.wake = wake

    @property
    def answered(self) -> bool:
        """Whether what is first waited for is there, or never will be: the headers, of a whole answer all."""
        return self.over or (self.received.t_headers is not None and not self.received.whole)

    @property
    def deadline(self) -> tuple[float, str]:
        """When the call is overdue (monotonic ns, perhaps infinite), and by which limit.

        "end" and "look" are none: see `until` and `look_at` of what is received.
        """
        deadline = self._limits.deadline(self.received, self._started)
        if (until := self.received.until) is not None:
            deadline = min(deadline, (until, "end"))
        if (look_at := self.received.look_at) is not None:
            deadline = min(deadline, (look_at, "look"))
        return deadline

    def begin(self, payload: bytes, *, fresh: bool) -> bool:
        """Send what the kernel takes of the request; True when that was all."""
        self.connection.begin(payload, self.received, self._changed, fresh=fresh)
        return self.connection.transmit()

    def check(self, t: int) -> None:
        """End the call if it is overdue at `t`."""
        if self.over or t < self.deadline[0]:
            return
        deadline, limit = self.deadline
        if limit == "look":
            if self.received.look():
                self._changed()
            return
        if limit == "end":
            if self.received.expire(t):
                self._changed()
            return
        if limit == "idle":
            self.received.catch_up()  # content may have come since anybody looked
            deadline, limit = self.deadline
        if t >= deadline:
            self.fail(self._limits.error(limit))

    def fail(self, error: httpx.TransportError) -> None:
        """End the call for `error` and drop its connection, so that the server stops working for it."""
        if not self.over:
            self.connection.fail(error)
            self._changed()

    def raise_error(self) -> None:
        """Raise what spoilt the call; an answer cut off inside its body is an error of ordinary requests only."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no circle
        if self.over and self.inbox is not None and not self.received.complete:
            raise httpx.RemoteProtocolError(self.received.failure or "")

    def _changed(self) -> None:
        """Take the connection's word that something happened."""
        connection = self.connection
        if not self.over and (self.received.ended or connection.stale):
            self.over = True
            self.error = None if connection.stale else connection.verdict()
            self._release(self)
            wake, self._wake = self._wake, bool  # nothing more to tell: no circle is left for the collector
            wake()
            return
        if self.received.until is None:
            self._wake()
        else:
            self._expect_end()

    def _expect_end(self) -> None:
        """Have `check` called about when the answer is over though its framing goes on: received.until."""
