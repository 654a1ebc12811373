"""Rows of a trace: which of their columns say when a request is due and how long it is, and what each says.

What cannot be understood is named by file, line and column.
"""

from __future__ import annotations

import csv
import datetime
import functools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import ScenarioError
from loadtest.scenario import TOKEN_COUNTS, short_repr
from loadtest.scenario.files import parsed
from loadtest.workloads.files.columns import IDS, KNOWN, LENGTH_KEYS, plain_name, read_count, row_json
from loadtest.workloads.files.csv_mistakes import split_head, wrong_cells, wrong_csv, wrong_head
from loadtest.workloads.files.json_rows import remedy

# What traces call their columns, in any way to write them: Azure's (ContextTokens), Mooncake's (input_length), BurstGPT's
# (Request tokens), Vidur's (num_prefill_tokens), Splitwise's (prompt_size), ours.
INSTANTS = (
    *("ts", "t", "time", "timestamp", "arrived_at", "arrival_timestamp"),
    *("arrival_time", "arrival", "created_at", "created", "start_time", "datetime"),
)
INPUTS = (
    *("input_tokens", "input_length", "context_tokens", "request_tokens", "num_prefill_tokens", "prompt_size"),
    *("input_len", "prompt_tokens", "prompt_len", "prompt_length", "num_prompt_tokens", "isl"),
)
OUTPUTS = (
    *(*LENGTH_KEYS, "generated_tokens", "response_tokens", "num_decode_tokens", "token_size"),
    *("completion_tokens", "num_completion_tokens", "response_length", "osl"),
)
UNITS = {"": 0.0, "s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}  # behind an instant's name
NOT_OF_REQUESTS = {  # columns of other tools' tables over time, of which each row would be a request
    "metricname": "a row for each figure of a request; keep the rows of one of them, and take that column out",
    "requestss": "a row for each second; give the instants of requests",
}
NO_LENGTH = -1
NO_INSTANT = (
    "has no instant; name its column timestamp (or timestamp_ms, time, arrival_time, created_at, …), for it has"
)
HASHES = "hash_ids"  # of a Mooncake trace: a prompt's blocks
LOOKED_AT = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class TraceColumns:
    """Which of a row's columns say what; None where none does."""

    instant: str | None
    scale: float  # seconds in the unit that the instant's name says, 0 where it says none
    input: str | None
    output: str | None
    of_mooncake: bool  # or of a tool that writes as Mooncake does, in milliseconds or in seconds; Bailian has seconds
    unread: tuple[str, ...]


@functools.lru_cache(maxsize=64)
def columns_of(names: tuple[str, ...]) -> TraceColumns:
    known = {plain_name(name): name for name in reversed(names)}
    found = ((known.get(plain_name(one) + unit), scale) for one in INSTANTS for unit, scale in UNITS.items())
    instant, scale = next((each for each in found if each[0] is not None), (None, 0.0))
    input_name, output = (
        next((known[plain] for plain in map(plain_name, usual) if plain in known), None) for usual in (INPUTS, OUTPUTS)
    )
    mooncake = bool(known.keys() & {"inputlength", "outputlength"}) and "chatid" not in known
    unread = tuple(name for name in names if name not in (instant, input_name, output, HASHES, "", *IDS))
    return TraceColumns(instant, scale, input_name, output, mooncake, unread)


def looks_like_trace(path: Path) -> bool:
    """Whether a file's first row has a length of a prompt, and no prompt."""
    try:
        with path.open("rb") as file:
            first = file.read(LOOKED_AT).decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    except (OSError, ValueError):
        return False
    row = parsed(first)
    names = (isinstance(row, dict) and row) or [name.strip().strip('"') for name in re.split("[,;\t]", first)]
    return columns_of(tuple(names)).input is not None and not {*map(plain_name, names)} & set(KNOWN)


def is_trace_row(names: Iterable[Any]) -> bool:
    """Whether a row has an instant and a length, as recorded arrivals have."""
    columns = columns_of(tuple(map(str, names)))
    return columns.instant is not None and (columns.input is not None or HASHES in names)


def json_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of JSON lines, each with the number of its line."""
    for number, line in rows:
        row = parsed(line)
        try:
            row = row_json(line.encode()) if row is None else row
        except orjson.JSONDecodeError as error:
            hint = remedy(line.encode(), error.msg)
            raise ScenarioError(
                f"the trace {path}, line {number}, column {error.colno}, is not JSON: {error.msg}{hint}."
            ) from None
        if not isinstance(row, dict):
            raise ScenarioError(
                f"the trace {path}, line {number}, is not a JSON object; write one a line (JSON lines)."
            )
        yield number, row


def csv_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the rows of CSV by column, each with the number of its line; of lines with one instant each the column is t."""
    number, first = rows[0]
    trouble: str | None = None
    at = 0
    try:
        delimiter, names = split_head(first)
        columns = columns_of(tuple(names))
        if (other := next((name for name in names if plain_name(name) in NOT_OF_REQUESTS), None)) is not None:
            trouble = f"is no list of requests: it has {other}, {NOT_OF_REQUESTS[plain_name(other)]}"
        elif columns.instant is not None or columns.input is not None:
            trouble = wrong_head(names, {columns.instant, columns.input, columns.output})
            rows = rows[1:]
        elif len(names) > 1:
            trouble = f"{NO_INSTANT} {short_repr(', '.join(names))}"
        else:
            names = ["t"]
        cells = csv.reader((line for _, line in rows if not trouble), delimiter=delimiter, strict=True)
        for row in cells:
            number, at = rows[at][0], cells.line_num
            if len(row) != len(names):
                trouble = wrong_cells(len(row), len(names), delimiter)
                break
            yield number, dict(zip(names, row, strict=True))
    except csv.Error as error:
        number, trouble = rows[at][0], wrong_csv(error)
    if trouble or not rows:
        raise ScenarioError(f"the trace {path}, line {number}, {trouble or 'is a head, and no arrival follows'}.")


def row_instant(row: dict[str, Any], columns: TraceColumns, where: str) -> tuple[float, float]:
    """Return the instant of a row, and the seconds in its unit, 0 where the row does not say it."""
    name = columns.instant
    if name is None:
        raise ScenarioError(f"{where} {NO_INSTANT} {short_repr(', '.join(row))}.")
    given, scale = row[name], columns.scale
    try:
        time = math.nan if isinstance(given, bool) else float(given)
    except (OverflowError, TypeError):
        time = math.nan
    except ValueError:
        time, scale = _date_seconds(given, name, where), 1.0
    if not math.isfinite(time):
        raise ScenarioError(f"{where} has {short_repr(given)} for an instant (column {name}); give seconds.")
    return time, scale


def _date_seconds(text: str, name: str, where: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        raise ScenarioError(
            f"{where} has {short_repr(text)} for an instant (column {name}); give seconds or a date and time."
        ) from None


def row_hashes(row: dict[str, Any], where: str) -> Sequence[int]:
    given = row.get(HASHES) or []
    if not isinstance(given, list) or not all(type(one) is int and abs(one) < 1 << 63 for one in given):
        raise ScenarioError(
            f"{where} has {short_repr(given)} for block hashes (column {HASHES}); they are whole numbers."
        )
    return given


def row_length(row: dict[str, Any], name: str | None, least: int, where: str) -> int:
    given = None if name is None else row[name]
    if given in (None, ""):
        return NO_LENGTH
    length = read_count(given)
    if length is None or not least <= length <= TOKEN_COUNTS.high:
        raise ScenarioError(
            f"{where} has a length of {short_repr(given)} (column {name}); lengths are whole numbers from {least} to "
            f"{TOKEN_COUNTS.high}."
        )
    return length
