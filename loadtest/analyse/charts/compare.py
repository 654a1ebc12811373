"""How much each headline figure changed between two runs, a panel a figure and a row a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.comparison import compare_report
from loadtest.analyse.comparison.compare import BETTER, NOT_COMPARABLE, SAME, TOO_FEW, WORSE, Change, Comparison
from loadtest.analyse.comparison.differences import FAILED, Metric
from loadtest.analyse.summary import Analysis

VERDICT_LOOKS = {
    WORSE: (style.VERMILLION, "o"),
    BETTER: (style.GREEN, "o"),
    SAME: (style.GREY, "s"),
    NOT_COMPARABLE: (style.PALE, "x"),
}
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}  # no line strikes a figure through
MOST_DRAWN = 20
NARROWEST, WIDEST = 0.06, 1.0  # half of a panel's width, as a change


def draw(comparison: Comparison, path: Path) -> Path:
    metrics = list(dict.fromkeys(row.metric for row in comparison.headline if row.metric is not FAILED))
    known = [metric for metric in metrics if any(row.interval for row in comparison.headline if row.metric is metric)]
    unknown = [metric.name for metric in metrics if metric not in known]
    shared, own = compare_report.level_names(comparison)
    every = list(dict.fromkeys(row.level for row in comparison.headline))
    levels = every[:MOST_DRAWN]
    with mpl.rc_context(style.RC):
        figure, panels = style.page(max(len(known), 1), columns=4, height=3.2 + 0.5 * len(levels))
        if not known:
            style.empty(panels[0], "No figure could be compared.")
        for axes, metric in zip(panels, known, strict=False):
            rows = [row for row in comparison.headline if row.metric is metric and row.level in levels]
            changes_panel(axes, metric, rows, levels, comparison.tolerance)
            axes.set_yticks(range(len(levels)), [own[level] for level in levels])
        confidence = f"{comparison.confidence * 100:.5g} %"
        said = f"{shared}; " if shared else ""
        said += f"change from BASE to NEW; bars: {confidence} intervals, all {comparison.tests} together 99 %; "
        said += "shaded: a regression"
        if known and unknown:
            said += f"; {', '.join(unknown)}: {TOO_FEW}"
        if len(every) > len(levels):
            said += f"; {len(every) - len(levels)} more levels are in compare.md"
        title = compare_report.outcome(comparison)
        return style.save(figure, path, _framed(comparison), title, said if known else shared)


def changes_panel(axes: Axes, metric: Metric, rows: Sequence[Change], levels: Sequence[str], tolerance: float) -> None:
    """Draw a figure's change at every level, with interval and verdict."""
    ends = [abs(end - 1) for row in rows for end in (*(row.interval or ()), row.ratio or 1.0)]
    half = min(max([1.12 * end for end in ends if math.isfinite(end)], default=NARROWEST), WIDEST)
    half = max(half, NARROWEST, 1.5 * tolerance)
    worse = (tolerance, half) if metric.lower_is_better else (-half, -tolerance)
    axes.axvspan(*worse, color=style.VERMILLION, alpha=0.08, linewidth=0)
    axes.axvline(0, color=style.INK, linewidth=1.0)
    for row in rows:
        _change_mark(axes, row, levels.index(row.level), half)
    axes.set_xlim(-half, half)
    axes.set_ylim(len(levels) - 0.4, -0.7)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda at, _: f"{at * 100:+.0f}".replace("-", "−") if abs(at) > 1e-9 else "0")
    axes.set_title(metric.name)
    axes.set_xlabel("change, %: worse →" if metric.lower_is_better else "← worse: change, %", color=style.VERMILLION)


def _change_mark(axes: Axes, row: Change, place: int, half: float) -> None:
    verdict = row.verdict or SAME
    colour, marker = VERDICT_LOOKS[verdict]
    if row.ratio is None or verdict == NOT_COMPARABLE:
        short = row.reason if len(row.reason) < 24 else NOT_COMPARABLE
        axes.text(0, place, short, ha="center", va="center", fontsize=8.5, color=style.GREY, style="italic", bbox=BOX)
        return
    at = min(max(row.ratio - 1, -half), half)
    if row.interval is not None:
        low, high = (min(max(end - 1, -half), half) for end in row.interval)
        axes.plot([low, high], [place, place], color=colour, linewidth=2.6, solid_capstyle="butt", label=verdict)
    axes.plot([at], [place], marker=marker, color=colour, markersize=7, linestyle="none")
    side = "left" if at < -0.5 * half else "right" if at > 0.5 * half else "center"
    bold = "bold" if verdict != SAME else "normal"
    text = compare_report.change_text(row)
    axes.annotate(
        text,
        (at, place),
        xytext=(0, 6),
        textcoords="offset points",
        ha=side,
        fontsize=9,
        color=colour,
        fontweight=bold,
        bbox=BOX,
    )


def _framed(comparison: Comparison) -> Analysis:
    """Return what the frame says of all runs: their names, the graver verdict, simulated if either is."""
    sides = [[one.summary for one in side] for side in (comparison.bases, comparison.news)]
    names = [side[0]["name"] + (f" and {len(side) - 1} more" if side[1:] else "") for side in sides]
    simulated = sides[1][0]["simulated"] or sides[0][0]["simulated"]
    return style.framed(comparison.new, [*sides[0], *sides[1]], " → ".join(names), simulated=simulated)
