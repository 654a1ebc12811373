"""What a row of an answer says is wrong: under the names of the known formats, of gateways, frameworks and clouds."""

from __future__ import annotations

import re
from typing import Any

from loadtest.dialects.answers.errors.error_words import DEEPEST, WORDS, one_spelling, words_in
from loadtest.dialects.answers.errors.server_errors import error_sentence

_STATES = ("queued", "pending", "processing", "inprogress", "running")  # of a request that has no answer yet
_BAD_STATUS = ("error", "fail", "failed", "failure", "aborted", "cancelled", "canceled")
_ERROR_KIND = re.compile(r"(?:error|exception)\Z", re.IGNORECASE)  # stream_error, ThrottlingException
_ERROR_CODES = ("errorcode", "errcode")
_CODES = ("code", "status", "statuscode", *_ERROR_CODES, "retcode", "ret", "returncode", "resultcode")
_GOOD_CODES = ("0", "200", "ok", "success")
_GOOD_WORDS = ("ok", "success", "succeeded")
_WORDS_OF_ERRORS = ("error_message", "error_msg", "errmsg", "err_msg")  # no good answer has words there
# errorMessage (AWS Lambda), throttlingException (Bedrock), fault (Apigee), err
_NAMES = re.compile(
    r"err|fault|failure|(?:\w*_)?error(?:_?(?:message|msg|text|description|info))?|\w*exception", re.IGNORECASE
)
_ENVELOPES = ("header", "status")  # in which clouds put a code and a message (iFlytek, Google)
_BESIDE_CHOICES = frozenset(("code", "status", "status_code", "success", "ok", "errors"))
_OF_HTTP = re.compile(r"[45]\d\d")


def error_in_row(row: dict[str, Any]) -> str | None:
    """Return the error in a row of an answer, under whichever name; None where it has none."""
    if (error := row.get("error")) and not is_no_error(error):
        return error_sentence(row if isinstance(error, bool | int | float) or row.get("choices") is None else error)
    for name, value in row.items():
        if isinstance(value, dict) and name.startswith("x_") and value.get("error") and not is_no_error(value["error"]):
            return error_sentence(value["error"])  # Groq's x_groq
    if row.get("object") == "error" or row.get("type") in ("error", "response.error"):
        return error_sentence(row)
    if not row.get("choices") and any(_says(row.get(name)) for name in _WORDS_OF_ERRORS):  # DeepInfra
        return error_sentence(row)
    base = row.get("base_resp")  # MiniMax
    return error_sentence(base) if isinstance(base, dict) and base.get("status_code") else None


def _says(value: Any) -> bool:
    """Whether a value is words that are not just those of success."""
    return isinstance(value, str) and not is_no_error(value) and value.strip().lower() not in _GOOD_WORDS


def is_no_error(error: Any) -> bool:
    """Whether what stands under an error's name is no error: all of it empty, as one-api sends it, or a code of success."""
    if isinstance(error, str):
        return error.strip().lower() in ("", "none", "null", "false")
    if not isinstance(error, dict):
        return False
    error = one_spelling(error)
    said = [
        value
        for key, value in error.items()
        if key not in _CODES and not (isinstance(value, str) and is_no_error(value))
    ]
    words = [value for value in said if value and str(value).strip().lower() not in _GOOD_WORDS]
    codes = [error[key] for key in _CODES if error.get(key)]
    return not words and all(str(code).lower() in (*_GOOD_CODES, *_GOOD_WORDS) for code in codes)


def error_in_envelope(row: dict[str, Any]) -> str | None:
    """Return the error in a row that has nothing of a dialect's own, as gateways send with status 200; else None."""
    row = one_spelling(row)
    if isinstance(inner := row.get("response"), dict):  # Tencent's
        row |= one_spelling(inner)
    if (
        (row.get("error") and not is_no_error(row["error"]))
        or any(row.get(name) for name in ("errors", "detail", "fault"))
        or any(str(row.get(name)).lower() in ("false", "0") for name in ("success", "ok"))
        or any(row.get(name) is True for name in ("iserror", "failed"))
        or any(str(row.get(name)).lower() in _BAD_STATUS for name in ("status", "state"))
        or any(_ERROR_KIND.search(row[name]) for name in ("type", "object", "event") if isinstance(row.get(name), str))
    ):
        return error_sentence(row)
    codes = (row[key] for key in _CODES if isinstance(row.get(key), int | str) and not _is_state(key, row[key]))
    code = next(codes, None)
    if code is None or isinstance(code, bool) or str(code).lower() in _GOOD_CODES:
        return None
    if any(_says(row.get(key)) for key in WORDS):
        return error_sentence(row)
    if isinstance(row.get("text"), str) and any(row.get(key) for key in _ERROR_CODES):
        return error_sentence(row["text"])  # FastChat's, in mid-stream
    return None


def _is_state(key: str, value: int | str) -> bool:
    """Whether a status says where the request is, such as queued or 102, as gateways do before the first token."""
    if isinstance(value, str) and not value.isdecimal():
        return key == "status" or value.lower().replace("_", "") in _STATES
    code = int(value[:9]) if isinstance(value, str) else value  # a text of thousands of digits is no int
    return key.startswith("status") and 100 <= code < 300


def message_alone(row: dict[str, Any]) -> str | None:
    """Return what a row says under a name of messages; for rows that have no error under any other name."""
    said = any(value and isinstance(value, str) and key in WORDS for key, value in one_spelling(row).items())
    return error_sentence(row) if said or words_in(row.get("warnings")) else None


def error_beside_choices(row: dict[str, Any]) -> str | None:
    """Return the error that a row has in an envelope's words beside its choices; None where it has none.

    Beside choices a code counts only where it is an error's of HTTP: gateways number their good answers, too.
    """
    if _BESIDE_CHOICES.isdisjoint(row):
        return None
    foreign = {key for key in ("code", "status_code") if not _OF_HTTP.fullmatch(str(row.get(key)))}
    left_out = {"choices", "detail", *foreign}
    return error_in_envelope({key: value for key, value in row.items() if key not in left_out})


def error_in_foreign_row(row: dict[str, Any]) -> str | None:
    """Return the error in a row of no known format, in an envelope or under another name; None where it has none."""
    if (said := error_in_row(row) or error_in_envelope(row)) is not None:
        return said
    for name, value in row.items():
        named = value and isinstance(value, str | dict) and _NAMES.fullmatch(name)
        if named and (said := error_in_row({"error": value})) is not None:
            return said
        if isinstance(value, dict) and (
            said := error_in_row(value)
            or error_in_row(one_spelling(value))
            or (error_in_envelope(value) if name in _ENVELOPES else None)
        ):
            return said
    return None


def error_within(value: Any, depth: int = DEEPEST) -> str | None:
    """Return the error in an object, or up to DEEPEST objects deep in it, lists apart; None where it has none.

    It may be one that a tool of the server's met.
    """
    if not isinstance(value, dict) or not depth:
        return None
    inside = (error_within(inner, depth - 1) for inner in value.values())
    return error_in_row(value) or next(filter(None, inside), None)
