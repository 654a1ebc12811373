"""How an answer says that it is over, and what its finish_reason means."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from loadtest.dialects.answers.errors.error_rows import error_in_row
from loadtest.dialects.answers.errors.error_words import words_in
from loadtest.dialects.answers.errors.server_errors import error_sentence, quoted
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.dialects.answers.rows.event_rows import run_together
from loadtest.dialects.base import End, EndMarks

# most servers say [DONE], some "DONE" or [[DONE]], and some escape the end of the line
_DONE = re.compile(rb"""\s*(?:"?\[*\s*DONE\s*\]*"?|\[done\])(?:\s|\\[nr])*""")
_LONGEST_DONE = 32  # bytes

_WELL = frozenset(("stop", "length", "tool_calls", "function_call", "content_filter", "load", "unload"))
# Reasons of other engines and APIs. A reason means the one on the left where it has a word of the first line, and no word
# that is in neither line.
_SAME = {
    "stop": (
        "stop stopped eos eot eog endoftext end pause finish finished done complete completed normal word",
        "of turn text sequence string str words token id found reached criteria met generation natural",
    ),
    "length": (
        "length max maximum limit window len truncated truncation overflow",
        "token tokens new completion output predicted model context seq sequence size exceeded reached budget generation",
    ),
    "tool_calls": ("tool tools function", "call calls use"),
    "content_filter": (
        "filter filtered safety sensitive recitation prohibited blocklist blacklist blocked spii refusal refused guardrail guardrails policy armor",
        "content image output text model intervened violation moderation",
    ),
}
_WORDS_OF = {name: (frozenset(first.split()), frozenset(more.split())) for name, (first, more) in _SAME.items()}
# parts of names of a failure: abort, FINISH_REASON_ERROR, USER_CANCEL, and DeepSeek's insufficient_system_resource
_BAD_PARTS = frozenset(
    (
        *("error", "abort", "aborted", "cancel", "cancelled", "canceled", "failed", "failure", "timeout", "exception"),
        *("timed", "overloaded", "insufficient"),
        *("interrupted", "preempt", "preempted", "killed", "terminated", "disconnect", "disconnected", "shutdown"),
        *("oom", "unloaded"),
    )
)
_PARTS = re.compile(r"[^a-z]+")
_BETWEEN = re.compile(r"\W+")
_KIND = re.compile(r"^(?:(?:finish|stop|done)_)?reason_")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])")
_FRAMES = re.compile(rb"\s*(?:data:\s*)*")
# texts that mean "no reason yet", e.g. DashScope's, watsonx's and Gemini's
_NONE = frozenset(("", "null", "none", "not_finished", "unspecified"))


LAST_OF_RESPONSES = tuple(f"response.{how}" for how in ("completed", "incomplete", "failed", "cancelled", "done"))
_LAST = frozenset((*LAST_OF_RESPONSES, "message_stop"))  # types of the events that end an answer
_LAST_NAMES = frozenset(map(str.encode, _LAST))


def is_done(data: bytes) -> bool:
    """Whether data or a line is the mark that ends an event stream."""
    return len(data) < _LONGEST_DONE and _DONE.fullmatch(data) is not None


def reason_name(value: Any) -> str | None:
    """Return the name in a finish_reason, a string, SGLang's {"type": name} or a list of one; None where there is none."""
    if isinstance(value, dict):
        value = value.get("type") or next(iter(value.values()), None)
    elif isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) and _plain(value) not in _NONE else None


@lru_cache(maxsize=64)  # for the answers of a run say the same few names
def _plain(name: str) -> str:
    """Return a reason's name as most servers spell it.

    FinishReason.STOP, FINISH_REASON_STOP, REASON_STOP, tool-calls, contextLengthReached and Gemini's "content_filter:
    RECITATION" are names, too.
    """
    name = _HUMP.sub("_", name.strip().rpartition(".")[2]).lower()
    return _KIND.sub("", _BETWEEN.sub("_", name))


def ended_badly(name: str, value: Any, row: Any = None) -> str | None:
    """Say what went wrong where a finish_reason is one of a failure; its row may have words on it."""
    plain = _plain(name)
    if plain in _WELL or _BAD_PARTS.isdisjoint(_PARTS.split(plain)):
        return None
    with_words = next((one for one in (value, row) if isinstance(one, dict) and words_in(one)), None)
    said = None if with_words is None else error_sentence(with_words)
    return f"the server ended the answer with finish_reason {quoted(name, 40)}" + (f": {said}" if said else "")


def known_reason(name: str) -> str | None:
    """Return OpenAI's name for a reason with which answers end well; None for any other reason."""
    plain = _plain(name)
    if plain in _WELL:
        return plain
    parts = set(plain.split("_"))
    return next((well for well, (first, more) in _WORDS_OF.items() if parts & first and parts <= first | more), None)


