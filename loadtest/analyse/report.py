"""What people read: summary.json, report.md and one-file report.html in the run folder, PNGs, and the console table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtest.analyse.reports import findings, pages
from loadtest.analyse.reports.summary import Analysis, analyse, failed
from loadtest.analyse.run import offered_load
from loadtest.analyse.verdict.verdict import worst
from loadtest.analyse.whatif.prediction_chart import CurveAhead
from loadtest.slo import Objective

HEADS = (
    "ok / failed",
    "TTFT p50",
    "TTFT p95",
    "TTFT p99",
    "p95 from t_sched",
    "queue wait p50",
    "tokens/s a stream",
    "output tokens/s",
)
# Columns of the terminal's table that a narrow one loses, the first one first; level and verdict are never among them.
DISPENSABLE = (
    "TTFT p99",
    "queue wait p50",
    "p95 from t_sched",
    "output tokens/s",
    "TTFT p50",
    "tokens/s a stream",
    "TTFT p95",
    "ok / failed",
)
VERDICT_WIDTH, LEVEL_WIDTH, GAP, EDGES = 7, 20, 2, 2  # columns of a terminal; a longer name of a level is folded
VERDICT_STYLES = {"valid": "green", "suspect": "yellow", "void": "bold red"}


@dataclass(frozen=True, slots=True)
class Report:
    """What was worked out and written."""

    analyses: tuple[Analysis, ...]  # one a run, in the order given
    files: tuple[Path, ...]

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json of the first run."""
        return self.analyses[0].summary

    @property
    def verdict(self) -> str:
        """The gravest verdict of all runs."""
        return worst([one.summary["verdict"] for one in self.analyses])


def write_report(
    folders: list[Path], out: Path | None = None, *, charts: bool = True, objectives: Sequence[Objective] = ()
) -> Report:
    """Write summary.json, report.md, report.html and the PNGs of each run; into `out`, or into the run folder.

    With several runs `out` gets a folder a run. `charts=False` writes summary.json alone; `objectives` put goodput into
    it. Raises RunFolderError when a folder holds no run.
    """
    begun: list[CurveAhead] = []
    also = (lambda *found: begun.append(CurveAhead(*found))) if charts and len(folders) == 1 else None
    analyses = [analyse(folder, objectives, also) for folder in folders]  # all readable before anything is written
    files: list[Path] = []
    for one, place in zip(analyses, _places(analyses, out), strict=True):
        place.mkdir(parents=True, exist_ok=True)
        files.append(_write(place / "summary.json", orjson.dumps(one.summary, option=orjson.OPT_INDENT_2) + b"\n"))
        if charts:
            from loadtest.analyse.charts import draw_all

            pictures = draw_all(one, place, begun[0] if begun else None)
            files += pictures
            files.append(_write(place / "report.md", pages.markdown(one, pictures).encode()))
            files.append(_write(place / "report.html", pages.html(one, pictures).encode()))
    return Report(tuple(analyses), tuple(files))


def plot(folders: list[Path], out: Path | None = None) -> list[Path]:
    """Draw the PNGs alone; into `out` (a folder a run with several), or into the run folder."""
    from loadtest.analyse.charts import draw_all

    analyses = [analyse(folder) for folder in folders]
    return [path for one, place in zip(analyses, _places(analyses, out), strict=True) for path in draw_all(one, place)]


def _places(analyses: list[Analysis], out: Path | None) -> list[Path]:
    if out is None:
        return [one.run.path for one in analyses]
    if len(analyses) == 1:
        return [out]
    names = [one.run.path.resolve().name for one in analyses]
    # Runs of the same folder name from different places must not overwrite each other.
    return [out / (name if names.count(name) == 1 else f"{i}-{name}") for i, name in enumerate(names)]


def _write(path: Path, body: bytes) -> Path:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(body)
    partial.replace(path)
    return path


def console_report(report: Report, console: Console) -> None:
    """Print each run's table, its findings and the reasons for doubt."""
    for one in report.analyses:
        for sentence in one.summary["trouble"]:
            console.print(Text(sentence, style="bold yellow"))
        console.print(console_table(one.summary, console.width))
        for sentence in findings.all_findings(one):
            console.print(Text(f"• {sentence}"))
        for line in findings.verdicts(one.summary["levels"]):
            console.print(Text(line, style="yellow"))
    for path in report.files:
        console.print(Text(f"wrote {path}", style="dim"), soft_wrap=True)


def _ended(level: dict[str, Any]) -> str:
    said = f"{level['outcomes'].get('ok', 0)} / {failed(level)}"
    return f"{said} ({level['shed']} not sent)" if level.get("shed") else said


def console_table(summary: dict[str, Any], width: int = 80) -> Table:
    """Return a row a level: requests, TTFT, queue wait, tokens a second, verdict; in `width` columns.

    What all levels share (lengths) moves to the title, and columns that are empty throughout are left out. Where the rest
    does not fit, columns go by the order of DISPENSABLE and are named below; level and verdict stay.
    """
    levels = summary["levels"]
    parts = [level["label"].split(" · ") for level in levels]
    shared = [part for part in parts[0] if all(part in other for other in parts)] if len(parts) > 1 else []
    facts = (summary["name"], findings.measured_on(summary), *shared)
    mark = findings.simulated(summary)
    title = " · ".join(facts) + (f" ({mark})" if mark else "")
    rows = [(_ended(level), *pages.headline(level)) for level in levels]
    known = [i for i in range(len(HEADS)) if any(row[i] != pages.NOTHING for row in rows)]
    if not any(map(offered_load.is_open, levels)):  # a closed loop sends when its user is free: both are the same there
        known = [i for i in known if "t_sched" not in HEADS[i]]
    own = [
        " · ".join(name for name in names if name not in shared) or level["label"]
        for level, names in zip(levels, parts, strict=True)
    ]
    columns, left_out = _fitting({i: [HEADS[i], *(row[i] for row in rows)] for i in known}, own, width)
    said = f"left out at {width} columns: {', '.join(left_out)}" if left_out else None
    table = Table(
        title=Text(title, style="bold"),
        title_justify="left",
        caption=Text(said, style="dim") if said else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("level", min_width=min(10, max(map(len, own), default=0)), overflow="fold")
    for i in columns:
        table.add_column(HEADS[i], justify="right", min_width=_least([HEADS[i], *(row[i] for row in rows)]))
    table.add_column("verdict", min_width=VERDICT_WIDTH)
    for level, name, row in zip(levels, own, rows, strict=True):
        verdict = level["verdict"]
        table.add_row(name, *(row[i] for i in columns), Text(verdict, style=VERDICT_STYLES[verdict]))
    return table


def _fitting(cells: dict[int, list[str]], levels: list[str], width: int) -> tuple[list[int], list[str]]:
    """Return which columns fit beside level and verdict, and the heads of those that do not."""
    kept, left_out = dict(cells), []
    level = max((max(map(len, name.split()), default=0) for name in levels), default=0)
    room = width - EDGES - min(max(10, level), LEVEL_WIDTH) - GAP - VERDICT_WIDTH
    for head in DISPENSABLE:
        if sum(_least(column) + GAP for column in kept.values()) <= room:
            break
        if (i := HEADS.index(head)) in kept:
            del kept[i]
            left_out.append(head)
    return list(kept), left_out


def _least(cells: list[str]) -> int:
    """Return how narrow a column may be: its head breaks between words, what a cell says does not but for a count."""
    head, *rest = cells
    words = [*head.split(), *(piece for cell in rest for piece in cell.split(" (", 1)[0].split("\n"))]
    return max(map(len, words), default=1)
