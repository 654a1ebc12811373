"""Keys and passwords: read from the environment where they are used, and kept out of all files and sentences.

Child processes and Locust workers read their own environment. The user:pass of a URL is moved into the environment
before they start, so that no argument, message or pickle holds it.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from urllib.parse import quote, unquote

from loadtest.errors import ScenarioError, TargetError
from loadtest.text import encodable
from loadtest.urls import (
    BLANKS_AND_QUOTES,
    KEPT_APART,
    Address,
    deployment_of,
    has_secrets,
    loopback,
    origin,
    parse_url,
)

KEY_VARIABLES = {  # by API: the variables that a key is read from, the first one that is set
    "ollama": ("OLLAMA_API_KEY", "OPENAI_API_KEY"),
    "openai": ("OPENAI_API_KEY", "OLLAMA_API_KEY"),
    "azure": ("AZURE_OPENAI_API_KEY", "OPENAI_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OLLAMA_API_KEY"),
}
BASIC_AUTH = "LOADTEST_BASIC_AUTH"  # holds the user:pass taken out of URLs, as URLs with blanks between
FURTHER = "LOADTEST_SECRETS"  # holds names of further variables whose values are secrets, with blanks between
TEXTS = "LOADTEST_SECRET_TEXTS"  # likewise, of variables of a body: a value is one secret, whatever words it has
WRITTEN_OUT = "LOADTEST_BODY_"  # begins variables that hold a secret written out in a body, character by character
_NAMING = ("OLLAMA_HOST", "OPENAI_BASE_URL")  # variables whose URL may hold user:pass

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


def headers(url: str, api: str, env: Mapping[str, str] = os.environ, *, key_env: str | None = None) -> dict[str, str]:
    """Return the headers that hold credentials for requests of `api` to the measured server at `url`; empty without any.

    `key_env` names the one variable to take the key from. Raises ScenarioError for a key that no header can hold, and where
    `key_env` is not set; the error names the variable.
    """
    if key_env is None and (basic := basic_auth(url, env)):
        return basic
    if (key := key_for(url, api, env, key_env=key_env)) is None:
        return {}
    bearer = {"Authorization": f"Bearer {key}"}
    if not is_azure(url) or api == "ollama":
        return bearer
    # Azure itself takes Authorization for a token of Entra ID, a JWT; a gateway of the same shape takes either.
    if key.startswith("eyJ"):
        return bearer
    return {"api-key": key} if _at_azure(url) else {"api-key": key, **bearer}


def key_for(url: str, api: str, env: Mapping[str, str] = os.environ, *, key_env: str | None = None) -> str | None:
    """Return the key for requests of `api` to the server at `url`, None where there is none; raises as `headers` does."""
    key = next((key for name in variables_for(url, api, key_env=key_env) if (key := read_key(name, env))), None)
    if key is None and key_env is not None:
        named = key_env if key_env.isupper() else "that"  # somebody may have given the key itself
        raise ScenarioError(
            f"--key-env names the variable that holds the key, and {named} is not set, or empty; set it."
        )
    return key


def key_variable(url: str, api: str, *, key_env: str | None = None) -> str | None:
    """Return which variable gives the key for requests of `api` to the server at `url`; None where none does."""
    return next((name for name in variables_for(url, api, key_env=key_env) if read_key(name)), None)


def variables_for(url: str, api: str, *, key_env: str | None = None) -> tuple[str, ...]:
    """Return the variables that a key for requests of `api` to the server at `url` is read from, the first one that is set."""
    if key_env is not None:
        return (key_env,)
    return KEY_VARIABLES["azure" if api == "openai" and is_azure(url) else api]


def is_azure(url: str) -> bool:
    """Whether a URL is shaped like Azure's: its host, or a path with /deployments/NAME."""
    return deployment_of(url) is not None or _at_azure(url)


def _at_azure(url: str) -> bool:
    found = origin(url)
    return found is not None and found[1].endswith(".azure.com")


def proxy_auth(proxy: str) -> dict[str, str]:
    """Return the header that holds the user:pass of a proxy's URL; empty without one."""
    return {f"Proxy-{name}": value for name, value in basic_auth(proxy).items()}


