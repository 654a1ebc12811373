"""`loadtest report`, and how `loadtest run` reports at its end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from loadtest.analyse.figures.cost import NO_PRICES, Prices
from loadtest.cli.options import together
from loadtest.cli.output.gates import GateFiles, gate_options
from loadtest.cli.output.printing import at_work, json_option, out_folder, out_option, print_json, print_wrapped
from loadtest.errors import LoadTestError
from loadtest.metrics import VOID
from loadtest.scenario import Scenario, keys_of
from loadtest.scenario.price import PRICE_KEYS
from loadtest.slo import Objective, judge_objectives, parse_objectives

if TYPE_CHECKING:
    from loadtest.analyse.report import Report

slo_option = click.option(
    "--slo",
    metavar="NAME=LIMIT,…",
    help="What every level must meet, e.g. ttft_p95=2,tokens_per_s_p5=10,errors=0.01 (seconds; tokens/s; share of requests "
    "that failed); exit code 1 where a level does not meet it or cannot be judged.",
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
        {"level": level["label"], "index": level["index"], **each.to_dict(), "met": each.met, "sentence": str(each)}
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
@out_option("Folder for the files, of several runs a folder each in it.  [default: the run folder]")
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

    A folder can be reported any number of times; a run still in progress is reported as far as it got. With --slo, summary.json
    also has each level's goodput. A folder that cannot be reported is named, and the others are reported.

    \b
    Exit codes: 0 done · 1 an objective is missed or not judged
                2 a folder could not be reported
                3 a level is void, or records are missing
    """
    from loadtest.analyse.report import places

    gates = GateFiles.asked(junit, github_summary=github_summary)
    prices = Prices.asked(price_per_hour, price_per_kwh)
    objectives = () if slo is None else parse_objectives(slo)
    written: list[Report] = []
    for run, place in zip(runs, places(runs, out), strict=True):
        try:
            folder = out_folder(run, place if out else None)
            written.append(
                show_report(run, charts=True, objectives=objectives, text=not as_json, prices=prices, out=folder)
            )
        except LoadTestError as error:
            print(f"loadtest: {error}", file=sys.stderr)
        except BrokenPipeError:
            raise
        except OSError as error:
            print(f"loadtest: cannot write {error.filename or place}: {error.strerror}.", file=sys.stderr)
    if published and written:
        _published(written, written[0].files[0].parent, text=not as_json)
    gates.write(written, objectives)
    code = 2 if len(written) < len(runs) else exit_code(written, objectives)
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
    path = folder / "published.md"
    path.write_text(markdown, encoding="utf-8")
    if text:
        print(f"\n{markdown}\nwrote {path}")
