"""How Locust users wait under gevent: for the wire, at the gate, for the backlog."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import gevent
import gevent.event
import httpx
import pytest
from support.wire_client import PATIENT, Echo, ask
from support.wire_server import CHUNKED, STREAM, Peer, chunk, say, serving

from loadtest.wire import LagLog, Order, Received, SyncWire, Timeouts
from loadtest.wire.connection import Connection
from loadtest.wire.poller import Poller

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")

    from loadtest.users.processes import gevent_hub, recording, worker
    from loadtest.users.processes.messages import ENDED


@pytest.fixture
def gevent_waiter() -> Iterator[gevent_hub.GeventWaiter]:
    one = gevent_hub.GeventWaiter()
    yield one
    one.close()


def test_under_gevent_answers_are_those_of_the_blocking_wire(gevent_waiter: gevent_hub.GeventWaiter) -> None:
    with serving(say(*STREAM)) as server:
        requests = [httpx.Request("GET", server.url) for _ in range(3)]
        got = ask("sync", *requests, waiter=gevent_waiter)
    assert [one.error for one in got] == [None] * 3
    assert [one.received.body() for one in got] == [b"one\ntwo\nthree\n"] * 3
    assert all(one.received.t_end and one.received.t_send and one.received.t_end > one.received.t_send for one in got)


def test_streams_of_many_greenlets_run_at_once_and_leave_nothing_watched(
    gevent_waiter: gevent_hub.GeventWaiter,
) -> None:
    together = 5
    begun: list[int] = []

    def handler(peer: Peer) -> None:
        peer.request()
        begun.append(1)
        while len(begun) < together:  # nobody is answered before all have asked
            time.sleep(0.001)
        peer.send(CHUNKED + chunk(b"a") + b"0\r\n\r\n")

    with serving(handler) as server, SyncWire(waiter=gevent_waiter, timeouts=PATIENT) as wire:

        def send() -> bytes:
            received = Received()
            wire.fetch(Order.of(httpx.Request("GET", server.url), received))
            return received.body()

        streams = [gevent.spawn(send) for _ in range(together)]
        gevent.joinall(streams, timeout=20)
        assert [stream.value for stream in streams] == [b"a"] * together
    assert not gevent_waiter._poller._callbacks
    assert not gevent_waiter._waiting


@pytest.mark.skipif(sys.platform != "linux", reason="ticks need a timer of the Linux kernel")
def test_gevent_s_hub_ticks_as_a_loop_does() -> None:
    poller = Poller(gevent_hub.HubReaders(), ticks=True)
    echo = Echo(poller, 50)
    with gevent.Timeout(20):
        for i in range(50):
            echo.send(i)
        while not poller.ticking:
            gevent.sleep(0.001)
        before = sum(echo.read)
        while sum(echo.read) < before + 500 or not min(echo.read):
            gevent.sleep(0.001)
    echo.close(poller)
    assert not poller._callbacks
    poller.close()


def test_a_killed_greenlet_drops_its_connection_and_keeps_what_came(gevent_waiter: gevent_hub.GeventWaiter) -> None:
    closed: list[bool] = []

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED + chunk(b"a"))
        closed.append(peer.closed_by_client())

    received = Received()
    with serving(handler) as server, SyncWire(waiter=gevent_waiter, timeouts=PATIENT) as wire:

        def send() -> None:
            wire.fetch(Order.of(httpx.Request("GET", server.url), received))

        stream = gevent.spawn(send)
        while not received.read_count:
            gevent.sleep(0.001)
        stream.kill()
    assert closed == [True]
    assert received.body() == b"a"
    assert received.failure == "stopped before the answer was over"
    assert not gevent_waiter._waiting


def test_limits_hold_under_gevent(gevent_waiter: gevent_hub.GeventWaiter) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.closed_by_client()

    with serving(handler) as server:
        (got,) = ask(
            "sync",
            httpx.Request("GET", server.url),
            waiter=gevent_waiter,
            timeouts=Timeouts(connect=10, first_token=0.01, idle=10),
        )
    assert isinstance(got.error, httpx.ReadTimeout)


def test_a_refused_connection_is_an_error_under_gevent(gevent_waiter: gevent_hub.GeventWaiter) -> None:
    (got,) = ask("sync", httpx.Request("GET", "http://127.0.0.1:9"), waiter=gevent_waiter)
    assert isinstance(got.error, httpx.ConnectError)


def blocked_for(seconds: float) -> None:
    """Keep the hub from coming round."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def test_the_heartbeat_notes_how_long_the_hub_did_not_come_round() -> None:
    log = LagLog()
    beat = gevent_hub.GeventHeartbeat(log).start()
    gevent.sleep(0.01)
    before = time.perf_counter_ns()
    blocked_for(0.03)
    gevent.sleep(0.01)
    beat.stop()
    assert log.worst(before, time.perf_counter_ns()) > 25_000_000
    assert beat.take() > 25_000_000


