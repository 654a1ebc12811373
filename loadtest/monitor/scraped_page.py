"""One page of a server, fetched again and again over one connection, within limits of time and size.

It is read by a socket and httptools, for it is read ten times a second: on cold caches a page takes 0.2 ms of CPU, with
http.client 0.45 ms, and http.client takes an answer that breaks off in its headers for a whole one.
"""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import httptools

from loadtest.errors import LoadTestError
from loadtest.monitor.sampler import SourceError
from loadtest.reach import Proxy, Tunnel, cached_by, trust
from loadtest.scenario import ConnectionKeys
from loadtest.text import seconds
from loadtest.urls import userinfo_apart, with_keys

T = TypeVar("T")

PAGE_LIMIT_S = 2.0  # of a whole page; a slower one would describe another moment than its stamp says
PAGE_LIMIT_BYTES = 8_000_000
PLAIN = ConnectionKeys()
_SIMULATED_NAME = b"loadtest-simulated"
_IN_A_TARGET = "/%?&=:@!$'()*+,;~"  # characters that stay as they are in a request's target


class _PageAnswer:
    """One answer, taken in through httptools' callbacks."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.simulated: str | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.status = 0  # 0 until the headers are there
        self.complete = self.kept = False  # `kept`: its connection takes another request
        self.until_close = True  # no length and no chunks: it ends with its connection

    def on_header(self, name: bytes, value: bytes) -> None:
        kind = name.lower()
        self.headers.append((name, value))
        if kind == _SIMULATED_NAME:
            self.simulated = value.decode("latin-1")
        elif kind in (b"content-length", b"transfer-encoding"):
            self.until_close = False

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.complete, self.kept = True, self.parser.should_keep_alive()  # the parser does not know it later
        del self.parser  # a reference cycle otherwise


class _TlsInTls:
    """A server's https inside a proxy's, which Python's own SSLSocket cannot do."""

    def __init__(self, proxy: ssl.SSLSocket, context: ssl.SSLContext, host: str) -> None:
        self._proxy = proxy
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._until_done(self._object.do_handshake)

    def sendall(self, data: bytes) -> None:
        self._until_done(lambda: self._object.write(data))  # into memory, which takes all

    def recv(self, size: int) -> bytes:
        try:
            return self._until_done(lambda: self._object.read(size))
        except ssl.SSLZeroReturnError:
            return b""

    def close(self) -> None:
        self._proxy.close()

    def _until_done(self, act: Callable[[], T]) -> T:
        while True:
            try:
                done = act()
            except ssl.SSLWantReadError:
                self._proxy.sendall(self._outgoing.read())
                if not (part := self._proxy.recv(65536)):
                    raise ConnectionError("the connection was closed in the middle") from None
                self._incoming.write(part)
            else:
                self._proxy.sendall(self._outgoing.read())
                return done


