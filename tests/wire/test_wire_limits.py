"""What bounds a request: the size of its answer, the waiting for tokens, one resending, and what the system gives."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import httpx
import pytest
from support.received import Reader
from support.wire_client import KINDS, WAITERS, ask, run
from support.wire_server import CHUNKED, LAST, Peer, answer, chunk, say, serving

from loadtest.dialects import OpenAIChat, OpenAIEmbeddings
from loadtest.dialects.answers.answer_reader import AnswerReader
from loadtest.wire import AsyncWire, Order, Received, SyncWire, Timeouts, WallClock, connection
from loadtest.wire.clock import SO_TIMESTAMPNS, Ancillary
from loadtest.wire.receiving import parser

OK = b"HTTP/1.1 200 OK\r\n"
MS = 1_000_000
TOKEN = chunk(b'data: {"text":"a"}\n\n')
PING = chunk(b": ping\n\n")


def is_text(body: bytes) -> bool:
    """As a live probe: content was seen."""
    return b"text" in body


# -- size -----------------------------------------------------------------------------------------------------------

FLOODS = {
    "header": (OK + b"X: ", b"a" * 5000, "headers"),
    "headers": (OK, b"X: y\r\n" * 1000, "headers"),
    "interim": (b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 200, "headers"),
    "blanks before": (b"", b"\r\n" * 3000, "headers"),
    "trailers": (CHUNKED + b"0\r\n", b"X: y\r\n" * 1000, "headers"),
    "trailer": (CHUNKED + b"0\r\nX: ", b"y" * 5000, "between its chunks"),
    "size": (CHUNKED + b"5;", b"x" * 5000, "between its chunks"),
    "body": (CHUNKED, chunk(b"x" * 5000), "body"),
    "body to the end": (OK + b"\r\n", b"x" * 5000, "body"),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_without_end_is_dropped_with_a_sentence(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parser, "BODY_LIMIT", 1 << 20)
    first, more, words = FLOODS[name]

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(first)
        with until_hung_up():
            while True:
                peer.send(more)

    with serving(handler) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url))
    assert got.error is None
    assert got.received.failure == got.received.excessive
    assert words in (got.received.excessive or "")
    assert not got.received.malformed
    assert not got.received.reusable
    assert len(got.received.body()) < 2 << 20


@contextmanager
def until_hung_up() -> Iterator[None]:
    """The client hangs up, as it should."""
    try:
        yield
    except (ConnectionResetError, BrokenPipeError):
        pass


# -- waiting --------------------------------------------------------------------------------------------------------


def dripping(first: list[bytes], drip: bytes) -> tuple[object, threading.Event]:
    """A server that says `first` and then `drip` again and again."""
    gone = threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        with until_hung_up():
            peer.send(*first)
            while not gone.wait(0.01):
                peer.send(drip)
        peer.closed_by_client()

    return handler, gone


@pytest.mark.parametrize(
    ("first", "drip", "words"),
    [
        ([CHUNKED, chunk(b'data: {"role":"assistant"}\n\n')], PING, "no token within 0.2 s (first token limit)"),
        ([CHUNKED], chunk(b'data: {"role":"assistant"}\n\n'), "no token within 0.2 s (first token limit)"),
        ([b"HTTP/1.1 102 Processing\r\n\r\n"], b"HTTP/1.1 102 Processing\r\n\r\n", "first token limit"),
        ([CHUNKED, TOKEN], PING, "stood still for 0.3 s (idle limit)"),
        ([CHUNKED, TOKEN], chunk(b"event: ping\nid: 3\n\n"), "stood still for 0.3 s (idle limit)"),
        ([CHUNKED, TOKEN], chunk(b'event: ping\ndata: {"type": "ping"}\n\n'), "stood still for 0.3 s (idle limit)"),
        ([CHUNKED, TOKEN], chunk(b'data: {"delta":{}}\n\n'), "stood still for 0.3 s (idle limit)"),
    ],
)
@pytest.mark.parametrize("kind", WAITERS)
def test_only_content_is_progress(kind: str, first: list[bytes], drip: bytes, words: str) -> None:
    handler, gone = dripping(first, drip)
    with serving(handler) as server:  # type: ignore[arg-type]
        (got,) = ask(
            kind,
            httpx.Request("GET", server.url),
            received=Received(Reader(is_text, OpenAIChat("m").ends, is_empty=lambda line: b"text" not in line)),
            timeouts=Timeouts(connect=5, first_token=0.2, idle=0.3, total=5),
        )
        gone.set()
    assert isinstance(got.error, httpx.ReadTimeout)
    assert words in str(got.error)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Timeouts(first_token=0.2), "no answer within 0.2 s (first token limit)"),
        (Timeouts(patience=0.2), "the user hung up after 0.2 s without an answer (--patience)"),
    ],
)
@pytest.mark.parametrize("kind", WAITERS)
def test_an_answer_of_embeddings_that_does_not_come_has_no_tokens(kind: str, limits: Timeouts, words: str) -> None:
    handler, gone = dripping([CHUNKED], chunk(b" "))
    with serving(handler) as server:  # type: ignore[arg-type]
        received = Received(AnswerReader(OpenAIEmbeddings("m")))
        (got,) = ask(kind, httpx.Request("GET", server.url), received=received, timeouts=limits)
        gone.set()
    assert words in str(got.error)


@pytest.mark.parametrize("kind", WAITERS)
def test_content_that_comes_in_time_meets_no_limit(kind: str) -> None:
    """It lasts longer than the limits, and comments come later than every token."""
    gone = threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED, PING)
        for _ in range(30):
            peer.send(TOKEN)
            gone.wait(0.02)
            peer.send(PING)
        peer.send(LAST)

    with serving(handler) as server:
        limits = Timeouts(connect=5, first_token=0.3, idle=0.3)
        (got,) = ask(kind, httpx.Request("GET", server.url), received=Received(Reader(is_text)), timeouts=limits)
    assert got.error is None
    assert got.received.complete


def test_the_idle_limit_counts_from_the_last_content() -> None:
    received = Received(Reader(is_text))
    received.t_send = 0
    limits = Timeouts(first_token=5, idle=1, total=None)
    assert limits.deadline(received, 0) == (5e9, "first_token")
    received.add(CHUNKED, [], 10 * MS)
    received.add(PING, [], 20 * MS)
    assert limits.deadline(received, 0) == (5e9, "first_token")
    for t, part in [(100, TOKEN), (200, TOKEN), (300, PING), (400, chunk(b'data: {"te')), (500, chunk(b'xt":1}'))]:
        received.add(part, [], t * MS)
    assert limits.deadline(received, 0) == (1.1e9, "idle")  # as far as anybody has looked
    received.catch_up()
    assert limits.deadline(received, 0) == (1.5e9, "idle")
    received.add(chunk(b"\n: ping\n\n"), [], 600 * MS)
    received.catch_up()
    assert limits.deadline(received, 0) == (1.5e9, "idle")


@pytest.mark.parametrize(
    ("behind", "over_at"),
    [
        (b": ping\n\n", 1.25),
        (b'data: {"type":"ping"}\n\n', 1.25),
        (b'data: {"usage":{}}\n\n', 10.25),  # as counts may come late, so data count for a while
        (b'data: {"text":"a"}\n\n', None),
    ],
)
def test_an_answer_is_over_soon_after_its_finish_reason(behind: bytes, over_at: float | None) -> None:
    marks = OpenAIChat("m").ends
    received = Received(Reader(is_text, marks, is_empty=lambda line: b"text" not in line))
    received.t_send = 0
    received.add(CHUNKED, [], 0)
    received.add(chunk(b'data: {"text":"a","choices":[{"finish_reason":"stop"}]}\n\n'), [], 0)
    for quarter in range(1, 60):
        t = quarter * 250 * MS
        if received.expire(t - 1):
            assert received.t_over == pytest.approx((over_at or 0) * 1e9, abs=1)
            break
        received.add(chunk(behind), [], t)
    assert received.ended == (over_at is not None)


# -- resending ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kind", WAITERS)
def test_a_kept_connection_that_dies_late_is_a_failure(kind: str, how: str) -> None:
    """The server may have worked on the request: a second one would hide that it failed."""

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"a"))
        if peer.request() is None:
            return
        threading.Event().wait(0.3)
        if how == "reset":
            peer.reset()

    with serving(handler) as server:
        got = ask(kind, *[httpx.Request("GET", server.url) for _ in range(2)])
    assert got[0].error is None
    assert isinstance(got[1].error, httpx.ReadError if how == "reset" else httpx.RemoteProtocolError)
    assert str(got[1].error).startswith(
        "the connection broke" if how == "reset" else "the server closed the connection"
    )
    assert server.connections == 1
    assert got[1].received.t_resent is None


@pytest.mark.parametrize("kind", WAITERS)
def test_a_request_is_sent_again_once(kind: str) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        if peer.number == 0:
            peer.send(answer(b"a"))
            peer.request()

    with serving(handler) as server:
        got = ask(kind, *[httpx.Request("GET", server.url) for _ in range(2)])
    assert isinstance(got[1].error, httpx.RemoteProtocolError)
    assert server.connections == 2
    assert got[1].received.t_resent is not None
    assert (got[1].received.t_send or 0) <= got[1].received.t_resent


@pytest.mark.parametrize(("each", "resent"), [(1, [1, 2, 3, 4]), (2, [2, 4, 6, 8, 10])])
@pytest.mark.parametrize("kind", WAITERS)
def test_connections_that_a_server_never_keeps_are_kept_no_more(
    kind: str, each: int, resent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp says "Keep-Alive: max=100" and closes behind each stream: 174 of 240 requests of a busy one were sent twice."""
    monkeypatch.setattr(
        connection, "STALE_NS", 60_000 * MS
    )  # however long the server's thread has to wait for its turn

    def handler(peer: Peer) -> None:
        for _ in range(each):
            peer.request()
            peer.send(answer(b"a"))
        peer.request()

    with serving(handler) as server:
        got = ask(kind, *[httpx.Request("GET", server.url) for _ in range(12)])
    assert [one.error for one in got] == [None] * 12
    assert [i for i, one in enumerate(got) if one.received.t_resent is not None] == resent


