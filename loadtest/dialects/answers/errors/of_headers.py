"""What an answer's headers say of an error: its cause, where the body says nothing, and when to try again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import unquote

_OF_ERRORS = re.compile(  # x-amzn-errortype, x-ms-error-code, ngrok-error-code, x-apigee-fault-code, x-deny-reason
    r"(?:^|-)(?:err|error|fault|deny|denied)(?:[-_]?(?:type|message|msg|code|reason|info|detail))?$|^grpc-message$"
)
_IN_WORDS = re.compile(r"message|msg|reason|detail|info")
_CHALLENGE = re.compile(r'\berror(?:_description)?="([^"]{1,300})"', re.IGNORECASE)
_WAIT = re.compile(
    r"\+?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?(?:(\d{1,12}(?:\.\d{1,9})?)\s*(ms|s|sec|seconds)?)?", re.IGNORECASE
)


def cause_in(said: Mapping[str, str]) -> str | None:
    """Return the header, or the part of it, that says what is wrong (names in small letters); None where none does."""
    found = {name: value for name, value in said.items() if value.strip(" 0") and _OF_ERRORS.search(name)}
    if found:
        name = next(filter(_IN_WORDS.search, found), next(iter(found)))
        return f"{name}: {unquote(found[name]).strip()}"
    challenge = _CHALLENGE.findall(said.get("www-authenticate", ""))
    return f"www-authenticate: {challenge[-1]}" if challenge else None


def when_to_retry(said: Mapping[str, str]) -> str:
    """Return what headers (names in small letters) say of that: seconds, Azure's milliseconds, or an instant."""
    wait = said.get("retry-after", "").strip()
    in_ms = next((said[name].strip() for name in ("retry-after-ms", "x-ms-retry-after-ms") if name in said), "")
    if (known := _wait_s(wait)) is None and in_ms:
        known = _wait_s(f"{in_ms}ms")
    if known is not None:
        return f" (retry after {known:.10g} s)"
    try:
        seconds = (parsedate_to_datetime(wait) - parsedate_to_datetime(said.get("date", ""))).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return " (says when to retry)" if wait else ""
    return f" (retry after {max(seconds, 0):.10g} s)"


def _wait_s(said: str) -> float | None:
    """Return seconds out of "17", "20s", "500ms" or "2m59s", said once or more often; None where it is no such time."""
    found = _WAIT.fullmatch(said.partition(",")[0].strip())
    if found is None or not found[0]:
        return None
    hours, minutes, rest, unit = found.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest) * (0.001 if unit.lower() == "ms" else 1)
