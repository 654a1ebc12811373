"""TTFT against concurrency or rate, split into what the request waited for."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.lettering import drawable
from loadtest.analyse.findings.run_findings import as_title, range_of_ttft
from loadtest.analyse.findings.waiting_findings import queueing
from loadtest.analyse.run import LevelData, Series, axis_of, evenly
from loadtest.analyse.summary import Analysis
from loadtest.text import seconds

THINNEST_PART = 0.01  # of the highest bar: a thinner part, a line without a visible colour, is drawn with the next
WIDTH_OF_MEAN = 0.7 * 72  # points, of a figure below a bar; where bars are closer, none is written
TICKS, FEW_TICKS = 20, 8
WAITS = ("batch_wait_s", "unsplit_wait_s", "slot_wait_s")  # which of them is cut first
REST = "rest: neither a wait for others, load nor prefill"
UNTOLD = "rest: prefill, and what else this server does not tell"
BAR = 0.62  # of a bar's place: its width


def ttft_parts(axes: Axes, analysis: Analysis, series: Series) -> None:
    """Draw mean TTFT by load as a stack of slot wait, batch wait, load and prefill, with marks for p50 and p95."""
    levels = [level for level in series.levels if level.figure("ttft_s") is not None]
    if not levels:
        style.empty(axes, "No request ended well, so there is no TTFT to show.")
        return
    # One unit for every panel of the page: they share their axis.
    factor, unit = style.scale(max(_top(level) for level in analysis.levels))
    _stack(axes, levels, factor)
    x = np.arange(len(levels))
    void = [i for i, level in enumerate(levels) if level.is_void]
    style.hatch(axes, void, [(levels[i].mean_ttft or 0.0) * factor for i in void], BAR)
    crowded = axes.figure is not None and len(axes.figure.axes) > 1
    place = axes.get_subplotspec()
    apart = 72 * (style.WIDTH - 1.2) / (1 if place is None else place.get_gridspec().ncols) / len(levels)
    room = BAR * apart
    for name, mark, size in (("p50", "_", min(18.0, room)), ("p95", "^", min(6.0, room))):  # none reaches the next bar
        if known := [(i, value * factor) for i, level in enumerate(levels) if (value := level.figure("ttft_s", name))]:
            axes.plot(
                *zip(*known, strict=True),
                mark,
                color=style.INK,
                markersize=size,
                label=f"{name} (from 20 requests on)" if name == "p95" else name,
            )
    parts = [
        (i, level.figure("ttft_s", name))
        for i, level in enumerate(levels)
        for name in ("p50", "p95")
        if level.is_bound("ttft_s", name)
    ]
    style.bounds(axes, [(i, value * factor) for i, value in parts if value])
    shown = evenly(len(levels), FEW_TICKS if crowded else TICKS)
    means = apart >= WIDTH_OF_MEAN and not crowded
    ticks = [style.level_tick(level) + (f"\n{_mean_said(level)}" if means else "") for level in levels]
    axes.set_xticks(x[shown], [drawable(ticks[i]) for i in shown])
    highest = max(_top(level) for level in levels) * factor * 1.1
    axes.set(
        xlim=(-0.6, len(levels) - 0.4) if len(levels) > 1 else (-1.5, 1.5),
        ylim=(0, max(highest, axes.get_ylim()[1])),
        xlabel=axis_of(levels) + ("; below it the mean TTFT" if means else ""),
        ylabel=f"mean TTFT and its parts ({unit})",
    )
    style.plain(axes.yaxis)
    slots = analysis.believed_slots.number
    if slots is not None and all(level.fills_slots for level in levels):
        within = sum((level["concurrency"] or 0) <= slots for level in levels)
        if within < len(levels):
            style.slots_line(axes, within - 0.5, slots)


def _mean_said(level: LevelData) -> str:
    return (
        "" if level.is_void else f"{'stayed: ' if level.is_bound('ttft_s', 'mean') else ''}{seconds(level.mean_ttft)}"
    )


def _top(level: LevelData) -> float:
    return max(level.figure("ttft_s", part) or 0.0 for part in ("mean", "p50", "p95"))


def _stack(axes: Axes, levels: list[LevelData], factor: float) -> None:
    x, bottom = np.arange(len(levels)), np.zeros(len(levels))
    whole = np.array([level.mean_ttft or 0.0 for level in levels]) * factor
    thin = np.zeros(len(levels))  # parts too thin to be seen are drawn with the next one: no slit is left
    parts = [parts_of(level) for level in levels]
    for name, label, colour in style.REQUEST_STATES:
        part = thin + np.array([each[name] for each in parts]) * factor
        if (part > THINNEST_PART * whole.max()).any():
            known = name != "slot_wait_s" or any(level.figure("queue_wait_s") is not None for level in levels)
            axes.bar(x, part, BAR, bottom=bottom, color=colour, label=label if known else style.AT_MOST)
            bottom, thin = bottom + part, np.zeros(len(levels))
        else:
            thin = part
    rest = np.maximum(whole - bottom, 0.0)
    if (rest > THINNEST_PART * whole.max()).any():
        told = REST if any(level.figure("prefill_s") is not None for level in levels) else UNTOLD
        label = told if bottom.any() else "TTFT (this server does not say what it is made of)"
        axes.bar(x, rest, BAR, bottom=bottom, color=style.WAITING, label=label)


def parts_of(level: LevelData) -> dict[str, float]:
    """Return the mean parts of a level's TTFT, which add up to no more than it.

    A wait is what load and prefill leave of a request's TTFT, and no less than nothing: where a request left late, the rest of
    its TTFT is less than that, and the mean wait by as much too long.
    """
    parts = {name: level.figure(name) or 0.0 for name, _, _ in style.REQUEST_STATES}
    split = level.get("slot_wait_s") and (level.get("batch_wait_s") or not level.get("queue_wait_s"))
    unsplit = 0.0 if split else (level.figure("queue_wait_s") or 0.0) - parts["slot_wait_s"]
    parts["unsplit_wait_s"] = max(unsplit, 0.0)
    excess = max(sum(parts.values()) - (level.mean_ttft or math.inf), 0.0)
    for name in WAITS:
        cut = min(excess, parts[name])
        parts[name], excess = parts[name] - cut, excess - cut
    return parts


def split_title(analysis: Analysis) -> str:
    """Say what the stack shows, from its own figures."""
    said = as_title(analysis, lambda series: queueing(analysis, series)) or as_title(analysis, range_of_ttft)
    return said or f"Time to first token by {axis_of(analysis.levels).partition(' (')[0]}"
