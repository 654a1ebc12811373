"""TLS on both shells: the same path, the same answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

import httpx
import pytest
from support.wire_client import KINDS, ask, trusting
from support.wire_server import STREAM, Peer, answer, say, serving

from loadtest.wire import Origin, Timeouts
from loadtest.wire.connecting.address import Addresses


@pytest.mark.parametrize("verify", ["the certificate", "nothing"])
@pytest.mark.parametrize("kind", KINDS)
def test_tls_on_the_same_path(kind: str, verify: str, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serving(say(*STREAM), tls=context) as server:
        requests = [httpx.Request("POST", server.url, content=b"y" * 100_000) for _ in range(2)]
        got = ask(kind, *requests, verify=trusting(certificate if verify == "the certificate" else None))
    for one in got:
        assert one.error is None
        assert one.received.body() == b"one\ntwo\nthree\n"
        assert one.received.stamped_count <= one.received.read_count
    assert server.connections == 1


@pytest.mark.parametrize("kind", KINDS)
def test_tls_closed_in_good_order_ends_a_body_without_length(kind: str, certificate: Path) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert isinstance(peer.sock, ssl.SSLSocket)
        with contextlib.suppress(OSError):
            peer.sock.unwrap()  # close_notify; the client need not say it too

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serving(handler, tls=context) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), verify=trusting(certificate))
    assert (got.error, got.received.complete, got.received.body()) == (None, True, b"hello")


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_that_nobody_vouches_for_is_a_connect_error(kind: str, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serving(say(answer(b"a")), tls=context) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url))
    assert isinstance(got.error, httpx.ConnectError)
    assert "self-signed" in str(got.error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_holds_for_its_name_with_the_dot_of_the_root(kind: str, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serving(say(answer(b"a")), tls=context) as server:
        url, addresses = server.url.replace("localhost", "localhost."), Addresses()
        addresses.put(Origin.of(url), [(socket.AF_INET, ("127.0.0.1", server.port))])
        (got,) = ask(kind, httpx.Request("GET", url), addresses=addresses, verify=trusting(certificate))
    assert (got.error, got.received.body()) == (None, b"a")


@pytest.mark.parametrize(
    ("alert", "said"),
    [(80, "without a certificate for that host"), (120, "HTTP/2"), (115, ": TLSV1_ALERT_UNKNOWN_PSK")],
)
def test_an_alert_that_python_has_no_name_for_is_said_like_any_other(alert: int, said: str) -> None:
    def handler(peer: Peer) -> None:
        peer.sock.recv(65536)
        peer.send(bytes((21, 3, 3, 0, 2, 2, alert)))
        peer.closed_by_client()

    with serving(handler) as server:
        (got,) = ask("sync", httpx.Request("GET", f"https://127.0.0.1:{server.port}"))
    assert isinstance(got.error, httpx.ConnectError)
    assert said in str(got.error)


@pytest.mark.parametrize("kind", KINDS)
def test_tls_to_a_server_without_it_is_a_connect_error(kind: str) -> None:
    with serving(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        (got,) = ask(kind, httpx.Request("GET", f"https://127.0.0.1:{server.port}"))
    assert isinstance(got.error, httpx.ConnectError)


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_never_shakes_hands_meets_the_connect_limit(kind: str) -> None:
    with serving(lambda peer: peer.sock.recv(10_000) and peer.closed_by_client()) as server:
        (got,) = ask(kind, httpx.Request("GET", f"https://127.0.0.1:{server.port}"), timeouts=Timeouts(connect=0.05))
    assert isinstance(got.error, httpx.ConnectTimeout)
    assert "connect limit" in str(got.error)
