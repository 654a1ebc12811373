"""Errors by the names that frameworks and clouds give them: in rows of no format that is known, and beside choices."""

from __future__ import annotations

import re
from typing import Any

from loadtest.dialects.answers.errors import server_errors

# errorMessage (AWS Lambda), throttlingException (Bedrock), fault (Apigee), err
_NAMES = re.compile(
    r"err|fault|failure|(?:\w*_)?error(?:_?(?:message|msg|text|description|info))?|\w*exception", re.IGNORECASE
)
_ENVELOPES = ("header", "status")  # in which clouds put a code and a message (iFlytek, Google)
_CODES = ("code", "status", "status_code")
_BESIDE = frozenset((*_CODES, "success", "ok", "errors"))
_OF_HTTP = re.compile(r"[45]\d\d")


def beside_choices(row: dict[str, Any]) -> str | None:
    """Return what a row with choices says is wrong in an envelope's words; None where it says nothing of that kind.

    A code is one of HTTP there: gateways number their good answers, too.
    """
    if _BESIDE.isdisjoint(row):
        return None
    foreign = {key for key in _CODES if key != "status" and not _OF_HTTP.fullmatch(str(row.get(key)))}
    left_out = {"choices", "detail", *foreign}
    return server_errors.envelope({key: value for key, value in row.items() if key not in left_out})


def in_foreign_row(row: dict[str, Any]) -> str | None:
    """Return what such a row says is wrong, be it in an envelope or under a name of its own; None where it says nothing."""
    if (said := server_errors.in_row(row) or server_errors.envelope(row)) is not None:
        return said
    for name, value in row.items():
        named = value and isinstance(value, str | dict) and _NAMES.fullmatch(name)
        if named and (said := server_errors.in_row({"error": value})) is not None:
            return said
        said = server_errors.in_row(value) if isinstance(value, dict) else None
        if said is None and name in _ENVELOPES and isinstance(value, dict):
            said = server_errors.envelope(value)
        if said is not None:
            return said
    return None
