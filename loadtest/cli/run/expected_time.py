"""How many requests a run's objectives need, and how long the run takes: said beforehand and after the first answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loadtest.measure.progress import Progress
from loadtest.scenario import OPEN_LOOP_S, Level, Scenario
from loadtest.slo import Objective, least_requests
from loadtest.text import about, joined
from loadtest.workloads.conversations import mean_turns
from loadtest.workloads.schedule import mean_think_time
from loadtest.workloads.workload import as_files_say


def with_enough_requests(scenario: Scenario, objectives: Sequence[Objective], *, by_time: bool) -> Scenario:
    """Return the scenario with as many requests a level as the objectives need, unless it has a number of its own.

    Args:
        by_time: whether the user gave a duration.
    """
    if not objectives or scenario.requests is not None or by_time or scenario.trace is not None:
        return scenario
    if scenario.duration is not None and not (scenario.rate and scenario.duration == OPEN_LOOP_S):
        return scenario
    # each model and server is judged by its own requests
    least = least_requests(objectives) * scenario.requests_per_rarest_target
    return scenario.replace(least_requests=max(scenario.least_requests or 0, least))


def requests_sentence(scenario: Scenario, objectives: Sequence[Objective]) -> str | None:
    """Say what will be sent for the objectives, or which of them cannot be judged; None without objectives."""
    if not objectives:
        return None
    levels = scenario.levels()
    share = scenario.requests_per_rarest_target
    if scenario.requests is not None and (
        few := [each for each in objectives if each.requests * share > scenario.requests]
    ):
        most = max(each.requests for each in few) * share
        names = ", ".join(each.name for each in few)
        short = f"--slo {names}: a level needs {most} requests, and this run sends {scenario.requests}"
        if scenario.data_once:
            return f"{short}, one for each row of the file; give it more rows, or send rows again without --data-once."
        return f"{short}; leave out --requests, or ask for {most}."
    if scenario.rate:
        seconds = sum(_level_seconds(scenario, level) for level in levels)
        return f"{_the_levels(levels)} will take about {about(seconds)}, plus the time for the last answers."
    if scenario.duration is not None:
        return f"{_the_levels(levels)} will take about {about(scenario.duration * len(levels))}, plus warm-up."
    if scenario.trace is not None:
        return None
    sent = ", ".join(str(level.requests) for level in levels)
    return f"{_the_levels(levels)} will send {sent} requests; how long that takes is said after the first answers."


def people_sentence(scenario: Scenario, turns: float, whole: str = "the whole run") -> str | None:
    """Say how levels of people begin, and what their thinking alone takes; None without conversations in a closed loop.

    Args:
        turns: of a conversation, in the mean.
    """
    if not scenario.has_sessions or scenario.open_loop:
        return None
    think = mean_think_time(scenario)
    pauses = think * max(turns * scenario.warmup - 1, 0)
    levels = scenario.levels()
    join = f"People join within {about(think)}; each" if think else "Each"
    warm_up = "a conversation" if scenario.warmup == 1 else f"{scenario.warmup} conversations"
    counts = f"{join} level counts once everybody has ended {warm_up} of about {turns:.3g} turns"
    if not scenario.warmup:
        counts = f"{join} level counts from its first turn on"
    if not think:
        return f"{counts}."
    least = 0.0
    for level in levels:
        alone = think * level.requests / (level.concurrency or 1)
        least += (think + pauses) * bool(scenario.warmup) + (scenario.duration or alone)
    return f"{counts}. Thinking alone takes {about(least)} of {whole}; answers come on top of that."


def search_sentence(scenario: Scenario) -> str:
    """Say how long a search is whose first level `scenario` has: its levels, and what each takes of people or at a rate."""
    (level,) = scenario.levels()
    levels = f"The search measures some 4 to 12 levels of {level.requests} requests or more, one after another."
    people = people_sentence(scenario, mean_turns(as_files_say(scenario)), "the first")
    sent = ""
    if level.rate and level.requests and not scenario.has_sessions:
        once, twice = (about(times * level.requests / level.rate) for times in (1, 2))
        sent = f"At its rate each sends for {once}, or for {twice} where it is measured with twice the requests."
    return joined(" ", levels, sent, people)


def say_how_long(
    scenario: Scenario, objectives: Sequence[Objective], say: Callable[[str], object]
) -> Callable[[Progress], object]:
    """Say what will be sent and how long it takes, as far as that is known; return what says the rest once answers come."""
    scenario = as_files_say(scenario)
    turns = mean_turns(scenario)
    for sentence in filter(None, (requests_sentence(scenario, objectives), people_sentence(scenario, turns))):
        say(sentence)
    return TimeNotice(scenario, say, turns)


class TimeNotice:
    """Says once, after the first answers, how long the levels of a closed loop will take in all."""

    def __init__(self, scenario: Scenario, say: Callable[[str], object], turns: float = 1.0) -> None:
        """`turns` is how many a warm-up session has, in the mean."""
        self._levels = scenario.levels()
        self._warmup, self._say = scenario.warmup * turns, say
        self._told = scenario.open_loop or scenario.duration is not None

    def __call__(self, at: Progress) -> None:
        first = self._levels[0]
        # requests that failed are done sooner or later than answers, and how many more will fail is not known
        if self._told or at.failed or at.level.index or not first.concurrency or at.done < max(first.concurrency, 2):
            return
        self._told = True
        low, high = self._between(at.done / at.elapsed, first)
        waits = f" in all if streams do not slow each other down, {about(high)} if they wait for each other"
        self._say(f"At the pace of the first answers this takes {about(low)}{waits if len(self._levels) > 1 else ''}.")

    def _between(self, rate: float, first: Level) -> tuple[float, float]:
        """Return the shortest and the longest time for all levels in seconds, where `first` completes `rate` requests/s.

        The shortest is that of a server whose streams do not slow each other down, the longest that of a server that
        answers one request after another.
        """
        low = high = 0.0
        for level in self._levels:
            streams = level.concurrency or 1
            alone = (level.requests + streams * self._warmup) / rate * _work(level, first)
            apart = alone * (first.concurrency or 1) / streams
            low, high = low + min(alone, apart), high + max(alone, apart)
        return low, high


def _work(level: Level, first: Level) -> float:
    """Return the work of a request of `level` relative to one of `first`, by the output tokens they ask for."""
    if not level.output_tokens or not first.output_tokens:
        return 1.0
    return level.output_tokens / first.output_tokens


def _level_seconds(scenario: Scenario, level: Level) -> float:
    rate = level.rate or 0.0
    mean = (rate + (rate if level.rate_to is None else level.rate_to)) / 2
    least = max(scenario.least_requests or 0, level.requests)
    return max(scenario.duration or 0.0, least / mean if mean else 0.0)


def _the_levels(levels: Sequence[Level]) -> str:
    return "The level" if len(levels) == 1 else f"The {len(levels)} levels"
