"""A server whose pace differs from level to level: the run shows by how much, and bands hold a run at another pace."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import made_runs
from support.virtual_runs import Load, play

from loadtest.analyse.findings.step_findings import pace_finding, steps_findings
from loadtest.analyse.server.timing.pace import PaceChange, _change_at, pace_error
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.model.self_check import as_measured
from loadtest.analyse.whatif.predictions.predict_loads import describe_basis, predict_loads
from loadtest.simulate.model.timing import StepLaw, Timing

SERVER = Timing(step=StepLaw(base_s=0.02, per_stream_s=0.002), prefill_s=0.0001, jitter=0.02)
HELD = ("ttft_s.p50", "ttft_s.p95", "output_tokens_per_s.mean")


def ran(path: Path, paces: Sequence[float], users: Sequence[int] = (1, 5, 6, 8)) -> Analysis:
    loads = [
        Load(users=each, requests=120, prompt=(60, 240), output=(20, 60), pace=pace)
        for each, pace in zip(users, paces, strict=True)
    ]
    return analyse(play(SERVER, loads, slots=4).write(path))


def test_a_steady_server_shows_next_to_none(tmp_path: Path) -> None:
    steps = ran(tmp_path / "run", (1, 1, 1, 1)).steps
    assert steps.pace_error < 0.01
    assert steps.pace_scatter < 0.01


def test_the_same_steps_at_another_pace_scatter(tmp_path: Path) -> None:
    assert 0.15 < ran(tmp_path / "run", (1, 0.7, 1, 1.4)).steps.pace_scatter < 0.4


def test_levels_at_other_paces_show_by_how_much_another_run_may_differ(tmp_path: Path) -> None:
    found = ran(tmp_path / "run", (1.001, 0.95, 1.001, 1.05))
    # The three levels past the slots share four streams; s = 5 %, t of two degrees of freedom is 4.30: exp(4.30 × 5 % × √(4/3)).
    assert math.log1p(found.steps.pace_error) == pytest.approx(0.248, rel=0.1)
    assert found.summary["step_law"]["pace_error"] == found.steps.pace_error
    assert [found.steps.paces[level] for level in (1, 2, 3)] == pytest.approx([0.95, 1.0, 1.05], rel=0.02)


@pytest.mark.parametrize(("levels", "least"), [(2, 0.84), (3, 0.94), (4, 0.94), (8, 0.94)])
def test_another_run_lies_where_the_levels_paces_say(levels: int, least: float) -> None:
    """The t of three levels' spread was that of four: 91 of 100 runs lay there, and of slow ones at 10 % fewer still."""
    paces = np.exp(np.random.default_rng(5).normal(0.0, 0.1, size=(4000, levels + 1)))
    usual = np.exp(np.log(paces[:, 1:]).mean(axis=1))
    may = np.array([1 + pace_error(dict(enumerate(each))) for each in paces[:, 1:]])
    apart = np.abs(np.log(paces[:, 0] / usual))
    assert least < (apart <= np.log(may)).mean() < 0.96


@pytest.mark.parametrize(
    ("then", "prompt", "said"),
    [
        (
            1.5,
            (60, 240),
            "slower within the level at 4 streams, after about 20.7 s: on average the same steps took at least 1.5 times as long from then on as before.",
        ),
        (
            0.5,
            (60, 240),
            "faster within the level at 4 streams, after about 20.1 s: on average the same steps took at least 1.8 times as long before as from then on.",
        ),
        (1.05, (60, 240), None),
        (1.5, (600, 900), None),  # longer prompts, as in conversations: a step takes longer for their context
    ],
)
def test_a_pace_that_changes_within_a_level_is_said(
    tmp_path: Path, then: float, prompt: tuple[int, int], said: str | None
) -> None:
    """Was "A step of the server takes 12.7 ms, and 9.99 ms more for each stream" of one that slowed down meanwhile, and no more."""
    loads = [
        Load(users=4, requests=60, prompt=each, output=(20, 60), pace=pace)
        for each, pace in (((60, 240), 1.0), (prompt, then))
    ]
    played = play(SERVER, loads, slots=4)
    records = [dataclasses.replace(record, level=0) for record in played.records]
    level = played.levels[0] | {"ended_ns": played.levels[1]["ended_ns"], "requests": 120}
    found = steps_findings(analyse(made_runs.write(tmp_path / "run", records, [level])))
    changed = [each for each in found if "the same steps" in each]
    assert [each.removeprefix("The server became ") for each in changed] == [said] * bool(said)
    assert any("A step of the server" in each or "Prefill" in each for each in found) is not bool(said)
    assert prompt != (60, 240) or not any("of two kinds" in each for each in found)  # that would be the two paces


