"""The seconds around one request: a lane for each request at the server, its waits, its prompt and its tokens."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from loadtest.analyse.charts import sheet, style
from loadtest.analyse.explain.explanation import Explainer, Explanation
from loadtest.analyse.explain.timeline import Timeline, behind_until
from loadtest.analyse.reports import explain_report as words
from loadtest.analyse.run import IntArray, RunData
from loadtest.analyse.summary import Analysis
from loadtest.metrics import S_PER_US

SHORTEST_S = 1e-3  # that the axis spans
MOST_LANES = 40
MARGIN = 0.12  # of the time to the first token, that is shown before and after it
MOST_BEFORE = 2.0  # of the time to the first token: the most that is shown before it, for a cause that was over then
MOST_TICKS = 4000  # ticks in all; more only blur


def draw(path: Path, analysis: Analysis, explainer: Explainer, found: Explanation) -> Path:
    timeline, run = explainer.splitter.timeline, analysis.run
    total = found.parts.total_s
    low, high = found.begin_s - MARGIN * total, found.begin_s + (1 + 2 * MARGIN) * total
    told = found.told
    main = told.cause.row if told is not None and told.cause is not None else None  # whom the subtitle names
    if main is not None:
        low = min(low, max(float(timeline.send[main]) - MARGIN * total, found.begin_s - MOST_BEFORE * total))
    causes = [each.row for part in found.parts.first for each in part.causes]
    rows = _lanes(timeline, low, high, [found.row, *([main] if main is not None else []), *causes])
    with mpl.rc_context(style.RC):
        figure, (axes, *_) = sheet.new(1, height=max(3.2, 1.9 + 0.2 * len(rows)))
        _lanes_drawn(axes, run, timeline, rows, (low, high), found)
        for label, row in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if row in (found.row, main) else "normal")
            if row == main:
                label.set_color(style.VERMILLION)
        subtitle = words.without(found) if told is not None else ""
        return sheet.save(figure, path, analysis, words.heading(found), subtitle)


def _lanes(timeline: Timeline, low: float, high: float, wanted: list[int]) -> IntArray:
    """Return the requests that were at the server then, in the order sent; of too many those wanted and the nearest."""
    over = np.where(np.isfinite(timeline.last), timeline.last, timeline.end)
    rows = np.flatnonzero((timeline.send < high) & (over > low))
    if len(rows) > MOST_LANES:
        near = np.abs(timeline.send[rows] - timeline.send[wanted[0]])
        near[np.isin(rows, wanted)] = -1.0
        rows = rows[np.argsort(near, kind="stable")[:MOST_LANES]]
    return rows[np.argsort(timeline.send[rows], kind="stable")]


def _lanes_drawn(
    axes: Axes, run: RunData, timeline: Timeline, rows: IntArray, span: tuple[float, float], found: Explanation
) -> None:
    low, high = span
    zero = found.begin_s
    for lane, row in enumerate(rows):
        for label, colour, start, end in _bars(run, timeline, int(row)):
            left, right = max(start, low), min(end, high)
            if right > left:
                axes.barh(lane, right - left, left=left - zero, height=0.7, color=colour, linewidth=0, label=label)
        if row == found.row:
            axes.axhspan(lane - 0.5, lane + 0.5, color=style.PALE_ORANGE, alpha=0.35, zorder=0)
    _tokens(axes, run, rows, span, zero)
    first = float(timeline.first[found.row])
    if math.isfinite(first):
        axes.axvline(first - zero, color=style.INK, linewidth=1.0, linestyle=":")
    axes.axvline(0.0, color=style.INK, linewidth=1.0, linestyle=":")
    axes.set_yticks(range(len(rows)), [f"#{timeline.ids[row]}" for row in rows], fontsize=8.5)
    due = f"seconds since request {found.id} was due; dotted: due, and its first token"
    axes.set(xlim=(low - zero, max(high, low + SHORTEST_S) - zero), ylim=(len(rows) - 0.4, -0.6), xlabel=due)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")


def _bars(run: RunData, timeline: Timeline, row: int) -> list[tuple[str, str, float, float]]:
    """Return what a request was doing: (name, colour, start, end)."""
    first, end = float(timeline.first[row]), float(timeline.end[row])
    until = first if math.isfinite(first) else end
    arrived, won = float(timeline.arrived[row]), float(timeline.won[row])
    read, came = float(timeline.read_from[row]), behind_until(timeline, row)
    won = won if math.isfinite(run.column("slot_wait_s")[row]) else arrived
    bars = [
        ("model load, handling", style.PURPLE, float(timeline.send[row]), arrived),
        ("held back, or passed over", style.PALE_ORANGE, arrived, came),
        ("slot wait", style.ORANGE, came, won),
    ]
    if math.isfinite(read):
        bars += [("not yet read", style.YELLOW, max(won, came), read), ("prompt read", style.SKY, read, until)]
    else:
        bars.append(("no token yet", style.WAITING, won, until))
    if math.isfinite(first):
        bars.append(("decoding; a tick is a token", style.PALE_BLUE, first, float(timeline.last[row])))
    return bars


def _tokens(axes: Axes, run: RunData, rows: IntArray, span: tuple[float, float], zero: float) -> None:
    tokens = [run.column("send")[row] + run.chunks.row(int(row)) * S_PER_US for row in rows]
    inside = [at[(at >= span[0]) & (at <= span[1])] - zero for at in tokens]
    if sum(map(len, inside)) <= MOST_TICKS:
        for lane, at in enumerate(inside):
            axes.plot(at, np.full(len(at), lane), "|", color=style.BLUE, markersize=4.5, markeredgewidth=0.7)
