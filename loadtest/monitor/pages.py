"""One page of a server, fetched whole again and again over one connection, within limits of time and size.

A socket and httptools, for ten times a second counts: on cold caches a page costs 0.2 ms of CPU, 0.45 with http.client.
"""

from __future__ import annotations

import base64
import socket
import ssl
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httptools

from loadtest.monitor.sampler import SourceError
from loadtest.text import seconds
from loadtest.urls import userinfo_apart

LIMIT_S = 2.0  # whole page; a slower one would tell of another moment than its stamp
LIMIT_BYTES = 8_000_000
_SIMULATED = b"loadtest-simulated"
_IN_A_TARGET = "/%?&=:@!$'()*+,;~"  # signs that a request's target holds as they are


class _Answer:
    """One answer as httptools tells it, part by part."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.simulated: str | None = None
        self.body = bytearray()
        self.status = 0  # until the headers are there
        self.complete = self.kept = False  # `kept`: its connection takes another request
        self.until_close = True  # no length and no chunks: it ends with its connection

    def on_header(self, name: bytes, value: bytes) -> None:
        kind = name.lower()
        if kind == _SIMULATED:
            self.simulated = value.decode("latin-1")
        elif kind in (b"content-length", b"transfer-encoding"):
            self.until_close = False

    def on_headers_complete(self) -> None:
        self.status = self.parser.get_status_code()

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.complete, self.kept = True, self.parser.should_keep_alive()  # later the parser has forgotten it
        del self.parser  # a cycle, which only the collector would end


class Page:
    """A URL that is read again and again."""

    def __init__(self, url: str, headers: Mapping[str, str] = MappingProxyType({}), ca_file: str | None = None) -> None:
        """`headers` are credentials for this origin: the caller knows that it is the measured one. Redirects are not followed."""
        parts = urlsplit(url)
        self.url = userinfo_apart(url)[0]  # may be printed
        self.simulated: str | None = None  # what the simulated server says of itself
        self._parts = parts
        self._headers = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "User-Agent": "loadtest-monitor",
            **headers,
        }
        self._ca_file = ca_file
        if parts.username:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        target = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_IN_A_TARGET)
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in self._headers.items())]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._connection: socket.socket | None = None

    def read(self) -> bytes:
        """Return the body; raise SourceError with one sentence, and let go of the connection."""
        answer = None
        try:
            answer = self._again() or self._read(self._connect())
        except TimeoutError:
            raise SourceError(f"{self.url} did not answer within {seconds(LIMIT_S, exact=True)}.") from None
        except (ConnectionRefusedError, socket.gaierror):
            raise SourceError(f"nothing answers at {self.url}; is it running, and is the address right?") from None
        except (OSError, httptools.HttpParserError, ValueError) as error:
            raise SourceError(f"{self.url} cannot be read ({str(error) or type(error).__name__}).") from None
        finally:
            if answer is None or not answer.kept:
                self.close()  # what is left of an answer must not be taken for the next one
        self.simulated = answer.simulated
        return bytes(answer.body)

    def _again(self) -> _Answer | None:
        """Read over the connection that there is; None where there is none or the server has closed it since."""
        if self._connection is None:
            return None
        try:
            return self._read(self._connection)
        except (ConnectionError, httptools.HttpParserError):
            self.close()
            return None

    def _connect(self) -> socket.socket:
        host, port, secret = self._parts.hostname or "", self._parts.port, self._parts.scheme == "https"
        self._connection = socket.create_connection((host, port or (443 if secret else 80)), timeout=LIMIT_S)
        if secret:
            self._connection = self._trust().wrap_socket(self._connection, server_hostname=host)
        return self._connection

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as error:
            raise SourceError(f"cannot read certificates from {self._ca_file}: {error}; give a PEM file.") from None

    def _read(self, connection: socket.socket) -> _Answer:
        deadline = time.monotonic() + LIMIT_S
        answer, length = _Answer(), 0
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
            if length > LIMIT_BYTES:
                raise SourceError(f"{self.url} is longer than {LIMIT_BYTES // 1_000_000} MB: no page to sample.")
            if time.monotonic() > deadline:
                raise TimeoutError
        return answer

    def _refusal(self, status: int) -> str:
        if status in (401, 403) and "Authorization" not in self._headers:
            return (
                f"{self.url} answers {status}: it wants credentials, which go to the measured server alone (--server URL), "
                "or stand before the address (http://user:password@…)."
            )
        return f"{self.url} answers {status}: it has no such page."

    def facts(self) -> dict[str, Any]:
        """Return the URL, and whether a simulated server answers there."""
        return {"url": self.url, **({"simulated": self.simulated} if self.simulated else {})}

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
