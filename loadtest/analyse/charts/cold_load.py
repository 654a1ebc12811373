"""Cold loads over time: each request, and what memory and page cache did while the model came in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.analyse.charts import style
from loadtest.analyse.server.model_memory import cold_load
from loadtest.analyse.server.model_memory.cold_load import Sampled
from loadtest.analyse.summary import Analysis
from loadtest.text import seconds, size

MOST_LOADS_DRAWN = 12  # drawn; the tables have the rest
COLOURS = {"page_cache": style.GREEN, "host_memory": style.VERMILLION, "gpu_memory": style.PURPLE}


def draw(path: Path, analysis: Analysis) -> Path | None:
    """Draw cold_load.png; None, and nothing written, where no cold load was asked for or seen."""
    levels = [level for level in analysis.levels if level.get("cold_load")]
    every = [one for level in levels for one in level["cold_load"]["loads"]][:MOST_LOADS_DRAWN]
    if not every:
        return None
    watched = cold_load.sampled(analysis.run)
    seen = [(key, name, watched[key]) for key, name in cold_load.MEMORIES if len(watched[key].t)]
    figure = Figure(figsize=(style.WIDTH, 3.1 + 1.75 * len(seen)), dpi=style.DPI, layout="constrained")
    heights = [1.25 if not seen else 0.8, *[1.0] * len(seen)]
    panels = figure.subplots(1 + len(seen), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    zero = load_bars(panels[0], analysis, every)
    for axes, (key, name, one) in zip(panels[1:], seen, strict=True):
        memory_over_time(axes, one, every, zero, COLOURS[key])
        axes.set_ylabel(f"{name}\n(GB){one.mark}".replace(") (", ")\n("))
    panels[-1].set_xlabel("time since the first request was sent (s)")
    of = "" if seen else "; add --monitor host,nvidia to see what memory does meanwhile"
    subtitle = f"shaded: a model is being loaded; before each request it was unloaded{of}"
    return style.save(figure, path, analysis, title(levels[0]["cold_load"]), subtitle)


def title(cold: dict[str, Any]) -> str:
    """Say what the loads took; why later ones were faster is a finding's to say, and the page cache's panel shows it."""
    return cold_load.loading(cold).rstrip(".").partition(", for ")[0]


def load_bars(axes: Axes, analysis: Analysis, every: Sequence[dict[str, Any]]) -> float:
    """Draw each request as a bar of load, rest of TTFT and decode, with the load's figures; return the time of 0 s."""
    zero = float(every[0]["start_s"])
    frame = analysis.run.requests
    for one in every:
        row = frame.loc[(frame["send"] - one["start_s"]).abs().idxmin()]
        at, took = one["start_s"] - zero, one["load_s"]
        first, last = float(row["first_token"]) - zero, float(row["last"]) - zero
        for left, width, colour, label in (
            (at, took, style.PURPLE, "load"),
            (at + took, first - at - took, style.SKY, "queue wait and prefill"),
            (first, last - first, style.DECODING, "decoding"),
        ):
            if np.isfinite(width):
                axes.barh(0, max(width, 0.0), 0.5, left=left, color=colour, label=label)
        speed = f"\n{size(one['bytes_per_s'])}/s" if one["bytes_per_s"] else ""
        axes.text(at + took / 2, 0.34, f"{seconds(took)}{speed}", ha="center", va="bottom", fontsize=8, color=style.INK)
    axes.set_yticks([])
    axes.grid(visible=False)
    end = max(one["start_s"] + one["load_s"] for one in every) - zero
    axes.set(ylabel="requests", xlim=(-0.04 * end, end * 1.06), ylim=(-0.4, 1.15))
    return zero


def memory_over_time(axes: Axes, one: Sampled, every: Sequence[dict[str, Any]], zero: float, colour: str) -> None:
    """Draw one memory over time, GB, with the loads shaded."""
    for each in every:
        axes.axvspan(
            each["start_s"] - zero, each["start_s"] + each["load_s"] - zero, color=style.PURPLE, alpha=0.12, lw=0
        )
    start, end = every[0]["start_s"], every[-1]["start_s"] + every[-1]["load_s"]
    margin = 0.1 * (end - start)
    shown = (one.t >= start - margin) & (one.t <= end + margin)
    axes.plot(one.t[shown] - zero, one.bytes[shown] / 1e9, color=colour, linewidth=1.6, marker=".", markersize=4)
    axes.set_ylim(0, (float(one.bytes[shown].max(initial=0.0)) / 1e9 or 1.0) * 1.15)
