"""Tokens a second against concurrency or rate, of one stream and of all together; of answers without text E2E and input tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.void_levels import crosses, edge_of
from loadtest.analyse.findings.run_findings import as_title, range_of_e2e, saturation
from loadtest.analyse.findings.slot_findings import slot_limit
from loadtest.analyse.run.levels import LevelData, Series, axis_of
from loadtest.analyse.summary import Analysis
from loadtest.text import number

FIGURES_APART = 0.12  # of an axis' width: figures beside points are no nearer


@dataclass(frozen=True, slots=True)
class Point:
    """A figure of one level."""

    load: float
    value: float
    ci95: tuple[float, float] | None
    void: bool


def a_stream(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median decode speed that one user sees, with its 95 % interval."""
    _draw_series(axes, analysis, all_series, "stream_tokens_per_s", "p50")
    axes.set_title("a stream: what one user sees (median 1 / TPOT)")
    axes.set_ylabel("tokens/s a stream")


def all_streams(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the output of all streams together, with its 95 % interval."""
    _draw_series(axes, analysis, all_series, "output_tokens_per_s")
    windows = {
        level["window"]["throughput_over"] for series in all_series for level in series.levels if level["window"]
    }
    axes.set_title(f"in all: output throughput ({' or '.join(sorted(windows)) or 'nothing'})")
    axes.set_ylabel("output tokens/s, all streams")


def e2e(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median E2E with its 95 % interval, in milliseconds."""
    _draw_series(axes, analysis, all_series, "e2e_s", "p50", factor=1e3)
    axes.set_title("a request: median E2E")
    axes.set_ylabel("E2E (ms)")


def input_rate(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw how many input tokens a second the server takes, with the 95 % interval."""
    _draw_series(axes, analysis, all_series, "input_tokens_per_s")
    axes.set_title("in all: input tokens")
    axes.set_ylabel("input tokens/s")


def _draw_series(
    axes: Axes, analysis: Analysis, all_series: Sequence[Series], name: str, part: str = "mean", factor: float = 1.0
) -> None:
    """Draw a figure times a factor, a line a series through its levels; void ones are crosses beside it, without their figures."""
    points = [
        [point for level in series.levels if (point := _point(level, name, part, factor))] for series in all_series
    ]
    users = sorted({point.load for line in points for point in line})
    if not users:
        style.empty(axes, "No request ended well, so there is no speed to show.")
        return
    edge = edge_of(point.value for line in points for point in line if not point.void)
    for i, (series, every) in enumerate(zip(all_series, points, strict=True)):
        crosses(axes, [(point.load, point.value) for point in every if point.void], edge)
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
                axes.vlines(point.load, *point.ci95, color=look["color"], linewidth=1.4, alpha=0.6)
        if len(all_series) == 1:
            _write_figures(axes, line, users)
    good = (point.value for line in points for point in line if not point.void)
    highest = max(good, default=axes.get_ylim()[1])
    style.from_zero(axes, highest, 1.14)  # room for figures, and above them for the slots' label
    style.plain(axes.yaxis)
    levels = [level for series in all_series for level in series.levels]
    style.load_axis(axes, users, axis_of(levels))
    slots = slot_limit(analysis)
    if slots is not None and min(users) <= slots < max(users) and not any(level.is_open for level in levels):
        style.slots_line(axes, slots, slots)


def _point(level: LevelData, name: str, part: str, factor: float) -> Point | None:
    """Return a figure of a level at its load; None where one of them is unknown."""
    load, value, ci95 = level.amount, level.figure(name, part), level.interval(name, part)
    if value is None or not load:
        return None
    return Point(load, value * factor, ci95 and (ci95[0] * factor, ci95[1] * factor), level.is_void)


def _write_figures(axes: Axes, line: Sequence[Point], users: Sequence[float]) -> None:
    away = 1 if line[-1].value < line[0].value else -1  # a figure stands on the side that the line does not take
    written = style.apart([point.load for point in line], style.share_as_factor(users, FIGURES_APART))
    for point in line:
        if point.load in written:
            axes.annotate(
                number(point.value),
                (point.load, point.value),
                xytext=(5 * away, 5),
                textcoords="offset points",
                ha="left" if away > 0 else "right",
                fontsize=8.5,
                path_effects=style.HALO,
            )


def title(analysis: Analysis) -> str:
    """Say from where on more load brings nothing."""
    return as_title(analysis, saturation) or "Tokens a second of one stream and of all together"


def title_without_tokens(analysis: Analysis) -> str:
    """Say how E2E and the rate of input tokens change with the load."""
    return as_title(analysis, range_of_e2e) or "E2E and input tokens a second"
