"""Waiting for an instant under gevent, whose own sleeps count whole milliseconds."""

from __future__ import annotations

import gevent

from loadtest.metrics import S_PER_NS
from loadtest.wire import now

EARLY_NS = 1_500_000  # a sleep may end 1 ms late, so it ends this much before the instant; then others run


def sleep_until(due: int) -> None:
    """Return at `due` (monotonic ns), or at once where that has passed."""
    if (left := due - now()) > EARLY_NS:
        gevent.sleep((left - EARLY_NS) * S_PER_NS)
    while now() < due:
        gevent.sleep(0)
