"""Recorded arrivals: a file that says when each request is due, and how long it is where it says that.

Traces come as one instant per line, as CSV and as JSON lines, from many programs.
"""

from __future__ import annotations

import functools
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from loadtest.errors import ScenarioError
from loadtest.metrics import NS_PER_S
from loadtest.scenario import MOST_REQUESTS, MOST_S, Level, Scenario, file_version, read_text
from loadtest.text import listed, percent, seconds
from loadtest.workloads.files.columns import KNOWN, plain_name
from loadtest.workloads.files.trace_rows import (
    INPUTS,
    NO_LENGTH,
    OUTPUTS,
    TraceColumns,
    columns_of,
    csv_rows,
    json_rows,
    row_hashes,
    row_instant,
    row_length,
)

MOST_BYTES = 1 << 30
UNIT_NAMES = {1.0: "seconds", 1e-3: "milliseconds", 1e-6: "microseconds", 1e-9: "nanoseconds"}
# the years 2000 to 2100, in seconds since 1970: an instant that lies in them in one unit is in that unit
EPOCH_S = 946_684_800, 4_102_444_800
GAPS_S = 0.001, 100.0  # between requests on average: a unit that the file does not say is doubted outside of them
BLOCK_TOKENS = 512  # of a block of Mooncake's, whose hashes stand for prompts; other recorders have blocks of 16


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
    reader = json_rows if rows[0][1].startswith("{") else csv_rows
    times, inputs, outputs = array("d"), array("q"), array("q")
    hashes, ends = array("q"), array("q")
    numbers, units, unread = array("q"), set[float](), dict[str, None]()
    texts: tuple[str, ...] | None = None  # columns of the first row that hold what a request may say
    for number, row in reader(path, rows):
        where = f"the trace {path}, line {number},"
        columns = columns_of(tuple(row))
        time, unit = row_instant(row, columns, where) if timed else (0.0, 0.0)
        units.add(unit)
        if len(units) > 1:
            raise ScenarioError(
                f"{where} has its instant in another unit than the rows before it; give all in seconds."
            )
        times.append(time)
        numbers.append(number)
        unread.update(dict.fromkeys(columns.unread))
        texts = texts if texts is not None else tuple(name for name in columns.unread if _is_text(name, row[name]))
        hashes.extend(row_hashes(row, where))
        ends.append(len(hashes))
        inputs.append(row_length(row, columns.input, 1, where))
        outputs.append(row_length(row, columns.output, 0, where))
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


def _unit(times: array[float], columns: TraceColumns, said: float, where: str) -> tuple[float, str]:
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


def _all(lengths: array[int], name: str, numbers: array[int], path: Path) -> array[int] | None:
    """Return the lengths, None where the trace has none."""
    if (known := len(lengths) - lengths.count(NO_LENGTH)) in (0, len(lengths)):
        return lengths if known else None
    raise ScenarioError(
        f"the trace {path} says the length of {known} of {len(lengths)} requests ({name}; line "
        f"{numbers[lengths.index(NO_LENGTH)]} has none); give it for all or none."
    )
