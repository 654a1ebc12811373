"""What both shells share: limits, requests as bytes, addresses, and one connection's reading and writing.

Nothing here waits; the shells do, each in its own way.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import httpx

from loadtest.wire.clock import ANCILLARY_SIZE, Ancillary, ask_for_stamps, now
from loadtest.wire.received import Received
from loadtest.wire.tls import Tls

READ_SIZE = 1 << 13
# Python allocates up to 512 bytes, its own header of a bytes object included, by itself: of libc's larger buffers the
# unused rest must be given back at every read. A token's chunk fits; what does not is read on at once.
SMALL_READ = 512 - sys.getsizeof(b"")
STALE_NS = 250_000_000  # a kept connection that dies so soon after the send had been closed before the request came
FULL = 8  # small reads filled, after which an answer is no stream of small chunks

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds, None for none; enforced about four times a second.

    `first_token` counts from the request's last byte and must cover the server's whole queue: headers, roles and
    comments may come at once or with the first token.
    """

    connect: float | None = 10.0  # name, TCP and TLS together
    first_token: float | None = 3600.0
    idle: float | None = 300.0  # since the last content, or while the server takes no more of the request
    total: float | None = None  # from the request's first byte to the answer's last

    @classmethod
    def of(cls, request: httpx.Request) -> Self:
        """Return httpx's own limits for a request, as its client has set them."""
        asked = request.extensions.get("timeout", {})
        return cls(connect=asked.get("connect"), first_token=asked.get("read"), idle=asked.get("read"))

    def deadline(self, received: Received, started: int) -> tuple[float, str]:
        """Return when this request is overdue (monotonic ns, perhaps infinite) and by which of the limits."""
        last = received.content_seen
        if last is not None:
            soonest = (last + _ns(self.idle), "idle")
        elif received.t_send is not None:
            soonest = (received.t_send + _ns(self.first_token), "first_token")
        else:
            soonest = (started + _ns(self.idle), "sending")
        return min(soonest, (started + _ns(self.total), "total"))

    def error(self, limit: str) -> httpx.TimeoutException:
        """Return the exception for a limit that `deadline` named."""
        match limit:
            case "idle":
                return httpx.ReadTimeout(f"the answer stood still for {self.idle:g} s (idle limit)")
            case "first_token":
                return httpx.ReadTimeout(f"no token within {self.first_token:g} s (first token limit)")
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
    """Return a non-blocking TCP socket with stamps on, where the system has them; raises OSError, out of descriptors."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ask_for_stamps(sock)
    except BaseException:
        sock.close()
        raise
    return sock


class Refusal(NamedTuple):
    """Why an address did not take a connection.

    Words in place of the exception, whose traceback holds the frame that would hold it: a circle that nobody collects
    while a run measures.
    """

    slow: bool  # the time limit, not the server's word
    why: str

    @classmethod
    def of(cls, error: OSError) -> Self:
        return cls(isinstance(error, TimeoutError) and error.errno is None, _reason(error))


def connect_error(origin: Origin, refusals: list[Refusal], limit: float | None) -> httpx.TransportError:
    """Return the exception for a server that no address led to."""
    slow = f"not ready within {limit or 0:g} s (connect limit)"
    reasons = dict.fromkeys(slow if refusal.slow else refusal.why for refusal in refusals)
    text = f"cannot connect to {origin}: {'; '.join(reasons) or 'the name has no address'}"
    if refusals and all(refusal.slow for refusal in refusals):
        return httpx.ConnectTimeout(text)
    return httpx.ConnectError(text)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return getattr(error, "verify_message", "") or error.reason or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE) or (isinstance(error, socket.gaierror) and _out_of_descriptors()):
        return f"no file descriptor left (ulimit -n is {_descriptor_limit()})"
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _out_of_descriptors() -> bool:
    """Whether no file can be opened: then no name resolves either, and the resolver says something else."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _descriptor_limit() -> str:
    try:
        import resource  # not everywhere
    except ImportError:
        return "unknown"
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


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
        "_began",
        "_full",
        "_out",
        "_recvmsg",
        "_sent",
        "_size",
        "broken",
        "error",
        "fd",
        "fresh",
        "origin",
        "received",
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
        self.received: Received | None = None
        self.wake: Callable[[], object] = bool
        self.fresh = True  # opened for the request that it carries
        self.broken = False  # carries no further request
        self.stale = False  # the server had closed it before this request reached it
        self.error: httpx.TransportError | None = None  # what became of the request, where framing does not say
        self._out = memoryview(b"")
        self._began, self._sent = 0, False
        self._recvmsg = sock.recvmsg
        self._size, self._full = READ_SIZE, 0

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Begin the handshake; `wake` tells of its end: see tls.ready and error."""
        self.tls = Tls(context, self.origin.host)
        self._out = memoryview(self.tls.outgoing())

    def begin(self, payload: bytes, received: Received, wake: Callable[[], object], *, fresh: bool) -> None:
        """Take a request; `transmit` sends it."""
        self.fresh = fresh
        self.received = received
        self.wake = wake
        self._began, self._sent = now(), False
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
        before = 0
        while self._out:
            before = now()
            try:
                self._out = self._out[self.sock.send(self._out) :]
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._out = memoryview(b"")
                self.broken = True
                # The server may have answered before it hung up: what it said outlives the connection in our buffer.
                if not self.receive() and (self.received is None or not self.received.read_count):
                    self._lose(httpx.WriteError(f"the connection broke while sending: {_reason(error)}"))
                return True
        if before and self.received is not None and not self._sent:
            self.received.sent(before, now())
            self._sent = True
        return True

    def receive(self) -> bool:
        """Read once; True (after calling `wake`) when something happened that somebody waits for.

        This is the hot path: with a stream running it is one recvmsg, its framing and a look for the answer's end.
        """
        try:
            data, ancillary, _, _ = self._recvmsg(self._size, ANCILLARY_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(httpx.ReadError(f"the connection broke: {_reason(error)}"))
            return True
        t = now()
        received = self.received
        if self.tls is not None:
            return self._receive_tls(self.tls, data, ancillary, t)
        if not data:
            self._eof(t)
        elif received is None:
            self.broken = True
        elif not received.add(data, ancillary, t):
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
        """Give the request up for `error`; what came of its answer stays in `received`."""
        self.broken = True
        if self.error is None:
            self.error = error
        if self.received is not None:
            self.received.abort(str(error), now())

    def verdict(self) -> httpx.TransportError | None:
        """Return, once, why the request failed; None where its answer is whole, cut off inside the body, or too large."""
        received, error = self.received, self.error
        self.error = None  # who raises it is in its traceback: no circle
        if received is None or received.failure is None or received.excessive:
            return None
        if error is None and (received.malformed or received.status is None):
            return httpx.RemoteProtocolError(received.failure)
        return error

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
        if plain and self.received is not None:
            changed = self.received.add(plain, ancillary, t)
        elif plain:
            self.broken = changed = True
        if tls.error is not None:
            self._lose(httpx.ReadError(f"TLS failed: {_reason(tls.error)}"))
            return True
        if not data or tls.closed:
            self._eof(t)
            changed = True
        if changed or tls.ready != was_ready:
            self.wake()
            return True
        return False

    def _eof(self, t: int) -> None:
        self.broken = True
        if self.received is None:
            return
        if self._unanswered(t):
            self.stale = True
        else:
            self.received.eof(t)

    def _lose(self, error: httpx.TransportError) -> None:
        if self._unanswered(now()):
            self.stale = self.broken = True
        else:
            self.fail(error)
        self.wake()

    def _unanswered(self, t: int) -> bool:
        """Whether the server had closed a kept connection before it saw the request, as far as anybody can tell at `t`.

        Later it may have worked on the request: to send it once more would hide that.
        """
        received = self.received
        if received is None or received.read_count or self.fresh:
            return False
        since = received.t_send if self._sent and received.t_send is not None else self._began
        return t - since < STALE_NS
