"""The seam of the blocking shell: another way to wait."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from support.wire_client import PATIENT, ask
from support.wire_server import CHUNKED, STREAM, Peer, chunk, say, serving

from loadtest.wire import BlockingWaiter, Order, Received, SyncWire


class Greedy(BlockingWaiter):
    """Reads once before it waits, as a persistent watcher may, and notes what it was asked."""

    def __init__(self) -> None:
        self.pumped: set[int] = set()
        self.forgotten: set[int] = set()

    def pump(self, fd: int, step: Callable[[], bool], deadline: Callable[[], float]) -> bool:
        self.pumped.add(fd)
        return step() or super().pump(fd, step, deadline)

    def forget(self, fd: int) -> None:
        self.forgotten.add(fd)


def test_a_waiter_of_one_s_own_is_used_and_told_of_every_descriptor_that_closes() -> None:
    waiter = Greedy()
    with serving(say(*STREAM)) as server:
        got = ask("sync", *[httpx.Request("GET", server.url) for _ in range(2)], waiter=waiter)
    assert [one.received.body() for one in got] == [b"one\ntwo\nthree\n"] * 2
    assert len(waiter.pumped) == 1
    assert waiter.pumped <= waiter.forgotten


class Stopped(BaseException):
    """As gevent's GreenletExit: no Exception."""


class Stopping(BlockingWaiter):
    """Is stopped while it waits, after one read."""

    def pump(self, fd: int, step: Callable[[], bool], deadline: Callable[[], float]) -> bool:
        def once() -> bool:
            assert not step()
            raise Stopped

        return super().pump(fd, once, deadline)


def test_who_is_stopped_while_waiting_drops_the_connection_and_keeps_what_came() -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"a"))
        assert peer.closed_by_client()

    with serving(handler) as server, SyncWire(waiter=Stopping(), timeouts=PATIENT) as wire:
        received = Received()
        with pytest.raises(Stopped):
            wire.fetch(Order.of(httpx.Request("GET", server.url), received))
        assert received.ended
        assert not received.complete
        assert received.failure == "stopped before the answer was over"
        assert received.body() == b"a"
