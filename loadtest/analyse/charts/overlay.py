"""Several runs over each other: output, TTFT and the gaps between tokens against load, and throughput against latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from loadtest.analyse.charts import style
from loadtest.analyse.comparison import many_report
from loadtest.analyse.comparison.differences import OF_REQUESTS
from loadtest.analyse.comparison.many import Entry, Many
from loadtest.analyse.findings.measured_on import measured_on
from loadtest.analyse.run.levels import LevelData, axis_of, believed, series_of
from loadtest.analyse.summary import Analysis
from loadtest.text import counted, joined

VOID_CROSS = "void, not compared"
MOST_DRAWN = 14  # series of one chart; more are in the tables


@dataclass(frozen=True, slots=True)
class StyledSeries:
    """The levels of a run that differ in load alone, as a line of every panel."""

    label: str
    levels: tuple[LevelData, ...]
    look: dict[str, Any]

    @property
    def good(self) -> list[LevelData]:
        return [level for level in believed(self.levels) if level.amount]

    @property
    def void(self) -> list[LevelData]:
        return [level for level in self.levels if level.is_void and level.amount]


Panel = Callable[[Axes, Sequence[StyledSeries]], None]


def draw(many: Many, path: Path) -> Path:
    """Write all four panels on one page."""
    with mpl.rc_context(style.RC):
        figure_, panels = style.page(4, columns=2, height=4.4, share_y=False)
        for axes, (_, _, panel) in zip(panels, _panels(many), strict=True):
            panel(axes, styled_series(many)[:MOST_DRAWN])
        return style.save(figure_, path, _framed(many), many_report.outcome(many)[0].rstrip("."), _subtitle(many))


def draw_each(many: Many, out: Path) -> list[Path]:
    """Write each panel as a PNG of its own into a folder."""
    written = []
    with mpl.rc_context(style.RC):
        for name, title, panel in _panels(many):
            figure_, (axes,) = style.page(1, height=5.2)
            panel(axes, styled_series(many)[:MOST_DRAWN])
            written.append(
                style.save(
                    figure_, out / f"{name}.png", _framed(many), title, _subtitle(many, bars=bool(axes.collections))
                )
            )
    return written


def _panels(many: Many) -> tuple[tuple[str, str, Panel], ...]:
    """Return each panel's file, title and what draws it."""
    if many.metrics == OF_REQUESTS:
        return (
            ("requests", "Requests a second against load", _rate("requests_per_s", "requests/s")),
            ("e2e", "E2E against load", _latency("e2e_s", "p95", "E2E")),
            ("tradeoff", "Throughput against latency", _tradeoff("e2e_s", "E2E", "requests_per_s", "requests/s")),
            ("input", "Input tokens a second against load", _rate("input_tokens_per_s", "input tokens/s")),
        )
    output = "output tokens/s, all streams"
    return (
        ("throughput", "Output against load", _rate("output_tokens_per_s", output)),
        ("ttft", "TTFT against load", _latency("ttft_s", "p95", "TTFT")),
        ("tradeoff", "Throughput against latency", _tradeoff("ttft_s", "TTFT", "output_tokens_per_s", output)),
        ("itl", "Gaps between tokens against load", _latency("itl_s", "p99", "ITL")),
    )


def styled_series(many: Many) -> list[StyledSeries]:
    """Return a line a run, of a run with several combinations of lengths one for each."""
    found = [(entry, series) for entry in many.entries for series in series_of(entry.levels)]
    all_simulated = all(entry.analysis.summary["simulated"] for entry in many.entries)  # then the badge says so
    several = len({series.label for _, series in found}) > 1
    return [
        StyledSeries(
            joined(" · ", _label(entry, marked=not all_simulated), series.label if several else ""),
            series.levels,
            style.line_look(i),
        )
        for i, (entry, series) in enumerate(found)
    ]


def _label(entry: Entry, *, marked: bool) -> str:
    """Return a run's name in the legend; where it is to be marked, one of a simulated server says so."""
    simulated = marked and entry.analysis.summary["simulated"] and "simulated" not in entry.name
    return f"{entry.letter} {entry.name}" + (" (simulated)" if simulated else "")


def _rate(key: str, name: str) -> Panel:
    def panel(axes: Axes, every: Sequence[StyledSeries]) -> None:
        for one in every:
            known = [level for level in one.good if level[key] is not None]
            _plot(axes, one, [(level.amount, level[key]) for level in known])
            for level in known:
                if bounds := level.interval(key):
                    at = level.amount
                    axes.vlines(at, *bounds, color=one.look["color"], linewidth=1.4, alpha=0.6)
            _void(axes, one, [(level.amount, level[key]) for level in one.void if level[key] is not None])
        _load_axis(axes, every, f"No level has {name}.")
        axes.set_ylabel(name)
        axes.set_ylim(bottom=0)
        style.plain(axes.yaxis)

    return panel


