"""The cumulative distribution of a duration of requests, a line a level, every request a point of it."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.void_levels import level_name
from loadtest.analyse.findings.run_findings import heaviest
from loadtest.analyse.run.levels import Series, name_among
from loadtest.analyse.summary import Analysis
from loadtest.text import seconds

FEW = 200  # requests of a level, up to which each shows as a point


def ttft(axes: Axes, analysis: Analysis, series: Series) -> None:
    """Draw the distribution of TTFT, and lines at its median and p95."""
    _draw(axes, analysis, series, "ttft_s", "TTFT")
    if axes.axison:
        for mark in (0.5, 0.95):
            axes.axhline(mark, color=style.GREY, linewidth=0.8, linestyle=":")


def e2e(axes: Axes, analysis: Analysis, series: Series) -> None:
    """Draw the distribution of the time to the whole answer."""
    _draw(axes, analysis, series, "e2e_s", "E2E")


def _draw(axes: Axes, analysis: Analysis, series: Series, column: str, called: str) -> None:
    run, colours = analysis.run, style.shades(analysis)
    for level in style.drawn_levels(series.levels):
        values = np.sort(run.column(column)[run.good(level["index"])])
        values = values[np.isfinite(values)]
        if not len(values):
            continue
        # Users who left before the first token would have waited longer than all of these.
        left = int((run.left(level["index"]) & np.isnan(run.column("first_token"))).sum())
        axes.plot(
            values,
            np.arange(1, len(values) + 1) / (len(values) + left),
            drawstyle="steps-post",
            color=colours[level.load],
            marker="o" if len(values) <= FEW else "",
            markersize=3.5,
            linewidth=1.6,
            label=f"{level_name(level)} (n = {len(values)}{f', {left} left' if left else ''})",
        )
    if not axes.lines:
        style.empty(axes, f"No request ended well, so there is no {called} to show.")
        return
    style.share_over_log(axes)
    axes.set_xlabel(f"{called}, logarithmic")
    axes.set_ylabel("share of requests at or below")


def title(analysis: Analysis) -> str:
    """Say how far apart the best and the worst first tokens are, and where half of them lie."""
    levels = analysis.levels
    last = heaviest(levels, "ttft_s")
    if last is None:
        return "Time to first token"
    name = name_among(last, levels)
    half, end = (last.wait_in_words("ttft_s", part) for part in ("p50", "max"))
    values = analysis.run.column("ttft_s")[analysis.run.good(last["index"])]
    if not np.isfinite(values).any():  # all users hung up
        return f"{name}: all users hung up before their first token"
    first = seconds(float(np.nanmin(values)))
    if first == end:
        return f"{name}: every first token comes after {end}"
    where = f"half of them or more after {half}" if half == end else f"half of them within {half}"
    return f"{name}: first tokens come after {first} to {end}, {where}"
