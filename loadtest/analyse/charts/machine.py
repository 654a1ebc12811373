"""What the machine did beside the streams, the streams themselves, and what memory did while models were loaded: panels over time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from loadtest.analyse.charts import sheet, style
from loadtest.analyse.findings import machine_findings
from loadtest.analyse.findings.slot_findings import slots_finding
from loadtest.analyse.run.event_times import blocks
from loadtest.analyse.run.files.samples import SERVERS, Machine
from loadtest.analyse.run.overlaps import Depth
from loadtest.analyse.server.model_memory import cold_load
from loadtest.analyse.server.model_memory.cold_load import Sampled
from loadtest.analyse.summary import Analysis
from loadtest.metrics import S_PER_US
from loadtest.text import counted, listed, seconds, size


def streams(axes: Axes, analysis: Analysis) -> None:
    """Draw decoding and waiting streams as a stack, from the records: exact to the event, unlike samples."""
    run = analysis.run
    send, first, last, end = (run.column(name) for name in ("send", "first_token", "last", "end"))
    sent = np.isfinite(send)
    if not sent.any():
        style.empty(axes, "No request was sent.")
        return
    seen = np.isfinite(first) & np.isfinite(last)
    instants = np.unique(np.concatenate((send[sent], first[seen], last[seen], end[sent])))
    decoding = Depth.of(first[seen], last[seen]).at(instants)
    waiting = Depth.of(send[sent], np.where(seen, first, end)[sent]).at(instants)
    names = ("decoding", "before the first token (queue, batch wait or prefill)")
    axes.stackplot(
        instants,
        decoding,
        waiting,
        step="post",
        colors=(style.DECODING, style.WAITING),
        labels=[name if many.any() else "_" for name, many in zip(names, (decoding, waiting), strict=True)],
        linewidth=0,
    )
    top = float((decoding + waiting).max())
    if (slots := analysis.believed_slots.number) is not None:
        axes.axhline(slots, color=style.INK, linewidth=1.2, linestyle=(0, (4, 3)), label=counted(slots, "slot"))
    axes.set(xlim=(float(instants[0]), float(instants[-1])), ylim=(0, top * 1.12), ylabel="streams")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    style.level_marks(axes, analysis)


def streams_title(analysis: Analysis) -> str:
    if analysis.groups:
        return f"Streams of {listed([group.name for group, _ in analysis.groups])} together"
    return slots_finding(analysis).rstrip(".")


MOST_METRICS = 3  # metrics of the user's own that get a panel
TitledPanel = tuple[str, Callable[[Axes], None]]


def draw(path: Path, analysis: Analysis) -> Path | None:
    """Draw machine.png; None, and nothing written, where no monitor sampled beside the run.

    None of a part of a run: the machine is drawn once, for all parts.
    """
    seen = analysis.run.machine
    if seen.empty or not len(analysis.run.requests) or "group" in analysis.summary:
        return None
    panels: list[TitledPanel] = [
        ("streams", partial(streams, analysis=analysis)),
        ("output tokens/s", partial(tokens_panel, analysis=analysis)),
        *_panels(seen),
    ]
    figure = Figure(figsize=(style.WIDTH, 2.0 + 1.75 * len(panels)), dpi=style.DPI, layout="constrained")
    every = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (label, panel) in zip(every, panels, strict=True):
        panel(axes)
        axes.set(ylabel=label, xlabel="" if axes is not every[-1] else style.TIME_OF_LEVELS)
    simulated = f"simulated: {', '.join(sorted(seen.simulated))}" if seen.simulated else ""
    said = simulated or "a line is broken where samples are missing"
    return sheet.save(figure, path, analysis, title(analysis), said)


def title(analysis: Analysis) -> str:
    said = machine_findings.machine_findings(analysis.run)
    return said[0].rstrip(".") if said else "What the machine did beside the streams"


def _panels(seen: Machine) -> Iterator[TitledPanel]:
    for host, frame in seen.hosts.items():
        if "busiest" in frame:
            yield f"cores of\n{host}", partial(cores_panel, frame=frame)
    if seen.gpus is not None:
        mark = "\n(simulated)" if seen.mark(seen.gpus.attrs["source"]) else ""
        for column, label, panel, colour in GPU_PANELS:
            if column in seen.gpus:
                yield f"{label}{mark}", partial(panel, frame=seen.gpus, column=column, colour=colour)
    if seen.server is not None:
        mark = "\n(simulated)" if seen.mark(*SERVERS) else ""
        if {"running", "waiting"} & set(seen.server):
            yield f"server's own\ncount{mark}", partial(counts_panel, frame=seen.server)
        if "kv_use" in seen.server:
            yield (
                f"KV cache use{mark}",
                partial(share_panel, frame=seen.server, column="kv_use", colour=style.VERMILLION),
            )
    for key, values in list(seen.named.items())[:MOST_METRICS]:
        yield key if len(key) <= 22 else key[:21] + "…", partial(metric_panel, frame=values)


def tokens_panel(axes: Axes, analysis: Analysis) -> None:
    """Draw output tokens a second in bins of about a hundredth of the run; chunks count by their request's tokens."""
    run = analysis.run
    counts, send = run.chunks.counts, run.column("send")
    weight = np.nan_to_num(run.column("output_tokens") / np.maximum(counts, 1), nan=1.0)
    edges = np.linspace(0.0, max(float(np.nanmax(run.column("end"))), 1e-3), 121)
    made = np.zeros(len(edges) - 1)
    for low, high in blocks(run.chunks.starts):
        owner = np.repeat(np.arange(low, high), counts[low:high])
        at = send[owner] + run.chunks.flat[run.chunks.starts[low] : run.chunks.starts[high]] * S_PER_US
        made += np.histogram(at, bins=edges, weights=weight[owner])[0]
    axes.stairs(made / np.diff(edges), edges, color=style.BLUE, linewidth=1.4)
    axes.set_ylim(bottom=0)


