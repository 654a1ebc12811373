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

from loadtest.analyse import findings, offered, pages
from loadtest.analyse.forecast import Ahead
from loadtest.analyse.summary import Analysis, analyse, failed
from loadtest.analyse.verdict import worst
from loadtest.slo import Objective

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
    begun: list[Ahead] = []
    also = (lambda *found: begun.append(Ahead(*found))) if charts and len(folders) == 1 else None
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
        console.print(console_table(one.summary))
        for sentence in findings.all_findings(one):
            console.print(Text(f"• {sentence}"))
        for line in findings.verdicts(one.summary["levels"]):
            console.print(Text(line, style="yellow"))
    for path in report.files:
        console.print(Text(f"wrote {path}", style="dim"), soft_wrap=True)


def _ended(level: dict[str, Any]) -> str:
    said = f"{level['outcomes'].get('ok', 0)} / {failed(level)}"
    return f"{said} ({level['shed']} not sent)" if level.get("shed") else said


def console_table(summary: dict[str, Any]) -> Table:
    """Return a row a level: requests, TTFT, queue wait, tokens a second, verdict; made for 80 columns.

    What all levels share (lengths) moves to the title, and columns that are empty throughout are left out.
    """
    levels = summary["levels"]
    parts = [level["label"].split(" · ") for level in levels]
    shared = [part for part in parts[0] if all(part in other for other in parts)] if len(parts) > 1 else []
    facts = (summary["name"], findings.measured_on(summary), *shared)
    mark = findings.simulated(summary)
    title = " · ".join(facts) + (f" ({mark})" if mark else "")
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = (
        "ok / failed",
        "TTFT p50",
        "TTFT p95",
        "TTFT p99",
        "p95 from t_sched",
        "queue wait p50",
        "tokens/s a stream",
        "output tokens/s",
    )
    rows = [(_ended(level), *pages.headline(level)) for level in levels]
    known = [i for i in range(len(heads)) if any(row[i] != pages.NOTHING for row in rows)]
    if not any(map(offered.is_open, levels)):  # a closed loop sends when its user is free: both are the same there
        known = [i for i in known if "t_sched" not in heads[i]]
    table.add_column("level", min_width=10)
    for i in known:
        table.add_column(heads[i], justify="right", min_width=max(map(len, heads[i].split())))
    table.add_column("verdict", min_width=7)
    for level, names, row in zip(levels, parts, rows, strict=True):
        verdict = level["verdict"]
        own = " · ".join(name for name in names if name not in shared) or level["label"]
        table.add_row(own, *(row[i] for i in known), Text(verdict, style=VERDICT_STYLES[verdict]))
    return table
