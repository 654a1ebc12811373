"""Runs that are compared: by how much each figure of two sides changed, and several runs over each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from loadtest.analyse.charts import sheet, style
from loadtest.analyse.comparison import compare_report, many_report
from loadtest.analyse.comparison.compare import BETTER, NOT_COMPARABLE, SAME, TOO_FEW, WORSE, Change, Comparison
from loadtest.analyse.comparison.estimates import FAILED, OF_REQUESTS, Metric
from loadtest.analyse.comparison.many import Entry, Many
from loadtest.analyse.comparison.traits import names_of
from loadtest.analyse.findings.measured_on import measured_on
from loadtest.analyse.run import LevelData, Series, axis_of, believed, series_of
from loadtest.analyse.summary import Analysis
from loadtest.analyse.verdict.verdict import worst
from loadtest.text import counted, joined

VERDICT_LOOKS = {
    WORSE: (style.VERMILLION, "o"),
    BETTER: (style.GREEN, "o"),
    SAME: (style.GREY, "s"),
    NOT_COMPARABLE: (style.PALE, "x"),
}
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}  # no line strikes a figure through
MOST_DRAWN = 20
NARROWEST, WIDEST = 0.06, 1.0  # half of a panel's width, as a change


def draw(comparison: Comparison, path: Path) -> Path:
    metrics = list(dict.fromkeys(row.metric for row in comparison.headline if row.metric is not FAILED))
    known = [metric for metric in metrics if any(row.interval for row in comparison.headline if row.metric is metric)]
    unknown = [metric.name for metric in metrics if metric not in known]
    shared, own = compare_report.level_names(comparison)
    every = list(dict.fromkeys(row.level["label"] for row in comparison.headline))
    levels = every[:MOST_DRAWN]
    with mpl.rc_context(style.RC):
        figure, panels = sheet.new(max(len(known), 1), columns=4, height=3.2 + 0.5 * len(levels))
        if not known:
            style.empty(panels[0], "No figure could be compared.")
        for axes, metric in zip(panels, known, strict=False):
            rows = [row for row in comparison.headline if row.metric is metric and row.level["label"] in levels]
            changes_panel(axes, metric, rows, levels, comparison.tolerance)
            axes.set_yticks(range(len(levels)), [own[level] for level in levels])
        said = (
            "change from {} (BASE) to {} (NEW)".format(*_side_names(comparison)),
            f"bars: {comparison.confidence * 100:.5g} % intervals, all {comparison.tests} together 99 %",
            "shaded: a regression",
            f"{', '.join(unknown)}: {TOO_FEW}" if unknown else "",
            "arrow: beyond the axis" if any(abs((row.ratio or 1) - 1) > WIDEST for row in comparison.headline) else "",
            f"{len(every) - len(levels)} more levels are in compare.md" if len(every) > len(levels) else "",
        )
        subtitle = joined("; ", shared, *(said if known else ()))
        return sheet.save(figure, path, _framed(comparison), compare_report.outcome(comparison), subtitle)


def changes_panel(axes: Axes, metric: Metric, rows: Sequence[Change], levels: Sequence[str], tolerance: float) -> None:
    ends = [abs(end - 1) for row in rows for end in (*(row.interval or ()), row.ratio or 1.0)]
    half = min(max([1.12 * end for end in ends if math.isfinite(end)], default=NARROWEST), WIDEST)
    half = max(half, NARROWEST, 1.5 * tolerance)
    worse = (tolerance, half) if metric.lower_is_better else (-half, -tolerance)
    axes.axvspan(*worse, color=style.VERMILLION, alpha=0.08, linewidth=0)
    axes.axvline(0, color=style.INK, linewidth=1.0)
    for row in rows:
        _change_mark(axes, row, levels.index(row.level["label"]), half)
    axes.set(title=metric.name, xlim=(-half, half), ylim=(len(levels) - 0.4, -0.7))
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda at, _: f"{at * 100:+.0f}".replace("-", "−") if abs(at) > 1e-9 else "0")
    axes.set_xlabel("change, %: worse →" if metric.lower_is_better else "← worse: change, %", color=style.VERMILLION)


def _change_mark(axes: Axes, row: Change, place: int, half: float) -> None:
    verdict = row.verdict or SAME
    colour, marker = VERDICT_LOOKS[verdict]
    if row.ratio is None or verdict == NOT_COMPARABLE:
        short = row.reason if len(row.reason) < 24 else NOT_COMPARABLE
        axes.text(0, place, short, ha="center", va="center", fontsize=8.5, color=style.GREY, style="italic", bbox=BOX)
        return
    at = min(max(row.ratio - 1, -half), half)
    if row.interval is not None:
        low, high = (min(max(end - 1, -half), half) for end in row.interval)
        axes.plot([low, high], [place, place], color=colour, linewidth=2.6, solid_capstyle="butt", label=verdict)
    marker = marker if at == row.ratio - 1 else "<" if at < 0 else ">"  # an arrow points past the axis
    axes.plot([at], [place], marker=marker, color=colour, markersize=7, linestyle="none", clip_on=False, zorder=5)
    side = "left" if at < -0.5 * half else "right" if at > 0.5 * half else "center"
    axes.annotate(
        compare_report.change_text(row),
        (at, place),
        xytext=(0, 6),
        textcoords="offset points",
        ha=side,
        fontsize=9,
        color=colour,
        fontweight="normal" if verdict == SAME else "bold",
        bbox=BOX,
    )


def _side_names(comparison: Comparison) -> list[str]:
    """Return a name of each side that tells it from the other: the model or setting that differs, else the run's own."""
    sides = (comparison.bases, comparison.news)
    names = names_of([side[0] for side in sides]).names
    return [name + (f" and {len(side) - 1} more" if side[1:] else "") for name, side in zip(names, sides, strict=True)]


