"""One page of a server, read again and again over one connection of our own wire, within limits of time and size."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import httpx

from loadtest.errors import LoadTestError
from loadtest.monitor.sampler import PLAIN, SourceError
from loadtest.reach import Proxy, cached_by, trust
from loadtest.scenario import ConnectionKeys
from loadtest.text import seconds, shown
from loadtest.urls import with_keys, without_secrets
from loadtest.wire import Order, Origin, Received, SyncWire, Timeouts

PAGE_LIMIT_S = 2.0  # of a whole page; a slower one would describe another moment than its stamp says
PAGE_LIMIT_BYTES = 8_000_000
# In a connection's error: nobody is there to answer.
_NOBODY = (os.strerror(errno.ECONNREFUSED).lower(), "the name does not resolve")


def _meaning(received: Received) -> str:
    """Say what a status other than 200 means for a page that is to be read."""
    status = received.status or 0
    if 300 <= status < 400 and (place := received.headers.get("location")):
        return f"give the address that it leads to, {shown(without_secrets(place))[:200]}"
    if status in (401, 403):
        return "it does not accept what it was sent of credentials"
    return "it has no such page" if status in (404, 405, 410) else "it does not give the page now"


class ScrapedPage:
    """A URL that is read again and again. Redirects are not followed."""

    def __init__(
        self, url: str, headers: Mapping[str, str] = MappingProxyType({}), keys: ConnectionKeys = PLAIN
    ) -> None:
        """`url` has no user:pass; `headers` hold credentials for this origin, where it is the measured one."""
        self.url = url
        self.simulated: str | None = None  # what the simulated server says of itself
        self._keys = keys
        self._has_credentials = "Authorization" in headers
        own = {"Accept": "*/*", "Cache-Control": "no-cache", "User-Agent": "loadtest-monitor"}
        request = httpx.Request("GET", with_keys(url).url, headers={**own, **headers})
        self._order = Order.of(request, Received(), origin=Origin.of(url))
        self._wire: SyncWire | None = None

    def read(self) -> bytes:
        """Return the body; raise SourceError, one sentence, where the page cannot be read."""
        received, limit = Received(), PAGE_LIMIT_S
        limits = Timeouts(connect=limit, first_token=limit, idle=limit, total=limit)
        try:
            if self._wire is None:
                verify = trust(self._keys) if self._order.origin.scheme == "https" else None
                self._wire = SyncWire(verify=verify, proxy=Proxy.of(self._keys))
            self._wire.fetch(replace(self._order, received=received, limits=limits))
        except LoadTestError as error:
            raise SourceError(str(error)) from None
        except httpx.TimeoutException:
            raise SourceError(f"{self.url} did not answer within {seconds(limit, exact=True)}.") from None
        except httpx.HTTPError as error:
            if any(words in str(error) for words in _NOBODY):
                raise SourceError(f"nothing answers at {self.url}; is it running, and is the address right?") from None
            raise SourceError(f"{self.url} cannot be read ({error}).") from None
        self._check(received)
        self.simulated = received.headers.get("loadtest-simulated")
        return received.body()

    def _check(self, received: Received) -> None:
        """Raise SourceError for an answer that is no page of this moment."""
        if received.failure is not None:
            raise SourceError(f"{self.url} cannot be read ({received.failure}).")
        if received.status in (401, 403) and not self._has_credentials:
            raise SourceError(
                f"{self.url} answers {received.status}: it asks for credentials. Those of the environment go only to the measured "
                "server (--server URL); for another one, write them into the address (http://user:password@…)."
            )
        if received.status != 200:
            raise SourceError(f"{self.url} answers {received.status}: {_meaning(received)}.")
        if received.packed is not None:
            packed = shown(received.packed)[:40]
            raise SourceError(f"{self.url} is compressed ({packed}), though it was asked for as it is.")
        if received.size > PAGE_LIMIT_BYTES:
            raise SourceError(f"{self.url} is longer than {PAGE_LIMIT_BYTES // 1_000_000} MB: too long to sample.")
        if header := cached_by(received.header_lines):
            raise SourceError(
                f"{self.url} comes out of a cache on the way ({header}), so it tells of another moment; give its address behind "
                "that cache."
            )

    def facts(self) -> dict[str, Any]:
        return {"url": self.url, **({"simulated": self.simulated} if self.simulated else {})}

    def close(self) -> None:
        if self._wire is not None:
            self._wire.close()
