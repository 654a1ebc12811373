"""One look for every chart: colours, axes, what is void, and what to draw when there is nothing."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from matplotlib.ticker import NullFormatter, ScalarFormatter

from loadtest.analyse.charts.lettering import (
    FONT,
    RoundDurations,
    apart,
)
from loadtest.analyse.run import LevelData, evenly, finite
from loadtest.analyse.summary import Analysis
from loadtest.text import counted, percent, seconds

# Okabe and Ito's palette, told apart by every common kind of colour vision.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, INK = "#0072B2", "#D55E00", "#CC79A7", "#222222"
GREY, PALE, PALE_ORANGE, PALE_BLUE = "#6B6B6B", "#D9D9D9", "#F3CF85", "#B9D6EA"
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
MARKERS = "osD^vPX"

# What a request is doing, in the order that it does it: (column or key, name, colour).
REQUEST_STATES = (
    ("unsplit_wait_s", "queue wait (for what is not known)", PALE_ORANGE),
    ("slot_wait_s", "slot wait", ORANGE),
    ("batch_wait_s", "batch wait", YELLOW),
    ("load_s", "model load", PURPLE),
    ("prefill_s", "prefill", SKY),
)
AT_MOST = "slot wait, at most"  # where the server tells no waits, and other delays may be in it
WAITING = PALE  # before the first token, where it is not split
DECODING = BLUE

WIDTH, DPI = 10.0, 150
LABEL_WIDTH = 0.62  # inches that a duration on an axis takes
LABELS_UP = 0.08  # of a panel's height, from one label to the next
MARGIN = 0.3  # inches between one panel and the next
MOST_PANELS, COLUMNS = 6, 3
WIDEST_LINE, THINNEST_LINE = 4.0, 1.4  # of the lines of one chart, from the first to the last
BAR_MOST = 2.0  # times the highest figure that an axis shows of its intervals
TIME_OF_LEVELS = "time since the run began (s); dotted: a level begins, with its load"
HALO = (withStroke(linewidth=2.5, foreground="white"),)  # around figures that stand on lines
MOST_LINES = 9  # levels that a chart of one line a level draws
VOID_LABEL = "void: do not quote"
BEYOND = "void, and above the axis"
BOUND = "at least so much: users hung up"
ARROW_UP = Path([(0, 0), (0, 2), (-0.5, 1.3), (0, 2), (0.5, 1.3)], [Path.MOVETO, Path.LINETO] * 2 + [Path.LINETO])
MOST_TIMES = 5.0  # the highest point that may be quoted: so high are points of void levels drawn
RC: dict[Any, Any] = {
    # A matplotlibrc of the user's may ask for TeX, or lettering that does not fit.
    **{key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"},
    "font.family": FONT,
    "font.size": 10,
    "text.parse_math": False,  # model names may hold a $
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "lines.markersize": 6.0,
    "xtick.color": INK,
    "ytick.color": INK,
}


def empty(axes: Axes, why: str) -> None:
    """Say in the middle of a panel why there is nothing to see."""
    axes.set_axis_off()
    axes.text(
        0.5, 0.5, textwrap.fill(why, 60), ha="center", va="center", color=GREY, fontsize=12, transform=axes.transAxes
    )


def shades(analysis: Analysis) -> dict[str, Any]:
    """Return a colour for each load of a run by its name, light to dark: ordered, told apart by every colour vision."""
    loads = {level.load: level.amount for level in analysis.levels}
    names = sorted(loads, key=loads.__getitem__)
    values = np.linspace(0.85, 0.05, len(names)) if len(names) > 1 else [0.35] * len(names)
    return {name: mpl.colormaps["viridis"](value) for name, value in zip(names, values, strict=True)}


def line_look(place: int) -> dict[str, Any]:
    """Return colour, marker and dashes of the series at `place`: 49 are told apart, the first seven without dashes."""
    turn, dashes = place // len(LINES), ("-", "--", ":", "-.")
    return {
        "color": LINES[place % len(LINES)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": dashes[turn % len(dashes)],
    }


def from_zero(axes: Axes, highest: float, room: float) -> None:
    """Let an axis begin at zero, with `room` above; a bar that would dwarf the highest figure leaves the chart."""
    axes.set_ylim(0, min(max(axes.get_ylim()[1], highest), BAR_MOST * highest or 1.0) * room)


def drawn_levels(levels: Sequence[LevelData]) -> list[LevelData]:
    """Return the levels that a chart of one line a level draws; `left_out` says how many it does not."""
    return [levels[place] for place in evenly(len(levels), MOST_LINES)]


def nested(levels: Sequence[LevelData]) -> list[tuple[LevelData, float]]:
    """Return levels with the width of each one's line: a line that the next one covers shows beside it."""
    return list(zip(levels, np.linspace(WIDEST_LINE, THINNEST_LINE, len(levels)), strict=True))


