"""What a row without a prompt is instead, or a CSV file's head without its column: a phrase that follows "line 7"."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Any

from loadtest.scenario import short_repr
from loadtest.workloads.files.columns import IDS, KNOWN, LENGTH_KEYS, SYSTEMS, TURNS, RowError, usual_name
from loadtest.workloads.files.csv_mistakes import split_head, wrong_csv, wrong_head
from loadtest.workloads.files.data_row import HOLDS_COLUMNS, ONE_MESSAGE, WITHOUT, names_of
from loadtest.workloads.files.trace_rows import is_trace_row

TRACE_ROW = (
    "is a row of a trace, with an instant and lengths but no text; give the file with --trace, or its lengths alone "
    "with --input-tokens 'empirical(FILE)'"
)


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
    if trouble := wrong_head(head, (*wanted, *IDS, *LENGTH_KEYS, *SYSTEMS)):
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


def without_prompt(value: Mapping[Any, Any], column: str | None) -> str:
    """Say what a row is in which no prompt was found."""
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
    empty = (name for name, inner in value.items() if usual_name(name) in KNOWN and inner in (None, ""))
    if (name := next(empty, None)) is not None:
        return f"has an empty prompt (column {name}){WITHOUT}"
    return (
        f"has no column prompt, text, question or messages; it has {names_of(value)}: name the prompt's with --data-column "
        "(a.b is b in a), or write a row for each prompt"
    )


def holds_columns(value: Any) -> bool:
    """Whether several columns of a row are lists of one length, as where a table was written column by column."""
    lengths = [len(each) for each in value.values() if isinstance(each, list)] if isinstance(value, dict) else []
    return len(lengths) > 1 and len(set(lengths)) == 1 and TURNS not in value