def _framed(comparison: Comparison) -> Analysis:
    """Return what the frame says of all runs: their names, the graver verdict, simulated if either is."""
    base, new = comparison.bases, comparison.news
    every = [
        (f"{side} {number}" if len(runs) > 1 else side, one)
        for side, runs in (("BASE", base), ("NEW", new))
        for number, one in enumerate(runs, 1)
    ]
    simulated = new[0].summary["simulated"] or base[0].summary["simulated"]
    return _of_several(new[0], every, name=" → ".join(_side_names(comparison)), simulated=simulated)


def _of_several(one: Analysis, every: Sequence[tuple[str, Analysis]], **said: Any) -> Analysis:
    """Return an analysis for the frame of a chart of several runs: with the levels of all by run, and the gravest verdict."""
    levels = [LevelData(level, of_run=name) for name, each in every for level in each.summary["levels"]]
    verdict = worst([level["verdict"] for level in levels])
    return replace(one, summary={**one.summary, "levels": levels, "verdict": verdict, **said})


VOID_CROSS = "void, not compared"
MOST_SERVERS = 3  # that a footer names
MOST_SERIES = 14  # series of one chart; more are in the tables


@dataclass(frozen=True, slots=True)
class StyledSeries(Series):
    """The levels of a run that differ in a known load alone, as a line of every panel."""

    look: dict[str, Any]


Panel = Callable[[Axes, Sequence[StyledSeries]], None]


def draw_many(many: Many, path: Path) -> Path:
    with mpl.rc_context(style.RC):
        figure, panels = sheet.new(4, columns=2, height=4.4, share_y=False)
        for axes, (_, _, panel) in zip(panels, _panels(many), strict=True):
            panel(axes, styled_series(many)[:MOST_SERIES])
        return sheet.save(figure, path, _framed_many(many), many_report.outcome(many)[0].rstrip("."), _subtitle(many))


def draw_each(many: Many, out: Path) -> list[Path]:
    """Write each panel as a PNG of its own into a folder."""
    written = []
    with mpl.rc_context(style.RC):
        for name, title, panel in _panels(many):
            figure, (axes,) = sheet.new(1, height=5.2)
            panel(axes, styled_series(many)[:MOST_SERIES])
            subtitle = _subtitle(many, bars=bool(axes.collections))
            written.append(sheet.save(figure, out / f"{name}.png", _framed_many(many), title, subtitle))
    return written


