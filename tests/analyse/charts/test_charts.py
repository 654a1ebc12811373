"""Charts: drawn for every shape of run, with what they claim taken from the data, nothing covering anything."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from support.drawn import of_many_levels, one_request
from support.made_runs import Made, closed_loop, grid, make, recorded, unanswered, write
from support.virtual_runs import Load, play

from loadtest.analyse import charts
from loadtest.analyse.charts import against_load, distributions, drift, machine, style, timeline, ttft
from loadtest.analyse.charts.lettering import drawable, wrapped
from loadtest.analyse.reports import pages
from loadtest.analyse.run.levels import LevelData, Series, series_of
from loadtest.analyse.summary import Analysis, analyse
from loadtest.records import Outcome, Record
from loadtest.simulate.model.timing import StepLaw, Timing

SIMULATED = {"kind": "ollama", "version": "0.33.0", "simulated": {"profile": "a100-80g-llama3.1-70b-q4", "speed": 20.0}}
STEADY = Timing(step=StepLaw(0.012, 0.002), prefill_s=0.001, jitter=0.05)
NAMES = [
    "ttft.png",
    "throughput.png",
    "tradeoff.png",
    "percentiles.png",
    "timeline.png",
    "ttft-distribution.png",
    "itl.png",
    "itl-tail.png",
    "drift.png",
    "streams.png",
]
EMPTY = {  # charts on which nothing would show, by the shape of the run
    "one request": {"itl-tail.png"},
    "no success": {*NAMES} - {"timeline.png", "streams.png"},
    "no request": {*NAMES},
}


def lost(record: Record) -> Record:
    return unanswered(record, Outcome.HTTP_ERROR)


def no_success(path: Path) -> None:
    levels, truth = grid(Made(), (4,))
    write(path, [lost(record) for record in truth.records], levels)


def many_lengths(path: Path) -> None:
    levels: list[dict[str, Any]] = []
    records: list[Record] = []
    for tokens in (5, 10, 15, 20, 25, 30, 35, 40):
        made = Made(tokens=tokens)
        start = max((record.t_end for record in records), default=0) + 1_000_000
        part = closed_loop(made, level=len(levels), users=8, requests=8, start_ns=start, first_id=len(records))
        facts = {"input_tokens": 100, "output_tokens": tokens, "words": None, "rate": None}
        levels.append({"index": len(levels), "concurrency": 8, **facts})
        records += part.records
    write(path, records, levels, server=SIMULATED)


def a_hostile_name(path: Path) -> None:
    make(path, users=(2,), name=r"$\frac{1}{0}$ _^{ " + "long " * 60, target={"url": "http://x", "model": "$m$ & <b>"})


def near_values_in_narrow_panels(path: Path) -> None:
    """Four lengths, a panel each, and in each of them a TTFT that hardly varies."""
    lengths = ((100, 20), (1000, 40), (2000, 60), (4000, 80))
    loads = [Load(users=4, requests=24, prompt=(read, read), output=(said, said)) for read, said in lengths]
    play(STEADY, loads, slots=4).write(path)


SHAPES: dict[str, Callable[[Path], object] | None] = {
    "one request": one_request,
    "no success": no_success,
    "no request": lambda path: write(path, [], []),
    "many lengths": many_lengths,
    "many levels": None,
    "near values": near_values_in_narrow_panels,
    "a hostile name": a_hostile_name,
    "real": lambda path: recorded(path, ["ollama-0.33-mid-slots4-c2", "ollama-0.33-mid-slots4-c8"]),
}


@pytest.mark.usefixtures("_without_pyplot", "short_predictions")
@pytest.mark.parametrize("shape", SHAPES)
def test_every_chart_of_every_shape_of_run(tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All are written at full size, name the verdict and the simulated server, and nothing covers anything."""
    figures: list[Figure] = []
    save = Figure.savefig

    def spy(self: Figure, *args: Any, **kwargs: Any) -> None:
        save(self, *args, **kwargs)
        figures.append(self)

    monkeypatch.setattr(Figure, "savefig", spy)
    if writes := SHAPES[shape]:
        writes(tmp_path / "run")
    one = analyse(tmp_path / "run") if writes else of_many_levels(40)
    drawn = charts.draw_all(one, tmp_path / "out")
    missing = EMPTY.get(shape, set()) | (set(pages.BY_LOAD) if len(one.levels) == 1 else set())
    predicted = (
        ["prediction.png"] if shape in ("real", "many levels") else []
    )  # two levels of one length: enough to predict from
    assert [path.name for path in drawn] == [name for name in NAMES if name not in missing] + predicted
    for path, figure in zip(drawn, figures, strict=True):
        assert imread(path).shape[1] == 1500  # 10 inches at 150 dpi
        texts = [text.get_text() for text in figure.texts]
        assert any(text.startswith("● ") for text in texts)
        simulated = shape == "many lengths"
        assert ("SIMULATED SERVER" in texts) == simulated
        assert ("simulated: profile a100-80g-llama3.1-70b-q4 at 20× speed" in texts) == simulated
        nothing_overlaps(figure)
    assert "matplotlib.pyplot" not in sys.modules


