"""What the model of a run predicts, beside what was measured: over concurrency with its band, and by slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from loadtest.analyse.charts import sheet, style
from loadtest.analyse.run import LevelData, grouped, users_axis
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.advice.slot_advice import Advice
from loadtest.analyse.whatif.model.cases import NO_LIMIT
from loadtest.analyse.whatif.model.fit import ClosedLoopSeries, PredictedCurve
from loadtest.analyse.whatif.model.predict import SLICED_WAY
from loadtest.analyse.whatif.model.sessions import NO_HOST_CACHE
from loadtest.analyse.whatif.predictions.prediction_file import Case, Document, PredictedLoad
from loadtest.metrics import Interval
from loadtest.text import counted, joined, listed, number, percent, seconds

PANELS = (  # (title, figure, part)
    ("TTFT, median", "ttft_s", "p50"),
    ("TTFT p95", "ttft_s", "p95"),
    ("tokens/s a stream, median", "stream_tokens_per_s", "p50"),
    ("output tokens/s, all streams", "output_tokens_per_s", "mean"),
)


def draw(path: Path, analysis: Analysis, found: PredictedCurve) -> Path:
    way = found.model.way if found.model is not None and found.model.way != SLICED_WAY else ""
    drawn = (
        "dots are measured; bars: 95 %"
        if found.missed
        else "dots are measured, lines are predicted; bars and band: 95 %"
    )
    said = joined("; ", found.series.label, drawn, way)

    panel = partial(_curve_panel, analysis=analysis, found=found)
    return _four_panels(path, analysis, panel, title(analysis, found), said)


def draw_loads(path: Path, analysis: Analysis, document: Document) -> Path:
    """Draw the loads that were asked for, each case with its bands, beside the levels they are predicted from."""
    rates = not any(load.concurrency for load in document.loads)
    levels = [
        level
        for level in analysis.levels
        if level["label"] in document.rests_on["levels"] and bool(level["concurrency"]) != rates
    ]

    panel = partial(_loads_panel, levels=levels, document=document, rates=rates)
    return _four_panels(path, analysis, panel, _loads_title(document), "bars: 95 %")


def _four_panels(
    path: Path, analysis: Analysis, panel: Callable[[Axes, str, str], None], title: str, subtitle: str
) -> Path:
    with mpl.rc_context(style.RC):
        figure, every = sheet.new(len(PANELS), columns=2, height=4.9, share_y=False)
        for axes, (name, key, part) in zip(every, PANELS, strict=True):
            panel(axes, key, part)
            axes.set_title(name)
        return sheet.save(figure, path, analysis, title, subtitle)


def _loads_panel(
    axes: Axes, key: str, part: str, *, levels: Sequence[LevelData], document: Document, rates: bool
) -> None:
    whole = [level for level in levels if not level.is_bound(key, part)]
    points = [(level["rate"] if rates else level["concurrency"], level.figure(key, part)) for level in whole]
    known = sorted((at, value) for at, value in points if value is not None)
    said = _said_by_case(document, f"{key}.{part}", rates=rates)
    predicted = [(at, value) for each in said.values() for at, value, _ in each]
    tallest = max((value for _, value in [*known, *predicted]), default=0.0)
    factor = _scaled(axes, key, tallest)
    for place, (label, each) in enumerate(sorted(said.items())):
        colour, marker = style.LINES[place % len(style.LINES)], style.MARKERS[1 + place % (len(style.MARKERS) - 1)]
        for at, _, (low, high) in each:
            axes.vlines(at, low * factor, high * factor, color=colour, linewidth=1.6, zorder=2)
        values = [value * factor for _, value, _ in each]
        axes.plot([at for at, _, _ in each], values, marker, color=colour, label=f"predicted, {label}", zorder=3)
    _dots(axes, known, factor, style.INK)
    style.bounds_by_load(axes, levels, key, part, factor=factor)
    style.from_zero(axes, tallest * factor, 1.12)
    name = "requests/s" if rates else users_axis(people=any(load.people for load in document.loads))
    style.load_axis(axes, {at for at, _ in [*known, *predicted]}, name)


def _said_by_case(document: Document, name: str, *, rates: bool) -> dict[str, list[tuple[float, float, Interval]]]:
    """Return (load, figure, its band) of each case, by what the legend calls it."""
    return grouped(
        (_case_label(case, load), (at, case.figures[name], case.bands[name]))
        for load in document.loads
        if (at := load.rate if rates else load.concurrency) is not None
        for case in load.cases
        if name in case.figures
    )


def _case_label(case: Case, load: PredictedLoad) -> str:
    several = sum(one.slots == case.slots for one in load.cases) > 1
    slots = counted(case.slots, "slot") if case.slots else ""
    return joined(", ", slots, case.name if several or not slots else "")


def _loads_title(document: Document) -> str:
    if document.slots is None and any(len(load.cases) > 1 for load in document.loads):
        seen = document.rests_on["slots"]["seen"] or 0
        return f"Predicted for no limit of slots, and for a limit of {seen}: which holds is not known"
    return f"Predicted from {document.run['name']}: {listed([load.label for load in document.loads[:4]])}"


def _curve_panel(axes: Axes, key: str, part: str, *, analysis: Analysis, found: PredictedCurve) -> None:
    """Draw one figure: the predicted line and its band, dashed past what was measured; measured points with intervals."""
    users, curve = found.series.concurrencies, found.predictions
    points = measured(analysis, found.series, key, part)
    line = [(each.concurrency or 0, each.figure(key, part), each) for each in curve]
    tallest = max([value for _, value, _ in points] + [value for _, value, _ in line], default=0.0)
    factor = _scaled(axes, key, tallest)
    for piece, dashes, label in (
        ([each for each in line if each[0] <= max(users)], "-", "predicted, also between the measured loads"),
        ([each for each in line if each[0] >= max(users)], (0, (3, 2)), "predicted past them"),
    ):
        if len(piece) < 2:
            continue
        at, values = [load for load, _, _ in piece], [value * factor for _, value, _ in piece]
        axes.plot(at, values, color=style.BLUE, linestyle=dashes, label=label, zorder=2)
        edges = [each.bands.get(f"{key}.{part}", (value, value)) for _, value, each in piece]
        lows, highs = ([edge[i] * factor for edge in edges] for i in (0, 1))
        axes.fill_between(
            at, lows, highs, color=style.SKY, alpha=0.3, linewidth=0, label="where one more run would lie"
        )
    for load, _, bounds in points:
        if bounds is not None:
            low, high = bounds
            axes.vlines(load, low * factor, high * factor, color=style.VERMILLION, linewidth=1.6, zorder=3)
    _dots(axes, [(load, value) for load, value, _ in points], factor, style.VERMILLION)
    of_series = [level for level in analysis.levels if level["index"] in found.series.levels]
    style.bounds_by_load(axes, of_series, key, part, factor=factor)
    style.from_zero(axes, tallest * factor, 1.12)  # room for the slots' label
    loads = {*users, *(each.concurrency or 1 for each in curve[-1:])}
    style.load_axis(axes, loads, users_axis(people=any(level.as_asked.of_people for level in analysis.levels)))
    slots = analysis.believed_slots.number
    if slots is not None and all(level.fills_slots for level in analysis.levels):
        style.slots_line(axes, slots, slots)


def _scaled(axes: Axes, key: str, tallest: float) -> float:
    """Name y by its unit; return the factor from the figure's own."""
    factor, unit = (1.0, "tokens/s") if key.endswith("per_s") else style.scale(tallest)
    axes.set_ylabel(unit if unit == "tokens/s" else f"TTFT ({unit})")
    style.plain(axes.yaxis)
    return factor


