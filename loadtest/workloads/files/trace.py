"""Recorded arrivals: a file that says when each request is due, and how long it is where it says that.

Traces come as one instant per line, as CSV and as JSON lines, from many programs. What cannot be understood is named by
file, line and column.
"""

from __future__ import annotations

import csv
import datetime
import functools
import json
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.metrics import NS_PER_S
from loadtest.scenario import (
    MOST_REQUESTS,
    MOST_S,
    TOKEN_COUNTS,
    Level,
    Scenario,
    file_version,
    parse_whole,
    read_text,
    short_repr,
)
from loadtest.text import percent

MOST_BYTES = 1 << 30

# What traces call their columns: Azure's (ContextTokens), Mooncake's (input_length), BurstGPT's (Request tokens), Vidur's
# (num_prefill_tokens), Splitwise's (prompt_size), ours.
INSTANT_COLUMNS = ("t", "time", "timestamp", "arrived_at", "arrival_timestamp")
INPUTS = ("input_tokens", "input_length", "contexttokens", "request tokens", "num_prefill_tokens", "prompt_size")
OUTPUTS = ("output_tokens", "output_length", "generatedtokens", "response tokens", "num_decode_tokens", "token_size")
HASHES = "hash_ids"  # of a Mooncake trace: a prompt's blocks of 512 tokens
PROMPT_NAMES = ("prompt", "text", "question", "messages", "conversations")  # a file with one of them is no trace
LOOKED_AT = 1 << 20  # bytes
MILLISECONDS = ("input_length", "output_length")  # a Mooncake trace: its timestamps are ms
DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class Blocks:
    """The block hashes of each request, in two columns."""

    hashes: array[int]
    ends: array[int]  # of each request: where its hashes end

    def __getitem__(self, i: int) -> Sequence[int]:
        return self.hashes[self.ends[i - 1] if i else 0 : self.ends[i]]

    @property
    def repeated(self) -> float:
        """The share of blocks that stand in a request before."""
        return 1 - len(set(self.hashes)) / max(len(self.hashes), 1)


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded arrivals: ns since the first, and where the file says them each request's lengths."""

    offsets: array[int]
    input_tokens: array[int] | None = None
    output_tokens: array[int] | None = None
    blocks: Blocks | None = None  # of a Mooncake trace: the hashes of each prompt's blocks
    empty_answers: int = 0  # requests with 0 output tokens in the file: they ask for 1

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read a trace; raise ScenarioError, naming file, line and column.

        One instant a line in seconds, or CSV with a head, or JSON lines. Columns: t or timestamp; input_tokens and
        output_tokens where there are lengths, under the names that the Azure, Mooncake and BurstGPT traces have for
        them. The first instant is the level's start. A file that has not changed is read once.
        """
        return _read_trace(path, file_version(path))

    @property
    def longest(self) -> int:
        """The most tokens, prompt and answer, that the file says of one request; 0 where it says no lengths."""
        known = [lengths for lengths in (self.input_tokens, self.output_tokens) if lengths is not None]
        return max(map(sum, zip(*known, strict=True)), default=0)

    def with_lengths(self, level: Level, i: int) -> Level:
        """Return a level with the lengths of the i-th request."""
        return replace(
            level,
            input_tokens=level.input_tokens if self.input_tokens is None else self.input_tokens[i],
            output_tokens=level.output_tokens if self.output_tokens is None else self.output_tokens[i],
        )

    def notes(self, scenario: Scenario) -> list[str]:
        """Return what a user should know of this trace before it is sent, a sentence each."""
        notes = []
        if scenario.requests is not None and scenario.requests > len(self.offsets):
            notes.append(
                f"The trace {scenario.trace} has {len(self.offsets)} requests, fewer than the {scenario.requests} asked "
                f"for: {len(self.offsets)} are sent."
            )
        if self.empty_answers:
            notes.append(
                f"The trace {scenario.trace} gives {self.empty_answers} of {len(self.offsets)} requests 0 output tokens: "
                "those ask for 1, the least that servers take."
            )
        if self.blocks is not None:
            notes.append(
                f"The trace {scenario.trace} has block hashes: {percent(self.blocks.repeated)} of its prompts' blocks stand in "
                "an earlier request, too, and a prefix cache may hold them."
            )
        return notes


# it is asked for before anything is sent and again by the workload; a pipe is read once
@functools.lru_cache(maxsize=1)
def _read_trace(path: Path, _: tuple[int, ...]) -> Trace:
    lines = read_text(path, "trace", most=MOST_BYTES).split("\n")
    rows = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise ScenarioError(f"the trace {path} is empty; give one instant a line, in seconds.")
    if rows[0][1].startswith("["):
        raise ScenarioError(f"the trace {path} looks like a JSON array; write one object a line (JSON lines).")
    if len(rows) > MOST_REQUESTS:
        raise ScenarioError(f"the trace {path} has {len(rows)} lines; cut it to {MOST_REQUESTS} or fewer.")
    reader = _json_rows if rows[0][1].startswith("{") else _csv_rows
    times, inputs, outputs = array("d"), array("q"), array("q")
    hashes, ends = array("q"), array("q")
    bare: dict[str, int] = {}  # of inputs and outputs: the first line without one
    for number, row in reader(path, rows):
        where = f"the trace {path}, line {number},"
        _add_instant(times, row, where)
        hashes.extend(_row_hashes(row, where))
        ends.append(len(hashes))
        for lengths, names, least in ((inputs, INPUTS, 1), (outputs, OUTPUTS, 0)):
            length = _row_length(row, names, least, where)
            if length is None:
                bare.setdefault(names[0], number)
            else:
                lengths.append(length)
    offsets = array("q", (round((t - times[0]) * NS_PER_S) for t in times))
    empty = outputs.count(0)
    if empty:
        outputs = array("q", (max(length, 1) for length in outputs))
    asked = _all(inputs, INPUTS, offsets, path, bare)
    blocks = Blocks(hashes, ends) if hashes and asked is not None else None
    return Trace(offsets, asked, _all(outputs, OUTPUTS, offsets, path, bare), blocks, empty)


def _add_instant(times: array[float], row: dict[str, Any], where: str) -> None:
    times.append(_row_seconds(row, where))
    if len(times) > 1 and times[-1] < times[-2]:
        raise ScenarioError(f"{where} is earlier than the one before it; sort the trace by time.")
    if times[-1] - times[0] > MOST_S:
        days = (times[-1] - times[0]) / 86_400
        raise ScenarioError(
            f"{where} is due {days:.3g} days after the first; give seconds, and no more than {MOST_S / 86_400:.0f} days."
        )


def _row_hashes(row: dict[str, Any], where: str) -> Sequence[int]:
    given = row.get(HASHES)
    if given in (None, "", []):
        return ()
    whole = isinstance(given, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in given)
    if not whole or not all(abs(one) < 1 << 63 for one in given):
        raise ScenarioError(
            f"{where} has {short_repr(given)} for block hashes (column {HASHES}); they are whole numbers."
        )
    return list(given)


def looks_like_trace(path: Path) -> bool:
    """Whether a file's first row has an instant and a length, or nothing but an instant."""
    try:
        with path.open("rb") as file:
            first = file.read(LOOKED_AT).decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    except (OSError, ValueError):
        return False
    row = _json_object(first)
    if row is None:
        row = {name.strip().strip('"'): None for name in re.split("[,;\t]", first)}
    names = {str(name).strip().lower() for name in row}
    return bool(names & set(INPUTS)) and not names & set(PROMPT_NAMES)


