"""The chart of TTFT: its bars add up to the mean, which stands below each."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from support.made_runs import Made, grid, make, write
from support.virtual_runs import Load, play

from loadtest.analyse.charts import ttft
from loadtest.analyse.run.levels import series_of
from loadtest.analyse.summary import Analysis, analyse
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.text import seconds


def test_the_mean_stands_below_its_bar(four_slots: Analysis, axes: Axes) -> None:
    """Above the mark of p95 it was read as the mark's own figure."""
    (series,) = four_slots.series
    ttft.ttft_parts(axes, four_slots, series)
    means = [seconds(level.mean_ttft) for level in series.levels]
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        f"{level['concurrency']}\n{mean}" for level, mean in zip(series.levels, means, strict=True)
    ]


def test_the_stack_adds_up_to_mean_ttft(four_slots: Analysis, axes: Axes) -> None:
    (series,) = series_of(four_slots.summary["levels"])
    ttft.ttft_parts(axes, four_slots, series)
    tops: dict[float, float] = {}
    for bar in axes.patches:
        x, y, height = bar.get_x(), bar.get_y(), bar.get_height()  # type: ignore[attr-defined]
        tops[x] = max(tops.get(x, 0), y + height)
    means = [level["ttft_s"]["mean"] * 1e3 for level in series.levels]
    assert sorted(tops.values()) == pytest.approx(sorted(means), rel=0.05)
    labels = axes.get_legend_handles_labels()[1]
    assert {"slot wait", "prefill"} <= set(labels)
    assert "batch wait" not in labels  # its 5 ms pass where a request is alone, too
    assert "rest" not in labels
    assert "4 slots" in [text.get_text() for text in axes.texts]


def test_a_wait_for_the_batch_in_flight_is_a_part(tmp_path: Path, axes: Axes) -> None:
    timing = Timing(step=StepLaw(0.1, 0.02), prefill_s=0.0005)
    played = play(timing, [Load(users=users, requests=30) for users in (1, 4)], slots=4)
    analysis = analyse(played.write(tmp_path / "run"))
    ttft.ttft_parts(axes, analysis, series_of(analysis.summary["levels"])[0])
    assert "batch wait" in axes.get_legend_handles_labels()[1]


def test_slots_are_no_number_of_people_who_think(tmp_path: Path, axes: Axes) -> None:
    """At 8 people who pause there is mostly a free one of 4 slots: right of the line nobody waited."""
    levels, truth = grid(Made(), (1, 4, 8), each=4)
    write(tmp_path / "run", truth.records, [{**level, "thinks": True} for level in levels])
    (series,) = series_of((analysis := analyse(tmp_path / "run")).summary["levels"])
    ttft.ttft_parts(axes, analysis, series)
    assert analysis.slots.number == 4
    assert not [text for text in axes.texts if "slot" in text.get_text()]
    assert axes.get_xlabel().startswith("concurrency (people)")


def test_the_rest_holds_the_prefill_where_the_server_does_not_say_it(tmp_path: Path, axes: Axes) -> None:
    """Of vLLM the grey part, which was nearly all prefill, was "neither a wait for others, load nor prefill"."""
    levels, truth = grid(Made(), (1, 4, 8))
    records = [dataclasses.replace(one, server=None, server_us=None, dialect="openai-chat") for one in truth.records]
    analysis = analyse(write(tmp_path / "run", records, levels))
    ttft.ttft_parts(axes, analysis, series_of(analysis.summary["levels"])[0])
    assert {"slot wait, at most", ttft.UNTOLD} <= set(axes.get_legend_handles_labels()[1])


def test_a_part_too_thin_to_be_seen_is_not_in_the_legend(tmp_path: Path, axes: Axes) -> None:
    make(tmp_path / "run", Made(load_ms=1, prefill_ms=100, slots=1), users=(1, 8))
    analysis = analyse(tmp_path / "run")
    assert analysis.summary["levels"][0]["load_s"]["mean"] > 0
    ttft.ttft_parts(axes, analysis, series_of(analysis.summary["levels"])[0])
    assert "model load" not in axes.get_legend_handles_labels()[1]
