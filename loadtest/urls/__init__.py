"""URLs of model servers as people write them, and what is secret in them."""

from loadtest.urls.server_url import (
    BLANKS_AND_QUOTES,
    OLLAMA_PORT,
    Address,
    base_url,
    default_url,
    deployment_of,
    endpoint_url,
    has_own_root,
    is_socket,
    loopback,
    origin,
    parse_url,
    with_keys,
)
from loadtest.urls.url_keys import (
    KEPT_APART,
    KEY_SHAPE,
    has_key,
    has_secrets,
    userinfo_apart,
    without_passwords,
    without_secrets,
)

__all__ = [
    "BLANKS_AND_QUOTES",
    "KEPT_APART",
    "KEY_SHAPE",
    "OLLAMA_PORT",
    "Address",
    "base_url",
    "default_url",
    "deployment_of",
    "endpoint_url",
    "has_key",
    "has_own_root",
    "has_secrets",
    "is_socket",
    "loopback",
    "origin",
    "parse_url",
    "userinfo_apart",
    "with_keys",
    "without_passwords",
    "without_secrets",
]
