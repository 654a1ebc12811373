"""The first line of a CSV file: what stands between its cells, and the names of its columns."""

from __future__ import annotations

import csv

from loadtest.scenario import short_repr
from loadtest.workloads.files.columns import IDS, KNOWN, LENGTH_KEYS, SYSTEMS, usual_name
from loadtest.workloads.files.csv_mistakes import wrong_csv, wrong_head
from loadtest.workloads.files.data_row import RowError
from loadtest.workloads.files.trace import DELIMITERS, is_trace_row
from loadtest.workloads.files.wrong_row import TRACE_ROW


def split_head(line: str) -> tuple[str, list[str]]:
    """Return what stands between the cells of a first line, and the cells; raise csv.Error."""
    heads: dict[str, list[str]] = {}
    wrong = csv.Error()
    for delimiter in DELIMITERS:
        try:
            heads[delimiter] = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error as error:  # "a","b" is none with semicolons
            wrong = error
    if not heads:
        raise wrong
    delimiter = max(heads, key=lambda one: len(heads[one]))
    return delimiter, [name.strip() for name in heads[delimiter]]


def is_head(line: str) -> bool:
    """Whether a line names a column that holds prompts."""
    try:
        return not {usual_name(name) for name in split_head(line)[1]}.isdisjoint(KNOWN)
    except csv.Error:
        return False


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
            "columns' names above all rows, with commas, semicolons or tabs between. (One text for every request is given with --prompt-file.)"
        )
    return delimiter, head