def left_out(levels: Sequence[LevelData]) -> str:
    """Say how many levels such a chart leaves out; nothing where it draws all."""
    more = len(levels) - len(drawn_levels(levels))
    return f"{len(levels) - more} of {len(levels)} levels are drawn; the tables have all" if more else ""


def level_marks(axes: Axes, analysis: Analysis) -> None:
    """Mark on an axis of time where each level begins, with its load where there is room; the axis' name says so."""
    axes.set_xlabel(TIME_OF_LEVELS)
    run = analysis.run
    plain(axes.xaxis)
    low, high = axes.get_xlim()
    free_from = -np.inf
    for level in run.levels if analysis.groups else analysis.levels:
        mine = finite(run.column("send")[run.of_level(level["index"])])
        # a mark outside of the axis would take all the room of the chart
        if not len(mine) or not low <= (at := float(mine.min())) <= high:
            continue
        axes.axvline(at, color=GREY, linewidth=0.8, linestyle=":")
        name = level_tick(level)
        if at >= free_from:
            axes.annotate(
                name,
                (at, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                fontsize=8.5,
                color=GREY,
            )
            free_from = at + (high - low) * (0.012 + 0.009 * len(name))


def level_tick(level: LevelData) -> str:
    """Name a level on an axis: the number where the axis says of what, else in words."""
    steady = not level.is_open or (level.get("rate") and level.get("rate_to") is None)
    return f"{level.amount:g}" if steady else level.load


def share_over_log(axes: Axes) -> None:
    """Set up a cumulative distribution: shares in percent over a logarithmic axis."""
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: percent(value))
    logarithmic_x(axes)


def logarithmic_x(axes: Axes) -> None:
    """Make x, of seconds, logarithmic, with as many labels as there is room for."""
    axes.set_xscale("log")
    axes.grid(visible=True, axis="x")
    panels = 1 if axes.figure is None else min(len(axes.figure.axes), COLUMNS)
    axes.set_xlim(_label_durations(axes.xaxis, LABEL_WIDTH / ((WIDTH - 1) / panels - MARGIN)))


def logarithmic_y(axes: Axes, drawn: tuple[float, float] | None = None) -> None:
    """Make y, of seconds, logarithmic; `drawn` is what it must hold where other panels share it."""
    axes.set_yscale("log")
    axes.set_ylim(_label_durations(axes.yaxis, LABELS_UP, drawn))


def _label_durations(axis: Axis, apart: float, drawn: tuple[float, float] | None = None) -> tuple[float, float]:
    """Label a logarithmic axis of seconds; return limits between which each point has a label on both sides."""
    axis.set_major_formatter(lambda value, _: seconds(value, exact=True))
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_locator(labels := RoundDurations(apart))
    first, last = drawn or axis.get_data_interval()
    low, high = drawn or axis.get_view_interval()
    return labels.around(max(first, axis.get_minpos()), last, low, high)


def scale(longest: float) -> tuple[float, str]:
    """Return (factor from seconds, unit) in which `longest` reads well."""
    return (1e3, "ms") if longest < 1.5 else (1.0, "s")


class _Plain(ScalarFormatter):
    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:,.0f}" if abs(x) >= 1e4 else super().__call__(x, pos)


def plain(axis: Axis) -> None:
    """Label an axis as numbers are written elsewhere: 50,000, 0.25."""
    axis.set_major_formatter(_Plain(useOffset=False))


