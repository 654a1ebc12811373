"""When requests are due: in an open loop by one absolute schedule per level, in a closed one after the user has thought.

Both are pure functions of the scenario and its seed. A schedule is made before the level starts. Every
process makes the whole of it and sends its share, so the arrivals of all processes together are what was asked for.
"""

from __future__ import annotations

import itertools
import math
import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from loadtest.errors import ScenarioError
from loadtest.metrics import NS_PER_S
from loadtest.scenario import BURSTINESS, RATE, Level, Scenario, times_of
from loadtest.workloads.files.trace import Trace
from loadtest.workloads.job import Job
from loadtest.workloads.source import seed_from

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class PlanShare:
    """One process's share of a plan that every process makes in full: every `of`-th piece."""

    worker: int = 0
    of: int = 1

    def takes(self, i: int) -> bool:
        return i % self.of == self.worker

    def part(self, pieces: int) -> int:
        return len(range(self.worker, pieces, self.of))

    def pick(self, pieces: Sequence[Item]) -> Sequence[Item]:
        return pieces[self.worker :: self.of]


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
    for name, value, bounds in (
        ("rate", rate, RATE),
        ("rate_to", rate_to, RATE),
        ("burstiness", burstiness, BURSTINESS),
    ):
        if value is not None:
            bounds.check(name, value)
    due = 0.0  # in requests at a rate of one
    for gap in _unit_gaps(arrivals, burstiness, random.Random(f"arrivals {seed}")):
        yield round(_when(due, rate, rate_to, over) * NS_PER_S)
        due += gap


def _unit_gaps(arrivals: str, burstiness: float | None, rng: random.Random) -> Iterator[float]:
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


def trace_of(scenario: Scenario) -> Trace | None:
    """Return the recorded arrivals that a scenario replays, read through; None where it has none. Raises ScenarioError."""
    return None if scenario.trace is None else Trace.read(Path(scenario.trace))


def schedule_of(scenario: Scenario, level: Level, trace: Trace | None = None) -> Sequence[int]:
    """Return every instant of an open-loop level, ns after its start, in order; those of `trace` where it replays one.

    The scenario's requests or duration end it, but not before least_requests; a trace's own end does, too.
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
            over=scenario.duration or level.requests * 2 / (level.rate + (level.rate_to or level.rate)),
        )
    if scenario.duration is not None:
        end, least = round(scenario.duration * NS_PER_S), scenario.least_requests or 0
        every = (at for _, at in itertools.takewhile(lambda due: due[0] < least or due[1] < end, enumerate(every)))
    elif level.requests:
        every = itertools.islice(every, level.requests)
    try:
        return array("q", every)
    except OverflowError:
        raise ScenarioError(
            f"{level.load} puts a request beyond the next 290 years; ask for a higher rate or fewer requests."
        ) from None


def think_time(scenario: Scenario, job: Job) -> float:
    """Return how long the user pauses between the answer before and this job, seconds."""
    session = job.id if job.session is None else job.session
    return think_time_of(scenario, job.level, session, job.turn or 0, warmup=job.warmup)


def think_time_of(scenario: Scenario, level: int, session: int, turn: int, *, warmup: bool) -> float:
    """Return the pause before one turn of a session, before there is a job of it, seconds."""
    asked = scenario.think_time
    if not isinstance(asked, str):
        return asked
    rng = random.Random(seed_from("think", scenario.seed, level, session, turn, warmup))
    return times_of(asked).seconds(rng)


def mean_think_time(scenario: Scenario) -> float:
    """Return the mean of a scenario's think times, seconds."""
    return times_of(scenario.think_time).mean
