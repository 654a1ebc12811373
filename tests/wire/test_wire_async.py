"""What only the asyncio shell has: many streams at once, cancelling, preparing, and the truth of its stamps."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import NoneType
from typing import Any

import httpx
import pytest
from support.received import Reader
from support.wire_server import CHUNKED, LAST, STREAM, Peer, answer, chunk, say, serving

from loadtest.wire import AsyncWire, Order, Received, Timeouts, kernel_stamping
from loadtest.wire.connection import Connection

KINDS = ["asyncio", "uvloop"]
MS = 1_000_000


def run(kind: str, main: Coroutine[Any, Any, None]) -> None:
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if kind == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop

    async def limited() -> None:
        async with asyncio.timeout(20):  # what hangs fails
            await main

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(limited())


async def stream(wire: AsyncWire, url: str, received: Received) -> None:
    await wire.fetch(Order.of(httpx.Request("GET", url), received))


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_streams_at_once_as_are_asked_for_and_no_descriptor_left_behind(kind: str) -> None:
    """The server answers only once all requests are there: any limit on connections would be a deadlock."""
    count = 150
    everybody = threading.Barrier(count)

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            everybody.wait(10)
            peer.send(CHUNKED, chunk(b"a" * 100), LAST)

    async def main() -> None:
        async with AsyncWire() as wire:
            for new in (True, False):
                got = [Received() for _ in range(count)]
                await asyncio.gather(*(stream(wire, server.url, received) for received in got))
                assert all(received.complete and received.new_conn is new for received in got)

    run(kind, asyncio.sleep(0))  # uvloop's first loop keeps descriptors of its own
    before = open_descriptors()
    with serving(handler) as server:
        run(kind, main())
    assert server.connections == count
    assert open_descriptors() == before


def setting(event: asyncio.Event) -> Callable[[bytes], bool]:
    """A `live` that sets `event` at the first body bytes."""

    def live(_: bytes) -> bool:
        event.set()
        return True

    return live


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


@pytest.mark.parametrize("when", ["before the headers", "in the body"])
@pytest.mark.parametrize("kind", KINDS)
def test_cancelling_drops_the_connection_and_keeps_what_came(kind: str, when: str) -> None:
    freed = threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        asked.set()
        if when == "in the body":
            peer.send(CHUNKED, chunk(b"a"))
        assert peer.closed_by_client()
        freed.set()

    asked = threading.Event()

    async def main() -> None:
        async with AsyncWire() as wire:
            came = asyncio.Event()
            received = Received(Reader(setting(came)))
            task = asyncio.create_task(stream(wire, server.url, received))
            await (came.wait() if when == "in the body" else asyncio.to_thread(asked.wait, 5))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert received.ended
            assert not received.complete
            assert "cancelled" in (received.failure or "")
            assert received.t_end is not None
            assert received.body() == (b"a" if when == "in the body" else b"")
            assert await asyncio.to_thread(freed.wait, 5)  # while the client is still open

    with serving(handler) as server:
        run(kind, main())


@pytest.mark.parametrize("kind", KINDS)
def test_closing_the_wire_ends_what_is_in_flight(kind: str) -> None:
    async def main() -> None:
        async with AsyncWire() as wire:
            came = asyncio.Event()
            received = Received(Reader(setting(came)))
            task = asyncio.create_task(stream(wire, server.url, received))
            await came.wait()
        with pytest.raises(httpx.ReadError, match="the client was closed"):
            await task
        await wire.aclose()  # once more does no harm

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED, chunk(b"a"))
        assert peer.closed_by_client()

    with serving(handler) as server:
        run(kind, main())


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_connections_are_used_and_opened_once(kind: str) -> None:
    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(answer(b"a"))

    async def main() -> None:
        async with AsyncWire() as wire:
            await wire.prepare(f"{server.url}/api", 70)
            await wire.prepare(server.url, 70)
            got = [Received() for _ in range(70)]
            await asyncio.gather(*(stream(wire, server.url, received) for received in got))
            assert not any(received.new_conn or received.t_connect for received in got)

    with serving(handler) as server:
        run(kind, main())
    assert server.connections == 70


@pytest.mark.parametrize("kind", KINDS)
def test_preparing_for_a_server_that_is_not_there_raises_as_a_request_does(kind: str) -> None:
    async def main() -> None:
        async with AsyncWire() as wire:
            with pytest.raises(httpx.ConnectError, match="connection refused"):
                await wire.prepare(server.url, 3)

    with serving(lambda _: None) as server:
        pass
    run(kind, main())


@pytest.mark.parametrize("kind", KINDS)
def test_an_idle_connection_that_the_server_closes_is_forgotten(kind: str) -> None:
    hang_up = threading.Event()

    def handler(peer: Peer) -> None:
        if peer.request():
            peer.send(answer(b"a"))
        hang_up.wait(5)

    async def main() -> None:
        async with AsyncWire() as wire:
            received = Received()
            await stream(wire, server.url, received)
            ((origin, (connection,)),) = wire._pool._idle.items()
            dropped, drop = asyncio.Event(), connection.wake
            connection.wake = lambda: (drop(), setting(dropped)(b""))
            hang_up.set()
            async with asyncio.timeout(5):
                await dropped.wait()
            assert wire._pool.count(origin) == 0
            assert connection.sock.fileno() == -1

    with serving(handler) as server:
        run(kind, main())


@pytest.mark.skipif(sys.platform != "linux", reason="SO_TIMESTAMPNS is Linux's")
@pytest.mark.parametrize("kind", KINDS)
def test_the_stamp_is_the_arrival_even_when_the_loop_is_late_and_the_lag_says_so(kind: str) -> None:
    """A callback blocks the loop; the server sends twice meanwhile.

    The time of the read is late. The stamp is that of an arrival, but perhaps of the second, merged with the first: so
    the lag must be the whole gap, which `handled − stamp` would understate.
    """
    send, send_more, sent_at = threading.Event(), threading.Event(), [0]

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED, chunk(b"first"))
        assert send.wait(5)
        sent_at[0] = time.perf_counter_ns()
        peer.send(chunk(b"second"))
        assert send_more.wait(5)
        peer.send(chunk(b"third") + LAST)
        peer.request()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with kernel_stamping() as stamping:
            assert stamping
            async with AsyncWire() as wire:
                blocked = [0, 0]

                def block() -> None:
                    blocked[0] = time.perf_counter_ns()
                    send.set()
                    time.sleep(0.05)
                    send_more.set()
                    time.sleep(0.05)
                    blocked[1] = time.perf_counter_ns()

                def live(_: bytes) -> bool:
                    loop.call_soon(block)
                    return True

                received = Received(Reader(live))
                await stream(wire, server.url, received)
                await asyncio.sleep(0.01)  # the heartbeat after the gap
                handled = received.last_read or 0
                reads = received.reads(wire.heartbeat.wall, wire.heartbeat.lag)
                assert received.stamped_count == received.read_count
                assert handled >= blocked[1]
                assert sent_at[0] - MS <= reads.t[1] <= blocked[1]
                assert reads.lag[1] >= 100 * MS
                assert (received.t_end or 0) <= blocked[1]

    with serving(handler) as server:
        run(kind, main())


@pytest.mark.parametrize("kind", KINDS)
def test_without_stamps_the_time_of_the_read_serves(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest.wire.connecting.address.ask_for_stamps", lambda _: False)

    async def main() -> None:
        async with AsyncWire() as wire:
            received = Received()
            await stream(wire, server.url, received)
            (t,) = received.reads(wire.heartbeat.wall, wire.heartbeat.lag).t
            assert received.stamped_count == 0
            assert t == received.t_headers == received.last_read

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"a"))
        peer.request()

    with serving(handler) as server:
        run(kind, main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_of_one_request_leaves_the_others_alone(kind: str) -> None:
    done = threading.Event()

    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            if b"/silent" in request[0]:
                done.set()
            else:
                assert done.wait(5)
                peer.send(CHUNKED, chunk(b"a"), LAST)

    async def main() -> None:
        async with AsyncWire(timeouts=Timeouts(first_token=0.5)) as wire:
            good, silent = Received(), Received()
            results = await asyncio.gather(
                stream(wire, f"{server.url}/silent", silent),
                stream(wire, f"{server.url}/good", good),
                return_exceptions=True,
            )
            assert isinstance(results[0], httpx.ReadTimeout)
            assert results[1] is None
            assert good.complete

    with serving(handler) as server:
        run(kind, main())


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_that_comes_together_with_data_is_noticed(kind: str) -> None:
    """Uvloop calls the reader once for both, and then never again: that one read takes the data, not the reset."""
    seen, done = threading.Event(), threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED, chunk(b"first"))
        seen.wait(10)
        peer.send(chunk(b"second"))
        peer.reset()
        done.set()

    def live(_: bytes) -> bool:
        seen.set()
        return done.wait(10)  # the loop stands still until both lie waiting

    received = Received(Reader(live))

    async def main() -> None:
        timeouts = Timeouts(connect=10, first_token=10, idle=15, total=None)
        async with AsyncWire(timeouts=timeouts) as wire:
            with pytest.raises(httpx.ReadError, match="reset"):
                await asyncio.wait_for(stream(wire, server.url, received), 10)

    with serving(handler) as server:
        run(kind, main())
    assert received.body() == b"firstsecond"
    assert not received.complete


def test_an_answer_that_is_over_leaves_nothing_to_the_garbage_collector() -> None:
    """The driver switches collection off while it measures: what a stream held must go with its last reference."""

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(CHUNKED, chunk(b"a" * 100), LAST)

    def alive() -> int:
        return sum(isinstance(one, Received) for one in gc.get_objects())

    async def main() -> None:
        gc.collect()
        before = alive()
        async with AsyncWire() as wire:
            for _ in range(20):
                await stream(wire, server.url, Received())
            assert alive() - before <= 1  # the last one may still be on its way out

    gc.disable()
    try:
        with serving(handler) as server:
            run("asyncio", main())
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_burst", [True, False])
def test_a_burst_is_sent_when_all_of_it_is_made(kind: str, in_burst: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request was sent once it was made: 1000 users who begin together reached the server within 20 ms, now within 12."""
    seen: list[str] = []
    transmit = Connection.transmit

    def sending(connection: Connection) -> bool:
        seen.append("sent")
        if seen.count("sent") == 2 and in_burst:
            raise RuntimeError("a bug in one request")
        return transmit(connection)

    async def send(wire: AsyncWire, order: Order) -> None:
        seen.append("made")
        await wire.fetch(order)

    async def main() -> None:
        async with AsyncWire() as wire:
            await wire.prepare(server.url, 5)
            orders = [Order.of(httpx.Request("GET", server.url), Received()) for _ in range(5)]
            for order in orders:
                order.in_burst = in_burst
            tasks = [asyncio.create_task(send(wire, order)) for order in orders]
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        # A fault in one request costs that request alone.
        assert [type(end) for end in ended] == [NoneType, RuntimeError if in_burst else NoneType, *[NoneType] * 3]
        assert [order.received.t_turn is not None for order in orders] == [in_burst] * 5

    monkeypatch.setattr(Connection, "transmit", sending)
    with serving(say(*STREAM)) as server:
        run(kind, main())
    assert seen == (["made"] * 5 + ["sent"] * 5 if in_burst else ["made", "sent"] * 5)
