"""One function per chart, `(axes, data) -> None`, and `draw_all`, which puts them on pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from loadtest.analyse import advise
from loadtest.analyse.charts import depth, itl, machine, prediction, style, throughput, timeline, ttft
from loadtest.analyse.predict import Model
from loadtest.analyse.series import Series, series_of
from loadtest.analyse.summary import Analysis
from loadtest.errors import PredictionError

SeriesChart = Callable[[Axes, Analysis, Series], None]


def draw_all(analysis: Analysis, out: Path) -> list[Path]:
    """Draw every chart of a run into folder `out` and return the PNGs, the most telling first."""
    out.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(style.RC):
        return [
            _by_series(out / "ttft.png", analysis, ttft.split, ttft.split_title(analysis)),
            _throughput(out / "throughput.png", analysis),
            _timeline(out / "timeline.png", analysis),
            _by_series(out / "ttft-distribution.png", analysis, ttft.distribution, ttft.distribution_title(analysis)),
            _by_series(out / "itl.png", analysis, itl.distribution, itl.title(analysis)),
            _depth(out / "streams.png", analysis),
            *_prediction(out / "prediction.png", analysis),
            *filter(None, [machine.draw(out / "machine.png", analysis)]),
        ]


def _by_series(path: Path, analysis: Analysis, chart: SeriesChart, title: str) -> Path:
    """Draw one panel a series (levels of the same lengths), at most six, on one scale."""
    found = series_of(analysis.summary["levels"]) or [Series("", ())]
    shown = found[: style.MOST_PANELS]
    figure, panels = style.page(len(shown))
    for place, (axes, series) in enumerate(zip(panels, shown, strict=True)):
        chart(axes, analysis, series)
        if len(shown) > 1 and axes.axison:
            axes.set_title(series.label or "no lengths set")
        if place % style.COLUMNS:
            axes.set_ylabel("")
    subtitle = found[0].label if len(found) == 1 else "one panel for each combination of lengths"
    if len(found) > len(shown):
        subtitle += f"; {len(found) - len(shown)} more are in the report's tables"
    return style.save(figure, path, analysis, title, subtitle)


def _throughput(path: Path, analysis: Analysis) -> Path:
    found = series_of(analysis.summary["levels"])
    figure, (left, right) = style.page(2, columns=2, share_y=False)
    throughput.a_stream(left, analysis, found)
    throughput.in_all(right, analysis, found)
    subtitle = "lines from point to point only guide the eye; bars: 95 % intervals"
    return style.save(figure, path, analysis, throughput.title(analysis), subtitle)


def _timeline(path: Path, analysis: Analysis) -> Path:
    level = timeline.pick(analysis)
    figure, (axes,) = style.page(1, height=6.4)
    if level is None:
        style.empty(axes, "The run has no level.")
        return style.save(figure, path, analysis, "No request was recorded")
    timeline.requests(axes, analysis, level)
    return style.save(figure, path, analysis, timeline.title(analysis, level), level["label"])


def _prediction(path: Path, analysis: Analysis) -> list[Path]:
    """Draw measured beside predicted, where the run holds a closed loop and says enough to predict from."""
    group = advise.busiest(analysis.run)
    if group is None or len(group.concurrencies) < 2:
        return []
    try:
        model = Model.of(analysis.run, analysis.slots, analysis.steps)
    except PredictionError:
        return []
    model = advise.narrowed(model, analysis.run, group.levels)
    return [prediction.draw(path, analysis, group, advise.curve(model, group.concurrencies))]


def _depth(path: Path, analysis: Analysis) -> Path:
    figure, (axes,) = style.page(1, height=4.8)
    depth.over_time(axes, analysis)
    return style.save(figure, path, analysis, depth.title(analysis))
