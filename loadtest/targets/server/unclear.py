"""What to say of a server of unknown kind, or one that refuses us: what it answered, and what to do."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import httpx

from loadtest import credentials, reach
from loadtest.dialects import Dialect
from loadtest.dialects.answers.errors.error_headers import redirect_advice
from loadtest.dialects.answers.errors.refusals import give_header, key_header, refused_key, wanted_header
from loadtest.errors import TargetError
from loadtest.scenario import ConnectionKeys
from loadtest.targets.server.control import ControlAnswer, as_mapping, as_printable, ask, keys_of_client
from loadtest.targets.server.model_list import listed_models
from loadtest.targets.server.not_reached import http2_instead, https_instead
from loadtest.urls import endpoint_url

NETWORK_LOGIN = 511
MOST_PARENTS = 6  # URLs above one at which nothing answers
_LATER = (408, 425, 429, 503, 529)  # statuses that speak of the moment
_NO_SERVER = (502, 504, *range(520, 528), 530)  # of gateways, the last ones Cloudflare's
_UPSTREAM = re.compile(r"upstream|back-?end|no (?:available|healthy) |gateway", re.IGNORECASE)
_ASKS_FOR_A_KEY = re.compile(
    r"api[ _-]?key|unauthori[sz]ed|authenticat|authori[sz]ation|credential|access denied|forbidden|permission|bearer"
    r"|\b(?:log|sign)[ -]?[io]n\b|token (?:is )?(?:missing|required|invalid|expired)",
    re.IGNORECASE,
)

_IN_QUOTES = re.compile(r'"[^"]*"')
# of a WWW-Authenticate without its quotes
_SCHEMES = re.compile(r"(?:^|,)\s*([A-Za-z][A-Za-z0-9_-]*)(?!\s*=)(?=\s|,|$)")
_NOT_SPOKEN = {"digest", "negotiate", "ntlm", "kerberos"}


def unclear_error(client: httpx.Client, url: str, version: ControlAnswer, listing: ControlAnswer) -> TargetError:
    """Return the error for a server of unknown kind: what it answered, and what to do."""
    keys = keys_of_client(client)
    if listing.refused or version.refused:
        return refused_error(client, url, listing if listing.refused else version)
    own = as_printable(as_mapping(version.json()).get("version"))
    if own is not None and (tags := ask(client, url, "/api/tags")).refused:  # an Ollama's behind a key
        return refused_error(client, url, tags)
    # where plain http is spoken, it answers something else; a port of TLS says at most 400 to it, and some take both (Traefik)
    plain = {version.status, listing.status} <= {0, 400}
    straight = plain and reach.proxy_to(keys, url) is None
    if straight and (instead := https_instead(url) or (version.status + listing.status == 0 and http2_instead(url))):
        return TargetError(instead)
    key = _what_to_do(url, listing, keys)
    words = version.described if own is None else f"version {own}, which many servers have"
    if (nearer := nearer_one(client, url)) is not None:
        return TargetError(f"{url} does not say that it is a model server, and {nearer} does: give that URL.")
    return TargetError(
        f"{url} does not say that it is a model server (GET /api/version: {words}; GET /v1/models: {listing.described})."
        f"{key} Give the base URL of an Ollama or OpenAI server; if this is one, add --api openai --model NAME, and "
        "`loadtest check --try` with these finds out how to ask it."
    )


def nearer_one(client: httpx.Client, url: str) -> str | None:
    """Return the URL above this one, of those up to its host, at which models are listed; None where there is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return None
    above = parts.path.split("/")[1:-1]
    for length in range(len(above), max(len(above) - MOST_PARENTS, -1), -1) if parts.path else ():
        shorter = parts._replace(path="/".join(["", *above[:length]])).geturl()
        if listed_models(ask(client, shorter, "/v1/models").json()) is not None:
            return shorter
    return None


