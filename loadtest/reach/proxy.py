"""A proxy as the first hop to a server. No sockets here.

Through an HTTP proxy a request to an http server has the server's whole URL in its first line; an https server is reached by
a tunnel, which CONNECT opens. A proxy may itself speak https: all of that then goes inside TLS. A SOCKS proxy opens a tunnel
to either. TCP to the proxy is our own, so reads keep the kernel's stamps: of when the proxy's bytes came.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, replace
from typing import Self

from loadtest import credentials
from loadtest.errors import ScenarioError, TargetError
from loadtest.reach.tls import trust
from loadtest.scenario import ConnectionKeys, hosts_without_proxy
from loadtest.urls import origin, parse_url

PROXY_PORT = 3128  # of the examples in sentences
SOCKS = ("socks5", "socks5h")  # one and the same here: the proxy resolves the server's name
SOCKS_PORT = 1080  # where the URL of a SOCKS proxy names none
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

Place = tuple[str, str, int]  # scheme, host and port


def proxy_named(keys: ConnectionKeys) -> str | None:
    """Return the proxy without its user:pass, as it is shown and written down; None without a proxy.

    Raises ScenarioError for what is no URL of a proxy.
    """
    return None if keys.proxy is None else without_login(keys.proxy)


def proxy_to(keys: ConnectionKeys, url: str) -> str | None:
    """Return the proxy, without its user:pass, through which `url` is asked; None where it is asked directly."""
    proxy, place = Proxy.of(keys), origin(url)
    return proxy_named(keys) if proxy is not None and place is not None and proxy.leads_to(place) else None


_PORT_BEHIND = re.compile(r":\d+$")


def without_login(proxy: str) -> str:
    """Return a proxy's URL as http://host:port, and keep its user:pass in the environment; raise ScenarioError."""
    scheme, found, rest = proxy.strip().partition("://")
    scheme, rest = (scheme.lower(), rest) if found else ("http", scheme)
    named = scheme if scheme.isalnum() and len(scheme) < 20 else "something else"  # it may hold a password
    if scheme not in ("http", "https", *SOCKS):
        raise ScenarioError(
            f"proxy must be an HTTP proxy, like http://proxy:{PROXY_PORT}, or a SOCKS 5 proxy, like "
            f"socks5h://proxy:{SOCKS_PORT}, not one that speaks {named}."
        )
    try:
        address = parse_url(f"{'http' if scheme in SOCKS else scheme}://{rest}")
    except TargetError as error:
        raise ScenarioError(f"proxy: {error}") from None
    place = address.base.partition("://")[2]
    if "/" in place or "?" in place or address.endpoint:
        raise ScenarioError(f"proxy must be host and port alone, like {scheme}://proxy:{PROXY_PORT}.")
    if scheme in SOCKS and not _PORT_BEHIND.search(place):
        place = f"{place}:{SOCKS_PORT}"
    credentials.keep_apart(replace(address, base=_with_http(f"{scheme}://{place}")))
    return f"{scheme}://{place}"


def _with_http(proxy: str) -> str:
    """Return the URL under which a proxy's user:pass is kept, and by which its host and port are read."""
    scheme, _, place = proxy.partition("://")
    return f"http://{place}" if scheme in SOCKS else proxy


def ignored_proxies() -> list[str]:
    """Return which variables of the environment name a proxy, which is not used."""
    return [name for name in VARIABLES if os.environ.get(name) or os.environ.get(name.lower())]


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and what it is told with each request that it reads."""

    place: Place
    head: bytes = b""  # the line that holds our credentials
    context: ssl.SSLContext | None = None  # of TLS with a proxy that speaks https
    login: tuple[bytes, bytes] | None = None  # user and password for a SOCKS proxy
    not_to: tuple[tuple[str, int | None], ...] = ()  # hosts that are asked directly, with a port or at any

    @classmethod
    def of(cls, keys: ConnectionKeys) -> Self | None:
        """Return the proxy that these keys name; None where they name none."""
        if (url := proxy_named(keys)) is None:
            return None
        place = origin(_with_http(url))
        assert place is not None, "proxy_named has parsed it"
        not_to = () if keys.no_proxy is None else tuple(hosts_without_proxy(keys))
        if url.startswith(SOCKS):
            login = credentials.login_of(_with_http(url))
            return cls((url.partition(":")[0], *place[1:]), login=login, not_to=not_to)
        lines = (f"{name}: {value}\r\n".encode("ascii") for name, value in credentials.proxy_auth(url).items())
        # trusted as a server is, but our certificate is shown to the server alone
        anonymous = ConnectionKeys(ca_file=keys.ca_file, insecure=keys.insecure)
        return cls(place, b"".join(lines), trust(anonymous) if place[0] == "https" else None, not_to=not_to)

    def __str__(self) -> str:
        return f"{self.place[0]}://{authority(self.place)}"

    def leads_to(self, place: Place) -> bool:
        """Whether a server is asked through it: a unix socket is not, nor is a host of no_proxy or one in its domain."""
        scheme, host, port = place
        host = host.lower()
        return scheme != "unix" and not any(
            at in (None, port) and (host == name.removeprefix(".") or host.endswith("." + name.removeprefix(".")))
            for name, at in self.not_to
        )

    @property
    def speaks_socks(self) -> bool:
        return self.place[0] in SOCKS

    def request(self, payload: bytes, place: Place) -> bytes:
        """Return a request to the http server at `place` as the proxy takes it."""
        method, _, rest = payload.partition(b" ")
        target, _, rest = rest.partition(b"\r\n")
        head = target.removesuffix(b" HTTP/1.1")
        return b"%s http://%s%s HTTP/1.1\r\n%s%s" % (
            method,
            authority(place, 80).encode("ascii"),
            head,
            self.head,
            rest,
        )

    def connect(self, place: Place) -> bytes:
        """Return the request for a tunnel to the https server at `place`."""
        named = authority(place).encode("ascii")
        return b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n" % (named, named, self.head)


def authority(place: Place, usual: int | None = None) -> str:
    """Return host:port, without the port where it is the usual one."""
    _, host, port = place
    name = f"[{host}]" if ":" in host else host
    return name if port == usual else f"{name}:{port}"


def to_log_in(*, given: bool) -> str:
    """Return what to do about a proxy that asks for user and password, or does not accept those `given`."""
    if given:
        return "the user and password in --proxy are not accepted, or it takes no Basic auth"
    return "write USER:PASSWORD@ before its host in --proxy"
