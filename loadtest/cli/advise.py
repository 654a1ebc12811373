"""`loadtest advise`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson
from rich.console import Console
from rich.text import Text

from loadtest.errors import PredictionError, ScenarioError
from loadtest.slo import ERRORS, parse_objectives

if TYPE_CHECKING:
    from loadtest.analyse.reports.summary import Analysis
    from loadtest.analyse.whatif.slot_advice import Advice


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
def advise(run: Path, slo: str | None, gpu_memory: str | None) -> None:
    """Say what OLLAMA_NUM_PARALLEL should be, and what it would change.

    From one run it predicts TTFT, queue wait and tokens/s for 1 to 16 slots at the measured concurrencies and some others,
    and says where --slo is met and which other setting matters more. Writes advice.md, advice.json and advice.png into the run folder.

    \b
    Examples:
      loadtest advise runs/20260101-120000-run
      loadtest advise runs/20260101-120000-run --slo ttft_p95=2,tokens_per_s_p5=10 --gpu-memory 80GB
    """
    from loadtest.analyse.reports.summary import analyse
    from loadtest.analyse.run.groups import refuse
    from loadtest.analyse.server.memory import memory_by_slots
    from loadtest.analyse.whatif import slot_advice as work
    from loadtest.analyse.whatif.predict import ServerModel
    from loadtest.memory.loaded import parse_memory

    objectives = () if slo is None else parse_objectives(slo)
    if any(each.figure == ERRORS for each in objectives):
        raise ScenarioError("advise predicts times, not failures; leave errors out of --slo.")
    room = None if gpu_memory is None else parse_memory(gpu_memory)
    analysis = analyse(run)
    refuse(analysis.run, [each for each, _ in analysis.groups], "advise")
    group = work.longest_series(analysis.run)
    if group is None:
        raise PredictionError(f"{run} holds no closed-loop level to advise on; measure with --concurrency.")
    work.require_slots(analysis.slots, group)
    model = ServerModel.of(analysis.run, analysis.slots, analysis.steps)
    found = work.advise_slots(
        work.narrowed(model, analysis.run, group.levels),
        group,
        analysis.summary["levels"],
        kind=(analysis.run.facts.get("server") or {}).get("kind"),
        objectives=objectives,
        memory=memory_by_slots(analysis.run, analysis.slots),
        gpu_bytes=room,
    )
    written = _write_advice(run, analysis, found)
    _print_advice(written, analysis, found)


def _write_advice(folder: Path, analysis: Analysis, found: Advice) -> list[Path]:
    from loadtest.analyse.charts import advice as chart
    from loadtest.analyse.reports import advice_report as words

    picture = chart.draw(folder / "advice.png", analysis, found, words.title(found))
    written = [folder / "advice.md", folder / "advice.json", picture]
    body = orjson.dumps(words.to_dict(found, analysis), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
    written[0].write_text(words.markdown(found, analysis, picture.name), encoding="utf-8")
    written[1].write_bytes(body + b"\n")
    return written


def _print_advice(written: list[Path], analysis: Analysis, found: Advice) -> None:
    from loadtest.analyse.reports import advice_report as words

    console = Console()
    for sentence in analysis.run.trouble:
        console.print(Text(sentence, style="bold yellow"))
    if doubt := words.void_sentence(found):
        console.print(Text(f"! {doubt}", style="bold yellow"))
    console.print(
        words.console_grid(found).fitted(console.width, words.EXPENDABLE)[0].console(words.heading(found, analysis))
    )
    for sentence in words.sentences(found):
        console.print(Text(f"• {sentence}"))
    for note in words.notes(found):
        console.print(Text(note, style="dim"))
    for path in written:
        console.print(Text(f"wrote {path}", style="dim"), soft_wrap=True)
