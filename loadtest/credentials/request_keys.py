"""Which credentials a request carries: the key or the user:pass of the server that it goes to."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from urllib.parse import unquote

from loadtest.credentials.environment import FURTHER, TEXTS, read_key, userinfos
from loadtest.errors import ScenarioError
from loadtest.urls import deployment_of, loopback, origin

KEY_VARIABLES = {  # by API: the variables that a key is read from, the first one that is set
    "ollama": ("OLLAMA_API_KEY", "OPENAI_API_KEY"),
    "openai": ("OPENAI_API_KEY", "OLLAMA_API_KEY"),
    "azure": ("AZURE_OPENAI_API_KEY", "OPENAI_API_KEY"),
    "anthropic": ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OLLAMA_API_KEY"),
}


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
    return {} if userinfo is None else {"Authorization": f"Basic {in_base64(userinfo)}"}


def login_of(url: str) -> tuple[bytes, bytes] | None:
    """Return user and password of a URL of the same origin; None without them."""
    if (userinfo := _userinfo_of(url, os.environ)) is None:
        return None
    user, _, password = userinfo.partition(":")
    return unquote(user).encode(), unquote(password).encode()


def _userinfo_of(url: str, env: Mapping[str, str]) -> str | None:
    place = origin(url)
    return next((userinfo for base, userinfo in userinfos(env) if origin(base) == place), None)


def in_base64(userinfo: str) -> str:
    """Return a percent-encoded user:pass as a header of basic auth holds it."""
    return base64.b64encode(unquote(userinfo).encode()).decode("ascii")


def in_the_clear(url: str, api: str, env: Mapping[str, str] = os.environ, *, key_env: str | None = None) -> str | None:
    """Return a warning where credentials leave this machine unencrypted, else None."""
    secret = headers(url, api, env, key_env=key_env) or env.get(FURTHER) or env.get(TEXTS)
    if url.startswith("https://") or loopback(url) or not secret:
        return None
    return f"{url} is plain http: anyone on the network path can read the key that every request carries."