def is_true(value: Any) -> bool:
    """Whether a flag says yes: some servers say it as a text or by a number."""
    return bool(value == 1) or (isinstance(value, str) and value.lower() == "true")


def is_flag(value: Any) -> bool:
    """Whether a value says yes or no."""
    return is_true(value) or bool(value == 0) or (isinstance(value, str) and value.lower() == "false")


def names_an_error(event: bytes) -> bool:
    """Whether an event's name says that its data are an error: error, run.failed, modelStreamErrorException."""
    name = event.decode(errors="replace").lower()
    return "error" in name or "exception" in name or not _BAD_PARTS.isdisjoint(_PARTS.split(name))


_ENDS = frozenset(("end", "ended", "done", "finish", "finished", "complete", "completed"))
_WHOLES = frozenset(("chat", "message", "run", "response", "conversation", "stream", "workflow"))


def names_an_end(words: bytes) -> bool:
    """Whether a row of no known format says by its type that a whole answer is over: chat.end, RUN_FINISHED, message_end."""
    row = parse_json(words)
    kind = (row.get("type") or row.get("event")) if isinstance(row, dict) else None
    parts = set(_PARTS.split(kind.lower())) if isinstance(kind, str) else set()
    return bool(parts & _ENDS) and parts <= _ENDS | _WHOLES


_OF_A_PIECE = frozenset(("model", "created_at", "message", "response", "done", "remote_model", "remote_host"))


def is_last(row: dict[str, Any]) -> bool:
    """Whether a row with done:true is the last one. A few servers say done:true in every row, beside its piece of text alone."""
    message = row.get("message")
    text = message.get("content") if isinstance(message, dict) else message or row.get("response")
    return not text or not row.keys() <= _OF_A_PIECE


def end_said_by(line: bytes) -> End | None:
    """Return what one line of an answer, in whatever format, says of the answer's end; None where it says nothing of it.

    An error is a mark: servers send nothing but [DONE] behind it. The name of an event that ends an answer is no mark yet, for
    the event's data is still to come.
    """
    name, data = _field(line)
    if name == b"event":
        if names_an_error(data):
            return End.FAILED
        return End.MARK if data == b"done" else End.FINISH if data in _LAST_NAMES else None
    if name == b"error" or (name == b"data" and is_done(data)):
        return End.MARK
    row = _row_of_field(name, data)
    return None if row is None else _of_row(row)


def row_of_line(line: bytes) -> dict[str, Any] | None:
    """Return the object in one line of an answer, as an event's data or by itself; None where the line has none."""
    return _row_of_field(*_field(line))


def _row_of_field(name: bytes, data: bytes) -> dict[str, Any] | None:
    if name != b"data" or not data.startswith(b"{"):
        return None
    row = parse_json(data)
    if row is None and (rows := run_together(data)):
        return rows[-1][0]
    return row if isinstance(row, dict) else None


def bare_data(data: bytes) -> bytes:
    """Return an event's data without further "data:" before it: some gateways frame an event twice."""
    begin = _FRAMES.match(data)
    return data[begin.end() if begin is not None else 0 :].strip()


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Return an event field's name and value; a line that is JSON by itself counts as data."""
    line = line.strip(b"\r\n\xef\xbb\xbf\x1e")
    name, colon, data = line.partition(b":")
    if line.startswith(b"{") or (not colon and is_done(line)):
        return b"data", line.strip()
    return name.strip(b" \t\0").lower(), bare_data(data)


def kind_of(row: dict[str, Any]) -> str:
    """Return the type of an event's data, "" where it has none."""
    kind = row.get("type")
    return kind if isinstance(kind, str) else ""


def _of_row(row: dict[str, Any]) -> End | None:
    kind, delta = kind_of(row), row.get("delta")
    if kind in _LAST:
        return End.MARK
    if kind == "message_delta" and isinstance(delta, dict) and reason_name(delta.get("stop_reason")):
        return End.FINISH
    if is_true(row.get("done")):
        return End.MARK if is_last(row) else End.FINISH
    if error_in_row(row):
        return End.MARK
    choices = row.get("choices")
    if choices and reason_name(row.get("finish_reason")):
        return End.FINISH
    for choice in (choices,) if isinstance(choices, dict) else choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and reason_name(choice.get("finish_reason")):
            return End.FINISH
    return None


# The wire looks for each needle in every read. "true" and "error" occur in no ordinary piece, whatever blanks surround them.
# Ends that are said otherwise, such as a done that is a number, have no needle: the decoder finds them in a silence (see
# Received.look).
OLLAMA = EndMarks((b"true", b'"error"'), end_said_by)
OPENAI = EndMarks((b"DONE", b"[done]", b'_reason":"', b'_reason": "', b"error"), end_said_by)
