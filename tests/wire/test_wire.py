"""Both shells against real sockets: the same servers, the same answers."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from support.received import Reader
from support.wire_client import KINDS, WAITERS, ask
from support.wire_server import CHUNKED, LAST, STREAM, Peer, answer, chunk, say, serving

from loadtest import __version__
from loadtest.wire import Order, Posts, Received, SyncWire, Timeouts, WallClock, shell
from loadtest.wire.connecting.address import Addresses, Origin, SocketAddress


@pytest.mark.parametrize("kind", KINDS)
def test_reads_are_what_the_server_sent_apart_with_stamps_in_order(kind: str) -> None:
    """The server sends its next part once the client's `live` has seen the last one, so reads are cut as it sends."""
    seen = threading.Semaphore(0)

    def live(_: bytes) -> bool:
        seen.release()
        return False

    def handler(peer: Peer) -> None:
        head, body = peer.request() or (b"", b"")
        assert head.startswith(b"POST /api/chat?x=1 HTTP/1.1\r\n")
        assert b"Host: 127.0.0.1" in head
        assert head.count(b"Accept-Encoding") == 1
        assert b"Accept-Encoding: identity" in head
        assert body == b'{"a":1}'
        peer.send(CHUNKED)
        for text in (b"one\n", b"two\n", b"three\n"):
            peer.send(chunk(text))
            assert seen.acquire(timeout=5)
        peer.send(LAST)
        assert peer.request() is None

    with serving(handler) as server:
        received = Received(Reader(live))
        request = httpx.Request(
            "POST",
            f"{server.url}/api/chat?x=1",
            json={"a": 1},
            headers={"Accept-Encoding": "gzip"},
        )
        (got,) = ask(kind, request, received=received)
    assert got.error is None
    assert received.status == 200
    assert received.complete
    assert received.new_conn
    reads = received.reads()
    assert (reads.body, list(reads.ends)) == (b"one\ntwo\nthree\n", [4, 8, 14])
    instants = [
        received.t_connect,
        received.t_send,
        received.t_first_byte,
        received.t_headers,
        *reads.t,
        received.t_end,
    ]
    known = [instant for instant in instants if instant is not None]
    assert len(known) == len(instants)
    assert known == sorted(known)


