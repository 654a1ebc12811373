"""Where keys and passwords are: in the environment, which child processes and Locust workers read for themselves.

The user:pass of a URL is moved there before they start, so that no argument, message or pickle holds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from loadtest.errors import ScenarioError, TargetError
from loadtest.urls import BLANKS_AND_QUOTES, Address, has_secrets, parse_url

BASIC_AUTH = "LOADTEST_BASIC_AUTH"  # holds the user:pass taken out of URLs, as URLs with blanks between
FURTHER = "LOADTEST_SECRETS"  # holds names of further variables whose values are secrets, with blanks between
TEXTS = "LOADTEST_SECRET_TEXTS"  # likewise, of variables of a body: a value is one secret, whatever words it has
WRITTEN_OUT = "LOADTEST_BODY_"  # begins variables that hold a secret written out in a body, character by character
_NAMING = ("OLLAMA_HOST", "OPENAI_BASE_URL")  # variables whose URL may hold user:pass


def read_key(name: str, env: Mapping[str, str] = os.environ, *, blanks: bool = False) -> str | None:
    """Return the key without blanks, quotes, line ends and a BOM around it, as .env files leave them; None without a key.

    With `blanks` it may hold some, as the value of a header may.
    """
    key = env.get(name, "").strip(BLANKS_AND_QUOTES)
    if not blanks and key.lower().startswith("bearer "):
        raise ScenarioError(
            f"{name} holds the word Bearer before the key, which loadtest adds itself; set it to the key alone."
        )
    if not all("!" <= char <= "~" or (blanks and char == " ") for char in key):
        raise ScenarioError(
            f"{name} holds a blank, a line end or a non-ASCII character, which no key contains; set it again."
        )
    return key or None


def withhold(text: str, env: MutableMapping[str, str] = os.environ) -> str:
    """Return a URL without its user:pass and its keys, which the environment keeps for this process and its children.

    A text without any is returned unchanged. Raises TargetError for another text that is not a server's URL.
    """
    if not has_secrets(text):
        return text
    address = parse_url(text)
    keep_apart(address, env)
    return address.whole


def keep_apart(address: Address, env: MutableMapping[str, str] = os.environ) -> None:
    env.update(address.keys)
    if address.userinfo:
        keep_userinfo(address.base, address.userinfo, env)


def keep_secret(name: str, *, among: str = FURTHER) -> None:
    """See to it that the value of a variable, say one that --key-env names, is kept out of sentences and files."""
    names = os.environ.get(among, "").split()
    if name not in names:
        os.environ[among] = " ".join([*names, name])


def keep_userinfo(base: str, userinfo: str, env: MutableMapping[str, str] = os.environ) -> None:
    """Remember the user:pass (percent-encoded) of a URL's origin in the environment."""
    scheme, _, rest = base.partition("?")[0].partition("://")
    kept = f"{scheme}://{userinfo}@{rest.partition('/')[0]}"
    others = [one for one in env.get(BASIC_AUTH, "").split() if one != kept]
    env[BASIC_AUTH] = " ".join([kept, *others])


def userinfos(env: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return base URL and percent-encoded user:pass of every URL in the environment that has a user:pass."""
    found = []
    for text in [*env.get(BASIC_AUTH, "").split(), *(env.get(name, "") for name in _NAMING)]:
        if "@" not in text:
            continue
        try:
            address = parse_url(text)
        except TargetError:
            continue  # the error is raised where the URL is used
        if address.userinfo:
            found.append((address.base, address.userinfo))
    return found
