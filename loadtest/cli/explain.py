"""`loadtest explain`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.cli.output.printing import (
    at_work,
    json_option,
    out_folder,
    out_option,
    print_json,
    print_lines,
    print_trouble,
    print_written,
)
from loadtest.errors import PredictionError, ScenarioError
from loadtest.records import Outcome
from loadtest.text import capitalised, joined, listed

if TYPE_CHECKING:
    from loadtest.analyse.explain.explanation import Explainer, Explanation
    from loadtest.analyse.run import LevelData
    from loadtest.analyse.summary import Analysis

FILE_NAME = "explain.png"
MOST_SLOWEST = 20
NO_TOKENS = "{}: embeddings were measured, and an answer without tokens has no parts to explain."
NONE_ENDED = "{}: no request ended well; name one with --request."
PERCENTILE = re.compile(r"p?(\d{1,2}(?:\.\d+)?)")


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--request", type=click.IntRange(0), metavar="ID", help="The request of this id (of requests-*.jsonl).")
@click.option("--percentile", metavar="P", help="The request at a percentile of its level, e.g. p95.")
@click.option(
    "--slowest", type=click.IntRange(1, MOST_SLOWEST), metavar="N", help="The N slowest.  [default: the slowest one]"
)
@click.option(
    "--level",
    metavar="LEVEL",
    help="Level of --percentile and --slowest: its index from 0, or its label.  [default: the one of the highest load]",
)
@click.option(
    "--by",
    type=click.Choice(["ttft", "e2e"]),
    default="ttft",
    show_default=True,
    help="Figure that says which is slow.",
)
@out_option("Folder for the chart.  [default: the run folder]")
@json_option
def explain(
    run: Path,
    request: int | None,
    percentile: str | None,
    slowest: int | None,
    level: str | None,
    by: str,
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """Say why one request took as long as it did.

    Its time to the first token is split into parts, each with the requests that caused it: waiting for a slot, others'
    prompts, what the cache had lost, the client's lag, a model that was loaded, its own prompt. The rest is printed as
    unexplained. A simulation then plays the run again without the cause and says how long the request would have taken.
    Of a single request, explain.png in the run folder shows it among the others.

    \b
    Examples:
      loadtest explain runs/first
      loadtest explain runs/first --request 57
      loadtest explain runs/first --percentile p95 --level 2
      loadtest explain runs/first --slowest 5
    """
    from loadtest.analyse.charts import explain as chart
    from loadtest.analyse.summary import analyse

    if sum(each is not None for each in (request, percentile, slowest)) > 1:
        raise ScenarioError("give one of --request, --percentile and --slowest.")
    if request is not None and level is not None:
        raise ScenarioError("--level goes with --percentile and --slowest; an id names its request by itself.")
    share = None if percentile is None else _share(percentile)
    folder = out_folder(run, out)
    with at_work("Reading the run") as tell:
        analysis = analyse(run)
        tell("Splitting the time, and playing the run without its causes")
        found = _explained(analysis, request, share, slowest, level, by)
        written = [chart.draw(folder / FILE_NAME, *found[0])] if len(found) == 1 else []
    explanations = [each for _, _, each in found]
    left_out = None if request is not None else _left_out(explanations[0].level, by)
    if as_json:
        body = {"requests": [each.to_dict() for each in explanations], "left_out": left_out}
        print_json({**body, "files": [str(path) for path in written]})
        return
    console = Console()
    print_trouble(console, analysis.run.trouble)
    if len(explanations) == 1:
        _show(console, explanations[0])
    else:
        _show_table(console, explanations)
    print_lines(console, filter(None, [left_out]), before="! ", style="yellow")
    print_written(console, written)


def _share(text: str) -> float:
    """Return p95 as 0.95."""
    match = PERCENTILE.fullmatch(text.strip().lower())
    if match is None:
        raise ScenarioError(f"--percentile {text[:20]!r} is no percentile: write p50, p95 or p99.9.")
    return float(match[1]) / 100


def _explained(
    analysis: Analysis, request: int | None, share: float | None, slowest: int | None, level: str | None, by: str
) -> list[tuple[Analysis, Explainer, Explanation]]:
    """Explain what was asked for; of a run of several models or servers among the requests of the one that it went to."""
    from loadtest.analyse.explain import explanation as work

    if not analysis.levels or analysis.run.requests.empty:
        raise PredictionError(" ".join((f"{analysis.run.path} holds no requests to explain.", *analysis.run.trouble)))
    if request is not None:
        work.row_of(analysis.run, request)
        parts = [(one, group.beside) for group, one in analysis.groups] or [(analysis, ())]
        one, beside = next(each for each in parts if request in each[0].run.requests["id"].to_numpy())
        rows = [work.row_of(one.run, request)]
    else:
        if analysis.groups:
            names = listed([group.name for group, _ in analysis.groups])
            raise PredictionError(f"{analysis.run.path} holds requests to {names}; name one of them with --request ID.")
        one, beside = analysis, ()
        chosen = work.busiest(one.levels) if level is None else work.find_level(one.levels, level)
        ordered = work.rows_by_length(one.run, [chosen["index"]], by)
        if not len(ordered):
            why = NO_TOKENS if chosen["outcomes"].get(Outcome.OK) else NONE_ENDED
            raise PredictionError(why.format(chosen["label"]))
        rows = (
            [work.at_percentile(ordered, share)]
            if share is not None
            else [int(each) for each in ordered[: slowest or 1]]
        )
    ttft, ok = one.run.column("ttft_s"), one.run.flag("ok")
    if any(ok[row] and not math.isfinite(ttft[row]) for row in rows):
        raise PredictionError(NO_TOKENS.format(f"request {request}" if request is not None else chosen["label"]))
    explainer = work.Explainer.of(one.run, one.slots, one.steps, one.levels, beside)
    return [(one, explainer, explainer.explain(row)) for row in rows]


def _left_out(level: LevelData, by: str) -> str | None:
    """Say which requests of a level are not among those that a percentile, or the slowest, are chosen from; None for none."""
    gone = f"{level.hung_up_said}, which are left out" if by == "e2e" and level.hung_up_said else ""
    said = joined("; ", level.left_out_said, gone)
    return f"{capitalised(said)}: name one of them with --request." if said else None


def _show(console: Console, found: Explanation) -> None:
    from loadtest.analyse.reports import explain_report as words

    console.print(Text(words.heading(found), style="bold"))
    console.print(_lines(words.rows(found, found.parts.first)))
    console.print(Text(words.without(found)))
    if more := words.others(found):
        console.print(Text(more, style="dim"))
    if head := words.decode_heading(found):
        console.print(Text(head, style="bold"))
        console.print(_lines(words.rows(found, found.parts.decode)))
    print_lines(console, words.notes(found), before="! ", style="yellow")


def _lines(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", no_wrap=True, min_width=10)
    table.add_column()
    for duration, sentence in rows:
        table.add_row(Text(duration), Text(sentence))
    return table


def _show_table(console: Console, found: list[Explanation]) -> None:
    from loadtest.analyse.reports import explain_report as words

    title = f"The {len(found)} slowest of {found[0].level['label']}"
    console.print(words.table(found).console_within(console.width, words.EXPENDABLE, title))
    for reason in dict.fromkeys(each.no_replay for each in found if each.no_replay):
        who = [f"#{each.id}" for each in found if each.no_replay == reason]
        console.print(Text(f"What {', '.join(who)} would have been without is not said: {reason}.", style="dim"))
    if who := [f"#{each.id}" for each in found if each.told is None and each.no_replay is None and each.without]:
        console.print(Text(f"No cause of {listed(who)}, left out alone, makes it clearly faster.", style="dim"))
    print_lines(console, words.level_notes(found[0]), before="! ", style="yellow")
