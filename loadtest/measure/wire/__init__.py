"""HTTP/1.1 on own sockets with the kernel's arrival stamps, under the httpx API."""

from loadtest.measure.wire.arrivals import Arrivals, Read
from loadtest.measure.wire.async_wire import Answer, AsyncWire
from loadtest.measure.wire.clock import Heartbeat, Keeper, LagLog, WallClock, keeper, now
from loadtest.measure.wire.connection import Timeouts
from loadtest.measure.wire.sync_wire import BlockingWaiter, SyncAnswer, SyncWire, Waiter
from loadtest.measure.wire.tls import Verify

__all__ = [
    "Answer",
    "Arrivals",
    "AsyncWire",
    "BlockingWaiter",
    "Heartbeat",
    "Keeper",
    "LagLog",
    "Read",
    "SyncAnswer",
    "SyncWire",
    "Timeouts",
    "Verify",
    "Waiter",
    "WallClock",
    "keeper",
    "now",
]
