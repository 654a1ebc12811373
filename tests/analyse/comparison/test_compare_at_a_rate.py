"""`loadtest compare` of levels at a rate: what a queue makes of a difference of speed, and the steps that hold none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread
from support import insight_compare
from support.insight_compare import HEADLINES, at_a_rate
from support.virtual_runs import Load, play

from loadtest.analyse.comparison.compare import SAME, TOO_FEW, WORSE, compare
from loadtest.analyse.comparison.compare_report import method, outcome
from loadtest.analyse.comparison.estimates import steps_at
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.server.timing.step_law import StepTimes
from loadtest.analyse.summary import analyse
from loadtest.cli import cli


def test_a_queue_that_200_requests_do_not_tell_is_not_judged_and_a_change_of_speed_shows_more_in_its_waits() -> None:
    """Simulated open loops; `scripts/bench compare` counts false differences at each share of the capacity."""
    ttft, rate = HEADLINES[0], HEADLINES[-1]
    ((calm, _),), queued = (at_a_rate(0.5, 0.0, 1), at_a_rate(1.2, 0.0, 2))
    full = [cells for cells, _ in queued]
    assert calm[0, ttft].told
    assert 1 < calm[0, ttft].gain < 2
    assert calm[0, rate].gain == 1
    assert not any(one[0, ttft].told for one in full)
    assert all(one[0, ttft].gain > 2 for one in full)


def test_the_method_says_what_a_queue_does_where_requests_came_at_a_rate(tmp_path: Path) -> None:
    load = Load(rate=1.0, requests=20, prompt=(50, 100), output=(20, 30))
    timing = insight_compare.server(7, 0.05)
    base, new = (analyse(play(timing, [load], slots=4, seed=seed).write(tmp_path / str(seed))) for seed in range(2))
    assert "needs more requests." in method(compare(base, new))
    closed = analyse(play(timing, [Load(requests=20)], slots=4).write(tmp_path / "closed"))
    assert "at a rate" not in method(compare(closed, closed)).lower()


def test_steps_tell_a_slower_server_where_its_queue_tells_nothing(tmp_path: Path) -> None:
    """Two open loops near saturation, the server 10 % slower: of 200 requests neither TTFT nor tokens/s is judged."""
    load = Load(rate=1.25, requests=200, prompt=(50, 400), output=(20, 100))
    timing = insight_compare.server(7, 0.05)
    paths = [
        play(timing.scaled(factor), [load], slots=4, seed=seed).write(tmp_path / str(seed))
        for seed, factor in enumerate((1.0, 1.1, 1.0))
    ]
    base, slower, same = map(analyse, paths)
    found = compare(base, slower, run_noise=0.01)
    rows = {row.metric.id: row for row in found.headline}
    assert rows["ttft_s.mean"].reason == rows["stream_tokens_per_s.mean"].reason == TOO_FEW
    assert rows["step_s"].verdict == WORSE
    assert rows["step_s"].ratio == pytest.approx(1.1, rel=0.01)
    usual = compare(base, slower)
    assert usual.verdict == SAME, "runs of one server may differ by 3 %"
    assert outcome(usual).endswith("; 3 more were not judged")
    assert compare(base, same, run_noise=0.01).verdict == SAME
    result = CliRunner().invoke(
        cli, ["compare", *map(str, paths[:2]), "-o", str(tmp_path / "out")], standalone_mode=False
    )
    assert result.return_value == 0
    assert imread(tmp_path / "out" / "compare.png").std() > 0.01


def test_gaps_between_pieces_of_several_tokens_are_not_held_against_those_between_tokens(tmp_path: Path) -> None:
    load = Load(rate=1.0, requests=40, prompt=(50, 100), output=(40, 40))
    played = play(insight_compare.server(7, 0.05), [load], slots=4)
    base = analyse(played.write(tmp_path / "base"))
    apart: dict[str, Any] = {"server_us": None, "server_first": None}
    played.records = [
        dataclasses.replace(one, chunks=[one.chunks[0], *one.chunks[2::2]], reads=21, stamped=21, arrivals=21, **apart)
        for one in played.records
    ]
    new = analyse(played.write(tmp_path / "new"))
    for other, known in ((base, True), (new, False)):
        found = compare(base, other)
        assert ("step_s" in {row.metric.id for row in found.headline}) is known
        assert ("Step time" in method(found)) is known


def test_a_level_s_steps_are_those_of_the_run_at_the_level_s_own_pace() -> None:
    steps = StepTimes(2, 4000, 0.02, 1e-5, 0.02, 0.02, 0.02, (), ())

    def run(pace: float | None) -> Any:
        run = SimpleNamespace(
            levels=[{"index": 0}, {"index": 1}],
            good=lambda _: np.ones(4, dtype=np.bool_),
            tokens_a_piece=lambda _: 1.0,
        )
        return SimpleNamespace(run=run, steps=SimpleNamespace(times=(steps,), paces={1: pace}))

    levels = [LevelData(index=1)] * 2
    base, new = steps_at([run(1.0), run(1.25)], levels)
    assert new.value / base.value == pytest.approx(1.25)
    assert steps_at([run(1.0), run(None)], levels) == ()
