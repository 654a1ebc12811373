"""`loadtest run --find-max`: measure a level, read its figures from the run folder, choose the next level."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.analyse.run import LevelData
from loadtest.errors import ScenarioError
from loadtest.measure.search import RATE_STEPS, Loads, Search, SearchResult, TriedLevel
from loadtest.metrics import needed_beyond
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level, Scenario
from loadtest.slo import ERRORS, Objective, all_met, judge_objectives
from loadtest.text import joined

if TYPE_CHECKING:
    from loadtest.analyse.summary import Analysis

SEARCH_FEWEST = 40  # requests of a level; with fewer there is seldom an interval
RATE_S = 30.0  # the shortest level at a rate: a queue needs time to grow
PACE_CHANGED = "The server's pace changed between the levels that this rests on: measure again."
FIRST_PEOPLE = 4  # with whom a search begins where people think: one alone would need minutes for so many turns


def check_find_max(most: int | None, objectives: Sequence[Objective], values: dict[str, Any]) -> None:
    if most is None:
        return
    if not objectives:
        raise ScenarioError("--find-max needs objectives to search by: add --slo, e.g. --slo ttft_p95=2.")
    if values.get("duration") is not None:
        raise ScenarioError(
            "--find-max measures as many requests as its answer needs; leave out --duration, and set the fewest with "
            "--requests."
        )
    if values.get("concurrency") is not None:
        raise ScenarioError("--find-max chooses the concurrency itself; leave out --concurrency.")
    # fewer would be too few for the usual streams, which are not measured
    if (requests := values.get("requests")) is not None:
        values["requests"] = max(requests, SEARCH_FEWEST)


class Finder:
    """Judges each level by the figures and intervals that the report will show, and names the next."""

    def __init__(
        self, scenario: Scenario, objectives: Sequence[Objective], most: int, say: Callable[[str], object]
    ) -> None:
        needed = [each.requests if each.figure == ERRORS else needed_beyond(1 - each.tail) for each in objectives]
        least = max(SEARCH_FEWEST, *needed, scenario.requests or 0)
        least *= scenario.requests_per_rarest_target
        each, start = scenario.requests_per_stream, 1
        self._loads = Loads("people" if scenario.has_sessions or scenario.think_time else "streams")
        if scenario.rate:
            self._loads = Loads("sessions/s" if scenario.has_sessions else "requests/s", scenario.rate[0] / RATE_STEPS)
            each, start, most = math.ceil(self._loads.unit * RATE_S), RATE_STEPS, most * RATE_STEPS
        elif scenario.think_time:
            start = FIRST_PEOPLE
        self._search = Search(least=least, a_stream=each, most=most, start=start)
        self._scenario = scenario
        self._objectives = objectives
        self._say = say
        self._unknown: str | None = None  # what more requests would not tell either
        self._indices: dict[int, int] = {}  # load -> index of the level that measured it last
        self.tried: list[TriedLevel] = []

    def first(self) -> Scenario:
        """Return the scenario of the first level, without its duration; raise ScenarioError for one that is not one search."""
        scenario = self._scenario
        for name in ("trace", "rate_to", "data_once", "up_to_context", "unload"):
            if getattr(scenario, name):
                raise ScenarioError(
                    f"--find-max chooses the load and how many requests it needs; leave out --{name.replace('_', '-')}."
                )
        if len((scenario if scenario.rate else scenario.replace(concurrency=(1,))).levels()) > 1:
            raise ScenarioError(
                "--find-max begins with one level; give one --rate, --input-tokens, --output-tokens and --words."
            )
        start = self._search.next_level([])
        assert start is not None
        load: dict[str, Any] = {"concurrency": (start.concurrency,)}
        if scenario.rate:
            load = {"rate": (start.concurrency * self._loads.unit,)}
        return scenario.replace(**load, requests=start.requests, duration=None)

    def __call__(self, folder: Path, levels: Sequence[Level]) -> Level | None:
        """Judge the last level that ran and return the next one; None where the search is over."""
        from loadtest.analyse.figures.objectives import alone_and_missed
        from loadtest.analyse.summary import analyse

        last, found = levels[-1], analyse(folder, self._objectives)
        rows = [one for one in found.summary["levels"] if one["index"] == last.index]
        judged, labels = [self._judged(last, row) for row in rows], [row.get("label") for row in rows]
        tried = _worst(self._load(last), last, judged, labels)
        if tried.met is False and self._loads.kind == "requests/s":  # of fewer people more would stay in the cache
            tried = dataclasses.replace(tried, alone=alone_and_missed(found.run, last.index, self._objectives))
        self.tried.append(tried)
        if not self.tried[-1].void:
            self._indices[self._load(last)] = last.index
        self._say(f"{last.label}, {last.requests} requests: {self.tried[-1].saw}.")
        following = self._search.next_level(self.tried)
        if following is None or self._unknown is not None:
            return None
        load: dict[str, Any] = {"concurrency": following.concurrency}
        if last.rate is not None:
            load = {"rate": following.concurrency * self._loads.unit}
        load |= {"requests": following.requests, "before": last.before + last.requests}
        return dataclasses.replace(last, index=last.index + 1, **load)

    def _load(self, level: Level) -> int:
        return level.concurrency or round((level.rate or 0.0) / self._loads.unit)

    def _judged(self, level: Level, summary: LevelData) -> TriedLevel:
        failures, requests = summary.failed, summary["requests"]
        judged = judge_objectives(self._objectives, summary)
        void = summary["verdict"] == "void"
        met, saw = all_met(judged), "; ".join(map(str, judged))
        leans = None if any(each.unjudged is not None for each in judged) else all(each.met for each in judged)
        by_share = any(each.figure == ERRORS for each in self._objectives)
        if not by_share and failures > self._scenario.max_error_ratio * requests:
            met, saw = False, f"{failures} of {requests} requests failed"
        elif void:
            met, leans, saw = None, None, f"void ({'; '.join(summary['reasons'])})"
        elif met is None:
            self._unknown = next((str(each) for each in judged if each.unjudged and not each.few), None)
        return TriedLevel(self._load(level), requests, met, saw, void and met is None, leans)

    def conclude(self, folder: Path) -> tuple[SearchResult, str]:
        """Return what was found and its sentence, and keep both in run.json under `find_max`."""
        from loadtest.analyse.findings.binding_facts import cut_short
        from loadtest.analyse.run.frames import load
        from loadtest.analyse.summary import analyse

        unjudged = self._unknown or ""
        found = SearchResult.of(self.tried[:-1] if unjudged and self.tried[1:] else self.tried)
        asked = " and ".join(map(str, self._objectives))
        facts = RunFolder.open(folder).read_run()
        simulated = (facts.get("server") or {}).get("simulated")
        server = "The simulated server" if simulated else "The server"
        analysis = analyse(folder, self._objectives) if self.tried else None
        binds = self._binds(analysis, found)
        past, most = binds["sentence"] if binds else "", self._search.most
        sentence = found.sentence(asked, server=server, loads=self._loads, binds=past, most=most, unjudged=unjudged)
        sentence = joined(" ", sentence, self._pace(analysis, found), cut_short(load(folder)))
        if unjudged and found.answer is None:
            sentence = f"Nothing is known about {asked}: {unjudged}."
        facts["find_max"] = {
            "slo": {each.name: each.limit for each in self._objectives},
            **dataclasses.asdict(found),
            "interval": list(found.interval),
            "loads": dataclasses.asdict(self._loads),
            "binds": binds,
            "tried": [dataclasses.asdict(one) for one in self.tried],
            "sentence": sentence,
        }
        RunFolder(folder).write_run(facts)
        return found, sentence

    def _pace(self, analysis: Analysis | None, found: SearchResult) -> str:
        """Say where the levels that the answer rests on, those beside it, were measured at different paces of the server."""
        from loadtest.analyse.summary import pace_changed

        beside = {self._indices.get(load or 0) for load in (found.met, found.answer, found.beyond, found.missed)}
        levels = [] if analysis is None else [level for level in analysis.levels if level["index"] in beside]
        return PACE_CHANGED if pace_changed(levels) else ""

    def _binds(self, analysis: Analysis | None, found: SearchResult) -> dict[str, Any] | None:
        """Return what the lowest load that missed shows to be the limit; None where there is none, or for several servers."""
        from loadtest.analyse.findings.binding_facts import load_facts
        from loadtest.analyse.whatif.advice.binding import what_binds

        load = found.beyond if found.beyond is not None else found.answer
        if load is None or self._unknown is not None or found.void is not None or found.alone:
            return None
        if analysis is None or analysis.groups:
            return None
        binds = what_binds(load_facts(analysis, self._indices[load], self._objectives))
        decoding = {level["index"]: level["peak_decoding"] for level in analysis.levels}
        met, missed = (decoding.get(self._indices.get(one or 0)) for one in (found.answer, load))
        # as many shared a step where it met: more streams only wait, so they are not why steps take longer
        return None if binds.name == "decode" and met == missed and found.answer != load else binds.to_dict()


def _worst(load: int, level: Level, judged: Sequence[TriedLevel], labels: Sequence[Any]) -> TriedLevel:
    """Return what a level is where it has a row for each model or server: every one of them has to meet the objectives."""
    if len(judged) == 1:
        return judged[0]
    missed = next((one for one in judged if one.met is False), None)
    met = False if missed else None if any(one.met is None for one in judged) else True
    leans = all(one.probably for one in judged)
    saw = "; ".join(f"{label}: {one.saw}" for label, one in zip(labels, judged, strict=True))
    void = missed is None and any(one.void for one in judged)
    return TriedLevel(load, level.requests, met, saw, void, leans)
