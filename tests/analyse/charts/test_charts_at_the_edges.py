"""Charts of very few and very many requests, of tiny and huge figures, and of long names."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from support.drawn import labels_apart, one_request
from support.made_runs import Made, closed_loop, grid, make, unanswered, write

from loadtest.analyse.charts import against_load, distributions, drift, machine, sheet, style, timeline, ttft
from loadtest.analyse.reports.answers import _slots
from loadtest.analyse.run.levels import LevelData, series_of
from loadtest.analyse.summary import Analysis, analyse
from loadtest.doubts import SUSPECT
from loadtest.records import Outcome, Record
from loadtest.text import seconds


def of_two_lengths(path: Path) -> Analysis:
    """A run of two series, of which the second waits far longer than the first, and has by far the more gaps."""
    levels: list[dict[str, Any]] = []
    records: list[Record] = []
    for tokens, users in itertools.product((8, 200), (1, 16)):
        start = max((record.t_end for record in records), default=0) + 1_000_000
        made = Made(tokens=tokens)
        part = closed_loop(
            made, level=len(levels), users=users, requests=2 * users, start_ns=start, first_id=len(records)
        )
        facts = {"input_tokens": 100, "output_tokens": tokens, "words": None, "rate": None}
        levels.append({"index": len(levels), "concurrency": users, **facts})
        records += part.records
    return analyse(write(path, records, levels))


@pytest.mark.parametrize("chart", [against_load.ttft_percentiles, distributions.itl_tail])
@pytest.mark.parametrize("turned", [False, True])
def test_panels_on_one_axis_hold_the_lines_of_all(tmp_path: Path, chart: Any, *, turned: bool) -> None:
    analysis = of_two_lengths(tmp_path / "run")
    _, panels = sheet.new(2)
    found = series_of(analysis.summary["levels"])
    for axes, series in zip(panels, found[::-1] if turned else found, strict=True):
        chart(axes, analysis, series)
    low, high = panels[0].get_ylim()
    for line in itertools.chain.from_iterable(axes.lines for axes in panels):
        drawn: Any = line.get_ydata()
        assert all(low <= value <= high for value in drawn)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Outcome.OK, "has a median of TTFT above 0"),
        (Outcome.HTTP_ERROR, "has enough requests for a median of TTFT"),
    ],
)
def test_durations_of_nothing_have_no_place_on_a_logarithmic_axis(outcome: Outcome, said: str, tmp_path: Path) -> None:
    """Where every TTFT was 0, `report` ended in a traceback."""
    levels, truth = grid(Made(), (1, 2), each=4)
    at_once = [replace(one, t_first_token=one.t_send, t_first_visible=one.t_send) for one in truth.records]
    records = at_once if outcome is Outcome.OK else [unanswered(one, outcome) for one in at_once]
    analysis = analyse(write(tmp_path / "run", records, levels))
    _, (axes,) = sheet.new(1)
    against_load.ttft_percentiles(axes, analysis, series_of(analysis.summary["levels"])[0])
    assert [text.get_text() for text in axes.texts] == [f"No level {said}."]


def test_the_timeline_of_many_streams_shows_the_level_and_not_its_warm_up(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(slots=32, tokens=5), users=(64,), each=2)
    analysis = analyse(tmp_path / "run")
    _, (axes,) = sheet.new(1)
    timeline.request_rows(axes, analysis, analysis.summary["levels"][0])
    assert axes.get_ylabel() == "requests 65 to 112 of 192 sent"
    assert axes.get_legend_handles_labels()[1][0] == "slot wait"
    assert axes.get_xlim()[0] > 0


def test_the_timeline_of_one_request_numbers_no_other(tmp_path: Path) -> None:
    one_request(tmp_path / "run")
    analysis = analyse(tmp_path / "run")
    figure, (axes,) = sheet.new(1)
    timeline.request_rows(axes, analysis, analysis.summary["levels"][0])
    figure.draw_without_rendering()
    assert [text.get_text() for text in axes.get_yticklabels() if text.get_text()] == ["1"]
    assert axes.get_xlabel() == "time since the level began (ms)"


def test_the_timeline_of_failed_requests_does_not_say_that_they_wait(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (8,))
    records = [unanswered(each, Outcome.HTTP_ERROR) if each.id % 3 else each for each in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    said = timeline.title(analysis, analysis.summary["levels"][0])
    assert "43 of 64 failed" in said
    assert "wait" not in said


def test_where_all_users_hung_up_the_title_does_not_say_that_nobody_waited(tmp_path: Path) -> None:
    """24 of 24 had left after 0.4 s: "nobody waited for a first token"."""
    levels, truth = grid(Made(), (8,))
    records = [unanswered(each, Outcome.LEFT) for each in truth.records]
    said = distributions.ttft_title(analyse(write(tmp_path / "run", records, levels)))
    assert said.endswith(("Time to first token", "all users hung up before their first token"))
    assert "nobody waited" not in said


LONG = "hf.co/" + "a-very-long-organisation/" * 3 + "Model-70B-GGUF:Q4_K_M"


def test_a_long_model_leaves_the_footer_legible(tmp_path: Path) -> None:
    target = {"url": "http://gpu-box.internal.example.org:11434", "dialect": "ollama-chat", "model": LONG}
    more: dict[str, Any] = {"state": "failed", "failure": "the disk is full", "target": target, "name": "long " * 30}
    make(tmp_path / "run", users=(1,), each=1, **more)
    analysis = analyse(tmp_path / "run")
    analysis.summary["hardware"] = ["NVIDIA A100 80GB PCIe " * 12]
    figure, (axes,) = sheet.new(1)
    FigureCanvasAgg(figure)
    ttft.ttft_parts(axes, analysis, series_of(analysis.summary["levels"])[0])
    sheet.save(figure, tmp_path / "a.png", analysis, "A title")
    boxes = {text.get_text(): text.get_window_extent() for text in figure.texts}
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in boxes.values())
    assert not [pair for pair in itertools.combinations(boxes.values(), 2) if pair[0].overlaps(pair[1])]
    (line,) = [text for text in boxes if text.endswith(":11434")]
    assert "hf.co/a-very" in line
    assert "Q4_K_M" in line


def test_levels_without_a_p95_are_counted(tmp_path: Path) -> None:
    make(tmp_path / "run", users=(1, 2, 4))
    levels = analyse(tmp_path / "run").summary["levels"]
    assert against_load.without_p95(levels) == "2 of 3 levels have no TTFT p95, which needs 20 requests"
    assert against_load.without_p95(levels[:2]) == ""
    assert against_load.without_p95(levels[2:]) == ""


@pytest.mark.parametrize("panels", [1, 2, 3])
@pytest.mark.parametrize(("low", "high"), [(0.3, 0.6), (40, 900), (0.3, 400_000), (1000, 2_000_000)])
def test_durations_on_an_axis_have_units_and_room(panels: int, low: float, high: float) -> None:
    figure, every = sheet.new(panels)
    FigureCanvasAgg(figure)
    for axes in every:
        axes.plot([low / 1e3, high / 1e3], [0, 1])
        style.logarithmic_x(axes)
        labels_apart(axes)
        begin, end = axes.get_xlim()
        named = [text for at, text in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True) if begin <= at <= end]
        assert len(named) >= 2 or math.log10(end / begin) < 1
        assert all(text.get_text().endswith("s") for text in named)
        boxes = sorted((Text.get_window_extent(text) for text in named), key=lambda box: box.x0)
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


@pytest.mark.parametrize(("low", "high"), [(0.27, 5.4), (0.048, 0.16), (1.0, 1.02), (0.0021, 47), (2e-4, 900)])
def test_what_a_logarithmic_axis_shows_lies_between_labels(low: float, high: float) -> None:
    for axes, scaled in zip(sheet.new(2, share_y=False)[1], (style.logarithmic_y, style.logarithmic_x), strict=True):
        axes.plot([low, high], [low, high])
        scaled(axes)
        axis = axes.yaxis if scaled is style.logarithmic_y else axes.xaxis
        begin, end = axis.get_view_interval()
        ticks = [tick for tick in axis.get_majorticklocs() if begin <= tick <= end]
        assert len(ticks) > 1
        assert ticks[0] <= 1.1 * low
        assert ticks[-1] >= high / 1.1


def test_the_rarest_gap_lies_above_a_labelled_share(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(tokens=40), users=(4,), each=4)
    analysis = analyse(tmp_path / "run")
    _, (axes,) = sheet.new(1)
    distributions.itl_tail(axes, analysis, series_of(analysis.summary["levels"])[0])
    drawn: list[Any] = [line.get_ydata() for line in axes.lines]
    lowest = min(map(min, drawn))
    low, high = axes.get_ylim()
    assert min(tick for tick in axes.get_yticks() if low <= tick <= high) <= lowest


def test_figures_stand_clear_of_the_slots(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(gap_ms=1, tokens=40), users=(1, 4, 8, 16))
    analysis = analyse(tmp_path / "run")
    figure, panels = sheet.new(2, columns=2, share_y=False)
    against_load.a_stream(panels[0], analysis, series_of(analysis.summary["levels"]))
    figure.draw_without_rendering()
    (slots,) = [text for text in panels[0].texts if "slots" in text.get_text()]
    others = [text for text in panels[0].texts if text is not slots]
    assert not [text for text in others if text.get_window_extent().overlaps(slots.get_window_extent())]


def test_panels_of_gaps_share_one_legend_and_their_axes_stand_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each level had a name in each panel, with a share of its own; "shorter gaps are drawn at" ran into the next panel."""
    analysis = of_two_lengths(tmp_path / "run")
    monkeypatch.setattr("loadtest.analyse.charts.distributions.stats.ranked", lambda *_: [0.0, 1e-7, *[0.03] * 60])
    figure, panels = sheet.new(3)
    for axes, series in zip(panels, series_of(analysis.summary["levels"]), strict=False):
        distributions.itl(axes, analysis, series)
    figure.draw_without_rendering()
    boxes = [axes.xaxis.label.get_window_extent() for axes in panels[:2]]
    assert "shorter gaps" in panels[0].get_xlabel()
    assert boxes[0].x1 < boxes[1].x0
    assert {str(line.get_label()) for axes in panels for line in axes.lines} == {"1 stream", "16 streams"}


