"""Secrets taken out of what is shown or written: sentences, other people's text, lines of files."""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable
from urllib.parse import quote, unquote

from loadtest.credentials.environment import FURTHER, TEXTS, userinfos
from loadtest.credentials.request_keys import KEY_VARIABLES, in_base64
from loadtest.urls import BLANKS_AND_QUOTES, KEPT_APART

SHORTEST = 6  # characters that a secret must have to be looked for in other people's text
SHORTEST_BEGINNING = 8  # characters that the beginning of one must have, at the end of a text that was cut
SHORTEST_IN_FILES = 12  # characters that one must have to be looked for in a line of a file
PLACEHOLDERS = frozenset(  # what people set where a server takes any key: words that also occur in other text
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
_WORDS_IN = re.compile(r"[\s;,=]+")


def redacted(text: str) -> str:
    """Return somebody else's text with every secret of the environment replaced by its name.

    Where the text was cut inside a secret, the beginning of the secret at its end is replaced too.
    """
    return redactor()(text)


def redactor() -> Callable[[str], str]:
    """Return `redacted` as a function for many texts, with the secrets as they are now."""
    secrets = _secrets(SHORTEST)

    def redact(text: str) -> str:
        for secret, name in secrets:
            text = text.replace(secret, f"<{name}>")
            for length in range(min(len(secret) - 1, len(text)), SHORTEST_BEGINNING - 1, -1):
                if text.endswith(secret[:length]):
                    text = f"{text[:-length]}<{name}>"
                    break
        return text

    return redact


def scrubber() -> Callable[[bytes], bytes]:
    """Return a function that takes the environment's present secrets out of a line that goes to a file."""
    pairs = [(secret.encode(), f"<{name}>".encode()) for secret, name in _secrets(SHORTEST_IN_FILES)]

    def scrub(line: bytes) -> bytes:
        for secret, name in pairs:
            if secret in line:
                line = line.replace(secret, name)
        return line

    return scrub


def _secrets(shortest: int) -> list[tuple[str, str]]:
    """Return every secret in the spellings that a server may quote it in, longest first, each with its name."""
    env = os.environ
    found: dict[str, str] = {}
    for name in env.get(FURTHER, "").split():
        value = env.get(name, "").strip(BLANKS_AND_QUOTES)
        found |= dict.fromkeys([*_WORDS_IN.split(value), value], name)  # "Bearer KEY", "session=KEY; …"
    found |= {env.get(name, "").strip(BLANKS_AND_QUOTES): name for name in env.get(TEXTS, "").split()}
    for name in {name: None for names in KEY_VARIABLES.values() for name in names}:
        found[env.get(name, "").strip(BLANKS_AND_QUOTES)] = name
    for name in env:
        if name.startswith(KEPT_APART):
            found |= dict.fromkeys((env[name], unquote(env[name])), "key of the URL")
    for _, userinfo in userinfos(env):
        user, _, password = userinfo.partition(":")
        found |= dict.fromkeys(
            (in_base64(userinfo), userinfo, unquote(userinfo), password or user), "user:pass of the URL"
        )
        found[unquote(password or user)] = "user:pass of the URL"
    spelled = {
        form: name
        for secret, name in found.items()
        if len(secret) >= shortest and secret.lower() not in PLACEHOLDERS
        for form in _spellings(secret)
    }
    return sorted(spelled.items(), key=lambda pair: -len(pair[0]))


def _spellings(secret: str) -> tuple[str, ...]:
    """Return a secret as URLs, pages, JSON and servers that fold case spell it, too; none for what is no UTF-8 text, which cannot be sent."""
    try:
        in_url = quote(secret, safe="")
    except UnicodeEncodeError:
        return ()
    in_json = (json.dumps(secret, ensure_ascii=ascii_alone)[1:-1] for ascii_alone in (False, True))
    return secret, secret.lower(), in_url, html.escape(secret), secret.replace("/", "\\/"), *in_json
