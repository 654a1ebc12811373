"""When each request of an open loop is due: one absolute schedule a level, made before its clock starts.

A schedule is a pure function of the scenario and its seed, so every process that takes part makes all of it and sends its
share: arrivals as a whole are what was asked for, however many processes send them.
"""

from __future__ import annotations

import csv
import datetime
import itertools
import json
import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from loadtest.errors import ScenarioError
from loadtest.scenario import Level, Scenario

NS = 1_000_000_000
T = TypeVar("T")

# What traces call their columns: Azure's (ContextTokens), Mooncake's (input_length), BurstGPT's (Request tokens), ours.
TIMES = ("t", "time", "timestamp")
INPUTS = ("input_tokens", "input_length", "contexttokens", "request tokens")
OUTPUTS = ("output_tokens", "output_length", "generatedtokens", "response tokens")
MILLISECONDS = ("input_length", "output_length")  # a Mooncake trace: its timestamps are ms


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of a plan that several make in full: every `of`-th piece."""

    worker: int = 0
    of: int = 1

    def takes(self, i: int) -> bool:
        """Whether piece i of the whole plan is this process's."""
        return i % self.of == self.worker

    def part(self, pieces: int) -> int:
        """Return how many of so many pieces are this process's."""
        return len(range(self.worker, pieces, self.of))

    def pick(self, pieces: Sequence[T]) -> Sequence[T]:
        """Return this process's pieces, in order."""
        return pieces[self.worker :: self.of]


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded arrivals: ns since the first, and where the file says them each request's lengths."""

    offsets: array[int]
    input_tokens: array[int] | None = None
    output_tokens: array[int] | None = None

    @classmethod
    def read(cls, path: Path) -> Trace:
        """Read a trace; raise ScenarioError, naming file and line.

        One instant a line in seconds, or CSV with a head, or JSON lines. Columns: t or timestamp; input_tokens and
        output_tokens where there are lengths, under the names that the Azure, Mooncake and BurstGPT traces have for
        them. The first instant is the level's start.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except OSError as error:
            raise ScenarioError(f"cannot read the trace {path}: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise ScenarioError(f"the trace {path} is not UTF-8 text.") from None
        rows = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
        if not rows:
            raise ScenarioError(f"the trace {path} is empty; give one instant a line, in seconds.")
        reader = _json_rows if rows[0][1].startswith("{") else _csv_rows
        times, inputs, outputs = array("d"), array("q"), array("q")
        for number, row in reader(path, rows):
            _add(times, inputs, outputs, row, f"the trace {path}, line {number},")
        offsets = array("q", (round((t - times[0]) * NS) for t in times))
        return cls(offsets, _whole(inputs, offsets, path), _whole(outputs, offsets, path))

    @property
    def longest(self) -> int:
        """The most tokens, prompt and answer, that the file says of one request; 0 where it says no lengths."""
        said = [lengths for lengths in (self.input_tokens, self.output_tokens) if lengths is not None]
        return max(map(sum, zip(*said, strict=True)), default=0)


def _add(times: array[float], inputs: array[int], outputs: array[int], row: dict[str, Any], where: str) -> None:
    """Take one arrival of a trace."""
    times.append(_seconds(row, where))
    if len(times) > 1 and times[-1] < times[-2]:
        raise ScenarioError(f"{where} is earlier than the one before it; sort the trace by time.")
    for lengths, names in ((inputs, INPUTS), (outputs, OUTPUTS)):
        said = next((row[name] for name in names if row.get(name) not in (None, "")), None)
        if said is None:
            continue
        try:
            length = int(said)
        except (TypeError, ValueError):
            length = 0
        if length < 1:
            raise ScenarioError(f"{where} has a length of {said!r}; lengths are whole numbers of 1 or more.")
        lengths.append(length)


def _whole(lengths: array[int], offsets: array[int], path: Path) -> array[int] | None:
    """Return the lengths, None where the trace has none."""
    if lengths and len(lengths) != len(offsets):
        raise ScenarioError(
            f"the trace {path} says the length of {len(lengths)} of {len(offsets)} requests; give it for all or none."
        )
    return lengths or None


def _json_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in rows:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if not isinstance(row, dict):
            raise ScenarioError(f"the trace {path}, line {number}, is not a JSON object.")
        yield number, {str(key).lower(): value for key, value in row.items()}


def _csv_rows(path: Path, rows: Sequence[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    names = [name.strip().lower() for name in next(csv.reader([rows[0][1]]))]
    if any(name in TIMES for name in names):
        rows = rows[1:]
    elif len(names) == 1:
        names = ["t"]
    else:
        raise ScenarioError(f"the trace {path} has no column {' or '.join(TIMES)} in its first line.")
    if not rows:
        raise ScenarioError(f"the trace {path} has a head and no arrival.")
    cells = csv.reader(line for _, line in rows)
    for (number, _), row in zip(rows, cells, strict=False):
        yield number, dict(zip(names, row, strict=False))


def _seconds(row: dict[str, Any], where: str) -> float:
    """Return the instant of a row: seconds, milliseconds in a Mooncake trace, or a date and time."""
    said = next((row[name] for name in TIMES if name in row), None)
    if isinstance(said, bool) or not isinstance(said, str | int | float):
        raise ScenarioError(f"{where} has no instant under {', '.join(TIMES)}.")
    try:
        seconds = float(said)
    except ValueError:
        try:
            moment = datetime.datetime.fromisoformat(str(said))
        except ValueError:
            raise ScenarioError(f"{where} has {said!r} for an instant; give seconds or a date and time.") from None
        return moment.replace(tzinfo=moment.tzinfo or datetime.UTC).timestamp()
    if not math.isfinite(seconds):
        raise ScenarioError(f"{where} has {said!r} for an instant; give seconds.")
    return seconds / 1e3 if any(name in row for name in MILLISECONDS) else seconds


def instants(
    rate: float,
    arrivals: str,
    seed: object,
    *,
    burstiness: float | None = None,
    rate_to: float | None = None,
    over: float | None = None,
) -> Iterator[int]:
    """Yield without end when requests are due, ns after the start, the first at 0: the same for the same arguments.

    Args:
        rate: requests/s (at the start, with `rate_to`).
        arrivals: "constant"; "poisson": independent of each other; "gamma": gaps of shape `burstiness` (1 is Poisson,
            below it requests come in bursts, above it ever more evenly, as in vLLM's benchmark).
        rate_to: the rate that is reached after `over` seconds, growing or falling evenly; it stays there.

    Gaps are drawn for a rate of one and then stretched by the rate, so a ramp keeps their pattern. Raises ScenarioError.
    """
    for name, value in (("rate", rate), ("rate_to", rate_to), ("burstiness", burstiness)):
        if value is not None and not 0 < value < math.inf:
            raise ScenarioError(f"{name} must be above 0, not {value}.")
    due = 0.0  # in requests at a rate of one
    for gap in _gaps(arrivals, burstiness, random.Random(f"arrivals {seed}")):
        yield round(_when(due, rate, rate_to, over) * NS)
        due += gap


def _gaps(arrivals: str, burstiness: float | None, rng: random.Random) -> Iterator[float]:
    """Yield gaps of mean 1."""
    if arrivals == "constant":
        yield from itertools.repeat(1.0)
    elif arrivals == "poisson":
        while True:
            yield rng.expovariate(1.0)
    elif arrivals == "gamma":
        if burstiness is None:
            raise ScenarioError("burstiness must be given with gamma arrivals: 1 is Poisson, below it they burst.")
        while True:
            yield rng.gammavariate(burstiness, 1 / burstiness)
    raise ScenarioError(f"arrivals must be constant, poisson or gamma, not {arrivals!r}.")


def _when(due: float, rate: float, rate_to: float | None, over: float | None) -> float:
    """Return after how many seconds `due` requests are due: rate · t + (rate_to − rate) / over · t² / 2, turned round."""
    if rate_to is None or over is None:
        return due / rate
    ramped = (rate + rate_to) / 2 * over
    if due >= ramped:
        return over + (due - ramped) / rate_to
    slope = (rate_to - rate) / over
    return 2 * due / (rate + math.sqrt(rate * rate + 2 * slope * due))


def schedule_of(scenario: Scenario, level: Level, trace: Trace | None = None) -> Sequence[int]:
    """Return every instant of an open-loop level, ns after its start, in order; `trace` where it replays one.

    Ended by the scenario's requests or duration (those due within it); a trace by its own end too.
    """
    if trace is not None:
        every: Iterator[int] = iter(trace.offsets)
    else:
        assert level.rate is not None
        every = instants(
            level.rate,
            scenario.arrivals,
            f"{scenario.seed} {level.index}",
            burstiness=scenario.burstiness,
            rate_to=level.rate_to,
            over=_length(scenario, level),
        )
    if scenario.duration is not None:
        end = round(scenario.duration * NS)
        every = itertools.takewhile(lambda at: at < end, every)
    elif level.requests:
        every = itertools.islice(every, level.requests)
    return array("q", every)


def _length(scenario: Scenario, level: Level) -> float | None:
    """Return how long a ramp takes, seconds."""
    if level.rate is None or level.rate_to is None:
        return None
    return scenario.duration or level.requests * 2 / (level.rate + level.rate_to)
