"""Percentiles of a duration against load, on a logarithmic axis."""

from __future__ import annotations

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.void_levels import crosses
from loadtest.analyse.findings.run_findings import heaviest
from loadtest.analyse.run.levels import Series, axis_of, believed, name_among
from loadtest.analyse.summary import Analysis
from loadtest.text import listed

PERCENTILES = (  # (percentile, colour, marker, its size, width of the line): a line that another one covers shows beside it
    ("p50", style.SKY, "o", 9.0, 5.0),
    ("p90", style.BLUE, "s", 7.0, 3.4),
    ("p95", style.ORANGE, "D", 5.0, 2.0),
    ("p99", style.VERMILLION, "^", 3.5, 1.0),
)


def ttft(axes: Axes, analysis: Analysis, series: Series) -> None:
    _draw(axes, analysis, series, "ttft_s", "TTFT")


def e2e(axes: Axes, analysis: Analysis, series: Series) -> None:
    _draw(axes, analysis, series, "e2e_s", "E2E (whole answer)")


def _draw(axes: Axes, analysis: Analysis, series: Series, name: str, called: str) -> None:
    levels = [level for level in series.levels if level.figure(name, "p50") is not None and level.amount]
    if not levels:
        style.empty(axes, f"No level has enough requests for a median of {called.partition(' ')[0]}.")
        return
    for part, colour, marker, size, width in PERCENTILES:
        if good := list(style.points(believed(levels), name, part)):
            axes.plot(
                *zip(*good, strict=True), color=colour, marker=marker, markersize=size, linewidth=width, label=part
            )
    void = [
        point
        for part, *_ in PERCENTILES
        for point in style.points((level for level in levels if level.is_void), name, part)
    ]
    crosses(axes, void)  # at last, as its name is the legend's last
    # Panels of one page share their axis: it holds the levels of all.
    every = [level.figure(name, part) for level in analysis.levels for part, *_ in PERCENTILES]
    low, high = (end(value for value in every if value) for end in (min, max))
    room = 1.8 if high < 10 * low else 1.15
    axes.set(ylabel=f"{called}, logarithmic", ylim=(low / room, high * room))
    style.logarithmic_y(axes)
    style.load_axis(axes, {level.amount for level in levels}, axis_of(levels))


def title(analysis: Analysis) -> str:
    """Say how far the tail is from the median at the highest load."""
    levels = analysis.levels
    last = heaviest(levels, "ttft_s", "p95")
    if last is None:
        return "Percentiles of TTFT and of the whole answer against load"
    name = name_among(last, levels)
    told = [part for part in ("p50", "p95", "p99") if last.figure("ttft_s", part) is not None]
    said = [last.wait_in_words("ttft_s", part) for part in told]
    if len(set(said)) == 1:
        return f"{name}: {listed(told)} of TTFT are {'both' if len(told) == 2 else 'all'} {said[0]}"
    tail = listed([f"{part} {value}" for part, value in zip(told[1:], said[1:], strict=True)])
    return f"{name}: the median TTFT is {said[0]}, {tail}"
