"""One connection and the request that it carries, and the pool of connections that carry none.

Nothing here waits: the shells do, each in its own way.
"""

from __future__ import annotations

import socket
import ssl
import sys
from collections import Counter, deque
from collections.abc import Callable

import httpx

from loadtest.wire.clock import ANCILLARY_SIZE, Ancillary, now
from loadtest.wire.connecting.address import Origin, reason_of
from loadtest.wire.connecting.tls import Tls
from loadtest.wire.receiving.received import Received

READ_SIZE = 1 << 13
# Python itself allocates objects of up to 512 bytes, a bytes object's header included. A larger buffer comes from libc,
# and its unused rest has to be given back at every read. A token's chunk fits; the rest of a larger one is read at once.
SMALL_READ = 512 - sys.getsizeof(b"")
STALE_NS = 250_000_000  # a kept connection that dies this soon after the send had been closed before the request came
# an idle connection that dies this soon was never meant to be kept, whatever its headers say
AT_ONCE_NS = 1_000_000_000
# kept connections of an origin that the server closed at once: from then on none is kept, unless one was used
FEWEST_DIED = 4
CONNECTION_WAIT_NS = 1_000_000_000  # waits for a place among connections that are at least so long are told …
# … where the answer began so soon, as a share of the wait, after the server had closed an idle connection
SOON_AFTER = 0.1
# by which the instant of a close may be late, which has the kernel's ticks or is that of our read, and that of an answer's end
CLOSED_ERROR_NS = 50_000_000
MOST_GIVEN_UP = 8  # closed idle connections that are remembered
MOST_ENDS = 256  # ends of answers that are remembered
LAST_ACK = 56  # where tcpi_last_ack_recv stands in the kernel's struct tcp_info; a FIN acknowledges, too
FULL_READS = 8  # small reads filled to the last byte: from then on an answer is no stream of small chunks


