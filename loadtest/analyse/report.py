"""What people read: summary.json, report.md and one-file report.html in the run folder, PNGs, and the console table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from loadtest.analyse.comparison.many import compare_many
from loadtest.analyse.figures import cost
from loadtest.analyse.figures.cost import NO_PRICES, Prices
from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.findings.measured_on import marked, measured_on
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports import answers, pages, prediction_report, score_report, tables
from loadtest.analyse.run import LevelData, has_tokens, names_apart, shared_parts
from loadtest.analyse.summary import Analysis, analyse
from loadtest.grid import Grid, hanging
from loadtest.run_folder import write_whole
from loadtest.slo import Objective
from loadtest.text import counted, joined, listed

# Columns of the terminal's table that a narrow one loses, the first one first; level and verdict are never among them.
EXPENDABLE_COLUMNS = (
    "TTFT p99",
    "E2E p99",
    "queue wait p50",
    "p95 from t_sched",
    "output tokens/s",
    "TTFT p50",
    "tokens/s a stream",
    "TTFT p95",
    "requests/s",
    "E2E p95",
    "ok / failed",
)
VERDICT_STYLES = {"valid": "green", "suspect": "yellow", "void": "bold red"}


@dataclass(frozen=True, slots=True)
class Report:
    """What a run shows, worked out once for its pages, the console and JSON."""

    analysis: Analysis
    findings: tuple[Finding, ...]
    files: tuple[Path, ...] = ()

    @property
    def summary(self) -> dict[str, Any]:
        return self.analysis.summary

    @property
    def verdict(self) -> str:
        return str(self.summary["verdict"])


def write_report(
    folder: Path,
    out: Path | None = None,
    *,
    charts: bool = True,
    objectives: Sequence[Objective] = (),
    prices: Prices = NO_PRICES,
) -> Report:
    """Write summary.json, report.md, report.html and the PNGs of a run, into `out` or into the run folder.

    `charts=False` writes summary.json alone; `objectives` put goodput into it, `prices` what tokens cost, each else as
    run.json has it. Raises RunFolderError when the folder holds no run.
    """
    one, place = analyse(folder, objectives or None), out or folder
    place.mkdir(parents=True, exist_ok=True)
    scored = score_report.add_score(one)
    cost.add_cost(one.summary, prices.before(Prices.of_run(one.run.facts)))
    files = [write_whole(place / "summary.json", orjson.dumps(one.summary, option=orjson.OPT_INDENT_2) + b"\n")]
    findings = all_findings(one)
    if charts:
        from loadtest.analyse.charts import draw_all

        pictures = draw_all(one, place)
        curve = prediction_report.curve_table(one, one.curve) if one.curve else None
        more = [(name, grid) for name, grid in (("Predicted", curve), ("Prediction, scored", scored)) if grid]
        files += pictures
        for name, page in (("report.md", pages.markdown), ("report.html", pages.html)):
            files.append(write_whole(place / name, page(one, findings, pictures, more).encode()))
    return Report(one, tuple(findings), tuple(files))


def plot(
    folders: list[Path], out: Path | None = None, *, each: bool = False, say: Callable[[str], object] = lambda _: None
) -> list[Path]:
    """Draw the PNGs of a run alone, into `out` or the run folder; of several runs those of all together, into `out`.

    `each` also draws those of each of several runs, into its folder or one of its name in `out`. `say` is told what is wrong
    with a folder, a sentence each.
    """
    from loadtest.analyse.charts import draw_all

    analyses = [analyse(folder) for folder in folders]
    for one in analyses:
        for sentence in one.run.trouble:
            say(f"{one.run.path}: {sentence}")
    drawn = []
    if out is not None and len(analyses) > 1:
        from loadtest.analyse.charts.compare import draw_each

        drawn = draw_each(compare_many(analyses), out)
    own = (
        zip(analyses, places([one.run.path for one in analyses], out), strict=True)
        if each or len(analyses) == 1
        else ()
    )
    return drawn + [path for one, place in own for path in draw_all(one, place)]


def places(runs: Sequence[Path], out: Path | None) -> list[Path]:
    """Return the folder for the files of each run: the run's own, or one of its name in `out`; a single run has `out` itself."""
    if out is None:
        return list(runs)
    if len(runs) == 1:
        return [out]
    names = [run.resolve().name for run in runs]
    # Runs of the same folder name from different places must not overwrite each other.
    return [out / (name if names.count(name) == 1 else f"{i}-{name}") for i, name in enumerate(names)]


