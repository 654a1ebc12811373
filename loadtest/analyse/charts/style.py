"""One look for every chart: colours, the frame with title and footer, what is void, and what to draw when there is nothing."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import NullFormatter, ScalarFormatter

from loadtest.analyse.charts.lettering import (
    FONT,
    RoundDurations,
    apart,
    cut,
    drawable,
    one_line,
    width_in_inches,
    wrapped,
)
from loadtest.analyse.findings.measured_on import measured_on, simulated_badge, simulated_mark
from loadtest.analyse.run import LevelData, evenly, finite
from loadtest.analyse.summary import Analysis
from loadtest.run_folder import opened_whole
from loadtest.text import counted, joined, listed, percent, seconds

# Okabe and Ito's palette, told apart by every common kind of colour vision.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, INK = "#0072B2", "#D55E00", "#CC79A7", "#222222"
GREY, PALE, PALE_ORANGE, PALE_BLUE = "#6B6B6B", "#D9D9D9", "#F3CF85", "#B9D6EA"
LINES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, INK)
MARKERS = "osD^vPX"

# What a request is doing, in the order that it does it: (column or key, name, colour).
REQUEST_STATES = (
    ("unsplit_wait_s", "queue wait (for a slot or a batch: not known)", PALE_ORANGE),
    ("slot_wait_s", "slot wait", ORANGE),
    ("batch_wait_s", "batch wait", YELLOW),
    ("load_s", "load", PURPLE),
    ("prefill_s", "prefill", SKY),
)
AT_MOST = "slot wait, at most"  # where the server tells no waits, and other delays may be in it
WAITING = PALE  # before the first token, where it is not split
DECODING = BLUE
VERDICTS = {"valid": "#00775A", "suspect": "#9A6700", "void": "#B3400A"}

WIDTH, DPI = 10.0, 150
LETTER = 0.075  # inches, of the legend
USUAL_HEAD = 1.2  # inches of title, subtitle and legend that a page's height allows for
LABEL_WIDTH = 0.62  # inches that a duration on an axis takes
LABELS_UP = 0.08  # of a panel's height, from one label to the next
MARGIN = 0.3  # inches between one panel and the next
EDGE = 0.017  # margin left and right, of the width
MOST_PANELS, COLUMNS = 6, 3
WIDEST_LINE, THINNEST_LINE = 4.0, 1.4  # of the lines of one chart, from the first to the last
BAR_MOST = 2.0  # times the highest figure that an axis shows of its intervals
TIME_OF_LEVELS = "time since the run began (s); dotted: a level begins, with its load"
HALO = (withStroke(linewidth=2.5, foreground="white"),)  # around figures that stand on lines
MOST_FAILED = 3  # levels with many failed requests that a subtitle names
MOST_LINES = 9  # levels that a chart of one line a level draws
VOID_LABEL = "void: do not quote"
BEYOND = "void, and above the axis"
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


def page(
    panels: int, *, height: float = 5.6, columns: int = COLUMNS, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """Return a figure with `panels` axes in rows of at most `columns`."""
    across = min(panels, columns)
    down = -(-panels // across)
    figure = Figure(figsize=(WIDTH, height + (down - 1) * 2.9), dpi=DPI, layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False, sharey=share_y).flat)
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def save(
    figure: Figure,
    path: Path,
    analysis: Analysis,
    title: str,
    subtitle: str = "",
    *,
    at_last: Sequence[Callable[[], object]] = (),
) -> Path:
    """Put title, simulated mark, legend and footer around a figure and write it as PNG, which keeps the title as text too.

    `at_last` is called when all has its place: what is written then moves nothing, and has characters that the font can draw.
    """
    group = analysis.summary.get("group") or ""
    subtitle = joined(" · ", "" if subtitle.startswith(group) else group, subtitle)
    subtitle = joined("; ", subtitle, _failed(analysis.summary["levels"]))
    simulated = simulated_mark(analysis.summary)
    heads, below = wrapped(title, 74 if simulated else 92), wrapped(subtitle, 130)
    named, columns, tall = _legend(figure)
    more = 0.25 * len(heads) + 0.19 * len(below) + tall - USUAL_HEAD
    height = figure.get_figheight() + max(more, 0.0)  # the panels keep their room
    figure.set_figheight(height)
    top = height - 0.16
    for line in heads:
        figure.text(EDGE, top / height, line, fontsize=13, fontweight="bold", color=INK, va="top")
        top -= 0.25
    for line in below:
        figure.text(EDGE, (top - 0.03) / height, line, fontsize=9.5, color=GREY, va="top")
        top -= 0.19
    if simulated:
        mark = {"boxstyle": "round,pad=0.35", "facecolor": VERMILLION, "edgecolor": "none"}
        said: dict[str, Any] = {"fontsize": 9, "fontweight": "bold", "color": "white", "ha": "right", "va": "top"}
        figure.text(1 - EDGE, (height - 0.2) / height, simulated_badge(analysis.summary) or "", bbox=mark, **said)
    if named:  # above the panels, where it can cover nothing
        at = (EDGE / 2, (top - 0.08) / height)
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": at, "ncols": columns}
        figure.legend(list(named.values()), list(named), **place).set_in_layout(False)
    top -= 0.08 + tall
    bottom = 0.14 + _footer(figure, analysis, simulated)
    room = (0.01, bottom / height, 0.98, (top - bottom) / height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=room, w_pad=0.08, h_pad=0.08))
    for each in figure.findobj(Text):
        each.set_text(drawable(each.get_text()))
    if at_last:
        figure.draw_without_rendering()
    for write_last in at_last:
        write_last()
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened_whole(path) as file:
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None, "Title": drawable(title)})
    return path


def _failed(levels: Sequence[LevelData]) -> str:
    """Say which levels' figures leave out many failed requests; void ones are marked by themselves."""
    named = [
        joined(" of ", f"{level.failed_share} at {level.load}", level.get("of_run"))
        for level in levels
        if level.many_failed and not level.is_void
    ]
    said = list(dict.fromkeys(named))
    more = len(said) - MOST_FAILED
    if more > 0:
        said = [*said[:MOST_FAILED], f"more at {counted(more, 'other level')}"]
    return f"figures leave out requests that failed: {listed(said)}" if said else ""


