"""How many requests a run's objectives need, and how long these may take: said before they are sent, and after the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from loadtest.measure.progress import Progress
from loadtest.scenario import OPEN_LOOP_S, Level, Scenario
from loadtest.slo import Objective, least_requests


def enough(scenario: Scenario, objectives: Sequence[Objective], *, by_time: bool) -> Scenario:
    """Return the scenario with as many requests a level as the objectives need, where it does not say how many itself.

    Args:
        by_time: the user gave a duration.
    """
    if not objectives or scenario.requests is not None or by_time or scenario.trace is not None:
        return scenario
    if scenario.duration is not None and not (scenario.rate and scenario.duration == OPEN_LOOP_S):
        return scenario
    return scenario.replace(least_requests=max(scenario.least_requests or 0, least_requests(objectives)))


def beforehand(scenario: Scenario, objectives: Sequence[Objective]) -> str | None:
    """Say what will be sent for the objectives, or which of them will not be judged; None where there are none."""
    if not objectives:
        return None
    levels = scenario.levels()
    if scenario.requests is not None and (few := [each for each in objectives if each.requests > scenario.requests]):
        most = max(each.requests for each in few)
        names = ", ".join(each.name for each in few)
        return f"--slo {names} takes {most} requests a level, and this run sends {scenario.requests}: leave out --requests, or ask for {most}."
    if scenario.rate and scenario.duration is not None:
        seconds = sum(_level_seconds(scenario, level) for level in levels)
        return f"{_the_levels(levels)} will take about {_time(seconds)}, the answers that are still to come then not counted."
    if scenario.duration is not None:
        return f"{_the_levels(levels)} will take about {_time(scenario.duration * len(levels))}, warm-up not counted."
    sent = ", ".join(str(level.requests) for level in levels)
    return (
        None
        if scenario.trace is not None
        else f"{_the_levels(levels)} will send {sent} requests; how long that takes is said after the first answers."
    )


class Expected:
    """Says once, after the first answers, how long a closed loop's levels will take in all."""

    def __init__(self, scenario: Scenario, say: Callable[[str], object]) -> None:
        self._levels = scenario.levels()
        self._warmup, self._say = scenario.warmup, say
        self._said = scenario.open_loop or scenario.duration is not None

    def __call__(self, at: Progress) -> None:
        """Take note of how fast the first level goes."""
        first = self._levels[0]
        if self._said or at.level.index or not first.concurrency or at.done < max(first.concurrency, 2):
            return
        self._said = True
        low, high = self._between(at.done / at.elapsed, first)
        if len(self._levels) == 1:
            self._say(f"At the pace of the first answers this takes {_time(low)}.")
        else:
            self._say(
                f"At the pace of the first answers this takes {_time(low)} in all if more streams get more done, "
                f"{_time(high)} if they wait for each other."
            )

    def _between(self, rate: float, first: Level) -> tuple[float, float]:
        """Return how long all levels take, seconds, where `first` gets `rate` requests/s done.

        Between a server that answers each stream as fast whatever the others do, and one that answers one after another.
        """
        low = high = 0.0
        for level in self._levels:
            streams = level.concurrency or 1
            alone = (level.requests + streams * self._warmup) / rate * _work(level, first)
            apart = alone * (first.concurrency or 1) / streams
            low, high = low + min(alone, apart), high + max(alone, apart)
        return low, high


def _work(level: Level, first: Level) -> float:
    """Return how many times as much work a request of `level` is, by the tokens that it asks for."""
    if not level.output_tokens or not first.output_tokens:
        return 1.0
    return level.output_tokens / first.output_tokens


def _level_seconds(scenario: Scenario, level: Level) -> float:
    rates = (level.rate or 0.0, level.rate_to if level.rate_to is not None else level.rate or 0.0)
    mean = sum(rates) / 2
    return max(scenario.duration or 0.0, (scenario.least_requests or 0) / mean if mean else 0.0)


def _the_levels(levels: Sequence[Level]) -> str:
    return "The level" if len(levels) == 1 else f"The {len(levels)} levels"


def _time(seconds: float) -> str:
    """Return a time to wait, for people: 40 s, 5 min, 2 h 10 min."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
