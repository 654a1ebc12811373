"""What `loadtest run` shows at its end: as text, as one JSON document or quietly; and its exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from loadtest.asyncio_driver.run import Finished
from loadtest.cli.options import together
from loadtest.cli.options.environment import is_from_environment
from loadtest.cli.output.printing import json_option, print_json, print_wrapped
from loadtest.cli.report import GateFiles, any_records_lost, exit_code, gate_options, report_dict, show_report
from loadtest.doubts import VOID
from loadtest.errors import LoadTestError, ScenarioError
from loadtest.measure.search import SearchResult
from loadtest.slo import Objective, judge_objectives
from loadtest.text import levels_are

if TYPE_CHECKING:
    from loadtest.analyse.report import Report


@dataclass(frozen=True, slots=True)
class Showing:
    charts: bool = True
    text: bool = True  # tables, findings and objectives
    quiet: bool = False  # no progress, no notes; of the results the folder alone
    as_json: bool = False
    gates: GateFiles = field(default_factory=GateFiles)

    @classmethod
    def taken(cls, values: dict[str, Any]) -> Showing:
        """Take the options that say how results come out from those of a command."""
        gates = GateFiles.asked(values.pop("junit"), github_summary=values.pop("github_summary"))
        report, no_report, quiet, as_json = (values.pop(name) for name in ("report", "no_report", "quiet", "as_json"))
        if report and no_report and not is_from_environment("no_report"):
            raise ScenarioError("--report and --no-report exclude each other; a report is written without either.")
        return cls(report or not no_report, not (quiet or as_json), quiet, as_json, gates)


# gives a command the options that `Showing.taken` takes
showing_options = together(
    click.option("--report", is_flag=True, hidden=True),
    click.option(
        "--no-report",
        is_flag=True,
        help="Leave out report.html, report.md and the charts; `loadtest report` makes them later.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Print the run folder alone, and what went wrong to stderr."),
    json_option,
    gate_options,
)


def show_ended(
    finished: Finished,
    showing: Showing = Showing(),
    *,
    objectives: Sequence[Objective] = (),
    searched: tuple[SearchResult, str] | None = None,
) -> int:
    """Show what a run left, also where it was interrupted or could not keep all that it measured; return the exit code.

    `searched` is what --find-max found, whose levels are not held against the objectives one by one.
    """
    failed = finished.failure is not None
    written = None
    try:
        written = show_report(
            finished.folder,
            charts=showing.charts and not failed,
            objectives=objectives,
            text=showing.text,
        )
    except (LoadTestError, OSError):
        if not failed:
            raise  # where the run failed, the reason is the same, and it is said once
    code = _exit_code(finished, written, objectives, searched)
    conclusion = None if searched is None else searched[1]
    if written is not None:
        showing.gates.write([written], objectives, searched)
    if showing.as_json:
        ended = {"path": str(finished.folder), "state": finished.state}
        body = ended if written is None else report_dict(written, objectives)
        print_json({**body, "find_max": conclusion, "failure": finished.failure, "exit_code": code})
    elif showing.quiet:
        print(finished.folder)
    if conclusion is not None and finished.state != "interrupted" and not showing.as_json:
        print_wrapped(conclusion, file=sys.stderr if showing.quiet else sys.stdout)
    if showing.quiet and written is not None:
        _print_what_is_wrong(written, objectives)
    if failed:
        print(f"loadtest: {finished.failure}", file=sys.stderr)
    elif finished.state == "interrupted":
        print("Interrupted: every finished request is kept.", file=sys.stderr)
    elif showing.text and searched is None and written is not None and written.verdict == VOID:
        print_wrapped(_void_last(written.summary["levels"]))
    return code


def _void_last(levels: Sequence[dict[str, Any]]) -> str:
    """Say at the end of a long report why the exit code is 3, and where it says what to do."""
    void = sum(level["verdict"] == VOID for level in levels)
    which = f"{levels_are(void, len(levels))} void" if void else "The run is void"
    return f"{which}: do not quote void figures. What to do is said above, under the verdict."


def _exit_code(
    finished: Finished,
    written: Report | None,
    objectives: Sequence[Objective],
    searched: tuple[SearchResult, str] | None,
) -> int:
    if finished.failure is not None or written is None:
        return 3
    if finished.state == "interrupted":
        return 130
    if searched is None:
        return exit_code([written], objectives)
    found, _ = searched
    return 3 if found.void or any_records_lost([written]) else 0 if found.met else 1


def _print_what_is_wrong(written: Report, objectives: Sequence[Objective]) -> None:
    """Print to stderr why the exit code is not 0: void levels, and objectives that are not met."""
    for sentence in written.summary["trouble"]:
        print(f"loadtest: {sentence}", file=sys.stderr)
    for level in written.summary["levels"]:
        if level["verdict"] == VOID:
            print(f"loadtest: {level['label']} is void: {'; '.join(level['reasons'])}.", file=sys.stderr)
        for each in judge_objectives(objectives, level):
            if not each.met:
                print(f"loadtest: {level['label']}: {each.in_level(level['verdict'])}.", file=sys.stderr)