def _panels(many: Many) -> tuple[tuple[str, str, Panel], ...]:
    """Return each panel's file, title and what draws it."""
    if many.metrics == OF_REQUESTS:
        return (
            ("requests", "Requests a second against load", partial(_rates, rate=("requests_per_s", "requests/s"))),
            ("e2e", "E2E against load", partial(_durations, key="e2e_s", high="p95", name="E2E")),
            (
                "tradeoff",
                "Throughput against latency",
                partial(_tradeoff, key="e2e_s", name="E2E", rate=("requests_per_s", "requests/s")),
            ),
            (
                "input",
                "Input tokens a second against load",
                partial(_rates, rate=("input_tokens_per_s", "input tokens/s")),
            ),
        )
    output = ("output_tokens_per_s", "output tokens/s, all streams")
    return (
        ("throughput", "Output against load", partial(_rates, rate=output)),
        ("ttft", "TTFT against load", partial(_durations, key="ttft_s", high="p95", name="TTFT")),
        ("tradeoff", "Throughput against latency", partial(_tradeoff, key="ttft_s", name="TTFT", rate=output)),
        ("itl", "Gaps between tokens against load", partial(_durations, key="itl_s", high="p99", name="ITL")),
    )


def styled_series(many: Many) -> list[StyledSeries]:
    """Return a line a run, of a run with several combinations of lengths one for each."""
    found = [(entry, series) for entry in many.entries for series in series_of(entry.levels)]
    all_simulated = all(entry.analysis.summary["simulated"] for entry in many.entries)  # then the badge says so
    several = len({series.label for _, series in found}) > 1
    return [
        StyledSeries(
            joined(" · ", _label(entry, marked=not all_simulated), series.label if several else ""),
            tuple(level for level in series.levels if level.amount),
            style.line_look(i),
        )
        for i, (entry, series) in enumerate(found)
    ]


def _label(entry: Entry, *, marked: bool) -> str:
    """Return a run's name in the legend; where it is to be marked, one of a simulated server says so."""
    simulated = marked and entry.analysis.summary["simulated"] and "simulated" not in entry.name
    return f"{entry.letter} {entry.name}" + (" (simulated)" if simulated else "")


def _rates(axes: Axes, every: Sequence[StyledSeries], *, rate: tuple[str, str]) -> None:
    """Draw a rate, given by its key and its name."""
    key, name = rate
    for one in every:
        known = [level for level in one.believed if level[key] is not None]
        _plot(axes, one, style.broken_at(one.gaps, [(level.amount, level[key]) for level in known]))
        for level in known:
            if bounds := level.interval(key):
                axes.vlines(level.amount, *bounds, color=one.look["color"], linewidth=1.4, alpha=0.6)
        _void(axes, one, [(level.amount, level[key]) for level in one.void if level[key] is not None])
    _load_axis(axes, every, f"No level has {name}.")
    axes.set(ylabel=name, ylim=(0, None))
    style.plain(axes.yaxis)


def _durations(axes: Axes, every: Sequence[StyledSeries], *, key: str, high: str, name: str) -> None:
    """Draw a duration's median, and dotted its high percentile, on a logarithmic axis."""
    for one in every:
        _plot(axes, one, style.broken_at(one.gaps, style.points(one.believed, key, "p50")))
        if highs := style.broken_at(one.gaps, style.points(one.believed, key, high)):
            look = {**one.look, "linestyle": ":", "markersize": 3.5, "linewidth": 1.3}
            axes.plot(*zip(*highs, strict=True), alpha=0.75, **look)
        style.bounds_by_load(axes, one.believed, key, "p50", high)
        _void(axes, one, list(style.points(one.void, key, "p50")))
    if any(line.get_linestyle() == ":" for line in axes.lines):
        label = f"dotted: {name} {high}; else p50"
        axes.add_line(Line2D([], [], color=style.GREY, linestyle=":", linewidth=1.3, label=label))
    _load_axis(axes, every, f"No level has a {name}.")
    axes.set_ylabel(f"{name}, logarithmic")
    style.logarithmic_y(axes)


