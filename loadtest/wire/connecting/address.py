"""Where a connection leads: origins, the addresses that their names resolve to, and why no address took a connection."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from typing import NamedTuple, Self

import httpx

from loadtest.reach import Proxy, alert_words
from loadtest.urls import with_keys
from loadtest.wire.clock import ask_for_stamps

SocketAddress = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes] | str]
UNIX = "unix"  # scheme of an origin whose host is a path


class Origin(NamedTuple):
    """Scheme, host and port of a URL; the path of a unix socket, as host."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL | str) -> Self:
        """Return the origin of `url`; raises httpx.UnsupportedProtocol for anything but http, https and unix sockets."""
        if isinstance(url, str):
            if (path := with_keys(url).socket) is not None:
                return cls(UNIX, path, 0)
            url = httpx.URL(url)
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise httpx.UnsupportedProtocol(f"{url} is no http:// or https:// address")
        return cls(url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80))

    def __str__(self) -> str:
        if self.scheme == UNIX:
            return f"unix:{self.host}"
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Addresses:
    """The addresses of names, each name resolved once; the address that worked last is tried first."""

    def __init__(self) -> None:
        self._known: dict[Origin, list[SocketAddress]] = {}

    def get(self, origin: Origin) -> list[SocketAddress] | None:
        """Return the origin's addresses, None where its name is not resolved yet; a unix socket has no name."""
        if origin.scheme == UNIX and origin not in self._known:
            self._known[origin] = [(socket.AF_UNIX, origin.host)]
        return self._known.get(origin)

    def put(self, origin: Origin, found: list[SocketAddress]) -> list[SocketAddress]:
        """Keep the addresses that getaddrinfo found, in its order, without repetitions."""
        return self._known.setdefault(origin, list(dict.fromkeys(found)))

    def worked(self, origin: Origin, address: SocketAddress) -> None:
        known = self._known[origin]
        if known[0] != address:
            self._known[origin] = [address, *(other for other in known if other != address)]


def open_socket(family: socket.AddressFamily) -> socket.socket:
    """Return a non-blocking socket that asks for kernel stamps; raises OSError when no descriptor is left.

    The kernel stamps no bytes of a unix socket: they arrive when they are read, as where a platform has no stamps.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ask_for_stamps(sock)
    except BaseException:
        sock.close()
        raise
    return sock


_AROUND_TLS = re.compile(r"^\[\w*\] | \(_ssl\.c:\d+\)$")


class ConnectFailure(NamedTuple):
    """Why an address did not take a connection.

    This holds words, not the exception: the exception's traceback would refer to the frame that refers to it, and no
    garbage collection breaks such a cycle while a run measures.
    """

    slow: bool  # the time limit ended it, not the server
    why: str  # of a slow one what was not ready

    @classmethod
    def of(cls, error: OSError) -> Self:
        slow = isinstance(error, TimeoutError) and error.errno is None
        return cls(slow, "" if slow else reason_of(error))


NO_TLS = ConnectFailure(slow=True, why="TLS ")


def connect_error(
    origin: Origin, failures: list[ConnectFailure], limit: float | None, proxy: Proxy | None = None
) -> httpx.TransportError:
    """Return the exception to raise when no address, of the proxy where there is one, took a connection."""
    slow = f"not ready within {limit or 0:g} s (connect limit)"
    reasons = dict.fromkeys(f"{failure.why}{slow}" if failure.slow else failure.why for failure in failures)
    way = f" by the proxy {proxy}" if proxy is not None and not any("proxy" in reason for reason in reasons) else ""
    text = f"cannot connect to {origin}{way}: {'; '.join(reasons) or 'the name has no address'}"
    if failures and all(failure.slow for failure in failures):
        return httpx.ConnectTimeout(text)
    return httpx.ConnectError(text)


def reason_of(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        # Python has no name for some errors of OpenSSL, and gives its words: "[SSL] internal error (_ssl.c:1006)"
        name = error.reason or _AROUND_TLS.sub("", str(error)).upper().replace(" ", "_")
        return getattr(error, "verify_message", "") or alert_words(name) or name
    # Without a descriptor the lookup of a name says anything: where mDNS has a part in it, "invalid argument" or "busy".
    looking_up = isinstance(error, socket.gaierror) or error.errno in (errno.EINVAL, errno.EBUSY)
    if error.errno in (errno.EMFILE, errno.ENFILE) or (looking_up and _out_of_descriptors()):
        return f"no file descriptor left (ulimit -n is {_descriptor_limit()})"
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    return os.strerror(error.errno).lower() if error.errno else str(error)


def _out_of_descriptors() -> bool:
    """Whether no file can be opened. Then no name resolves either, and the resolver gives another reason."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _descriptor_limit() -> str:
    import resource  # Windows, where reports are read, has none

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