def _dots(axes: Axes, points: Sequence[tuple[float, float]], factor: float, colour: str) -> None:
    if points:
        at, values = [at for at, _ in points], [value * factor for _, value in points]
        axes.plot(at, values, "o", color=colour, markeredgecolor="white", label="measured", zorder=4)


def measured(
    analysis: Analysis, series: ClosedLoopSeries, key: str, part: str
) -> list[tuple[int, float, Interval | None]]:
    """Return (concurrency, figure, its 95 % interval) of the series' levels, in order of concurrency; no figure that is a bound."""
    found = [
        (level["concurrency"], value, level.interval(key, part))
        for level in analysis.levels
        if level["index"] in series.levels
        and level["concurrency"]
        and (value := level.figure(key, part)) is not None
        and not level.is_bound(key, part)
    ]
    return sorted(found, key=lambda point: point[0])


def title(analysis: Analysis, found: PredictedCurve) -> str:
    """Say what is predicted where nothing was measured, and how close the same model comes to what was."""
    if found.missed:
        return f"No prediction: {found.missed}"
    by_load = {each.concurrency: each for each in found.predictions}
    last = found.predictions[-1]
    off = [
        (abs(by_load[users].figure(key, part) / value - 1), name, users)
        for name, key, part in PANELS
        for users, value, _ in measured(analysis, found.series, key, part)
        if users in by_load and value > 0
    ]
    noun = ("person", "people") if any(level.as_asked.of_people for level in analysis.levels) else ("stream",)
    text = (
        f"Predicted for {counted(last.concurrency or 0, *noun)}: TTFT p95 {seconds(last.figure('ttft_s', 'p95'))}, "
        f"{number(last.figure('stream_tokens_per_s', 'p50'))} tokens/s a stream"
    )
    if NO_HOST_CACHE in found.case:
        text += ", if the server keeps conversations in its slots alone"
    if NO_LIMIT in found.case and (last.concurrency or 0) > (analysis.believed_slots.estimate or 0):
        text += ", if the server has slots for as many"
        if analysis.slots.limit and analysis.believed_slots.number is None:
            text += f", and not the {analysis.slots.estimate} that void levels show"
    if not off:
        return text
    worst, name, users = max(off)
    most = percent(worst) if worst >= 0.01 else "1 %"  # never "0 %": these points are what it was fitted to
    return f"{text}; where measured it is off by at most {most} ({name}, at {counted(users, *noun)})"