@pytest.mark.parametrize(("levels", "written"), [(12, 12), (40, 0)])
def test_means_are_written_where_each_has_room(tmp_path: Path, levels: int, written: int) -> None:
    make(tmp_path / "run", Made(gap_ms=1, tokens=4), users=tuple(range(1, levels + 1)), each=1)
    analysis = analyse(tmp_path / "run")
    _, (axes,) = sheet.new(1)
    ttft.ttft_parts(axes, analysis, series_of(analysis.summary["levels"])[0])
    assert len([text for text in axes.get_xticklabels() if text.get_text().endswith("s")]) == written


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_loads_of_four_digits_stand_apart(columns: int) -> None:
    figure, panels = sheet.new(columns, columns=columns)
    FigureCanvasAgg(figure)
    loads = [2**power for power in range(12)]
    panels[0].plot(loads, loads)
    style.load_axis(panels[0], loads, "streams")
    labels_apart(panels[0])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in panels[0].get_xticklabels()]
    assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_a_long_legend_takes_no_room_from_the_panels(tmp_path: Path) -> None:
    one_request(tmp_path / "run")
    analysis = analyse(tmp_path / "run")
    heights = []
    for names in (["short"], [f"{place} {LONG * 2}" for place in range(14)]):
        figure, (axes,) = sheet.new(1)
        for name in names:
            axes.plot([0, 1], [0, 1], label=name)
        sheet.save(figure, tmp_path / "a.png", analysis, "A title")
        heights.append(axes.get_window_extent().height)
        (legend,) = figure.legends
        assert legend.get_window_extent().x1 <= figure.bbox.x1
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
    assert heights[1] > 0.8 * heights[0]


