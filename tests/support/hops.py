"""First hops in threads: a forward proxy, a unix socket before a TCP server, and a gateway that knows some paths itself."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFUSAL = b"<html><head><title>Login to PLAINPROXY first</title></head></html>"


@dataclass
class ForwardProxy:
    """A proxy; `seen` are the heads of the requests that it read."""

    url: str
    login: bytes | None = None  # value of Proxy-Authorization without which it answers 407
    seen: list[bytes] = field(default_factory=list)


def _read_head(sock: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := sock.recv(65536)):
            break
        data += part
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _join(client: socket.socket, server: socket.socket) -> None:
    if isinstance(client, ssl.SSLSocket):  # not for two threads
        with contextlib.suppress(OSError):
            _pump_both(client, server)
        return
    back = threading.Thread(target=_pump, args=(server, client), daemon=True)
    back.start()
    _pump(client, server)
    back.join()


def _pump_both(client: ssl.SSLSocket, server: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([client, server], [], [])
        if server in ready:
            if not (part := server.recv(65536)):
                client.unwrap()
                return
            client.sendall(part)
        if client in ready:
            part = client.recv(65536)
            while client.pending():
                part += client.recv(65536)
            if not part:
                return
            server.sendall(part)


def _refuse(client: socket.socket, status: bytes) -> None:
    client.sendall(
        b"HTTP/1.1 %s\r\nContent-Type: text/html\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
        % (status, len(REFUSAL), REFUSAL)
    )


def _place(text: bytes) -> tuple[str, int]:
    host, _, port = text.decode().rpartition(":")
    return host.strip("[]"), int(port)


@contextlib.contextmanager
def _listening(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Threads(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 100


@contextlib.contextmanager
def proxying(login: bytes | None = None, *, tls: ssl.SSLContext | None = None) -> Iterator[ForwardProxy]:
    """Run a forward proxy for http (one request a connection) and CONNECT; with `tls` it speaks https itself."""
    proxy = ForwardProxy("", login)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            client: socket.socket = self.request
            if tls is None:
                self._serve(client)
                return
            with contextlib.suppress(OSError), tls.wrap_socket(client, server_side=True) as inside:
                self._serve(inside)

        def _serve(self, client: socket.socket) -> None:
            head, rest = _read_head(client)
            if not head:
                return  # a connection that was opened ahead and never used
            proxy.seen.append(head)
            if login is not None and b"proxy-authorization: " + login.lower() not in head.lower():
                _refuse(client, b"407 Proxy Authentication Required")
                return
            method, target, _ = head.split(b" ", 2)
            place = target if method == b"CONNECT" else target.split(b"/", 3)[2]
            try:
                upstream = socket.create_connection(_place(place))
            except OSError:
                _refuse(client, b"502 Cannot Connect There")
                return
            with upstream:
                if method == b"CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    path = b"/" + target.split(b"/", 3)[3]
                    kept = [
                        line
                        for line in head.split(b"\r\n")[1:]
                        if not line.lower().startswith((b"proxy-", b"connection:"))
                    ]
                    lines = [b"%s %s HTTP/1.1" % (method, path), *kept, b"Connection: close", b"", b""]
                    upstream.sendall(b"\r\n".join(lines) + rest)
                    reply, begun = _read_head(upstream)  # a client must not send more over a connection that ends
                    client.sendall(reply + b"\r\nConnection: close\r\n\r\n" + begun)
                _join(client, upstream)

    with _Threads(("127.0.0.1", 0), Handler) as server, _listening(server):
        proxy.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
        yield proxy


@contextlib.contextmanager
def on_socket(path: Path, url: str) -> Iterator[None]:
    """Pass what comes over a unix socket at `path` on to the server at `url`."""
    place = _place(url.partition("://")[2].encode())

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(place) as upstream:
                _join(self.request, upstream)

    class Server(_Threads):
        address_family = socket.AF_UNIX

    address: Any = str(path)
    with Server(address, Handler) as server, _listening(server):
        yield


@contextlib.contextmanager
def gateway(
    url: str,
    *,
    known: Mapping[str, object] | None = None,
    prefixes: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | None = None,
) -> Iterator[str]:
    """Pass requests on to the server at `url`, one a connection; yields the gateway's own URL.

    Args:
        known: answers of the gateway itself, by path; None is a 404. A path that ends in / stands for all below it.
        prefixes: how a path begins, and what takes its place.
        tls: speak https to the client.
    """
    place = _place(url.partition("://")[2].encode())

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
                client = (
                    self.request
                    if tls is None
                    else stack.enter_context(tls.wrap_socket(self.request, server_side=True))
                )
                self._pass_on(client)

        def _pass_on(self, client: socket.socket) -> None:
            head, rest = _read_head(client)
            if not head:
                return
            first, *lines = head.split(b"\r\n")
            method, target, version = first.decode().split(" ")
            path = target.partition("?")[0]
            for begin, instead in (prefixes or {}).items():
                if path.startswith(begin):
                    target = instead + target.removeprefix(begin)
                    path = target.partition("?")[0]
                    break
            for name, answer in (known or {}).items():
                if path == name or (name.endswith("/") and path.startswith(name)):
                    body = json.dumps(answer).encode()
                    status = b"404 Not Found" if answer is None else b"200 OK"
                    kind = b"Content-Type: application/json\r\nConnection: close"
                    client.sendall(
                        b"HTTP/1.1 %s\r\n%s\r\nContent-Length: %d\r\n\r\n%s" % (status, kind, len(body), body)
                    )
                    return
            kept = [line for line in lines if not line.lower().startswith(b"connection:")]
            with socket.create_connection(place) as upstream:
                upstream.sendall(
                    b"\r\n".join([f"{method} {target} {version}".encode(), *kept, b"Connection: close", b"", rest])
                )
                reply, begun = _read_head(upstream)
                client.sendall(reply + b"\r\nConnection: close\r\n\r\n" + begun)
                _join(client, upstream)

    with _Threads(("127.0.0.1", 0), Handler) as server, _listening(server):
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