@pytest.mark.parametrize(
    ("paces", "contexts", "told"),
    [
        ((1.0, 1.0, 1.3, 1.3), (400, 400, 400, 400), 1.3),
        ((1.0, 1.0, 1.3, 1.3), (300, 300, 380, 380), 1.0),  # was "1.3 times as long" of longer prompts
        ((1.0, 1.0, 1.6, 1.0), (400, 400, 400, 400), 1.0),  # a hiccup: over before the end
        ((1.0, 1.5, 1.5, 1.7), (400, 400, 400, 400), 1.0),  # it wavers
        ((1.0, 1.0, 1.3, 1.3), (0, 0, 0, 0), 1.3),  # no context is known: was a traceback
        ((1.0, 1.0, 1.3, 1.3), (-400, -400, 400, 400), 1.3),  # counts that cannot be
    ],
)
def test_a_change_of_pace_is_neither_a_longer_context_nor_a_hiccup(
    paces: Sequence[float], contexts: Sequence[int], told: float
) -> None:
    each = 100
    steps = pd.DataFrame(
        {
            "at": np.arange(4 * each) * 0.1,
            "row": np.arange(4 * each) // 20,
            "step_s": np.repeat(paces, each) * (0.01 + 1e-4 * np.sin(np.arange(4 * each))),
            "context": np.repeat(contexts, each),
        }
    )
    assert math.exp(_change_at(20.0, [(1, steps)])) == pytest.approx(told, rel=0.05)


def test_a_pace_that_differs_between_levels_is_said(tmp_path: Path) -> None:
    found = ran(tmp_path / "run", (1.001, 0.9, 1.001, 1.3))
    (said, *_) = steps_findings(found)
    assert "another model's" in said.evidence  # whose end makes a server faster
    assert (
        said
        == "The server's pace changed between levels: the same steps took 1.4 times as long at 8 streams as at 5 streams."
    )
    # Two llama.cpp behind nginx: was "1.9 times as long at 2 streams as at 8: heat, other work on the machine …".
    levels = found.summary["levels"]
    alike = [{**level, "label": f"{level['label']} · 128 in · 64 out"} for level in levels]
    assert str(pace_finding(found.steps, alike)) == said  # what all levels share is not said twice
    assert not pace_finding(dataclasses.replace(found.steps, out_of_step=0.7), levels)


def test_a_pace_that_differs_between_two_levels_of_one_load_is_said(tmp_path: Path) -> None:
    """Was silent on 2.2 times as long in one trial of a search as in the next, for another level changed a little within."""
    found = ran(tmp_path / "run", (0.9, 2.2, 1.001), users=(4, 4, 8))
    changed = dataclasses.replace(found.steps, change=PaceChange(2, 1.3, 4.0))
    said = str(pace_finding(changed, found.summary["levels"]))
    assert said.endswith("in one level at 4 streams as in another.")
    said = str(pace_finding(dataclasses.replace(changed, change=PaceChange(2, 3.0, 4.0)), found.summary["levels"]))
    assert said.startswith("The server became slower within the level at 8 streams")


@pytest.mark.parametrize(("paces", "held"), [((1.001, 0.95, 1.001, 1.05), True), ((1, 1, 1, 1), False)])
def test_bands_hold_a_run_at_another_pace_where_levels_showed_that_it_differs(
    tmp_path: Path, paces: Sequence[float], *, held: bool
) -> None:
    found = ran(tmp_path / "run", paces)
    document = predict_loads(found.run, found.slots, found.steps, found.summary["levels"], {}, concurrencies=[12])
    case = document.loads[0].cases[0]
    later = ran(tmp_path / "later", (1.12,), users=(12,))
    seen = as_measured(later.summary["levels"][0], None)
    inside = {key: case.bands[key][0] <= seen.figure(*key.split(".")) <= case.bands[key][1] for key in HELD}
    assert all(inside.values()) is held, inside
    assert ("different paces" in describe_basis(document)) is held
