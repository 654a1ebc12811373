"""Gaps between consecutive tokens of a stream."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from loadtest.analyse.charts import style
from loadtest.analyse.figures import stats
from loadtest.analyse.findings import run_findings as findings
from loadtest.analyse.run import offered_load
from loadtest.analyse.run.series import Series
from loadtest.analyse.summary import Analysis, figure
from loadtest.text import percent, seconds

MOST_POINTS = 2000  # of a curve: more would only be drawn over each other
FEWEST_GAPS = 20  # of a level whose tail is drawn
SHORTEST_MS = 0.1  # gaps below (tokens that came in one read) are drawn here


def distribution(axes: Axes, analysis: Analysis, series: Series) -> None:
    """Draw the cumulative distribution of ITL, a line a level."""
    drawn = False
    colours = style.shades(analysis)
    for level in style.drawn_levels(series.levels):
        gaps = stats.ranked(analysis.run.itl, analysis.run.good(level["index"]))
        if not len(gaps):
            continue
        drawn = True
        at = np.unique(np.linspace(0, len(gaps) - 1, min(MOST_POINTS, len(gaps))).astype(np.int64))
        together = (bisect_right(gaps, 0.0) - bisect_left(gaps, 0.0)) / len(gaps)
        label = offered_load.load_name(level) + (f" ({percent(together)} in one read)" if together >= 0.001 else "")
        x, y = np.maximum(np.array([gaps[rank] for rank in at]) * 1e3, SHORTEST_MS), (at + 1) / len(gaps)
        axes.plot(x, y, color=colours[offered_load.load_name(level)], linewidth=1.8, label=label)
    if not drawn:
        style.empty(axes, "No answer had two chunks, so there are no gaps to show.")
        return
    style.share_over_log(axes)
    axes.set_xlabel("ITL (ms, logarithmic)")
    axes.set_ylabel("share of gaps at or below")


def tail(axes: Axes, analysis: Analysis, series: Series) -> None:
    """Draw what share of the gaps is longer, on two logarithmic axes, a line a level: the tail that a median hides."""
    most = 0  # gaps of one level
    colours = style.shades(analysis)
    for level in style.drawn_levels(series.levels):
        gaps = stats.ranked(analysis.run.itl, analysis.run.good(level["index"]))
        if len(gaps) < FEWEST_GAPS:
            continue
        most = max(most, len(gaps))
        # Even steps of the logarithm: the last ranks are the ones that matter.
        beyond = np.unique(np.geomspace(1, len(gaps), min(MOST_POINTS, len(gaps))).astype(np.int64))[::-1]
        x = np.maximum(np.array([gaps[len(gaps) - count] for count in beyond]) * 1e3, SHORTEST_MS)
        name = offered_load.load_name(level)
        axes.plot(x, beyond / len(gaps), drawstyle="steps-pre", color=colours[name], linewidth=1.8, label=name)
    if not most:
        style.empty(axes, f"No level has {FEWEST_GAPS} gaps between tokens.")
        return
    style.logarithmic_x(axes)
    axes.set_yscale("log")
    axes.set_ylim(1 / (1.5 * most), 1.3)
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: percent(value))
    axes.set_xlabel("ITL (ms, logarithmic)")
    axes.set_ylabel("share of gaps this long or longer")


def tail_title(analysis: Analysis) -> str:
    """Say how long the longest gaps are at the highest load."""
    last = findings.heaviest(analysis.summary["levels"], "itl_s", "p99")
    if last is None:
        return "The longest gaps between tokens"
    high, longest = figure(last, "itl_s", "p99"), figure(last, "itl_s", "max")
    return f"{last['label']}: one gap in a hundred is longer than {seconds(high)}, the longest is {seconds(longest)}"


def title(analysis: Analysis) -> str:
    """Say how much longer the longest gaps are than the usual ones."""
    last = findings.heaviest(analysis.summary["levels"], "itl_s")
    if last is None:
        return "Gaps between tokens"
    usual, high = figure(last, "itl_s", "p50"), figure(last, "itl_s", "p99")
    at = f"{last['label']}: the median gap between tokens is {seconds(usual)}"
    return f"{at}, one in a hundred is above {seconds(high)}" if high is not None else at