BODIES = {
    "length": ([answer(b"hello")], b"hello", True, None),
    "chunked": (STREAM, b"one\ntwo\nthree\n", True, None),
    "split terminator": ([CHUNKED + chunk(b"a") + b"0\r", b"\n\r", b"\n"], b"a", True, None),
    "trailers": ([CHUNKED + chunk(b"a") + b"0\r\nX: ", b"y\r\n\r", b"\n"], b"a", True, None),
    "interim": ([b"HTTP/1.1 100 Continue\r\n\r\n", answer(b"hello")], b"hello", True, None),
    "until close": ([b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo"], b"hello", True, None),
    "cut body": ([CHUNKED + chunk(b"a") + b"5\r\nab"], b"aab", False, None),
    "cut length": ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nab"], b"ab", False, None),
    "cut headers": ([b"HTTP/1.1 200 OK\r\nConte"], b"", False, httpx.RemoteProtocolError),
    "nothing": ([], b"", False, httpx.RemoteProtocolError),
    "garbage": ([b"SSH-2.0-OpenSSH\r\n"], b"", False, httpx.RemoteProtocolError),
    "garbage inside": ([CHUNKED + chunk(b"a"), b"zz\r\n"], b"a", False, httpx.RemoteProtocolError),
    "error status": ([answer(b'{"error":"x"}', status=b"404 Not Found")], b'{"error":"x"}', True, None),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answer_and_of_breaking_off(kind: str, name: str) -> None:
    parts, body, complete, error = BODIES[name]

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(*parts)

    with serving(handler) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url))
    assert got.received.body() == body
    assert got.received.complete is complete
    assert got.received.ended
    assert got.received.t_end is not None
    assert (got.received.failure is None) is complete
    assert type(got.error) is (error or type(None))
    if got.error is not None:
        assert str(got.error) == got.received.failure


@pytest.mark.parametrize("kind", KINDS)
def test_requests_are_sent_as_they_are_and_share_a_connection(kind: str) -> None:
    def handler(peer: Peer) -> None:
        while (request := peer.request()) is not None:
            head, body = request
            peer.send(CHUNKED, chunk(head.split()[1] + body), LAST)

    with serving(handler) as server:
        requests = [
            httpx.Request("GET", f"{server.url}/a%20b"),
            httpx.Request("POST", f"{server.url}/p", content=b"x" * 3_000_000),
            httpx.Request("POST", f"{server.url}/q", content=b"body"),
        ]
        got = ask(kind, *requests)
    assert [one.received.status for one in got] == [200] * 3
    assert [one.received.body() for one in got] == [b"/a%20b", b"/p" + b"x" * 3_000_000, b"/qbody"]
    assert got[0].received.headers["content-type"] == "text/event-stream"
    assert server.connections == 1


def test_posts_are_what_httpx_would_have_sent() -> None:
    headers = {"Authorization": "Bearer k"}
    posts = Posts("http://host:1/base", headers)
    with httpx.Client(headers={**headers, "User-Agent": f"loadtest/{__version__}"}) as client:
        for path, body in (("/a", b'{"a":1}'), ("/b?c=d", b"{}"), ("/a", b"")):
            made = posts.order(path, body, Received())
            request = client.build_request("POST", f"http://host:1/base{path}", content=body)
            expected = Order.of(request, Received())
            assert made.origin == expected.origin
            assert sorted(made.payload.split(b"\r\n")) == sorted(expected.payload.split(b"\r\n"))
            assert made.payload.endswith(b"\r\n\r\n" + body)


@pytest.mark.parametrize("kind", KINDS)
def test_connections_are_kept_alive_unless_the_answer_forbids_it(kind: str) -> None:
    def handler(peer: Peer) -> None:
        for parts in ([answer(b"a")], STREAM, [answer(b"b", b"Connection: close")]):
            if peer.request() is None:
                return
            peer.send(*parts)
        assert peer.closed_by_client()

    with serving(handler) as server:
        got = ask(kind, *[httpx.Request("GET", server.url) for _ in range(5)])
    assert [one.received.new_conn for one in got] == [True, False, False, True, False]
    assert [one.received.t_connect is None for one in got] == [False, True, True, False, True]
    assert [one.received.connect_ns == 0 for one in got] == [False, True, True, False, True]
    assert server.connections == 2


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_an_answer_cost_the_connection(kind: str) -> None:
    with serving(say(answer(b"a") + answer(b"unasked"))) as server:
        got = ask(kind, *[httpx.Request("GET", server.url) for _ in range(2)])
    assert [one.received.body() for one in got] == [b"a", b"a"]
    assert server.connections == 2


@pytest.mark.parametrize("kind", KINDS)
def test_all_addresses_of_a_name_are_tried_and_the_one_that_worked_first_from_then_on(kind: str) -> None:
    with serving(say(answer(b"a", b"Connection: close"))) as server:
        origin = Origin("http", "two-addresses", server.port)
        addresses = Addresses()
        refused, open_ = (socket.AF_INET, ("127.0.0.2", server.port)), (socket.AF_INET, ("127.0.0.1", server.port))
        addresses.put(origin, [refused, open_, open_])
        url = f"http://two-addresses:{server.port}"
        got = ask(kind, httpx.Request("GET", url), httpx.Request("GET", url), addresses=addresses)
    assert [one.error for one in got] == [None, None]
    assert addresses.get(origin) == [open_, refused]


@contextmanager
def hanging() -> Iterator[SocketAddress]:
    """Listen where no further connection is taken: the accept queue is full."""
    with socket.create_server(("127.0.0.3", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        yield socket.AF_INET, full.getsockname()


@pytest.mark.skipif(sys.platform != "linux", reason="others refuse what their queue has no place for")
@pytest.mark.parametrize("turn", [None, 0], ids=["first", "in its second turn"])
@pytest.mark.parametrize("kind", WAITERS)
def test_an_address_that_hangs_keeps_no_other_waiting(
    kind: str, turn: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ::1 of localhost may, where packets are dropped; without a limit none of the addresses is given up."""
    if turn is not None:
        monkeypatch.setattr(shell, "ALONE_NS", turn)
        monkeypatch.setattr(shell, "TURN_NS", turn)
    with serving(say(answer(b"a"))) as server, hanging() as one, hanging() as other:
        origin, addresses = Origin("http", "three-addresses", server.port), Addresses()
        open_ = (socket.AF_INET, ("127.0.0.1", server.port))
        addresses.put(origin, [one, other, open_])
        request = httpx.Request("GET", f"http://three-addresses:{server.port}")
        (got,) = ask(kind, request, addresses=addresses, timeouts=Timeouts(connect=None))
    assert (got.error, got.received.body()) == (None, b"a")
    assert addresses.get(origin) == [open_, one, other]
    assert server.connections == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_on_one_family_only_is_found_by_its_name(kind: str) -> None:
    """Localhost may be ::1 first, where nobody listens."""
    with serving(say(answer(b"a"))) as server:
        (got,) = ask(kind, httpx.Request("GET", f"http://localhost:{server.port}"))
    assert got.error is None


@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_before_the_request_was_taken_is_an_answer(kind: str, hangs_up: bool) -> None:
    def handler(peer: Peer) -> None:
        peer.sock.recv(10)
        peer.send(answer(b"too large", status=b"413 Too Large"))
        assert hangs_up or done.wait(5)

    done = threading.Event()
    with serving(handler) as server:
        large = httpx.Request("POST", server.url, content=b"x" * 30_000_000)
        got = ask(kind, large, httpx.Request("GET", server.url))
        done.set()
    for one in got:
        assert one.error is None
        assert (one.received.status, one.received.body()) == (413, b"too large")
    assert server.connections == 2


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_begins_before_the_request_is_sent_accuses_no_clock(kind: str) -> None:
    def handler(peer: Peer) -> None:
        peer.sock.recv(1, socket.MSG_PEEK)
        peer.send(b"HTTP/1.1 413 Too Large\r\n\r\ntoo ")
        peer.request()
        peer.send(b"large")

    with serving(handler) as server:
        (got,) = ask(kind, httpx.Request("POST", server.url, content=b"x" * 12_000_000))
    reads = got.received.reads(WallClock())
    assert (got.received.status, reads.body) == (413, b"too large")
    assert got.received.early_ns == 0
    assert got.received.t_send == got.received.t_headers


@pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="only Linux holds an answer back for its end")
@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_connection_that_is_closed_by_now_is_not_sent_on(kind: str) -> None:
    """The next request follows at once, before any loop has told of the end that came with the answer."""

    def handler(peer: Peer) -> None:
        if peer.request() is None:
            return
        peer.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # the end leaves with the answer
        peer.send(answer(b"a"))
        peer.sock.shutdown(socket.SHUT_WR)
        peer.closed_by_client()

    with serving(handler) as server:
        got = ask(kind, *[httpx.Request("GET", server.url) for _ in range(20)])
    assert [one.error for one in got] == [None] * 20
    assert [one.received.t_resent for one in got] == [None] * 20
    assert server.connections == 20


def test_a_blocking_wire_looks_whether_a_prepared_connection_is_still_open() -> None:
    """No loop watches it: minutes may pass before a user's first request, and servers hang up on idle connections."""
    hung_up = threading.Event()

    def handler(peer: Peer) -> None:
        if not hung_up.is_set():
            peer.sock.shutdown(socket.SHUT_RDWR)
            hung_up.set()
        elif peer.request() is not None:
            peer.send(answer(b"a"))
            peer.closed_by_client()

    with serving(handler) as server, SyncWire() as wire:
        wire.prepare(server.url, 1)
        assert hung_up.wait(5)
        received = Received()
        wire.fetch(Order.of(httpx.Request("GET", server.url), received))
    assert (received.status, received.t_resent) == (200, None)
