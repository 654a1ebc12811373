"""What a proxy wants of a new connection before its first request, without I/O: TLS, a tunnel to the server, or both."""

from __future__ import annotations

from typing import Protocol

from loadtest.dialects.answers.errors.server_errors import http_sentence
from loadtest.reach import Place, Proxy, Tunnel
from loadtest.wire.connecting.socks import SocksHop
from loadtest.wire.connecting.tls import Tls


class Hop(Protocol):
    """One connection's way through a proxy: send `outgoing` and `feed` what is read, until it is `over`.

    `tls` is the session with a proxy that speaks https: all that the connection carries later goes through it.
    """

    over: bool
    tls: Tls | None

    def outgoing(self) -> bytes:
        """Return and forget the bytes to be sent."""
        ...

    def feed(self, data: bytes) -> None:
        """Take what was read, b"" at the connection's end; raises OSError, in the proxy's words where it refuses."""
        ...


def hop_to(proxy: Proxy | None, place: Place) -> Hop | None:
    """Return the way to `place`; None where the first hop takes a request at once."""
    if proxy is None:
        return None
    if proxy.speaks_socks:
        return SocksHop(proxy, place)
    return HttpHop(proxy, place) if proxy.context is not None or place[0] == "https" else None


class HttpHop:
    """The way through an HTTP proxy: see Hop."""

    __slots__ = ("_connect", "_out", "_tunnel", "over", "tls")

    def __init__(self, proxy: Proxy, place: Place) -> None:
        self.over = False
        self.tls = None if proxy.context is None else Tls(proxy.context, proxy.place[1])
        self._tunnel = Tunnel(proxy, http_sentence) if place[0] == "https" else None
        self._connect = proxy.connect(place)
        self._out = b""
        if self.tls is None:
            self._ask()

    def outgoing(self) -> bytes:
        sent, self._out = self._out, b""
        return sent if self.tls is None else self.tls.outgoing()

    def feed(self, data: bytes) -> None:
        if self.tls is not None:
            shaking = not self.tls.ready
            plain = self.tls.receive(data) if data else b""
            if shaking and self.tls.ready:
                self._ask()
                return
            if shaking and not data:
                raise OSError("the proxy closed the connection during the TLS handshake")
            if data and not plain and not self.tls.closed:
                return  # part of a record, or nothing for us
            data = plain
        assert self._tunnel is not None, "nothing is read once it is over"
        self.over = self._tunnel.feed(data)
        if self._tunnel.refused is not None:
            raise OSError(self._tunnel.refused)

    def _ask(self) -> None:
        """Ask for the tunnel; to an http server none is needed."""
        if self._tunnel is None:
            self.over = True
        elif self.tls is None:
            self._out = self._connect
        else:
            self.tls.send(self._connect)
