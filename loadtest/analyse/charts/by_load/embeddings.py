"""Answers without text, which come in one piece: E2E and rates against load."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from loadtest.analyse.charts.by_load import throughput
from loadtest.analyse.findings.run_findings import as_title, range_of_e2e
from loadtest.analyse.run.series import Series
from loadtest.analyse.summary import Analysis


def e2e(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median E2E with its 95 % interval, in milliseconds."""
    throughput.draw_series(axes, analysis, all_series, "e2e_s", "p50", factor=1e3)
    axes.set_title("a request: median E2E")
    axes.set_ylabel("E2E (ms)")


def input_rate(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw how many input tokens a second the server takes, with the 95 % interval."""
    throughput.draw_series(axes, analysis, all_series, "input_tokens_per_s")
    axes.set_title("in all: input tokens")
    axes.set_ylabel("input tokens/s")


def title(analysis: Analysis) -> str:
    """Say how E2E and the rate change with the load."""
    return as_title(analysis, range_of_e2e) or "E2E and input tokens a second"
