"""${NAME} in what the user adds to requests: stored with the variable's name, sent with its value."""

from __future__ import annotations

import os
import re

from loadtest.credentials.environment import FURTHER, TEXTS, WRITTEN_OUT, keep_secret, read_key
from loadtest.errors import ScenarioError
from loadtest.text import encodable
from loadtest.urls import BLANKS_AND_QUOTES

VARIABLE = re.compile(r"(?<!\$)\$\{([A-Za-z_][A-Za-z0-9_]*)\}")  # in what the user adds: a variable's value
_FILLED = re.compile(rf"\$\$\{{|{VARIABLE.pattern}")  # $${ stands for ${
_SECRET_FIELD = re.compile(  # of a body, whose names speak of tokens and keys that are no secrets, too
    r"(?:^|[_-])(?:api|access|auth|bearer|private|secret)[_-]?(?:key|token)s?$|secret|passw|authorization|credential"
    r"|^(?:key|token|auth|cookie)$",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"auth|key|token|cookie|secret|passw|credential|signature|session|^sig$", re.IGNORECASE)
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
