"""What both shells share: limits, requests as bytes, addresses, and one connection's reading and writing.

Nothing here waits; the shells do, each in its own way.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import httpx

from loadtest.measure.wire.arrivals import Arrivals
from loadtest.measure.wire.clock import ANCILLARY_SIZE, Ancillary, ask_for_stamps
from loadtest.measure.wire.tls import Tls

READ_SIZE = 1 << 13
# Python allocates up to 512 bytes, its own header of a bytes object included, by itself: of libc's larger buffers the
# unused rest must be given back at every read. A token's chunk fits; what does not is read on at once.
SMALL_READ = 512 - sys.getsizeof(b"")
FULL = 8  # small reads filled, after which an answer is no stream of small chunks

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds, None for none; enforced about four times a second.

    `first_byte` counts from the request's last byte and must cover the server's whole queue: a queued Ollama sends no
    byte, not even headers, until its first token.
    """

    connect: float | None = 10.0  # name, TCP and TLS together
    first_byte: float | None = 3600.0
    idle: float | None = 300.0  # between two reads, or while the server takes no more of the request
    total: float | None = None  # from the request's first byte to the answer's last

    @classmethod
    def of(cls, request: httpx.Request) -> Self:
        """Return httpx's own limits for a request, as its client has set them."""
        asked = request.extensions.get("timeout", {})
        return cls(connect=asked.get("connect"), first_byte=asked.get("read"), idle=asked.get("read"))

    def deadline(self, arrivals: Arrivals, started: int) -> tuple[float, str]:
        """Return when this request is overdue (monotonic ns, perhaps infinite) and by which of the limits."""
        last = arrivals.last_read
        if last is not None:
            soonest = (last + _ns(self.idle), "idle")
        elif arrivals.t_send is not None:
            soonest = (arrivals.t_send + _ns(self.first_byte), "first_byte")
        else:
            soonest = (started + _ns(self.idle), "sending")
        return min(soonest, (started + _ns(self.total), "total"))

    def error(self, limit: str) -> httpx.TimeoutException:
        """Return the exception for a limit that `deadline` named."""
        match limit:
            case "idle":
                return httpx.ReadTimeout(f"the answer stood still for {self.idle:g} s (idle limit)")
            case "first_byte":
                return httpx.ReadTimeout(f"no byte of an answer within {self.first_byte:g} s (first byte limit)")
            case "sending":
                return httpx.WriteTimeout(f"the request could not be sent within {self.idle:g} s (idle limit)")
        return httpx.ReadTimeout(f"the answer was not over after {self.total:g} s (total limit)")


