"""How results come out: as text, as one JSON document, or quietly; and as files for continuous integration."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.text import Text

from loadtest.credentials import scrubber
from loadtest.errors import ScenarioError
from loadtest.measure.search import SearchResult
from loadtest.run_folder import write_whole
from loadtest.slo import Objective, judge_objectives

if TYPE_CHECKING:
    from loadtest.analyse.report import Report

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # names the file that GitHub shows on the page of a job


@dataclass(frozen=True, slots=True)
class GateFiles:
    """Where the outcome of gates goes for continuous integration, besides the exit code."""

    junit: Path | None = None
    step_summary: Path | None = None

    @classmethod
    def asked(cls, junit: Path | None, *, github_summary: bool) -> GateFiles:
        """Return what the options ask for; raise ScenarioError where a file could not be written."""
        named = os.environ.get(STEP_SUMMARY) if github_summary else None
        if github_summary and not named:
            raise ScenarioError(
                f"--github-summary writes to the file that {STEP_SUMMARY} names, and it is not set: GitHub sets it in the "
                "steps of a workflow; elsewhere leave the option out."
            )
        found = cls(junit, Path(named) if named else None)
        for path, option in ((found.junit, "--junit"), (found.step_summary, STEP_SUMMARY)):
            if path is not None:
                _check_writable(path, option)
        return found

    def write(
        self, reports: Sequence[Report], objectives: Sequence[Objective], found: tuple[SearchResult, str] | None = None
    ) -> None:
        """Write JUnit XML, and append to the step summary. `found` is what --find-max found, and its sentence."""
        if self.junit is None and self.step_summary is None:
            return
        from loadtest.analyse.reports import gate_report

        analyses = [one for report in reports for one in report.analyses]
        summaries = [(str(one.run.path), one.summary) for one in analyses]
        search = gate_report.searched(found[1], met=bool(found[0].met), void=bool(found[0].void)) if found else None
        if self.junit is not None:
            self.junit.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.junit, scrubber()(gate_report.junit(summaries, objectives, search)))
        if self.step_summary is not None:
            text = "".join(gate_report.step_summary(one, objectives, search) for _, one in summaries)
            with self.step_summary.open("ab") as file:
                file.write(scrubber()(text.encode()))


def _check_writable(path: Path, option: str) -> None:
    """Raise ScenarioError where the file cannot be written; make nothing."""
    if path.is_dir():
        raise ScenarioError(f"{option}: {path} is a folder; name a file.")
    nearest = next(folder for folder in path.absolute().parents if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise ScenarioError(f"{option}: cannot write to {nearest}; name a file in another folder.")


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --json, whose value is `as_json`."""
    words = "Print one JSON document, and nothing else, to stdout; its names stay (docs/ci.md)."
    return click.option("--json", "as_json", is_flag=True, help=words)(command)


def gate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --junit and --github-summary, as `gates`."""

    @functools.wraps(command)
    def with_gates(*given: Any, junit: Path | None, github_summary: bool, **others: Any) -> Any:
        return command(*given, gates=GateFiles.asked(junit, github_summary=github_summary), **others)

    with_summary = click.option(
        "--github-summary",
        is_flag=True,
        help=f"Append tables of levels and objectives to the summary of the GitHub step (the file named by {STEP_SUMMARY}).",
    )(with_gates)
    return click.option(
        "--junit",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write each level's verdict and objectives as JUnit XML, which CI systems show as tests.",
    )(with_summary)


def write_comparison(
    out: Path, draw: Callable[[Path], Path], markdown: Callable[[str], str], body: dict[str, Any]
) -> list[Path]:
    """Write compare.png, compare.md (of the picture's name) and compare.json into a folder; return where they lie."""
    out.mkdir(parents=True, exist_ok=True)
    picture = draw(out / "compare.png")
    page = write_whole(out / "compare.md", markdown(picture.name).encode())
    return [page, write_whole(out / "compare.json", orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n"), picture]


def print_trouble(console: Console, sentences: Sequence[str]) -> None:
    """Print what is wrong with a run folder before anything that rests on it."""
    for sentence in sentences:
        console.print(Text(sentence, style="bold yellow"))


def print_written(console: Console, files: Sequence[Path]) -> None:
    """Say which files were written, each on a line that can be copied whole."""
    for path in files:
        console.print(Text(f"wrote {path}", style="dim"), soft_wrap=True)


def print_json(body: Any) -> None:
    """Print one JSON document to stdout, without the secrets of the environment."""
    option = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    sys.stdout.write(scrubber()(orjson.dumps(body, option=option, default=str)).decode() + "\n")


def report_dict(written: Report, objectives: Sequence[Objective]) -> dict[str, Any]:
    """Return the report of one run as plain values: what `run --json` and `report --json` print."""
    from loadtest.analyse.findings import run_findings as findings

    one = written.analyses[0]
    said = [{"claim": str(each), "evidence": each.evidence or None} for each in findings.all_findings(one)]
    judged = [
        {"level": level["label"], "index": level["index"], **each.to_dict(), "met": each.met, "sentence": str(each)}
        for level in one.summary["levels"]
        for each in judge_objectives(objectives, level)
    ]
    return {
        "path": str(one.run.path),
        "state": one.summary["state"],
        "verdict": one.summary["verdict"],
        "objectives": judged,
        "findings": said,
        "files": [str(path) for path in written.files],
        "summary": one.summary,
    }
