"""What a longer prompt costs: TTFT, the speed of prefill and memory over the prompt's length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from loadtest.analyse.charts import sheet, style
from loadtest.analyse.charts.lettering import apart
from loadtest.analyse.charts.point_names import PointNames
from loadtest.analyse.server import prompt_length
from loadtest.analyse.server.prompt_length import TOKENS_OVER_TTFT, PromptLengthSeries
from loadtest.analyse.summary import Analysis
from loadtest.text import number, seconds

MOST_DOTS = 30  # requests of a length that are drawn one by one
TICKS_APART = 1.5  # of two lengths that both get a tick


def draw_lengths(path: Path, analysis: Analysis) -> Path | None:
    """Draw lengths.png; None, and nothing written, where levels do not differ in input length alone."""
    found = prompt_length.prompt_length_series(analysis.run, analysis.levels)[: len(style.LINES)]
    if not any(line.known("ttft_p50_s") for line in found):
        return None
    held = any(line.known("memory_bytes") for line in found)
    panels = 3 if held else 2
    figure, axes = sheet.new(panels, columns=panels, share_y=False)
    names = ttft_panel(axes[0], analysis, found)
    prefill_panel(axes[1], analysis, found)
    if held:
        memory_panel(axes[2], found)
    for panel in axes:
        if panel.axison:
            _tokens_axis(panel, found)
    title = next(iter(prompt_length.prompt_length_sentences(found[0])), "What a longer prompt costs").rstrip(".")
    shared = found[0].label if len(found) == 1 else "a line for each number of streams"
    said = f"{shared}; dots: single requests, lines: medians"
    return sheet.save(figure, path, analysis, title, said, at_last=[names.write])


def ttft_panel(axes: Axes, analysis: Analysis, found: Sequence[PromptLengthSeries]) -> PointNames:
    """Draw TTFT p50 (and p95 where it is known) against prompt tokens, both logarithmic, with single requests as dots.

    Return the medians of a single line, to be written beside its points.
    """
    _dots(axes, analysis, found, "ttft_s")
    _draw_lines(axes, found, "ttft_p50_s", named=True)
    p95 = [pair for line in found for pair in line.known("ttft_p95_s")]
    if p95:
        axes.plot(*zip(*p95, strict=True), "^", color=style.INK, markersize=6, label="p95 (from 20 requests on)")
    style.logarithmic_y(axes)
    axes.set(title="TTFT", ylim=(axes.get_ylim()[0] / 1.1, axes.get_ylim()[1] * 1.3))
    names = PointNames(axes, -1)
    if len(found) == 1:
        at = found[0].known("ttft_p50_s")
        names.add(at, [seconds(value) for _, value in at], style.LINES[0])
    return names


def prefill_panel(axes: Axes, analysis: Analysis, found: Sequence[PromptLengthSeries]) -> None:
    if not any(line.known("prefill_tokens_per_s") for line in found):
        style.empty(axes, "No prompt had the server to itself, so its speed is not known: measure one stream.")
        return
    _dots(axes, analysis, found, "prefill_tokens_per_s")
    _draw_lines(axes, found, "prefill_tokens_per_s")
    over_ttft = any(line.speed_of == TOKENS_OVER_TTFT for line in found)
    title = "prompt tokens / TTFT, tokens/s" if over_ttft else "prefill, prompt tokens/s"
    axes.set(title=title, ylim=(0, axes.get_ylim()[1] * 1.08))
    axes.yaxis.set_major_formatter(lambda value, _: number(value, exact=True))


def memory_panel(axes: Axes, found: Sequence[PromptLengthSeries]) -> None:
    """Draw the most memory in use while each length ran, GB."""
    _draw_lines(axes, found, "memory_bytes", 1e-9)
    name = next(line.memory_of for line in found if line.memory_of)
    axes.set(title=f"{name}, GB", ylim=(0, axes.get_ylim()[1] * 1.15))


def _dots(axes: Axes, analysis: Analysis, found: Sequence[PromptLengthSeries], column: str) -> None:
    run = analysis.run
    tokens, values = run.column("prompt_tokens"), run.column(column)
    for line, colour in zip(found, style.LINES, strict=False):
        for point in line.points:
            rows = run.good(point["level"]) & np.isfinite(tokens) & np.isfinite(values)
            if 1 < rows.sum() <= MOST_DOTS:
                axes.plot(tokens[rows], values[rows], ".", color=colour, alpha=0.45, markersize=7, markeredgewidth=0)


def _draw_lines(
    axes: Axes, found: Sequence[PromptLengthSeries], figure: str, factor: float = 1.0, *, named: bool = False
) -> None:
    for i, line in enumerate(found):
        points = [(tokens, value * factor) for tokens, value in line.known(figure)]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                color=style.LINES[i],
                marker=style.MARKERS[i % len(style.MARKERS)],
                label=line.label if named and len(found) > 1 else None,
            )


def _tokens_axis(axes: Axes, found: Sequence[PromptLengthSeries]) -> None:
    """Make x logarithmic with a tick at measured lengths, where there is room for it; the longest always has one."""
    at = {point["prompt_tokens"] for line in found for point in line.points}
    axes.set(xscale="log", xlabel="prompt tokens (logarithmic)")
    axes.xaxis.set_major_locator(FixedLocator(apart(sorted(at, reverse=True), TICKS_APART)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: prompt_length.length(value))
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_xlim(min(at) / 1.8, max(at) * 1.5)
