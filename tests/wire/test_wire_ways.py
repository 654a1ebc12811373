"""The wire by other ways: a proxy as the first hop, http and https, and unix sockets; every shell and waiter."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.hops import on_socket, proxying
from support.wire_client import WAITERS, ask, trusting
from support.wire_server import STREAM, Peer, say, serving

from loadtest.errors import ScenarioError
from loadtest.reach import Proxy
from loadtest.scenario import ConnectionKeys
from loadtest.wire import Origin, Timeouts, kernel_stamping

LOGIN = b"Basic " + base64.b64encode(b"me:s@cret")


@pytest.fixture(autouse=True)
def stamping() -> Iterator[None]:
    """Keep the kernel's stamping on, as a run does: a socket that asks for it first gets none for some milliseconds."""
    with kernel_stamping():
        yield


def by(url: str, **keys: Any) -> dict[str, Any]:
    return {"proxy": Proxy.of(ConnectionKeys(proxy=url, **keys))}


def shows(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("kind", WAITERS)
def test_http_goes_through_a_proxy_in_absolute_form(kind: str) -> None:
    with serving(say(*STREAM)) as server, proxying(LOGIN) as proxy:
        requests = [httpx.Request("POST", f"{server.url}/a?b=1", content=b"body") for _ in range(2)]
        got = ask(kind, *requests, **by(proxy.url.replace("://", "://me:s%40cret@")))
    assert [one.received.body() for one in got] == [b"one\ntwo\nthree\n"] * 2
    assert all(one.received.stamped_count for one in got)  # TCP to the proxy is ours
    assert {head.split(b"\r\n")[0].decode() for head in proxy.seen} == {f"POST {server.url}/a?b=1 HTTP/1.1"}


@pytest.mark.parametrize("kind", WAITERS)
def test_https_goes_through_a_tunnel_which_is_kept(kind: str, certificate: Path) -> None:
    with serving(say(*STREAM), tls=shows(certificate)) as server, proxying(LOGIN) as proxy:
        requests = [httpx.Request("POST", server.url, content=b"body") for _ in range(2)]
        got = ask(kind, *requests, verify=trusting(certificate), **by(proxy.url.replace("://", "://me:s%40cret@")))
    assert [(one.error, one.received.body()) for one in got] == [(None, b"one\ntwo\nthree\n")] * 2
    assert [head.split(b"\r\n")[0].decode() for head in proxy.seen] == [f"CONNECT localhost:{server.port} HTTP/1.1"]
    assert b"POST" not in b"".join(proxy.seen)


WHO = b"HTTP/1.1 407 Who?\r\n"
REFUSALS = {
    "its words": (WHO + b"Content-Length: 3\r\n\r\nno!", "407 (no!); write USER:PASSWORD@"),
    "chunks": (WHO + b"Transfer-Encoding: chunked\r\n\r\n3\r\nno!\r\n0\r\n\r\n", "407 (no!); write USER:PASSWORD@"),
    "a reason alone": (WHO + b"Content-Length: 0\r\n\r\n", "407 (Who?); write USER:PASSWORD@"),
    "line feeds": (b"HTTP/1.0 403 \x1b]0;x\nContent-Length: 0\n\n", r"403 (\x1b]0;x)"),
    "interim answers": (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + WHO + b"Content-Length: 0\r\n\r\n",
        "407 (Who?)",
    ),
    "another charset": (
        b"HTTP/1.1 403 No\r\nContent-Type: text/x; charset=gbk\r\nContent-Length: 8\r\n\r\n" + "禁止访问".encode("gbk"),
        "403 (禁止访问)",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("kind", WAITERS)
def test_a_proxy_that_refuses_a_tunnel_and_keeps_the_connection(kind: str, name: str) -> None:
    said, expected = REFUSALS[name]

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(said)
        assert peer.closed_by_client()

    with serving(handler) as proxy:
        (got,) = ask(kind, httpx.Request("GET", "https://gpu.example"), **by(proxy.url))
    assert f"the proxy {proxy.url} refuses CONNECT with status {expected}" in str(got.error)


@pytest.mark.parametrize("kind", WAITERS)
def test_a_refused_tunnel_whose_refusal_has_no_end_is_quoted(kind: str) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\n\r\nnot this host")
        assert peer.closed_by_client()

    with serving(handler) as proxy:
        limits = Timeouts(connect=0.2)
        (got,) = ask(kind, httpx.Request("GET", "https://gpu.example"), timeouts=limits, **by(proxy.url))
    assert f"the proxy {proxy.url} refuses CONNECT with status 403 (not this host)" in str(got.error)


@pytest.mark.parametrize("kind", WAITERS)
def test_a_tunnel_opens_behind_an_interim_answer(kind: str) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        assert peer.sock.recv(2) == b"\x16\x03"  # our TLS begins

    with serving(handler) as proxy:
        (got,) = ask(kind, httpx.Request("GET", "https://gpu.example"), **by(proxy.url))
    assert "CONNECT" not in str(got.error)


@pytest.mark.parametrize("kind", WAITERS)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_may_speak_https_itself(kind: str, scheme: str, certificate: Path) -> None:
    context = shows(certificate)
    with (
        serving(say(*STREAM), tls=context if scheme == "https" else None) as server,
        proxying(LOGIN, tls=context) as proxy,
    ):
        requests = [httpx.Request("POST", f"{server.url}/a", content=b"body") for _ in range(2)]
        way = by(proxy.url.replace("://", "://me:s%40cret@"), ca_file=str(certificate))
        got = ask(kind, *requests, verify=trusting(certificate), **way)
    assert [(one.error, one.received.body()) for one in got] == [(None, b"one\ntwo\nthree\n")] * 2
    assert all(one.received.stamped_count for one in got)
    heads = [head.split(b"\r\n")[0].decode() for head in proxy.seen]
    absolute = [f"POST {server.url}/a HTTP/1.1"] * 2
    assert heads == (absolute if scheme == "http" else [f"CONNECT localhost:{server.port} HTTP/1.1"])


@pytest.mark.parametrize("kind", WAITERS)
def test_what_a_proxy_that_speaks_https_does_wrong_is_said(kind: str, certificate: Path) -> None:
    def hangs_up(peer: Peer) -> None:
        peer.sock.recv(100)

    def speaks_http(peer: Peer) -> None:
        peer.sock.recv(100)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    def told(url: str, proxy: str, **keys: Any) -> str:
        (got,) = ask(kind, httpx.Request("GET", url), **by(proxy, **keys))
        assert isinstance(got.error, httpx.ConnectError)
        return str(got.error)

    with (
        serving(hangs_up) as silent,
        serving(speaks_http) as plain,
        proxying(LOGIN, tls=shows(certificate)) as proxy,
    ):
        closed, wrong = (one.url.replace("http", "https") for one in (silent, plain))
        assert f"by the proxy {proxy.url}: self-signed certificate" in told("http://127.0.0.1:9", proxy.url)
        assert "status 407" in told("https://127.0.0.1:9", proxy.url, ca_file=str(certificate))
        assert f"by the proxy {wrong}: WRONG_VERSION_NUMBER" in told("http://127.0.0.1:9", wrong)
        assert "the proxy" in told("https://127.0.0.1:9", closed)


@pytest.mark.parametrize("kind", WAITERS)
def test_a_proxy_that_opens_no_tunnel_is_quoted(kind: str) -> None:
    with proxying(LOGIN) as closed, proxying() as opened:
        (refused,) = ask(kind, httpx.Request("GET", "https://no-such.invalid"), **by(closed.url))
        (nowhere,) = ask(kind, httpx.Request("GET", "https://127.0.0.1:9"), **by(opened.url))
    (gone,) = ask(kind, httpx.Request("GET", "https://no-such.invalid"), **by(opened.url))
    assert "status 407 (HTTP 407 with a web page, titled 'Login to PLAINPROXY first')" in str(refused.error)
    assert "USER:PASSWORD@" in str(refused.error)
    assert "status 502" in str(nowhere.error)
    assert f"by the proxy {opened.url}: connection refused" in str(gone.error)
    assert {type(one.error) for one in (refused, nowhere, gone)} == {httpx.ConnectError}


@pytest.mark.parametrize("kind", WAITERS)
def test_a_unix_socket_has_no_stamps_and_a_missing_one_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "X.sock"
    asked: dict[str, Any] = {"origin": Origin.of(f"unix:{path}")}
    with serving(say(*STREAM)) as server, on_socket(path, server.url):
        got = ask(
            kind, *[httpx.Request("GET", "http://localhost/a") for _ in range(2)], **asked, **by("http://127.0.0.1:9")
        )
    assert [(one.error, one.received.body()) for one in got] == [(None, b"one\ntwo\nthree\n")] * 2
    assert [one.received.stamped_count for one in got] == [0, 0]
    assert server.connections == 1
    path.unlink()
    (gone,) = ask(kind, httpx.Request("GET", "http://localhost"), **asked)
    assert f"cannot connect to unix:{path}: no such file" in str(gone.error)


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("https://p:1/path", "host and port alone"),
        ("socks4://me:S3CRET@p:1", "must be an HTTP proxy, like .* or a SOCKS 5 proxy, like socks5h://proxy:1080"),
        ("socks5://me:S3CRET@p:1/x", "host and port alone"),
        ("http://p:1/path", "host and port alone"),
        ("http://me:S3CRET@p:99999", "its port is not"),
        ("http://me:S3CRET@p:1?x", "host and port alone|%40"),
    ],
)
def test_what_is_no_proxy_is_one_sentence(proxy: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as said:
        Proxy.of(ConnectionKeys(proxy=proxy))
    assert "S3CRET" not in str(said.value)