def _ns(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds * 1e9


class Origin(NamedTuple):
    """Where a connection leads."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> Self:
        """Return the origin of `url`; raises httpx.UnsupportedProtocol for anything but http and https."""
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise httpx.UnsupportedProtocol(f"{url} is no http:// or https:// address")
        return cls(url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80))

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def encode_request(request: httpx.Request) -> bytes:
    """Return the whole request as bytes; its body must have been read.

    Raises httpx.LocalProtocolError for a header that would break the framing.
    """
    head = [b"%s %s HTTP/1.1\r\n" % (request.method.encode("ascii"), request.url.raw_path)]
    body = request.content
    for name, value in request.headers.raw:
        if b"\n" in name + value or b"\r" in name + value:
            raise httpx.LocalProtocolError(f"the request's header {name!r} holds a line break", request=request)
        if name.lower() == b"transfer-encoding":
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        head.append(b"%s: %s\r\n" % (name, value))
    return b"".join([*head, b"\r\n", body])


class Addresses:
    """Resolved names, each looked up once; the address that last worked is tried first."""

    def __init__(self) -> None:
        self._known: dict[Origin, list[Address]] = {}

    def get(self, origin: Origin) -> list[Address] | None:
        return self._known.get(origin)

    def put(self, origin: Origin, found: list[Address]) -> list[Address]:
        """Keep what getaddrinfo found, each address once, in its order."""
        return self._known.setdefault(origin, list(dict.fromkeys(found)))

    def worked(self, origin: Origin, address: Address) -> None:
        known = self._known[origin]
        if known[0] != address:
            self._known[origin] = [address, *(other for other in known if other != address)]


def open_socket(family: socket.AddressFamily) -> socket.socket:
    """Return a non-blocking TCP socket with stamps on, where the system has them."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    ask_for_stamps(sock)
    return sock


def connect_error(origin: Origin, errors: list[OSError], limit: float | None) -> httpx.TransportError:
    """Return the exception for a server that no address led to; a TimeoutError among `errors` stands for the limit."""
    slow = f"not ready within {limit or 0:g} s (connect limit)"
    reasons = dict.fromkeys(slow if isinstance(error, TimeoutError) else _reason(error) for error in errors)
    text = f"cannot connect to {origin}: {'; '.join(reasons)}"
    if errors and all(isinstance(error, TimeoutError) for error in errors):
        return httpx.ConnectTimeout(text)
    return httpx.ConnectError(text)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return getattr(error, "verify_message", "") or error.reason or str(error)
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    return os.strerror(error.errno).lower() if error.errno else str(error)


class Inbox:
    """Body bytes of an ordinary answer on their way to whoever iterates over it."""

    __slots__ = ("chunks", "wake")

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.wake: Callable[[], object] = bool

    def put(self, data: bytes) -> bool:
        self.chunks.append(data)
        self.wake()
        return False  # go on handing body bytes over at once


class Connection:
    """One TCP connection and the request that it carries, if any.

    `wake` is called when the request's state changes: headers there, all over, request sent, or (idle) of no more use.
    """

    __slots__ = (
        "_full",
        "_out",
        "_recvmsg",
        "_size",
        "arrivals",
        "broken",
        "error",
        "fd",
        "fresh",
        "origin",
        "sock",
        "stale",
        "tls",
        "wake",
    )

    def __init__(self, sock: socket.socket, origin: Origin) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.origin = origin
        self.tls: Tls | None = None
        self.arrivals: Arrivals | None = None
        self.wake: Callable[[], object] = bool
        self.fresh = True  # opened for the request that it carries
        self.broken = False  # carries no further request
        self.stale = False  # the server had closed it before this request reached it
        self.error: httpx.TransportError | None = None  # what became of the request, where framing does not say
        self._out = memoryview(b"")
        self._recvmsg = sock.recvmsg
        self._size, self._full = READ_SIZE, 0

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Begin the handshake; `wake` tells of its end: see tls.ready and error."""
        self.tls = Tls(context, self.origin.host)
        self._out = memoryview(self.tls.outgoing())

    def begin(self, payload: bytes, arrivals: Arrivals, wake: Callable[[], object], *, fresh: bool) -> None:
        """Take a request; `transmit` sends it."""
        self.fresh = fresh
        self.arrivals = arrivals
        self.wake = wake
        if self.tls is not None:
            self.tls.send(payload)
            payload = self.tls.outgoing()
        else:
            self._size, self._full = SMALL_READ, 0
        self._out = memoryview(payload)

    @property
    def unsent(self) -> bool:
        return bool(self._out)

    def transmit(self) -> bool:
        """Send what the kernel takes; True when nothing is left to send, be it by failure."""
        while self._out:
            try:
                self._out = self._out[self.sock.send(self._out) :]
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._out = memoryview(b"")
                self.broken = True
                # The server may have answered before it hung up: what it said outlives the connection in our buffer.
                if not self.receive() and (self.arrivals is None or not self.arrivals.read_count):
                    self._lose(httpx.WriteError(f"the connection broke while sending: {_reason(error)}"))
                return True
        if self.arrivals is not None and self.arrivals.t_send is None:
            self.arrivals.t_send = time.perf_counter_ns()
        return True

    def receive(self) -> bool:
        """Read once; True (after calling `wake`) when something happened that somebody waits for.

        This is the hot path: with a stream running it is one recvmsg and one append.
        """
        try:
            data, ancillary, _, _ = self._recvmsg(self._size, ANCILLARY_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(httpx.ReadError(f"the connection broke: {_reason(error)}"))
            return True
        t = time.perf_counter_ns()
        arrivals = self.arrivals
        if self.tls is not None:
            return self._receive_tls(self.tls, data, ancillary, t)
        if not data:
            self._eof(t)
        elif arrivals is None:
            self.broken = True
        elif not arrivals.add(data, ancillary, t):
            return len(data) == SMALL_READ == self._size and self._read_on()
        self.wake()
        return True

    def _read_on(self) -> bool:
        """Take what a small read left behind."""
        self._full += 1
        self._size = READ_SIZE
        happened = self.receive()
        if self._full < FULL:
            self._size = SMALL_READ
        return happened

    def fail(self, error: httpx.TransportError) -> None:
        """Give the request up for `error`; what came of its answer stays in its arrivals."""
        self.broken = True
        if self.error is None:
            self.error = error
        if self.arrivals is not None:
            self.arrivals.abort(str(error), time.perf_counter_ns())

    def verdict(self) -> httpx.TransportError | None:
        """Return why the request failed, None where its answer is whole or just cut off inside the body."""
        arrivals = self.arrivals
        if arrivals is None or arrivals.complete:
            return None
        if self.error is None and arrivals.ended and (arrivals.malformed or arrivals.status is None):
            return httpx.RemoteProtocolError(arrivals.failure or "")
        return self.error

    def _receive_tls(self, tls: Tls, data: bytes, ancillary: Ancillary, t: int) -> bool:
        was_ready, changed = tls.ready, False
        try:
            plain = tls.receive(data) if data else b""
        except ssl.SSLError as error:
            self._lose(httpx.ReadError(f"TLS failed: {_reason(error)}"))
            return True
        if answer := tls.outgoing():
            self._out = memoryview(bytes(self._out) + answer)
            self.transmit()
        if plain and self.arrivals is not None:
            changed = self.arrivals.add(plain, ancillary, t)
        elif plain:
            self.broken = changed = True
        if not data or tls.closed:
            self._eof(t)
            changed = True
        if changed or tls.ready != was_ready:
            self.wake()
            return True
        return False

    def _eof(self, t: int) -> None:
        self.broken = True
        arrivals = self.arrivals
        if arrivals is None:
            return
        if arrivals.read_count or self.fresh:
            arrivals.eof(t)
        else:
            self.stale = True

    def _lose(self, error: httpx.TransportError) -> None:
        if self.arrivals is not None and not self.arrivals.read_count and not self.fresh:
            self.stale = self.broken = True
        else:
            self.fail(error)
        self.wake()