def _what_to_do(url: str, listing: ControlAnswer, keys: ConnectionKeys) -> str:
    """Return a sentence on what the answer to the question for models asks for, with a blank before it; "" without one."""
    if (proxy := reach.proxy_to(keys, url)) is not None:
        if listing.status == 0 and proxy.startswith("http:"):  # nothing came back
            at = proxy.removeprefix("http://")
            return f" If the proxy speaks https, give --proxy https://{at}; if SOCKS, --proxy socks5h://{at}."
        return f" The proxy {proxy} may have answered in its place."
    if 300 <= listing.status < 400 and (place := listing.header("location")):
        return f" {redirect_advice(endpoint_url(url, listing.path), place, listing.path)}"
    if (header := wanted_header(listing.status, listing.described)) is not None:
        return f" It asks for a header: {give_header(header)}."
    if listing.status == NETWORK_LOGIN:
        return " The network wants you to log in first: open any http page in a browser."
    if listing.status == 407:
        return " A proxy on the way wants to know who asks: give it with --proxy http://USER:PASSWORD@HOST:PORT."
    is_gateways = listing.is_page or _UPSTREAM.search(listing.described) is not None
    if listing.status in _NO_SERVER or (listing.status == 503 and is_gateways):
        return (
            " A gateway answers there, and no server behind it: see whether that one runs and the gateway reaches it."
        )
    if listing.status in _LATER:
        return " It answers no questions now: wait until its model is loaded, or until it takes more requests, and ask again."
    if (
        listing.status == 500
        or _ASKS_FOR_A_KEY.search(listing.described)
        or (listing.status == 400 and _sent(url, keys))
    ):
        behind = (
            " Or a gateway answers, and the server behind it does not: see its log." if listing.status == 500 else ""
        )
        return _of_a_key(url, keys) + behind
    if listing.status == 404:
        return (
            " Nothing of a model server is at this path: the URL may lack a prefix, or its port is another program's."
        )
    return ""


def _of_a_key(url: str, keys: ConnectionKeys) -> str:
    """Return a sentence on the key that may be missing, or a wrong one."""
    name = credentials.key_variable(url, "openai", key_env=keys.key_env)
    if not _sent(url, keys):
        return " A key may be missing: set OPENAI_API_KEY, or name the variable that holds it with --key-env."
    return "" if name is None else f" The key in {name} may be a wrong one."


def _sent(url: str, keys: ConnectionKeys) -> bool:
    """Whether a key goes with the question for models."""
    return bool(credentials.headers(url, "openai", key_env=keys.key_env))


def refused_error(client: httpx.Client, url: str, answer: ControlAnswer) -> TargetError:
    """Return the error for a server that refuses us: what it said, and how to be let in."""
    keys = keys_of_client(client)
    proxy = reach.proxy_to(keys, url)
    by = "" if proxy is None or url.startswith("https:") else f" (or the proxy {proxy} does)"
    return TargetError(
        f"{url} refuses us{by} with {answer.described}: {_to_be_let_in(url, answer, keys)}; if only its list of models is closed, "
        "add --api openai --model NAME."
    )


def key_advice(dialect: Dialect, url: str, status: int | None) -> str:
    """Return what to do about the key of requests that a server refuses for want of one, or with the one it gets."""
    if (name := credentials.key_variable(url, dialect.api, key_env=dialect.key_env)) is not None:
        return refused_key(name, status)
    return (
        f"a key may be missing; set {' or '.join(credentials.variables_for(url, dialect.api, key_env=dialect.key_env))}"
    )


def _to_be_let_in(url: str, answer: ControlAnswer, keys: ConnectionKeys) -> str:
    """Return what to do to be let in: by the words of the refusal, by the schemes that it names, and by what was sent."""
    if (header := wanted_header(answer.status, answer.described)) is not None:
        return f"it asks for a header: {give_header(header)}"
    schemes = _SCHEMES.findall(_IN_QUOTES.sub("", answer.header("www-authenticate") or ""))
    known = {scheme.lower() for scheme in schemes}
    if "basic" in known and "bearer" not in known:
        if credentials.basic_auth(url):
            return "the user and password in the URL are not accepted: write others"
        return "write user and password into the URL, as USER:PASSWORD@ before the host"
    if known and not known - _NOT_SPOKEN:
        return f"it asks for {schemes[0]}, which loadtest does not speak: have it take a key or Basic auth, too"
    if known and "bearer" not in known:
        return (
            f"it asks for the scheme {schemes[0]}: give --header 'Authorization: {schemes[0]} ${{VARIABLE}}', or the header in "
            "which it takes a key"
        )
    api = "ollama" if answer.path.startswith("/api/") else "openai"
    if (name := credentials.key_variable(url, api, key_env=keys.key_env)) is not None and not credentials.basic_auth(
        url
    ):
        does = refused_key(name, answer.status)
    else:
        key = (
            f"set {keys.key_env}"
            if keys.key_env
            else "set OPENAI_API_KEY (OLLAMA_API_KEY for an Ollama; or --key-env NAME)"
        )
        does = f"{key} to a key that it accepts"
    if (header := key_header(answer.described)) is not None:
        does += f", or give it in the header that it names, with --header '{header}: ${{VARIABLE}}'"
    if answer.status == 403 and not answer.body.strip():  # Ollama's to a Host that is not its machine's
        does += ", or, if it is an Ollama behind a proxy or another name, --header 'Host: localhost'"
    return does
