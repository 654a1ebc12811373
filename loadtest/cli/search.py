"""`loadtest run --find-max`: measure a level, read it from the run folder, decide on the next."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.measure.search import Search, SearchResult, TriedLevel
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level, Scenario
from loadtest.slo import ERRORS, Objective, decided, judge

FEWEST = 40  # requests of a level: fewer seldom have an interval
BEYOND = 3  # requests past a percentile that a level should have: p95 wants 60 in all, p99 300


class Finder:
    """Judges each level by the figures and intervals that the report will show, and names the next."""

    def __init__(
        self, scenario: Scenario, objectives: Sequence[Objective], most: int, say: Callable[[str], object]
    ) -> None:
        least = max(FEWEST, *(_least(each) for each in objectives), scenario.requests or 0)
        self._search = Search(least=least, a_stream=scenario.requests_per_stream, most=most)
        self._objectives = objectives
        self._max_error_ratio = scenario.max_error_ratio
        self._say = say
        self._unknown: str | None = None  # what no further request would tell
        self.tried: list[TriedLevel] = []

    def first(self, scenario: Scenario) -> Scenario:
        """Return the scenario of the first level; raise ScenarioError where the scenario is no single search."""
        if scenario.duration is not None:
            raise ScenarioError(
                "--find-max measures as many requests as its answer needs; leave --duration away, or set the least with "
                "--requests."
            )
        if scenario.open_loop:
            raise ScenarioError("--find-max searches over concurrency; leave rate and trace out of the scenario.")
        if len(scenario.replace(concurrency=(1,)).levels()) > 1:
            raise ScenarioError(
                "--find-max searches for one combination of lengths; give one --input-tokens, --output-tokens and --words."
            )
        start = self._search.next_level([])
        assert start is not None
        return scenario.replace(concurrency=(start.concurrency,), requests=start.requests)

    def __call__(self, folder: Path, levels: Sequence[Level]) -> Level | None:
        """Judge the last of the levels run and return the next one."""
        from loadtest.analyse.reports.summary import analyse

        last = levels[-1]
        found = next(
            level for level in analyse(folder, self._objectives).summary["levels"] if level["index"] == last.index
        )
        self.tried.append(self._judged(last, found))
        self._say(f"{last.label}, {last.requests} requests: {self.tried[-1].saw}.")
        following = self._search.next_level(self.tried)
        if following is None or self._unknown is not None:
            return None
        return dataclasses.replace(
            last, index=last.index + 1, concurrency=following.concurrency, requests=following.requests
        )

    def _judged(self, level: Level, summary: dict[str, Any]) -> TriedLevel:
        from loadtest.analyse.reports.summary import failed

        failures, requests = failed(summary), summary["requests"]
        judged = judge(self._objectives, summary)
        void = summary["verdict"] == "void"
        met, saw = decided(judged), "; ".join(map(str, judged))
        by_share = any(each.figure == ERRORS for each in self._objectives)
        if not by_share and failures > self._max_error_ratio * requests:
            met, saw = False, f"{failures} of {requests} requests failed"
        elif void:
            met, saw = None, f"void ({'; '.join(summary['reasons'])})"
        elif met is None:
            self._unknown = next((str(each) for each in judged if each.unjudged and not each.few), None)
        return TriedLevel(level.concurrency or 0, requests, met, saw, void and met is None)

    def conclude(self, folder: Path) -> tuple[SearchResult, str]:
        """Return what was found and its sentence, and keep both in run.json under `find_max`."""
        found = SearchResult.of(self.tried)
        asked = " and ".join(map(str, self._objectives))
        facts = RunFolder.open(folder).read_run()
        simulated = (facts.get("server") or {}).get("simulated")
        server = "The simulated server" if simulated else "The server"
        sentence = found.sentence(asked, self._search.most, server=server)
        if self._unknown is not None:
            sentence = f"Nothing is known about {asked}: {self._unknown}."
        facts["find_max"] = {
            "slo": {each.name: each.limit for each in self._objectives},
            **dataclasses.asdict(found),
            "tried": [dataclasses.asdict(one) for one in self.tried],
            "sentence": sentence,
        }
        RunFolder(folder).write_run(facts)
        return found, sentence


def _least(objective: Objective) -> int:
    """Return how many requests a level should have, for the objective to be clear at once."""
    return objective.requests if objective.figure == ERRORS else math.ceil(BEYOND / objective.tail - 1e-9)
