"""report.md and report.html: the answers first, then findings, charts, every figure with its formula, and what was run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.findings.measured_on import measured_on, simulated_badge, simulated_mark, simulated_warning
from loadtest.analyse.findings.step_findings import pace_finding
from loadtest.analyse.reports import answers, run_table, tables
from loadtest.analyse.reports.energy_table import energy_table
from loadtest.analyse.reports.glossary import GLOSSARY
from loadtest.analyse.run import believed, groups, has_tokens, told_apart
from loadtest.analyse.summary import Analysis
from loadtest.grid import Grid
from loadtest.records import Outcome
from loadtest.templates import render

MOST_GROUPS = 4  # models or servers whose tiles stand on top
USUAL = (  # of every run that has tokens
    "ttft.png",
    "throughput.png",
    "tradeoff.png",
    "percentiles.png",
    "ttft-distribution.png",
    "itl.png",
    "itl-tail.png",
    "drift.png",
)
BY_LOAD = ("tradeoff.png", "percentiles.png")  # a dot each where there is one level, and not drawn
CAPTIONS = {
    "ttft.png": "Mean TTFT by concurrency or rate, split into what the request waited for",
    "lengths.png": "TTFT, prefill speed and memory against input length",
    "turns.png": "TTFT by turn of the conversation",
    "reread.png": "What each turn read of its conversation, and what the server had cached",
    "load.png": "Cold model loads: each request over time, and what memory did meanwhile",
    "throughput.png": "Tokens a second of one stream and of all together",
    "tradeoff.png": "Throughput against latency: a point a level",
    "percentiles.png": "Percentiles of TTFT and of the whole answer against load",
    "timeline.png": "One level, a row a request",
    "ttft-distribution.png": "Distribution of TTFT",
    "e2e.png": "E2E and input tokens a second by concurrency or rate",
    "e2e-distribution.png": "Distribution of E2E",
    "itl.png": "Distribution of the gaps between tokens",
    "itl-tail.png": "The longest gaps between tokens: how often a gap is so long or longer",
    "drift.png": "TTFT of every request over the run: does it drift?",
    "streams.png": "Streams decoding, and before their first token, over the run",
    "machine.png": "What the machine did beside the streams: cores, GPU, memory and the server's own counts",
    "prediction.png": "What the model of this run predicts over concurrency, beside what was measured",
}


def _sorted_pictures(analysis: Analysis, pictures: Sequence[Path]) -> tuple[list[Path], list[list[Path]]]:
    """Return the charts of the whole run, and those of each model and server."""
    folders = [groups.chart_folder(number, group.name) for number, (group, _) in enumerate(analysis.groups, 1)]
    own = [[path for path in pictures if path.parent.name == folder] for folder in folders]
    return [path for path in pictures if path.parent.name not in folders], own or [[]]


def left_out(one: Analysis, pictures: Sequence[Path]) -> str:
    """Say which of the usual charts are missing, because nothing of the run would show in them; empty where none is."""
    levels = one.levels
    usual = USUAL if len(levels) > 1 else [name for name in USUAL if name not in BY_LOAD]
    missing = [name for name in usual if name not in {path.name for path in pictures}]
    if not missing or not has_tokens(*levels):
        return ""
    any_good = any(level["outcomes"].get(Outcome.OK) for level in levels)
    why = "too few requests or tokens ended well" if any_good else "no request ended well"
    if any_good and {*missing} <= {"itl.png", "itl-tail.png"}:
        why = "too few gaps between tokens were seen"
    return f"Not drawn, because {why}: {', '.join(missing)}."


def tile_rows(analysis: Analysis) -> list[tuple[str, list[answers.Tile]]]:
    """Return the four tiles, of several models or servers those of each of the first ones, with its name."""
    return [(named.removeprefix(": "), answers.tiles(one)) for named, one in tables.sections(analysis)[:MOST_GROUPS]]


def grounds(summary: dict[str, Any], pictures: Sequence[Path]) -> dict[str, Any]:
    """Return whether a run is ground for `advise`, and what to give `predict` and `explain` behind its name.

    Nothing for `predict` where a chart shows predictions already, or that there are none.
    """
    good = believed(summary["levels"])
    closed = any(level.is_closed and not level.get("beside") for level in good)
    steady = any(level.is_open and level.get("rate") and not level.get("rate_to") for level in good)
    predicted = "--concurrency N" if closed else "--rate R" if steady else None
    apart = summary.get("groups")
    shown = any(path.name == "prediction.png" for path in pictures)
    return {
        "advise": closed,
        "predict": None if apart or shown else predicted,
        "explain": " --request ID" if apart else "",
    }


def _page(
    template: str,
    analysis: Analysis,
    findings: Sequence[Finding],
    pictures: Sequence[Path],
    more: Sequence[tuple[str, Grid]] = (),
) -> str:
    """Return report.md, which names the PNGs beside it, or report.html: one file, pictures inside, nothing fetched.

    `more` are tables of what is not of the run alone, under their headings.
    """
    summary = {**analysis.summary, "levels": told_apart(analysis.levels)}
    shared, own = _sorted_pictures(analysis, pictures)
    return render(
        template,
        title=f"{summary['name']}: {measured_on(summary)}",
        measured=run_table.measured(analysis),
        run=shlex.quote(str(analysis.run.path)),
        simulated=(simulated_mark(summary) or "").removeprefix("simulated: "),
        simulated_badge=simulated_badge(summary),
        simulated_warning=simulated_warning(summary),
        summary=summary,
        in_words=answers.verdict_in_words(summary),
        to_do=answers.to_do(analysis.levels),
        tile_rows=tile_rows(analysis),
        findings=findings,
        objectives=tables.objectives_table(summary),
        tokens=has_tokens(*summary["levels"]),
        grounds=grounds(summary, pictures),
        priced=any(name.startswith("cost_by") for level in summary["levels"] for name in level),
        levels=tables.overview(summary),
        more=tables.rest_of_levels(summary),
        drawn=bool(pictures),
        pictures=[captioned(path) for path in shared],
        sections=[
            {
                "name": named,
                "pictures": [captioned(path, named) for path in drawn],
                "left_out": left_out(one, drawn or shared),
                "levels": [(level, tables.level_table(level, one.summary)) for level in told_apart(one.levels)],
                "tables": list(_server_tables(named, one)),
            }
            for (named, one), drawn in zip(tables.sections(analysis), own, strict=True)
        ],
        tables=[*more, *_run_tables(analysis, summary)],
        glossary=GLOSSARY,
    )


markdown, html = partial(_page, "report.md"), partial(_page, "report.html")


def _server_tables(named: str, one: Analysis) -> Iterator[tuple[str, Grid]]:
    """Yield what tables say of one model at one server besides its levels; `named` is ": name" where a run has several."""
    if one.steps.times and not pace_finding(one.steps, believed(one.levels)):  # figures of two paces are of neither
        yield f"Step times{named}", tables.step_time_table(one)
    if one.memory:
        yield f"Memory{named}", tables.memory_table(one.memory)


def _run_tables(analysis: Analysis, summary: dict[str, Any]) -> Iterator[tuple[str, Grid]]:
    if energy := energy_table(summary):
        yield "Energy and cost", energy
    if failures := tables.failures_table(summary):
        yield "Failed requests", failures
    yield "Client and tokens", tables.client_table(summary)
    yield "The run", run_table.facts_table(analysis)


def captioned(path: Path, named: str = "") -> tuple[str, str, bytes, str]:
    """Return what a chart says and what kind of chart it is, that alone, its bytes, and where it lies beside the page.

    Charts of a model or server, which are `named` after it, have a folder of their own.
    """
    from PIL import Image  # matplotlib's own; without charts nobody needs it

    data, kind = path.read_bytes(), f"{CAPTIONS.get(path.name, path.stem)}{named}"
    with Image.open(path) as png:
        said = str(png.info.get("Title", ""))
    place = f"{path.parent.name}/{path.name}" if named else path.name
    return (f"{said}. {kind}" if said and said not in kind else kind), kind, data, place
