"""Where a redirect leads: to the same server at another URL, or to a page where people log in."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import urljoin, urlsplit

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
    """Return the path to ask at where a redirect from `path`, asked for at a URL, only adds a slash at its end or takes it away.

    The scheme is not looked at: a server behind TLS names http. None for any other redirect.
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


def instead(location: str) -> str:
    """Return what to give in place of what was asked for, to stand behind "give"."""
    ends_so = location.endswith("/") and location.rstrip("/").endswith(_OF_AN_API)
    return "its path with --path, slash and all" if ends_so else "that URL"


def advice(asked: str, location: str, path: str) -> str:
    """Return what to do where a question at `path`, asked at a URL, was answered with a redirect."""
    with suppress(ValueError):  # a location that is no URL
        location = urljoin(asked, location)
    location = bare_location(location)
    if leads_to_login(location):
        return f"It leads to where people log in: {LOG_IN}."
    base = location.removesuffix(path)
    there = "the URL of the server that they lead to"
    if base != location and "://" in base:
        there = base
    return f"Redirects are not followed: give {there}."