def test_a_wave_of_requests_leaves_in_portions_and_in_order() -> None:
    log = LagLog()
    beat = gevent_hub.GeventHeartbeat(log).start()
    left: list[int] = []
    polls = 0

    def poll() -> None:
        nonlocal polls
        polls += 1

    def send(number: int) -> None:
        beat.pass_gate()
        left.append(number)
        blocked_for(0.003)

    timer = gevent.get_hub().loop.timer(0.0005, 0.0005)
    timer.start(poll)
    senders = [gevent.spawn(send, number) for number in range(20)]  # 60 ms of sending
    gevent.joinall(senders, timeout=20)
    timer.stop()
    timer.close()
    beat.stop()
    assert left == list(range(20))
    assert polls >= 4


def test_who_is_killed_at_the_gate_lets_the_others_pass() -> None:
    beat = gevent_hub.GeventHeartbeat(LagLog()).start()
    left: list[int] = []

    def send(number: int) -> None:
        beat.pass_gate()
        left.append(number)
        blocked_for(0.02)

    senders = [gevent.spawn(send, number) for number in range(4)]
    gevent.sleep(0)
    senders[2].kill()
    gevent.joinall(senders, timeout=20)
    beat.stop()
    assert left == [0, 1, 3]


def test_the_backlog_does_everything_once_whatever_a_piece_raises(caplog: pytest.LogCaptureFixture) -> None:
    backlog = gevent_hub.GeventBacklog()
    done: list[int] = []

    def piece(number: int) -> None:
        done.append(number)
        if number == 2:
            raise ValueError("spoilt")

    for number in range(5):
        backlog.add(partial(piece, number))
    while len(done) < 5:
        gevent.sleep(0.001)
    backlog.add(partial(piece, 5))
    backlog.close()
    assert done == list(range(6))
    assert "spoilt" in caplog.text


@pytest.mark.parametrize("in_burst", [True, False])
def test_greenlets_send_a_burst_when_all_of_it_is_made(
    gevent_waiter: gevent_hub.GeventWaiter, in_burst: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    transmit = Connection.transmit

    def sending(connection: Connection) -> bool:
        seen.append("sent")
        return transmit(connection)

    def send(order: Order) -> None:
        seen.append("made")
        wire.fetch(order)

    monkeypatch.setattr(Connection, "transmit", sending)
    with serving(say(*STREAM)) as server, SyncWire(waiter=gevent_waiter, timeouts=PATIENT) as wire:
        wire.prepare(server.url, 5)
        orders = [Order.of(httpx.Request("GET", server.url), Received()) for _ in range(5)]
        for order in orders:
            order.in_burst = in_burst
        greenlets = [gevent.spawn(send, order) for order in orders]
        gevent.joinall(greenlets, timeout=10)
    assert all(order.received.complete for order in orders)
    assert seen == (["made"] * 5 + ["sent"] * 5 if in_burst else ["made", "sent"] * 5)


def test_a_worker_quits_only_once_its_records_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told to end by its master, then interrupted: it quit meanwhile, and its master took it for lost."""
    done = gevent.event.Event()
    runner: Any = SimpleNamespace(stop=lambda: None, _send_stats=lambda: None, state="stopped")
    one = worker.LocustWorker(SimpleNamespace(user_classes=[]), runner)  # type: ignore[arg-type]
    one._told = {"id": 1}
    monkeypatch.setattr(one, "_complete", lambda _: done.wait())
    ending = gevent.spawn(one._stop)
    gevent.sleep(0)
    quitting = gevent.spawn(one._quitting)
    gevent.sleep(0)
    assert not quitting.ready()
    done.set()
    gevent.joinall([ending, quitting], timeout=20)
    assert quitting.successful()


def test_a_worker_s_last_figures_leave_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A master ends once it has heard of the end: Locust's table lacked a request that the run folder had, 69 of 70."""
    sent: list[str] = []
    runner: Any = SimpleNamespace(
        _send_stats=lambda: sent.append("stats"), send_message=lambda name, _: sent.append(name)
    )
    one = worker.LocustWorker(SimpleNamespace(user_classes=[]), runner)  # type: ignore[arg-type]
    monkeypatch.setattr(recording, "close_recorder", lambda: None)
    one._complete(1)
    assert sent == ["stats", ENDED]
