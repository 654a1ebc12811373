"""SOCKS 5 as the first hop: a real proxy, and ones that answer by script; every shell and waiter."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.gateways import free_port, microsocks
from support.wire_client import WAITERS, ask, trusting
from support.wire_server import STREAM, Peer, say, serving

from loadtest import reach
from loadtest.scenario import ConnectionKeys
from loadtest.wire import kernel_stamping

Call = Callable[..., tuple[int, str, str]]

LOGIN = "me:s@cret"


@pytest.fixture(autouse=True)
def stamping() -> Iterator[None]:
    """Keep the kernel's stamping on, as a run does: a socket that asks for it first gets none for some milliseconds."""
    with kernel_stamping():
        yield


def by(proxy: str) -> dict[str, Any]:
    return {"proxy": reach.Proxy.of(ConnectionKeys(proxy=proxy))}


def error_by(kind: str, proxy: str, url: str = "http://127.0.0.1:9") -> str:
    (got,) = ask(kind, httpx.Request("GET", url), **by(proxy))
    assert isinstance(got.error, httpx.ConnectError)
    return str(got.error)


@pytest.mark.parametrize("kind", WAITERS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_tunnel_to_http_and_https_which_is_kept(kind: str, scheme: str, certificate: Path, tmp_path: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    tls = context if scheme == "https" else None
    with serving(say(*STREAM), tls=tls) as server, microsocks(tmp_path, LOGIN) as proxy:
        requests = [httpx.Request("POST", f"{server.url}/a?b=1", content=b"body") for _ in range(2)]
        got = ask(kind, *requests, verify=trusting(certificate), **by(f"socks5h://me:s%40cret@{proxy}"))
    assert [(one.error, one.received.body()) for one in got] == [(None, b"one\ntwo\nthree\n")] * 2
    assert all(one.received.stamped_count for one in got)  # TCP to the proxy is ours
    assert server.connections == 1


@pytest.mark.parametrize("kind", WAITERS)
def test_what_a_real_proxy_refuses_is_said(kind: str, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    with microsocks(tmp_path, LOGIN) as closed:
        assert "wants user and password: write USER:PASSWORD@" in error_by(kind, f"socks5://{closed}")
        assert "does not accept user and password" in error_by(kind, f"socks5://me:other@{closed}")
        assert "opens no way to 127.0.0.1: connection refused" in error_by(
            kind, f"socks5://me:s%40cret@{closed}", nowhere
        )
        assert "no way to no-such.invalid" in error_by(kind, f"socks5://me:s%40cret@{closed}", "http://no-such.invalid")


def by_script(asked: list[bytes], *replies: bytes, piecemeal: bool = False) -> Callable[[Peer], None]:
    """Return a proxy that reads once before each reply, then answers a request of the tunnel."""

    def serve(peer: Peer) -> None:
        for reply in replies:
            asked.append(peer.sock.recv(1000))
            for part in [reply[i : i + 1] for i in range(len(reply))] if piecemeal else [reply]:
                peer.send(part)
        if replies[-1][1:2] == b"\0":
            say(*STREAM)(peer)

    return serve


BOUND = {"IPv4": b"\1\0\0\0\0\0\0", "a name": b"\3\4host\0\1", "IPv6": b"\4" + bytes(18)}


@pytest.mark.parametrize("kind", WAITERS)
@pytest.mark.parametrize("bound", BOUND)
def test_replies_in_pieces_and_with_any_address(kind: str, bound: str) -> None:
    asked: list[bytes] = []
    with serving(by_script(asked, b"\5\0", b"\5\0\0" + BOUND[bound], piecemeal=True)) as proxy:
        (got,) = ask(kind, httpx.Request("GET", "http://a.example:81/x"), **by(f"socks5://127.0.0.1:{proxy.port}"))
    assert (got.error, got.received.body()) == (None, b"one\ntwo\nthree\n")
    assert asked == [b"\5\1\0", b"\5\1\0\3\x09a.example\0\x51"]  # the proxy looks up the name


@pytest.mark.parametrize(
    ("host", "sent"), [("127.0.0.1", b"\1\x7f\0\0\1"), ("[::1]", b"\4" + bytes(15) + b"\1"), ("h", b"\3\1h")]
)
def test_how_a_host_is_named(host: str, sent: bytes) -> None:
    asked: list[bytes] = []
    with serving(by_script(asked, b"\5\2", b"\1\0", b"\5\2\0\1\0\0\0\0\0\0")) as proxy:
        said = error_by("sync", f"socks5h://me:s%40cret@127.0.0.1:{proxy.port}", f"http://{host}:258")
    assert asked == [b"\5\2\0\2", b"\1\2me\6s@cret", b"\5\1\0" + sent + b"\1\2"]
    assert "not allowed by its rules" in said


@pytest.mark.parametrize(
    ("replies", "words"),
    [
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], "does not answer as SOCKS 5; if it is an HTTP proxy"),
        ([b"\0\x5b"], "does not answer as SOCKS 5"),
        ([b"\5"], "closed the connection before the tunnel was open"),
        ([b"\5\2"], "wants user and password"),
        ([b"\5\0", b"\5\x63\0\1\0\0\0\0\0\0"], "opens no way to 127.0.0.1: code 99"),
        ([b"\5\0", b"\5\4"], "host unreachable, or a name that it does not resolve"),
    ],
)
@pytest.mark.parametrize("kind", WAITERS)
def test_what_is_no_socks_or_refuses_is_one_sentence(kind: str, replies: list[bytes], words: str) -> None:
    with serving(by_script([], *replies)) as proxy:
        assert words in error_by(kind, f"socks5://127.0.0.1:{proxy.port}")


def test_a_port_is_filled_in_and_the_login_kept_apart() -> None:
    keys = ConnectionKeys(proxy="SOCKS5://me:s%40cret@h")
    assert reach.proxy_named(keys) == "socks5://h:1080"
    proxy = reach.Proxy.of(keys.by_proxy("socks5://h:1080"))
    assert proxy is not None
    assert (proxy.place, proxy.login) == (("socks5", "h", 1080), (b"me", b"s@cret"))