def basic_auth(url: str, env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the Authorization header for the user:pass of a URL of the same origin; empty without one."""
    userinfo = _userinfo_of(url, env)
    return {} if userinfo is None else {"Authorization": f"Basic {_base64(userinfo)}"}


def login_of(url: str) -> tuple[bytes, bytes] | None:
    """Return user and password of a URL of the same origin; None without them."""
    if (userinfo := _userinfo_of(url, os.environ)) is None:
        return None
    user, _, password = userinfo.partition(":")
    return unquote(user).encode(), unquote(password).encode()


def _userinfo_of(url: str, env: Mapping[str, str]) -> str | None:
    place = origin(url)
    return next((userinfo for base, userinfo in _userinfos(env) if origin(base) == place), None)


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


VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")  # in what the user adds: a variable's value
_FILLED = re.compile(rf"\$\$\{{|{VARIABLE.pattern}")  # $${ stands for ${
_SECRET_FIELD = re.compile(  # of a body, whose names speak of tokens and keys that are no secrets, too
    r"(?:^|[_-])(?:api|access|auth|bearer|private|secret)[_-]?(?:key|token)s?$|secret|passw|authorization|credential"
    r"|^(?:key|token|auth|cookie)$",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"auth|key|token|cookie|secret|passw|credential|signature|session|^sig$", re.IGNORECASE)
_WORDS_IN = re.compile(r"[\s;,=]+")
_SCHEME = re.compile(r"\s*(?:[A-Za-z][\w-]{0,15}\s+)?")  # beside a variable: "Bearer ", "Basic "


def filled(template: str, what: str, *, any_text: bool = False) -> str:
    """Return a text with every ${NAME} replaced by the variable's value, as `read_key` reads it, and every $${ by ${.

    With `any_text` a value may hold what no header can. Raises ScenarioError for a variable that is not set; the error
    names it and `what` needs it.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] is None:
            return "${"
        found = _text_of(match[1]) if any_text else read_key(match[1], blanks=True)
        if found is None:
            raise ScenarioError(f"{what} needs the environment variable {match[1]}, which is not set or empty; set it.")
        return found

    return _FILLED.sub(value, template)


def _text_of(name: str) -> str | None:
    """Return a variable's value for a body; None where there is none."""
    text = os.environ.get(name, "")
    if not encodable(text):
        raise ScenarioError(f"{name} is not UTF-8 text, which JSON must be; set it again.")
    return (text if name.startswith(WRITTEN_OUT) else text.strip(BLANKS_AND_QUOTES)) or None


def withheld(name: str, value: str, kind: str) -> str:
    """Return a header's or a parameter's value as it may be stored and shown: with ${NAME} in place of a secret.

    A secret given in words (the `name` says that it is one) goes into the environment, where child processes find it.
    Variables that the value names already are remembered as secrets, too.
    """
    variable = f"LOADTEST_{kind}_{re.sub('[^A-Za-z0-9]', '_', name).upper()}"
    return _withheld(value, variable if _SECRET_NAME.search(name) else None, f"{kind.lower()} {name}", FURTHER)


def withheld_field(path: tuple[str, ...], value: str) -> str:
    """Return a text of a body, which stands at `path`, as it may be stored and shown; see `withheld`."""
    name = next((name for name in reversed(path) if not name.isdecimal()), "")  # the places in lists are none
    variable = WRITTEN_OUT + re.sub("[^A-Za-z0-9]", "_", "_".join(path)).upper()
    return _withheld(value, variable if _SECRET_FIELD.search(name) else None, f"body {'.'.join(path)}", TEXTS)


def _withheld(value: str, variable: str | None, what: str, among: str) -> str:
    """Return a value with its secrets kept apart; what is written out goes into `variable`, where that is named."""
    rest = VARIABLE.sub("", value)
    if variable and rest.strip(BLANKS_AND_QUOTES) and (rest == value or not _SCHEME.fullmatch(rest)):
        os.environ[variable] = filled(value, what, any_text=among == TEXTS)
        value = f"${{{variable}}}"
    for named in VARIABLE.findall(value):
        keep_secret(named, among=among)
    return value


def in_the_clear(url: str, api: str, env: Mapping[str, str] = os.environ, *, key_env: str | None = None) -> str | None:
    """Return a warning where credentials leave this machine unencrypted, else None."""
    secret = headers(url, api, env, key_env=key_env) or env.get(FURTHER) or env.get(TEXTS)
    if url.startswith("https://") or loopback(url) or not secret:
        return None
    return f"{url} is plain http: anyone on the network path can read the key that every request carries."


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


def _userinfos(env: Mapping[str, str]) -> list[tuple[str, str]]:
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


def _base64(userinfo: str) -> str:
    return base64.b64encode(unquote(userinfo).encode()).decode("ascii")
