"""HTTP/1.1 on own sockets with the kernel's arrival stamps; requests and errors are httpx's."""

from loadtest.wire.async_wire import AsyncWire
from loadtest.wire.clock import Heartbeat, LagLog, WallClock, kernel_stamping, now
from loadtest.wire.connecting.address import Origin
from loadtest.wire.order import HungUpError, Order, Posts, Timeouts
from loadtest.wire.receiving.received import Received
from loadtest.wire.sync_wire import BlockingWaiter, SyncWire, Waiter
from loadtest.wire.timerfd import Timerfd

__all__ = [
    "AsyncWire",
    "BlockingWaiter",
    "Heartbeat",
    "HungUpError",
    "LagLog",
    "Order",
    "Origin",
    "Posts",
    "Received",
    "SyncWire",
    "Timeouts",
    "Timerfd",
    "Waiter",
    "WallClock",
    "kernel_stamping",
    "now",
]
