"""What a proxy wants of a new connection before its first request, without I/O: TLS, a tunnel to the server, or both."""

from __future__ import annotations

import ipaddress

import httpx

from loadtest.dialects.answers.errors.server_errors import http_sentence, shorten
from loadtest.reach import Place, Proxy, to_log_in
from loadtest.wire.connecting.tls import Tls
from loadtest.wire.receiving.parser import AnswerParser

MOST_REFUSAL = 1 << 16  # bytes of a refusal that are read for the proxy's own words
_VERSION, _OF_LOGIN = 5, 1
_CONNECT, _IPV4, _NAME, _IPV6 = 1, 1, 3, 4
_OPEN, _LOGIN = 0, 2
_REFUSALS = (  # by the reply's number, from 1 on
    "a general failure",
    "not allowed by its rules",
    "network unreachable",
    "host unreachable, or a name that it does not resolve",
    "connection refused",
    "time to live expired",
    "it knows no CONNECT",
    "it knows no addresses of this kind",
)
_OTHER = "; if it is an HTTP proxy, give it as --proxy http://…"


class Hop:
    """One connection's way through a proxy: send `outgoing` and `feed` what is read, until it is `over`.

    `tls` is the session with a proxy that speaks https: all that the connection carries later goes through it.
    """

    __slots__ = ("_out", "over", "tls")

    def __init__(self, tls: Tls | None = None) -> None:
        self.over = False
        self.tls = tls
        self._out = b""

    def outgoing(self) -> bytes:
        """Return and forget the bytes to be sent."""
        sent, self._out = self._out, b""
        return sent if self.tls is None else self.tls.outgoing()

    def feed(self, data: bytes) -> None:
        """Take what was read, b"" at the connection's end; raises OSError, in the proxy's words where it refuses."""
        raise NotImplementedError

    def give_up(self) -> None:
        """Take that nothing more came in time; raises OSError where the proxy has refused and left its answer open."""


class HttpHop(Hop):
    """The way through an HTTP proxy."""

    __slots__ = ("_answer", "_body", "_connect", "_proxy")

    def __init__(self, proxy: Proxy, place: Place) -> None:
        super().__init__(None if proxy.context is None else Tls(proxy.context, proxy.place[1]))
        self._proxy = proxy
        self._connect = proxy.connect(place) if place[0] == "https" else None  # to an http server no tunnel is needed
        self._answer, self._body = AnswerParser(), b""
        if self.tls is None:
            self._ask()

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
        self._body += self._answer.feed(data)
        status = self._answer.status or 0
        self.over = 200 <= status < 300  # such an answer has no body, whatever it says of one
        if not self.over and (not data or self._answer.over or len(self._body) >= MOST_REFUSAL):
            raise OSError(self._refusal(status))

    def give_up(self) -> None:
        if (self._answer.status or 0) >= 300:
            raise OSError(self._refusal(self._answer.status or 0))

    def _refusal(self, status: int) -> str:
        if not status:
            return f"the proxy {self._proxy} does not answer CONNECT as HTTP"
        words = shorten(self._answer.reason.decode("latin-1"), 120)
        if self._body.strip():
            words = http_sentence(status, self._body, httpx.Headers(self._answer.headers))
        needs = f"; {to_log_in(given=bool(self._proxy.head))}" if status == 407 else ""
        return f"the proxy {self._proxy} refuses CONNECT with status {status} ({words}){needs}"

    def _ask(self) -> None:
        """Ask for the tunnel where one is needed."""
        if self._connect is None:
            self.over = True
        elif self.tls is None:
            self._out = self._connect
        else:
            self.tls.send(self._connect)


class SocksHop(Hop):
    """The way through a SOCKS 5 proxy (RFC 1928), with user and password where they are given (RFC 1929).

    Method, login where the proxy wants one, and the request for a tunnel: each is answered before the next.
    """

    __slots__ = ("_expected", "_place", "_proxy", "_read")

    def __init__(self, proxy: Proxy, place: Place) -> None:
        super().__init__()
        self._proxy, self._place = proxy, place
        self._read = b""
        self._expected = self._method_chosen
        methods = bytes([_OPEN]) if proxy.login is None else bytes([_OPEN, _LOGIN])
        self._out = bytes([_VERSION, len(methods)]) + methods

    def feed(self, data: bytes) -> None:
        self._read += data
        if self._read and self._read[0] not in (_VERSION, _OF_LOGIN):
            raise OSError(f"the proxy {self._proxy} does not answer as SOCKS 5{_OTHER}")
        if not self._expected() and not data:
            raise OSError(f"the proxy {self._proxy} closed the connection before the tunnel was open{_OTHER}")

    def _taken(self, size: int) -> bytes | None:
        """Return the next `size` bytes of the answer and forget them; None while they are not there."""
        if len(self._read) < size:
            return None
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def _method_chosen(self) -> bool:
        if (said := self._taken(2)) is None:
            return False
        if said[1] == _LOGIN and self._proxy.login is not None:
            user, password = (part[:255] for part in self._proxy.login)
            self._out = bytes([_OF_LOGIN, len(user)]) + user + bytes([len(password)]) + password
            self._expected = self._let_in
        elif said[1] == _OPEN:
            self._ask()
        else:
            asks = "wants user and password: write USER:PASSWORD@ before its host in --proxy"
            wants = asks if self._proxy.login is None else "takes no user and password"
            raise OSError(f"the proxy {self._proxy} {wants}")
        return True

    def _let_in(self) -> bool:
        if (said := self._taken(2)) is None:
            return False
        if said[1]:
            raise OSError(f"the proxy {self._proxy} does not accept user and password")
        self._ask()
        return True

    def _ask(self) -> None:
        _, host, port = self._place
        try:
            address = ipaddress.ip_address(host)
            named = bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed
        except ValueError:
            name = host.encode("ascii")[:255]  # no longer one resolves
            named = bytes([_NAME, len(name)]) + name
        self._out = bytes([_VERSION, _CONNECT, 0]) + named + port.to_bytes(2)
        self._expected = self._answered

    def _answered(self) -> bool:
        read = self._read
        if len(read) > 1 and read[1]:
            why = _REFUSALS[read[1] - 1] if read[1] <= len(_REFUSALS) else f"code {read[1]}"
            raise OSError(f"the proxy {self._proxy} opens no way to {self._place[1]}: {why}")
        if len(read) < 5:
            return False
        own_address = {_IPV6: 16, _NAME: 1 + read[4]}.get(read[3], 4)  # the proxy's, which says nothing
        self.over = self._taken(4 + own_address + 2) is not None
        return self.over


def hop_to(proxy: Proxy | None, place: Place) -> Hop | None:
    """Return the way to `place`; None where the first hop takes a request at once."""
    if proxy is None:
        return None
    if proxy.speaks_socks:
        return SocksHop(proxy, place)
    return HttpHop(proxy, place) if proxy.context is not None or place[0] == "https" else None
