"""One request on its connection, from its first byte to the end of its answer: what both shells wait for."""

from __future__ import annotations

from collections.abc import Callable

import httpx

from loadtest.wire.clock import now
from loadtest.wire.connection import Connection
from loadtest.wire.order import Order, Timeouts


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
        self.over = False
        self.error: httpx.TransportError | None = None
        self._limits = order.limits or timeouts
        self._release = release
        self._wake = wake
        self._started = now()

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
        """Raise what spoilt the call, once."""
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: no circle

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
