"""What makes p95: spells of slow steps, slow prompts, and lengths that another run would draw. All of it simulated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.virtual_runs import Load, play

from loadtest.analyse.server.timing.prefill import fit_prefill
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.fit import fit_models
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.simulate.model.timing import StepLaw, Timing

SPELLS = ((0.010,) * 60 + (0.016,) * 60) * 4  # each as long as two answers
TIMING = Timing(step=StepLaw(table=((1, SPELLS),), in_order=True), prefill_s=0.0001)
LOADS = [Load(users=users, requests=80, prompt=(50, 50), output=(30, 30)) for users in (1, 3)]


def spread(model: ServerModel) -> float:
    said = model.closed(2, requests=100)
    return said.figure("e2e_s", "p95") / said.figure("e2e_s", "p5")


def test_answers_in_a_spell_of_slow_steps_are_slow_as_a_whole(tmp_path: Path) -> None:
    analysis = analyse(play(TIMING, LOADS, slots=1, says="llamacpp").write(tmp_path / "run"))
    _, model = fit_models(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"]).likeliest
    step = dataclasses.replace(model.timing.step, in_order=False)
    evened = dataclasses.replace(model, timing=dataclasses.replace(model.timing, step=step))
    truth = analyse(play(TIMING, [dataclasses.replace(LOADS[0], users=2)], slots=1, seed=3).write(tmp_path / "later"))
    seen = truth.summary["levels"][0]["e2e_s"]
    assert spread(model) == pytest.approx(seen["p95"] / seen["p5"], rel=0.12)
    assert spread(evened) < 0.8 * spread(model)


def test_slow_prompts_stay_among_those_that_are_drawn() -> None:
    tokens = np.full(100, 100.0)
    spent = np.where(np.arange(100) % 10 == 0, 0.20, 0.10)
    nothing = np.zeros(100)
    found = fit_prefill(tokens, spent, nothing, nothing, "made up", 512)
    assert max(found.factors) == pytest.approx(2.0, rel=0.05)
    assert np.mean(found.factors) == pytest.approx(1.1, rel=0.05)
    assert "factors" not in found.to_dict()


def test_lengths_are_drawn_from_what_was_asked_for(tmp_path: Path) -> None:
    loads = [Load(users=users, requests=30, prompt=(50, 450), output=(30, 30)) for users in (1, 2)]
    played = play(Timing(step=StepLaw(0.01, 0.002), prefill_s=0.0004), loads, slots=1, says="llamacpp")
    played.records = [
        dataclasses.replace(each, asked_input=played.streams[each.id].prompt_tokens - 10) for each in played.records
    ]
    asked = [{**level, "input_lengths": "uniform(40, 440)"} for level in played.levels]
    for path, levels in (("seen", played.levels), ("asked", asked)):
        played.levels = levels
        analysis = analyse(played.write(tmp_path / path))
        _, model = fit_models(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"]).likeliest
        assert model.lengths_known == (path == "asked")
    assert len(set(model.prompts)) > 300
    assert np.mean(model.prompts) == pytest.approx(250, rel=0.03)
    assert (min(model.prompts), max(model.prompts)) == (50, 450)
