"""TTFT, prefill speed and memory against input length: what a longer prompt costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from loadtest.analyse.charts import style
from loadtest.analyse.charts.by_load.point_names import PointNames
from loadtest.analyse.server import prompt_length
from loadtest.analyse.server.prompt_length import PromptLengthPoint, PromptLengthSeries
from loadtest.analyse.summary import Analysis
from loadtest.text import number, seconds

MOST_DOTS = 30  # requests of a length that are drawn one by one
TICKS_APART = 1.5  # of two lengths that both get a tick

Value = Callable[[PromptLengthPoint], float | None]


def draw(path: Path, analysis: Analysis) -> Path | None:
    """Draw prompt_length.png; None, and nothing written, where levels do not differ in input length alone."""
    found = prompt_length.prompt_length_series(analysis.run, analysis.levels)[: len(style.LINES)]
    if not any(point.ttft_s is not None for line in found for point in line.points):
        return None
    held = any(point.memory is not None for line in found for point in line.points)
    panels = 3 if held else 2
    figure, axes = style.page(panels, columns=panels, share_y=False)
    names = ttft_panel(axes[0], analysis, found)
    prefill_panel(axes[1], analysis, found)
    if held:
        memory_panel(axes[2], found)
    for panel in axes:
        if panel.axison:
            _tokens_axis(panel, found)
    shared = found[0].label if len(found) == 1 else "a line for each number of streams"
    said = f"{shared}; dots: single requests, lines: medians"
    return style.save(figure, path, analysis, title(found), said, at_last=[names.write])


def title(found: Sequence[PromptLengthSeries]) -> str:
    """Return the most telling sentence about the first line."""
    said = prompt_length.prompt_length_sentences(found[0])
    return said[0].rstrip(".") if said else "What a longer prompt costs"


def ttft_panel(axes: Axes, analysis: Analysis, found: Sequence[PromptLengthSeries]) -> PointNames:
    """Draw TTFT p50 (and p95 where it is known) against prompt tokens, both logarithmic, with single requests as dots.

    Return the medians of a single line, to be written beside its points.
    """
    _dots(axes, analysis, found, "ttft_s")
    _draw_lines(axes, found, lambda point: point.ttft_s, named=True)
    p95 = [(p.tokens, p.ttft_p95_s) for line in found for p in line.points if p.ttft_p95_s is not None]
    if p95:
        axes.plot(*zip(*p95, strict=True), "^", color=style.INK, markersize=6, label="p95 (from 20 requests on)")
    low, high = style.logarithmic_y(axes)
    axes.set_ylim(low / 1.1, high * 1.3)
    axes.set_title("TTFT")
    names = PointNames(axes, -1)
    if len(found) == 1:
        at = [(point.tokens, point.ttft_s) for point in found[0].points if point.ttft_s is not None]
        names.add(at, [seconds(value) for _, value in at], style.LINES[0])
    return names


def prefill_panel(axes: Axes, analysis: Analysis, found: Sequence[PromptLengthSeries]) -> None:
    """Draw prompt tokens read a second against prompt tokens."""
    if not any(point.prefill_per_s is not None for line in found for point in line.points):
        style.empty(axes, "No prompt had the server to itself, so its speed is not known: measure one stream.")
        return
    _dots(axes, analysis, found, "prefill_tokens_per_s")
    _draw_lines(axes, found, lambda point: point.prefill_per_s)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    axes.yaxis.set_major_formatter(lambda value, _: number(value, exact=True))
    axes.set_title("prefill, prompt tokens/s")


def memory_panel(axes: Axes, found: Sequence[PromptLengthSeries]) -> None:
    """Draw the most memory in use while each length ran, GB."""
    _draw_lines(axes, found, lambda point: None if point.memory is None else point.memory / 1e9)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)
    name = next(line.memory_of for line in found if line.memory_of)
    axes.set_title(f"{name}, GB")


def _dots(axes: Axes, analysis: Analysis, found: Sequence[PromptLengthSeries], column: str) -> None:
    run = analysis.run
    tokens, values = run.column("prompt_tokens"), run.column(column)
    for line, colour in zip(found, style.LINES, strict=False):
        for point in line.points:
            rows = run.good(point.level) & np.isfinite(tokens) & np.isfinite(values)
            if 1 < rows.sum() <= MOST_DOTS:
                axes.plot(tokens[rows], values[rows], ".", color=colour, alpha=0.45, markersize=7, markeredgewidth=0)


def _draw_lines(axes: Axes, found: Sequence[PromptLengthSeries], value: Value, *, named: bool = False) -> None:
    for i, line in enumerate(found):
        points = [(point.tokens, y) for point in line.points if (y := value(point)) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=style.LINES[i],
                marker=style.MARKERS[i % len(style.MARKERS)],
                label=line.label if named and len(found) > 1 else None,
            )


def _tokens_axis(axes: Axes, found: Sequence[PromptLengthSeries]) -> None:
    """Make x logarithmic with a tick at measured lengths, where there is room for it; the longest always has one."""
    at = {point.tokens for line in found for point in line.points}
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(style.apart(sorted(at, reverse=True), TICKS_APART)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: prompt_length.length(value))
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_xlim(min(at) / 1.8, max(at) * 1.5)
    axes.set_xlabel("prompt tokens (logarithmic)")
