"""URLs of model servers as people write them: as OLLAMA_HOST takes them, as OPENAI_BASE_URL does, or whole endpoints."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from loadtest.errors import TargetError
from loadtest.text import shown

OLLAMA_PORT = 11434
AROUND = " \t\r\n\"'\ufeff"  # blanks and quotes around a value, as Ollama drops them; a BOM from an .env file too

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
# A URL that ends in one of these says only where the server is.
CONTROL_PATHS = ("/v1/models", "/api/version", "/api/tags", "/api/ps", "/api/show", "/v1")
UNMEASURED_PATHS = {"/v1/rerank": "/v1/chat/completions", "/api/embeddings": "/api/embed"}  # and what to give instead

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\^`{|}<>\"\ud800-\udfff]")
_HOST = re.compile(r"[\w.~%-]+")  # names beyond ASCII too: the resolver decides
_VERSIONED = re.compile(r"/v\d+\w*$")


@dataclass(frozen=True, slots=True)
class Address:
    """A server's URL in parts; base + endpoint is the URL without its userinfo."""

    base: str  # scheme://host:port/prefix, to which /v1/… and /api/… are appended
    endpoint: str  # the path of ENDPOINT_PATHS that the URL ended in, else ""
    userinfo: str  # user:pass before the host, percent-encoded as given, else ""

    @property
    def asks(self) -> tuple[str | None, str | None]:
        """The API and the endpoint that the URL names, None where it names none."""
        return ENDPOINT_PATHS.get(self.endpoint, (None, None))


def default_url(env: Mapping[str, str] = os.environ, *, api: str = "auto") -> str:
    """Return the server that the environment names: OLLAMA_HOST, OPENAI_BASE_URL (first for api openai), else the local Ollama."""
    names = ("OPENAI_BASE_URL", "OLLAMA_HOST") if api == "openai" else ("OLLAMA_HOST", "OPENAI_BASE_URL")
    given = (env.get(name, "") for name in names)
    return next((text for text in given if text.strip(AROUND)), f"http://127.0.0.1:{OLLAMA_PORT}")


def base_url(text: str) -> str:
    """Return `text` as scheme://host:port/prefix, without userinfo; raise TargetError where it is not a server's URL."""
    return parse_url(text).base


def parse_url(text: str) -> Address:
    """Read a URL as Ollama reads OLLAMA_HOST ("host", ":11435", "::1", in quotes), or as people copy it: with /v1 or an endpoint.

    Raises TargetError for a text that is not a server's URL, or of which a part would be dropped. The error never quotes
    userinfo or a query.
    """
    given = text.strip(AROUND)
    quoted = f"'{shown(without_secrets(given))}'"
    if not given:
        raise TargetError(f"{quoted} is not a URL: it is empty; write it like http://127.0.0.1:{OLLAMA_PORT}.")
    parts, bare = _split_url(given, quoted)
    if parts.query or "?" in given:
        raise TargetError(f"{quoted} has a query (?…), which is not sent yet: leave it out.")
    if parts.fragment or "#" in given:
        raise TargetError(f"{quoted} has a fragment (#…), which no server ever sees: leave it out.")
    userinfo = parts.netloc.rpartition("@")[0]
    prefix, endpoint = _path(parts.path, quoted)
    return Address(f"{parts.scheme}://{_host_and_port(parts, quoted, bare=bare)}{prefix}", endpoint, userinfo)


def without_secrets(text: str) -> str:
    """Return a text, which may be a URL, without its userinfo and without a query's values; never raises."""
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "", text
    if "@" in rest:  # up to the last @: a password may hold any character
        rest = rest.rpartition("@")[2]
    path = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}{found}{path}{f'{rest[len(path)]}…' if len(rest) > len(path) else ''}"


def without_passwords(text: str) -> str:
    """Return a sentence without the user:pass of any URL in it."""
    return re.sub(r"(?<=://)[^/\s]*@", "", text)


def userinfo_apart(url: str) -> tuple[str, str]:
    """Return a URL without its user:pass, and the user:pass, percent-encoded, or ""."""
    parts = urlsplit(url)
    userinfo, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=place).geturl() if userinfo else url, userinfo


def origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of a URL; None where it has none."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


def loopback(url: str) -> bool:
    """Whether the URL's host is this machine's loopback, by name or number."""
    found = origin(url)
    if found is None:
        return False
    try:
        return ipaddress.ip_address(found[1]).is_loopback
    except ValueError:
        return found[1] == "localhost" or found[1].endswith(".localhost")


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
    if _is_ipv6(host):
        place = f"{info}{at}[{host.strip('[]')}]"
    elif "[" in host and not re.fullmatch(r"\[[^\[\]]+\](:\d*)?", host):
        raise TargetError(f"{quoted} is not a URL: the brackets hold no IPv6 address.")
    try:
        parts = urlsplit(f"{scheme.lower()}://{place}{slash}{path}")
    except ValueError as error:
        raise TargetError(f"{quoted} is not a URL: {error}.") from None
    return parts, not found


def _host_and_port(parts: SplitResult, quoted: str, *, bare: bool) -> str:
    """Return host and port as they stand in a URL."""
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise TargetError(f"{quoted} is not a URL: its port is not a number between 1 and 65535.")
    if parts.scheme not in ("http", "https") or (not parts.hostname and port is None):
        raise TargetError(f"{quoted} is not a URL of a server; write it like http://127.0.0.1:{OLLAMA_PORT}.")
    host = parts.hostname or "127.0.0.1"
    if host in ("0.0.0.0", "::"):  # a listening address: a client cannot connect to it everywhere
        host = "127.0.0.1"
    if _is_ipv6(host):
        host = f"[{host}]"
    elif not _HOST.fullmatch(host) or ".." in host:
        raise TargetError(f"{quoted} is not a URL: {shown(host)!r} is not a host name.")
    if port is None and bare:
        port = OLLAMA_PORT
    return f"{host}:{port}" if port else host


def _path(path: str, quoted: str) -> tuple[str, str]:
    """Return the path to which /v1 or /api is appended, and the endpoint of ENDPOINT_PATHS that stood behind it."""
    path = path.rstrip("/")
    for known in (*ENDPOINT_PATHS, *CONTROL_PATHS, *UNMEASURED_PATHS):
        if not path.endswith(known):
            continue
        prefix = path.removesuffix(known).rstrip("/")
        if known in UNMEASURED_PATHS:
            right = UNMEASURED_PATHS[known]
            raise TargetError(
                f"{quoted} names {known}, which loadtest does not measure; give the URL that ends in {right}."
            )
        _refuse_other_roots(prefix, quoted)
        return prefix, known if known in ENDPOINT_PATHS else ""
    _refuse_other_roots(path, quoted)
    return path, ""


def _refuse_other_roots(prefix: str, quoted: str) -> None:
    """Raise TargetError for a path below which the API is not at /v1, where it would be asked for."""
    if _VERSIONED.search(prefix) or "/deployments/" in prefix or prefix.endswith("/completions"):
        raise TargetError(
            f"{quoted} has its API at another path than /v1, which cannot be measured yet; give a URL to which "
            "/v1/chat/completions or /api/chat can be appended."
        )


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).version == 6
    except ValueError:
        return False
