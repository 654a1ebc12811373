"""Durations of another clock: where a server's decoding does not fit the time over which its tokens came, none is used."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import made_runs
from support.places import RECORDED_RUNS
from support.two_models import SLOW, THERE, mixed, target
from support.virtual_runs import Load, play

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.run import frames
from loadtest.analyse.summary import analyse
from loadtest.records import Record
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.02, 0.004), prefill_s=0.002, jitter=0.05)
DURATIONS = ("prompt_eval_duration", "eval_duration")


@pytest.mark.parametrize(("factor", "used"), [(1.0, True), (0.8, True), (0.5, False), (1000.0, False)])
def test_durations_that_do_not_fit_the_tokens_are_left_out_and_named(
    tmp_path: Path, factor: float, *, used: bool
) -> None:
    """Was "Prefill runs at 4252 prompt tokens/s" and "84 % of the mean TTFT is queue wait", at half the speed and 68 %."""
    played = play(TIMING, [Load(users=users, prompt=(50, 300)) for users in (1, 3)], slots=3)
    records = [
        dataclasses.replace(
            record,
            server={
                **(record.server or {}),
                **{name: round(factor * (record.server or {})[name]) for name in DURATIONS},
            },
        )
        for record in played.records
    ]
    found = analyse(made_runs.write(tmp_path / "run", records, played.levels))
    assert bool(np.isfinite(found.run.column("queue_wait_s")).any()) is used
    said = [each for each in all_findings(found) if each.startswith("The server's durations")]
    assert len(said) == (0 if used else 1)
    assert used or f"decoding took {'0.50' if factor < 1 else '1000'} times as long" in said[0]


@pytest.mark.parametrize("moved_s", [-2, 0, 2])
def test_a_clock_that_was_set_in_mid_run_moves_no_token(tmp_path: Path, moved_s: int) -> None:
    """Was "a step takes 21.7 ms", or no limit of slots: tokens after the step were taken to have come 2 s late, or those before."""
    loads = [Load(users=users, requests=12 * users, prompt=(50, 300), output=(20, 60)) for users in (1, 4, 8)]
    played = play(dataclasses.replace(TIMING, jitter=0.0), loads, slots=4)
    for record in sorted(played.records, key=lambda one: one.t_end)[len(played.records) // 2 :]:
        assert record.server_first is not None
        record.server_first += moved_s * 10**9
    found = analyse(made_runs.write(tmp_path / "run", played.records, played.levels))
    assert (found.slots.number, bool(found.run.delivery.usable.any())) == (4, moved_s == 0)
    assert found.steps.law is not None
    assert found.steps.law.base_s == pytest.approx(0.02, rel=0.02)


def test_of_two_servers_of_one_model_the_one_with_another_clock_is_named(tmp_path: Path) -> None:
    """Their durations were taken for one server's, and the first one's factor for both."""

    def doubled(record: Record) -> dict[str, Any]:
        said = record.server or {}
        return {"server": {**said, **{name: 2 * said[name] for name in DURATIONS}}} if record.target else {}

    levels, records = mixed(SLOW, SLOW, names=("made", "made"), change=doubled)
    found = analyse(made_runs.write(tmp_path / "run", records, levels, targets=[target("made"), target("made", THERE)]))
    said = [each for each in all_findings(found) if "durations are left out" in each]
    assert said == [
        "10.0.0.2:8000: the server's durations are left out: by them decoding took 2.00 times as long as its tokens came."
    ]
    known = np.isfinite(found.run.column("prefill_s"))
    assert known.tolist() == (found.run.requests["target"] == 0).tolist()


@pytest.mark.parametrize("name", ["ollama-0.24-tiny-slots4-c8-mixed", "ollama-0.33-mid-slots2-c4"])
def test_the_durations_of_a_real_server_fit(tmp_path: Path, name: str) -> None:
    assert (RECORDED_RUNS / f"{name}.jsonl").is_file()
    run = frames.load(made_runs.recorded(tmp_path / "run", [name]))
    assert np.isfinite(run.column("queue_wait_s")).all()
