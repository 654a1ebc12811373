"""What a server's control plane answers, in any shape: each reader returns a value of one type or None, and never raises."""

from __future__ import annotations

import codecs
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import httpx

from loadtest import credentials, reach
from loadtest.dialects.answers.errors.error_headers import bare_location, other_slash
from loadtest.dialects.answers.errors.error_rows import envelope, in_row
from loadtest.dialects.answers.errors.server_errors import http_sentence, shorten, stranger
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.errors import TargetError
from loadtest.scenario import ConnectionKeys, Scenario
from loadtest.scenario.request_additions import filled_headers
from loadtest.targets.server.not_reached import not_reached
from loadtest.text import seconds, shown
from loadtest.urls import endpoint_url, with_keys
from loadtest.wire import Order, Received, SyncWire, Timeouts

NO_ANSWER = "no answer in time"
LONGEST_S = 20.0  # of a whole answer
LONGEST_BYTES = 64 << 20
DEEPEST, LONGEST_LIST, LONGEST_TEXT = 6, 256, 500  # limits on what is kept of a server's own facts
LARGEST = 2**53  # larger counts are not believed: many JSON readers could not hold them

_WORDY = re.compile(r"json|html|xml|^text/|^$")  # kinds of bodies whose words say why a question was refused
# What httpx cannot read, or a kept connection that the server has just closed.
_ONCE_MORE = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
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
        """Whether a web page came."""
        return (self.header("content-type") or "").lower().startswith("text/html")

    @property
    def said(self) -> str:
        """What came, in a few words that can follow "GET /path: "."""
        if self.failure is not None:
            return self.failure
        kind = shown((self.header("content-type") or "").partition(";")[0].strip().lower())
        if not self.ok:
            there = f" to {shown(bare_location(place))[:200]}" if (place := self.header("location")) else ""
            words = http_sentence(self.status, self.body) if _WORDY.search(kind) and self.body else ""
            words = words.removeprefix(f"HTTP {self.status} with ").removeprefix(f"HTTP {self.status}: ")
            return f"status {self.status}{there}" + (f" ({words})" if words else "")
        if not self.body.strip():
            return "an empty answer"
        row = self.json()
        if isinstance(row, dict) and (error := in_row(row) or envelope(row)):
            return f"an error ({error})"
        if row is not None:
            return "JSON of another shape"
        what = stranger(self.body).removeprefix("the answer is ")
        if kind == "text/html" or what.startswith("a web page"):
            return what if what.startswith("a web page") else "a web page"
        return f"{kind}, not JSON" if kind and kind != "application/json" else "something that is not JSON"


class _OwnWire(httpx.BaseTransport):
    """Asks as requests are sent: by ways that httpx does not know."""

    def __init__(self, keys: ConnectionKeys, connect: float | None) -> None:
        limits = Timeouts(connect=connect, first_token=LONGEST_S, idle=LONGEST_S, total=LONGEST_S)
        self.wire = SyncWire(timeouts=limits, proxy=reach.Proxy.of(keys), verify=reach.trust(keys))

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        received = Received()
        self.wire.fetch(Order.of(request, received))
        if received.status is None or received.failure is not None:
            raise httpx.RemoteProtocolError(received.failure or "the answer is empty")
        return httpx.Response(received.status, headers=received.headers, content=received.body())

    def close(self) -> None:
        self.wire.close()


class ControlClient(httpx.Client):
    """A client that asks by the way of `keys`, and over unix sockets where a URL names one."""

    def __init__(self, keys: ConnectionKeys, limits: httpx.Timeout, header: Mapping[str, str] | None = None) -> None:
        """`header` is added to every question."""
        self.keys = keys
        hooks = {"request": [lambda request: request.headers.update(header or {})]}
        named, proxy, transport = reach.proxy_named(keys), None, None
        if named is not None and (named.startswith(reach.SOCKS) or keys.no_proxy is not None):
            transport = _OwnWire(keys, limits.connect)
        elif named is not None:
            context = reach.trust_of_proxy(keys) if named.startswith("https:") else None
            proxy = httpx.Proxy(named, headers=credentials.proxy_auth(named), ssl_context=context)
        super().__init__(
            timeout=limits,
            trust_env=False,
            verify=reach.trust(keys),
            proxy=proxy,
            transport=transport,
            event_hooks=hooks,
        )
        self._limits, self._hooks = limits, hooks
        self._over: dict[str, httpx.Client] = {}

    def over(self, socket: str) -> httpx.Client:
        """Return a client that sends everything over a unix socket."""
        if socket not in self._over:
            transport = httpx.HTTPTransport(uds=socket)
            self._over[socket] = httpx.Client(
                timeout=self._limits, trust_env=False, transport=transport, event_hooks=self._hooks
            )
        return self._over[socket]

    def close(self) -> None:
        for one in self._over.values():
            one.close()
        super().close()

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.close()


def control_client(scenario: Scenario) -> ControlClient:
    """Return a client for questions to the control plane, which go the way of requests.

    The user's own headers go with every question, in place of ours of that name: a gateway wants them there, too. Raises
    ScenarioError where one needs a variable that is not set.
    """
    limits = httpx.Timeout(LONGEST_S, connect=min(scenario.connect_timeout, LONGEST_S))
    return ControlClient(scenario, limits, filled_headers(scenario.header))


