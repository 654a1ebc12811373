"""The comparison as a picture: how wrong each client's TTFT is, and what a chunk costs it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from clients import CLIENTS
from matplotlib.axes import Axes
from peers_table import Row

from loadtest.analyse.charts import sheet, style

OURS = tuple(CLIENTS[name].label for name in ("wire", "asyncio", "wire-gevent", "locust"))
LEAST_MS = 0.01  # errors below this are drawn as this: a logarithmic axis has no zero


def draw(results: dict[str, list[Row]], path: Path, repeats: int) -> Path:
    """Write a PNG: a row of panels a workload, clients sorted by their worst TTFT error."""
    with mpl.rc_context(style.RC):
        tallest = max(len(rows) for rows in results.values())
        figure, axes = sheet.new(2 * len(results), height=1.9 + 0.3 * tallest, columns=2, share_y=False)
        for i, (workload, rows) in enumerate(results.items()):
            _errors(axes[2 * i], rows, workload.partition(";")[0])
            _costs(axes[2 * i + 1], rows)
        height = figure.get_figheight()
        title = "How far off each client's TTFT is, and what a chunk costs it"
        figure.text(sheet.EDGE, 1 - 0.16 / height, title, fontsize=13, fontweight="bold", color=style.INK, va="top")
        about = f"simulated server with a known schedule; server and client a core each; median of {repeats}"
        figure.text(sheet.EDGE, 0.12 / height, about, fontsize=9, color=style.GREY, va="bottom")
        engine = figure.get_layout_engine()
        assert engine is not None
        engine.set(rect=(0.0, 0.36 / height, 1.0, 1 - 0.84 / height))  # type: ignore[call-arg]
        figure.savefig(path)
    return path


def _sorted(rows: Sequence[Row]) -> list[Row]:
    """Return the worst first (it is drawn at the bottom), the floor last."""
    others = [row for row in rows if row.client != "floor"]
    others.sort(key=lambda row: np.nanmax(np.abs([row.ttft_p50, row.ttft_p99])), reverse=True)
    return [*others, *(row for row in rows if row.client == "floor")]


def _errors(axes: Axes, rows: Sequence[Row], workload: str) -> None:
    ordered = _sorted(rows)
    y = np.arange(len(ordered))
    p50, p99 = (
        np.maximum(np.abs([getattr(row, key) for row in ordered]), LEAST_MS) for key in ("ttft_p50", "ttft_p99")
    )
    axes.hlines(y, np.minimum(p50, p99), np.maximum(p50, p99), color=style.PALE, linewidth=3, zorder=1)
    axes.scatter(p50, y, color=style.BLUE, label="TTFT p50, |error|", zorder=2)
    axes.scatter(p99, y, color=style.VERMILLION, marker="D", label="TTFT p99, |error|", zorder=2)
    axes.axvline(1.0, color=style.INK, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("ms off the truth (1 ms dashed)")
    axes.set_title(workload)
    axes.grid(visible=True, axis="x")
    axes.grid(visible=False, axis="y")
    _names(axes, ordered)
    axes.legend(loc="upper right", frameon=True, facecolor="white", edgecolor="none", framealpha=1.0)


def _costs(axes: Axes, rows: Sequence[Row]) -> None:
    ordered = [
        *_sorted([row for row in rows if row.client != "floor"]),
        *(row for row in rows if row.client == "floor"),
    ]
    costs = [row.cpu_us for row in ordered]
    colours = [
        style.GREY if row.client == "floor" else style.BLUE if row.client in OURS else style.PALE_ORANGE
        for row in ordered
    ]
    axes.barh(np.arange(len(ordered)), costs, color=colours)
    for i, row in enumerate(ordered):
        axes.text(row.cpu_us, i, f" {row.cpu_us:.0f} ({row.ratio:.1f} ×)", va="center", fontsize=8.5, color=style.INK)
    axes.set_xlim(0, max(costs) * 1.25)
    axes.set_xlabel("CPU µs a chunk (times the floor)")
    axes.set_title("what it costs")
    axes.grid(visible=False, axis="y")
    _names(axes, ordered)


def _names(axes: Axes, rows: Sequence[Row]) -> None:
    axes.set_yticks(np.arange(len(rows)), [row.client for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if row.client in OURS else "normal")
