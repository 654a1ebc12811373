"""Throughput against latency: what one user gives up for the output of all, a point a level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.findings.run_findings import believed
from loadtest.analyse.run import offered_load
from loadtest.analyse.run.series import Series
from loadtest.analyse.summary import Analysis, figure, wait_in_words
from loadtest.metrics import VOID
from loadtest.text import number

MOST_NAMED = 10  # points with their load beside them, of one series


def ttft(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw TTFT p95 over the output of all streams."""
    factor, unit = style.scale(
        max((figure(level, "ttft_s", "p95") or 0.0 for level in analysis.summary["levels"]), default=0.0)
    )
    _draw(axes, all_series, "ttft_s", "p95", factor, side=-1)
    if axes.axison:
        axes.set_title("how long users wait: lower right is better")
        axes.set_ylabel(f"TTFT p95 ({unit})")


def speed(axes: Axes, _: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median decode speed of one user over the output of all streams."""
    _draw(axes, all_series, "stream_tokens_per_s", "p50", 1.0, side=1)
    if axes.axison:
        axes.set_title("how fast they read: upper right is better")
        axes.set_ylabel("tokens/s a stream (median)")


def _draw(axes: Axes, all_series: Sequence[Series], name: str, part: str, factor: float, *, side: int) -> None:
    drawn = False
    for i, series in enumerate(all_series):
        known = [level for level in series.levels if _point(level, name, part)]
        if not known:
            continue
        drawn = True
        points = [point for level in known if (point := _point(level, name, part))]
        x, y = [point[0] for point in points], [point[1] * factor for point in points]
        label = (series.label or "no lengths set") if len(all_series) > 1 else None
        look = style.line_look(i)
        axes.plot(x, y, label=label, **look)
        void = [(a, b) for level, a, b in zip(known, x, y, strict=True) if level["verdict"] == VOID]
        if void:
            axes.plot(
                *zip(*void, strict=True), "x", color=style.VERMILLION, markersize=10, label="void level", zorder=4
            )
        if len(all_series) <= 3:
            _name(axes, known, x, y, side)
    if not drawn:
        style.empty(
            axes, f"No level has {'enough requests for a TTFT p95' if part == 'p95' else 'a decode speed'} and a rate."
        )
        return
    axes.set_xlim(0, axes.get_xlim()[1] * 1.06)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("output tokens/s, all streams")


def _name(axes: Axes, levels: Sequence[dict[str, Any]], x: Sequence[float], y: Sequence[float], side: int) -> None:
    """Write the load beside points, on the side that the line does not take, no name where another is already."""
    wide, high = max(x) or 1.0, max(y) or 1.0
    placed: list[tuple[float, float]] = []
    for place in style.spread(len(levels), MOST_NAMED):
        at = (x[place] / wide, y[place] / high)
        if all(abs(at[0] - other[0]) > 0.06 or abs(at[1] - other[1]) > 0.07 for other in placed):
            placed.append(at)
            axes.annotate(
                f"{offered_load.amount(levels[place]):.4g}",
                (x[place], y[place]),
                xytext=(6 * side, 5),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                fontsize=8.5,
            )


def _point(level: dict[str, Any], name: str, part: str) -> tuple[float, float] | None:
    rate, value = level["output_tokens_per_s"], figure(level, name, part)
    return None if rate is None or value is None else (float(rate), float(value))


def title(analysis: Analysis) -> str:
    """Say what the level of the most output costs a user."""
    levels = [level for level in believed(analysis.summary["levels"]) if level["output_tokens_per_s"] is not None]
    if not levels:
        return "Throughput against latency"
    best = max(levels, key=lambda level: float(level["output_tokens_per_s"]))
    p95, speed = figure(best, "ttft_s", "p95"), figure(best, "stream_tokens_per_s", "p50")
    costs = [f"TTFT p95 is {wait_in_words(best, 'ttft_s', 'p95')}"] if p95 is not None else []
    costs += [f"a stream gets {number(speed)} tokens/s"] if speed is not None else []
    said = f"The most output is {number(best['output_tokens_per_s'])} tokens/s, at {offered_load.load_name(best)}"
    return said + (f": there {' and '.join(costs)}" if costs else "")
