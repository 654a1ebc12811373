"""The sheet of a chart: its panels, and around them title, legend, what is simulated, and who was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text

from loadtest.analyse.charts.lettering import cut, drawable, one_line, width_in_inches, wrapped
from loadtest.analyse.charts.style import COLUMNS, DPI, GREY, INK, VERMILLION, WIDTH
from loadtest.analyse.findings.measured_on import measured_on, simulated_badge, simulated_mark
from loadtest.analyse.run import LevelData
from loadtest.analyse.summary import Analysis
from loadtest.run_folder import opened_whole
from loadtest.text import counted, joined, listed

VERDICTS = {"valid": "#00775A", "suspect": "#9A6700", "void": "#B3400A"}
LETTER = 0.075  # inches, of the legend
USUAL_HEAD = 1.2  # inches of title, subtitle and legend that a sheet's height allows for
EDGE = 0.017  # margin left and right, of the width
MOST_FAILED = 3  # levels with many failed requests that a subtitle names


def new(panels: int, *, height: float = 5.6, columns: int = COLUMNS, share_y: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure with `panels` axes in rows of at most `columns`."""
    across = min(panels, columns)
    down = -(-panels // across)
    figure = Figure(figsize=(WIDTH, height + (down - 1) * 2.9), dpi=DPI, layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, sharey=share_y).flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def save(
    figure: Figure,
    path: Path,
    analysis: Analysis,
    title: str,
    subtitle: str = "",
    *,
    at_last: Sequence[Callable[[], object]] = (),
) -> Path:
    """Put title, simulated mark, legend and footer around a figure and write it as PNG, which keeps the title as text too.

    `at_last` is called when all has its place: what is written then moves nothing, and has characters that the font can draw.
    """
    group = analysis.summary.get("group") or ""
    subtitle = joined(" · ", "" if subtitle.startswith(group) else group, subtitle)
    subtitle = joined("; ", subtitle, _failed(analysis.summary["levels"]))
    simulated = simulated_mark(analysis.summary)
    heads, below = wrapped(title, 74 if simulated else 92), wrapped(subtitle, 130)
    named, columns, tall = _legend(figure)
    more = 0.25 * len(heads) + 0.19 * len(below) + tall - USUAL_HEAD
    height = figure.get_figheight() + max(more, 0.0)  # the panels keep their room
    figure.set_figheight(height)
    top = height - 0.16
    for line in heads:
        figure.text(EDGE, top / height, line, fontsize=13, fontweight="bold", color=INK, va="top")
        top -= 0.25
    for line in below:
        figure.text(EDGE, (top - 0.03) / height, line, fontsize=9.5, color=GREY, va="top")
        top -= 0.19
    if simulated:
        mark = {"boxstyle": "round,pad=0.35", "facecolor": VERMILLION, "edgecolor": "none"}
        said: dict[str, Any] = {"fontsize": 9, "fontweight": "bold", "color": "white", "ha": "right", "va": "top"}
        figure.text(1 - EDGE, (height - 0.2) / height, simulated_badge(analysis.summary) or "", bbox=mark, **said)
    if named:  # above the panels, where it can cover nothing
        at = (EDGE / 2, (top - 0.08) / height)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": at, "ncols": columns}
        figure.legend(list(named.values()), list(named), **place).set_in_layout(False)
    top -= 0.08 + tall
    bottom = 0.14 + _footer(figure, analysis, simulated)
    room = (0.01, bottom / height, 0.98, (top - bottom) / height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=room, w_pad=0.08, h_pad=0.08))
    for each in figure.findobj(Text):
        each.set_text(drawable(each.get_text()))
    if at_last:
        figure.draw_without_rendering()
    for write_last in at_last:
        write_last()
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened_whole(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None, "Title": drawable(title)})
    return path


def _failed(levels: Sequence[LevelData]) -> str:
    """Say which levels' figures leave out many failed requests; void ones are marked by themselves."""
    named = [
        joined(" of ", f"{level.failed_share} at {level.load}", level.get("of_run"))
        for level in levels
        if level.many_failed and not level.is_void
    ]
    said = list(dict.fromkeys(named))
    more = len(said) - MOST_FAILED
    if more > 0:
        said = [*said[:MOST_FAILED], f"more at {counted(more, 'other level')}"]
    return f"figures leave out requests that failed: {listed(said)}" if said else ""


def _legend(figure: Figure) -> tuple[dict[str, Any], int, float]:
    """Return the entries of one legend for all panels, each name once, its columns, and its height in inches."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(cut(label, int((WIDTH - 1) / LETTER)), handle)
    columns = max(range(1, len(named) + 1), key=lambda columns: _fitting(named, columns), default=1)
    return named, columns, 0.12 + 0.213 * -(-len(named) // columns) if named else 0.0


def _fitting(names: Iterable[str], columns: int) -> int:
    """Return a number of columns of a legend where they fit beside each other, each as wide as its widest entry; else 0."""
    inches = np.array([width_in_inches(name, 9) + 0.65 for name in names])  # of an entry, with its sign
    return columns if sum(part.max() for part in np.array_split(inches, columns)) <= WIDTH - 0.3 else 0


def _footer(figure: Figure, analysis: Analysis, simulated: str | None) -> float:
    """Say verdict, run, server and model at the bottom; return its height in inches."""
    summary = analysis.summary
    verdict, height = summary["verdict"], figure.get_figheight()
    doubts = sum(level["verdict"] == verdict for level in summary["levels"])
    why = f"{doubts} of {len(summary['levels'])} levels" if doubts else "the run did not end as planned"
    said = verdict if verdict == "valid" or doubts == len(summary["levels"]) == 1 else f"{verdict} ({why})"
    figure.text(EDGE, 0.14 / height, f"● {said}", fontsize=9, fontweight="bold", color=VERDICTS[verdict], va="bottom")
    measured: str = summary.get("measured_on", measured_on(summary))
    parts = (summary["name"], *measured.split(" · "), summary["target"].get("url"))
    every: list[Sequence[Any]] = [[_hardware(analysis)], [simulated], parts]
    lines = [told for line in every if (told := [str(part) for part in line if part])]
    for i, told in enumerate(lines):
        room = WIDTH * (1 - 2 * EDGE) - (0 if i else 0.5 + 0.1 * len(said))  # the verdict stands in the lowest line
        line, at = one_line(told, int(room / 0.077)), (0.14 + 0.16 * i) / height
        figure.text(1 - EDGE, at, line, fontsize=8.5, color=GREY, ha="right", va="bottom")
    return 0.16 * len(lines) + 0.12


def _hardware(analysis: Analysis) -> str:
    """Return the machines in a line: those that were sampled, and what loadtest ran on."""
    cpus = analysis.run.fact("client", "cpus")
    client = f"measured from {counted(int(cpus), 'CPU')}" if cpus else ""
    return joined(" · ", *analysis.summary.get("hardware", []), client)
