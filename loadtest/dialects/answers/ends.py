"""How an answer says that it is over, and what its finish_reason means."""

from __future__ import annotations

import re
from typing import Any

from loadtest.dialects.answers.lenient_json import parse_json
from loadtest.dialects.answers.server_errors import error_sentence, in_row, quoted
from loadtest.dialects.base import End, EndMarks

DONE = (b"[DONE]", b'"[DONE]"')

_WELL = frozenset(("stop", "length", "tool_calls", "function_call", "content_filter", "load", "unload"))
_BADLY = frozenset(
    (
        *("abort", "aborted", "cancelled", "canceled", "cancel"),
        *("error", "failed", "network_error", "insufficient_system_resource"),  # the last two are GLM's and DeepSeek's
        *("timeout", "timed_out", "overloaded", "engine_overloaded"),  # TensorRT-LLM's, and gateways'
        *("internal_error", "server_error", "engine_error", "model_error", "upstream_error"),
    )
)
_FRAMES = re.compile(rb"\s*(?:data:\s*)*")
# texts that mean "no reason yet", e.g. DashScope's and watsonx's
_NONE = frozenset(("", "null", "none", "not_finished"))


def reason_name(value: Any) -> str | None:
    """Return the name in a finish_reason, which is a string or SGLang's {"type": name}; None where there is none."""
    if isinstance(value, dict):
        value = value.get("type")
    return value if isinstance(value, str) and value.strip().lower() not in _NONE else None


def ended_badly(name: str, value: Any) -> str | None:
    """Say what went wrong where a finish_reason is one of a failure."""
    if name.strip().lower() not in _BADLY:
        return None
    said = error_sentence(value) if isinstance(value, dict) and value.get("message") else None
    return f"the server ended the answer with finish_reason {quoted(name, 40)}" + (f": {said}" if said else "")


def is_unknown_reason(name: str) -> bool:
    return name.strip().lower() not in _WELL | _BADLY


def end_said_by(line: bytes) -> End | None:
    """Say what one line of an answer, streamed in either API's format, says of its end.

    An error is a mark: servers send nothing but [DONE] behind it.
    """
    name, data = _field(line)
    if name == b"event":
        return End.MARK if data in (b"done", b"error") else None
    if name == b"error" or (name == b"data" and data in DONE):
        return End.MARK
    row = row_of_line(line)
    return None if row is None else _of_row(row)


def row_of_line(line: bytes) -> dict[str, Any] | None:
    """Return the object in one line of an answer, as an event's data or by itself; None where the line has none."""
    name, data = _field(line)
    row = parse_json(data) if name == b"data" and data.startswith(b"{") else None
    return row if isinstance(row, dict) else None


def bare_data(data: bytes) -> bytes:
    """Return an event's data without further "data:" before it: some gateways frame an event twice."""
    begin = _FRAMES.match(data)
    return data[begin.end() if begin is not None else 0 :].strip()


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return an event field's name and value; a line that is JSON by itself counts as data."""
    line = line.strip(b"\r\n\xef\xbb\xbf")
    if b"\r" in line:
        line = line.rpartition(b"\r")[2]  # an event stream whose lines end in \r alone
    name, colon, data = line.partition(b":")
    if line.startswith(b"{") or (not colon and line.strip() in DONE):
        return b"data", line.strip()
    return name, bare_data(data)


def _of_row(row: dict[str, Any]) -> End | None:
    if row.get("done") is True or in_row(row):
        return End.MARK
    choices = row.get("choices")
    for choice in (choices,) if isinstance(choices, dict) else choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and reason_name(choice.get("finish_reason")):
            return End.FINISH
    return None


# The wire looks for each needle in every read. "true" and "error" occur in no ordinary piece, whatever blanks surround them.
# An event named done has no needle: servers that send it give a finish_reason first, and close the connection afterwards.
OLLAMA = EndMarks((b"true", b'"error"'), end_said_by)
OPENAI = EndMarks((b"[DONE]", b'_reason":"', b'_reason": "', b"error"), end_said_by)