class Connection:
    """One TCP connection and the request that it carries, if any.

    `wake` is called when the state changes: the answer's end is known or near, or an idle connection is of no more use.
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
        "idle_since",
        "origin",
        "received",
        "sock",
        "stale",
        "tls",
        "uses",
        "wake",
    )

    def __init__(self, sock: socket.socket, origin: Origin, tls: Tls | None = None) -> None:
        """`tls` is the session with a proxy that speaks https."""
        self.sock = sock
        self.fd = sock.fileno()
        self.origin = origin
        self.tls = tls
        self.received: Received | None = None
        self.wake: Callable[[], object] = bool
        self.broken = False  # it will carry no further request
        self.stale = False  # the server had closed it before this request reached it
        self.uses = 0  # requests that it has carried
        self.idle_since = 0  # monotonic ns
        # why the request failed, where the answer's framing does not say
        self.error: httpx.TransportError | None = None
        self._out: bytes | memoryview = b""
        self._began, self._sent = 0, False
        self._recvmsg = sock.recvmsg
        self._size, self._full = READ_SIZE, 0

    def start_tls(self, context: ssl.SSLContext) -> Tls:
        """Begin the handshake and return its session; `wake` is called at its end: see tls.ready and error."""
        tls = self.tls = Tls(context, self.origin.host, self.tls)
        self._out = tls.outgoing()
        return tls

    def begin(self, payload: bytes, received: Received, wake: Callable[[], object]) -> None:
        """Take a request; `transmit` sends it."""
        self.received = received
        self.wake = wake
        self._began, self._sent = now(), False
        self.uses += 1
        if self.tls is not None:
            self.tls.send(payload)
            payload = self.tls.outgoing()
        else:
            self._size, self._full = SMALL_READ, 0
        self._out = payload

    @property
    def unsent(self) -> bool:
        return bool(self._out)

    def transmit(self) -> bool:
        """Send what the kernel takes; True when nothing is left to send, which includes failure."""
        before = 0
        while self._out:
            before = now()
            try:
                taken = self.sock.send(self._out)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._out = b""
                self.broken = True
                # The server may have answered before it hung up, and its answer may still lie in our receive buffer.
                if not self.receive() and (self.received is None or not self.received.read_count):
                    self._lose(httpx.WriteError(f"the connection broke while sending: {reason_of(error)}"))
                return True
            self._out = b"" if taken == len(self._out) else memoryview(self._out)[taken:]
        if before and self.received is not None and not self._sent:
            self.received.sent(self._began, before, now())
            self._sent = True
        return True

    def receive(self) -> bool:
        """Read once; call `wake` and return True when something happened that the caller waits for.

        This is the hot path: while a stream runs, it is one recvmsg, HTTP framing and a look for the answer's end.
        """
        try:
            data, ancillary, _, _ = self._recvmsg(self._size, ANCILLARY_SIZE)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            self._lose(httpx.ReadError(f"the connection broke: {reason_of(error)}"))
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
        """Read what a small read left behind."""
        self._full += 1
        self._size = READ_SIZE
        happened = self.receive()
        if self._full < FULL_READS:
            self._size = SMALL_READ
        return happened

    def fail(self, error: httpx.TransportError) -> None:
        """End the request with `error`; what came of its answer stays in `received`."""
        self.broken = True
        if self.error is None:
            self.error = error
        if self.received is not None:
            self.received.abort(str(error), now())

    def take_error(self) -> httpx.TransportError | None:
        """Return, once, why the request failed; None where its answer is whole, cut off inside the body, or too large."""
        received, error = self.received, self.error
        self.error = None  # its traceback will refer to whoever raises it: a cycle otherwise
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
            self._lose(httpx.ReadError(f"TLS failed: {reason_of(error)}"))
            return True
        if answer := tls.outgoing():
            self._out = bytes(self._out) + answer
            self.transmit()
        if plain and self.received is not None:
            changed = self.received.add(plain, ancillary, t)
        elif plain:
            self.broken = changed = True
        if tls.error is not None:
            self._lose(httpx.ReadError(f"TLS failed: {reason_of(tls.error)}"))
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
        """Whether the server seems, at `t`, to have closed a kept connection before it saw the request.

        A connection that dies later may have carried the request to the server, which may have worked on it: sending the
        request once more would hide that.
        """
        received = self.received
        if received is None or received.read_count or received.new_conn:
            return False
        since = received.t_send if self._sent and received.t_send is not None else self._began
        return t - since < STALE_NS


class Pool:
    """Idle connections by origin, without a limit; the one parked last is taken first.

    Some servers (llama.cpp, for one) say that they keep a connection and close it behind each answer. A request that is sent
    meanwhile is lost and has to be sent again, so their connections are closed instead of kept.
    """

    def __init__(self, close: Callable[[Connection], None], *, watched: bool) -> None:
        """`watched`: a loop reads idle connections, too, so that one which the server closes is soon dropped."""
        self._watched = watched
        self._idle: dict[Origin, list[Connection]] = {}
        self._close = close
        self._died: Counter[Origin] = Counter()  # kept connections that the server closed at once
        self._reused: set[Origin] = set()  # origins of which a kept connection has carried a further request
        # idle connections that the server closed last: since when they were idle, and when they were closed
        self._given_up: dict[Origin, deque[tuple[int, int]]] = {}
        self._ends: dict[Origin, deque[int]] = {}  # when the last answers were over

    def count(self, origin: Origin) -> int:
        return len(self._idle.get(origin, ()))

    def take(self, origin: Origin) -> Connection | None:
        """Return an idle connection that the server has not closed, be it in this very moment."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if connection.uses or not self._watched:  # of 1000 that are new and watched a look would cost 2 ms
                connection.receive()
            if not connection.broken:
                return connection
            self._drop(connection)
        return None

    def park(self, connection: Connection) -> None:
        """Keep an idle connection; when the server closes it, it is dropped."""
        if connection.broken:
            self._close(connection)
            return
        idle = self._idle.setdefault(connection.origin, [])

        def drop() -> None:
            if connection.broken and connection in idle:
                idle.remove(connection)
                self._drop(connection)

        connection.received = None
        connection.wake = drop
        connection.idle_since = now()
        idle.append(connection)

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Take back a connection whose request is over: keep it for the next one where it is reusable, else close it."""
        origin = connection.origin
        if connection.stale:
            self._died[origin] += 1
        elif connection.uses > 1:
            self._reused.add(origin)
        elif (received := connection.received) is not None:
            sent, began = received.t_send, received.t_headers
            if sent is not None and began is not None and began - sent >= CONNECTION_WAIT_NS:
                received.connection_wait = self._waited_for_idle(origin, sent, began)
        self._ends.setdefault(origin, deque(maxlen=MOST_ENDS)).append(now())
        worth_keeping = origin in self._reused or self._died[origin] < FEWEST_DIED
        if reusable and not connection.unsent and worth_keeping:
            self.park(connection)
        else:
            self._close(connection)

    def close(self) -> None:
        for idle in self._idle.values():
            while idle:
                self._close(idle.pop())

    def _waited_for_idle(self, origin: Origin, sent: int, began: int) -> bool:
        """Whether a request on a new connection waited for that of an idle one, as where a server takes only so many at once.

        Not where an answer ended meanwhile: that may have freed a slot, for which the request waited.
        """
        for idle in () if self._watched else tuple(self._idle.get(origin, ())):
            idle.receive()  # drops those that the server has closed
        for idle_since, closed in self._given_up.get(origin, ()):
            since = max(sent, idle_since)
            freed = any(since < end <= began + CLOSED_ERROR_NS for end in self._ends.get(origin, ()))
            waited = closed - since
            if waited >= CONNECTION_WAIT_NS and -CLOSED_ERROR_NS <= began - closed <= SOON_AFTER * waited and not freed:
                return True
        return False

    def _drop(self, connection: Connection) -> None:
        """Close an idle connection that the server has closed."""
        if connection.uses and now() - connection.idle_since < AT_ONCE_NS:
            self._died[connection.origin] += 1
        closed = now() if self._watched else _last_heard(connection.sock)
        if closed is not None:
            self._given_up.setdefault(connection.origin, deque(maxlen=MOST_GIVEN_UP)).append(
                (connection.idle_since, closed)
            )
        self._close(connection)


def _last_heard(sock: socket.socket) -> int | None:
    """Return when the last segment came, monotonic ns: of an idle connection that the server closed, its FIN. None where unknown."""
    try:
        ago_ms = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, LAST_ACK + 4)[LAST_ACK:]
    except (OSError, AttributeError):  # it is no TCP socket, or this is no Linux
        return None
    return now() - int.from_bytes(ago_ms, sys.byteorder) * 1_000_000
