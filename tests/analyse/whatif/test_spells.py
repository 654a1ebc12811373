"""What makes p95: spells of slow steps, slow prompts, and lengths that another run would draw. All of it simulated."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support.virtual_runs import Load, play

from loadtest.analyse.server.timing.prefill_law import fit_prefill
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
    model, *_ = fit_models(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"]).models.values()
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
    drawn = found.per_token_s * 100 * np.array(found.factors)
    assert (drawn.max(), drawn.mean()) == pytest.approx((0.20, 0.11), rel=0.02)
    assert "factors" not in found.to_dict()


@pytest.mark.parametrize(("context_s", "longest"), [(3e-7, 1500), (0.0, 1500), (3e-7, 130)])
def test_attention_is_in_what_long_prompts_cost_where_lengths_show_it(context_s: float, longest: int) -> None:
    draw = np.random.default_rng(1)
    tokens = np.exp(draw.uniform(np.log(100), np.log(longest), 60)).round()
    spent = (1e-4 * tokens + context_s * tokens**2 / 2) * draw.normal(1, 0.03, 60)
    nothing = np.zeros(60)
    found = fit_prefill(tokens, spent, nothing, nothing, "made up", None, tokens**2 / 2)
    told = context_s > 0 and longest > 200
    assert found.context_s == pytest.approx(context_s if told else 0.0, rel=0.15)
    assert found.bare_s == pytest.approx(1e-4 if told else found.per_token_s, rel=0.05)
    assert found.seconds(tokens).sum() == pytest.approx(spent.sum(), rel=0.03)


def test_a_server_whose_attention_takes_time_is_given_back_at_p95(tmp_path: Path) -> None:
    timing = Timing(step=StepLaw(0.002, 0.0005), prefill_s=0.0001, context_prefill_s=2e-7, n_batch=512)
    loads = [Load(users=users, requests=60, prompt=(50, 1500), output=(10, 30)) for users in (1, 2)]
    analysis = analyse(play(timing, loads, slots=2, says="llamacpp").write(tmp_path / "run"))
    prefill = analysis.steps.prefill
    assert prefill is not None
    assert prefill.context_s == pytest.approx(2e-7, rel=0.1)
    said = ServerModel.of(analysis.run, analysis.slots, analysis.steps).closed(1, requests=60)
    seen = analysis.summary["levels"][0]["ttft_s"]
    assert said.figure("ttft_s", "p95") == pytest.approx(seen["p95"], rel=0.08)


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
        model, *_ = fit_models(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"]).models.values()
        assert model.lengths_known == (path == "asked")
    assert len(set(model.prompts)) > 300
    assert np.mean(model.prompts) == pytest.approx(250, rel=0.03)
    assert (min(model.prompts), max(model.prompts)) == (50, 450)
