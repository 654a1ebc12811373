"""`loadtest run`: options, what it keeps before the first request, and the levels or the search."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from loadtest.asyncio_driver.run import Beside, Choose, Finished, Keep, measure
from loadtest.cli.monitor import Monitoring, monitor_options
from loadtest.cli.options.environment import named_in_environment, url_taken
from loadtest.cli.options.help_groups import RunCommand
from loadtest.cli.options.scenario_options import file_and_url, make_scenario, scenario_options
from loadtest.cli.output.progress_line import LiveLine
from loadtest.cli.report import SLO_HELP
from loadtest.cli.run.find_max import Finder
from loadtest.cli.run.how_long import say_how_long, with_enough_requests
from loadtest.cli.run.results import Showing, show_ended, showing_options
from loadtest.errors import PredictionError, ScenarioError, os_error_as, refuse
from loadtest.measure.progress import Progress
from loadtest.measure.search import DEFAULT_MOST
from loadtest.run_folder import RunFolder, utc_now
from loadtest.scenario import EMBEDDINGS, MOST_STREAMS, OPEN_LOOP_S, Scenario
from loadtest.slo import Objective, parse_objectives
from loadtest.targets.target import Target
from loadtest.workloads.workload import Workload, check_files

Kept = Callable[[Path], dict[str, Any]]  # keeps something in the run folder, and returns what run.json says of it


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
    help="Search for the most streams that meet --slo, up to N (people, with --turns). With --rate: for the highest rate, "
    f"from the one given up to N times it.  [N: {DEFAULT_MOST}]",
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
    url = url_taken(values["url"], argument=file_and_url(given, None)[1] is not None)
    scenario_file, values["url"] = file_and_url(given, url)
    scenario = as_predicted(make_scenario(scenario_file, values), prediction)
    asked = question(slo, find_max, scenario)
    keep = kept_beforehand(scenario, prediction, asked, probe_slots=probe_slots)
    line = showing.progress_line()
    measured = functools.partial(run_scenario, out=out, line=line, beside=monitoring.beside(scenario), keep=keep)
    if find_max is not None:
        finder = Finder(scenario, objectives, find_max, line.say)
        finished = measured(finder.first(scenario), choose=finder)
        searched = finder.conclude(finished.folder) if finished.failure is None else None
        return show_ended(finished, showing, searched=searched)
    scenario = with_enough_requests(scenario, objectives, by_time=values.get("duration") is not None)
    finished = measured(scenario, watch=say_how_long(scenario, objectives, line.say))
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


def kept_beforehand(scenario: Scenario, prediction: Path | None, asked: dict[str, Any], *, probe_slots: bool) -> Keep:
    """Return what keeps a prediction, which is read and checked now, and what it finds when it probes the slots.

    `asked` goes into run.json beside them.
    """
    if probe_slots and (scenario.unload or scenario.endpoint == EMBEDDINGS):
        what = "unload" if scenario.unload else "embeddings"
        raise ScenarioError(f"--probe-slots needs a loaded model that answers in tokens; leave it out with {what}.")
    if probe_slots and scenario.several:
        raise ScenarioError("--probe-slots looks at one server and one model; leave it out, or name one of each.")
    keeps = [] if prediction is None else [kept_prediction(prediction)]

    def keep(target: Target, workload: Workload) -> Kept:
        mine = [*keeps, *([probed(target, workload)] if probe_slots else [])]
        return lambda folder: {key: value for each in mine for key, value in each(folder).items()} | asked

    return keep


def kept_prediction(file: Path) -> Kept:
    """Return what copies a prediction into the run folder; it is read and checked now, before anything is sent."""
    from loadtest.analyse.whatif.predictions.prediction_file import FILE_NAME, file_digest, parse_document

    with os_error_as(PredictionError, f"cannot read {file}"):
        body = file.read_bytes()
    made = parse_document(body, str(file)).made

    def keep(folder: Path) -> dict[str, Any]:
        (folder / FILE_NAME).write_bytes(body)
        kept = utc_now()
        return {"prediction": {"sha256": file_digest(body), "made": made, "kept": kept}}

    return keep


def as_predicted(scenario: Scenario, prediction: Path | None) -> Scenario:
    """Return the scenario that sends the very requests of a prediction, where it is of such."""
    from loadtest.analyse.whatif.predictions.prediction_file import read_document

    plan = None if prediction is None else read_document(prediction).plan
    if plan is None:
        return scenario
    for option, asked, predicted in (
        ("--seed", scenario.seed, plan.seed),
        ("--requests", scenario.requests, plan.requests),
    ):
        if asked not in (None, predicted):
            raise ScenarioError(f"{prediction} is of the requests of {option} {predicted}; leave {option} {asked} out.")
    if scenario.duration not in (None, OPEN_LOOP_S):  # of a rate it is the latter by itself
        raise ScenarioError(f"{prediction} is of {plan.requests} requests a level; leave --duration out.")
    return scenario.replace(seed=plan.seed, requests=plan.requests, duration=None)


def probed(target: Target, workload: Workload) -> Kept:
    """Probe the slots, say what came of it, and return what keeps the records of it."""
    from loadtest.targets.slot_probe import probe_slots

    found = probe_slots(target, workload)
    print(f"{found.how} ({found.cost})", file=sys.stderr)

    def keep(folder: Path) -> dict[str, Any]:
        if found.records:
            RunFolder(folder).write_probe(found.records, found.clock)
        return {"slot_probe": found.to_dict()}

    return keep


def question(slo: str | None, find_max: int | None, scenario: Scenario) -> dict[str, Any]:
    """Return what run.json notes of what the run is held against, so that a report can name the whole command."""
    if slo is None:
        return {}
    searched = {} if find_max is None else {"find_max": find_max, "requests": scenario.requests}
    return {"asked": {"slo": slo, **searched}}


named_in_environment(run)