def load_axis(axes: Axes, loads: Collection[float], name: str) -> None:
    """Make x logarithmic, with a tick at each of these loads that there is room for."""
    axes.set_xscale("log", base=2)
    place = axes.get_subplotspec()
    columns = 1 if place is None else place.get_gridspec().ncols
    longest = max(len(f"{load:.4g}") for load in loads)
    ticks = apart(sorted(loads), share_as_factor(loads, max(0.065, 0.1 * longest * columns / (WIDTH - 1))))
    axes.set_xticks(ticks, [f"{load:.4g}" for load in ticks])
    axes.minorticks_off()
    axes.set(xlim=(min(loads) / 1.6, max(loads) * 1.5), xlabel=name)


def share_as_factor(loads: Collection[float], share: float) -> float:
    """Return the factor between two loads that are a share of load_axis' width apart."""
    return float((max(loads) * 1.5 / (min(loads) / 1.6)) ** share)


def points(levels: Iterable[LevelData], name: str, part: str) -> Iterator[tuple[float, float]]:
    """Yield the load and a figure of each level where it is above 0, as a logarithmic axis can show it."""
    for level in levels:
        if (value := level.figure(name, part)) is not None and value > 0:
            yield level.amount, value


def bounds(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Draw arrows up from points of which the true figure is so much or more."""
    if points:
        look: dict[str, Any] = {"color": INK, "markersize": 26, "fillstyle": "none", "linestyle": "", "zorder": 4}
        axes.plot(*zip(*points, strict=True), marker=ARROW_UP, label=BOUND, **look)


def bounds_by_load(axes: Axes, levels: Iterable[LevelData], name: str, *parts: str, factor: float = 1.0) -> None:
    known = [(level, level.figure(name, part)) for level in levels for part in parts if level.is_bound(name, part)]
    bounds(axes, [(level.amount, value * factor) for level, value in known if level.amount and value])


def broken_at(gaps: Iterable[float], points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a line over loads that breaks at each gap."""
    known = list(points)
    return sorted([*known, *((load, math.nan) for load in gaps)]) if known else []


def broken_between(
    gaps: Iterable[float], points: Iterable[tuple[float, tuple[float, float]]]
) -> list[tuple[float, float]]:
    """Return a line of points by load, over anything else than load, that breaks at each gap."""
    known = list(points)
    by_load = sorted([*known, *((load, (math.nan, math.nan)) for load in gaps)], key=lambda one: one[0])
    return [point for _, point in by_load] if known else []


def slots_line(axes: Axes, x: float, slots: int) -> None:
    """Draw where the server's slots are all taken, below the interval of a level that has as many streams."""
    axes.axvline(x, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate(
        counted(slots, "slot"),
        xy=(x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(4, -2),
        textcoords="offset points",
        fontsize=9,
        color=INK,
        va="top",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85},
        zorder=4,
    )


# -- void levels: what was seen of them is drawn, and no line goes through it ---------------------------------------------


def crosses(axes: Axes, void: Sequence[tuple[float, float]], edge: float = math.inf) -> None:
    """Draw points of void levels; what is higher than `edge` stands there as an arrow."""
    look: dict[str, Any] = {"color": VERMILLION, "markersize": 9, "linestyle": "", "zorder": 4}
    if inside := [point for point in void if point[1] <= edge]:
        axes.plot(*zip(*inside, strict=True), marker="x", label=VOID_LABEL, **look)
    if beyond := [at for at, value in void if value > edge]:
        axes.plot(beyond, [edge] * len(beyond), marker="^", fillstyle="none", label=BEYOND, **look)


def edge_of(quoted: Iterable[float]) -> float:
    """Return how high points of void levels are drawn: without it, one absurd figure flattens all that may be quoted."""
    return MOST_TIMES * max(quoted, default=0.0) or math.inf


def hatch(axes: Axes, at: Sequence[float], tops: Sequence[float], width: float) -> None:
    if at:
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": VERMILLION, "hatch": "xx", "linewidth": 0.8}
        axes.bar(at, tops, width, label=VOID_LABEL, zorder=2.5, **look)


def dashes(level: LevelData) -> str:
    return "--" if level.is_void else "-"


def or_void(name: str, level: LevelData) -> str:
    return f"{name}, void" if level.is_void else name
