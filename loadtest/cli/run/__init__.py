"""`loadtest run`: options, the levels or the search, what is shown at the end, and the exit code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadtest.asyncio_driver.run import Beside, Choose, Finished, Keep, measure
from loadtest.cli.monitor import Monitoring, monitor_options
from loadtest.cli.options.environment import is_from_environment, named_in_environment, url_taken
from loadtest.cli.options.help_groups import RunCommand
from loadtest.cli.options.scenario_options import file_and_url, make_scenario, scenario_options
from loadtest.cli.output.gates import GateFiles, gate_options
from loadtest.cli.output.printing import json_option, print_json
from loadtest.cli.output.progress_line import LiveLine, NoLine
from loadtest.cli.report import SLO_HELP, any_records_lost, exit_code, report_dict, show_report
from loadtest.cli.run.find_max import Finder
from loadtest.cli.run.how_long import Expected, beforehand, enough, people_sentence
from loadtest.cli.run.kept_beforehand import as_predicted, kept_beforehand, with_question
from loadtest.errors import LoadTestError, ScenarioError, refuse
from loadtest.measure.progress import Progress
from loadtest.measure.search import DEFAULT_MOST, SearchResult
from loadtest.metrics import VOID
from loadtest.scenario import MOST_STREAMS, Scenario
from loadtest.slo import Objective, judge_objectives, parse_objectives
from loadtest.text import capitalised, out_of
from loadtest.workloads.conversations.sessions import mean_turns
from loadtest.workloads.workload import check_files, planned

if TYPE_CHECKING:
    from loadtest.analyse.report import Report


def run_scenario(
    scenario: Scenario,
    out: Path | None,
    *,
    line: LiveLine | None = None,
    choose: Choose | None = None,
    beside: Beside | None = None,
    keep: Keep | None = None,
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
        return measure(scenario, out, on_progress=progress, say=line.say, choose=choose, beside=beside, keep=keep)
    finally:
        line.close()


@dataclass(frozen=True, slots=True)
class Showing:
    """How a run's results come out."""

    charts: bool = True
    text: bool = True  # tables, findings and objectives
    quiet: bool = False  # no progress, no notes; of the results the folder alone
    as_json: bool = False
    gates: GateFiles = field(default_factory=GateFiles)

    def line(self) -> LiveLine:
        return NoLine() if self.quiet else LiveLine()