def keys_of_client(client: httpx.Client) -> ConnectionKeys:
    """Return by which way a client asks."""
    return client.keys if isinstance(client, ControlClient) else ConnectionKeys()


def ask(client: httpx.Client, url: str, path: str, body: dict[str, Any] | None = None) -> ControlAnswer:
    """Ask the server at `url`, with its credentials: GET, or POST of `body`.

    Redirects are not followed, but for one that only adds a slash at the path's end, or takes it away: the server itself is
    asked there. Raises TargetError where no connection is made: refused, name not resolved, certificate not trusted.
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
    asked = with_keys(endpoint_url(url, path))
    if asked.socket is not None and isinstance(client, ControlClient):
        client_there = client.over(asked.socket)
    else:
        client_there = client
    content = None if body is None else json.dumps(body).encode("ascii")
    if content is not None:
        headers["Content-Type"] = "application/json"
    try:
        method = "GET" if body is None else "POST"
        with client_there.stream(method, asked.url, headers=headers, content=content, follow_redirects=False) as answer:
            return _answered(client, url, _read_answer(path, answer))
    except httpx.ProxyError as error:
        raise TargetError(f"cannot reach {url}: {_proxy_words(client, url) or shorten(str(error))}.") from None
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        proxy = reach.proxy_to(keys_of_client(client), url)
        raise TargetError(not_reached(url, error, proxy)) from None
    except httpx.TimeoutException:
        return ControlAnswer(path, failure=NO_ANSWER)
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ValueError) as error:
        if isinstance(error, _ONCE_MORE) and (answer_of_ours := _by_own_wire(client_there, path, error.request)):
            return _answered(client, url, answer_of_ours)
        if reach.alert_words(str(error)) is not None:  # TLS 1.3 refuses a client behind the handshake
            raise TargetError(not_reached(url, error, None)) from None
        return _unread(path, str(error) or type(error).__name__)


def _unread(path: str, why: str) -> ControlAnswer:
    return ControlAnswer(path, failure=f"no answer that can be read ({shorten(why, 120)})")


def _by_own_wire(client: httpx.Client, path: str, request: httpx.Request) -> ControlAnswer | None:
    """Ask over a new connection as requests are sent, whose parser takes untidy answers, and says what came in place of one.

    None for a unix socket.
    """
    if not isinstance(client, ControlClient):  # a unix socket's
        return None
    try:
        with _OwnWire(client.keys, LONGEST_S) as wire:
            answer = wire.handle_request(request)
    except httpx.HTTPError as error:
        return _unread(path, str(error))
    return ControlAnswer(path, answer.status_code, answer.headers, answer.content)


def _proxy_words(client: httpx.Client, url: str) -> str | None:
    """Return why the proxy opens no tunnel to `url`, in its own words, which httpx drops; None where it now opens one."""
    try:
        with _OwnWire(keys_of_client(client), LONGEST_S) as own:
            own.wire.prepare(url, 1)
    except httpx.HTTPError as error:
        return shorten(str(error))
    return None


def _answered(client: httpx.Client, url: str, answer: ControlAnswer) -> ControlAnswer:
    """Return the answer; raise TargetError where it is a proxy's that asks for credentials."""
    proxy = reach.proxy_to(keys_of_client(client), url)
    if answer.status == 407 and proxy is not None:
        does = reach.to_log_in(given=bool(credentials.proxy_auth(proxy)))
        raise TargetError(f"the proxy {proxy} does not let us through to {url}: {answer.said}; {does}.")
    return answer


def _read_answer(path: str, answer: httpx.Response) -> ControlAnswer:
    deadline, body = time.monotonic() + LONGEST_S, bytearray()
    status, headers = answer.status_code, answer.headers
    for part in answer.iter_bytes():
        body += part
        if len(body) > LONGEST_BYTES:
            return ControlAnswer(path, status, headers, failure=f"more than {LONGEST_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            return ControlAnswer(
                path, status, headers, failure=f"no whole answer within {seconds(LONGEST_S, exact=True)}"
            )
    return ControlAnswer(path, status, headers, bytes(body))


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
    said = as_text(value)
    return None if said is None else shown(credentials.redacted(said))[:LONGEST_TEXT]


def as_count(value: Any) -> int | None:
    """Return a number of tokens, bytes or slots; None where it is not one, negative or absurdly large."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


def as_positive(value: Any) -> int | None:
    """Return a count above 0, else None."""
    return as_count(value) or None


def as_mapping(value: Any) -> dict[str, Any]:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def as_items(value: Any) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def as_plain(value: Any, depth: int = DEEPEST) -> Any:
    """Return a server's own value as run.json and a terminal can hold it: short, shallow, no escapes, no absurd numbers."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return as_printable(value) or ""
    if isinstance(value, int):
        return value if abs(value) <= LARGEST else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if not depth:
        return None
    if isinstance(value, list):
        return [as_plain(item, depth - 1) for item in value[:LONGEST_LIST]]
    if isinstance(value, dict):
        kept = list(value.items())[:LONGEST_LIST]
        return {as_printable(key) or "": as_plain(item, depth - 1) for key, item in kept}
    return None
