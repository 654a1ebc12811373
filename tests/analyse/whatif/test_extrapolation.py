"""Bands past the streams measured: they hold on engines drawn at random, and say in words what they allow for. Simulated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support import insight_beyond
from support.virtual_runs import Load, play

from loadtest.analyse.run import frames
from loadtest.analyse.server.queue import slots
from loadtest.analyse.server.timing import steps
from loadtest.analyse.whatif.model.extrapolation import allowing_for_growth, step_range
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.simulate.model.timing import StepLaw, Timing


def model(tmp_path: Path, users: tuple[int, ...] = (1, 2, 4)) -> ServerModel:
    loads = [Load(users=each, requests=12 * each, output=(20, 80)) for each in users]
    run = frames.load(
        play(Timing(step=StepLaw(0.02, 0.002), prefill_s=0.0002), loads, slots=32).write(tmp_path / "run")
    )
    found = slots.estimate_slots(run)
    return ServerModel.of(run, found, steps.measure_steps(run, found))


def test_bands_hold_on_random_engines() -> None:
    rows = [row for seed in range(7) for row in insight_beyond._examine(seed)]
    assert len(rows) >= 20
    assert np.mean([row.inside for row in rows]) >= 0.9


def test_the_line_is_allowed_to_bend_both_ways_but_no_step_serves_streams_slower_than_apart(tmp_path: Path) -> None:
    known = model(tmp_path)
    for streams in (6, 8, 16, 32):
        shorter, longer = step_range(known, streams)
        assert shorter < 1 <= longer
        values = known.timing.step.values(streams)
        assert longer * sum(values) / len(values) <= 0.028 * 1.05 * streams / 4
    assert step_range(known, 32)[1] > step_range(known, 8)[1]


def test_what_the_bands_allow_for_is_said(tmp_path: Path) -> None:
    known = model(tmp_path)
    plain, said = known.closed(16), allowing_for_growth(known, known.closed(16))
    assert said.extrapolates is not None
    assert "where arithmetic takes longer than reading the weights" in said.extrapolates
    assert said.bands["ttft_s.p50"][1] > plain.bands["ttft_s.p50"][1]
    assert allowing_for_growth(known, known.closed(3)) == known.closed(3)
    near = allowing_for_growth(known, known.closed(6)).extrapolates
    assert near is not None
    assert "shorter, where growth slows down" in near
    assert " 0 %" not in near  # was "to 0 % longer, where arithmetic takes longer"