# -- t_send ---------------------------------------------------------------------------------------------------------


def stamp(wall_ns: int) -> Ancillary:
    return [(socket.SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("@qq", *divmod(wall_ns, 1_000_000_000)))]


@pytest.mark.parametrize(
    ("first", "t_send", "early"),
    [(60, 50, 0), (50, 50, 0), (49, 20, 0), (20, 20, 0), (15, 15, 0), (5, 5, 5)],
    ids=["after", "with", "between", "with the earlier", "before the last call", "before the first"],
)
def test_an_answer_that_arrived_before_the_send_returned(first: int, t_send: int, early: int) -> None:
    wall = WallClock()
    offset, base = wall._offsets[-1], wall._at[-1]
    received = Received()
    received.t_connect = base + 8
    received.sent(base + 10, base + 20, base + 50)
    assert (received.t_send, received.send_ns) == (base + 50, 30)
    received.add(CHUNKED + TOKEN, stamp(base + first + offset), base + 70)
    received.add(LAST, stamp(base + 65 + offset), base + 80)
    for _ in range(2):  # settled once for all
        reads = received.reads(wall)
        assert received.t_send == base + t_send
        assert received.early_ns == early
        assert received.send_ns == max(30, 50 - t_send)
        instants = [received.t_connect, received.t_send, received.t_headers, *reads.t, received.t_end, received.t_over]
        assert instants == sorted(instants)  # type: ignore[type-var]


