"""The head of a CSV file, and what it or a row without a prompt is instead: a phrase that follows "line 7"."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any

from loadtest.scenario import short_repr
from loadtest.text import listed
from loadtest.workloads.files.columns import IDS, KNOWN, LENGTH_KEYS, SYSTEMS, TURNS, usual_name
from loadtest.workloads.files.csv_mistakes import split_head, wrong_csv, wrong_head
from loadtest.workloads.files.data_row import ONE_MESSAGE, RowError, names_of, read_row
from loadtest.workloads.files.trace import is_trace_row

DEPTH = 3  # objects in objects that are looked through for a prompt
TRACE_ROW = (
    "is a row of a trace, with an instant and lengths but no text; give the file with --trace, or its lengths alone "
    "with --input-tokens 'empirical(FILE)'"
)
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
        has = short_repr(", ".join(names))
        if column is not None:
            raise RowError(f"has no column {short_repr(column)}; it has {has}")
        if is_trace_row(names):
            raise RowError(TRACE_ROW)
        raise RowError(
            f"names no column prompt, text or question; it has {has}: name the prompt's with --data-column, or write the "
            "columns' names above all rows, with commas, semicolons or tabs between. (One text for every request is given with "
            "--prompt-file.)"
        )
    return delimiter, head


def without_prompt(value: Mapping[Any, Any], column: str | None, *, alone: bool) -> str:
    """Say what a row is in which no prompt was found; `alone`: it is all of the file."""
    if column is not None:
        return f"has no column {short_repr(column)}; it has {names_of(value)}"
    lower = {str(name).strip().lower() for name in value}
    if {"role", "content"} <= lower or {"from", "value"} <= lower:
        return ONE_MESSAGE
    if is_trace_row(value):
        return TRACE_ROW
    if alone and (lists := [str(name) for name, each in value.items() if _holds_rows(each, texts=len(value) == 1)]):
        some = "that list" if len(lists) == 1 else "one of these lists"
        return f"keeps its rows under {listed(list(map(repr, lists)))}; save {some} alone, as the whole file (jq .{lists[0]})"
    if alone and len(value) > 1 and all(isinstance(each, dict) and _is_row(each) for each in value.values()):
        return "holds rows by name, not in a list; save them as one, as the whole file (jq '[.[]]')"
    if (empty := next((name for name in value if usual_name(name) in KNOWN), None)) is not None:
        return f"has an empty prompt (column {empty})"
    if (path := next(_paths(value), None)) is not None:
        return f"{NO_COLUMN} {names_of(value)}: the prompt is deeper, name it with --data-column {path}"
    if any(isinstance(each, str | list) for each in value.values()):
        return f"{NO_COLUMN} {names_of(value)}: name one with --data-column"
    return f"{NO_COLUMN} {names_of(value)}; write a row for each prompt"


def holds_columns(value: Any) -> bool:
    """Whether several columns of a row are lists of one length, as where a table was written column by column."""
    lengths = [len(each) for each in value.values() if isinstance(each, list)] if isinstance(value, dict) else []
    return len(lengths) > 1 and len(set(lengths)) == 1 and TURNS not in value


def _holds_rows(each: Any, *, texts: bool) -> bool:
    """Whether this is a list of rows that could be sent, as they are or by a column in them; with `texts` they may be texts."""
    if not isinstance(each, list) or not each or not (texts or isinstance(each[0], dict)):
        return False
    return _is_row(each[0]) or (isinstance(each[0], dict) and next(_paths(each[0]), None) is not None)


def _is_row(value: Any) -> bool:
    try:
        return read_row(value, None) is not None
    except RowError:
        return False


def _paths(value: Mapping[Any, Any], before: str = "", depth: int = DEPTH) -> Iterator[str]:
    """Yield the objects in a row that are rows themselves, as --data-column names them."""
    for name, each in value.items():
        path = f"{before}{name}"
        if isinstance(each, dict) and _is_row(each):
            yield path
        elif isinstance(each, dict) and depth > 1:
            yield from _paths(each, f"{path}.", depth - 1)