def read_count(given: Any) -> int | None:
    """Return a count that a row gives as a number or as a text; None for what is none."""
    try:
        return None if isinstance(given, bool) else parse_whole(given if isinstance(given, str) else repr(given))
    except (TypeError, ValueError, OverflowError):
        return None


def _row_length(row: dict[str, Any], names: Sequence[str], least: int, where: str) -> int | None:
    name = next((name for name in names if row.get(name) not in (None, "")), None)
    if name is None:
        return None
    given = row[name]
    length = read_count(given)
    if length is None or not least <= length <= TOKEN_COUNTS.high:
        raise ScenarioError(
            f"{where} has a length of {short_repr(given)} (column {name}); lengths are whole numbers from {least} to "
            f"{TOKEN_COUNTS.high}."
        )
    return length


def _all(
    lengths: array[int], names: Sequence[str], offsets: array[int], path: Path, bare: dict[str, int]
) -> array[int] | None:
    """Return the lengths, None where the trace has none."""
    if lengths and len(lengths) != len(offsets):
        raise ScenarioError(
            f"the trace {path} says the length of {len(lengths)} of {len(offsets)} requests ({names[0]}; line "
            f"{bare[names[0]]} has none); give it for all or none."
        )
    return lengths or None


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _json_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in rows:
        row = _json_object(line)
        if row is None:
            raise ScenarioError(f"the trace {path}, line {number}, is not a JSON object.")
        yield number, {str(key).strip().lower(): value for key, value in row.items()}


def _csv_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    names, delimiter = _column_names(path, rows[0])
    if names is None:
        names = ["t"]
    else:
        rows = rows[1:]
    if not rows:
        raise ScenarioError(f"the trace {path} has a head and no arrival.")
    cells = csv.reader((line for _, line in rows), delimiter=delimiter)
    try:
        for row in cells:
            yield rows[cells.line_num - 1][0], dict(zip(names, row, strict=False))
    except csv.Error as error:
        raise ScenarioError(f"the trace {path}, line {rows[cells.line_num - 1][0]}, is not CSV: {error}.") from None


def _column_names(path: Path, first: tuple[int, str]) -> tuple[list[str] | None, str]:
    """Return the names of a CSV file's columns, None where it has one column without a name; and what is between them."""
    found: list[str] = []
    for delimiter in DELIMITERS:
        try:
            names = [name.strip().lower() for name in next(csv.reader([first[1]], delimiter=delimiter))]
        except csv.Error as error:
            raise ScenarioError(f"the trace {path}, line {first[0]}, is not CSV: {error}.") from None
        if any(name in INSTANT_COLUMNS for name in names):
            return names, delimiter
        found = max(found, names, key=len)
    if len(found) == 1:
        return None, ","
    raise ScenarioError(
        f"the trace {path} has no column {' or '.join(INSTANT_COLUMNS)} in its first line; it has {short_repr(', '.join(found))}."
    )


def _row_seconds(row: dict[str, Any], where: str) -> float:
    """Return the instant of a row: seconds, milliseconds in a Mooncake trace, or a date and time."""
    name = next((name for name in INSTANT_COLUMNS if name in row), None)
    given = None if name is None else row[name]
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise ScenarioError(
            f"{where} has no instant under {', '.join(INSTANT_COLUMNS)}; it has {short_repr(', '.join(row))}."
        )
    try:
        seconds = float(given)
    except OverflowError:
        seconds = math.inf
    except ValueError:
        seconds = _date_seconds(str(given), name, where)
    if not math.isfinite(seconds):
        raise ScenarioError(f"{where} has {short_repr(given)} for an instant (column {name}); give seconds.")
    return seconds / 1e3 if any(name in row for name in MILLISECONDS) else seconds


def _date_seconds(text: str, name: str | None, where: str) -> float:
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    except (ValueError, OverflowError):
        raise ScenarioError(
            f"{where} has {short_repr(text)} for an instant (column {name}); give seconds or a date and time."
        ) from None
