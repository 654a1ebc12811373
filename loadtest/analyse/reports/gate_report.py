"""The outcome of gates for continuous integration: JUnit XML, and Markdown for the summary of a GitHub step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from loadtest.analyse.findings.measured_on import marked, measured_on, simulated_mark
from loadtest.analyse.reports import tables
from loadtest.analyse.run import LevelData, told_apart
from loadtest.doubts import VOID
from loadtest.grid import Grid, escaped
from loadtest.slo import Judged, Objective, judge_objectives
from loadtest.text import shown

ERROR, FAILURE = "error", "failure"  # JUnit's words: it could not be tested; it was tested and failed


@dataclass(frozen=True, slots=True)
class GateCase:
    level: str
    name: str
    said: str
    ended: str = ""  # "error", "failure", or "" where it passed


def searched(sentence: str, *, met: bool, void: bool) -> GateCase:
    """Return the case of a search for the highest load: whether any load surely meets the objectives."""
    return GateCase(
        "find-max", "some load surely meets the objectives", sentence, ERROR if void else "" if met else FAILURE
    )


def cases(
    summary: dict[str, Any], objectives: Sequence[Objective], search: GateCase | None = None
) -> Iterator[GateCase]:
    """Yield a case for each level's verdict and each of its objectives, and one for a run that did not end by itself.

    Of a search it is one for what was found: levels beyond the answer have to miss the objectives.
    """
    if summary["state"] != "done":
        yield GateCase("run", "the run ended by itself", " ".join(summary["trouble"]), ERROR)
    if not summary["levels"]:
        yield GateCase("run", "something was measured", "no level was measured", ERROR)
    if search is not None:
        yield search
        return
    for level in told_apart(summary["levels"]):
        verdict = level["verdict"]
        why = "; ".join(level["reasons"])
        said = f"{verdict}: {why}" if why else verdict
        yield GateCase(level["label"], "can be believed", said, ERROR if verdict == VOID else "")
        for each in judge_objectives(objectives, level):
            unsaid = verdict == VOID or each.unjudged is not None
            ended = ERROR if unsaid else "" if each.met else FAILURE
            yield GateCase(level["label"], str(each.objective), each.in_level(verdict), ended)


def junit(
    runs: Sequence[tuple[str, dict[str, Any]]], objectives: Sequence[Objective], search: GateCase | None = None
) -> bytes:
    """Return JUnit XML with a suite for each run, given as its path and its summary."""
    root = ElementTree.Element("testsuites", name="loadtest")
    every = [list(cases(summary, objectives, search)) for _, summary in runs]
    for (path, summary), tested in zip(runs, every, strict=True):
        suite = ElementTree.SubElement(root, "testsuite", name=shown(summary["name"]))
        _count(suite, tested)
        if summary["started"]:
            suite.set("timestamp", str(summary["started"]))
        facts = ElementTree.SubElement(suite, "properties")
        for name, value in (("run", path), ("measured", measured_on(summary)), ("simulated", simulated_mark(summary))):
            if value:
                ElementTree.SubElement(facts, "property", name=name, value=shown(value))
        for case in tested:
            row = ElementTree.SubElement(suite, "testcase", classname=shown(case.level), name=shown(case.name))
            if case.ended:
                ElementTree.SubElement(row, case.ended, message=shown(case.said))
            else:
                ElementTree.SubElement(row, "system-out").text = shown(case.said)
    _count(root, [case for tested in every for case in tested])
    ElementTree.indent(root)
    body: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _count(element: ElementTree.Element, tested: Sequence[GateCase]) -> None:
    element.set("tests", str(len(tested)))
    element.set("failures", str(sum(case.ended == FAILURE for case in tested)))
    element.set("errors", str(sum(case.ended == ERROR for case in tested)))


def step_summary(summary: dict[str, Any], objectives: Sequence[Objective], search: GateCase | None = None) -> str:
    """Return the Markdown that a CI job shows for a run: its levels, what each objective came to, and reasons for doubt."""
    title = marked(f"loadtest: {summary['name']}, {measured_on(summary)}", summary)
    lines = [f"### {escaped(shown(title))}", ""]
    for sentence in summary["trouble"]:
        lines += [f"**{escaped(shown(sentence))}**", ""]
    if search is not None:
        lines += [f"**{escaped(shown(search.said))}**", ""]
    levels = told_apart(summary["levels"])
    lines += [*_levels(levels).markdown(), ""]
    rows = [
        (level["label"], str(each.objective), _mark(each, level["verdict"]), each.amount)
        for level in levels
        for each in judge_objectives(objectives, level)
    ]
    if rows:
        lines += [*Grid(("level", "objective", "outcome", "figure"), tuple(rows), names=3, prose=True).markdown(), ""]
    doubts = [
        f"- {escaped(shown(level['label']))} is {level['verdict']}: {escaped(shown('; '.join(level['reasons'])))}."
        for level in levels
        if level["reasons"]
    ]
    return "\n".join([*lines, *doubts, *([""] if doubts else [])]) + "\n"


def _mark(judged: Judged, verdict: str) -> str:
    sign = "❔" if verdict == VOID or judged.unjudged is not None else "✅" if judged.met else "❌"
    return f"{sign} {judged.word_in(verdict)}"


def _levels(levels: Sequence[LevelData]) -> Grid:
    heads = ("TTFT p50", "TTFT p95", "tokens/s a stream", "output tokens/s")
    rows = tuple(
        (level["label"], str(level["requests"]), *map(tables.headline(level).__getitem__, heads), level.verdict_said)
        for level in levels
    )
    return Grid(("level", "requests", *heads, "verdict"), rows)
