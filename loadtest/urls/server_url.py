"""URLs of model servers as people write them: as OLLAMA_HOST takes them, as OPENAI_BASE_URL does, or whole endpoints."""

from __future__ import annotations

import ipaddress
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from loadtest.errors import TargetError
from loadtest.text import shown
from loadtest.urls.url_keys import PLACEHOLDER, keys_in_path_apart, keys_in_query_apart, without_secrets

OLLAMA_PORT = 11434
# blanks and quotes around a value, as Ollama drops them; a BOM from an .env file too
BLANKS_AND_QUOTES = " \t\r\n\"'\ufeff"
# what else comes with a URL out of a page or a mail: <…>, `…`, “…”, ‘…’, and blanks that nobody sees
_PASTED_AROUND = f"{BLANKS_AND_QUOTES}<>`\u201c\u201d\u2018\u2019\xa0\u200b\u2060"

ENDPOINT_PATHS = {  # a URL that ends in one says what is measured: API and endpoint, as scenarios name them
    "/v1/chat/completions": ("openai", "chat"),
    "/v1/completions": ("openai", "completions"),
    "/v1/responses": ("openai", "responses"),
    "/v1/messages": ("anthropic", "messages"),
    "/v1/embeddings": ("openai", "embeddings"),
    "/api/embed": ("ollama", "embeddings"),
    "/api/chat": ("ollama", "chat"),
    "/api/generate": ("ollama", "generate"),
}
# A whole URL below a root that has no /v1: Cloudflare's gateway, Databricks, Vertex, Open WebUI and many others.
OTHER_ENDINGS = {
    "/chat/completions": ("openai", "chat"),
    "/completions": ("openai", "completions"),
    "/invocations": ("openai", "chat"),
    "/embeddings": ("openai", "embeddings"),
}
# A URL that ends in one of these says only where the server is.
CONTROL_PATHS = ("/v1/models", "/api/version", "/api/tags", "/api/ps", "/api/show", "/v1")
UNMEASURED_PATHS = {"/v1/rerank": "/v1/chat/completions", "/api/embeddings": "/api/embed"}  # and what to give instead

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\^`{|}<>\"\ud800-\udfff]")
_UNFILLED = re.compile(r"\$\{?[A-Za-z_]\w*\}?")  # of a shell, in a host's place
_TAGGED = re.compile(r"(?!unix:|https?:)[\w.-]+:(?:latest|[\d.]*[a-z][\w.-]*)")  # llama3.1:8b
_FOUR_NUMBERS = re.compile(r"\d+(\.\d+){3}", re.ASCII)
_HOST = re.compile(r"[\w.~%-]+")  # names beyond ASCII too: the resolver decides
# Paths below which an API has no /v1 of its own: /paas/v4, /v1beta/openai, /v1-openai, /openai/deployments/NAME.
_OWN_ROOT = re.compile(r"/v\d+\w*([/-]openai)?$|/deployments/|/endpoints/openapi$|/serving-endpoints$|/compat$")
_DEPLOYMENT = re.compile(r"/deployments/([^/?]+)")
MOST_PORT_DIGITS, MOST_HOST = 5, 254  # characters, of a host with the dot at its end
_SLASHES = re.compile(r"(?<!:)/{2,}")  # which no server means; behind a colon another URL begins
_PORT = "its port is not a number between 1 and 65535"
_UNIX = re.compile(r"(?:http\+)?unix:(?=/)", re.IGNORECASE)
_UNIX_GIVEN = re.compile(r"(?:http\+)?unix:(?!\d+(?:/|$))", re.IGNORECASE)  # a port behind it would make it a host


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL in parts."""

    # scheme://host:port/prefix?query, where keys are replaced by names; unix:/socket:/prefix for a unix socket.
    base: str
    endpoint: str  # the path of ENDPOINT_PATHS or of OTHER_ENDINGS that the URL ended in, else ""
    userinfo: str  # user:pass before the host, percent-encoded as given, else ""
    keys: tuple[tuple[str, str], ...] = ()  # names and values of its keys, percent-encoded as given

    @property
    def asks(self) -> tuple[str | None, str | None]:
        """The API and the endpoint that the URL names, None where it names none."""
        return {**OTHER_ENDINGS, **ENDPOINT_PATHS}.get(self.endpoint, (None, None))

    @property
    def path(self) -> str | None:
        """The path below the base that requests go to, where the URL names one that is not its endpoint's own."""
        return self.endpoint if self.endpoint in OTHER_ENDINGS else None

    @property
    def whole(self) -> str:
        """The URL without its secrets; parse_url reads it as the same address."""
        return endpoint_url(self.base, self.endpoint)


class HttpUrl(NamedTuple):
    """What is asked for over HTTP, and where: for a unix socket the URL has a host that stands for nothing."""

    url: str
    socket: str | None  # path of the unix socket


def endpoint_url(base: str, path: str) -> str:
    """Return the URL of a `path` such as /v1/chat/completions or /api/tags at a server, whose query goes with it.

    Below a root of its own, such as /openai/deployments/NAME or /v4, the API has no /v1.
    """
    place, mark, query = base.partition("?")
    mark = "&" if mark and "?" in path else mark
    if path.startswith("/v1/") and has_own_root(place):
        path = path.removeprefix("/v1")
    if path and _UNIX.match(place) and ":" not in place.partition(":")[2]:
        path = f":{path}"
    return f"{place}{path}{mark}{query}"


def has_own_root(base: str) -> bool:
    """Whether the API lies below the base itself, not at /v1 below it; such a server speaks OpenAI's."""
    place = base.partition("?")[0]
    path = place.partition(":")[2].partition(":")[2] if _UNIX.match(place) else urlsplit(place).path
    return _OWN_ROOT.search(path) is not None


def deployment_of(base: str) -> str | None:
    """Return the name of the deployment in a URL shaped like Azure's: its model, whatever the request says."""
    found = _DEPLOYMENT.search(base)
    return None if found is None else unquote(found[1])


def with_keys(url: str, env: Mapping[str, str] = os.environ) -> HttpUrl:
    """Return a URL as it is requested: with its keys, which the environment holds; not to be shown.

    Raises TargetError where the environment lacks one.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in env:
            raise TargetError(f"{shown(url)} needs a key that this process does not have; set {found[1]} to it.")
        return env[found[1]]

    filled = PLACEHOLDER.sub(value, url)
    if not _UNIX.match(filled):
        return HttpUrl(filled, None)
    socket, _, prefix = filled.partition(":")[2].partition(":")
    socket, mark, query = socket.partition("?")
    return HttpUrl(f"http://localhost{prefix}{mark}{query}", unquote(socket))


def default_url(env: Mapping[str, str] = os.environ, *, api: str = "auto") -> str:
    """Return the server of OLLAMA_HOST or OPENAI_BASE_URL (that first for api openai), else the local Ollama."""
    names = ("OPENAI_BASE_URL", "OLLAMA_HOST") if api == "openai" else ("OLLAMA_HOST", "OPENAI_BASE_URL")
    given = (env.get(name, "").strip(BLANKS_AND_QUOTES) for name in names)
    return next(filter(None, given), f"http://127.0.0.1:{OLLAMA_PORT}")


def base_url(text: str) -> str:
    """Return `text` as scheme://host:port/prefix, without userinfo; raise TargetError where it is not a server's URL."""
    return parse_url(text).base


def parse_url(text: str) -> Address:
    """Read a URL as Ollama reads OLLAMA_HOST ("host", ":11435", "::1", in quotes), or with /v1 or an endpoint behind it.

    Raises TargetError for a text that is not a server's URL, or of which a part would be dropped. The error never quotes
    userinfo or a query.
    """
    given = text.strip(_PASTED_AROUND)
    quoted = f"'{shown(without_secrets(given))}'"
    if why := _no_url_at_all(given):
        raise TargetError(f"{quoted} is not a URL: {why}.")
    if not given:
        raise TargetError(f"{quoted} is not a URL: it is empty; write it like http://127.0.0.1:{OLLAMA_PORT}.")
    if _UNIX_GIVEN.match(given):
        place, parts = _unix_socket(given, quoted)
    else:
        parts, bare = _split_url(given, quoted)
        place = f"{parts.scheme}://{_host_and_port(parts, quoted, bare=bare)}"
    if "#" in given:
        raise TargetError(f"{quoted} has a fragment (#…), which no server ever sees: leave it out.")
    # a password with a question mark in it would become the query, and its user the host
    if "@" in parts.query:
        raise TargetError(f"{quoted} has an @ in its query; write %40 for it, and %3F for a ? in a password.")
    prefix, endpoint = _path(parts.path, quoted)
    prefix, hidden = keys_in_path_apart(prefix, place)
    if prefix and _UNIX.match(place):
        prefix = f":{prefix}"
    query, keys = keys_in_query_apart(parts.query, place + prefix)
    base = f"{place}{prefix}{f'?{query}' if query else ''}"
    return Address(base, endpoint, parts.netloc.rpartition("@")[0], hidden + keys)


def _no_url_at_all(given: str) -> str | None:
    """Say what a text is that was meant for something else; None where it may be a URL."""
    if given.isdecimal() and len(given) < MOST_PORT_DIGITS + 1:
        return f"it is a number; a port of this machine is written :{given}"
    if given.startswith("/") and not given.startswith("//"):
        return f"it is a path; a unix socket is written unix:{shown(without_secrets(given))}"
    if given.endswith(".toml"):
        return "it names a file; a scenario is given to `loadtest run`"
    host = re.split("[/?#]", given.partition("://")[2] or given, maxsplit=1)[0].rpartition("@")[2]
    if (name := _UNFILLED.search(host)) is not None:
        return f"the shell has not filled in {shown(name[0])}, as it does within double quotes; or write its value"
    return f"{_PORT}; if it is a model, give it with --model" if _TAGGED.fullmatch(given) else None


def _unix_socket(given: str, quoted: str) -> tuple[str, SplitResult]:
    """Return unix:/path of a URL of a unix socket, and its parts behind that.

    Shapes: unix:/path, unix:///path, either with :/prefix behind it as nginx has it, and http+unix://%2Fpath/prefix.
    """
    if _FORBIDDEN.search(given):
        raise TargetError(f"{quoted} is not a URL: it holds a character that no URL can have; write %20 for a blank.")
    rest = given.partition(":")[2]
    if rest.startswith("//") and not rest.startswith("///"):
        socket, slash, path = rest[2:].partition("/")
        behind = slash + path
    else:
        place = rest.removeprefix("//")
        end = min((at for at in map(place.find, "?#:") if at >= 0), default=len(place))
        socket, behind = place[:end], place[end:].removeprefix(":")
    socket = unquote(socket)
    if not socket.startswith("/") or socket.endswith("/") or "\0" in socket:
        raise TargetError(f"{quoted} names no socket: write its whole path, like unix:/run/server.sock.")
    return f"unix:{quote(socket)}", urlsplit(behind)


def is_socket(text: str) -> bool:
    """Whether a text names a server on a unix socket."""
    return _UNIX.match(text) is not None


def origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of a URL, of a unix socket its path; None where it has none."""
    if _UNIX.match(url):
        return "unix", unquote(re.split("[:?]", url.partition(":")[2], maxsplit=1)[0]), 0
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def loopback(url: str) -> bool:
    """Whether the URL leads to this machine: its host is loopback, by name or number, or it is a unix socket."""
    found = origin(url)
    if found is None or found[0] == "unix":
        return found is not None
    try:
        return ipaddress.ip_address(found[1]).is_loopback
    except ValueError:
        return f".{found[1].rstrip('.')}".endswith(".localhost")


def _split_url(given: str, quoted: str) -> tuple[SplitResult, bool]:
    """Return the URL's parts, and whether it was written without a scheme."""
    if _FORBIDDEN.search(given):
        raise TargetError(
            f"{quoted} is not a URL: it holds a character that no URL can have; write it like http://127.0.0.1:{OLLAMA_PORT}."
        )
    scheme, found, rest = given.partition("://")
    if not found:
        scheme, rest = "http", given
    if not found and re.fullmatch(r"ollama\.com(/.*)?", rest):
        scheme, found = "https", "://"  # the one exception that Ollama makes
    place, slash, path = rest.partition("/")
    info, at, host = place.rpartition("@")
    host = host.replace("%25", "%")  # before the zone of an IPv6 address, in RFC 6874's spelling
    place = f"{info}{at}{host}"
    if ("[" in host or "]" in host) and not re.fullmatch(r"\[[^\[\]]+\](:\d*)?", host):
        raise TargetError(f"{quoted} is not a URL: the brackets hold no IPv6 address.")
    if _is_ipv6(host):
        place = f"{info}{at}[{host.strip('[]')}]"
    try:
        parts = urlsplit(f"{scheme.lower()}://{place}{slash}{path}")
    except ValueError as error:
        raise TargetError(f"{quoted} is not a URL: {error}.") from None
    return parts, not found


def _host_and_port(parts: SplitResult, quoted: str, *, bare: bool) -> str:
    """Return host and port as they stand in a URL."""
    # "http:/host", "http://http://host"
    if parts.hostname in ("http", "https"):
        raise TargetError(
            f"{quoted} is not a URL of a server: write http:// or https:// once, with the host behind it."
        )
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        brackets = re.fullmatch(r"[\da-fA-F]*:[\da-fA-F:.]*:\d*", parts.netloc.rpartition("@")[2])
        what = "an IPv6 address with a port stands in brackets, like [::1]:11434" if brackets else _PORT
        if "@" in parts.path + parts.fragment:
            what = "a password has %2F for a / and %23 for a #"
        raise TargetError(f"{quoted} is not a URL: {what}.")
    if parts.scheme not in ("http", "https") or (not parts.hostname and port is None):
        raise TargetError(f"{quoted} is not a URL of a server; write it like http://127.0.0.1:{OLLAMA_PORT}.")
    host = unicodedata.normalize("NFKC", parts.hostname or "127.0.0.1")
    if host in ("0.0.0.0", "::"):  # a listening address: a client cannot connect to it everywhere
        host = "127.0.0.1"
    if _is_ipv6(host):
        host = f"[{host}]"
    elif not _HOST.fullmatch(host) or not _is_name(host):
        raise TargetError(f"{quoted} is not a URL: {shown(host)!r} is not a host name.")
    if port is None and bare:
        port = OLLAMA_PORT
    return f"{host}:{port}" if port else host


def _path(path: str, quoted: str) -> tuple[str, str]:
    """Return the path to which /v1 or /api is appended, and the endpoint that stood behind it, as Address has it.

    A path below which the API has no /v1 of its own is returned whole: see endpoint_url.
    """
    path = urlsplit(urljoin("http://host/", _SLASHES.sub("/", path))).path.rstrip("/")  # without /./ and /../
    for known, ending in _endings():
        if not path.endswith(ending):
            continue
        prefix = path.removesuffix(ending).rstrip("/")
        own = _OWN_ROOT.search(prefix) is not None
        if ending != known and not own:
            continue  # /chat/completions without /v1
        if known in UNMEASURED_PATHS:
            right = UNMEASURED_PATHS[known]
            raise TargetError(
                f"{quoted} names {known}, which loadtest does not measure; give the URL that ends in {right}."
            )
        if own and ending == known and known.startswith("/v1"):
            prefix += "/v1"
        return prefix, known if known in ENDPOINT_PATHS else ""
    other = next((ending for ending in OTHER_ENDINGS if path.endswith(ending)), "")
    return path.removesuffix(other).rstrip("/"), other


def _endings() -> Iterator[tuple[str, str]]:
    """Yield the known paths, each with how a URL may end in it: whole, or without its /v1."""
    every = (*ENDPOINT_PATHS, *CONTROL_PATHS, *UNMEASURED_PATHS)
    yield from zip(every, every, strict=True)
    yield from ((known, known.removeprefix("/v1")) for known in every if known.startswith("/v1/"))


def _is_name(host: str) -> bool:
    """Whether resolvers can be asked for a host: each of its parts has 1 to 63 characters; four numbers are an address."""
    try:
        if len(host.encode("idna")) > MOST_HOST:
            return False
        if not host.isascii() or "xn--" in host:
            import idna  # httpx's own, which knows fewer characters

            idna.encode(host)
        if _FOUR_NUMBERS.fullmatch(host):
            ipaddress.IPv4Address(host)
    except (UnicodeError, ValueError):
        return False
    return True


def _is_ipv6(host: str) -> bool:
    bare = host.strip("[]")
    try:
        return "]" not in bare and ipaddress.ip_address(bare).version == 6  # a zone would hold any characters
    except ValueError:
        return False
