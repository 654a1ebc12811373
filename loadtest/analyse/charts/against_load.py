"""Figures by load, a line a series: rates, percentiles of waits, and what a user gives up for the output of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.lettering import apart
from loadtest.analyse.charts.point_names import PointNames
from loadtest.analyse.charts.style import crosses, edge_of
from loadtest.analyse.findings.run_findings import as_title, heaviest, range_of_e2e, saturation
from loadtest.analyse.findings.waiting_findings import void_above
from loadtest.analyse.run import (
    LevelData,
    Series,
    axis_of,
    believed,
    has_tokens,
    name_among,
    series_with,
    with_most,
)
from loadtest.analyse.summary import Analysis
from loadtest.metrics import PERCENTILES, needed
from loadtest.text import counted, listed, number

FIGURES_APART = 0.12  # of an axis' width: figures beside points are no nearer
DRAWN_PERCENTILES = (  # (percentile, colour, marker, its size, width of the line): a line that another one covers shows beside it
    ("p50", style.SKY, "o", 9.0, 5.0),
    ("p90", style.BLUE, "s", 7.0, 3.4),
    ("p95", style.ORANGE, "D", 5.0, 2.0),
    ("p99", style.VERMILLION, "^", 3.5, 1.0),
)


# -- rates ------------------------------------------------------------------------------------------------------------


def _draw_figure(
    axes: Axes,
    analysis: Analysis,
    all_series: Sequence[Series],
    *,
    name: str,
    part: str = "mean",
    factor: float = 1.0,
    title: str,
    unit: str,
) -> None:
    """Draw a figure times a factor with its 95 % interval; void levels are crosses beside the line, without their figures."""
    axes.set(title=title, ylabel=unit)
    levels = [level for series in all_series for level in series.levels]
    users = sorted({load for load, _ in _points(levels, name, part, factor)})
    if not users:
        style.empty(axes, "No request ended well, so there is no speed to show.")
        return
    quoted = [value for _, value in _points(believed(levels), name, part, factor)]
    for i, series in enumerate(all_series):
        crosses(axes, _points(series.void, name, part, factor), edge_of(quoted))
        line = _points(series.believed, name, part, factor)
        if not line:
            continue
        look = style.line_look(i)
        axes.plot(*zip(*style.broken_at(series.gaps, line), strict=True), **look, label=_label(series, all_series))
        for level in series.believed:
            if level.amount and (bounds := level.interval(name, part)):
                low, high = (end * factor for end in bounds)
                axes.vlines(level.amount, low, high, color=look["color"], linewidth=1.4, alpha=0.6)
        if len(all_series) == 1:
            _write_figures(axes, line, users)
    highest = max(quoted, default=axes.get_ylim()[1])
    style.from_zero(axes, highest, 1.14)  # room for figures, and above them for the slots' label
    style.plain(axes.yaxis)
    style.load_axis(axes, users, axis_of(levels))
    slots = analysis.believed_slots.number
    if slots is not None and min(users) <= slots < max(users) and all(level.fills_slots for level in levels):
        style.slots_line(axes, slots, slots)


def _points(levels: Iterable[LevelData], name: str, part: str, factor: float) -> list[tuple[float, float]]:
    known = [(level.amount, level.figure(name, part)) for level in levels]
    return [(load, value * factor) for load, value in known if load and value is not None]


def _label(series: Series, all_series: Sequence[Series]) -> str | None:
    return (series.label or "no lengths set") if len(all_series) > 1 else None


def _write_figures(axes: Axes, line: Sequence[tuple[float, float]], users: Sequence[float]) -> None:
    away = 1 if line[-1][1] < line[0][1] else -1  # a figure stands on the side that the line does not take
    written = apart([load for load, _ in line], style.share_as_factor(users, FIGURES_APART))
    for load, value in line:
        if load in written:
            axes.annotate(
                number(value),
                (load, value),
                xytext=(5 * away, 5),
                textcoords="offset points",
                ha="left" if away > 0 else "right",
                fontsize=8.5,
                path_effects=style.HALO,
            )


a_stream = partial(
    _draw_figure,
    name="stream_tokens_per_s",
    part="p50",
    title="a stream: what one user sees (median 1 / TPOT)",
    unit="tokens/s a stream",
)
e2e = partial(_draw_figure, name="e2e_s", part="p50", factor=1e3, title="a request: median E2E", unit="E2E (ms)")
input_rate = partial(_draw_figure, name="input_tokens_per_s", title="in all: input tokens", unit="input tokens/s")


def all_streams(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the output of all streams together, and say over which part of the levels."""
    windows = {
        level["window"]["throughput_over"] for series in all_series for level in series.levels if level["window"]
    }
    title = f"in all: output throughput ({' or '.join(sorted(windows)) or 'nothing'})"
    unit = "output tokens/s, all streams"
    _draw_figure(axes, analysis, all_series, name="output_tokens_per_s", title=title, unit=unit)


def rates_title(analysis: Analysis) -> str:
    """Say from where on more load brings nothing; of answers without text how E2E and the rate of input tokens change."""
    if not has_tokens(*analysis.levels):
        return as_title(analysis, range_of_e2e) or "E2E and input tokens a second"
    return as_title(analysis, saturation) or "Tokens a second of one stream and of all together"


# -- percentiles ------------------------------------------------------------------------------------------------------


