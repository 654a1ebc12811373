"""Keys and passwords: read from the environment where they are used, and kept out of all files and sentences."""

from loadtest.credentials.environment import (
    BASIC_AUTH,
    FURTHER,
    keep_apart,
    keep_secret,
    keep_userinfo,
    read_key,
    withhold,
)
from loadtest.credentials.redaction import redacted, redactor, scrubber
from loadtest.credentials.request_keys import (
    basic_auth,
    headers,
    in_the_clear,
    is_azure,
    key_variable,
    login_of,
    proxy_auth,
    variables_for,
)
from loadtest.credentials.substitution import VARIABLE, filled, withheld, withheld_field

__all__ = [
    "BASIC_AUTH",
    "FURTHER",
    "VARIABLE",
    "basic_auth",
    "filled",
    "headers",
    "in_the_clear",
    "is_azure",
    "keep_apart",
    "keep_secret",
    "keep_userinfo",
    "key_variable",
    "login_of",
    "proxy_auth",
    "read_key",
    "redacted",
    "redactor",
    "scrubber",
    "variables_for",
    "withheld",
    "withheld_field",
    "withhold",
]
