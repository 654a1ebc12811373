"""What a server's control plane answers, in any shape: each reader returns a value of one type or None, and never raises."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import httpx

from loadtest import credentials, reach
from loadtest.dialects.answers.errors.error_headers import bare_location, leads_to_login, other_slash
from loadtest.dialects.answers.errors.error_rows import error_in_envelope, error_in_row
from loadtest.dialects.answers.errors.server_errors import http_sentence, not_a_stream, shorten
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.dialects.answers.rows.counts import storable
from loadtest.errors import TargetError
from loadtest.scenario import ConnectionKeys, Scenario
from loadtest.scenario.request_additions import filled_headers
from loadtest.targets.server.not_reached import not_reached
from loadtest.text import shown
from loadtest.urls import endpoint_url, with_keys
from loadtest.wire import Order, Origin, Received, SyncWire, Timeouts

NO_ANSWER = "no answer in time"
LONGEST_S = 20.0  # of a whole answer
LONGEST_TEXT = 500  # characters kept of a server's own facts
LARGEST = 2**53  # larger counts are not believed: many JSON readers could not hold them

_WORDY = re.compile(r"json|html|xml|^text/|^$")  # kinds of bodies whose words say why a question was refused
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    """The answer to one question. A `status` of 0 means that no HTTP answer came; `failure` says why."""

    path: str
    status: int = 0
    headers: httpx.Headers | None = None
    body: bytes = b""
    failure: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the question was answered, not refused."""
        return 200 <= self.status < 300 and self.failure is None

    @property
    def cached(self) -> str | None:
        """The header by which a cache on the way answered; None where none says so."""
        return None if self.headers is None else reach.cached_by(self.headers.raw)

    @property
    def refused(self) -> bool:
        """Whether the server asks for credentials, or does not accept ours."""
        return self.status in (401, 403)

    def json(self) -> Any:
        """Return the body as JSON; None where it is not JSON or the question was refused."""
        return parse_json(self.body.removeprefix(codecs.BOM_UTF8)) if self.ok else None

    def header(self, name: str) -> str | None:
        return None if self.headers is None else self.headers.get(name)

    @property
    def is_page(self) -> bool:
        return (self.header("content-type") or "").lower().startswith("text/html")

    @property
    def described(self) -> str:
        """What came, in a few words that can follow "GET /path: "."""
        if self.failure is not None:
            return self.failure
        kind = shown((self.header("content-type") or "").partition(";")[0].strip().lower())
        if not self.ok:
            there = f" to {shown(bare_location(place))[:200]}" if (place := self.header("location")) else ""
            if place and leads_to_login(place):
                there += ", where people log in"
            said = None if place else self.headers
            words = http_sentence(self.status, self.body, said) if _WORDY.search(kind) and self.body else ""
            words = re.sub(rf"^HTTP {self.status}(?:: | with |, in )", "", words)
            return f"status {self.status}{there}" + (f" ({words})" if words else "")
        if not self.body.strip():
            return "an empty answer"
        row = self.json()
        if isinstance(row, dict) and (error := error_in_row(row) or error_in_envelope(row)):
            return f"an error ({error})"
        if row is not None:
            return "JSON of another shape"
        what = not_a_stream(self.body).removeprefix("the answer is ")
        if kind == "text/html" or what.startswith("a web page"):
            return what if what.startswith("a web page") else "a web page"
        if "compress" in what and (coding := self.header("content-encoding")):
            return f"an answer that the server compressed ({shown(coding)[:40]})"
        return f"{kind}, not JSON" if kind and kind != "application/json" else "something that is not JSON"


class _Transport(httpx.BaseTransport):
    """Asks by the wire by which requests are sent: by the same ways, and with the same patience for untidy answers."""

    def __init__(self, keys: ConnectionKeys, connect: float) -> None:
        limits = Timeouts(connect=connect, first_token=LONGEST_S, idle=LONGEST_S, total=LONGEST_S)
        self._wire = SyncWire(timeouts=limits, proxy=reach.Proxy.of(keys), verify=reach.trust(keys))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        received = Received()
        self._wire.fetch(Order.of(request, received, origin=request.extensions["origin"]))
        if received.status is None or received.failure is not None:
            raise httpx.RemoteProtocolError(received.failure or "the answer is empty")
        try:
            return httpx.Response(received.status, headers=received.headers, content=received.body())
        except httpx.DecodingError:  # some servers name a coding that they do not use
            headers = [(name, value) for name, value in received.header_lines if name.lower() != b"content-encoding"]
            return httpx.Response(received.status, headers=headers, content=received.body())

    def close(self) -> None:
        self._wire.close()