# -- by slots ---------------------------------------------------------------------------------------------------------

HEATMAPS = (  # (title, figure, statistic, colours: dark is better)
    ("TTFT p95", "ttft_s", "p95", "YlGnBu_r"),
    ("tokens/s a stream (median)", "stream_tokens_per_s", "p50", "YlGnBu"),
    ("output tokens/s, all streams", "output_tokens_per_s", "mean", "YlGnBu"),
)


def draw_slots(path: Path, analysis: Analysis, advice: Advice, title: str) -> Path:
    """Draw what each number of slots would give at each load: tables of colour, a panel a figure."""
    with mpl.rc_context(style.RC):
        figure, panels = sheet.new(len(HEATMAPS), height=2.3 + 0.36 * len(advice.slots), share_y=True)
        for place, (axes, (name, key, statistic, colours)) in enumerate(zip(panels, HEATMAPS, strict=True)):
            heat_table(axes, advice, key, statistic, colours)
            axes.set_title(name)
            if place:
                axes.set_ylabel("")
        asked = " and ".join(map(str, advice.objectives))
        parts = [
            "bold: measured, else predicted; dark is better",
            advice.label,
            "outlined: slots as they are",
            f"grey: misses {asked}" if asked else "",
            "–: measured on too few requests" if any(advice.untold(*pair) for pair in advice.cells) else "",
            "answers vary by 10 % in length, but not in the title" if advice.equal_answers else "",
            "*: more streams at once than measured" if any(advice.extrapolated(*pair) for pair in advice.cells) else "",
        ]
        return sheet.save(figure, path, analysis, title.rstrip("."), " · ".join(part for part in parts if part))


def heat_table(axes: Axes, advice: Advice, key: str, statistic: str, colours: str) -> None:
    """Draw slots by streams, coloured by one figure on a logarithmic scale, each cell with its value."""
    values = np.array(
        [[advice.cells[slots, load].figure(key, statistic) for load in advice.loads] for slots in advice.slots]
    )
    known = values[np.isfinite(values) & (values > 0)]
    if not len(known):
        style.empty(axes, "Nothing is predicted here.")
        return
    norm = LogNorm(known.min(), max(known.max(), known.min() * 1.01))
    shades = mpl.colormaps[colours]
    for row, slots in enumerate(advice.slots):
        for column, load in enumerate(advice.loads):
            value = values[row, column]
            at = norm(value) * 0.75 if np.isfinite(value) and value > 0 else 0.0
            at += 0.25 if colours.endswith("_r") else 0.0  # the darkest quarter hides what is written on it
            missed = advice.met(slots, load) is False and not advice.untold(slots, load)
            unknown = not np.isfinite(value)
            face = "#EFEFEF" if missed else "white" if unknown else shades(at)
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=face, edgecolor="white", linewidth=1.2))
            dark = not missed and not unknown and sum(shades(at)[:3]) < 1.35
            said = _cell_text(value, key) + ("*" if advice.extrapolated(slots, load) else "")
            axes.text(
                column,
                row,
                said,
                ha="center",
                va="center",
                fontweight="bold" if advice.is_measured(slots, load) else "normal",
                fontsize=_size(said, len(advice.loads)),
                color="white" if dark else style.GREY if missed else style.INK,
            )
    _label_table(axes, advice)


def _size(said: str, columns: int) -> float:
    """Return the size in which a value stays within its cell."""
    wide = 72 * 0.28 * style.WIDTH / columns  # points, of a cell
    return min(9.0 if len(said) < 6 else 8.0, wide / (0.78 * len(said)))


def _label_table(axes: Axes, advice: Advice) -> None:
    """Label rows and columns; outline the row of the slots as measured, and mark the one advised."""
    axes.set(
        xlim=(-0.5, len(advice.loads) - 0.5),
        xlabel=f"{'people' if advice.people else 'streams at once'}, (n): not measured",
    )
    axes.set(ylim=(len(advice.slots) - 0.5, -0.5), ylabel="slots (▶ advised)")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(
        range(len(advice.loads)), [f"{load}" if load in advice.measured else f"({load})" for load in advice.loads]
    )
    labels = [f"▶ {slots}" if slots == advice.best else str(slots) for slots in advice.slots]
    axes.set_yticks(range(len(advice.slots)), labels)
    for label, slots in zip(axes.get_yticklabels(), advice.slots, strict=False):  # none where the axis is shared
        label.set_fontweight("bold" if slots in (advice.best, advice.now) else "normal")
    if advice.now is not None:
        row = advice.slots.index(advice.now)
        width = len(advice.loads)
        axes.add_patch(
            Rectangle(
                (-0.5, row - 0.5), width, 1, fill=False, edgecolor=style.INK, linewidth=2.0, zorder=4, clip_on=False
            )
        )


def _cell_text(value: float, key: str) -> str:
    """Return a value in at most five characters."""
    if not np.isfinite(value):
        return "–"
    return number(value) if key.endswith("per_s") else seconds(float(value)).replace(" ms", "ms").replace(" s", "s")
