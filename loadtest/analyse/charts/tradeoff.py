"""Throughput against latency: what one user gives up for the output of all, a point a level."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.point_names import PointNames
from loadtest.analyse.charts.void_levels import crosses, edge_of
from loadtest.analyse.figures.stats import PERCENTILES
from loadtest.analyse.findings.waiting_findings import void_above
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.analyse.summary import Analysis, series_with, with_most
from loadtest.metrics import needed
from loadtest.text import counted, number


def ttft(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> PointNames:
    """Draw TTFT p95 over the output of all streams; return the loads, to be written beside the points."""
    factor, unit = style.scale(max((level.figure("ttft_s", "p95") or 0.0 for level in analysis.levels), default=0.0))
    names = _draw(axes, all_series, "ttft_s", "p95", factor, side=-1)
    if axes.axison:
        axes.set(title="how long users wait: lower right is better", ylabel=f"TTFT p95 ({unit})")
    return names


def speed(axes: Axes, _: Analysis, all_series: Sequence[Series]) -> PointNames:
    """Draw the median decode speed of one user over the output of all streams; return the loads likewise."""
    names = _draw(axes, all_series, "stream_tokens_per_s", "p50", 1.0, side=1)
    if axes.axison:
        axes.set(title="how fast they read: upper right is better", ylabel="tokens/s a stream (median)")
    return names


def _draw(axes: Axes, all_series: Sequence[Series], name: str, part: str, factor: float, *, side: int) -> PointNames:
    names = PointNames(axes, side)
    every = [
        [(level, point) for level in series.levels if (point := _point(level, name, part, factor))]
        for series in all_series
    ]
    edge = edge_of(y for known in every for level, (_, y) in known if not level.is_void)
    for i, (series, known) in enumerate(zip(all_series, every, strict=True)):
        if not known:
            continue
        good = [point for level, point in known if not level.is_void]
        label = (series.label or "no lengths set") if len(all_series) > 1 else None
        look = style.line_look(i)
        if good:
            axes.plot(*zip(*good, strict=True), label=label, **look)
        crosses(axes, [point for level, point in known if level.is_void], edge)
        loads = [f"{level.amount:.4g}" for level, _ in known]
        names.add([(x, min(y, edge)) for _, (x, y) in known], loads, look["color"])
    if not names.points:
        style.empty(
            axes, f"No level has {'enough requests for a TTFT p95' if part == 'p95' else 'a decode speed'} and a rate."
        )
        return names
    axes.set(xlim=(0, axes.get_xlim()[1] * 1.06), ylim=(0, axes.get_ylim()[1] * 1.1))
    style.plain(axes.xaxis)
    style.plain(axes.yaxis)
    axes.grid(visible=True, axis="x")
    axes.set(xlabel="output tokens/s, all streams")
    return names


def _point(level: LevelData, name: str, part: str, factor: float = 1.0) -> tuple[float, float] | None:
    rate, value = level.figure("output_tokens_per_s"), level.figure(name, part)
    return None if rate is None or value is None else (float(rate), value * factor)


def without_p95(levels: Sequence[LevelData]) -> str:
    """Say how many levels the left panel lacks that the right one has; nothing where it lacks none, or all."""
    right = [level for level in levels if _point(level, "stream_tokens_per_s", "p50")]
    fewer = [level for level in right if not _point(level, "ttft_s", "p95")]
    if not fewer or len(fewer) == len(right):
        return ""
    has = "has" if len(fewer) == 1 else "have"
    return f"{len(fewer)} of {counted(len(right), 'level')} {has} no TTFT p95, which needs {needed(PERCENTILES['p95'])} requests"


def title(analysis: Analysis) -> str:
    """Say what the level of the most output costs a user."""
    levels = analysis.levels
    best = with_most(levels, "output_tokens_per_s")
    if best is None:
        return "Throughput against latency"
    p95, speed = best.figure("ttft_s", "p95"), best.figure("stream_tokens_per_s", "p50")
    costs = [f"TTFT p95 is {best.wait_in_words('ttft_s', 'p95')}"] if p95 is not None else []
    costs += [f"a stream gets {number(speed)} tokens/s"] if speed is not None else []
    said = f"The most output is {number(best['output_tokens_per_s'])} tokens/s, at {best.load}"
    return said + (f": there {' and '.join(costs)}" if costs else "") + void_above(series_with(levels, best), best)