def showing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that say how results come out, as `showing`."""

    @functools.wraps(command)
    def with_showing(
        *given: Any,
        report: bool,
        no_report: bool,
        quiet: bool,
        as_json: bool,
        gates: GateFiles,
        **others: Any,
    ) -> Any:
        charts = _charts_wanted(report=report, no_report=no_report)
        text = not (quiet or as_json)
        showing = Showing(charts, text=text, quiet=quiet, as_json=as_json, gates=gates)
        return command(*given, showing=showing, **others)

    with_results = json_option(gate_options(with_showing))
    with_quiet = click.option(
        "-q", "--quiet", is_flag=True, help="Print the run folder alone, and what went wrong to stderr."
    )(with_results)
    with_no_report = click.option(
        "--no-report",
        is_flag=True,
        help="Leave out report.html, report.md and the charts; `loadtest report` makes them later.",
    )(with_quiet)
    return click.option("--report", is_flag=True, hidden=True)(with_no_report)


@click.command(cls=RunCommand)
@click.argument("given", metavar="[SCENARIO.toml] [URL]", nargs=-1)
@scenario_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make.  [default: runs/<time>-<name>]")
@showing_options
@click.option("--slo", metavar="NAME=LIMIT,…", help=SLO_HELP)
@click.option(
    "--find-max",
    type=click.IntRange(1, MOST_STREAMS),
    is_flag=False,
    flag_value=DEFAULT_MOST,
    metavar="[N]",
    help="Search for the most streams that meet --slo, people where --turns has them hold conversations, up to N; with "
    f"--rate for the highest rate, from that one on, up to N times it.  [N: {DEFAULT_MOST}]",
)
@click.option(
    "--prediction",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A prediction.json to keep in the run folder before the first request, so that the report scores it.",
)
@click.option(
    "--probe-slots",
    is_flag=True,
    help="First find how many requests the server handles in parallel: a few bursts, as loadtest check --slots sends.",
)
@monitor_options
def run(
    given: tuple[str, ...],
    out: Path | None,
    *,
    showing: Showing,
    monitoring: Monitoring,
    slo: str | None,
    find_max: int | None,
    prediction: Path | None,
    probe_slots: bool,
    **values: Any,
) -> int:
    """Measure a server, level by level, into a run folder, and report on it.

    URL is the same as --url. The grid is every combination of --concurrency, --input-tokens and --output-tokens (or --words); each cell is a
    level. Ctrl-C ends cleanly and keeps every finished request. Options given here win over the scenario file.

    With --rate (or --trace) instead of --concurrency the loop is open: each request is sent when it is due by a schedule
    made beforehand, however many are still unanswered. TTFT then counts from when a request was due as well as from when
    it was sent.

    With --find-max the concurrency is searched for (or the rate, from the one given): it doubles until a level misses --slo,
    then the gap is halved. A level whose 95 % interval holds the limit is measured once more, with twice the requests. The
    answer names what binds past it: slots, prefix cache, prefill, decode, memory or context. Exit code 1 when not even
    one stream meets --slo.

    \b
    Examples:
      loadtest run http://127.0.0.1:11434 --concurrency 1,2,4,8
      loadtest run http://127.0.0.1:11434 --rate 0.5,1,2 --duration 120
      loadtest run scenarios/queue_past_four.toml --model llama3.1:70b
      loadtest run http://127.0.0.1:8000 --api openai --output-tokens 64,256
      loadtest run --concurrency 4 --slo ttft_p95=2,errors=0.01 --junit gate.xml
      loadtest run --slo ttft_p95=2,tokens_per_s_p5=10 --find-max
      loadtest run --turns 4 --think-time 20 --slo ttft_p95=3 --find-max
      loadtest run --monitor host,nvidia,ollama --duration 300 --metrics-port 9464
      loadtest run --concurrency 8 --prediction prediction.json

    Every option here can be set in the environment as well: --input-tokens is LOADTEST_INPUT_TOKENS. An option wins over
    the environment, and that over the scenario file.
    """
    objectives = () if slo is None else parse_objectives(slo)
    _check_find_max(find_max, objectives, values)
    scenario = as_predicted(_scenario_asked(given, values), prediction)
    keep = with_question(kept_beforehand(scenario, prediction, probe_slots=probe_slots), slo, find_max, scenario)
    beside = monitoring.beside(scenario)
    if find_max is not None:
        return _find_max(scenario, out, objectives, find_max, showing=showing, beside=beside, keep=keep)
    scenario = enough(scenario, objectives, by_time=values.get("duration") is not None)
    return _measure_levels(scenario, out, objectives, showing=showing, beside=beside, keep=keep)


def _scenario_asked(given: Sequence[str], values: dict[str, Any]) -> Scenario:
    url = url_taken(values["url"], argument=file_and_url(given, None)[1] is not None)
    scenario_file, values["url"] = file_and_url(given, url)
    return make_scenario(scenario_file, values)


def _charts_wanted(*, report: bool, no_report: bool) -> bool:
    if report and no_report and not is_from_environment("no_report"):
        raise ScenarioError("--report and --no-report exclude each other; a report is written without either.")
    return report or not no_report


def _measure_levels(
    scenario: Scenario,
    out: Path | None,
    objectives: Sequence[Objective],
    *,
    showing: Showing,
    beside: Beside | None,
    keep: Keep | None,
) -> int:
    line = showing.line()
    plan = planned(scenario)
    if (said := beforehand(plan, objectives)) is not None:
        line.say(said)
    turns = mean_turns(plan)
    if (said := people_sentence(plan, turns)) is not None:
        line.say(said)
    watch = Expected(plan, line.say, turns) if objectives or plan.has_sessions else (lambda _: None)
    finished = run_scenario(scenario, out, line=line, beside=beside, keep=keep, watch=watch)
    return show_ended(finished, showing, objectives=objectives)


def _check_find_max(most: int | None, objectives: Sequence[Objective], values: dict[str, Any]) -> None:
    """Raise ScenarioError where --find-max is given and makes no sense with the other options."""
    if most is None:
        return
    refuse(not objectives, "--find-max needs objectives to search by: add --slo, e.g. --slo ttft_p95=2.")
    refuse(
        values.get("trace") is not None,
        "--find-max searches over concurrency or over a rate, not over a trace; leave out --trace.",
    )
    refuse(
        values.get("duration") is not None,
        "--find-max measures as many requests as its answer needs; leave out --duration, and set the fewest with "
        "--requests.",
    )
    refuse(values.get("concurrency") is not None, "--find-max chooses the concurrency itself; leave out --concurrency.")


def _find_max(
    scenario: Scenario,
    out: Path | None,
    objectives: Sequence[Objective],
    most: int,
    *,
    showing: Showing,
    beside: Beside | None,
    keep: Keep | None,
) -> int:
    if scenario.data_once:
        raise ScenarioError("--find-max sends as many requests as --slo needs; leave out data_once.")
    line = showing.line()
    finder = Finder(scenario, objectives, most, line.say)
    finished = run_scenario(finder.first(scenario), out, line=line, choose=finder, beside=beside, keep=keep)
    if finished.failure is not None:
        return show_ended(finished, showing)
    found, sentence = finder.conclude(finished.folder)
    return show_ended(finished, showing, objectives=objectives, searched=(found, sentence))


def show_ended(
    finished: Finished,
    showing: Showing = Showing(),
    *,
    objectives: Sequence[Objective] = (),
    searched: tuple[SearchResult, str] | None = None,
) -> int:
    """Show what a run left, also where it was interrupted or could not keep all that it measured; return the exit code.

    `searched` is what --find-max found: its levels are not held against the objectives one by one.
    """
    failed = finished.failure is not None
    judged = () if searched else objectives
    written = None
    try:
        written = show_report(
            finished.folder,
            charts=showing.charts and not failed,
            objectives=judged,
            text=showing.text,
        )
    except (LoadTestError, OSError):
        if not failed:
            raise  # where the run failed, the reason is the same, and it is said once
    code = _exit_code(finished, written, judged, searched)
    conclusion = None if searched is None else searched[1]
    if written is not None:
        showing.gates.write([written], judged, searched)
    if showing.as_json:
        print_json(_run_dict(finished, written, judged, conclusion, code))
    elif showing.quiet:
        print(finished.folder)
    if conclusion is not None and finished.state != "interrupted" and not showing.as_json:
        print(conclusion, file=sys.stderr if showing.quiet else sys.stdout)
    if showing.quiet and written is not None:
        _print_what_is_wrong(written, judged)
    if failed:
        print(f"loadtest: {finished.failure}", file=sys.stderr)
    elif finished.state == "interrupted":
        print("Interrupted: every finished request is kept.", file=sys.stderr)
    elif showing.text and searched is None and written is not None and written.verdict == VOID:
        print(_void_last(written.summary["levels"]))
    return code


def _void_last(levels: Sequence[dict[str, Any]]) -> str:
    """Say at the end of a long report why the exit code is 3, and where it says what to do."""
    void = sum(level["verdict"] == VOID for level in levels)
    which = f"{capitalised(out_of(void, len(levels), 'level'))} void" if void else "The run is void"
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


def _run_dict(
    finished: Finished,
    written: Report | None,
    objectives: Sequence[Objective],
    conclusion: str | None,
    code: int,
) -> dict[str, Any]:
    """Return what `run --json` prints: the report of the run, and how the run ended."""
    body: dict[str, Any] = {"path": str(finished.folder), "state": finished.state}
    if written is not None:
        body = report_dict(written, objectives)
    return {**body, "find_max": conclusion, "failure": finished.failure, "exit_code": code}


def _print_what_is_wrong(written: Report, objectives: Sequence[Objective]) -> None:
    """Print to stderr why the exit code is not 0: void levels, and objectives that are not met."""
    for sentence in written.summary["trouble"]:
        print(f"loadtest: {sentence}", file=sys.stderr)
    for level in written.summary["levels"]:
        if level["verdict"] == VOID:
            print(f"loadtest: {level['label']} is void: {'; '.join(level['reasons'])}.", file=sys.stderr)
        for each in judge_objectives(objectives, level):
            if not each.met:
                print(f"loadtest: {level['label']}: {each}.", file=sys.stderr)


named_in_environment(run)
