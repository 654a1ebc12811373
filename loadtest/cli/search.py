"""`loadtest run --find-max`: measure a level, read its figures from the run folder, choose the next level."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.measure.search import Search, SearchResult, TriedLevel
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level, Scenario, share_of_fewest
from loadtest.slo import ERRORS, Objective, all_met, judge_objectives

SEARCH_FEWEST = 40  # requests of a level; with fewer there is seldom an interval
PAST_PERCENTILE = 3  # requests beyond a percentile that a level should have: 60 in all for p95, 300 for p99


class Finder:
    """Judges each level by the figures and intervals that the report will show, and names the next."""

    def __init__(
        self, scenario: Scenario, objectives: Sequence[Objective], most: int, say: Callable[[str], object]
    ) -> None:
        least = max(SEARCH_FEWEST, *(_requests_needed(each) for each in objectives), scenario.requests or 0)
        least *= share_of_fewest(len(scenario.urls), scenario.models)
        self._search = Search(least=least, a_stream=scenario.requests_per_stream, most=most)
        self._objectives = objectives
        self._max_error_ratio = scenario.max_error_ratio
        self._say = say
        self._unknown: str | None = None  # what more requests would not tell either
        self.tried: list[TriedLevel] = []

    def first(self, scenario: Scenario) -> Scenario:
        """Return the scenario of the first level; raise ScenarioError for a scenario that is not one search."""
        if scenario.duration is not None:
            raise ScenarioError(
                "--find-max measures as many requests as its answer needs; leave out --duration, and set the fewest with "
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
        """Judge the last level that ran and return the next one; None where the search is over."""
        from loadtest.analyse.summary import analyse

        last = levels[-1]
        rows = [one for one in analyse(folder, self._objectives).summary["levels"] if one["index"] == last.index]
        self.tried.append(_worst(last, [self._judged(last, row) for row in rows], [row.get("label") for row in rows]))
        self._say(f"{last.label}, {last.requests} requests: {self.tried[-1].saw}.")
        following = self._search.next_level(self.tried)
        if following is None or self._unknown is not None:
            return None
        return dataclasses.replace(
            last, index=last.index + 1, concurrency=following.concurrency, requests=following.requests
        )

    def _judged(self, level: Level, summary: dict[str, Any]) -> TriedLevel:
        from loadtest.analyse.summary import failed

        failures, requests = failed(summary), summary["requests"]
        judged = judge_objectives(self._objectives, summary)
        void = summary["verdict"] == "void"
        met, saw = all_met(judged), "; ".join(map(str, judged))
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


def _worst(level: Level, judged: Sequence[TriedLevel], labels: Sequence[Any]) -> TriedLevel:
    """Return what a level is where it has a row for each model or server: every one of them has to meet the objectives."""
    if len(judged) == 1:
        return judged[0]
    missed = next((one for one in judged if one.met is False), None)
    met = False if missed else None if any(one.met is None for one in judged) else True
    saw = "; ".join(f"{label}: {one.saw}" for label, one in zip(labels, judged, strict=True))
    void = missed is None and any(one.void for one in judged)
    return TriedLevel(level.concurrency or 0, level.requests, met, saw, void)


def _requests_needed(objective: Objective) -> int:
    """Return how many requests a level should have for the objective to be clear at the first measurement."""
    return objective.requests if objective.figure == ERRORS else math.ceil(PAST_PERCENTILE / objective.tail - 1e-9)
