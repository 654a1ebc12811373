"""Keys and passwords: read from the environment where they are used, kept out of everything that is written or said.

A child or a Locust worker reads its own environment. The user:pass of a URL is moved there, too, before children start:
no argument, message or pickle holds it.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Callable, Mapping, MutableMapping
from urllib.parse import quote, unquote

from loadtest.errors import ScenarioError, TargetError
from loadtest.urls import AROUND, loopback, origin, parse_url

KEY_VARIABLES = {  # by the API that is spoken: which variable's key goes first
    "ollama": ("OLLAMA_API_KEY", "OPENAI_API_KEY"),
    "openai": ("OPENAI_API_KEY", "OLLAMA_API_KEY"),
}
BASIC_AUTH = (
    "LOADTEST_BASIC_AUTH"  # URLs with their user:pass, blanks between: what was taken out of URLs that were given
)
_NAMING = ("OLLAMA_HOST", "OPENAI_BASE_URL")  # may hold a URL with user:pass themselves

SHORTEST = 6  # characters of a secret that is looked for in other people's text
SHORTEST_BEGINNING = 8  # of the beginning of one at the end of a text that was cut
SHORTEST_IN_FILES = 12  # and in a line of a file, whose own words are short
PLACEHOLDERS = frozenset(  # what people set where a server wants any key: words that other text is full of
    [
        "ollama",
        "openai",
        "empty",
        "none",
        "null",
        "dummy",
        "test",
        "testing",
        "local",
        "localhost",
        "default",
        "no-key",
        "nokey",
        "not-needed",
        "notneeded",
        "unused",
        "lm-studio",
        "sk-no-key-required",
        "anything",
        "secret",
        "password",
        "api-key",
        "apikey",
        "token",
        "bearer",
        "llama.cpp",
        "vllm",
    ]
)


def headers(url: str, api: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the Authorization header for requests of `api` to the measured server at `url`, empty without credentials.

    Raises ScenarioError, which names the variable, for a key that no header can hold.
    """
    if basic := basic_auth(url, env):
        return basic
    for name in KEY_VARIABLES[api]:
        if key := read_key(name, env):
            return {"Authorization": f"Bearer {key}"}
    return {}


def basic_auth(url: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the Authorization header for the user:pass that some URL of the same origin was given with, else nothing."""
    place = origin(url)
    for base, userinfo in _userinfos(env):
        if origin(base) == place:
            return {"Authorization": f"Basic {_base64(userinfo)}"}
    return {}


def read_key(name: str, env: Mapping[str, str] = os.environ) -> str | None:
    """Return the key without what an .env file leaves around it (blanks, quotes, line ends, a BOM), None where there is none."""
    key = env.get(name, "").strip(AROUND)
    if not all("!" <= char <= "~" for char in key):
        raise ScenarioError(
            f"{name} holds a character that no key has inside (a blank, a line end or a non-ASCII one); set it anew."
        )
    return key or None


def withhold(text: str, env: MutableMapping[str, str] = os.environ) -> str:
    """Return a URL without its user:pass, which is kept in the environment for this process and its children.

    Text that is no URL comes back as it is, unless it has an @: then without what stands before.
    """
    if "@" not in text:
        return text
    address = parse_url(text)
    if address.userinfo:
        keep_userinfo(address.base, address.userinfo, env)
    return address.base + address.endpoint


def keep_userinfo(base: str, userinfo: str, env: MutableMapping[str, str] = os.environ) -> None:
    """Remember the user:pass (percent-encoded) of a URL's origin in the environment."""
    scheme, _, rest = base.partition("://")
    kept = f"{scheme}://{userinfo}@{rest.partition('/')[0]}"
    others = [one for one in env.get(BASIC_AUTH, "").split() if one != kept]
    env[BASIC_AUTH] = " ".join([kept, *others])


def in_the_clear(url: str, api: str, env: Mapping[str, str] = os.environ) -> str | None:
    """Say that credentials leave this machine unencrypted; None where they do not."""
    if url.startswith("https://") or loopback(url) or not headers(url, api, env):
        return None
    return f"{url} is plain http: whoever is on the way can read the key that goes with every request."


def redacted(text: str, env: Mapping[str, str] = os.environ) -> str:
    """Return somebody else's text with every secret of the environment replaced by its name.

    Where a text was cut inside a secret, the beginning that is left at its end goes, too.
    """
    return redactor(env)(text)


def redactor(env: Mapping[str, str] = os.environ) -> Callable[[str], str]:
    """Return `redacted` for many texts, with the secrets as they are now."""
    secrets = _secrets(env, SHORTEST)

    def redact(text: str) -> str:
        for secret, name in secrets:
            text = text.replace(secret, f"<{name}>")
            for length in range(min(len(secret) - 1, len(text)), SHORTEST_BEGINNING - 1, -1):
                if text.endswith(secret[:length]):
                    text = f"{text[:-length]}<{name}>"
                    break
        return text

    return redact


def scrubber(env: Mapping[str, str] = os.environ) -> Callable[[bytes], bytes]:
    """Return what takes the secrets of the environment as it is now out of a line that goes to a file."""
    pairs = [(secret.encode(), f"<{name}>".encode()) for secret, name in _secrets(env, SHORTEST_IN_FILES)]

    def scrub(line: bytes) -> bytes:
        for secret, name in pairs:
            if secret in line:
                line = line.replace(secret, name)
        return line

    return scrub


def _secrets(env: Mapping[str, str], shortest: int) -> list[tuple[str, str]]:
    """Return every secret in the spellings that a server may quote it in, longest first, each with what to call it."""
    found: dict[str, str] = {}
    for name in ("OPENAI_API_KEY", "OLLAMA_API_KEY"):
        found[env.get(name, "").strip(AROUND)] = name
    for _, userinfo in _userinfos(env):
        user, _, password = userinfo.partition(":")
        found |= dict.fromkeys(
            (_base64(userinfo), userinfo, unquote(userinfo), password or user), "user:pass of the URL"
        )
        found[unquote(password or user)] = "user:pass of the URL"
    spelled = {
        form: name
        for secret, name in found.items()
        if len(secret) >= shortest and secret.lower() not in PLACEHOLDERS
        for form in (secret, quote(secret, safe=""), html.escape(secret), secret.replace("/", "\\/"))
        if form.isascii() and form.isprintable()
    }
    return sorted(spelled.items(), key=lambda pair: -len(pair[0]))


def _userinfos(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return base URL and percent-encoded user:pass of every URL in the environment that has them."""
    found = []
    for text in [*env.get(BASIC_AUTH, "").split(), *(env.get(name, "") for name in _NAMING)]:
        if "@" not in text:
            continue
        try:
            address = parse_url(text)
        except TargetError:
            continue  # said where the URL is used
        if address.userinfo:
            found.append((address.base, address.userinfo))
    return found


def _base64(userinfo: str) -> str:
    return base64.b64encode(unquote(userinfo).encode()).decode("ascii")