def _latency(key: str, high: str, name: str) -> Panel:
    """Draw a duration's median, and dotted its high percentile, on a logarithmic axis."""

    def panel(axes: Axes, every: Sequence[StyledSeries]) -> None:
        for one in every:
            _plot(axes, one, list(style.points(one.good, key, "p50")))
            if highs := list(style.points(one.good, key, high)):
                look = {**one.look, "linestyle": ":", "markersize": 3.5, "linewidth": 1.3}
                axes.plot(*zip(*highs, strict=True), alpha=0.75, **look)
            _void(axes, one, list(style.points(one.void, key, "p50")))
        if any(line.get_linestyle() == ":" for line in axes.lines):
            label = f"dotted: {name} {high}; else p50"
            axes.add_line(Line2D([], [], color=style.GREY, linestyle=":", linewidth=1.3, label=label))
        _load_axis(axes, every, f"No level has a {name}.")
        axes.set_ylabel(f"{name}, logarithmic")
        _logarithmic_y(axes)

    return panel


def _tradeoff(key: str, name: str, rate: str, rate_name: str) -> Panel:
    def panel(axes: Axes, every: Sequence[StyledSeries]) -> None:
        levels = [level for one in every for level in one.levels]
        part = "p95" if all(level.figure(key, "p95") is not None for level in believed(levels)) else "p50"
        for one in every:
            known = [(level.figure(rate), level.figure(key, part)) for level in one.good]
            _plot(axes, one, [(x, y) for x, y in known if x is not None and y is not None])
        if not axes.lines:
            style.empty(axes, f"No level that is not void has a {name} and a rate.")
            return
        axes.grid(visible=True, axis="x")
        axes.set_xlim(left=0)
        style.plain(axes.xaxis)
        axes.set_xlabel(f"{rate_name}: lower right is better")
        axes.set_ylabel(f"{name} {part}, logarithmic")
        _logarithmic_y(axes)

    return panel


def _plot(axes: Axes, one: StyledSeries, points: Sequence[tuple[float, float]]) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), label=one.label, **one.look)


def _void(axes: Axes, one: StyledSeries, points: Sequence[tuple[float, float]]) -> None:
    """Draw crosses in the colour of their line, whose name in the legend theirs is: they have one of their own without it."""
    if points:
        named = any(line.get_label() == one.label for line in axes.lines)
        label = f"_{VOID_CROSS}" if named else f"{one.label}: {VOID_CROSS}"
        axes.plot(*zip(*points, strict=True), "x", color=one.look["color"], markersize=9, label=label, zorder=4)


def _load_axis(axes: Axes, every: Sequence[StyledSeries], nothing: str) -> None:
    levels = [level for one in every for level in one.levels if level.amount]
    if not any(len(drawn.get_xdata()) for drawn in axes.lines):  # type: ignore[arg-type] # a sequence here
        style.empty(axes, nothing)
        return
    if any(line.get_label() == f"_{VOID_CROSS}" for line in axes.lines):
        axes.add_line(Line2D([], [], color=style.GREY, linestyle="", marker="x", markersize=9, label=VOID_CROSS))
    style.load_axis(axes, {level.amount for level in levels}, axis_of(levels))


def _logarithmic_y(axes: Axes) -> None:
    low, high = style.logarithmic_y(axes)
    if high < 4 * low:
        axes.set_ylim(low / 1.5, high * 1.5)


def _subtitle(many: Many, *, bars: bool = True) -> str:
    shared, _ = many_report.level_names(many)
    differ = next(many.named.sentences(many.letters)).rstrip(".")
    said = [shared, f"{differ[:1].lower()}{differ[1:]}"] if shared else [differ]
    if (more := len(styled_series(many)) - MOST_DRAWN) > 0:
        said.append(f"{more} more lines are in compare.md")
    return "; ".join([*said, *(["bars: 95 % intervals"] if bars else [])])


def _servers(many: Many) -> str:
    """Name each server once, and the model where all runs have the same; the legend tells which run is of what."""
    names = [measured_on(entry.analysis.summary).partition(" · ") for entry in many.entries]
    servers, models = (list(dict.fromkeys(each)) for each in zip(*((name[0], name[2]) for name in names), strict=True))
    return joined(" · ", counted(len(names), "run"), ", ".join(servers), models[0] if len(models) == 1 else "")


def _framed(many: Many) -> Analysis:
    """Return what the frame says of all runs: their names, the gravest verdict, what is simulated, what they share."""
    summaries = [entry.analysis.summary for entry in many.entries]
    target = summaries[0]["target"] if all(one["target"] == summaries[0]["target"] for one in summaries) else {}
    hardware = summaries[0].get("hardware", [])
    named = [
        {"name": entry.letter, "server": {"simulated": entry.analysis.summary["simulated"]}} for entry in many.entries
    ]
    return style.framed(
        many.entries[0].analysis,
        summaries,
        _servers(many),
        server={},  # the name has it
        measured_on="",  # the name has it, too
        target=target,
        group=None,
        groups=named,
        hardware=hardware if all(one.get("hardware", []) == hardware for one in summaries) else [],
    )