@pytest.mark.parametrize("kind", WAITERS)
def test_how_long_the_send_took_is_known(kind: str) -> None:
    with serving(say(answer(b"a"))) as server:
        (got,) = ask(kind, httpx.Request("POST", server.url, content=b"x" * 3_000_000))
    assert got.received.send_ns is not None
    assert got.received.send_ns > 0


# -- descriptors and memory -----------------------------------------------------------------------------------------


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Take all that the system gives, a small number."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    open_ = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_ + 20, hard))
    try:
        while len(held) < 20:
            try:
                held.append(os.dup(open_))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in [open_, *held]:
            os.close(fd)


@pytest.mark.parametrize("what", ["fetch", "prepare"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("kind", KINDS)
def test_without_a_descriptor_a_request_fails_alone_and_says_so(kind: str, host: str, what: str) -> None:
    with serving(say(answer(b"a"))) as server:
        url = f"http://{host}:{server.port}"
        words = f"^cannot connect to {host}:{server.port}: no file descriptor left .ulimit -n is [0-9]+.$"
        if kind == "sync":
            with SyncWire() as wire:
                with no_descriptor_left(), pytest.raises(httpx.ConnectError, match=words):
                    wire.fetch(order(url)) if what == "fetch" else wire.prepare(url, 3)
                wire.fetch(order(url))
            return

        async def main() -> None:
            async with AsyncWire() as wire:
                with no_descriptor_left(), pytest.raises(httpx.ConnectError, match=words):
                    await (wire.fetch(order(url)) if what == "fetch" else wire.prepare(url, 3))
                await wire.fetch(order(url))

        run(kind, main())


def order(url: str) -> Order:
    return Order.of(httpx.Request("GET", url), Received())


@pytest.mark.parametrize("how", ["refused", "reset", "malformed", "no name"])
@pytest.mark.parametrize("kind", KINDS)
def test_failed_requests_leave_nothing_to_the_garbage_collector(
    kind: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is switched off while a run measures."""

    def handler(peer: Peer) -> None:
        peer.request()
        peer.reset() if how == "reset" else peer.send(OK + b"Content-Length: x\r\n\r\n")

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    def alive() -> int:
        kinds = (Received, httpx.TransportError, OSError, connection.Connection, TracebackType)
        return sum(isinstance(one, kinds) for one in gc.get_objects())

    async def main() -> None:
        async with AsyncWire() as wire:
            for _ in range(requests):
                with pytest.raises(httpx.TransportError):
                    await wire.fetch(order(url))
                await asyncio.sleep(0)

    with serving(handler) as server:
        url = {"refused": "http://127.0.0.1:9", "no name": "http://no-such-host.invalid"}.get(how, server.url)
        if how == "no name":
            monkeypatch.setattr(socket, "getaddrinfo", unknown)
        requests = 12 if how == "no name" else 50  # libuv's lookups take their time
        gc.collect()
        gc.disable()
        before = alive()
        try:
            if kind == "sync":
                with SyncWire() as wire:
                    for _ in range(requests):
                        with pytest.raises(httpx.TransportError):
                            wire.fetch(order(url))
            else:
                run(kind, main())
            assert alive() - before < 6
        finally:
            gc.enable()
