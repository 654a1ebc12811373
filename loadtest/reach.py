"""How a server is reached: by which URL, what is trusted over https, and a proxy as the first hop. No sockets here.

Through an HTTP proxy a request to an http server has the server's whole URL in its first line; an https server is reached by
a tunnel, which CONNECT opens. A proxy may itself speak https: all of that then goes inside TLS. A SOCKS proxy opens a tunnel
to either. TCP to the proxy is our own, so reads keep the kernel's stamps: of when the proxy's bytes came.

A cache on the way may answer in the server's place: `cached_by` finds the header that shows it.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, Self

from loadtest import credentials
from loadtest.errors import ScenarioError, TargetError
from loadtest.scenario import ONE_API, ConnectionKeys, Scenario, hosts_without_proxy
from loadtest.scenario.request_additions import templates_of
from loadtest.text import shown
from loadtest.urls import default_url, origin, parse_url

PROXY_PORT = 3128  # of the examples in sentences
SOCKS = ("socks5", "socks5h")  # one and the same here: the proxy resolves the server's name
SOCKS_PORT = 1080  # where the URL of a SOCKS proxy names none
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

Headers = Sequence[tuple[bytes, bytes]]
Place = tuple[str, str, int]  # scheme, host and port


def trust(keys: ConnectionKeys) -> ssl.SSLContext:
    """Return the TLS context of all connections to a server.

    It trusts the authorities in ca_file, else those in SSL_CERT_FILE, else the usual ones; with `insecure` everybody.
    Raises ScenarioError for a file that cannot be used.
    """
    import httpx

    path = keys.ca_file or os.environ.get("SSL_CERT_FILE")
    try:
        context = ssl.create_default_context(cafile=keys.ca_file) if keys.ca_file else httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        why = error if isinstance(error, ssl.SSLError) else error.strerror
        named = "" if keys.ca_file else ", which SSL_CERT_FILE names" if path else ""
        raise ScenarioError(f"cannot read certificates from {path}{named}: {why}; give a PEM file.") from None
    if keys.insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    if keys.cert is not None:
        _show_certificate(context, keys.cert, keys.cert_key)
    return context


def note_on_trust(keys: ConnectionKeys, url: str) -> str | None:
    """Return what a user should know of options of https at a server; None where all is as they say."""
    if url.startswith("https:"):
        unchecked = f"--insecure: the certificate of {url} is not checked, so anybody could answer in its place."
        return unchecked if keys.insecure else None
    given = [f"--{name.replace('_', '-')}" for name in ("insecure", "ca_file", "cert") if getattr(keys, name)]
    if not given or (keys.proxy or "").startswith("https:"):
        return None
    return (
        f"{' and '.join(given)} {'change' if len(given) > 1 else 'changes'} nothing: {url} is not reached over https."
    )


def _show_certificate(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    def ask() -> NoReturn:
        raise ScenarioError(f"the key in {key or cert} has a passphrase; give one without (openssl pkey -in … -out …).")

    try:
        context.load_cert_chain(cert, key, password=ask)
    except OSError as error:  # ssl.SSLError is one
        where = f"{cert} and {key}" if key else cert
        what = error.strerror if not isinstance(error, ssl.SSLError) else _why(error, key)
        raise ScenarioError(f"cannot use the certificate in {where}: {what}.") from None


def _why(error: ssl.SSLError, key: str | None) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    return f"{error.reason or error}; give PEM files" + ("" if key else ", and the key's with --cert-key")


_ALERTS = (  # what a server's last word in a TLS handshake means for us
    (
        re.compile(r"CERTIFICATE_REQUIRED|ALERT_(?:BAD_CERTIFICATE|UNKNOWN_CA|CERTIFICATE_\w+|ACCESS_DENIED)"),
        "the server asks for a client certificate that it trusts: give one with --cert, and its key with --cert-key",
    ),
    (
        re.compile(r"NO_APPLICATION_PROTOCOL"),
        "the server speaks HTTP/2 alone there, and loadtest speaks HTTP/1.1: have the server or gateway take HTTP/1.1, too",
    ),
    (
        re.compile(r"UNRECOGNIZED_NAME|ALERT_INTERNAL_ERROR"),  # the latter is Caddy's, asked by an address
        "the server broke off the TLS handshake, as one without a certificate for that host does: give the URL with a name it serves",
    ),
    (
        re.compile(r"ALERT_HANDSHAKE_FAILURE"),
        "the server broke off the TLS handshake: it may ask for a client certificate (--cert, --cert-key), or for another cipher",
    ),
)


def alert_words(reason: str) -> str | None:
    """Return what to do about an alert that a server sent over TLS, by OpenSSL's name of it; None for any other error."""
    return next((words for alert, words in _ALERTS if alert.search(reason)), None)


