"""A request made ready for a wire: where it goes, its bytes, and how long each part of its answer may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import httpx

from loadtest import __version__
from loadtest.metrics import NS_PER_S
from loadtest.reach import Proxy
from loadtest.urls import endpoint_url, with_keys
from loadtest.wire.connecting.address import Origin
from loadtest.wire.receiving.received import Received

_HEADERS = {"Accept": "*/*", "Connection": "keep-alive", "User-Agent": f"loadtest/{__version__}"}
SHORT_S = 1.0  # a limit below this is kept to the millisecond
_ZONE = re.compile(rb"%[^]]*(?=])")  # of an IPv6 address


class HungUpError(httpx.TransportError):
    """The user of a request has hung up, as the scenario wanted."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Limits in seconds, None for no limit; a request that passes one ends then, and not with its answer.

    `first_token` counts from the request's last byte and has to cover the wait in the server's queue: headers, roles and
    comments do not end it, for some servers send them at once and some with the first token.
    """

    connect: float | None = 10.0  # name, TCP and TLS together
    first_token: float | None = 3600.0
    idle: float | None = 300.0  # since the last content, or while the server takes no more of the request
    total: float | None = None  # from the request's first byte to the answer's last
    # how long the user waits for the first token; past it the request is `left`, no timeout
    patience: float | None = None

    @property
    def sharp(self) -> bool:
        """Whether one of them is to be kept more exactly than to a quarter of a second."""
        short = (limit is not None and limit < SHORT_S for limit in (self.first_token, self.idle, self.total))
        return self.patience is not None or any(short)

    def deadline(self, received: Received, started: int) -> tuple[float, str]:
        """Return when this request is overdue, monotonic ns or infinite, and by which of the limits."""
        last = received.content_seen
        if last is not None:
            soonest = (last + _ns(self.idle), "idle")
        elif received.t_send is not None:
            soonest = (received.t_send + _ns(self.first_token), "first_token")
            soonest = min(soonest, (received.t_send + _ns(self.patience), "patience"))
        else:
            soonest = min((started + _ns(self.idle), "sending"), (started + _ns(self.patience), "patience"))
        return min(soonest, (started + _ns(self.total), "total"))

    def error(self, limit: str, *, has_tokens: bool = True) -> httpx.TransportError:
        """Return the exception for a limit that `deadline` named; an answer without tokens, as of embeddings, comes all at once."""
        a, awaited = ("a", "token") if has_tokens else ("an", "answer")
        match limit:
            case "idle":
                return httpx.ReadTimeout(f"the answer stood still for {self.idle:g} s (idle limit)")
            case "first_token":
                return httpx.ReadTimeout(f"no {awaited} within {self.first_token:g} s (first token limit)")
            case "patience":
                return HungUpError(f"the user hung up after {self.patience:.3g} s without {a} {awaited} (--patience)")
            case "sending":
                return httpx.WriteTimeout(f"the request could not be sent within {self.idle:g} s (idle limit)")
        return httpx.ReadTimeout(f"the answer was not over after {self.total:g} s (total limit)")


def _ns(seconds: float | None) -> float:
    return float("inf") if seconds is None else seconds * NS_PER_S


@dataclass(slots=True)
class Order:
    """A request made ready: where it goes, its bytes, and what takes in its answer."""

    origin: Origin
    payload: bytes
    received: Received
    limits: Timeouts | None = None  # None: the wire's own
    patience: float | None = None  # s; see Timeouts
    # Whether the wire first lets all other tasks make their requests, and then sends them one right behind the other: 1000
    # users who begin together so reach the server within 12 ms, and within 20 ms where each request leaves once it is made.
    in_burst: bool = False

    @classmethod
    def of(
        cls, request: httpx.Request, received: Received, limits: Timeouts | None = None, *, origin: Origin | None = None
    ) -> Self:
        """Make `request` ready, which asks for an answer that is not compressed; it goes to `origin` where that is given.

        Raises httpx.UnsupportedProtocol or httpx.LocalProtocolError for one that cannot be sent.
        """
        request.headers["Accept-Encoding"] = "identity"
        return cls(origin or Origin.of(request.url), _request_bytes(request), received, limits)

    def payload_by(self, proxy: Proxy | None) -> bytes:
        """Return the bytes as the first hop takes them: an HTTP proxy reads what goes to an http server, and passes TLS on."""
        if proxy is None or proxy.speaks_socks or self.origin.scheme != "http":
            return self.payload
        return proxy.request(self.payload, self.origin)


class Posts:
    """Makes POST requests below one URL ready. The head of each path is made once: only the body's length differs in it.

    Building a request with httpx and sending it through its client takes 0.25 ms: a wave of 300 users would then take
    75 ms to leave.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None = None, query: str = "") -> None:
        """`query` goes with every request, behind the path's own."""
        self._url = url
        self._query = query
        self._headers = httpx.Headers(_HEADERS)  # names differ in case, and are one
        self._headers.update(headers or {})
        self._heads: dict[str, tuple[Origin, bytes]] = {}

    def order(self, path: str, body: bytes, received: Received) -> Order:
        """Return a POST of `body` to `path`; raises as Order.of does."""
        head = self._heads.get(path)
        if head is None:
            head = self._heads[path] = self._head(path)
        origin, fixed = head
        return Order(origin, b"%bContent-Length: %d\r\n\r\n%b" % (fixed, len(body), body), received)

    def _head(self, path: str) -> tuple[Origin, bytes]:
        url = with_keys(endpoint_url(self._url, path)).url
        query = ("&" if "?" in url else "?") + self._query if self._query else ""
        request = httpx.Request("POST", url + query, headers=self._headers)
        del request.headers["Content-Length"]
        order = Order.of(request, Received(), origin=Origin.of(self._url))
        return order.origin, order.payload.removesuffix(b"\r\n")


def _request_bytes(request: httpx.Request) -> bytes:
    """Return the whole request as bytes, its body included, which must be known."""
    head = [b"%s %s HTTP/1.1\r\n" % (request.method.encode("ascii"), request.url.raw_path)]
    for name, value in request.headers.raw:
        if name.lower() == b"host":
            value = _ZONE.sub(b"", value)  # noqa: PLW2901 - which means nothing on another machine
        if b"\n" in name + value or b"\r" in name + value:
            raise httpx.LocalProtocolError(f"the request's header {name!r} holds a line break", request=request)
        head.append(b"%s: %s\r\n" % (name, value))
    return b"".join([*head, b"\r\n", request.content])
