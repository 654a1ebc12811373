"""Tokens a second against concurrency or rate, of one stream and of all together; of answers without text E2E and input tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes

from loadtest.analyse.charts import style
from loadtest.analyse.charts.lettering import apart
from loadtest.analyse.charts.void_levels import crosses, edge_of
from loadtest.analyse.findings.run_findings import as_title, range_of_e2e, saturation
from loadtest.analyse.findings.slot_findings import believed_slots
from loadtest.analyse.run.levels import LevelData, Series, axis_of, believed
from loadtest.analyse.summary import Analysis
from loadtest.text import number

FIGURES_APART = 0.12  # of an axis' width: figures beside points are no nearer


def a_stream(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median decode speed that one user sees, with its 95 % interval."""
    _draw_series(axes, analysis, all_series, "stream_tokens_per_s", "p50")
    axes.set(title="a stream: what one user sees (median 1 / TPOT)", ylabel="tokens/s a stream")


def all_streams(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the output of all streams together, with its 95 % interval."""
    _draw_series(axes, analysis, all_series, "output_tokens_per_s")
    windows = {
        level["window"]["throughput_over"] for series in all_series for level in series.levels if level["window"]
    }
    over = " or ".join(sorted(windows)) or "nothing"
    axes.set(title=f"in all: output throughput ({over})", ylabel="output tokens/s, all streams")


def e2e(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw the median E2E with its 95 % interval, in milliseconds."""
    _draw_series(axes, analysis, all_series, "e2e_s", "p50", factor=1e3)
    axes.set(title="a request: median E2E", ylabel="E2E (ms)")


def input_rate(axes: Axes, analysis: Analysis, all_series: Sequence[Series]) -> None:
    """Draw how many input tokens a second the server takes, with the 95 % interval."""
    _draw_series(axes, analysis, all_series, "input_tokens_per_s")
    axes.set(title="in all: input tokens", ylabel="input tokens/s")


def _draw_series(
    axes: Axes, analysis: Analysis, all_series: Sequence[Series], name: str, part: str = "mean", factor: float = 1.0
) -> None:
    """Draw a figure times a factor, a line a series through its levels; void ones are crosses beside it, without their figures."""
    levels = [level for series in all_series for level in series.levels]
    users = sorted({load for load, _ in _points(levels, name, part, factor)})
    if not users:
        style.empty(axes, "No request ended well, so there is no speed to show.")
        return
    quoted = [value for _, value in _points(believed(levels), name, part, factor)]
    for i, series in enumerate(all_series):
        crosses(axes, _points(series.void, name, part, factor), edge_of(quoted))
        line = _points(series.believed, name, part, factor)
        if not line:
            continue
        look = style.line_look(i)
        label = (series.label or "no lengths set") if len(all_series) > 1 else None
        axes.plot(*zip(*line, strict=True), **look, label=label)
        for level in series.believed:
            if level.amount and (bounds := level.interval(name, part)):
                low, high = (end * factor for end in bounds)
                axes.vlines(level.amount, low, high, color=look["color"], linewidth=1.4, alpha=0.6)
        if len(all_series) == 1:
            _write_figures(axes, line, users)
    highest = max(quoted, default=axes.get_ylim()[1])
    style.from_zero(axes, highest, 1.14)  # room for figures, and above them for the slots' label
    style.plain(axes.yaxis)
    style.load_axis(axes, users, axis_of(levels))
    slots = believed_slots(analysis).number
    if slots is not None and min(users) <= slots < max(users) and not any(level.is_open for level in levels):
        style.slots_line(axes, slots, slots)


def _points(levels: Iterable[LevelData], name: str, part: str, factor: float) -> list[tuple[float, float]]:
    """Return the load and a figure, times a factor, of the levels of which both are known."""
    known = [(level.amount, level.figure(name, part)) for level in levels]
    return [(load, value * factor) for load, value in known if load and value is not None]


def _write_figures(axes: Axes, line: Sequence[tuple[float, float]], users: Sequence[float]) -> None:
    away = 1 if line[-1][1] < line[0][1] else -1  # a figure stands on the side that the line does not take
    written = apart([load for load, _ in line], style.share_as_factor(users, FIGURES_APART))
    for load, value in line:
        if load in written:
            axes.annotate(
                number(value),
                (load, value),
                xytext=(5 * away, 5),
                textcoords="offset points",
                ha="left" if away > 0 else "right",
                fontsize=8.5,
                path_effects=style.HALO,
            )


def title(analysis: Analysis) -> str:
    """Say from where on more load brings nothing."""
    return as_title(analysis, saturation) or "Tokens a second of one stream and of all together"


def title_without_tokens(analysis: Analysis) -> str:
    """Say how E2E and the rate of input tokens change with the load."""
    return as_title(analysis, range_of_e2e) or "E2E and input tokens a second"
