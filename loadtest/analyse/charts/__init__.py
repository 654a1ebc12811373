"""One function per chart, `(axes, data) -> None`, and `draw_all`, which puts them on pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.analyse.charts import (
    against_load,
    distributions,
    drift,
    lengths,
    machine,
    prediction,
    sheet,
    style,
    timeline,
    ttft,
    turns,
)
from loadtest.analyse.reports.pages import BY_LOAD, CAPTIONS
from loadtest.analyse.run import Series, axis_of, evenly, groups, has_tokens
from loadtest.analyse.summary import Analysis
from loadtest.text import joined

PREDICTION = "prediction.png"  # `loadtest predict` may have drawn it there
GUIDES = "lines from point to point only guide the eye; bars: 95 % intervals"


def draw_all(analysis: Analysis, out: Path) -> list[Path]:
    """Draw every chart of a run that shows something into folder `out` and return the PNGs, the most telling first.

    A run of several models or servers gets a folder for each in there; what all of them loaded together is drawn once.
    """
    with mpl.rc_context(style.RC):
        if analysis.groups:
            drawn = [_streams(out, analysis), machine.draw(out / "machine.png", analysis)]
            for number, (group, one) in enumerate(analysis.groups, 1):
                drawn += draw_all(one, out / groups.chart_folder(number, group.name))
        elif has_tokens(*analysis.levels):
            drawn = _draw_with_tokens(analysis, out)
        else:
            drawn = _draw_without_tokens(analysis, out)
    written = [path for path in drawn if path is not None]
    for name in {*CAPTIONS} - {path.name for path in written if path.parent == out} - {PREDICTION}:
        (out / name).unlink(missing_ok=True)  # of an earlier report
    return written


def _draw_with_tokens(analysis: Analysis, out: Path) -> list[Path | None]:
    load = axis_of(analysis.levels).partition(" (")[0]
    rates = against_load.a_stream, against_load.all_streams
    by_output = against_load.wait_by_output, against_load.speed_by_output
    return [
        machine.draw_model_loads(out / "load.png", analysis),
        lengths.draw_lengths(out / "lengths.png", analysis),
        _by_series(out / "ttft.png", analysis, ttft.ttft_parts, ttft.split_title(analysis)),
        turns.draw_turns(out / "turns.png", analysis),
        turns.draw_reread(out / "reread.png", analysis),
        _side_by_side(out / "throughput.png", analysis, rates, analysis.series, against_load.rates_title(analysis)),
        _side_by_side(
            out / "tradeoff.png",
            analysis,
            by_output,
            analysis.series,
            against_load.tradeoff_title(analysis),
            joined("; ", f"a point a level, with its {load} beside it", against_load.without_p95(analysis.levels)),
        ),
        _draw_percentiles(out / "percentiles.png", analysis),
        _timeline(out / "timeline.png", analysis),
        _by_series(out / "ttft-distribution.png", analysis, distributions.ttft, distributions.ttft_title(analysis)),
        _by_series(out / "itl.png", analysis, distributions.itl, distributions.itl_title(analysis)),
        _by_series(out / "itl-tail.png", analysis, distributions.itl_tail, distributions.itl_tail_title(analysis)),
        _of_run(
            out / "drift.png",
            analysis,
            drift.over_time,
            drift.title(analysis),
            "a point a request, coloured by its level's load",
        ),
        _streams(out, analysis),
        prediction.draw(out / PREDICTION, analysis, analysis.curve) if analysis.curve else None,
        machine.draw(out / "machine.png", analysis),
    ]


def _draw_without_tokens(analysis: Analysis, out: Path) -> list[Path | None]:
    rates = against_load.e2e, against_load.input_rate
    return [
        _side_by_side(out / "e2e.png", analysis, rates, analysis.series, against_load.rates_title(analysis)),
        _by_series(out / "e2e-distribution.png", analysis, distributions.e2e, distributions.e2e_title(analysis)),
        _timeline(out / "timeline.png", analysis),
        machine.draw(out / "machine.png", analysis),
    ]


def _save(figure: Figure, path: Path, analysis: Analysis, *said: Any, **more: Any) -> Path | None:
    """Write a page; none that shows nothing, and none of lines by load where one level would make a dot of each line."""
    dots = path.name in BY_LOAD and len(analysis.levels) == 1
    if any(axes.axison for axes in figure.axes) and not dots:
        return sheet.save(figure, path, analysis, *said, **more)
    path.unlink(missing_ok=True)  # of an earlier report
    return None


def _by_series(
    path: Path, analysis: Analysis, chart: Callable[[Axes, Analysis, Series], None], title: str
) -> Path | None:
    """Draw one panel a series (levels of the same lengths), at most six, on one scale."""
    found = analysis.series or [Series("", ())]
    shown = [found[place] for place in evenly(len(found), style.MOST_PANELS)]
    figure, panels = sheet.new(len(shown))
    for place, (axes, series) in enumerate(zip(panels, shown, strict=True)):
        chart(axes, analysis, series)
        if len(shown) > 1 and axes.axison:
            axes.set_title(series.label or "no lengths set")
        if place % style.COLUMNS:
            axes.set_ylabel("")
    subtitle = found[0].label if len(found) == 1 else "one panel for each combination of lengths"
    if len(found) > len(shown):
        subtitle += f"; {len(found) - len(shown)} more are in the report's tables"
    if chart in (distributions.ttft, distributions.e2e, distributions.itl, distributions.itl_tail):
        subtitle = joined("; ", subtitle, style.left_out(max((each.levels for each in shown), key=len)))
    return _save(figure, path, analysis, title, subtitle)


def _side_by_side(
    path: Path, analysis: Analysis, charts: Sequence[Callable[..., Any]], found: Any, title: str, subtitle: str = GUIDES
) -> Path | None:
    """Draw two figures of `found`, the series or one of them; what a chart returns are names, written at last."""
    figure, panels = sheet.new(2, columns=2, share_y=False)
    names = [chart(axes, analysis, found) for axes, chart in zip(panels, charts, strict=True)]
    return _save(figure, path, analysis, title, subtitle, at_last=[each.write for each in names if each])


def _draw_percentiles(path: Path, analysis: Analysis) -> Path | None:
    """Draw TTFT and E2E of one series, or TTFT of each of several."""
    found, title = analysis.series, against_load.percentiles_title(analysis)
    if len(found) != 1:
        return _by_series(path, analysis, against_load.ttft_percentiles, title)
    said = joined("; ", found[0].label, "a percentile of too few requests is left out: p95 needs 20, p99 needs 100")
    both = against_load.ttft_percentiles, against_load.e2e_percentiles
    return _side_by_side(path, analysis, both, found[0], title, said)


def _timeline(path: Path, analysis: Analysis) -> Path | None:
    level = timeline.pick(analysis)
    if level is None:
        return None
    rows, title = partial(timeline.request_rows, level=level), timeline.title(analysis, level)
    return _of_run(path, analysis, rows, title, style.or_void(level["label"], level), height=6.4)


def _streams(out: Path, analysis: Analysis) -> Path | None:
    return _of_run(out / "streams.png", analysis, machine.streams, machine.streams_title(analysis))


def _of_run(
    path: Path,
    analysis: Analysis,
    chart: Callable[[Axes, Analysis], None],
    title: str,
    subtitle: str = "",
    *,
    height: float = 4.8,
) -> Path | None:
    figure, (axes,) = sheet.new(1, height=height)
    chart(axes, analysis)
    return _save(figure, path, analysis, title, subtitle)
