"""Tokens a second, of one stream and of all together, against concurrency or rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.void_levels import crosses, is_void
from loadtest.analyse.findings.run_findings import believed_slots, saturation, telling
from loadtest.analyse.run import offered_load
from loadtest.analyse.run.series import Series
from loadtest.analyse.summary import Analysis, figure
from loadtest.text import number

APART = 0.12  # of an axis' width: figures beside points are no nearer


@dataclass(frozen=True, slots=True)
class Point:
    """A figure of one level."""

    load: float
    value: float
    ci95: list[float] | None
    void: bool

    @classmethod
    def of(cls, level: dict[str, Any], value: float, ci95: list[float] | None) -> Point:
        """Place a level's figure at its load."""
        return cls(offered_load.amount(level), value, ci95, is_void(level))


def a_stream(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median decode speed that one user sees, with its 95 % interval."""
    points = [
        [
            Point.of(level, value, level["stream_tokens_per_s"]["ci95_p50"])
            for level in series.levels
            if (value := figure(level, "stream_tokens_per_s", "p50")) is not None and offered_load.amount(level)
        ]
        for series in all_series
    ]
    draw_series(axes, analysis, all_series, points)
    axes.set_title("a stream: what one user sees (median 1 / TPOT)")
    axes.set_ylabel("tokens/s a stream")


def all_streams(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the output of all streams together, with its 95 % interval."""
    points = [
        [
            Point.of(level, level["output_tokens_per_s"], level["output_tokens_per_s_ci95"])
            for level in series.levels
            if level["output_tokens_per_s"] is not None and offered_load.amount(level)
        ]
        for series in all_series
    ]
    draw_series(axes, analysis, all_series, points)
    windows = {
        level["window"]["throughput_over"] for series in all_series for level in series.levels if level["window"]
    }
    axes.set_title(f"in all: output throughput ({' or '.join(sorted(windows)) or 'nothing'})")
    axes.set_ylabel("output tokens/s, all streams")


def draw_series(axes: Axes, analysis: Analysis, all_series: Sequence[Series], points: list[list[Point]]) -> None:
    """Draw a line a series through its levels; void ones are crosses beside it, without their figures."""
    users = sorted({point.load for line in points for point in line})
    if not users:
        style.empty(axes, "No request ended well, so there is no speed to show.")
        return
    for i, (series, every) in enumerate(zip(all_series, points, strict=True)):
        crosses(axes, [(point.load, point.value) for point in every if point.void])
        line = [point for point in every if not point.void]
        if not line:
            continue
        look = style.line_look(i)
        axes.plot(
            [point.load for point in line],
            [point.value for point in line],
            **look,
            label=(series.label or "no lengths set") if len(all_series) > 1 else None,
        )
        for point in line:
            if point.ci95:
                axes.vlines(point.load, point.ci95[0], point.ci95[1], color=look["color"], linewidth=1.4, alpha=0.6)
        if len(all_series) == 1:
            _write_figures(axes, line, users)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.14)  # room for figures, and above them for the slots' label
    style.plain(axes.yaxis)
    levels = [level for series in all_series for level in series.levels]
    style.concurrency_axis(axes, users, offered_load.axis(levels))
    slots = believed_slots(analysis)
    if any(map(offered_load.is_open, levels)):
        return
    if slots.limit and slots.estimate is not None and min(users) <= slots.estimate < max(users):
        style.slots_line(axes, slots.estimate, slots.estimate)


def _write_figures(axes: Axes, line: Sequence[Point], users: Sequence[float]) -> None:
    away = 1 if line[-1].value < line[0].value else -1  # a figure stands on the side that the line does not take
    written = style.apart_on_log([point.load for point in line], users, APART)
    for point in line:
        if point.load in written:
            axes.annotate(
                number(point.value),
                (point.load, point.value),
                xytext=(5 * away, 5),
                textcoords="offset points",
                ha="left" if away > 0 else "right",
                fontsize=8.5,
            )


def title(analysis: Analysis) -> str:
    """Say from where on more load brings nothing."""
    return telling(analysis, saturation) or "Tokens a second of one stream and of all together"