def test_one_request_is_one_stream_and_comes_after_the_start(tmp_path: Path) -> None:
    one_request(tmp_path / "run")
    analysis = analyse(tmp_path / "run")
    figure, (above, below) = sheet.new(2, share_y=False)
    machine.streams(above, analysis)
    drift.over_time(below, analysis)
    figure.draw_without_rendering()
    low, high = above.get_ylim()
    named = [
        text.get_text() for at, text in zip(above.get_yticks(), above.get_yticklabels(), strict=True) if at <= high
    ]
    assert named == ["0", "1"]
    low, high = below.get_xlim()
    assert not [at for at in below.get_xticks() if low <= at < 0]


def test_the_parts_of_ttft_add_up_to_no_more_than_it() -> None:
    """A bar of 34.9 ms had "mean 32.1 ms" above it: requests had left late, and waits are not below nothing."""
    level = LevelData(verdict=SUSPECT, ttft_s={"mean": 0.0321}, slot_wait_s={"mean": 0.001}, load_s={"mean": 0.001})
    level |= {"prefill_s": {"mean": 0.0244}, "queue_wait_s": {"mean": 0.0095}, "batch_wait_s": {"mean": 0.0085}}
    parts = ttft.parts_of(level)
    assert sum(parts.values()) == pytest.approx(0.0321)
    assert (parts["prefill_s"], parts["slot_wait_s"], parts["load_s"]) == (0.0244, 0.001, 0.001)
    assert parts["batch_wait_s"] == pytest.approx(0.0057)
    exact = LevelData(level, batch_wait_s={"mean": 0.0057})
    assert ttft.parts_of(exact)["batch_wait_s"] == pytest.approx(0.0057)


