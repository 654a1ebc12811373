"""A loopback server for tests of the wire: every connection is a thread that runs the test's own handler."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number  # 0 for the server's first connection
        self._buffer = b""

    def request(self) -> tuple[bytes, bytes] | None:
        """Read one request: its head and its body; None when the client has closed the connection."""
        while b"\r\n\r\n" not in self._buffer:
            try:
                data = self.sock.recv(65536)
            except BrokenPipeError:  # so Python 3.14 says that a client left TLS without a close_notify
                return None
            if not data:
                return None
            self._buffer += data
        head, _, rest = self._buffer.partition(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        while len(rest) < length:
            rest += self.sock.recv(65536)
        self._buffer = rest[length:]
        return head, rest[:length]

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def closed_by_client(self) -> bool:
        """Wait for the client to close or reset the connection."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


Handler = Callable[[Peer], object]


@dataclass
class Server:
    """Where it listens, and what went wrong in its handlers."""

    host: str
    port: int
    scheme: str = "http"
    connections: int = 0
    errors: list[BaseException] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@contextmanager
def serving(handler: Handler, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[Server]:
    """Run `handler` once for each connection; an exception in it fails the test at the end."""
    listener = socket.create_server((host, 0), backlog=512)
    server = Server("localhost" if tls else host, listener.getsockname()[1], "https" if tls else "http")
    threads: list[threading.Thread] = []
    open_sockets: list[socket.socket] = []

    def serve_one(raw: socket.socket, number: int) -> None:
        try:
            sock = tls.wrap_socket(raw, server_side=True) if tls else raw
            with sock:
                open_sockets.append(sock)
                handler(Peer(sock, number))
        except ssl.SSLError:
            raw.close()  # the client refused our certificate
        except BaseException as error:  # noqa: BLE001 - shown at the end
            raw.close()
            server.errors.append(error)

    def accept() -> None:
        while True:
            try:
                raw, _ = listener.accept()
            except OSError as error:
                if error.errno == errno.EMFILE:  # a test took them all
                    continue
                return
            thread = threading.Thread(target=serve_one, args=(raw, server.connections), daemon=True)
            server.connections += 1
            threads.append(thread)
            thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join(5)
        for sock in open_sockets:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in threads:
            thread.join(5)
    assert not server.errors, server.errors


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """Return a whole answer with Content-Length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(body: bytes) -> bytes:
    """Return `body` as one chunk."""
    return b"%x\r\n%s\r\n" % (len(body), body)


LAST = b"0\r\n\r\n"
STREAM = [CHUNKED, chunk(b"one\n"), chunk(b"two\n"), chunk(b"three\n") + LAST]


def say(*parts: bytes) -> Callable[[Peer], None]:
    """A handler that answers every request with `parts`."""

    def handler(peer: Peer) -> None:
        while peer.request() is not None:
            peer.send(*parts)

    return handler
