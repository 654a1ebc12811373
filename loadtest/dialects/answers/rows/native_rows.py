"""The rows of llama.cpp's /completion and of TGI's /generate_stream, which some builds and gateways send at /v1 as well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loadtest.dialects.answers.decoded import Decoded, Rows
from loadtest.dialects.answers.errors import server_errors
from loadtest.dialects.answers.rows.counts import MOST_TOKENS, known_number
from loadtest.dialects.answers.rows.text_shapes import NO_TEXTS, Texts, as_marked


class NativeRows:
    """Takes rows that have a piece of text, or a token, and say with it whether it is the last."""

    __slots__ = ("_answer", "_counts", "_seen")

    def __init__(self, answer: Decoded) -> None:
        self._answer = answer
        self._counts: tuple[Any, Any] = (None, None)  # of the prompt, of the output
        self._seen = False

    def takes(self, row: dict[str, Any]) -> bool:
        token = row.get("token")
        if isinstance(token, dict):
            return isinstance(token.get("text"), str)
        return isinstance(row.get("content"), str) and isinstance(row.get("stop"), bool)

    def take(self, row: dict[str, Any]) -> bool:
        answer, token = self._answer, row.get("token")
        self._seen = True
        if isinstance(token, dict):
            answer.add(("" if token.get("special") is True else token["text"], ""))
            details = row.get("details")
            if isinstance(row.get("generated_text"), str):
                details = details if isinstance(details, dict) else {}
                self._last(details.get("finish_reason"), None, details.get("generated_tokens"))
        else:
            answer.add((row["content"], ""))
            if row["stop"]:
                older = "limit" if row.get("stopped_limit") else "eos"
                self._last(row.get("stop_type") or older, row.get("tokens_evaluated"), row.get("tokens_predicted"))
        if isinstance(timings := row.get("timings"), dict):
            answer.ending.server["timings"] = timings
        answer.take_error(row, server_errors.in_row(row))
        return False

    def _last(self, reason: Any, prompt: Any, output: Any) -> None:
        name = reason if isinstance(reason, str) else "eos"
        self._answer.finish(name, name)
        self._counts = prompt, output

    def close(self) -> None:
        answer, odd = self._answer, list[str]()
        if not self._seen:
            return
        names = ("tokens_evaluated", "tokens_predicted")
        prompt, output = (
            known_number(count, name, odd, MOST_TOKENS) for count, name in zip(self._counts, names, strict=True)
        )
        answer.note(*odd)
        if output is not None:
            answer.count(prompt, output)


_PIECES = frozenset(
    ("token", "content", "text", "delta", "textDelta", "text_output", "completion", "answer", "value", "generated_text")
)
DEEPEST = 5  # objects and lists in one another


def bare_piece(row: dict[str, Any]) -> Texts:
    """Return the text in a row of no known format that has one under such a name, however deep; none where it is not one."""
    found = list(_texts_in(row, DEEPEST))
    return as_marked((found[0], ""), row) if len(found) == 1 else NO_TEXTS


def _texts_in(value: Any, depth: int) -> Iterator[str]:
    for name, inner in value.items() if depth and isinstance(value, dict) else ():
        if isinstance(inner, str) and name in _PIECES:
            yield inner
        for one in inner if isinstance(inner, list) else (inner,):
            yield from _texts_in(one, depth - 1)


class AnyRows:
    """Takes the rows of several formats, each by the first that knows it."""

    __slots__ = ("_formats",)

    def __init__(self, *formats: Rows) -> None:
        self._formats = formats

    def takes(self, row: dict[str, Any]) -> bool:
        return any(rows.takes(row) for rows in self._formats)

    def take(self, row: dict[str, Any]) -> bool:
        return next(rows for rows in self._formats if rows.takes(row)).take(row)

    def close(self) -> None:
        for rows in self._formats:
            rows.close()
