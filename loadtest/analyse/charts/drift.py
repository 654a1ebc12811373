"""TTFT of every request over the run's time: whether a level was the same at its end as at its start."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.run import FloatArray, LevelData
from loadtest.analyse.summary import Analysis
from loadtest.text import counted, listed, percent, seconds

FEWEST_REQUESTS = 12  # requests of a level whose thirds are compared …
FEWEST_ROUNDS = 2  # … and in each third at least so many of each stream
LEAST_DRIFT = 0.1  # between two medians: a smaller change is not told
MOST_POINTS = 4000  # drawn in all
THIRDS = 3


def over_time(axes: Axes, analysis: Analysis) -> None:
    """Draw a point a request where it was sent, and the median along each level."""
    colours = style.shades(analysis)
    every = sum(int(analysis.run.good(level["index"]).sum()) for level in analysis.levels)
    step = max(1, -(-every // MOST_POINTS))
    for level in analysis.levels:
        sent, waited = _requests(analysis, level)
        if level.is_void and len(sent):
            look: dict[str, Any] = {"color": style.VERMILLION, "label": style.VOID_LABEL}
            axes.plot(sent[::step], waited[::step], "x", markersize=4, alpha=0.55, **look)
        if level.is_void or not len(sent):
            continue
        axes.plot(sent[::step], waited[::step], ".", color=colours[level.load], markersize=4, alpha=0.55)
        for part in _thirds(level, sent):
            axes.hlines(
                float(np.median(waited[part])),
                float(sent[part[0]]),
                float(sent[part[-1]]),
                color=style.INK,
                linewidth=2.0,
                label="median of each third of a level",
                zorder=3,
            )
    if not axes.lines:
        style.empty(axes, "No request ended well, so there is no TTFT to show.")
        return
    style.logarithmic_y(axes)
    low, high = axes.get_ylim()
    loads_on_top = high * (high / low) ** 0.12
    axes.set(xlim=(-0.02 * axes.get_xlim()[1], None), ylim=(low, loads_on_top), ylabel="TTFT, logarithmic")
    style.level_marks(axes, analysis)


def _requests(analysis: Analysis, level: LevelData) -> tuple[FloatArray, FloatArray]:
    """Return when a level's good requests were sent and their TTFT, in the order of sending."""
    rows = analysis.run.good(level["index"])
    sent, waited = (analysis.run.column(name)[rows] for name in ("send", "ttft_s"))
    known = np.isfinite(sent) & np.isfinite(waited) & (waited > 0)
    order = np.argsort(sent[known], kind="stable")
    return sent[known][order], waited[known][order]


def _thirds(level: LevelData, sent: FloatArray) -> list[Any]:
    """Return the places of a level's requests in three parts, in the order of sending; none where there are too few.

    Parts hold whole rounds: where some requests of each round wait, the median of half a round more would jump.
    """
    users = int(level.get("concurrency") or 1)
    if len(sent) < max(FEWEST_REQUESTS, FEWEST_ROUNDS * THIRDS * users):
        return []
    rounds = len(sent) // users
    return np.split(np.arange(len(sent)), [users * round(rounds * part / THIRDS) for part in range(1, THIRDS)])


def title(analysis: Analysis) -> str:
    """Say the median TTFT in each third of a level, of that level where they differ most."""
    found = []
    levels = analysis.believed
    for level in levels:
        sent, waited = _requests(analysis, level)
        if parts := _thirds(level, sent):
            found.append((level, [float(np.median(waited[part])) for part in parts]))
    if not found:
        void = any(level.is_void for level in analysis.levels)
        return f"TTFT of every request over the run: too few in each level{' that is not void' if void else ''} to tell a drift"
    few = counted(len(levels) - len(found), "more has", "more have")
    others = f"; {few} too few requests to tell" if len(found) < len(levels) else ""
    level, medians = max(found, key=lambda each: max(each[1]) / min(each[1]))
    if max(medians) < (1 + LEAST_DRIFT) * min(medians):
        each = "the level" if len(found) == 1 else f"each of {len(found)} levels"
        return f"The median TTFT of each third of {each} is within {percent(LEAST_DRIFT)} of the others{others}"
    most = "" if len(found) == 1 else f", which differ most of {len(found)} levels"
    return f"{level['label']}: the median TTFT is {listed(list(map(seconds, medians)))} in its thirds{most}{others}"
