"""One page of a server, fetched whole again and again over one connection, within limits of time and size.

The standard library's client, for it takes a third of the CPU that httpx does: ten times a second that counts.
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import time
from typing import Any
from urllib.parse import unquote, urlsplit

from loadtest.monitor.sampler import SourceError

LIMIT_S = 2.0  # whole page; a slower one would tell of another moment than its stamp
LIMIT_BYTES = 8_000_000


class Page:
    """A URL that is read again and again."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url.replace(f"{parts.username}:{parts.password}@", "") if parts.password else url  # may be printed
        self.simulated: str | None = None  # what the simulated server says of itself
        self._parts = parts
        self._headers = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "loadtest-monitor"}
        if parts.username:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = f"Basic {base64.b64encode(secret.encode()).decode()}"
        self._connection: http.client.HTTPConnection | None = None

    def read(self) -> bytes:
        """Return the body; raise SourceError with one sentence."""
        try:
            if self._connection is not None:
                try:
                    return self._read(self._connection)
                except (ConnectionError, http.client.HTTPException):
                    self.close()  # the server has closed it since the last time: open another
            self._connection = self._connect()
            return self._read(self._connection)
        except TimeoutError:
            raise SourceError(f"{self.url} did not answer within {LIMIT_S:g} s.") from None
        except (ConnectionRefusedError, socket.gaierror):
            raise SourceError(f"nothing answers at {self.url}; is it running, and is the address right?") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SourceError(f"{self.url} cannot be read ({str(error) or type(error).__name__}).") from None

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname or "", self._parts.port
        if self._parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=LIMIT_S, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=LIMIT_S)

    def _read(self, connection: http.client.HTTPConnection) -> bytes:
        deadline = time.monotonic() + LIMIT_S
        target = (self._parts.path or "/") + (f"?{self._parts.query}" if self._parts.query else "")
        connection.request("GET", target, headers=self._headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SourceError(f"{self.url} answers {answer.status}: it has no such page.")
        self.simulated = answer.headers.get("Loadtest-Simulated")
        body = bytearray()
        while part := answer.read1(65536):
            body += part
            if len(body) > LIMIT_BYTES:
                raise SourceError(f"{self.url} is longer than {LIMIT_BYTES // 1_000_000} MB: no page to sample.")
            if time.monotonic() > deadline:
                raise TimeoutError
        answer.close()  # read1 does not see that it was at the end; unclosed, the connection would take no other request
        return bytes(body)

    def facts(self) -> dict[str, Any]:
        """Return the URL, and whether a simulated server answers there."""
        return {"url": self.url, **({"simulated": self.simulated} if self.simulated else {})}

    def close(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