def _draw_percentiles(axes: Axes, analysis: Analysis, series: Series, *, name: str, called: str) -> None:
    levels = [level for level in series.levels if level.figure(name, "p50") and level.amount]  # log(0) is nowhere
    if not levels:
        known = any(level.figure(name, "p50") is not None for level in series.levels)
        what = called.partition(" ")[0]
        why = f"has a median of {what} above 0" if known else f"has enough requests for a median of {what}"
        style.empty(axes, f"No level {why}.")
        return
    for part, colour, marker, size, width in DRAWN_PERCENTILES:
        if good := list(style.points(believed(levels), name, part)):
            line = style.broken_at(series.gaps, good)
            axes.plot(
                *zip(*line, strict=True), color=colour, marker=marker, markersize=size, linewidth=width, label=part
            )
    void = [
        point
        for part, *_ in DRAWN_PERCENTILES
        for point in style.points((level for level in levels if level.is_void), name, part)
    ]
    style.bounds_by_load(axes, believed(levels), name, *(part for part, *_ in DRAWN_PERCENTILES))
    crosses(axes, void)  # at last, as its name is the legend's last
    # Panels of one page share their axis: it holds the levels of all.
    every = [level.figure(name, part) for level in analysis.levels for part, *_ in DRAWN_PERCENTILES]
    low, high = (end(value for value in every if value) for end in (min, max))
    axes.set_ylabel(f"{called}, logarithmic")
    style.logarithmic_y(axes, (low / 1.1, high * 1.1))
    style.load_axis(axes, {level.amount for level in levels}, axis_of(levels))


ttft_percentiles = partial(_draw_percentiles, name="ttft_s", called="TTFT")
e2e_percentiles = partial(_draw_percentiles, name="e2e_s", called="E2E (whole answer)")


def percentiles_title(analysis: Analysis) -> str:
    """Say how far the tail is from the median at the highest load."""
    levels = analysis.levels
    last = heaviest(levels, "ttft_s", "p95")
    if last is None:
        return "Percentiles of TTFT and of the whole answer against load"
    name = name_among(last, levels)
    told = [part for part in ("p50", "p95", "p99") if last.figure("ttft_s", part) is not None]
    said = listed([f"{part} {last.wait_in_words('ttft_s', part)}" for part in told])
    return f"{name}: TTFT {said}"


# -- the trade-off ----------------------------------------------------------------------------------------------------


def wait_by_output(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> PointNames:
    """Draw TTFT p95 over the output of all streams."""
    factor, unit = style.scale(max((level.figure("ttft_s", "p95") or 0.0 for level in analysis.levels), default=0.0))
    look = {"title": "how long users wait: lower right is better", "ylabel": f"TTFT p95 ({unit})"}
    return _draw_by_output(axes, all_series, "ttft_s", "p95", factor, side=-1, look=look)


def speed_by_output(axes: Axes, _: Analysis, all_series: Sequence[Series]) -> PointNames:
    """Draw the median decode speed of one user over the output of all streams."""
    look = {"title": "how fast they read: upper right is better", "ylabel": "tokens/s a stream (median)"}
    return _draw_by_output(axes, all_series, "stream_tokens_per_s", "p50", 1.0, side=1, look=look)


def _draw_by_output(
    axes: Axes,
    all_series: Sequence[Series],
    name: str,
    part: str,
    factor: float,
    *,
    side: int,
    look: dict[str, Any],
) -> PointNames:
    """Draw a figure over the output of all streams; return the loads, to be written beside the points."""
    names = PointNames(axes, side)
    every = [
        [(level, point) for level in series.levels if (point := _by_output(level, name, part, factor))]
        for series in all_series
    ]
    edge = edge_of(y for known in every for level, (_, y) in known if not level.is_void)
    for i, (series, known) in enumerate(zip(all_series, every, strict=True)):
        if not known:
            continue
        line = style.line_look(i)
        if good := style.broken_between(series.gaps, [(at.amount, point) for at, point in known if not at.is_void]):
            axes.plot(*zip(*good, strict=True), label=_label(series, all_series), **line)
        crosses(axes, [point for level, point in known if level.is_void], edge)
        style.bounds(axes, [point for level, point in known if level.is_bound(name, part) and not level.is_void])
        loads = [f"{level.amount:.4g}" for level, _ in known]
        names.add([(x, min(y, edge)) for _, (x, y) in known], loads, line["color"])
    if not names.points:
        style.empty(
            axes, f"No level has {'enough requests for a TTFT p95' if part == 'p95' else 'a decode speed'} and a rate."
        )
        return names
    axes.set(xlim=(0, axes.get_xlim()[1] * 1.06), ylim=(0, axes.get_ylim()[1] * 1.1))
    style.plain(axes.xaxis)
    style.plain(axes.yaxis)
    axes.grid(visible=True, axis="x")
    axes.set(xlabel="output tokens/s, all streams", **look)
    return names


def _by_output(level: LevelData, name: str, part: str, factor: float = 1.0) -> tuple[float, float] | None:
    rate, value = level.figure("output_tokens_per_s"), level.figure(name, part)
    return None if rate is None or value is None else (float(rate), value * factor)


def without_p95(levels: Sequence[LevelData]) -> str:
    """Say how many levels the left panel of the trade-off lacks that the right one has; nothing where it lacks none, or all."""
    right = [level for level in levels if _by_output(level, "stream_tokens_per_s", "p50")]
    fewer = [level for level in right if not _by_output(level, "ttft_s", "p95")]
    if not fewer or len(fewer) == len(right):
        return ""
    has = "has" if len(fewer) == 1 else "have"
    return f"{len(fewer)} of {counted(len(right), 'level')} {has} no TTFT p95, which needs {needed(PERCENTILES['p95'])} requests"


def tradeoff_title(analysis: Analysis) -> str:
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