def console_report(report: Report, console: Console) -> None:
    """Print a run's verdict with what to do, the four figures asked for most, its table and its findings.

    How each finding is known stands in the pages: here it would scroll the answer away.
    """
    for sentence in report.summary["trouble"]:
        console.print(Text(sentence, style="bold yellow"))
    _print_answers(report.analysis, console)
    console.print(console_table(report.summary, console.width))
    for finding in report.findings:
        console.print(hanging(f"• {finding}", console.width))
    if report.files:
        console.print(Text(_written(report.files), style="dim"), soft_wrap=True)


def _written(files: Sequence[Path]) -> str:
    """Name the page to open, and what lies beside it, in a line: thirteen would scroll the answer away."""
    page = next((path for path in files if path.suffix == ".html"), files[0])
    charts = sum(path.suffix == ".png" for path in files)
    others = [path.name for path in files if path is not page and path.suffix != ".png"]
    beside = listed([*others, *([counted(charts, "chart")] if charts else [])])
    return joined("; beside it: ", f"wrote {page}", beside)


def _print_answers(one: Analysis, console: Console) -> None:
    summary = one.summary
    verdict = Text("Verdict: ").append(summary["verdict"], style=VERDICT_STYLES[summary["verdict"]])
    console.print(verdict.append(f". {answers.verdict_in_words(summary)}"))
    for todo in answers.to_do(summary["levels"]):
        for reason in todo.reasons:
            console.print(Padding(Text(f"{reason.wrong} {reason.example}", style="yellow"), (0, 0, 0, 2)))
        console.print(Padding(Text(f"What to do: {todo.advice}"), (0, 0, 0, 4)))
    console.print()
    for name, row in pages.tile_rows(one):
        if name:
            console.print(Text(name, style="bold"))
        for tile in row:
            console.print(Text(str(tile)))
    console.print()


def _ok_and_failed(level: LevelData) -> str:
    said = f"{level['outcomes'].get('ok', 0)} / {level.failed}"
    more = [
        f"{count} {what}"
        for count, what in ((level["outcomes"].get("left"), "left"), (level.get("shed"), "not sent"))
        if count
    ]
    return f"{said} ({', '.join(more)})" if more else said


def console_table(summary: dict[str, Any], width: int = 80) -> Table:
    """Return a row a level: requests, TTFT, queue wait, tokens a second, verdict; in `width` columns.

    What all levels share (lengths) moves to the title, and columns that are empty throughout are left out. Where the rest
    does not fit, columns go in the order of EXPENDABLE_COLUMNS and are named below; level and verdict stay.
    """
    levels = summary["levels"]
    shared, _ = shared_parts([level["label"] for level in levels])
    title = marked(joined(" · ", summary["name"], measured_on(summary), shared), summary)
    figures = [tables.headline(level, tokens=has_tokens(*levels)) for level in levels]
    rows = tuple(
        (name, _ok_and_failed(level), *each.values(), level.verdict_said)
        for name, level, each in zip(names_apart(levels), levels, figures, strict=True)
    )
    heads = [head for each in figures[:1] for head in each]
    grid = Grid(("level", "ok / failed", *heads, "verdict"), rows).without_unknown()
    if not any(level.is_open for level in levels):  # a closed loop sends when its user is free: both are the same there
        grid = grid.without("p95 from t_sched")
    return grid.console_within(width, EXPENDABLE_COLUMNS, title, styles=VERDICT_STYLES)