def _tradeoff(axes: Axes, every: Sequence[StyledSeries], *, key: str, name: str, rate: tuple[str, str]) -> None:
    """Draw a duration over a rate, given by its key and its name."""
    levels = [level for one in every for level in one.levels]
    part = "p95" if all(level.figure(key, "p95") is not None for level in believed(levels)) else "p50"
    for one in every:
        found = [(level, level.figure(rate[0]), level.figure(key, part)) for level in one.believed]
        known = [(level, (x, y)) for level, x, y in found if x is not None and y is not None]
        _plot(axes, one, style.broken_between(one.gaps, [(level.amount, point) for level, point in known]))
        style.bounds(axes, [point for level, point in known if level.is_bound(key, part)])
        for level, point in {id(known[end][0]): known[end] for end in (0, -1) if known}.values():
            told = {"xytext": (-7, 4), "textcoords": "offset points", "ha": "right", "color": one.look["color"]}
            axes.annotate(f"{level.amount:g}", point, **told)
    if not axes.lines:
        style.empty(axes, f"No level that is not void has a {name} and a rate.")
        return
    axes.grid(visible=True, axis="x")
    style.plain(axes.xaxis)
    better = f"{rate[1]}: lower right is better; a number is a load"
    axes.set(xlim=(0, None), xlabel=better, ylabel=f"{name} {part}, logarithmic")
    style.logarithmic_y(axes)


def _plot(axes: Axes, one: StyledSeries, points: Sequence[tuple[float, float]]) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), label=one.label, **one.look)


def _void(axes: Axes, one: StyledSeries, points: Sequence[tuple[float, float]]) -> None:
    """Draw crosses in the colour of their run's line; they have a name in the legend where no such line is drawn."""
    if points:
        named = any(line.get_label() == one.label for line in axes.lines)
        label = f"_{VOID_CROSS}" if named else f"{one.label}: {VOID_CROSS}"
        axes.plot(*zip(*points, strict=True), "x", color=one.look["color"], markersize=9, label=label, zorder=4)


def _load_axis(axes: Axes, every: Sequence[StyledSeries], nothing: str) -> None:
    levels = [level for one in every for level in one.levels]
    if not any(len(drawn.get_xdata()) for drawn in axes.lines):  # type: ignore[arg-type] # a sequence here
        style.empty(axes, nothing)
        return
    if any(line.get_label() == f"_{VOID_CROSS}" for line in axes.lines):
        axes.add_line(Line2D([], [], color=style.GREY, linestyle="", marker="x", markersize=9, label=VOID_CROSS))
    style.load_axis(axes, {level.amount for level in levels}, axis_of(levels))


def _subtitle(many: Many, *, bars: bool = True) -> str:
    shared, _ = many_report.level_names(many)
    differ = next(many.named.sentences(many.letters)).rstrip(".")
    differ = f"{differ[:1].lower()}{differ[1:]}" if shared else differ
    more = len(styled_series(many)) - MOST_SERIES
    lines = f"{more} more lines are in compare.md" if more > 0 else ""
    return joined("; ", shared, differ, lines, "bars: 95 % intervals" if bars else "")


def _servers(many: Many) -> str:
    """Name each of a few servers once, and the model where all runs have the same; the legend tells which run is of what."""
    names = [measured_on(entry.analysis.summary).partition(" · ") for entry in many.entries]
    servers, models = (list(dict.fromkeys(each)) for each in zip(*((name[0], name[2]) for name in names), strict=True))
    which = ", ".join(servers) if len(servers) <= MOST_SERVERS else counted(len(servers), "server")
    return joined(" · ", counted(len(names), "run"), which, models[0] if len(models) == 1 else "")


def _framed_many(many: Many) -> Analysis:
    """Return what the frame says of all runs: their names, the gravest verdict, what is simulated, what they share."""
    summaries = [entry.analysis.summary for entry in many.entries]
    target = summaries[0]["target"] if all(one["target"] == summaries[0]["target"] for one in summaries) else {}
    hardware = summaries[0].get("hardware", [])
    named = [
        {"name": entry.letter, "server": {"simulated": entry.analysis.summary["simulated"]}} for entry in many.entries
    ]
    return _of_several(
        many.entries[0].analysis,
        [(entry.letter, entry.analysis) for entry in many.entries],
        name=_servers(many),
        server={},  # the name has it
        measured_on="",  # the name has it, too
        target=target,
        group=None,
        groups=named,
        hardware=hardware if all(one.get("hardware", []) == hardware for one in summaries) else [],
    )
