"""The rows in what one event or line holds: one, a list of them, several run together, one in a text or in an envelope."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.dialects.answers.lines.lenient_json import objects_in, parse_json
from loadtest.dialects.base import Note

FRAMED_TWICE = 'the answer\'s events say "data:" more than once'
NO_EVENT = "the answer has lines that are neither an event's nor JSON"
BEHIND_FINISH = "the answer has a line behind its finish_reason that is none of its rows"
RUN_TOGETHER = "the answer has objects of JSON that are not one a line"
AMID = "the answer's objects of JSON have something else around them"
MOST_AROUND = 40  # bytes
IN_A_TEXT = "the answer's objects of JSON come as texts of JSON"
IN_AN_ENVELOPE = "the answer's objects lie in an envelope of a gateway"
_ENVELOPES = ("data", "result", "response", "body", "output", "payload", "event", "chunk", "message", "json")
MOST_ENVELOPES = 2  # one in another
_BETWEEN = re.compile(r"(?:[\s,\[\]\0]|\\[nr])*(?:data:\s*)?")  # some servers escape the ends of lines
_MARK = re.compile(r"\[?DONE\](?:\s|\\[nr])*")
_JSON = json.JSONDecoder(strict=False)

Ended = tuple[dict[str, Any], int]  # a row, and the offset behind it


def rows_within(value: Any, data: bytes, note: Note, knows: Callable[[dict[str, Any]], bool]) -> list[Ended]:
    """Return the rows in the JSON of `data`, and where in `data` each ends; `value` is that JSON as far as it can be read.

    `note` is told what is odd in them. A row with other characters around it counts only where `knows` says that it is one of
    the format. Objects without newlines between them may have come one by one, so each has an end of its own.
    """
    size = len(data)
    if isinstance(value, str) and (text := value[_behind(value, 0) :]).startswith("{"):
        rows = objects_in(parse_json(text.encode(errors="surrogatepass")))
        if rows:
            note(IN_A_TEXT)
        return [(row, size) for row in rows]
    rows = objects_in(value)
    if len(rows) == 1 or (value is not None and not rows):
        return [(row, size) for row in rows]
    found = run_together(data)
    if value is None:
        if found:
            note(RUN_TOGETHER)
        elif (amid := _row_amid(data, knows)) is not None:
            note(AMID)
            return [(amid, size)]
    elif len(found) != len(rows):
        return [(row, size) for row in rows]
    return found


def run_together(data: bytes) -> list[Ended]:
    """Return objects that stand one behind the other, as some proxies send them; none where anything else stands between them."""
    text = data.decode(errors="surrogateescape")
    rows: list[Ended] = []
    at = _behind(text, 0)
    size = seen = 0  # how many bytes the first `seen` characters are
    while at < len(text):
        if text[at] != "{":
            return rows if _MARK.fullmatch(text, at) else []
        try:
            row, at = _JSON.raw_decode(text, at)
        except (ValueError, RecursionError):
            return []
        size, seen = size + len(text[seen:at].encode(errors="surrogateescape")), at
        rows.append((row, size))
        at = _behind(text, at)
    return rows


def _row_amid(data: bytes, knows: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Return a row that `knows` recognises amid a few other characters, such as quotes, a name of a field or a semicolon."""
    before, brace, _ = data[: MOST_AROUND + 1].partition(b"{")
    if not brace or len(data) - data.rfind(b"}") > MOST_AROUND:
        return None
    try:
        row, _ = _JSON.raw_decode(data[len(before) :].decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    return row if knows(row) else None


_SIZE = re.compile(rb"[0-9a-f]{1,6}\r?", re.IGNORECASE)


def is_chunk_size(line: bytes) -> bool:
    """Whether a line says how long the chunk behind it is, as HTTP has it: some proxies put that into the body."""
    return _SIZE.fullmatch(line) is not None


def _behind(text: str, at: int) -> int:
    """Return where the next object begins, behind what may stand between two."""
    between = _BETWEEN.match(text, at)
    return at if between is None else between.end()


_PUNCTUATION = b"[], \t\r"
MOST_HELD = 8  # lines of punctuation before a list's first row


def row_in_list(line: bytes, held: Sequence[bytes], *, begun: bool) -> dict[str, Any] | None:
    """Return the row in a line of a list that is sent a row at a time, an empty one where the line is punctuation alone.

    None where the line is no part of such a list. `held` are the lines before it without a row; `begun`: rows came before it.
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


def unwrapped(
    row: dict[str, Any], knows: Callable[[dict[str, Any]], bool], depth: int = MOST_ENVELOPES
) -> dict[str, Any] | None:
    """Return the row in a gateway's envelope, with what lies beside it there; None where `knows` recognises no row in it."""
    for name in _ENVELOPES:
        inner = row.get(name)
        if isinstance(inner, str) and inner.startswith("{"):
            inner = parse_json(inner.encode(errors="surrogatepass"))
        if isinstance(inner, list) and len(inner) == 1:
            inner = inner[0]
        if not isinstance(inner, dict):
            continue
        found = inner if knows(inner) else unwrapped(inner, knows, depth - 1) if depth > 1 else None
        if found is not None:
            return {key: value for key, value in row.items() if key != name} | found
    return None