def is_alert(words: str) -> bool:
    return any(said in words for _, said in _ALERTS)


# Headers of caches. Those that speak of a model's own prefix cache, or of what may be cached, are none.
_OF_A_CACHE = re.compile(
    rb"(?=.*cache)(?!(?:.*-)?(?:control|lookup|kv|prefix|prompt|tokens?|key|ttl|tags?)(?:-|$))[a-z0-9-]+"
)
# nginx's and Cloudflare's words for an old answer, too; one with a = before it says why the server was asked
_HIT = re.compile(rb"(?:^|[^a-z=]|refresh)(?:hit|stale|updating|revalidated)(?:$|[^a-z=])")
_COUNTED = re.compile(rb"(?:true|yes|[1-9]\d*)\b")


def cached_by(headers: Headers, waited_s: float = 0.0) -> str | None:
    """Return the header by which an answer came out of a cache on the way; None where none says so.

    Apache Traffic Server gives fresh answers an age, too: the `waited_s` seconds until their headers, by a clock of whole seconds.
    """
    for name, value in headers:
        low, content = name.lower(), value.strip().lower()
        if low == b"age":
            hit = content.isdigit() and int(content[:9]) > waited_s + 1
        elif low == b"x-varnish":  # a second number is that of the request whose answer is given again
            hit = len(content.split()) > 1
        elif low == b"x-litellm-cache-key":  # sent with answers out of its cache alone
            hit = bool(content)
        elif b"cache" in low and _OF_A_CACHE.fullmatch(low):
            hit = _HIT.search(content) is not None or (b"hit" in low and _COUNTED.match(content) is not None)
        else:
            continue
        if hit:
            return header_quoted(name, value)
    return None


def header_quoted(name: bytes, value: bytes) -> str:
    """Return a header to be shown: short, and without our keys."""
    return shown(credentials.redacted(f"{name.decode('latin-1')}: {value.decode('latin-1').strip()}"))[:80]


def located(scenario: Scenario) -> Scenario:
    """Return the scenario with its URL taken apart: the base as url, and api and endpoint where the URL names them.

    What is secret in the URL, the proxy's URL, headers, query and body goes into the environment, where child processes find it:
    call this before they start. Raises TargetError for a text that is not a URL, ScenarioError where the URL's endpoint
    contradicts api or endpoint, or a header, query or body needs a variable that is not set.
    """
    scenario = secrets_apart(scenario)
    if len(scenario.urls) > 1:
        return _each_located(scenario)
    given = scenario.url if scenario.url is not None else default_url(api=scenario.api)
    address = parse_url(given)
    credentials.keep_apart(address)
    api, endpoint = address.asks
    changes: dict[str, Any] = {} if scenario.url is None else {"url": address.base}
    changes |= templates_of(scenario.header, scenario.query, scenario.body)
    if api is not None and endpoint is not None:
        fits = scenario.api in ("auto", api) or endpoint in ONE_API
        if not fits or scenario.endpoint not in ("chat", endpoint):
            raise ScenarioError(
                f"the URL ends in {address.endpoint}, which is the {api} API's {endpoint}, but --api {scenario.api} "
                f"--endpoint {scenario.endpoint} was asked for; give the base URL {address.base}."
            )
        if address.path is not None and scenario.path not in (None, address.path):
            raise ScenarioError(
                f"the URL ends in {address.path}, and --path {scenario.path} was asked for; give the base URL "
                f"{address.base}, or leave out --path."
            )
        named = {} if address.path is None else {"path": address.path}
        changes |= {"api": api if scenario.api == "auto" else scenario.api, "endpoint": endpoint, **named}
    return scenario.replace(**changes) if changes else scenario


def _each_located(scenario: Scenario) -> Scenario:
    """Return the scenario with each of its URLs taken apart; they must name the same API and endpoint, and no server twice."""
    found = [located(scenario.replace(url=url)) for url in scenario.urls]
    asked = {(one.api, one.endpoint, one.path) for one in found}
    if len(asked) > 1:
        asked_for = " and ".join(
            sorted(f"--api {api} --endpoint {name}" + (f" --path {path}" if path else "") for api, name, path in asked)
        )
        raise ScenarioError(
            f"the URLs ask for {asked_for}, and a run has one of them; give base URLs, without an endpoint."
        )
    return found[0].replace(url=" ".join(str(one.url) for one in found))


def secrets_apart(scenario: Scenario) -> Scenario:
    """Return the scenario without its proxy's user:pass, which goes into the environment; the key's variable is remembered."""
    if scenario.key_env is not None:
        credentials.keep_secret(scenario.key_env)
    return scenario.by_proxy(proxy_named(scenario))


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
