"""HTTP/1.1 for the simulated server on non-blocking sockets: when `write` returns, the kernel has the bytes.

Transports of asyncio and uvloop may keep a write until the end of the loop's turn, and created_at and the truth log would
be early by that. A connection answers one request at a time; pipelined ones wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus

import httptools

SO_TIMESTAMPNS = 35  # Linux: has reads return the kernel's arrival time as ancillary data
_KERNEL_STAMP = struct.Struct("qq")
LAST_CHUNK = b"0\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class HTTPRequest:
    """One HTTP request, and when its last bytes arrived."""

    method: str
    path: str
    body: bytes
    close: bool  # the client wants the connection closed after the answer
    arrived_ns: int  # monotonic
    stamped: bool  # whether the instant is the kernel's, not the time of the read


def response_head(
    status: int, content_type: str, *, banner: bytes, length: int | None = None, close: bool = False
) -> bytes:
    """Return status line and headers in Ollama's order; `length` None means chunks. `banner` is one more header line."""
    body = b"Content-Length: %d\r\n" % length if length is not None else b""
    return b"HTTP/1.1 %d %s\r\nContent-Type: %s\r\nDate: %s\r\n%s%s%s%s\r\n" % (
        status,
        HTTPStatus(status).phrase.encode(),
        content_type.encode(),
        _http_date(int(time.time())),
        body,
        b"Connection: close\r\n" if close else b"",
        b"" if length is not None else b"Transfer-Encoding: chunked\r\n",
        banner,
    )


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


@functools.lru_cache(maxsize=1)
def _http_date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


class ClientConnection:
    """One client's socket: reads requests and hands each to `on_request` once the one before is answered."""

    def __init__(
        self,
        sock: socket.socket,
        on_request: Callable[[ClientConnection, HTTPRequest], None],
        on_gone: Callable[[ClientConnection], None],
    ) -> None:
        self._sock = sock
        self._on_request = on_request
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._requests: deque[HTTPRequest] = deque()
        self._busy = False
        self._closing = False
        self.closed = False
        self._unsent = bytearray()
        self._url, self._body, self._last = b"", bytearray(), False
        self._arrived: tuple[int, bool] = (0, False)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # some sandboxes refuse: the time of the read is taken instead
                sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._loop.add_reader(sock.fileno(), self._readable)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._sock.recvmsg(65536, 128)
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        now, wall = time.perf_counter_ns(), time.time_ns()
        if not data:  # as for Go's server, a client that shuts only its sending side is gone, too
            self.abort()
            return
        self._arrived = (now, False)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS and len(payload) >= _KERNEL_STAMP.size:
                seconds, nanoseconds = _KERNEL_STAMP.unpack_from(payload)
                stamp = seconds * 1_000_000_000 + nanoseconds
                self._arrived = (now - (wall - stamp), True)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.abort()
        except httptools.HttpParserError:
            self.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n400 Bad Request"
            )
            self._close_when_sent()

    def on_message_begin(self) -> None:
        self._url, self._body, self._last = b"", bytearray(), False

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"connection" and b"close" in value.lower():
            self._last = True
        elif lower == b"expect" and value.lower() == b"100-continue":
            self.write(CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path = self._url.decode("latin-1").split("?", 1)[0]
        method = self._parser.get_method().decode("latin-1")
        close = self._last or not self._parser.should_keep_alive()
        self._requests.append(HTTPRequest(method, path, bytes(self._body), close, *self._arrived))
        self._next()

    def _next(self) -> None:
        while self._requests and not self._busy and not self._closing and not self.closed:
            self._busy = True
            self._on_request(self, self._requests.popleft())

    # -- writing ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Hand `data` to the kernel now, and what it does not take as soon as it can."""
        if self.closed:
            return
        if self._unsent:
            self._unsent += data
        elif rest := data[self._send(data) :]:
            self._unsent += rest
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _send(self, data: bytes | bytearray) -> int:
        """Return how many bytes the kernel takes now: all, as far as is known, where the client is gone."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.abort()
            return len(data)

    def _writable(self) -> None:
        del self._unsent[: self._send(self._unsent)]
        if self._unsent or self.closed:
            return
        self._loop.remove_writer(self._sock.fileno())
        if self._closing:
            self._shut()

    def finish(self, *, close: bool) -> None:
        """End the answer; go on with the next request, or close once all is sent."""
        self._busy = False
        if close:
            self._close_when_sent()
        elif self._requests:
            self._loop.call_soon(self._next)  # later, for the server may be in its loop over a batch

    def _close_when_sent(self) -> None:
        self._closing = True
        if not self._unsent and not self.closed:
            self._shut()

    def abort(self, *, reset: bool = False) -> None:
        """Close at once; with `reset` the client gets an RST, not a FIN."""
        if self.closed:
            return
        if reset:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._shut()

    def _shut(self) -> None:
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        self._on_gone(self)
