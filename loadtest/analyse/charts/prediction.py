"""What the model of a run predicts over concurrency, with its band, beside what was measured."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.figures.intervals import Interval
from loadtest.analyse.findings.slot_findings import believed_slots
from loadtest.analyse.run import LevelData, grouped, users_axis
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.model.fit import ClosedLoopSeries, PredictedCurve
from loadtest.analyse.whatif.model.predict import SLICED_WAY
from loadtest.analyse.whatif.model.sessions import NO_HOST_CACHE
from loadtest.analyse.whatif.predictions.prediction_file import NO_LIMIT, Case, Document, PredictedLoad
from loadtest.text import counted, joined, number, percent, seconds

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
        figure, every = style.page(len(PANELS), columns=2, height=4.9, share_y=False)
        for axes, (name, key, part) in zip(every, PANELS, strict=True):
            panel(axes, key, part)
            axes.set_title(name)
        return style.save(figure, path, analysis, title, subtitle)


def _loads_panel(
    axes: Axes, key: str, part: str, *, levels: Sequence[LevelData], document: Document, rates: bool
) -> None:
    points = [(level["rate"] if rates else level["concurrency"], level.figure(key, part)) for level in levels]
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
    return f"Predicted from {document.run['name']}: {', '.join(load.label for load in document.loads[:4])}"


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
    style.from_zero(axes, tallest * factor, 1.12)  # room for the slots' label
    loads = {*users, *(each.concurrency or 1 for each in curve[-1:])}
    style.load_axis(axes, loads, users_axis(people=analysis.run.has_turns))
    if (slots := believed_slots(analysis).number) is not None:
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
) -> list[tuple[int, float, tuple[float, float] | None]]:
    """Return (concurrency, figure, its 95 % interval) of the series' levels, in order of concurrency."""
    found = [
        (level["concurrency"], value, level.interval(key, part))
        for level in analysis.levels
        if level["index"] in series.levels and level["concurrency"] and (value := level.figure(key, part)) is not None
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
    noun = ("person", "people") if analysis.run.has_turns else ("stream",)
    text = (
        f"Predicted for {counted(last.concurrency or 0, *noun)}: TTFT p95 {seconds(last.figure('ttft_s', 'p95'))}, "
        f"{number(last.figure('stream_tokens_per_s', 'p50'))} tokens/s a stream"
    )
    if NO_HOST_CACHE in found.case:
        text += ", if the server keeps conversations in its slots alone"
    if NO_LIMIT in found.case and (last.concurrency or 0) > (believed_slots(analysis).estimate or 0):
        text += ", if the server has slots for as many"
        if analysis.slots.limit and believed_slots(analysis).number is None:
            text += f", and not the {analysis.slots.estimate} that void levels show"
    if not off:
        return text
    worst, name, users = max(off)
    most = percent(worst) if worst >= 0.01 else "1 %"  # never "0 %": these points are what it was fitted to
    return f"{text}; where measured it is off by at most {most} ({name}, at {counted(users, *noun)})"
