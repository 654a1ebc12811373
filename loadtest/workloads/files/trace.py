"""Recorded arrivals: a file that says when each request is due, and how long it is where it says that.

Traces come as one instant per line, as CSV and as JSON lines, from many programs. What cannot be understood is named by
file, line and column.
"""

from __future__ import annotations

import csv
import datetime
import functools
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson

from loadtest.errors import ScenarioError
from loadtest.metrics import NS_PER_S
from loadtest.scenario import (
    MOST_REQUESTS,
    MOST_S,
    TOKEN_COUNTS,
    Level,
    Scenario,
    file_version,
    read_text,
    short_repr,
)
from loadtest.scenario.files import parsed
from loadtest.text import listed, percent, seconds
from loadtest.workloads.files.columns import IDS, KNOWN, LENGTH_KEYS, plain_name, read_count, row_json
from loadtest.workloads.files.csv_mistakes import split_head, wrong_cells, wrong_csv, wrong_head
from loadtest.workloads.files.json_rows import remedy

MOST_BYTES = 1 << 30

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
UNIT_NAMES = {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}
EPOCH_S = (
    946_684_800,
    4_102_444_800,
)  # the years 2000 to 2100 since 1970: an instant that is in them in one unit is in that unit
GAPS_S = 0.001, 100.0  # between requests on average: a unit that the file does not say is doubted outside of them
NOT_OF_REQUESTS = {  # columns of other tools' tables over time, of which each row would be a request
    "metricname": "a row for each figure of a request; keep the rows of one of them, and take that column out",
    "requestss": "a row for each second; give the instants of requests",
}
NO_LENGTH = -1
NO_INSTANT = (
    "has no instant; name its column timestamp (or timestamp_ms, time, arrival_time, created_at, …), for it has"
)
HASHES = "hash_ids"  # of a Mooncake trace: a prompt's blocks
BLOCK_TOKENS = 512  # of such a block; other recorders have blocks of 16
LOOKED_AT = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Blocks:
    """The block hashes of each request, in two columns."""

    hashes: array[int]
    ends: array[int]  # of each request: where its hashes end
    tokens: int  # of a block

    @classmethod
    def of(cls, hashes: array[int], ends: array[int], lengths: array[int]) -> Self:
        """Return the blocks, with the power of two as size by which each request has a hash for each block that it begins.

        Where no size does that for all requests, it is 512 tokens or less.
        """
        most, least = math.inf, 0.0
        for length, count in zip(lengths, np.diff(ends, prepend=0).tolist(), strict=True):
            most = min(most, (length - 1) / (count - 1)) if count > 1 else most
            least = max(least, length / count) if count else least
        usual = 1 << math.ceil(math.log2(least))
        return cls(hashes, ends, usual if usual <= most else 1 << int(math.log2(min(max(most, 1), BLOCK_TOKENS))))

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
    unit: str = ""  # of its instants, and how it is known, where the file does not say seconds
    unread: tuple[str, ...] = ()  # further columns; of a trace that says all lengths those alone that hold texts

    @classmethod
    def read(cls, path: Path, *, timed: bool = True) -> Trace:
        """Read a trace; raise ScenarioError, naming file, line and column.

        One instant a line in seconds, or CSV with a head, or JSON lines, under the names of INSTANTS, INPUTS and OUTPUTS.
        The first instant is the level's start. A file that has not changed is read once. Without `timed` it is read for its
        lengths alone, and needs no instants.
        """
        return _read_trace(path, file_version(path), timed=timed)

    @property
    def longest(self) -> int:
        """The most tokens, prompt and answer, that the file says of one request; 0 where it says no lengths."""
        known = [lengths for lengths in (self.input_tokens, self.output_tokens) if lengths is not None]
        return max(map(sum, zip(*known, strict=True)), default=0)

    def with_lengths(self, level: Level, i: int) -> Level:
        return replace(
            level,
            input_tokens=level.input_tokens if self.input_tokens is None else self.input_tokens[i],
            output_tokens=level.output_tokens if self.output_tokens is None else self.output_tokens[i],
        )

    def notes(self, scenario: Scenario) -> Iterator[str]:
        """Yield what a user should know of this trace before it is sent, a sentence each."""
        if scenario.requests is not None and scenario.requests > len(self.offsets):
            yield (
                f"The trace {scenario.trace} has {len(self.offsets)} requests, fewer than the {scenario.requests} asked "
                f"for: {len(self.offsets)} are sent."
            )
        if self.empty_answers:
            yield (
                f"The trace {scenario.trace} gives {self.empty_answers} of {len(self.offsets)} requests 0 output tokens: "
                "those ask for 1, the least that servers take."
            )
        for name in ("input_tokens", "output_tokens"):
            asked = getattr(scenario, name)
            if getattr(self, name) is not None and asked not in ((), getattr(Scenario, name)):
                yield f"The trace {scenario.trace} has {name} of its own; those asked for ({listed(asked)}) are not used."
        if self.unit:
            span = (self.offsets[-1] - self.offsets[0]) / NS_PER_S
            yield (f"The instants of the trace {scenario.trace} are read in {self.unit}: it lasts {seconds(span)}.")
        lacks = [name for name in ("input_tokens", "output_tokens") if getattr(self, name) is None]
        if self.unread and not lacks and scenario.data is None:
            yield (
                f"The trace {scenario.trace} has texts ({listed(self.unread)}), and those that are sent are made up; "
                f"--data {scenario.trace} sends its own when they are due."
            )
        elif self.unread and lacks:
            yield (
                f"The trace {scenario.trace} has no column {' or '.join(lacks)}, nor one of a like name. Nothing is read of "
                f"its further columns: {listed(self.unread)}."
            )
        if self.blocks is not None:
            yield (
                f"The trace {scenario.trace} has hashes of blocks of {self.blocks.tokens} tokens: {percent(self.blocks.repeated)} "
                "of its prompts' blocks stand in an earlier request, too, and a prefix cache may hold them."
            )


