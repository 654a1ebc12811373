"""What a row without a prompt is instead, or a CSV file's head without its column: a phrase that follows "line 7"."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from loadtest.scenario import short_repr
from loadtest.text import listed
from loadtest.workloads.files.columns import IDS, KNOWN, LENGTH_KEYS, SYSTEMS, TURNS, RowError, row_json, usual_name
from loadtest.workloads.files.csv_mistakes import split_head, wrong_csv, wrong_head
from loadtest.workloads.files.data_row import HOLDS_COLUMNS, ONE_MESSAGE, WITHOUT, names_of, read_row
from loadtest.workloads.files.trace import is_trace_row

# objects in objects that are looked through; elements of a list that are looked at; places in a sentence
DEPTH, LOOKED_AT, MOST_FOUND = 5, 50, 3
TRACE_ROW = (
    "is a row of a trace, with an instant and lengths but no text; give the file with --trace, or its lengths alone "
    "with --input-tokens 'empirical(FILE)'"
)
# names of what models have answered: no rows are looked for in it
ANSWERED = frozenset(("choices", "candidates", "response", "response_body", "output", "outputs", "completion"))
NO_COLUMN = "has no column prompt, text, question or messages; it has"


def read_head(line: str, column: str | None) -> tuple[str, tuple[str, ...]]:
    """Return what stands between cells, and the columns' names, those that are known as they are usual.

    `column` is the name of the prompt's column, where the user gave it. Raises RowError.
    """
    try:
        delimiter, names = split_head(line)
    except csv.Error as error:
        raise RowError(wrong_csv(error)) from None
    head = tuple(name if name == column else usual_name(name) for name in names)
    wanted = [column] if column is not None else KNOWN
    if trouble := wrong_head(line, head, (*wanted, *IDS, *LENGTH_KEYS, *SYSTEMS)):
        raise RowError(trouble)
    if not set(wanted) & set(head):
        has = names_of(names)
        if column is not None:
            raise RowError(f"has no column {short_repr(column)}; it has {has}")
        if is_trace_row(names):
            raise RowError(TRACE_ROW)
        raise RowError(
            f"names no column prompt, text or question; it has {has}: name the prompt's with --data-column, or write the "
            "columns' names above all rows, with commas, semicolons or tabs between"
        )
    return delimiter, head


def without_prompt(value: Mapping[Any, Any], column: str | None, *, each: str) -> str:
    """Say what a row is in which no prompt was found; `each`: what jq needs before a row's own names, `.[]` in an array."""
    if column is not None:
        return f"has no column {short_repr(column)}; it has {names_of(value)}"
    lower = {str(name).strip().lower() for name in value}
    if {"role", "content"} <= lower or {"from", "value"} <= lower:
        return ONE_MESSAGE
    if is_trace_row(value):
        return TRACE_ROW
    if "custom_id" in value and not value.keys().isdisjoint(("response", "result")):
        return "is an answer of a batch, not a request; give the file that the batch was made of"
    if {"columns", "data"} <= value.keys():  # a table as pandas splits it
        return HOLDS_COLUMNS
    columns = f"{NO_COLUMN} {names_of(value)}"
    found = list(itertools.islice(_rows_in(value), MOST_FOUND))
    if found and not re.fullmatch(r"[.\w]+", found[0]):
        where = listed([f"`{each}{path}`" for path in found])
        return f"keeps its rows deeper, at {where}; save those that you want one a line: jq -c '{each}{found[0]}' FILE > rows.jsonl"
    if (empty := next((name for name in value if usual_name(name) in KNOWN), None)) is not None:
        return f"has an empty prompt (column {empty}){WITHOUT}"
    if found:
        return f"{columns}: the prompt is deeper, name it with --data-column {found[0][1:]}"
    if any(isinstance(each, str | list) for each in value.values()):
        return f"{columns}: name one with --data-column"
    return f"{columns}; write a row for each prompt"


def holds_columns(value: Any) -> bool:
    """Whether several columns of a row are lists of one length, as where a table was written column by column."""
    lengths = [len(each) for each in value.values() if isinstance(each, list)] if isinstance(value, dict) else []
    return len(lengths) > 1 and len(set(lengths)) == 1 and TURNS not in value


def _rows_in(value: Mapping[Any, Any], before: str = "", depth: int = DEPTH) -> Iterator[str]:
    """Yield where rows stand in a row, in jq's words: in objects, in lists, and in texts that are JSON, as in HAR files."""
    named = sum(isinstance(inner, dict) and _is_row(inner) for inner in value.values())
    if named == len(value) > 1:
        yield f"{before or '.'}[]"
        return
    for name, inner in value.items():
        if not ANSWERED.isdisjoint(str(name).split(".")):
            continue
        path = f"{before}.{name if str(name).isidentifier() else json.dumps(str(name))}"
        some: list[Any] = inner[:LOOKED_AT] if isinstance(inner, list) else []
        if len(value) == 1 and some and all(isinstance(one, str) for one in some):
            yield f"{path}[]"
        elif _is_row(_json_in(inner)):
            yield f"{path} | strings | fromjson"
        elif any(
            _is_row(one) and not any(map(_json_in, one.values())) for one in (inner, *some) if isinstance(one, dict)
        ):
            yield path if isinstance(inner, dict) else f"{path}[]"
        elif depth > 1:
            inside = [(one, path if one is inner else f"{path}[]") for one in (inner, *some) if isinstance(one, dict)]
            yield from dict.fromkeys(each for one, at in inside for each in _rows_in(one, at, depth - 1))


def _json_in(text: Any) -> Any:
    """Return the object that a text is in JSON; None for any other value."""
    try:
        return row_json(text.encode()) if isinstance(text, str) and text.lstrip().startswith("{") else None
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None


def _is_row(value: Any) -> bool:
    try:
        return isinstance(value, dict) and read_row(value, None) is not None
    except RowError:
        return False
