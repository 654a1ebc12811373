"""`loadtest advise`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson
from rich.console import Console
from rich.text import Text

from loadtest.cli.output.mistakes import for_each
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
from loadtest.run_folder import write_whole
from loadtest.slo import ERRORS, Objective, parse_objectives

if TYPE_CHECKING:
    from loadtest.analyse.run.groups import Group
    from loadtest.analyse.summary import Analysis
    from loadtest.analyse.whatif.advice.slot_advice import Advice

PROMISE = "prediction.json"  # ends the name of the file that holds the promise
OTHER_NAME = f"advice-{PROMISE}"


NOT_PREDICTED = ("e2e_tokens_per_s", "ttft_sched_s")


@click.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--slo",
    metavar="NAME=LIMIT,…",
    help="What every user must get, e.g. ttft_p95=2,tokens_per_s_p5=10 (seconds; tokens/s).",
)
@click.option(
    "--gpu-memory", metavar="SIZE", help="Memory that the loaded model may take, e.g. 80GB: more slots need more."
)
@out_option("Folder for the files.  [default: the run folder]")
@json_option
def advise(run: Path, slo: str | None, gpu_memory: str | None, out: Path | None, *, as_json: bool) -> None:
    """Say how many parallel slots the server should have (Ollama: OLLAMA_NUM_PARALLEL), and what they would change.

    From one run it predicts TTFT, queue wait and tokens/s for 1 to 16 slots, and says where --slo is met and which
    other setting matters more. It writes advice.md, advice.json, advice.png and prediction.json into the run folder. The
    prediction is of the advised slots; a later run with them and --prediction scores it.

    \b
    Examples:
      loadtest advise runs/first
      loadtest advise runs/first --slo ttft_p95=2,tokens_per_s_p5=10
      loadtest advise runs/first --slo ttft_p95=2 --gpu-memory 80GB
    """
    from loadtest.analyse.summary import analyse
    from loadtest.memory.estimate import parse_size

    objectives = () if slo is None else parse_objectives(slo)
    if any(each.figure == ERRORS for each in objectives):
        raise ScenarioError("advise predicts times, not failures; leave errors out of --slo.")
    if unknown := [each for each in objectives if each.figure in NOT_PREDICTED]:
        raise ScenarioError(f"advise predicts no {unknown[0].words}; leave {unknown[0].name} out of --slo.")
    room = None if gpu_memory is None else parse_size(gpu_memory)
    folder = out_folder(run, out)
    with at_work("Reading the run"):
        analysis = analyse(run)
    body = (
        _advise_groups(folder, analysis.groups, objectives, room, as_json=as_json)
        if analysis.groups
        else _advise(folder, analysis, objectives, room, as_json=as_json)
    )
    if as_json:
        print_json(body)


def _advise_groups(
    folder: Path,
    groups: Sequence[tuple[Group, Analysis]],
    objectives: Sequence[Objective],
    room: float | None,
    *,
    as_json: bool,
) -> dict[str, Any]:
    """Advise on each model and server of a run, into a folder for each; return what --json prints."""
    from loadtest.analyse.run.groups import chart_folder

    def advise_on(numbered: tuple[int, tuple[Group, Analysis]]) -> dict[str, Any]:
        number, (group, one) = numbered
        if group.beside:
            raise PredictionError(
                f"{', '.join(group.beside)} loaded the same server meanwhile; measure each in a run of its own."
            )
        body = _advise(folder / chart_folder(number, group.name), one, objectives, room, as_json=as_json)
        return {"group": group.name, **body}

    return {"groups": for_each(((each[1][0].name, each) for each in enumerate(groups, 1)), advise_on)}


def _advise(
    folder: Path, analysis: Analysis, objectives: Sequence[Objective], room: float | None, *, as_json: bool
) -> dict[str, Any]:
    """Advise on one model at one server, and write the files into `folder`; print it, or return it for --json."""
    from loadtest.analyse.reports.advice_report import to_dict
    from loadtest.analyse.summary import without_void

    with at_work("Fitting a model to the run") as tell:
        try:
            sound = without_void(analysis)
            found = replace(
                _advice_of(sound, objectives, room, tell),
                void=tuple(level["label"] for level in analysis.levels if level.is_void),
            )
        except PredictionError as error:
            raise PredictionError(str(error).replace("No prediction:", "No advice:", 1)) from None
        folder.mkdir(parents=True, exist_ok=True)
        written = _write_advice(folder, sound, found)
    if not as_json:
        _print_advice(written, sound, found)
    return {**to_dict(found, sound), "files": [str(path) for path in written]}


def _advice_of(
    analysis: Analysis,
    objectives: Sequence[Objective],
    room: float | None,
    tell: Callable[[str], object],
) -> Advice:
    """Advise on what one model at one server showed; raise PredictionError where that does not say enough."""
    from loadtest.analyse.server.model_memory.by_slots import memory_by_slots
    from loadtest.analyse.whatif.advice import slot_advice as work
    from loadtest.analyse.whatif.model.fit import NoWayError, fitted_way, longest_series
    from loadtest.analyse.whatif.model.predict import require_predictable

    series = longest_series(analysis.run)
    if series is None:
        raise PredictionError(
            f"{analysis.run.path} holds no closed-loop level to advise on; measure with --concurrency."
        )
    slots = analysis.known_slots
    require_predictable(analysis.run)
    work.require_slots(slots, series)
    used = [level for level in analysis.levels if level["index"] in series.levels]
    try:
        model = fitted_way(analysis.run, slots, analysis.steps, used, tell=tell)
    except NoWayError as error:
        raise PredictionError(
            f"No advice: {error}. Give the server other slots, measure again, and `loadtest compare` says what that changed."
        ) from None
    return work.advise_slots(
        model,
        series,
        analysis.levels,
        kind=(analysis.run.facts.get("server") or {}).get("kind"),
        objectives=objectives,
        memory=memory_by_slots(analysis.run, slots),
        gpu_bytes=room,
        tell=tell,
    )


def _write_advice(folder: Path, analysis: Analysis, found: Advice) -> list[Path]:
    from loadtest.analyse.charts import prediction as chart
    from loadtest.analyse.comparison.comparable import asked_facts
    from loadtest.analyse.reports import advice_report as words
    from loadtest.analyse.whatif.predictions.predict_loads import promise
    from loadtest.analyse.whatif.predictions.prediction_file import FILE_NAME

    picture = chart.draw_slots(folder / "advice.png", analysis, found, words.title(found))
    written = [folder / "advice.md", folder / "advice.json", picture]
    body = orjson.dumps(words.to_dict(found, analysis), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    write_whole(written[0], words.markdown(found, analysis, picture.name).encode())
    write_whole(written[1], body + b"\n")
    kept = promise(analysis.run, found, analysis.slots, analysis.steps, analysis.levels, asked_facts(analysis.run))
    if kept is not None:
        # prediction.json of this run is what was predicted of it before: it is not written over
        name = OTHER_NAME if analysis.run.facts.get("prediction") else FILE_NAME
        written.append(write_whole(folder / name, kept.to_bytes()))
    return written


def _print_advice(written: list[Path], analysis: Analysis, found: Advice) -> None:
    from loadtest.analyse.reports import advice_report as words
    from loadtest.analyse.reports.run_again import command

    console = Console()
    print_trouble(console, analysis.run.trouble)
    print_lines(console, words.doubts(found, analysis), before="! ", style="bold yellow")
    console.print(
        words.console_table(found).console_within(console.width, words.EXPENDABLE, words.heading(found, analysis))
    )
    print_lines(console, words.sentences(found), before="• ")
    print_lines(console, words.notes(found, (found.load,)), style="dim")
    print_written(console, written)
    if promised := [path for path in written if path.name.endswith(PROMISE)]:
        of_locust = analysis.run.facts.get("driver") == "locust"
        path = str(promised[0])
        how = words.promise_sentence(found, path, command(analysis.run, path), of_locust=of_locust)
        console.print(Text(how), soft_wrap=True)
