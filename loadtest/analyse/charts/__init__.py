"""One function per chart, `(axes, data) -> None`, and `draw_all`, which puts them on pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from loadtest.analyse.charts import conversations, itl, prompt_length, style
from loadtest.analyse.charts.by_load import embeddings, percentiles, prediction, throughput, tradeoff, ttft
from loadtest.analyse.charts.over_time import cold_load, depth, drift, machine, timeline
from loadtest.analyse.run import groups, offered_load
from loadtest.analyse.run.series import Series, series_of
from loadtest.analyse.summary import Analysis, has_tokens
from loadtest.analyse.whatif.predictions.prediction_chart import CurveAhead

SeriesChart = Callable[[Axes, Analysis, Series], None]


def draw_all(analysis: Analysis, out: Path, ahead: CurveAhead | None = None) -> list[Path]:
    """Draw every chart of a run into folder `out` and return the PNGs, the most telling first.

    A run of several models or servers gets a folder for each in there; what all of them loaded together is drawn once.
    `ahead` is the run's predicted curve where it was begun already.
    """
    out.mkdir(parents=True, exist_ok=True)
    if analysis.groups:
        return _draw_together(analysis, out)
    if not has_tokens(*analysis.summary["levels"]):
        return _draw_without_tokens(analysis, out)
    ahead = ahead or prediction.curve_of(analysis)
    with mpl.rc_context(style.RC):
        return [
            *filter(
                None, [cold_load.draw(out / "load.png", analysis), prompt_length.draw(out / "lengths.png", analysis)]
            ),
            _by_series(out / "ttft.png", analysis, ttft.ttft_parts, ttft.split_title(analysis)),
            *filter(
                None,
                [
                    conversations.draw_turns(out / "turns.png", analysis),
                    conversations.draw_reread(out / "reread.png", analysis),
                ],
            ),
            _draw_throughput(out / "throughput.png", analysis),
            _draw_tradeoff(out / "tradeoff.png", analysis),
            _draw_percentiles(out / "percentiles.png", analysis),
            _timeline(out / "timeline.png", analysis),
            _by_series(out / "ttft-distribution.png", analysis, ttft.distribution, ttft.distribution_title(analysis)),
            _by_series(out / "itl.png", analysis, itl.distribution, itl.title(analysis)),
            _by_series(out / "itl-tail.png", analysis, itl.tail, itl.tail_title(analysis)),
            _drift(out / "drift.png", analysis),
            _depth(out / "streams.png", analysis),
            *_prediction(out / "prediction.png", analysis, ahead),
            *filter(None, [None if "group" in analysis.summary else machine.draw(out / "machine.png", analysis)]),
        ]


def _draw_without_tokens(analysis: Analysis, out: Path) -> list[Path]:
    """Draw the charts of a run whose answers have no text."""
    found = series_of(analysis.summary["levels"])
    with mpl.rc_context(style.RC):
        figure, (left, right) = style.page(2, columns=2, share_y=False)
        embeddings.e2e(left, analysis, found)
        embeddings.input_rate(right, analysis, found)
        subtitle = "lines from point to point only guide the eye; bars: 95 % intervals"
        return [
            style.save(figure, out / "e2e.png", analysis, embeddings.title(analysis), subtitle),
            _by_series(out / "e2e-distribution.png", analysis, embeddings.distribution, "Time to the whole answer"),
            _timeline(out / "timeline.png", analysis),
            *filter(None, [None if "group" in analysis.summary else machine.draw(out / "machine.png", analysis)]),
        ]


def _draw_together(analysis: Analysis, out: Path) -> list[Path]:
    with mpl.rc_context(style.RC):
        drawn = [_depth(out / "streams.png", analysis), *filter(None, [machine.draw(out / "machine.png", analysis)])]
    for number, (group, one) in enumerate(analysis.groups, 1):
        drawn += draw_all(one, out / groups.chart_folder(number, group.name))
    return drawn


def _by_series(path: Path, analysis: Analysis, chart: SeriesChart, title: str) -> Path:
    """Draw one panel a series (levels of the same lengths), at most six, on one scale."""
    found = series_of(analysis.summary["levels"]) or [Series("", ())]
    shown = [found[place] for place in style.spread(len(found), style.MOST_PANELS)]
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
    if chart in (ttft.distribution, itl.distribution, itl.tail):
        subtitle = "; ".join(filter(None, (subtitle, style.left_out(max((each.levels for each in shown), key=len)))))
    return style.save(figure, path, analysis, title, subtitle)


def _draw_throughput(path: Path, analysis: Analysis) -> Path:
    found = series_of(analysis.summary["levels"])
    figure, (left, right) = style.page(2, columns=2, share_y=False)
    throughput.a_stream(left, analysis, found)
    throughput.all_streams(right, analysis, found)
    subtitle = "lines from point to point only guide the eye; bars: 95 % intervals"
    return style.save(figure, path, analysis, throughput.title(analysis), subtitle)


def _draw_tradeoff(path: Path, analysis: Analysis) -> Path:
    found = series_of(analysis.summary["levels"])
    figure, (left, right) = style.page(2, columns=2, share_y=False)
    names = tradeoff.ttft(left, analysis, found), tradeoff.speed(right, analysis, found)
    levels = analysis.summary["levels"]
    subtitle = f"a point a level, with its {offered_load.axis(levels).partition(' (')[0]} beside it"
    subtitle = "; ".join(filter(None, (subtitle, tradeoff.left_out(levels))))
    write = [each.write for each in names]
    return style.save(figure, path, analysis, tradeoff.title(analysis), subtitle, at_last=write)


def _draw_percentiles(path: Path, analysis: Analysis) -> Path:
    """Draw TTFT and E2E of one series, or TTFT of each of several."""
    found = series_of(analysis.summary["levels"])
    title = percentiles.title(analysis)
    if len(found) != 1:
        return _by_series(path, analysis, percentiles.ttft, title)
    figure, (left, right) = style.page(2, columns=2, share_y=False)
    percentiles.ttft(left, analysis, found[0])
    percentiles.e2e(right, analysis, found[0])
    said = "a percentile of too few requests is left out: p95 takes 20, p99 takes 100"
    return style.save(figure, path, analysis, title, "; ".join(filter(None, (found[0].label, said))))


def _drift(path: Path, analysis: Analysis) -> Path:
    figure, (axes,) = style.page(1, height=4.8)
    drift.over_time(axes, analysis)
    return style.save(figure, path, analysis, drift.title(analysis), "a point a request, coloured by its level's load")


def _timeline(path: Path, analysis: Analysis) -> Path:
    level = timeline.pick(analysis)
    figure, (axes,) = style.page(1, height=6.4)
    if level is None:
        style.empty(axes, "The run has no level.")
        return style.save(figure, path, analysis, "No request was recorded")
    timeline.request_rows(axes, analysis, level)
    return style.save(figure, path, analysis, timeline.title(analysis, level), level["label"])


def _prediction(path: Path, analysis: Analysis, ahead: CurveAhead) -> list[Path]:
    """Draw measured beside predicted, where there is a prediction."""
    if any(level.get("beside") for level in analysis.summary["levels"]):
        return []  # the model knows no load of others beside its own
    found = ahead.result(analysis.summary["levels"])
    return [] if found is None else [prediction.draw(path, analysis, found)]


def _depth(path: Path, analysis: Analysis) -> Path:
    figure, (axes,) = style.page(1, height=4.8)
    depth.over_time(axes, analysis)
    return style.save(figure, path, analysis, depth.title(analysis))
