"""`loadtest run`: its options, in groups with those first that most people need, and the levels or the search."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from loadtest.asyncio_driver.run import Beforehand, Beside, Choose, Finished, measure
from loadtest.cli.monitor import beside_run, monitor_options
from loadtest.cli.options.arguments import refuse_idle
from loadtest.cli.options.environment import named_in_environment, url_taken, words_given
from loadtest.cli.options.scenario_options import SCENARIO_KEYS, file_and_url, make_scenario, scenario_options
from loadtest.cli.output.printing import LiveLine, NoLine
from loadtest.cli.report import slo_option
from loadtest.cli.run.beforehand import as_predicted, beforehand_of, held_against
from loadtest.cli.run.expected_time import say_how_long, search_sentence, with_enough_requests
from loadtest.cli.run.find_max import Finder, check_find_max
from loadtest.cli.run.results import Showing, show_ended, showing_options
from loadtest.measure.progress import Progress
from loadtest.measure.search import DEFAULT_MOST
from loadtest.scenario import MOST_STREAMS, Scenario, keys_of
from loadtest.slo import parse_objectives

# Options that most runs need, in the order in which they are needed.
COMMON = (
    "url",
    "model",
    "concurrency",
    "rate",
    "duration",
    "requests",
    "input_tokens",
    "output_tokens",
    "prompt",
    "slo",
    "find_max",
    "monitor",
    "out",
)
RESULTS = (
    "name",
    "save_text",
    "price_per_hour",
    "price_per_kwh",
    "prediction",
    "probe_slots",
    "no_report",
    "quiet",
    "as_json",
    "junit",
    "github_summary",
)
MONITORING = ("monitor_every", "monitor_idle", "metrics_port", "metrics_address")
IN_OTHER_FACTS = (*SCENARIO_KEYS, "slo", "find_max", "prediction")  # options that run.json holds elsewhere
# Headings of the parts of the scenario: these first, any other part after them, under its own name.
HEADINGS = {
    "LoadKeys": "Load",
    "PromptKeys": "Prompts and lengths",
    "DataKeys": "Own prompts and shared prefixes",
    "SessionKeys": "People and conversations",
    "RequestKeys": "Request",
    "ConnectionKeys": "Connection",
    "LimitKeys": "Limits",
}


def run_scenario(
    scenario: Scenario,
    out: Path | None,
    *,
    line: LiveLine | None = None,
    choose: Choose | None = None,
    beside: Beside | None = None,
    beforehand: Beforehand | None = None,
    watch: Callable[[Progress], object] = lambda _: None,
) -> Finished:
    """Measure `scenario` with the progress line on stderr; `watch` sees the same progress."""
    line = line or LiveLine()

    def progress(at: Progress) -> None:
        watch(at)
        line.show(at)

    try:
        return measure(
            scenario, out, on_progress=progress, say=line.say, choose=choose, beside=beside, beforehand=beforehand
        )
    finally:
        line.close()


def run_groups() -> dict[str, Sequence[str]]:
    """Return the groups of `loadtest run`, by heading: what is common, then each part of the scenario, then what is kept."""
    parts = {part.__name__: part for part in reversed(Scenario.__mro__) if part.__name__.endswith("Keys")}
    groups: dict[str, Sequence[str]] = {"Most used": COMMON}
    for name in dict.fromkeys((*HEADINGS, *parts)):
        heading = HEADINGS.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Keys"))
        groups[heading] = [key.name for key in keys_of(parts[name])]
    return {**groups, "Monitoring": MONITORING, "Results": RESULTS}


class RunCommand(click.Command):
    """`loadtest run`, whose help puts options under headings; an option stands in the first group that names it."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        rows = {param.name: row for param in options if (row := param.get_help_record(ctx)) is not None}
        for heading, names in run_groups().items():
            found = [rows.pop(name) for name in names if name in rows]
            if found:
                with formatter.section(heading):
                    formatter.write_dl(found)
        if rows:
            with formatter.section("Help" if len(rows) == 1 else "Other options"):
                formatter.write_dl(list(rows.values()))


@click.command(cls=RunCommand)
@click.argument("given", metavar="[SCENARIO.toml] [URL]", nargs=-1)
@scenario_options
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make.  [default: runs/<time>-<name>]")
@showing_options
@slo_option
@click.option(
    "--find-max",
    type=click.IntRange(1, MOST_STREAMS),
    is_flag=False,
    flag_value=DEFAULT_MOST,
    metavar="[N]",
    help="Search for the most streams (or people) that meet --slo, up to N; with --rate for the highest rate, up to N times "
    f"the one given.  [default N: {DEFAULT_MOST}]",
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
    slo: str | None,
    find_max: int | None,
    prediction: Path | None,
    probe_slots: bool,
    **values: Any,
) -> int:
    """Measure a server, level by level, into a run folder, and report on it.

    URL is the same as --url. Every combination of --concurrency, --input-tokens and --output-tokens (or --words) is a level.
    Ctrl-C ends the run and keeps every finished request.

    With --rate or --trace instead of --concurrency the loop is open: each request is sent when it is due, however many are
    still unanswered, and TTFT is also given from when the request was due.

    With --find-max the concurrency (or the rate, from the one given) doubles until a level misses --slo, then the gap is
    halved. The result names the limit: slots, prefix cache, prefill, decode, memory or context. Exit code 1 when no load
    surely meets --slo.

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

    Times are seconds, or have a unit: 500ms, 2m, 1h. Every option has an environment variable, too, such as
    LOADTEST_INPUT_TOKENS. An option wins over the environment, and that over the scenario file.
    """
    showing, monitored = Showing.taken(values), {name: values.pop(name) for name in ("monitor", *MONITORING)}
    url = url_taken(values["url"], argument=file_and_url(given, None)[1] is not None)
    objectives = () if slo is None else parse_objectives(slo)
    check_find_max(find_max, objectives, values)
    scenario_file, values["url"] = file_and_url(given, url)
    scenario = as_predicted(make_scenario(scenario_file, values), prediction)
    if find_max is None and (scenario.requests or scenario.duration or scenario.trace):
        refuse_idle(("requests_per_stream",), "where requests, duration, rate or trace say when a level ends")
    asked = held_against(slo, objectives, find_max, scenario) | {"options": words_given(IN_OTHER_FACTS)}
    beforehand = beforehand_of(scenario, prediction, asked, probe_slots=probe_slots)
    line = NoLine() if showing.quiet else LiveLine()
    measured = functools.partial(
        run_scenario, out=out, line=line, beside=beside_run(scenario, **monitored), beforehand=beforehand
    )
    if find_max is not None:
        return _search(Finder(scenario, objectives, find_max, line.say), measured, line, showing)
    scenario = with_enough_requests(scenario, objectives, by_time=values.get("duration") is not None)
    finished = measured(scenario, watch=say_how_long(scenario, objectives, line.say))
    return show_ended(finished, showing, objectives=objectives)


def _search(finder: Finder, measured: Callable[..., Finished], line: LiveLine, showing: Showing) -> int:
    """Measure the levels that `finder` asks for, and show what they say."""
    first = finder.first()
    line.say(search_sentence(first))
    finished = measured(first, choose=finder)
    searched = finder.conclude(finished.folder) if finished.failure is None else None
    return show_ended(finished, showing, searched=searched)


named_in_environment(run)