# it is asked for before anything is sent and again by the workload; a pipe is read once
@functools.lru_cache(maxsize=1)
def _read_trace(path: Path, _: tuple[int, ...], *, timed: bool) -> Trace:
    lines = read_text(path, "trace", most=MOST_BYTES).split("\n")
    stripped = ((number, line.strip()) for number, line in enumerate(lines, 1))
    rows = [(number, line) for number, line in stripped if line and not line.startswith("#")]
    if not rows:
        raise ScenarioError(f"the trace {path} is empty; give one instant a line, in seconds.")
    if rows[0][1].startswith("["):
        raise ScenarioError(f"the trace {path} looks like a JSON array; write one object a line (JSON lines).")
    if len(rows) > MOST_REQUESTS:
        raise ScenarioError(f"the trace {path} has {len(rows)} lines; cut it to {MOST_REQUESTS} or fewer.")
    reader = _json_rows if rows[0][1].startswith("{") else _csv_rows
    times, inputs, outputs = array("d"), array("q"), array("q")
    hashes, ends = array("q"), array("q")
    numbers, units, unread = array("q"), set[float](), dict[str, None]()
    texts: tuple[str, ...] | None = None  # columns of the first row that hold what a request may say
    for number, row in reader(path, rows):
        where = f"the trace {path}, line {number},"
        columns = _columns_of(tuple(row))
        time, unit = _row_instant(row, columns, where) if timed else (0.0, 0.0)
        units.add(unit)
        if len(units) > 1:
            raise ScenarioError(
                f"{where} has its instant in another unit than the rows before it; give all in seconds."
            )
        times.append(time)
        numbers.append(number)
        unread.update(dict.fromkeys(columns.unread))
        texts = texts if texts is not None else tuple(name for name in columns.unread if _is_text(name, row[name]))
        hashes.extend(_row_hashes(row, where))
        ends.append(len(hashes))
        inputs.append(_row_length(row, columns.input, 1, where))
        outputs.append(_row_length(row, columns.output, 0, where))
    scale, known = _unit(times, columns, units.pop(), f"the trace {path}")
    offsets = _offsets(times, numbers, scale, f"the trace {path}")
    empty = outputs.count(0)
    if empty:
        outputs = array("q", (length or 1 for length in outputs))
    asked, answers = _all(inputs, INPUTS[0], numbers, path), _all(outputs, OUTPUTS[0], numbers, path)
    blocks = Blocks.of(hashes, ends, asked) if hashes and asked is not None else None
    left = (texts or ()) if asked is not None and answers is not None else tuple(unread)
    return Trace(offsets, asked, answers, blocks, empty, known if timed else "", left)


def _is_text(name: str, value: Any) -> bool:
    """Whether a column of prompts holds one: a text that is no number, or messages."""
    if plain_name(name) not in KNOWN or not isinstance(value, str):
        return plain_name(name) in KNOWN and isinstance(value, list) and bool(value)
    return bool(value.strip()) and not value.strip().replace(".", "").isdigit()


@dataclass(frozen=True, slots=True)
class Columns:
    """Which of a row's columns say what; None where none does."""

    instant: str | None
    scale: float  # seconds in the unit that the instant's name says, 0 where it says none
    input: str | None
    output: str | None
    of_mooncake: bool  # or of a tool that writes as Mooncake does, in milliseconds or in seconds; Bailian has seconds
    unread: tuple[str, ...]


