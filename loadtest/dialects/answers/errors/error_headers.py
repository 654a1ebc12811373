"""What an answer's headers say: of an error its cause, and when to try again; of a redirect, where it leads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urljoin, urlsplit

_OF_ERRORS = re.compile(  # x-amzn-errortype, x-ms-error-code, ngrok-error-code, x-apigee-fault-code, x-deny-reason
    r"(?:^|-)(?:err|error|fault|deny|denied)(?:[-_]?(?:type|message|msg|code|reason|info|detail))?$|^grpc-message$|-reason$"
)
_IN_WORDS = re.compile(r"message|msg|reason|detail|info")
_CHALLENGE = re.compile(r'\berror(?:_description)?="([^"]{1,300})"', re.IGNORECASE)
_WAIT = re.compile(
    r"\+?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,12}(?:\.\d{1,9})?)\s*(ms|s|sec|seconds)?)?", re.IGNORECASE
)
SINCE_1970_S = 1e9  # a number of seconds from here on is an instant, counted from 1970, and no wait
_LOGIN = re.compile(
    r"(?:^|[/._-])(?:log[-_]?[io]n|sign[-_]?[io]n|auth(?:n|elia|entik|orize|entication)?|oauth2?|oidc|openid(?:-connect)?"
    r"|sso|saml2?|cas|idp|keycloak|microsoftonline)(?=$|[/._?-])",
    re.IGNORECASE,
)
_OF_AN_API = ("/completions", "/chat", "/generate", "/responses", "/messages", "/embeddings", "/models", "/version")
LOG_IN = (
    "name the variable that holds a key with --key-env, or give what the gateway takes instead, such as "
    "--header 'Cookie: ${COOKIE}'"
)


def cause_in(said: Mapping[str, str]) -> str | None:
    """Return the header, or the part of it, that says what is wrong (names in small letters); None where none does."""
    found = {name: value for name, value in said.items() if value.strip(" 0") and _OF_ERRORS.search(name)}
    if found:
        name = next(filter(_IN_WORDS.search, found), next(iter(found)))
        return f"{name}: {unquote(found[name]).strip()}"
    challenge = _CHALLENGE.findall(said.get("www-authenticate", ""))
    return f"www-authenticate: {challenge[-1]}" if challenge else None


def when_to_retry(said: Mapping[str, str]) -> str:
    """Return " (retry after …)" where an answer's headers (names in small letters) say when to try again; else "".

    They say it in seconds, in milliseconds (Azure) or as an instant.
    """
    wait = said.get("retry-after", "").strip()
    in_ms = next((said[name].strip() for name in ("retry-after-ms", "x-ms-retry-after-ms") if name in said), "")
    if (known := _wait_s(wait)) is None and in_ms:
        known = _wait_s(f"{in_ms}ms")
    if known is not None and known < SINCE_1970_S:
        return f" (retry after {known:.10g} s)"
    try:
        seconds = (parsedate_to_datetime(wait) - parsedate_to_datetime(said.get("date", ""))).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return " (says when to retry)" if wait else ""
    return f" (retry after {max(seconds, 0):.10g} s)"


def _wait_s(said: str) -> float | None:
    """Return seconds out of "17", "20s", "500ms" or "2m59s", said once or more often; None where it is no such time."""
    found = _WAIT.fullmatch(said.partition(",")[0].strip())
    if found is None or not found[0]:
        return None
    hours, minutes, rest, unit = found.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest) * (0.001 if unit.lower() == "ms" else 1)


def leads_to_login(location: str) -> bool:
    """Whether a redirect leads to a page where people log in: its host or its path says so."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return False
    if parts.path.rstrip("/").endswith(_OF_AN_API):
        return False
    return _LOGIN.search(f"{parts.hostname or ''}{parts.path}") is not None


def bare_location(location: str) -> str:
    """Return where a redirect leads, without user and password, and without its query: keys, and what each answer has anew."""
    place = re.split(r"[?#]", location, maxsplit=1)[0]
    return re.sub("^([^/]*//)[^/]*@", r"\1", place) + (f"{location[len(place)]}…" if len(location) > len(place) else "")


def other_slash(asked: str, location: str, path: str) -> str | None:
    """Return the path with or without its last slash, where a redirect differs from what was asked in that alone; else None.

    `asked` is the whole URL that was asked, `path` its path. The scheme is not looked at: a server behind TLS names http.
    """
    try:
        there, here = urlsplit(urljoin(asked, location)), urlsplit(asked)
        same_host = there.hostname == here.hostname
    except ValueError:
        return None
    if not same_host or there.path == here.path or there.path.rstrip("/") != here.path.rstrip("/"):
        return None
    bare, mark, query = path.partition("?")
    return f"{bare}/{mark}{query}" if there.path.endswith("/") else f"{bare.rstrip('/')}{mark}{query}"


def url_to_give(location: str) -> str:
    """Return what the user has to give where a redirect leads to `location`: the words that follow "give"."""
    ends_so = location.endswith("/") and location.rstrip("/").endswith(_OF_AN_API)
    return "its path with --path, slash and all" if ends_so else "that URL"


def redirect_advice(asked: str, location: str, path: str) -> str:
    """Return what to do where a question at `path`, asked at a URL, was answered with a redirect."""
    with suppress(ValueError):  # a location that is no URL
        location = urljoin(asked, location)
    location = bare_location(location)
    if leads_to_login(location):
        return f"To be let in, {LOG_IN}."
    base = location.removesuffix(path)
    there = "the URL of the server that they lead to"
    if base != location and "://" in base:
        there = base
    return f"Redirects are not followed: give {there}."
