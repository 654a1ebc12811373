"""HTTP/1.1 on own sockets with the kernel's arrival stamps, under the httpx API."""

from loadtest.measure.wire.arrivals import Arrivals
from loadtest.measure.wire.async_wire import AsyncWire
from loadtest.measure.wire.call import Order, Posts
from loadtest.measure.wire.clock import Heartbeat, Keeper, LagLog, WallClock, keeper, now
from loadtest.measure.wire.connection import Timeouts
from loadtest.measure.wire.reads import Reads
from loadtest.measure.wire.sync_wire import BlockingWaiter, SyncWire, Waiter
from loadtest.measure.wire.timerfd import Timerfd
from loadtest.measure.wire.tls import Verify

__all__ = [
    "Arrivals",
    "AsyncWire",
    "BlockingWaiter",
    "Heartbeat",
    "Keeper",
    "LagLog",
    "Order",
    "Posts",
    "Reads",
    "SyncWire",
    "Timeouts",
    "Timerfd",
    "Verify",
    "Waiter",
    "WallClock",
    "keeper",
    "now",
]
