"""The knee: on levels whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.made_runs import Made, make

from loadtest.analyse.figures import knee
from loadtest.analyse.findings.run_findings import saturation
from loadtest.analyse.reports.answers import _levels_off
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.020, 0.004), prefill_s=0.0005, jitter=0.05)


def level(users: int, rate: float, half_width: float | None = None) -> LevelData:
    """Return what the knee reads of a level of summary.json."""
    ci = None if half_width is None else [rate - half_width, rate + half_width]
    return LevelData(concurrency=users, rate=None, output_tokens_per_s=rate, output_tokens_per_s_ci95=ci)


def but(one: LevelData, **changed: Any) -> LevelData:
    return LevelData(one, **changed)


def test_the_knee_of_the_published_ladder_is_where_the_slots_are() -> None:
    """25, 43 and 62 tokens/s at 1, 2 and 4 streams on four slots, and no more beyond."""
    levels = [level(1, 25, 0.2), level(2, 43, 0.3), level(4, 62, 0.5), level(8, 61.5, 0.5), level(16, 62.2, 0.5)]
    found, reason = knee.knee(levels)
    assert reason is None
    assert found is not None
    assert (found.concurrency, found.interval) == (4, (4, 4))
    assert not found.grows
    assert found.sentence == "Output stops growing at 4 streams, with 62.0 tokens/s in all."


@pytest.mark.parametrize(("half", "end"), [(2, ", and falls to 64.0 at 6."), (60, ".")])
def test_output_that_falls_past_the_knee_is_said_to(half: float, end: str) -> None:
    """A llama.cpp with two slots and four people, who read their conversations again: was only "stops growing"."""
    levels = [level(1, 70, 2), level(2, 117, 3), level(4, 62, 2), level(6, 64, half)]
    found, _ = knee.knee(levels)
    assert found is not None
    assert found.sentence == f"Output stops growing at 2 streams, with 117 tokens/s in all{end}"


def test_levels_of_different_paces_have_no_knee() -> None:
    """Was "Output stops growing at 2 streams" where others had begun to use the machine behind it."""
    paces = (1.0, 1.0, 1.3)
    levels = [
        but(level(users, rate, 0.5), pace=pace, label="", verdict="valid")
        for users, rate, pace in zip((1, 2, 4), (25, 43, 43), paces, strict=True)
    ]
    tile, _ = _levels_off(Series("", tuple(levels)))
    assert str(tile) == "Levels off at: not known (the server's pace changed between these levels: measure again)"


def test_wide_intervals_widen_the_knee_s() -> None:
    found, _ = knee.knee([level(1, 25, 2), level(2, 43, 8), level(4, 58, 6), level(8, 62, 6), level(16, 61, 1)])
    assert found is not None
    assert found.interval == (4, 8)
    assert "(95 % interval: 4 to 8)" in found.sentence


def test_output_that_still_grows_has_no_knee_yet() -> None:
    found, _ = knee.knee([level(4, 62, 1), level(1, 25, 1), level(2, 43, 1)])
    assert found is not None
    assert found.grows
    assert (found.concurrency, found.interval) == (4, (4, None))
    assert "still grows" in found.sentence


@pytest.mark.parametrize(
    ("levels", "void", "said", "tile"),
    [
        (  # was "still grows: measure more streams", although it may stop growing at 4
            [level(1, 42, 1), level(2, 62.9, 1), level(8, 84.1, 1)],
            4,
            (
                "Output reaches 84.1 tokens/s in all at 8 streams; whether it grows there is not known: the level at 4 "
                "streams is void."
            ),
            "Levels off at: not known (the level at 4 streams is void; measure it again)",
        ),
        (  # was "measure more streams", although 8 were measured
            [level(1, 25, 1), level(2, 43, 1), level(4, 62, 1)],
            8,
            "Output still grows with concurrency: 62.0 tokens/s in all at 4 streams; the level at 8 streams is void.",
            "Levels off at: not known (output still grows at 4 streams; the level at 8 streams is void; measure it again)",
        ),
        (  # was "stops growing at 4 streams", and so it may at 2
            [level(1, 25, 1), level(4, 62, 1), level(8, 62, 1)],
            2,
            (
                "Output stops growing at 4 streams, with 62.0 tokens/s in all; it may stop growing earlier: the level at 2 "
                "streams is void."
            ),
            "Levels off at: ≤ 4 streams (the level at 2 streams is void; measure it again)",
        ),
        (
            [level(1, 25, 1), level(2, 62, 1), level(8, 62, 1)],
            4,
            "Output stops growing at 2 streams, with 62.0 tokens/s in all.",
            "Levels off at: 2 streams (more streams bring no more output)",
        ),
    ],
)
def test_a_void_level_leaves_open_whether_output_grows(
    levels: list[LevelData], void: int, said: str, tile: str
) -> None:
    every = [*(but(each, verdict="valid") for each in levels), but(level(void, 99, 1), verdict="void")]
    named = [but(each, label=f"{each['concurrency']} streams") for each in every]
    series = Series("", tuple(sorted(named, key=lambda each: int(each["concurrency"]))))
    assert saturation(series) == said
    assert str(_levels_off(series)[0]) == tile


def test_one_slot_has_its_knee_at_one_stream() -> None:
    found, _ = knee.knee([level(1, 25, 0.3), level(2, 25.1, 0.3), level(8, 24.9, 0.3)])
    assert found is not None
    assert (found.concurrency, found.interval) == (1, (1, 1))
    assert found.sentence == "Output stops growing at 1 stream, with 25.0 tokens/s in all."


def test_without_intervals_two_levels_are_not_compared() -> None:
    found, _ = knee.knee([level(1, 25), level(4, 62), level(8, 62)])
    assert found is not None
    assert found.interval is None
    assert found.to_dict()["ci95"] is None
    assert found.sentence == (
        "Output reaches 62.0 tokens/s in all at 4 streams; whether it grows there is not known: too few requests to tell."
    )


@pytest.mark.parametrize(("last", "grows"), [(56.3, False), (70.0, True)])
def test_output_is_said_to_grow_only_where_intervals_part(last: float, grows: bool) -> None:
    """44 to 52 tokens/s at four streams: 56.3 ± 6 at eight is noise beside it, 70 ± 6 is not."""
    found, _ = knee.knee([level(1, 25, 1), level(2, 38, 2), level(4, 48, 4), level(8, last, 6)])
    assert found is not None
    assert ("still grows" in found.sentence) is grows
    if not grows:
        assert found.interval == (4, None)
        assert found.sentence.endswith("whether it grows there is not known: the intervals are too wide to tell.")


def test_two_loads_or_open_loops_have_no_knee() -> None:
    open_loop = but(level(8, 62, 1), rate=2.0)
    found, reason = knee.knee([level(1, 25, 1), level(4, 62, 1), level(1, 26, 1), open_loop])  # was "here are 3"
    assert found is None
    assert reason is not None
    assert "here are 2" in reason


def test_the_knee_of_made_servers_is_at_their_slots(tmp_path: Path) -> None:
    from loadtest.analyse.summary import analyse

    for slots in (2, 4):
        make(tmp_path / str(slots), Made(slots=slots, jitter_ms=lambda i: i * 7 % 23), users=(1, 2, 4, 8), each=20)
        found, _ = knee.knee(analyse(tmp_path / str(slots)).summary["levels"])
        assert found is not None
        assert found.concurrency == slots
        assert found.interval is not None
        assert found.interval[0] <= slots <= (found.interval[1] or 99)


def test_the_knee_of_people_is_said_of_people() -> None:
    levels = [but(level(users, rate, 1), sessions=True) for users, rate in ((1, 25), (2, 43), (4, 62), (8, 62))]
    found, _ = knee.knee(levels)
    assert found is not None
    assert found.sentence == "Output stops growing at 4 people, with 62.0 tokens/s in all."
    grows, _ = knee.knee(levels[:3], [levels[3]])
    assert grows is not None
    assert grows.void_said == "the level at 8 people is void"
