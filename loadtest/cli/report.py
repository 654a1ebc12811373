"""`loadtest report`, how `loadtest run` reports at its end, and what both tell continuous integration."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from loadtest.analyse.figures.cost import NO_PRICES, Prices
from loadtest.cli.options import together
from loadtest.cli.output.mistakes import print_mistake
from loadtest.cli.output.printing import at_work, json_option, out_folder, out_option, print_json, print_wrapped
from loadtest.credentials import scrubber
from loadtest.doubts import VOID
from loadtest.errors import LoadTestError, ScenarioError, exit_code_of
from loadtest.measure.search import SearchResult
from loadtest.run_folder import check_file_writable, write_whole
from loadtest.scenario import Scenario, keys_of
from loadtest.scenario.price import PRICE_KEYS
from loadtest.slo import Objective, judge_objectives, parse_objectives

if TYPE_CHECKING:
    from loadtest.analyse.report import Report

STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # names the file that GitHub shows on the page of a job

slo_option = click.option(
    "--slo",
    metavar="NAME=LIMIT,…",
    help="What every level must meet, e.g. ttft_p95=2,tokens_per_s_p5=10,errors=0.01 (seconds; tokens/s; share of requests "
    "that failed); exit code 1 where a level does not meet it or cannot be judged.",
)


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
                check_file_writable(path, option)
        return found

    def write(
        self, reports: Sequence[Report], objectives: Sequence[Objective], found: tuple[SearchResult, str] | None = None
    ) -> None:
        """Write JUnit XML, and append to the step summary. `found` is what --find-max found, and its sentence."""
        if self.junit is None and self.step_summary is None:
            return
        from loadtest.analyse.reports import gate_report

        summaries = [(str(one.analysis.run.path), one.summary) for one in reports]
        search = gate_report.searched(found[1], met=bool(found[0].met), void=bool(found[0].void)) if found else None
        if self.junit is not None:
            self.junit.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.junit, scrubber()(gate_report.junit(summaries, objectives, search)))
        if self.step_summary is not None:
            text = "".join(gate_report.step_summary(one, objectives, search) for _, one in summaries)
            with self.step_summary.open("ab") as file:
                file.write(scrubber()(text.encode()))


# gives a command --junit and --github-summary
gate_options = together(
    click.option(
        "--junit",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write each level's verdict and objectives as JUnit XML, which CI systems show as tests.",
    ),
    click.option(
        "--github-summary",
        is_flag=True,
        help=f"Append tables of levels and objectives to the summary of the GitHub step (the file named by {STEP_SUMMARY}).",
    ),
)


def show_report(
    folder: Path,
    *,
    charts: bool,
    objectives: Sequence[Objective] = (),
    text: bool = True,
    prices: Prices = NO_PRICES,
    out: Path | None = None,
) -> Report:
    """Write summary.json and, with `charts`, the report of a run folder, into it or `out`; with `text` print summary and objectives."""
    from loadtest.analyse.report import console_report, write_report

    with at_work("Working out the figures and drawing the charts") if text else contextlib.nullcontext():
        written = write_report(folder, out, charts=charts, objectives=objectives, prices=prices)
    if not text:
        return written
    console_report(written, Console())
    for level in written.summary["levels"] if objectives else ():
        for judged in judge_objectives(objectives, level):
            print_wrapped(f"{level['label']}: {judged.in_level(level['verdict'])}")
    return written


def exit_code(reports: Sequence[Report], objectives: Sequence[Objective]) -> int:
    """Return 3 when a level is void or records are lost, else 1 when an objective is missed or not judged, else 0."""
    levels = [level for report in reports for level in report.summary["levels"]]
    if any_records_lost(reports) or any(report.verdict == VOID for report in reports):
        return 3
    return int(any(not judged.met for level in levels for judged in judge_objectives(objectives, level)))


def any_records_lost(reports: Sequence[Report]) -> bool:
    """Whether records are missing that were, or should have been, written, or run.json cannot be read."""
    runs = [report.analysis.run for report in reports]
    return any(run.lost or not run.facts.get("state") for run in runs)


def report_dict(written: Report, objectives: Sequence[Objective]) -> dict[str, Any]:
    """Return the report of one run as plain values: what `run --json` and `report --json` print."""
    one = written.analysis
    judged = [
        {
            "level": level["label"],
            "index": level["index"],
            "verdict": level["verdict"],
            **each.to_dict(),
            "judged": each.word_in(level["verdict"]),
            "met": each.met,
            "sentence": each.in_level(level["verdict"]),
        }
        for level in one.levels
        for each in judge_objectives(objectives, level)
    ]
    return {
        "path": str(one.run.path),
        "state": one.summary["state"],
        "verdict": one.summary["verdict"],
        "objectives": judged,
        "findings": [{"claim": str(each), "evidence": each.evidence or None} for each in written.findings],
        "files": [str(path) for path in written.files],
        "summary": one.summary,
    }


# gives a command the scenario's prices: they win over those that run.json keeps
_price_options = together(
    *(
        click.option(key.flag, metavar="PRICE", help=f"{key.help}  [default: as the run was told]")
        for key in keys_of(Scenario)
        if key.name in PRICE_KEYS
    )
)


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@slo_option
@click.option(
    "--published", is_flag=True, help="Also compare the runs with the published A100 tables (docs/published.md)."
)
@_price_options
@gate_options
@out_option("Folder for the files; several runs get a folder each in it.  [default: the run folder]")
@json_option
def report(
    runs: tuple[Path, ...],
    slo: str | None,
    *,
    published: bool,
    price_per_hour: str | None,
    price_per_kwh: str | None,
    junit: Path | None,
    github_summary: bool,
    out: Path | None,
    as_json: bool,
) -> int:
    """Make summary.json, report.md, report.html and PNG charts in each run folder.

    A folder can be reported any number of times, also while its run goes on. --slo judges every level by these objectives,
    and the exit code says the outcome. Without it the pages use the --slo of the run, and the exit code ignores it. A folder
    that cannot be reported is named, and the others are reported.

    \b
    Exit codes: 0 done · 1 an objective is missed or not judged
                2 a folder could not be reported
                3 a level is void, records are missing, or the disk filled up
    """
    from loadtest.analyse.report import places

    gates = GateFiles.asked(junit, github_summary=github_summary)
    prices = Prices.asked(price_per_hour, price_per_kwh)
    objectives = () if slo is None else parse_objectives(slo)
    written: list[Report] = []
    refused: list[int] = []  # exit codes
    for run, place in zip(runs, places(runs, out), strict=True):
        try:
            folder = out_folder(run, place if out else None)
            written.append(
                show_report(run, charts=True, objectives=objectives, text=not as_json, prices=prices, out=folder)
            )
        except LoadTestError as error:
            print_mistake(str(error))
            refused.append(exit_code_of(error))
        except BrokenPipeError:
            raise
        except OSError as error:
            print_mistake(f"cannot write {error.filename or place}: {error.strerror}.")
            refused.append(exit_code_of(error))
    if published and written:
        _published(written, written[0].files[0].parent, text=not as_json)
    gates.write(written, objectives)
    code = min(refused) if refused else exit_code(written, objectives)
    if as_json:
        print_json({"runs": [report_dict(one, objectives) for one in written], "exit_code": code})
    return code


def _published(reports: Sequence[Report], folder: Path, *, text: bool) -> None:
    """Print measured beside published figures, and write them beside the first report."""
    from loadtest.analyse.reports.published import set_beside
    from loadtest.analyse.run.groups import refuse_groups

    analyses = [report.analysis for report in reports]
    for one in analyses:
        refuse_groups(one.run, [group for group, _ in one.groups], "the comparison with published figures")
    markdown = set_beside(*analyses).markdown()
    path = write_whole(folder / "published.md", markdown.encode())
    if text:
        print(f"\n{markdown}\nwrote {path}")
