"""The distribution of what a level's requests waited for: TTFT and E2E, a line a level, and the gaps between tokens with their tail."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from loadtest.analyse.charts import style
from loadtest.analyse.figures import stats
from loadtest.analyse.figures.intervals import Ordered
from loadtest.analyse.findings.run_findings import heaviest
from loadtest.analyse.run import LevelData, Series, evenly, finite, name_among
from loadtest.analyse.summary import Analysis
from loadtest.text import number, percent, seconds, some_of

FEW = 200  # requests of a level, up to which each shows as a point


def ttft(axes: Axes, analysis: Analysis, series: Series) -> None:
    _draw(axes, analysis, series, "ttft_s", "TTFT")
    if axes.axison:
        for mark in (0.5, 0.95):
            axes.axhline(mark, color=style.GREY, linewidth=0.8, linestyle=":")


def _draw(axes: Axes, analysis: Analysis, series: Series, column: str, called: str) -> None:
    run, colours = analysis.run, style.shades(analysis)
    for level in style.drawn_levels(series.levels):
        values = np.sort(finite(run.column(column)[run.good(level["index"])]))
        if not len(values):
            continue
        # Users who left before the first token would have waited longer than all of these.
        left = int((run.left(level["index"]) & np.isnan(run.column("first_token"))).sum())
        axes.plot(
            values,
            np.arange(1, len(values) + 1) / (len(values) + left),
            drawstyle="steps-post",
            color=colours[level.load],
            linestyle=style.dashes(level),
            marker="o" if len(values) <= FEW else "",
            markersize=3.5,
            linewidth=1.6,
            label=f"{style.or_void(level.load, level)} (n = {len(values)}{f', {left} left' if left else ''})",
        )
    if not axes.lines:
        style.empty(axes, f"No request ended well, so there is no {called} to show.")
        return
    style.share_over_log(axes)
    axes.set(xlabel=f"{called}, logarithmic", ylabel="share of requests at or below")


e2e = partial(_draw, column="e2e_s", called="E2E")


def _title(analysis: Analysis, column: str, what: str) -> str:
    """Say how long users wait at the highest load: the median, and the longest wait."""
    levels = analysis.levels
    last = heaviest(levels, column)
    if last is None:
        return f"Time to the {what}"
    name = name_among(last, levels)
    known = finite(analysis.run.column(column)[analysis.run.good(last["index"])])
    left = int((last.get("left") or {}).get("waiting", 0))
    gone = f"; in {some_of(left, len(known) + left, 'request')} users hung up before it" if left else ""
    if not len(known):
        return f"{name}: all users hung up before their first token"
    said = gone or f", the longest {seconds(float(known.max()))}"
    return f"{name}: the median time to the {what} is {last.wait_in_words(column, 'p50')}{said}"


ttft_title = partial(_title, column="ttft_s", what="first token")
e2e_title = partial(_title, column="e2e_s", what="whole answer")


MOST_POINTS = 2000  # of a curve: more would only be drawn over each other
FEWEST_GAPS = 20  # of a level whose tail is drawn
SHORTEST_S = 0.0001  # gaps below are of tokens that came in one read


def itl(axes: Axes, analysis: Analysis, series: Series) -> None:
    every = list(_gaps_of_levels(analysis, series, fewest=1))
    shortest = _shortest(every)
    for level, gaps, look in every:
        at = evenly(len(gaps), MOST_POINTS)
        x = [max(gaps[rank], shortest) for rank in at]
        axes.plot(x, (at + 1) / len(gaps), label=style.or_void(level.load, level), **look)
    if not every:
        style.empty(axes, "No answer had two chunks, so there are no gaps to show.")
        return
    style.share_over_log(axes)
    axes.set(xlabel=_axis([gaps for _, gaps, _ in every], shortest), ylabel="share of gaps at or below")


def itl_tail(axes: Axes, analysis: Analysis, series: Series) -> None:
    """Draw what share of the gaps is longer, on two logarithmic axes, a line a level: the tail that a median hides."""
    every = list(_gaps_of_levels(analysis, series, fewest=FEWEST_GAPS))
    shortest = _shortest(every)
    for level, gaps, look in every:
        # Even steps of the logarithm: the last ranks are the ones that matter.
        beyond = np.unique(np.geomspace(1, len(gaps), min(MOST_POINTS, len(gaps))).astype(np.int64))[::-1]
        x = [max(gaps[len(gaps) - count], shortest) for count in beyond]
        axes.plot(x, beyond / len(gaps), drawstyle="steps-pre", label=style.or_void(level.load, level), **look)
    if not every:
        style.empty(axes, f"No level has {FEWEST_GAPS} gaps between tokens.")
        return
    style.logarithmic_x(axes)
    most = max(level.figure("itl_s", "n") or 0 for level in analysis.levels)  # of all panels
    axes.set(yscale="log", ylim=(10.0 ** math.floor(math.log10(1.1 / most)), 1.3))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(lambda value, _: percent(value))
    axes.set(xlabel=_axis([gaps for _, gaps, _ in every], shortest), ylabel="share of gaps this long or longer")


def _gaps_of_levels(
    analysis: Analysis, series: Series, *, fewest: int
) -> Iterator[tuple[LevelData, Ordered, dict[str, Any]]]:
    """Yield the levels that are drawn, each with its gaps in ascending order and the look of its line."""
    colours = style.shades(analysis)
    for level, width in style.nested(style.drawn_levels(series.levels)):
        gaps = stats.ranked(analysis.run.itl, analysis.run.good(level["index"]))
        if len(gaps) >= fewest:
            yield level, gaps, {"color": colours[level.load], "linewidth": width, "linestyle": style.dashes(level)}


def _shortest(every: Sequence[tuple[LevelData, Ordered, dict[str, Any]]]) -> float:
    """Return where gaps too short for the axis are drawn: clear of the usual gaps, and no further away."""
    usual = [middle for _, gaps, _ in every if (middle := float(gaps[len(gaps) // 2])) > 0]
    return min((10.0 ** math.floor(math.log10(middle / 10)) for middle in usual), default=SHORTEST_S)


def _axis(every: list[Ordered], shortest: float) -> str:
    if not any(gaps[0] < shortest for gaps in every):
        return "ITL, logarithmic"
    return f"ITL, logarithmic\nshorter gaps are drawn at {seconds(shortest, exact=True)}"


def itl_tail_title(analysis: Analysis) -> str:
    """Say how many of the gaps are long at the highest load, and how long the longest is."""
    found = _gaps_at_most_load(analysis)
    if found is None:
        return "The longest gaps between tokens"
    where, gaps, usual = found
    n, longest = len(gaps), f"the longest is {seconds(float(gaps[len(gaps) - 1]))}"
    long = n - bisect_right(gaps, 2 * usual)
    if not long or usual < SHORTEST_S:
        return f"{where}: of {number(n, exact=True)} gaps between tokens {longest}, the median {seconds(usual)}"
    return (
        f"{where}: {percent(long / n)} of the gaps are longer than {seconds(2 * usual)} (twice the median), {longest}"
    )


def itl_title(analysis: Analysis) -> str:
    """Say how long the usual gap is at the highest load."""
    found = _gaps_at_most_load(analysis)
    if found is None:
        return "Gaps between tokens"
    where, _, usual = found
    return f"{where}: the median gap between tokens is {seconds(usual)}"


def _gaps_at_most_load(analysis: Analysis) -> tuple[str, Ordered, float] | None:
    """Return the name of the level of the highest load, its gaps in ascending order and their median, s."""
    level = heaviest(analysis.levels, "itl_s", "p50")
    if level is None:
        return None
    gaps = stats.ranked(analysis.run.itl, analysis.run.good(level["index"]))
    return name_among(level, analysis.levels), gaps, level.figure("itl_s", "p50") or 0.0