def test_charts_of_users_who_left_say_what_they_draw(tmp_path: Path) -> None:
    """Was "half of them within > 400 ms", and "mean 390 ms" on a bar of 335 ms, that of those who stayed."""
    levels, truth = grid(Made(), (8,))
    records = [unanswered(each, Outcome.LEFT) if each.id % 4 else each for each in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    assert distributions.ttft_title(analysis).endswith("; in 48 of 64 requests users hung up before it")
    figure, (axes,) = sheet.new(1)
    ttft.ttft_parts(axes, analysis, analysis.series[0])
    figure.draw_without_rendering()
    assert f"stayed: {seconds(analysis.levels[0].mean_ttft)}" in axes.get_xticklabels()[0].get_text()


def test_what_users_who_hung_up_would_have_waited_is_drawn_as_a_bound(tmp_path: Path) -> None:
    """A median of "> 400 ms" was a point like others, on a line with them."""
    levels, truth = grid(Made(), (4, 8), each=8)
    records = [unanswered(each, Outcome.LEFT) if each.level and each.id % 4 else each for each in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    assert [level.is_bound("ttft_s", "p50") for level in analysis.levels] == [False, True]
    [series] = analysis.series
    for chart, given, at in (
        (ttft.ttft_parts, (series,), 1),
        (against_load.ttft_percentiles, (series,), 8),
        (against_load.wait_by_output, ([series],), analysis.levels[1]["output_tokens_per_s"]),
    ):
        _, (axes,) = sheet.new(1)
        chart(axes, analysis, *given)
        found = next(line for line in axes.lines if line.get_label() == style.BOUND)
        x: Any = found.get_xdata()
        assert set(x) == {at}, chart


def test_where_the_server_says_its_slots_none_but_these_were_to_be_seen(tmp_path: Path) -> None:
    """Was "no limit was seen" over a queue of twelve, and "≥ 2 (the server says 2: measure longer, or with more load)"."""
    levels, truth = grid(Made(slots=16), (4,))
    server = {"kind": "llamacpp", "version": "", "context": 4096, "slots_said": 4, "simulated": None, "facts": {}}
    analysis = analyse(write(tmp_path / "run", truth.records, levels, server=server))
    assert machine.streams_title(analysis) == "The server handles at least 4 requests in parallel; the server says 4"
    assert str(_slots(analysis)) == "Slots: 4 (as the server says; the run saw no limit)"


def test_a_matplotlibrc_of_the_user_changes_no_chart() -> None:
    with mpl.rc_context(style.RC):
        usual = dict(mpl.rcParams)
    with mpl.rc_context({"text.usetex": True, "savefig.format": "pdf"}), mpl.rc_context(style.RC):
        assert dict(mpl.rcParams) == usual