@pytest.fixture
def _without_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget that another test, such as the notebook of docs/python.md, imported pyplot."""
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)


def nothing_overlaps(figure: Figure) -> None:
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes += [box for panel in figure.axes if panel.axison and (box := panel.get_tightbbox())]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    for i, one in enumerate(boxes):
        assert one.x0 >= -1
        assert one.x1 <= figure.bbox.x1 + 1
        for other in boxes[i + 1 :]:
            wide = min(one.x1, other.x1) - max(one.x0, other.x0)
            high = min(one.y1, other.y1) - max(one.y0, other.y0)
            assert wide <= 2 or high <= 2, (figure.texts[0].get_text(), one, other)
    for panel in filter(lambda panel: panel.axison, figure.axes):
        (left, right), (low, high) = sorted(panel.get_xlim()), sorted(panel.get_ylim())
        along = [(panel.xaxis, "x0", "x1", left, right), (panel.yaxis, "y0", "y1", low, high)]
        for axis, begin, end, least, most in along:
            labels = [tick.label1 for tick in axis.get_major_ticks() if least <= tick.get_loc() <= most]
            placed = sorted(
                (label.get_window_extent() for label in labels if label.get_text()), key=lambda box: getattr(box, begin)
            )
            for before, after in itertools.pairwise(placed):
                assert getattr(before, end) <= getattr(after, begin) + 1, (
                    figure.texts[0].get_text(),
                    [label.get_text() for label in labels],
                )


def test_titles_are_computed_from_the_data(four_slots: Analysis) -> None:
    assert ttft.split_title(four_slots).startswith("Past 4 streams requests queue: at 8 streams 81 % of the mean TTFT")
    assert against_load.rates_title(four_slots).startswith("Output stops growing at 4 streams")
    level = timeline.pick(four_slots)
    assert level is not None
    assert level["concurrency"] == 8
    assert timeline.title(four_slots, level).startswith("Up to 8 requests in flight, and never more than 4 decoding")
    assert machine.streams_title(four_slots) == "The server handles 4 requests in parallel; further requests queue"
    assert distributions.itl_title(four_slots).startswith("8 streams: the median gap between tokens is 10.0 ms")


def test_without_a_queue_no_title_speaks_of_one(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(slots=16), users=(1, 2, 4))
    analysis = analyse(tmp_path / "run")
    assert ttft.split_title(analysis).startswith("At 4 streams, ")
    assert machine.streams_title(analysis).endswith("at least 4 requests in parallel; its limit was not seen")
    assert against_load.rates_title(analysis).startswith("Output still grows")


def test_the_timeline_never_shows_more_than_the_slots_decoding(four_slots: Analysis, axes: Axes) -> None:
    level = four_slots.summary["levels"][3]
    timeline.request_rows(axes, four_slots, level)
    blue = to_rgb(style.DECODING)
    bars = [bar for bar in axes.patches if bar.get_facecolor()[:3] == blue]
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars]  # type: ignore[attr-defined]
    assert len(spans) == timeline.MOST_ROWS
    for start, _ in spans:
        assert sum(a <= start < b - 1e-6 for a, b in spans) <= 4


def test_no_success_says_why_the_chart_is_empty(tmp_path: Path, axes: Axes) -> None:
    no_success(tmp_path / "run")
    analysis = analyse(tmp_path / "run")
    ttft.ttft_parts(axes, analysis, series_of(analysis.summary["levels"])[0])
    assert "No request ended well" in axes.texts[0].get_text()


def test_of_a_run_in_which_all_failed_only_what_shows_something_is_drawn(tmp_path: Path) -> None:
    """Eight of its ten charts were empty pages."""
    no_success(tmp_path / "run")
    analysis = analyse(tmp_path / "run")
    for name in ("ttft.png", "turns.png", "machine.png", "prediction.png"):
        (tmp_path / name).write_bytes(b"of an earlier report")
    assert [path.name for path in charts.draw_all(analysis, tmp_path)] == ["timeline.png", "streams.png"]
    assert not any((tmp_path / name).exists() for name in ("ttft.png", "turns.png", "machine.png"))
    assert (tmp_path / "prediction.png").exists()  # `loadtest predict` may have drawn it
    said = pages.left_out(analysis, [tmp_path / "timeline.png"])
    assert said.startswith("Not drawn, because no request ended well: ttft.png, throughput.png, ")


def test_levels_are_grouped_by_everything_but_concurrency() -> None:
    def level(concurrency: int, out: int) -> LevelData:
        return LevelData(concurrency=concurrency, input_tokens=128, output_tokens=out, words=None, rate=None)

    found = series_of([level(4, 64), level(1, 64), level(1, 256)])
    assert found == [
        Series("128 in · 64 out", (level(1, 64), level(4, 64))),
        Series("128 in · 256 out", (level(1, 256),)),
    ]


@pytest.mark.usefixtures("short_predictions")
def test_a_name_that_no_font_can_draw_draws_without_a_warning(tmp_path: Path) -> None:
    name = "通义千问\x1b[31m $7b$ \u202e"
    make(tmp_path / "run", users=(1, 8), name=name, target={"url": "http://made", "model": name})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert charts.draw_all(analyse(tmp_path / "run"), tmp_path / "charts")
    assert drawable(name) == "\ufffd" + r"\x1b[31m $7b$ \u202e"


def test_a_title_is_not_broken_within_the_name_of_a_percentile_nor_behind_a_sign() -> None:
    """advice.png had "then measure: TTFT" in its first line, and "misses TTFT p95 ≤" in another."""
    text = "Try OLLAMA_NUM_PARALLEL 8 (now 4), then measure: TTFT p95 at 8 streams is 1.59 s"
    text += ", which misses TTFT p95 ≤ 1 s"
    for width in range(30, 80):
        lines = wrapped(text, width)
        assert not [line for line in lines if line.endswith(("TTFT", "≤", "1.59"))], lines


def test_no_title_quotes_a_void_level(tmp_path: Path) -> None:
    make(tmp_path / "run", users=(1, 8), clock_steps=1)
    analysis = analyse(tmp_path / "run")
    titles = (
        ttft.split_title(analysis),
        distributions.ttft_title(analysis),
        distributions.itl_title(analysis),
        against_load.rates_title(analysis),
        against_load.tradeoff_title(analysis),
        against_load.percentiles_title(analysis),
        distributions.itl_tail_title(analysis),
        drift.title(analysis),
    )
    assert not any(character.isdigit() for title in titles for character in title)


def test_requests_without_tokens_are_drawn_in_a_colour_of_their_own(tmp_path: Path, axes: Axes) -> None:
    """The bars of embeddings were grey, and those of their warm-up a paler grey."""
    levels, truth = grid(Made(), (4,), each=3)
    records = [dataclasses.replace(unanswered(one, Outcome.OK), dialect="openai-embeddings") for one in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    timeline.request_rows(axes, analysis, analysis.levels[0])
    assert axes.get_legend_handles_labels()[1] == ["waiting or at work", "pale: warm-up"]
    assert {to_rgb(bar.get_facecolor()) for bar in axes.patches} == {to_rgb(style.DECODING)}
    assert distributions.e2e_title(analysis).startswith("4 streams: ")


def test_embeddings_among_chats_are_not_drawn_as_answers_that_never_came(tmp_path: Path, axes: Axes) -> None:
    levels, truth = grid(Made(), (4,), each=3)
    no_text = {"dialect": "openai-embeddings"}
    records = [one if one.id % 2 else unanswered(one, Outcome.OK, **no_text) for one in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    timeline.request_rows(axes, analysis, analysis.levels[0])
    assert "no token yet, or embeddings" in axes.get_legend_handles_labels()[1]


def test_an_answer_without_text_is_no_point_of_the_distribution_of_ttft(tmp_path: Path, axes: Axes) -> None:
    levels, truth = grid(Made(), (4,), each=10)
    last = len(truth.records) - 1
    records = [unanswered(each, Outcome.OK) if each.id == last else each for each in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    (level,) = analysis.summary["levels"]
    distributions.ttft(axes, analysis, series_of([level])[0])
    assert level["outcomes"]["ok"] == level["ttft_s"]["n"] + 1
    assert axes.get_legend_handles_labels()[1] == [f"4 streams (n = {level['ttft_s']['n']})"]
    assert float(np.asarray(axes.lines[0].get_ydata())[-1]) == 1.0


def test_gaps_of_a_very_fast_server_are_told_apart(tmp_path: Path, axes: Axes) -> None:
    """All gaps below 0.1 ms were drawn at 0.1 ms: a step of nothing."""
    fast = Timing(step=StepLaw(0.00002, 0.000004), prefill_s=0.00001, jitter=0.3)
    one = analyse(play(fast, [Load(users=2, requests=40)], slots=4, noise_s=1e-7).write(tmp_path / "run"))
    distributions.itl(axes, one, series_of(one.summary["levels"])[0])
    drawn = np.asarray(axes.lines[0].get_xdata())
    assert np.median(drawn) < 0.0001
    assert len(np.unique(drawn)) > 20
    assert "drawn at 0.1 ms" not in axes.get_xlabel()


def test_a_legend_names_no_area_that_is_not_there(tmp_path: Path, axes: Axes) -> None:
    no_success(tmp_path / "run")
    machine.streams(axes, analyse(tmp_path / "run"))
    assert axes.get_legend_handles_labels()[1] == ["before the first token (queue, batch wait or prefill)"]
