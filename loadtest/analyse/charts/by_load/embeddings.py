"""Answers without text, which come in one piece: E2E and rates against load, and E2E's distribution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.by_load import throughput
from loadtest.analyse.charts.void_levels import level_name
from loadtest.analyse.findings.run_findings import range_of_e2e, telling
from loadtest.analyse.run import offered_load
from loadtest.analyse.run.series import Series
from loadtest.analyse.summary import Analysis, figure


def e2e(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median E2E with its 95 % interval, in milliseconds."""
    points: list[list[throughput.Point]] = [
        [
            throughput.Point.of(level, value * 1e3, interval and [bound * 1e3 for bound in interval])
            for level in series.levels
            if (value := figure(level, "e2e_s", "p50")) is not None and offered_load.amount(level)
            for interval in (level["e2e_s"]["ci95_p50"],)
        ]
        for series in all_series
    ]
    throughput.draw_series(axes, analysis, all_series, points)
    axes.set_title("a request: median E2E")
    axes.set_ylabel("E2E (ms)")


def input_rate(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw how many input tokens a second the server takes, with the 95 % interval."""
    points: list[list[throughput.Point]] = [
        [
            throughput.Point.of(level, level["input_tokens_per_s"], level["input_tokens_per_s_ci95"])
            for level in series.levels
            if level["input_tokens_per_s"] is not None and offered_load.amount(level)
        ]
        for series in all_series
    ]
    throughput.draw_series(axes, analysis, all_series, points)
    axes.set_title("in all: input tokens")
    axes.set_ylabel("input tokens/s")


def distribution(axes: Axes, analysis: Analysis, series: Series) -> None:
    """Draw the cumulative distribution of E2E, a line a level, every request a point of it."""
    colours = style.shades(analysis)
    drawn = False
    for level in series.levels:
        values = np.sort(analysis.run.column("e2e_s")[analysis.run.good(level["index"])])
        if not len(values):
            continue
        drawn = True
        colour = colours[offered_load.load_name(level)]
        style.request_shares(axes, values, colour=colour, name=level_name(level))
    if not drawn:
        style.empty(axes, "No request ended well, so there is no E2E to show.")
        return
    style.share_over_log(axes)
    axes.set_xlabel("E2E, logarithmic")
    axes.set_ylabel("share of requests at or below")


def title(analysis: Analysis) -> str:
    """Say how E2E and the rate change with the load."""
    return telling(analysis, range_of_e2e) or "E2E and input tokens a second"
