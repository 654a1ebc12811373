"""`loadtest run`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from loadtest.asyncio_driver.session import Beside, Choose, Finished, measure
from loadtest.cli.expected import Expected, beforehand, enough
from loadtest.cli.monitor import beside_run, monitor_options
from loadtest.cli.options import make_scenario, scenario_options
from loadtest.cli.progress import LiveLine
from loadtest.cli.report import SLO_HELP, any_records_lost, exit_code, show_report
from loadtest.cli.search import Finder
from loadtest.errors import LoadTestError, ScenarioError
from loadtest.measure.progress import Progress
from loadtest.measure.search import DEFAULT_MOST
from loadtest.scenario import MOST_STREAMS, Scenario
from loadtest.slo import Objective, parse_objectives
from loadtest.workloads.workload import check_files


def run_scenario(
    scenario: Scenario,
    out: Path | None,
    *,
    line: LiveLine | None = None,
    choose: Choose | None = None,
    beside: Beside | None = None,
    watch: Callable[[Progress], object] = lambda _: None,
) -> Finished:
    """Measure `scenario` with the progress line on stderr; `watch` sees the same progress."""
    line = line or LiveLine()
    for note in check_files(scenario):
        line.say(note)

    def progress(at: Progress) -> None:
        watch(at)
        line.show(at)

    try:
        return measure(scenario, out, on_progress=progress, say=line.say, choose=choose, beside=beside)
    finally:
        line.close()


@click.command()
@click.argument("scenario_file", metavar="[SCENARIO.toml]", required=False, type=click.Path(path_type=Path))
@scenario_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make.  [default: runs/<time>-<name>]")
@click.option("--report", is_flag=True, help="Also write report.html, report.md and PNG charts into the folder.")
@click.option("--slo", metavar="NAME=LIMIT,…", help=SLO_HELP)
@click.option(
    "--find-max",
    type=click.IntRange(1, MOST_STREAMS),
    is_flag=False,
    flag_value=DEFAULT_MOST,
    metavar="[N]",
    help=f"Search for the highest concurrency that meets --slo, up to N streams.  [N: {DEFAULT_MOST}]",
)
@monitor_options
def run(
    scenario_file: Path | None,
    out: Path | None,
    *,
    report: bool,
    slo: str | None,
    find_max: int | None,
    monitor: tuple[str, ...],
    monitor_every: float,
    metrics_port: int | None,
    metrics_address: str,
    **values: Any,
) -> int:
    """Measure a server, level by level, into a run folder.

    The grid is every combination of --concurrency, --input-tokens and --output-tokens (or --words); each cell is a
    level. Ctrl-C ends cleanly and keeps every finished request. Options given here win over the scenario file.

    With --rate (or --trace) instead of --concurrency the loop is open: each request is sent when it is due by a schedule
    made beforehand, however many are still unanswered. TTFT then counts from when a request was due as well as from when
    it was sent.

    With --find-max the concurrency is searched for: it doubles from 1 until a level misses --slo, then the gap is halved.
    A level whose 95 % interval holds the limit is measured again with more requests. Exit code 1 when not even one stream
    meets --slo.

    \b
    Examples:
      loadtest run --url http://127.0.0.1:11434 --concurrency 1,2,4,8 --report
      loadtest run --url http://127.0.0.1:11434 --rate 0.5,1,2 --duration 120 --report
      loadtest run scenarios/queue_past_four.toml --model llama3.1:70b --report
      loadtest run --api openai --url http://127.0.0.1:8000 --output-tokens 64,256
      loadtest run --url http://127.0.0.1:11434 --slo ttft_p95=2,tokens_per_s_p5=10 --find-max
      loadtest run --url http://127.0.0.1:11434 --monitor host,nvidia,ollama --report
      loadtest run --url http://127.0.0.1:11434 --duration 300 --metrics-port 9464
    """
    objectives = () if slo is None else parse_objectives(slo)
    if find_max is not None:
        _check_find_max(objectives, values)
    scenario = make_scenario(scenario_file, values)
    beside = beside_run(
        monitor, monitor_every, metrics_port=metrics_port, metrics_address=metrics_address, keys=scenario
    )
    if find_max is not None:
        return _find_max(scenario, out, objectives, find_max, report=report, beside=beside)
    scenario = enough(scenario, objectives, by_time=values.get("duration") is not None)
    return _measure_levels(scenario, out, objectives, report=report, beside=beside)


def _measure_levels(
    scenario: Scenario, out: Path | None, objectives: Sequence[Objective], *, report: bool, beside: Beside | None
) -> int:
    line = LiveLine()
    if (said := beforehand(scenario, objectives)) is not None:
        line.say(said)
    watch = Expected(scenario, line.say) if objectives else (lambda _: None)
    finished = run_scenario(scenario, out, line=line, beside=beside, watch=watch)
    if finished.state != "done":
        return show_ended(finished, charts=report, objectives=objectives)
    return exit_code([show_report(finished.folder, charts=report, objectives=objectives)], objectives)


def _check_find_max(objectives: Sequence[Objective], values: dict[str, Any]) -> None:
    if not objectives:
        raise ScenarioError("--find-max needs objectives to search by: add --slo, e.g. --slo ttft_p95=2.")
    if values.get("rate") is not None or values.get("trace") is not None:
        raise ScenarioError("--find-max searches over concurrency, not over rates; leave out --rate and --trace.")
    if values.get("concurrency") is not None:
        raise ScenarioError("--find-max chooses the concurrency itself; leave out --concurrency.")


def _find_max(
    scenario: Scenario,
    out: Path | None,
    objectives: Sequence[Objective],
    most: int,
    *,
    report: bool,
    beside: Beside | None,
) -> int:
    line = LiveLine()
    finder = Finder(scenario, objectives, most, line.say)
    finished = run_scenario(finder.first(scenario), out, line=line, choose=finder, beside=beside)
    if finished.failure is not None:
        return show_ended(finished)
    found, sentence = finder.conclude(finished.folder)
    written = show_report(finished.folder, charts=report)
    if finished.state == "interrupted":
        return _interrupted()
    print(sentence)
    return 3 if found.void or any_records_lost([written]) else 0 if found.met else 1


def show_ended(finished: Finished, *, charts: bool = False, objectives: Sequence[Objective] = ()) -> int:
    """Show what a run left that was interrupted or could not keep all it measured; say why, and return the exit code."""
    if finished.failure is None:
        show_report(finished.folder, charts=charts, objectives=objectives)
        return _interrupted()
    try:
        show_report(finished.folder, charts=False)
    except (LoadTestError, OSError):
        pass  # the reason is the same, and it is said once
    print(f"loadtest: {finished.failure}", file=sys.stderr)
    return 3


def _interrupted() -> int:
    print("Interrupted: every finished request is kept.", file=sys.stderr)
    return 130
