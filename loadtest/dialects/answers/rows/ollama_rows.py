"""The lines of /api/chat and /api/generate, streamed or not, as events, instants and counts."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from loadtest.dialects.answers import ends
from loadtest.dialects.answers.decoded import OTHERS, Decoded, Rows, as_name
from loadtest.dialects.answers.errors import error_rows
from loadtest.dialects.answers.rows.counts import (
    OUTPUT,
    PROMPT,
    durations_and_counts,
    first_count,
    flat_usage,
)
from loadtest.dialects.answers.rows.text_shapes import as_marked, texts_in_message

_REASONS = ("done_reason", "finish_reason", "finishReason", "stopReason")
_COUNTS = ("prompt_tokens", "completion_tokens")
_CONTENTS = ("response", "content", "text", "delta")  # the text of a line that has no message
_OTHER_TEXTS = ("thinking", "reasoning", "reasoning_content", "tool_calls")  # text in a line of /api/generate


class OllamaRows(Rows):
    """Takes the lines of /api/chat and /api/generate, streamed or not."""

    __slots__ = ("_chat", "_counts", "_flagged")

    def __init__(self, answer: Decoded, *, chat: bool = True) -> None:
        super().__init__(answer)
        self._chat = chat
        self._flagged = False  # a row said whether it is the last; Cloudflare's do not
        self._counts: tuple[int | None, int | None] = (None, None)  # of prompt and output, under the names of /v1

    def knows(self, row: dict[str, Any]) -> bool:
        done = row.get("done")
        if done is False or ends.is_flag(done):
            return True
        if "type" in row or row.get("choices"):
            return False
        return isinstance(row.get("message"), dict) or ("response" in row and not isinstance(row["response"], dict))

    def take(self, row: dict[str, Any]) -> bool:
        answer = self._answer
        events = answer.events
        before = len(events.texts)
        self._flagged = self._flagged or "done" in row
        own = self.knows(row) and self._text(row)
        self._take_usage(row)
        if len(events.texts) > before:
            sent = row.get("created_at")
            stamp = nanoseconds(sent)
            answer.stamped = answer.stamped or sent is not None
            answer.unstamped = answer.unstamped or stamp is None
            events.created += [stamp] * (len(events.texts) - before)
            answer.take_model(row.get("model"))
        message = row.get("message")
        said = error_rows.error_in_row(row)
        if said is None and isinstance(message, dict):
            said = error_rows.error_in_row({"error": message.get("error")})
        answer.take_error(row, said)  # before a done_reason that says no more than "error"
        ending = answer.ending
        done = row.get("done")
        if (done and ends.is_true(done)) or ("done" not in row and ends.reason_name(_reason(row))):
            ending.whole = not before
            if ends.is_last(row):
                self._done(row)
            elif not ending.done:
                ending.done, answer.finished_at = True, len(events.texts)
        return own and len(events.texts) == before + 1 and not (ending.done or ending.error)

    def _text(self, row: dict[str, Any]) -> bool:
        """Take the text of a line; return whether it is the model's."""
        message = row.get("message")
        if message and isinstance(message, str | list) and error_rows.error_in_envelope(row) is None:
            message = {"content": message}
        if not isinstance(message, dict) or (not self._chat and "response" in row):
            content = next((row[name] for name in _CONTENTS if row.get(name)), None)
            message = {"content": content} | {key: row[key] for key in _OTHER_TEXTS if key in row}
        texts = as_marked(texts_in_message(message, self._answer.note), row)
        own = message.get("role") not in OTHERS
        if not own and any(texts):
            texts = self._answer.of_another(message["role"], texts)
        events = self._answer.events
        # one piece may be a token that comes twice, but for a last event that has no flag for it (CLOVA's)
        most = 1 if "done" in row else 0
        is_end = bool(row.get("done") or _reason(row))
        if is_end and len(events.hidden) > most and texts[1].startswith(thoughts := self._answer.hidden_text):
            texts = texts[0], texts[1][len(thoughts) :]  # exo's, beside a call
            self._answer.note("the last line repeats the thoughts: counted once")
        if is_end and len(events.texts) > most and self._answer.has_all(texts):
            self._answer.note("the last line repeats the whole answer: counted once")
        else:
            self._answer.add(texts)
        return own

    def _take_usage(self, row: dict[str, Any]) -> None:
        """Take counts as /v1 sends them, which some servers leave as they are."""
        said = row.get("usage") or {name: row[name] for name in _COUNTS if name in row}
        if said and isinstance(said, dict):
            said, note = flat_usage(said), self._answer.note
            self._counts = first_count(said, PROMPT, note), first_count(said, OUTPUT, note)

    def _done(self, row: dict[str, Any]) -> None:
        """Take the last line's facts. Ollama leaves zeros out, so an absent count is unknown, not zero."""
        answer = self._answer
        answer.over = True
        answer.ending.model = as_name(row.get("model"))
        value = _reason(row)
        name = ends.reason_name(value)
        if name is None:
            answer.ending.done = True
        else:
            answer.finish(name, value, row)
        self._count(row)

    def count_behind(self, row: dict[str, Any]) -> None:
        # Lemonade says the end once more, with its counts and no durations
        if self._answer.ending.output_tokens is None:
            self._count({name: count for name, count in row.items() if name.endswith("_count")})

    def _count(self, row: dict[str, Any]) -> None:
        answer, server = self._answer, self._answer.ending.server
        server |= durations_and_counts(row, answer.note)
        prompt, output = self._counts
        answer.count(server.get("prompt_eval_count", prompt), server.get("eval_count", output))

    def close(self) -> None:
        self._answer.drop_echo()
        if self._answer.marked and not self._flagged:
            self._answer.ending.done = True
            self._answer.count(*self._counts)


def _reason(row: dict[str, Any]) -> Any:
    return next(filter(None, map(row.get, _REASONS)), None)


_INSTANT = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)(?:\.(\d+))?(?:[Zz]|([+-])([01]\d|2[0-3])(?::?([0-5]\d))?)", re.ASCII
)


def nanoseconds(stamp: Any) -> int | None:
    """Return an RFC 3339 instant as nanoseconds since 1970, all nine decimals kept; None where it is not one.

    Nor is one that 64 bits cannot hold: Go's zero time is the year 1.
    datetime keeps six decimals only, and takes several times as long: the second's prefix is parsed once for all the
    lines that share it.
    """
    if not isinstance(stamp, str):
        return None
    try:
        if len(stamp) == 30 and stamp[29] == "Z" and stamp[19] == "." and (nine := stamp[20:29]).isdecimal():
            return _in_64_bits(_second(stamp[:19]) * 1_000_000_000 + int(nine))  # by far the most frequent form
        if (found := _INSTANT.fullmatch(stamp)) is None:
            return None
        second, fraction, sign, hours, minutes = found.groups(default="")
        offset = int(f"{sign}1") * (int(hours or 0) * 60 + int(minutes or 0)) * 60
        return _in_64_bits((_second(second) - offset) * 1_000_000_000 + int(fraction[:9].ljust(9, "0")))
    except ValueError:  # the 32nd of a month
        return None


def _in_64_bits(instant: int) -> int | None:
    return instant if -(2**63) <= instant < 2**63 else None


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (naive on both sides: only the difference counts)


@lru_cache(maxsize=64)
def _second(prefix: str) -> int:
    return (datetime.fromisoformat(prefix) - _EPOCH) // timedelta(seconds=1)
