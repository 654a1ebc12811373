"""Charts by load show what was seen of a void level, and neither draw a line through it nor write its figures."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from support.virtual_runs import Load, play

from loadtest.analyse.charts import against_load, drift, prediction, sheet, style, timeline, ttft
from loadtest.analyse.charts.style import BEYOND, VOID_LABEL, or_void
from loadtest.analyse.findings.step_findings import steps_findings
from loadtest.analyse.run.levels import series_of
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import Analysis, analyse
from loadtest.doubts import VOID
from loadtest.simulate.model.timing import StepLaw, Timing

SERVER = Timing(step=StepLaw(base_s=0.02, per_stream_s=0.002), prefill_s=0.0001, jitter=0.02)
USERS = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    loads = [Load(users=users, requests=40) for users in USERS]
    return analyse(play(SERVER, loads, slots=4).write(tmp_path_factory.mktemp("void") / "run"))


@pytest.fixture
def found(measured: Analysis) -> Analysis:
    """A run whose level of four users is void; a test may say more of its levels."""
    one = dataclasses.replace(measured, summary=copy.deepcopy(measured.summary))
    one.summary["levels"][2]["verdict"] = VOID
    return one


def drawn(chart: Callable[..., object], *given: Any) -> Axes:
    with mpl.rc_context(style.RC):
        _, (axes,) = sheet.new(1)
        chart(axes, *given)
    return axes


def lines(axes: Axes) -> dict[str, list[list[float | None]]]:
    """Return the x of all lines with more than a point or a cross, None for a gap, by "line" and "void"."""
    named: dict[str, list[list[float | None]]] = {"line": [], "void": []}
    for line in axes.lines:
        x: Any = line.get_xdata()
        if line.get_label() == VOID_LABEL or len(x) > 2:
            points: Any = zip(x, line.get_ydata(), strict=True)  # type: ignore[arg-type]
            seen = [None if math.isnan(y) else float(value) for value, y in points]
            named["void" if line.get_label() == VOID_LABEL else "line"].append(seen)
    return named


@pytest.mark.parametrize(
    ("chart", "of_all"),
    [
        (against_load.a_stream, True),
        (against_load.all_streams, True),
        (against_load.ttft_percentiles, False),
        (against_load.e2e_percentiles, False),
    ],
)
def test_no_line_goes_through_a_void_level(found: Analysis, chart: Callable[..., object], *, of_all: bool) -> None:
    series = series_of(found.summary["levels"])
    seen = lines(drawn(chart, found, series if of_all else series[0]))
    assert seen["line"]
    assert all(line == [1, 2, None, 8] for line in seen["line"])  # from 2 to 8 it told a figure at 4
    assert {load for line in seen["void"] for load in line} == {4}


def test_the_trade_off_has_a_cross_for_it(found: Analysis) -> None:
    (void,) = lines(drawn(against_load.wait_by_output, found, series_of(found.summary["levels"])))["void"]
    assert void == [found.summary["levels"][2]["output_tokens_per_s"]]


def test_its_requests_over_time_are_crosses_without_a_median(found: Analysis) -> None:
    axes = drawn(drift.over_time, found)
    (crosses,) = [line for line in axes.lines if line.get_label() == VOID_LABEL]
    assert len(crosses.get_xdata()) == 40  # type: ignore[arg-type]
    medians = [segment for each in axes.collections for segment in each.get_segments()]  # type: ignore[attr-defined]
    assert medians
    sent = found.run.column("send")[found.run.good(found.summary["levels"][2]["index"])]
    assert not any(sent.min() <= segment[0][0] <= sent.max() for segment in medians)


def test_its_bar_is_hatched_and_has_no_figure(found: Analysis) -> None:
    axes = drawn(ttft.ttft_parts, found, series_of(found.summary["levels"])[0])
    (hatched,) = [bar for bar in axes.patches if bar.get_hatch()]
    assert hatched.get_x() < 2 < hatched.get_x() + hatched.get_width()  # type: ignore[attr-defined]
    assert sum(text.get_text().endswith("s") for text in axes.get_xticklabels()) == 3


def test_legends_name_it(found: Analysis) -> None:
    assert [or_void(level.load, level) for level in found.summary["levels"]][1:3] == ["2 streams", "4 streams, void"]


def test_the_predicted_curve_rests_on_none_of_it(found: Analysis) -> None:
    curve = found.curve
    assert curve is not None
    assert curve.series.concurrencies == (1, 2, 8)


def test_what_steps_take_is_said_with_a_doubt_and_not_at_all_where_every_level_is_void(found: Analysis) -> None:
    assert all("Void levels are part of that" in each.evidence for each in steps_findings(found) if each.evidence)
    for level in found.summary["levels"]:
        level["verdict"] = VOID
        assert level["ttft_s"]["mean"] is not None
    assert steps_findings(found) == []


def test_a_prediction_past_the_slots_of_a_void_level_names_them(tmp_path: Path) -> None:
    """The title promised 8 streams a TTFT of 892 ms; the void level of 8, with four slots taken, had seen 1.6 s."""
    one = analyse(play(SERVER, [Load(users=users, requests=40) for users in USERS], slots=4).write(tmp_path / "run"))
    one.summary["levels"][3]["verdict"] = VOID
    curve = one.curve
    assert curve is not None
    assert ", if the server has slots for as many, and not the 4 that void levels show" in prediction.title(one, curve)


@pytest.mark.parametrize("chart", [against_load.a_stream, against_load.speed_by_output])
def test_an_absurd_figure_of_a_void_level_does_not_set_the_scale(found: Analysis, chart: Callable[..., object]) -> None:
    """Of 40 levels under load, one had 55,000 tokens/s a stream: those to be quoted lay on the axis, all as if 0."""
    before = drawn(chart, found, series_of(found.summary["levels"])).get_ylim()[1]
    found.summary["levels"][2]["stream_tokens_per_s"]["p50"] = 55_000.0
    axes = drawn(chart, found, series_of(found.summary["levels"]))
    assert axes.get_ylim()[1] < 7 * before
    assert BEYOND in [line.get_label() for line in axes.lines]


def test_the_one_level_of_a_chart_is_not_void_where_another_shows_the_same(found: Analysis) -> None:
    """The timeline was that of a void level, without a word of it."""
    levels = found.summary["levels"]
    no_slots = dataclasses.replace(found, slots=Slots(None, limit=False, method=""))
    levels[3]["verdict"] = VOID
    shown = timeline.pick(found)
    assert shown is not None
    assert or_void("8 streams", shown) == "8 streams, void"  # no other level is past the slots
    assert shown is levels[3]
    assert timeline.pick(no_slots) is levels[1]