class ControlClient(httpx.Client):
    """A client that asks by the way of `keys`; a connection may take `connect` seconds."""

    def __init__(
        self, keys: ConnectionKeys, connect: float = LONGEST_S, header: Mapping[str, str] | None = None
    ) -> None:
        """`header` is added to every question."""
        self.keys = keys
        hooks = {"request": [lambda request: request.headers.update(header or {})]}
        super().__init__(trust_env=False, transport=_Transport(keys, connect), event_hooks=hooks)


def control_client(scenario: Scenario) -> ControlClient:
    """Return a client for questions to the control plane, which go the way of requests.

    The user's own headers go with every question, in place of ours of that name: a gateway wants them there, too. Raises
    ScenarioError where one needs a variable that is not set.
    """
    return ControlClient(scenario, min(scenario.connect_timeout, LONGEST_S), filled_headers(scenario.header))


def keys_of_client(client: httpx.Client) -> ConnectionKeys:
    return client.keys if isinstance(client, ControlClient) else ConnectionKeys()


def ask(client: httpx.Client, url: str, path: str, body: dict[str, Any] | None = None) -> ControlAnswer:
    """Ask the server at `url`, with its credentials: GET, or POST of `body`.

    One redirect is followed: to the same path with a slash at its end, or without it. Raises TargetError where no
    connection is made: refused, name not resolved, certificate not trusted.
    """
    answer = _ask_once(client, url, path, body)
    place = answer.header("location") if body is None and 300 <= answer.status < 400 else None
    other = None if place is None else other_slash(endpoint_url(url, path), place, path)
    return answer if other is None else replace(_ask_once(client, url, other, None), path=path)


def _ask_once(client: httpx.Client, url: str, path: str, body: dict[str, Any] | None) -> ControlAnswer:
    headers = {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Cache-Control": "no-cache",  # some caches then ask the server
        **credentials.headers(
            url, "ollama" if path.startswith("/api/") else "openai", key_env=keys_of_client(client).key_env
        ),
    }
    proxy = reach.proxy_to(keys_of_client(client), url)
    content = None if body is None else json.dumps(body).encode("ascii")
    if content is not None:
        headers["Content-Type"] = "application/json"
    try:
        response = client.request(
            "GET" if body is None else "POST",
            with_keys(endpoint_url(url, path)).url,
            headers=headers,
            content=content,
            follow_redirects=False,
            extensions={"origin": Origin.of(url)},
        )
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise TargetError(not_reached(url, str(error), proxy)) from None
    except httpx.TimeoutException:
        return ControlAnswer(path, failure=NO_ANSWER)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
        if reach.is_alert(str(error)):  # TLS 1.3 refuses a client behind the handshake
            raise TargetError(not_reached(url, str(error), None)) from None
        why = shorten(str(error) or type(error).__name__, 120)
        return ControlAnswer(path, failure=f"no answer that can be read ({why})")
    answer = ControlAnswer(path, response.status_code, response.headers, response.content)
    if answer.status == 407 and proxy is not None:
        does = reach.to_log_in(given=bool(credentials.proxy_auth(proxy)))
        raise TargetError(f"the proxy {proxy} does not let us through to {url}: {answer.described}; {does}.")
    return answer


def as_text(value: Any) -> str | None:
    """Return a text that can be written as UTF-8, an integer as its digits; None for an empty text and anything else."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return str(value)
    if not isinstance(value, str):
        return None
    if _SURROGATE.search(value):
        # a pair of surrogates becomes its character
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value or None


def as_printable(value: Any) -> str | None:
    """Return a short text to print, with escapes made visible; None where there is none."""
    text = as_text(value)
    return None if text is None else shown(credentials.redacted(text))[:LONGEST_TEXT]


def as_count(value: Any) -> int | None:
    """Return a number of tokens, bytes or slots; None where it is not one, negative or absurdly large."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


def as_positive(value: Any) -> int | None:
    return as_count(value) or None


def as_mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_plain(value: Any) -> Any:
    """Return a server's own value as run.json and a terminal can hold it: short, shallow, no escapes, no absurd numbers."""
    return storable(value, "", bool, longest=LONGEST_TEXT)