def cores_panel(axes: Axes, frame: pd.DataFrame) -> None:
    lines = (
        ("busiest", "busiest core", style.VERMILLION),
        ("mean", "mean of all cores", style.GREY),
        ("server_cpu", "server's process (1 = one core)", style.GREEN),
        ("client_cpu", "this client (1 = one core)", style.SKY),
    )
    for column, label, colour in lines:
        if column in frame and frame[column].notna().any():
            width = 3.6 if column == "busiest" else 1.4  # it shows beside a mean that is as high
            axes.plot(frame["t"], frame[column], color=colour, label=label, linewidth=width)
    axes.set_ylim(0, max(1.05, float(frame.reindex(columns=["server_cpu", "client_cpu"]).max().max() * 1.05 or 0)))
    _percent_axis(axes)


def values_panel(axes: Axes, frame: pd.DataFrame, column: str, colour: str, unit: float = 1.0) -> None:
    """Draw what was sampled, in units of so much, from 0 up."""
    axes.plot(frame["t"], frame[column] / unit, color=colour, linewidth=1.4)
    axes.set_ylim(0, float(frame[column].max()) / unit * 1.15 or 1.0)


def share_panel(axes: Axes, frame: pd.DataFrame, column: str, colour: str) -> None:
    values_panel(axes, frame, column, colour)
    axes.set_ylim(0, 1.05)
    _percent_axis(axes)


def metric_panel(axes: Axes, frame: pd.DataFrame) -> None:
    axes.plot(frame["t"], frame["value"], color=style.INK)


def counts_panel(axes: Axes, frame: pd.DataFrame) -> None:
    for column, colour in (("running", style.BLUE), ("waiting", style.ORANGE)):
        if column in frame:
            axes.step(frame["t"], frame[column], where="post", color=colour, label=f"{column}, as the server says")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)


def _percent_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f} %")


GPU_PANELS = (
    ("utilisation", "GPU use", share_panel, style.GREEN),
    ("memory_used", "GPU memory\n(GB)", partial(values_panel, unit=1e9), style.PURPLE),
    ("power", "GPU power\n(W)", values_panel, style.ORANGE),
)


MOST_MODEL_LOADS = 12  # drawn; the tables have the rest
COLOURS = {"page_cache": style.GREEN, "host_memory": style.VERMILLION, "gpu_memory": style.PURPLE}


def draw_model_loads(path: Path, analysis: Analysis) -> Path | None:
    """Draw load.png; None, and nothing written, where no cold model load was asked for or seen."""
    levels = [level for level in analysis.levels if level.get("cold_load")]
    every = [one for level in levels for one in level["cold_load"]["loads"]][:MOST_MODEL_LOADS]
    if not every:
        return None
    watched = cold_load.sampled(analysis.run)
    seen = [(key, name, watched[key]) for key, name in cold_load.MEMORIES if len(watched[key].t)]
    figure = Figure(figsize=(style.WIDTH, 3.1 + 1.75 * len(seen)), dpi=style.DPI, layout="constrained")
    heights = [1.25 if not seen else 0.8, *[1.0] * len(seen)]
    panels = figure.subplots(1 + len(seen), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    zero = model_load_bars(panels[0], analysis, every)
    for axes, (key, name, one) in zip(panels[1:], seen, strict=True):
        memory_over_time(axes, one, every, zero, COLOURS[key])
        axes.set_ylabel(f"{name}\n(GB){one.mark}".replace(") (", ")\n("))
    panels[-1].set_xlabel("time since the first request was sent (s)")
    of = "" if seen else "; add --monitor host,nvidia to see what memory does meanwhile"
    subtitle = f"shaded: a model is being loaded; before each request it was unloaded{of}"
    # Why later model loads were faster is a finding's to say, and the page cache's panel shows it.
    said = cold_load.loading(levels[0]["cold_load"]).rstrip(".").partition(", for ")[0]
    return sheet.save(figure, path, analysis, said, subtitle)


def model_load_bars(axes: Axes, analysis: Analysis, every: Sequence[dict[str, Any]]) -> float:
    """Draw each request as a bar of model load, rest of TTFT and decode, with the figures of the first; return the time of 0 s."""
    zero = float(every[0]["start_s"])
    frame = analysis.run.requests
    for one in every:
        row = frame.loc[(frame["send"] - one["start_s"]).abs().idxmin()]
        at, took = one["start_s"] - zero, one["load_s"]
        first, last = float(row["first_token"]) - zero, float(row["last"]) - zero
        for left, width, colour, label in (
            (at, took, style.PURPLE, "model load"),
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
    for each in every:
        axes.axvspan(
            each["start_s"] - zero, each["start_s"] + each["load_s"] - zero, color=style.PURPLE, alpha=0.12, lw=0
        )
    start, end = every[0]["start_s"], every[-1]["start_s"] + every[-1]["load_s"]
    margin = 0.1 * (end - start)
    shown = (one.t >= start - margin) & (one.t <= end + margin)
    axes.plot(one.t[shown] - zero, one.bytes[shown] / 1e9, color=colour, linewidth=1.6, marker=".", markersize=4)
    axes.set_ylim(0, (float(one.bytes[shown].max(initial=0.0)) / 1e9 or 1.0) * 1.15)
