"""What the model of a run predicts over concurrency, with its band, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.findings.run_findings import believed_slots
from loadtest.analyse.run import offered_load
from loadtest.analyse.server.timing.prefill import Interval, has_turns
from loadtest.analyse.summary import Analysis, believed, without_void
from loadtest.analyse.whatif.model.predict import SLICED_WAY, Prediction
from loadtest.analyse.whatif.model.series import ClosedLoopSeries
from loadtest.analyse.whatif.model.talks import NO_HOST_CACHE
from loadtest.analyse.whatif.predictions.prediction_chart import CurveAhead, PredictedCurve
from loadtest.analyse.whatif.predictions.prediction_file import NO_LIMIT, Document
from loadtest.slo import Objective
from loadtest.text import counted, number, percent, seconds

PANELS = (  # (title, figure, statistic)
    ("TTFT, median", "ttft_s", "p50"),
    ("TTFT p95", "ttft_s", "p95"),
    ("tokens/s a stream, median", "stream_tokens_per_s", "p50"),
    ("output tokens/s, all streams", "output_tokens_per_s", "mean"),
)


def curve_of(analysis: Analysis, begun: CurveAhead | None = None) -> CurveAhead:
    """Return the predicted curve of a run, which rests on no request of a void level; `begun` serves where none is void."""
    levels = analysis.summary["levels"]
    if "group" not in analysis.summary and 0 < len(believed(levels)) < len(levels):
        good = without_void(analysis)
        return CurveAhead(good.run, good.slots, good.steps)
    return begun or CurveAhead(analysis.run, analysis.slots, analysis.steps)


def draw(
    path: Path,
    analysis: Analysis,
    found: PredictedCurve,
    objectives: Sequence[Objective] = (),
) -> Path:
    """Draw all four panels on one page."""
    with mpl.rc_context(style.RC):
        figure, panels = style.page(len(PANELS), columns=2, height=4.9, share_y=False)
        for axes, (name, key, statistic) in zip(panels, PANELS, strict=True):
            panel(axes, analysis, found.series, found.predictions, key, statistic, objectives)
            axes.set_title(name)
        said = [found.series.label, "dots are measured, lines are predicted; bars and band: 95 %"]
        if found.model is not None and found.model.way != SLICED_WAY:
            said.append(found.model.way)
        return style.save(figure, path, analysis, title(analysis, found), "; ".join(filter(None, said)))


def draw_loads(path: Path, analysis: Analysis, document: Document) -> Path:
    """Draw the loads that were asked for, each case with its bands, beside the levels they are predicted from."""
    rates = not any(load.concurrency for load in document.loads)
    levels = [
        level
        for level in analysis.summary["levels"]
        if level["label"] in document.rests_on["levels"] and bool(level["concurrency"]) != rates
    ]
    with mpl.rc_context(style.RC):
        figure, panels = style.page(len(PANELS), columns=2, height=4.9, share_y=False)
        for axes, (name, key, statistic) in zip(panels, PANELS, strict=True):
            _loads_panel(axes, levels, document, key, statistic, rates=rates)
            axes.set_title(name)
        return style.save(figure, path, analysis, _loads_title(document), "bars: 95 %")


def _loads_panel(
    axes: Axes, levels: Sequence[dict[str, Any]], document: Document, key: str, statistic: str, *, rates: bool
) -> None:
    name = f"{key}.{statistic}"
    points = [(level["rate"] if rates else level["concurrency"], _value(level, key, statistic)) for level in levels]
    known = sorted((at, value) for at, value in points if value is not None)
    said: dict[str, list[tuple[float, float, Interval]]] = {}
    for load in document.loads:
        at = load.rate if rates else load.concurrency
        if at is None:
            continue
        for case in load.cases:
            if name in case.figures:
                several = sum(one.slots == case.slots for one in load.cases) > 1
                label = counted(case.slots, "slot") if case.slots else case.name
                label = f"{label}, {case.name}" if case.slots and several else label
                said.setdefault(label, []).append((at, case.figures[name], case.bands[name]))
    tallest = max(
        [value for _, value in known] + [value for each in said.values() for _, value, _ in each], default=0.0
    )
    factor, unit = (1.0, "tokens/s") if key.endswith("per_s") else style.scale(tallest)
    for place, (label, each) in enumerate(sorted(said.items())):
        colour, marker = style.LINES[place % len(style.LINES)], style.MARKERS[1 + place % (len(style.MARKERS) - 1)]
        for at, _, (low, high) in each:
            axes.vlines(at, low * factor, high * factor, color=colour, linewidth=1.6, zorder=2)
        values = [value * factor for _, value, _ in each]
        axes.plot([at for at, _, _ in each], values, marker, color=colour, label=f"predicted, {label}", zorder=3)
    if known:
        at_known, values_known = [at for at, _ in known], [value * factor for _, value in known]
        axes.plot(at_known, values_known, "o", color=style.INK, markeredgecolor="white", label="measured", zorder=4)
    axes.set_ylim(0, max(axes.get_ylim()[1], tallest * factor) * 1.12)
    style.plain(axes.yaxis)
    every = sorted({float(at) for at, _ in known} | {float(at) for each in said.values() for at, _, _ in each})
    ticks: list[float] = []
    for at in every:
        if not ticks or at >= 1.3 * ticks[-1]:
            ticks.append(at)
    people = any(load.people for load in document.loads)
    style.concurrency_axis(axes, ticks, "requests/s" if rates else offered_load.users_axis(people=people))
    axes.set_ylabel(unit if unit == "tokens/s" else f"TTFT ({unit})")


def _loads_title(document: Document) -> str:
    if document.slots is None and any(len(load.cases) > 1 for load in document.loads):
        seen = document.rests_on["slots"]["seen"] or 0
        return f"Predicted for no limit of slots, and for a limit of {seen}: which holds is not known"
    return f"Predicted from {document.run['name']}: {', '.join(load.label for load in document.loads[:4])}"


def panel(
    axes: Axes,
    analysis: Analysis,
    group: ClosedLoopSeries,
    curve: Sequence[Prediction],
    key: str,
    statistic: str,
    objectives: Sequence[Objective] = (),
) -> None:
    """Draw one figure: the predicted line and its band, dashed past what was measured; measured points with intervals."""
    points = measured(analysis, group, key, statistic)
    line = [(each.concurrency or 0, each.figure(key, statistic), each) for each in curve]
    tallest = max([value for _, value, _ in points] + [value for _, value, _ in line], default=0.0)
    factor, unit = (1.0, "tokens/s") if key.endswith("per_s") else style.scale(tallest)
    top = max(group.concurrencies)
    inside = [each for each in line if each[0] <= top]
    beyond = [each for each in line if each[0] >= top]
    for part, dashes, label in (
        (inside, "-", "predicted, also between the measured loads"),
        (beyond, (0, (3, 2)), "predicted past them"),
    ):
        if len(part) < 2:
            continue
        at = [users for users, _, _ in part]
        axes.plot(
            at, [value * factor for _, value, _ in part], color=style.BLUE, linestyle=dashes, label=label, zorder=2
        )
        edges = [each.bands.get(f"{key}.{statistic}", (value, value)) for _, value, each in part]
        low, high = ([edge[i] * factor for edge in edges] for i in (0, 1))
        axes.fill_between(at, low, high, color=style.SKY, alpha=0.3, linewidth=0, label="where one more run would lie")
    for users, _, interval in points:
        if interval is not None:
            axes.vlines(
                users, interval[0] * factor, interval[1] * factor, color=style.VERMILLION, linewidth=1.6, zorder=3
            )
    if points:
        at, values = [users for users, _, _ in points], [value * factor for _, value, _ in points]
        axes.plot(at, values, "o", color=style.VERMILLION, markeredgecolor="white", label="measured", zorder=4)
    axes.set_ylim(0, max(axes.get_ylim()[1], tallest * factor) * 1.12)  # room for the slots' label
    style.plain(axes.yaxis)
    _limits(axes, objectives, key, statistic, factor)
    style.concurrency_axis(axes, _ticks(group, curve), offered_load.users_axis(people=has_turns(analysis.run)))
    axes.set_ylabel(unit if unit == "tokens/s" else f"TTFT ({unit})")
    slots = believed_slots(analysis)
    if slots.limit and slots.estimate is not None:
        style.slots_line(axes, slots.estimate, slots.estimate)


def _limits(axes: Axes, objectives: Sequence[Objective], key: str, statistic: str, factor: float) -> None:
    for objective in objectives:
        if (objective.figure, objective.statistic) == (key, statistic):
            axes.axhline(
                objective.limit * factor, color=style.GREEN, linewidth=1.4, linestyle=":", label="limit of the SLO"
            )


def _ticks(group: ClosedLoopSeries, curve: Sequence[Prediction]) -> list[int]:
    """Return the measured concurrencies, and the last predicted one, where their labels do not touch."""
    shown: list[int] = []
    for users in sorted({*group.concurrencies, *(each.concurrency or 1 for each in curve[-1:])}):
        if not shown or users >= 1.3 * shown[-1]:
            shown.append(users)
    return shown


def measured(
    analysis: Analysis, group: ClosedLoopSeries, key: str, statistic: str
) -> list[tuple[int, float, list[float] | None]]:
    """Return (concurrency, figure, its 95 % interval) of the group's levels, in order of concurrency."""
    found = []
    for level in analysis.summary["levels"]:
        value = _value(level, key, statistic)
        if level["index"] in group.levels and level["concurrency"] and value is not None:
            described = level[key]
            interval = described.get(f"ci95_{statistic}") if isinstance(described, dict) else level.get(f"{key}_ci95")
            found.append((level["concurrency"], value, interval))
    return sorted(found, key=lambda point: point[0])