def _legend(figure: Figure) -> tuple[dict[str, Any], int, float]:
    """Return the entries of one legend for all panels, each name once, its columns, and its height in inches."""
    named: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(cut(label, int((WIDTH - 1) / LETTER)), handle)
    columns = max(range(1, len(named) + 1), key=lambda columns: _fitting(named, columns), default=1)
    return named, columns, 0.12 + 0.213 * -(-len(named) // columns) if named else 0.0


def _fitting(names: Iterable[str], columns: int) -> int:
    """Return a number of columns of a legend where they fit beside each other, each as wide as its widest entry; else 0."""
    inches = np.array([width_in_inches(name, 9) + 0.65 for name in names])  # of an entry, with its sign
    return columns if sum(part.max() for part in np.array_split(inches, columns)) <= WIDTH - 0.3 else 0


def _footer(figure: Figure, analysis: Analysis, simulated: str | None) -> float:
    """Say verdict, run, server and model at the bottom; return its height in inches."""
    summary = analysis.summary
    verdict, height = summary["verdict"], figure.get_figheight()
    doubts = sum(level["verdict"] == verdict for level in summary["levels"])
    why = f"{doubts} of {len(summary['levels'])} levels" if doubts else "the run did not end as planned"
    said = verdict if verdict == "valid" or doubts == len(summary["levels"]) == 1 else f"{verdict} ({why})"
    figure.text(EDGE, 0.14 / height, f"● {said}", fontsize=9, fontweight="bold", color=VERDICTS[verdict], va="bottom")
    measured: str = summary.get("measured_on", measured_on(summary))
    parts = (summary["name"], *measured.split(" · "), summary["target"].get("url"))
    every: list[Sequence[Any]] = [[_hardware(analysis)], [simulated], parts]
    lines = [told for line in every if (told := [str(part) for part in line if part])]
    for i, told in enumerate(lines):
        room = WIDTH * (1 - 2 * EDGE) - (0 if i else 0.5 + 0.1 * len(said))  # the verdict stands in the lowest line
        line, at = one_line(told, int(room / 0.077)), (0.14 + 0.16 * i) / height
        figure.text(1 - EDGE, at, line, fontsize=8.5, color=GREY, ha="right", va="bottom")
    return 0.16 * len(lines) + 0.12


def _hardware(analysis: Analysis) -> str:
    """Return the machines in a line: those that were sampled, and what loadtest ran on."""
    cpus = analysis.run.fact("client", "cpus")
    client = f"measured from {counted(int(cpus), 'CPU')}" if cpus else ""
    return joined(" · ", *analysis.summary.get("hardware", []), client)


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
        if not len(mine):
            continue
        at = float(mine.min())
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
    """Cover bars of void levels."""
    if at:
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": VERMILLION, "hatch": "xx", "linewidth": 0.8}
        axes.bar(at, tops, width, label=VOID_LABEL, zorder=2.5, **look)


def or_void(name: str, level: LevelData) -> str:
    """Return what a level is called in a legend or under a title; of a void one that says so."""
    return f"{name}, void" if level.is_void else name