@functools.lru_cache(maxsize=64)
def _columns_of(names: tuple[str, ...]) -> Columns:
    known = {plain_name(name): name for name in reversed(names)}
    found = ((known.get(plain_name(one) + unit), scale) for one in INSTANTS for unit, scale in UNITS.items())
    instant, scale = next((each for each in found if each[0] is not None), (None, 0.0))
    input_name, output = (
        next((known[plain] for plain in map(plain_name, usual) if plain in known), None) for usual in (INPUTS, OUTPUTS)
    )
    mooncake = bool(known.keys() & {"inputlength", "outputlength"}) and "chatid" not in known
    unread = tuple(name for name in names if name not in (instant, input_name, output, HASHES, "", *IDS))
    return Columns(instant, scale, input_name, output, mooncake, unread)


def _unit(times: array[float], columns: Columns, said: float, where: str) -> tuple[float, str]:
    """Return the seconds in the unit of the instants, and its name and how it is known; raise ScenarioError where it is not.

    `said` is the unit by the name of their column, or that of dates; 0 where neither says it.
    """
    if said:
        return said, "" if said == 1 else f"{UNIT_NAMES[said]}, as their column is named"
    epoch = next((unit for unit in UNIT_NAMES if EPOCH_S[0] <= times[0] * unit < EPOCH_S[1]), 0.0)
    if epoch:
        return epoch, f"{UNIT_NAMES[epoch]} since 1970, by their size"
    scale, whose = (1e-3, "as Mooncake writes them") if columns.of_mooncake else (1.0, "as the file names no unit")
    span = (times[-1] - times[0]) * scale
    gap = span / max(len(times) - 1, 1)
    fractions = columns.of_mooncake and not all(map(float.is_integer, times))
    if fractions or GAPS_S[1] < gap <= span <= MOST_S or (columns.of_mooncake and 0 < gap < GAPS_S[0]):
        why = (
            "some have fractions"
            if fractions
            else f"as {UNIT_NAMES[scale]} they would be {seconds(gap)} apart on average"
        )
        raise ScenarioError(
            f"{where} does not say the unit of its instants, and {why}; name their column timestamp_s or timestamp_ms."
        )
    return scale, f"{UNIT_NAMES[scale]}, {whose}"


def _offsets(times: array[float], numbers: array[int], scale: float, where: str) -> array[int]:
    """Return ns since the first instant; raise ScenarioError for one before it, and for one that is too far off."""
    offsets, before = array("q"), times[0]
    for time, number in zip(times, numbers, strict=True):
        if time < before:
            raise ScenarioError(f"{where}, line {number}, is earlier than the one before it; sort the trace by time.")
        if (due := (time - times[0]) * scale) > MOST_S:
            raise ScenarioError(
                f"{where}, line {number}, is due {due / 86_400:.3g} days after the first; give seconds, and no more than "
                f"{MOST_S / 86_400:.0f} days."
            )
        offsets.append(round(due * NS_PER_S))
        before = time
    return offsets


def _row_hashes(row: dict[str, Any], where: str) -> Sequence[int]:
    given = row.get(HASHES) or []
    if not isinstance(given, list) or not all(type(one) is int and abs(one) < 1 << 63 for one in given):
        raise ScenarioError(
            f"{where} has {short_repr(given)} for block hashes (column {HASHES}); they are whole numbers."
        )
    return given


def looks_like_trace(path: Path) -> bool:
    """Whether a file's first row has a length of a prompt, and no prompt."""
    try:
        with path.open("rb") as file:
            first = file.read(LOOKED_AT).decode("utf-8-sig", "replace").lstrip().partition("\n")[0]
    except (OSError, ValueError):
        return False
    row = parsed(first)
    names = (isinstance(row, dict) and row) or [name.strip().strip('"') for name in re.split("[,;\t]", first)]
    return _columns_of(tuple(names)).input is not None and not {*map(plain_name, names)} & set(KNOWN)


def is_trace_row(names: Iterable[Any]) -> bool:
    """Whether a row has an instant and a length, as recorded arrivals have."""
    columns = _columns_of(tuple(map(str, names)))
    return columns.instant is not None and (columns.input is not None or HASHES in names)


def _row_length(row: dict[str, Any], name: str | None, least: int, where: str) -> int:
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


def _all(lengths: array[int], name: str, numbers: array[int], path: Path) -> array[int] | None:
    """Return the lengths, None where the trace has none."""
    if (known := len(lengths) - lengths.count(NO_LENGTH)) in (0, len(lengths)):
        return lengths if known else None
    raise ScenarioError(
        f"the trace {path} says the length of {known} of {len(lengths)} requests ({name}; line "
        f"{numbers[lengths.index(NO_LENGTH)]} has none); give it for all or none."
    )


def _json_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
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


def _csv_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    number, first = rows[0]
    trouble: str | None = None
    at = 0
    try:
        delimiter, names = split_head(first)
        columns = _columns_of(tuple(names))
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


def _row_instant(row: dict[str, Any], columns: Columns, where: str) -> tuple[float, float]:
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