class ScrapedPage:
    """A URL that is read again and again."""

    def __init__(
        self, url: str, headers: Mapping[str, str] = MappingProxyType({}), keys: ConnectionKeys = PLAIN
    ) -> None:
        """`headers` hold credentials for this origin, where it is the measured one. Redirects are not followed."""
        asked = with_keys(url)
        parts = urlsplit(asked.url)
        self.url = userinfo_apart(url)[0]  # without user:pass, may be printed
        self.simulated: str | None = None  # what the simulated server says of itself
        self._parts = parts
        self._headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Cache-Control": "no-cache",
            "User-Agent": "loadtest-monitor",
            **headers,
        }
        self._keys, self._socket = keys, asked.socket
        self._proxy = Proxy.of(keys) if asked.socket is None else None
        if parts.username:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_IN_A_TARGET)
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in self._headers.items())]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._place = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        if self._proxy is not None and parts.scheme == "http":
            self._request = self._proxy.request(self._request, self._place)
        self._connection: socket.socket | _TlsInTls | None = None

    def read(self) -> bytes:
        """Return the body; raise SourceError, one sentence, and close the connection where the page cannot be read."""
        answer = None
        try:
            answer = self._again() or self._read(self._connect())
        except TimeoutError:
            raise SourceError(f"{self.url} did not answer within {seconds(PAGE_LIMIT_S, exact=True)}.") from None
        except (ConnectionRefusedError, socket.gaierror):
            raise SourceError(f"nothing answers at {self.url}; is it running, and is the address right?") from None
        except (OSError, httptools.HttpParserError, ValueError) as error:
            raise SourceError(f"{self.url} cannot be read ({str(error) or type(error).__name__}).") from None
        finally:
            if answer is None or not answer.kept:
                self.close()  # the rest of this answer must not be taken for the next one
        self.simulated = answer.simulated
        return bytes(answer.body)

    def _again(self) -> _PageAnswer | None:
        """Read over the open connection; None where there is none or the server has closed it."""
        if self._connection is None:
            return None
        try:
            return self._read(self._connection)
        except (ConnectionError, httptools.HttpParserError):
            self.close()
            return None

    def _connect(self) -> socket.socket | _TlsInTls:
        if self._socket is not None:
            self._connection = connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(PAGE_LIMIT_S)
            connection.connect(self._socket)
            return connection
        _, host, port = self._place if self._proxy is None else self._proxy.place
        self._connection = connection = socket.create_connection((host, port), timeout=PAGE_LIMIT_S)
        if self._proxy is not None and self._proxy.context is not None:
            self._connection = connection = self._proxy.context.wrap_socket(connection, server_hostname=host)
        if self._place[0] == "https":
            if self._proxy is not None:
                self._open_tunnel(connection, self._proxy)
            named = self._place[1]
            if isinstance(connection, ssl.SSLSocket):
                self._connection = _TlsInTls(connection, self._trust(), named)
            else:
                self._connection = self._trust().wrap_socket(connection, server_hostname=named)
        return self._connection

    def _open_tunnel(self, connection: socket.socket, proxy: Proxy) -> None:
        connection.sendall(proxy.connect(self._place))
        tunnel = Tunnel(proxy, lambda status, _: f"HTTP {status}")
        while not tunnel.feed(connection.recv(65536)):
            pass
        if tunnel.refused is not None:
            raise SourceError(f"{self.url} cannot be read: {tunnel.refused}.")

    def _trust(self) -> ssl.SSLContext:
        try:
            return trust(self._keys)
        except LoadTestError as error:
            raise SourceError(str(error)) from None

    def _read(self, connection: socket.socket | _TlsInTls) -> _PageAnswer:
        deadline = time.monotonic() + PAGE_LIMIT_S
        answer, length = _PageAnswer(), 0
        connection.sendall(self._request)
        while not answer.complete:
            part = connection.recv(65536)
            if not part:
                if answer.status and answer.until_close:
                    break
                raise ConnectionError("the connection was closed in the middle")
            answer.parser.feed_data(part)
            if answer.status not in (0, 200):
                raise SourceError(self._refusal(answer.status))
            length += len(part)
            if length > PAGE_LIMIT_BYTES:
                raise SourceError(f"{self.url} is longer than {PAGE_LIMIT_BYTES // 1_000_000} MB: too long to sample.")
            if time.monotonic() > deadline:
                raise TimeoutError
        if (said := cached_by(answer.headers)) is not None:
            raise SourceError(
                f"{self.url} comes out of a cache on the way ({said}), so it tells of another moment; give its address behind "
                "that cache."
            )
        return answer

    def _refusal(self, status: int) -> str:
        if status in (401, 403) and "Authorization" not in self._headers:
            return (
                f"{self.url} answers {status}: it asks for credentials. Those of the environment go only to the measured server "
                "(--server URL); for another one, write them into the address (http://user:password@…)."
            )
        return f"{self.url} answers {status}: it has no such page."

    def facts(self) -> dict[str, Any]:
        """Return the URL, and what a simulated server says of itself there."""
        return {"url": self.url, **({"simulated": self.simulated} if self.simulated else {})}

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
