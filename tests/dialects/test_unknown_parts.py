"""Something unknown in a good answer: a row changes nothing; a field changes nothing, or what it changes is said."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.odd_streams import (
    BLOCKS,
    CHAT,
    COMPLETIONS,
    COUNTS,
    DONE,
    GENERATE,
    MESSAGES,
    PIECES,
    RESPONSES,
    STOP,
    V1,
    A,
    B,
    C,
    completed,
    decode,
    delta,
    finish,
    last,
    message,
    start,
    stopped,
    usage,
)
from support.reported_places import STRANGERS

from loadtest.dialects import Dialect, Ending

Rows = list[dict[str, Any]]
CALLS = (
    delta(tool_calls=[{"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]),
    delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
)
ANSWERS: dict[str, tuple[Dialect, Rows]] = {
    "chat": (V1, [delta("", role="assistant"), delta(reasoning_content="hm"), A, B, C, finish(), COUNTS]),
    "calls": (V1, [delta(None, role="assistant"), *CALLS, finish("tool_calls"), COUNTS]),
    "completions": (
        COMPLETIONS,
        [*({"choices": [{"index": 0, "text": text}]} for text in "abc"), finish(), {"choices": [], "usage": usage()}],
    ),
    "ollama": (CHAT, [message("", thinking="hm"), message("a"), message("b"), message("c"), last()]),
    "generate": (GENERATE, [*({"response": text, "done": False} for text in "abc"), last(response="")]),
    "messages": (
        MESSAGES,
        [
            start(),
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            *BLOCKS,
            {"type": "content_block_stop", "index": 0},
            stopped(output_tokens=3),
            STOP,
        ],
    ),
    "responses": (
        RESPONSES,
        [
            {"type": "response.created", "response": {"object": "response", "status": "in_progress"}},
            *PIECES,
            completed(),
        ],
    ),
}
NAMES = (
    "zork",
    "status",
    "state",
    "code",
    "info",
    "stats",
    "event",
    "kind",
    "data",
    "title",
    "phase",
    "tag",
    "tokens",
    "detail",
)
VALUES: tuple[Any, ...] = (
    "x y",
    "word",
    7,
    1.5,
    True,
    None,
    [],
    {},
    ["s t"],
    {"text": "zz"},
    [{"text": "zz"}],
    {"error": None},
    {"a": 1},
)


def written(dialect: Dialect, rows: Rows) -> bytes:
    if dialect.api == "ollama":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    names = (f"event: {row['type']}\n" if dialect in (MESSAGES, RESPONSES) and "type" in row else "" for row in rows)
    return (
        "".join(f"{name}data: {json.dumps(row)}\n\n" for name, row in zip(names, rows, strict=True)) + DONE
    ).encode()


def made_of(dialect: Dialect, rows: Rows) -> tuple[tuple[Any, ...], Ending]:
    events, ending = decode(dialect, written(dialect, rows))
    counts = ending.output_tokens, ending.prompt_tokens, ending.unsent_tokens
    return (tuple(events.texts), frozenset(events.hidden), *counts, ending.done and ending.error is None), ending


def with_fields(value: Any, name: str, said: Any) -> Iterator[Any]:
    """Yield copies of a row, in each of which one object has a field more."""
    if isinstance(value, dict):
        if name not in value:
            yield {**value, name: said}
        for key, inner in value.items():
            for new in with_fields(inner, name, said):
                yield {**value, key: new}
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            for new in with_fields(inner, name, said):
                yield [*value[:i], new, *value[i + 1 :]]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_unknown_row_changes_nothing(name: str) -> None:
    dialect, rows = ANSWERS[name]
    good, _ = made_of(dialect, rows)
    assert good[-1]
    for row in STRANGERS:
        for at in range(len(rows) + 1):
            made, ending = made_of(dialect, [*rows[:at], copy.deepcopy(row), *rows[at:]])
            assert made == good, (row, at, ending)


@pytest.mark.parametrize("name", ANSWERS)
def test_an_unknown_field_changes_nothing_unsaid(name: str) -> None:
    dialect, rows = ANSWERS[name]
    good, _ = made_of(dialect, rows)
    for i, row in enumerate(rows):
        for key in NAMES:
            for said in VALUES:
                for odd in with_fields(row, key, said):
                    made, ending = made_of(dialect, [*rows[:i], odd, *rows[i + 1 :]])
                    assert made == good or (made[-1] and (ending.notes or ending.doubts)), (odd, ending)
