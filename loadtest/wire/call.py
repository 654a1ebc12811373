"""One request on its connection, from its first byte to the end of its answer: what both shells wait for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import httpx

from loadtest.wire.clock import now
from loadtest.wire.connection import Connection
from loadtest.wire.order import HungUpError, Order, Timeouts


class Call:
    """One request on its connection. Once it is `over`, nothing more will come, and `error` says what spoilt it, if anything."""

    __slots__ = ("_limits", "_release", "_started", "_wake", "connection", "error", "over", "received")

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
        self.over = False
        self.error: httpx.TransportError | None = None
        self._limits = order.limits or timeouts
        if order.patience is not None:
            self._limits = replace(self._limits, patience=order.patience)
        self._release = release
        self._wake = wake
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

    def begin(self, payload: bytes) -> bool:
        """Send what the kernel takes of the request; True when that was all."""
        self.connection.begin(payload, self.received, self._changed)
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
            wake, self._wake = self._wake, bool  # no cycle is left for the garbage collector
            wake()
            return
        if self.received.until is None:
            self._wake()
        else:
            self._expect_end()

    def _expect_end(self) -> None:
        """See to it that `check` is called at about received.until, when the answer is over though its framing goes on."""
