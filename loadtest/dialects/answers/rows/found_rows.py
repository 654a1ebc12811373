"""The rows in what one event or line holds: one, a list of them, several run together, one in a text or in an envelope."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.dialects.answers.lines.lenient_json import parse_json

FRAMED_TWICE = 'the answer\'s events say "data:" more than once'
NO_EVENT = "the answer has lines that are neither an event's nor JSON"
BEHIND_FINISH = "the answer has a word behind its finish_reason that is no JSON"
RUN_TOGETHER = "the answer has objects of JSON that are not one a line"
IN_A_TEXT = "the answer's objects of JSON come as texts of JSON"
IN_AN_ENVELOPE = "the answer's objects lie in an envelope of a gateway"
_ENVELOPES = ("data", "result", "response", "body", "output", "payload", "event", "chunk")
_BETWEEN = re.compile(r"[\s,]*(?:data:)?\s*")
_JSON = json.JSONDecoder(strict=False)


def rows_of(value: Any) -> list[dict[str, Any]]:
    """Return the rows in a value: an object is one, a list of objects several, anything else none."""
    if isinstance(value, dict):
        return [value]
    found = value if isinstance(value, list) else []
    return found if all(isinstance(row, dict) for row in found) else []


def rows_within(value: Any, data: bytes, odd: list[str]) -> list[dict[str, Any]]:
    """Return the rows in the JSON of `data`, which `value` is as far as it can be read; what is odd in that goes to `odd`."""
    if rows := rows_of(value):
        return rows
    if isinstance(value, str) and value.lstrip().startswith("{"):
        rows, why = rows_of(parse_json(value.encode(errors="surrogatepass"))), IN_A_TEXT
    else:
        rows, why = run_together(data) if value is None else [], RUN_TOGETHER
    odd += [why] * bool(rows)
    return rows


def run_together(data: bytes) -> list[dict[str, Any]]:
    """Return objects that stand one behind the other, as some proxies send them; none where anything else is among them."""
    text = data.strip().decode(errors="replace")
    rows: list[dict[str, Any]] = []
    at = 0
    while at < len(text):
        if text[at] != "{":
            return []
        try:
            row, at = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        rows.append(row)
        between = _BETWEEN.match(text, at)
        at = between.end() if between is not None else at
    return rows


def row_in_list(line: bytes, held: Sequence[bytes], *, begun: bool) -> dict[str, Any] | None:
    """Return the row in a line of a list that is sent a row at a time, empty where the line has nothing but punctuation.

    None where it is no such line. `held` are the lines before it that are no rows; rows came where the list has `begun`.
    """
    bare = line.strip(_PUNCTUATION)
    if not bare:
        return {} if begun and not held else None
    if (bare == line and not held) or not bare.startswith(b"{") or len(held) > MOST_HELD:
        return None
    if any(one.strip(_PUNCTUATION) for one in held):
        return None
    row = parse_json(bare)
    return row if isinstance(row, dict) else None


_PUNCTUATION = b"[], \t\r"
MOST_HELD = 8  # lines of punctuation before a list's first row


def unwrapped(row: dict[str, Any], takes: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Return the row in a gateway's envelope, with what lies beside it; None where the row is no envelope of one that `takes`."""
    for name in _ENVELOPES:
        inner = row.get(name)
        if isinstance(inner, str) and inner.startswith("{"):
            inner = parse_json(inner.encode(errors="surrogatepass"))
        if isinstance(inner, dict) and takes(inner):
            return {key: value for key, value in row.items() if key != name} | inner
    return None
