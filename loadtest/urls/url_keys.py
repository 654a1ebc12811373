"""What is secret in a URL: user:pass, keys in its path and its query; taken out of it, or left out where it is shown."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

# Names of a query's values that are keys; with borders between words, for api-version, max_tokens and monkey are none.
_KEY_NAME = re.compile(
    r"(?:^|[-_.]|(?-i:(?<=[a-z0-9])(?=[A-Z])))(?:(?:api|app|access|user|subscription|secret)?-?key|code|(?:access|auth)?token|jwt"
    r"|bearer|(?:client)?secret|sig|signature|hmac|pass|passw(?:or)?d|pwd|auth|authorization|credentials?|session(?:id)?|ticket)$",
    re.IGNORECASE,
)
# A key as providers begin theirs; in a path also Google's, a JWT, and letters and digits in such a mixture as no name has.
KEY_SHAPE = re.compile(r"\b(sk|rk|gsk|csk|xai|hf|nvapi|pplx)([-_])(?=[\w-]*\d)[\w-]{16,}")
_KEY_IN_PATH = re.compile(
    rf"{KEY_SHAPE.pattern}|AIza[\w-]{{30,}}|eyJ[\w-]{{10,}}\.[\w.-]+|(?=.*[a-z])(?=.*[A-Z])(?=(?:.*?\d[A-Za-z]){{2}})[A-Za-z0-9]{{24,}}"
)
_NAMES_KEY = re.compile(r"(?:(?:api|access|auth)[-_]?)?(?:key|token)s?", re.IGNORECASE)  # in a path, of what follows
_NAMED_KEY = re.compile(r"(?=.*\d)[\w.~%-]{8,}")
KEPT_APART = "LOADTEST_URL_KEY_"  # begins the name of a variable that holds a key taken out of a URL
PLACEHOLDER = re.compile(rf"\$({KEPT_APART}[0-9a-f]{{8}})")


def keys_in_query_apart(query: str, place: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a query with names in place of its keys, and names and keys."""
    parts, keys = [], []
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        if value and _KEY_NAME.search(unquote(name)) and not PLACEHOLDER.fullmatch(value):
            variable = _variable(f"{place}?{name}")
            keys.append((variable, value))
            value = f"${variable}"
        parts.append(f"{name}{equals}{value}")
    return "&".join(parts), tuple(keys)


def _variable(place: str) -> str:
    return f"{KEPT_APART}{zlib.crc32(place.encode()):08x}"


def keys_in_path_apart(path: str, place: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return a path with names in place of the keys in it, and names and keys."""
    parts, keys = list[str](), list[tuple[str, str]]()
    for part, is_key in _parts_of_path(path):
        if is_key:
            variable = _variable("/".join([place, *parts]))
            keys.append((variable, part))
        parts.append(f"${variable}" if is_key else part)
    return "/".join(parts), tuple(keys)


def _parts_of_path(path: str) -> Iterator[tuple[str, bool]]:
    """Yield each part of a path, and whether it looks like a key."""
    before = ""
    for part in path.split("/"):
        named = _NAMES_KEY.fullmatch(before) is not None and _NAMED_KEY.fullmatch(part) is not None
        yield part, named or _KEY_IN_PATH.fullmatch(unquote(part)) is not None
        before = part


def has_key(path: str) -> bool:
    """Whether a part of a path looks like a key."""
    return any(is_key for _, is_key in _parts_of_path(path))


def has_secrets(text: str) -> bool:
    """Whether a text that may be a URL has a userinfo, a query or a key in its path."""
    return "@" in text or "?" in text or has_key(text)


def without_secrets(text: str) -> str:
    """Return a text, which may be a URL, without its userinfo, its path's keys and a query's values; never raises."""
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = "", text
    if "@" in rest:  # up to the last @: a password may hold any character
        rest = rest.rpartition("@")[2]
    path = re.split(r"[?#]", rest, maxsplit=1)[0]
    shown_path = "/".join("…" if is_key else part for part, is_key in _parts_of_path(path))
    return f"{scheme}{found}{shown_path}{f'{rest[len(path)]}…' if len(rest) > len(path) else ''}"


def without_passwords(text: str) -> str:
    """Return a sentence without the user:pass of any URL in it, be it one that was taken for a path and lost a slash."""
    return re.sub(r"(://|\w\w:/)[^/\s]*@", r"\1", text)


def userinfo_apart(url: str) -> tuple[str, str]:
    """Return a URL without its user:pass, and the user:pass, percent-encoded, or ""."""
    parts = urlsplit(url)
    userinfo, _, place = parts.netloc.rpartition("@")
    return parts._replace(netloc=place).geturl() if userinfo else url, userinfo
