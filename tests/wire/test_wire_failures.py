"""How requests fail on both shells: broken connections, limits, and what is said of them."""

from __future__ import annotations

import contextlib
import threading
import time

import httpx
import pytest
from support.received import Reader
from support.wire_client import KINDS, ask
from support.wire_server import CHUNKED, Peer, answer, chunk, serving

from loadtest.wire import Received, Timeouts

IMPATIENT = Timeouts(connect=5, first_token=0.05, idle=0.05)


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_gone_stale_is_replaced_once(kind: str, how: str) -> None:
    """The server takes a second request on a kept connection and closes without a byte: its timeout met our request."""

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(answer(b"%d" % peer.number))
        if peer.number == 0:
            peer.request()
            if how == "reset":
                peer.reset()
        else:
            peer.request()

    with serving(handler) as server:
        got = ask(kind, *[httpx.Request("POST", server.url, content=b"x") for _ in range(2)])
    assert [one.error for one in got] == [None, None]
    assert [one.received.body() for one in got] == [b"0", b"1"]
    assert got[1].received.new_conn
    again = got[1].received
    known = [instant for instant in (again.t_send, again.t_connect, again.t_resent, again.t_headers) if instant]
    assert len(known) == 4
    assert known == sorted(known)  # what the resending took is part of the wait for the answer


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_connection_closed_without_a_byte_is_not_tried_again(kind: str) -> None:
    with serving(Peer.request) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url))
    assert isinstance(got.error, httpx.RemoteProtocolError)
    assert server.connections == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_reset_in_the_body_is_a_read_error_and_keeps_what_came(kind: str) -> None:
    ready = threading.Event()

    def live(_: bytes) -> bool:
        ready.set()
        return True

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED, chunk(b"a"))
        assert ready.wait(5)
        peer.reset()

    with serving(handler) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), received=Received(Reader(live)))
    assert isinstance(got.error, httpx.ReadError)
    assert "reset" in str(got.error)
    assert got.received.failure == str(got.error)
    assert got.received.body() == b"a"


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_connection_says_where_and_why(kind: str) -> None:
    with serving(lambda _: None) as server:
        pass
    (got,) = ask(kind, httpx.Request("GET", server.url))
    assert isinstance(got.error, httpx.ConnectError)
    assert str(got.error) == f"cannot connect to 127.0.0.1:{server.port}: connection refused"


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_does_not_resolve(kind: str) -> None:
    (got,) = ask(kind, httpx.Request("GET", "http://no-such-host.invalid"))
    assert isinstance(got.error, httpx.ConnectError)
    assert "does not resolve" in str(got.error)


@pytest.mark.parametrize("kind", KINDS)
def test_only_http_and_https(kind: str) -> None:
    (got,) = ask(kind, httpx.Request("GET", "ftp://127.0.0.1/x"))
    assert isinstance(got.error, httpx.UnsupportedProtocol)


@pytest.mark.parametrize("kind", KINDS)
def test_a_header_with_a_line_break_is_refused(kind: str) -> None:
    request = httpx.Request("GET", "http://127.0.0.1:9", headers=[(b"X", b"a\r\nY: b")])
    (got,) = ask(kind, request)
    assert isinstance(got.error, httpx.LocalProtocolError)


@pytest.mark.parametrize(
    ("parts", "kind_of", "words"),
    [
        ([], httpx.ReadTimeout, "first token limit"),
        ([CHUNKED], httpx.ReadTimeout, "idle limit"),
        ([CHUNKED, chunk(b"a")], httpx.ReadTimeout, "idle limit"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_limits_say_which_they_are_and_free_the_server(
    kind: str, parts: list[bytes], kind_of: type, words: str
) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(*parts)
        assert peer.closed_by_client()

    with serving(handler) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), timeouts=IMPATIENT)
    assert type(got.error) is kind_of
    assert words in str(got.error)
    assert "0.05 s" in str(got.error)
    assert got.received.ended
    assert got.received.failure == str(got.error)
    assert got.received.body() == b"".join(b"a" for part in parts[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_total_limit_ends_a_stream_that_goes_on(kind: str) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED)
        peer.sock.settimeout(0.02)
        while True:
            try:
                peer.send(chunk(b"a"))
                if peer.sock.recv(1) == b"":
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    with serving(handler) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), timeouts=Timeouts(total=0.1))
    assert isinstance(got.error, httpx.ReadTimeout)
    assert "total limit" in str(got.error)
    assert len(got.received.body()) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_takes_no_more_of_the_request_meets_the_idle_limit(kind: str) -> None:
    done = threading.Event()
    with serving(lambda _: done.wait(10)) as server:
        (got,) = ask(kind, httpx.Request("POST", server.url, content=b"x" * 30_000_000), timeouts=IMPATIENT)
        done.set()
    assert isinstance(got.error, httpx.WriteTimeout)
    assert got.received.t_send is None


@pytest.mark.parametrize("kind", KINDS)
def test_an_order_s_own_limits_go_before_the_wire_s(kind: str) -> None:
    with serving(lambda peer: peer.request() and peer.closed_by_client()) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), limits=IMPATIENT, timeouts=Timeouts(first_token=60))
    assert isinstance(got.error, httpx.ReadTimeout)


@pytest.mark.parametrize("limits", [Timeouts(first_token=0.01), Timeouts(total=0.01)])
@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_ends_soon_after_a_limit_has_passed_it(kind: str, limits: Timeouts) -> None:
    """It came between two sweeps of the asyncio driver, for which a limit in milliseconds did nothing."""

    def late(peer: Peer) -> None:
        peer.request()
        time.sleep(0.15)
        with contextlib.suppress(OSError):  # nobody is there any more
            peer.send(answer(b"text"))

    with serving(late) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), timeouts=limits)
    assert isinstance(got.error, httpx.ReadTimeout)
