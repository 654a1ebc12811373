"""CSV of any program: what stands between its cells, and what is wrong with a head or a row: a phrase that says what to do."""

from __future__ import annotations

import csv
from collections.abc import Collection, Sequence

from loadtest.scenario import short_repr
from loadtest.text import counted

DELIMITERS = (",", ";", "\t")
MOST_ROW = 64 << 20  # bytes of a row of any file
LONE_RETURNS = "; if they are its line ends, save the file anew with those of Linux or Windows"

csv.field_size_limit(MOST_ROW)  # of the whole process: 128 kB, the usual one, are less than a long prompt


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


def wrong_head(names: Sequence[str], read: Collection[str | None]) -> str | None:
    """Say what is wrong with a first line that names columns, of which those in `read` are read; None where nothing is."""
    if not any(names):
        return "is blank; let the first line name the columns"
    twice = next((name for name in names if name in read and names.count(name) > 1), None)
    return None if twice is None else f"names the column {short_repr(twice)} twice; rename one of them"


def wrong_cells(cells: int, names: int, delimiter: str) -> str:
    """Say that a row has more or fewer cells than the file has columns, and what to do."""
    few = f"has {counted(cells, 'cell')} and the file's first line {names}; "
    if cells < names:
        return few + "give it as many, empty ones where nothing is known"
    return few + f"put quotes around texts that hold {'tabs' if delimiter == chr(9) else delimiter} or line ends"


def wrong_csv(error: csv.Error) -> str:
    """Say what is wrong with a row of CSV: a phrase that follows "line 7"."""
    if "new-line" in str(error):
        return f"is not CSV: it has lone carriage returns{LONE_RETURNS}"
    return f'is not CSV: {error}; close every quote, and write one inside quotes twice, as ""'