def _value(level: dict[str, Any], key: str, statistic: str) -> float | None:
    described = level.get(key)
    value: float | None = described.get(statistic) if isinstance(described, dict) else described
    return value


def title(analysis: Analysis, found: PredictedCurve) -> str:
    """Say what is predicted where nothing was measured, and how close the same model comes to what was."""
    if found.missed:
        return f"No prediction: {found.missed}"
    group, curve = found.series, found.predictions
    by_load = {each.concurrency: each for each in curve}
    last = curve[-1]
    off = [
        (abs(by_load[users].figure(key, statistic) / value - 1), name, users)
        for name, key, statistic in PANELS
        for users, value, _ in measured(analysis, group, key, statistic)
        if users in by_load and value > 0
    ]
    noun = ("person", "people") if has_turns(analysis.run) else ("stream",)
    text = (
        f"Predicted for {counted(last.concurrency or 0, *noun)}: TTFT p95 {seconds(last.figure('ttft_s', 'p95'))}, "
        f"{number(last.figure('stream_tokens_per_s', 'p50'))} tokens/s a stream"
    )
    if NO_HOST_CACHE in found.case:
        text += ", if the server keeps conversations in its slots alone"
    if NO_LIMIT in found.case and (last.concurrency or 0) > (believed_slots(analysis).estimate or 0):
        text += ", if the server has slots for as many"
    if not off:
        return text
    worst, name, users = max(off)
    most = percent(worst) if worst >= 0.01 else "1 %"  # never "0 %": these points are what it was fitted to
    return f"{text}; where measured it is off by at most {most} ({name}, {counted(users, *noun)})"
