"""Where a connection leads: an origin, the addresses that its name stands for, and why none of them took a connection."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from typing import NamedTuple, Self

import httpx

from loadtest.wire.clock import ask_for_stamps

Address = tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]


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


class ConnectFailure(NamedTuple):
    """Why an address did not take a connection.

    Words in place of the exception, whose traceback holds the frame that would hold it: a circle that nobody collects
    while a run measures.
    """

    slow: bool  # the time limit, not the server's word
    why: str

    @classmethod
    def of(cls, error: OSError) -> Self:
        return cls(isinstance(error, TimeoutError) and error.errno is None, reason_of(error))


def connect_error(origin: Origin, failures: list[ConnectFailure], limit: float | None) -> httpx.TransportError:
    """Return the exception for a server that no address led to."""
    slow = f"not ready within {limit or 0:g} s (connect limit)"
    reasons = dict.fromkeys(slow if failure.slow else failure.why for failure in failures)
    text = f"cannot connect to {origin}: {'; '.join(reasons) or 'the name has no address'}"
    if failures and all(failure.slow for failure in failures):
        return httpx.ConnectTimeout(text)
    return httpx.ConnectError(text)


def reason_of(error: OSError) -> str:
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
