"""Predictions of the very requests of a run to come, which its seed says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import insight_open
from support.virtual_runs import Load, play

from loadtest.analyse.comparison import comparable
from loadtest.analyse.reports import score_report
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.model.seeded_run import SeededRequests, SeededRun
from loadtest.analyse.whatif.predictions.predict_loads import predict_loads
from loadtest.analyse.whatif.predictions.prediction_file import read_document
from loadtest.errors import PredictionError
from loadtest.scenario import Level
from loadtest.simulate.model.timing import StepLaw, Timing

RATES = "20,40"
LENGTHS = ("--input-tokens", "uniform(40, 200)", "--output-tokens", "uniform(2, 9)")
Loadtest = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def sent(simulated_url: str, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """A run of two rates and of drawn lengths, as the asyncio driver sent it."""
    from click.testing import CliRunner

    from loadtest.cli import cli

    out = tmp_path_factory.mktemp("planned") / "run"
    say = ["run", simulated_url, *LENGTHS, "--rate", RATES, "--requests", "12", "--out", str(out), "--quiet"]
    CliRunner().invoke(cli, say, standalone_mode=False)
    return analyse(out)


def planned(analysis: Analysis, place: int) -> SeededRequests:
    seed = analysis.run.facts["scenario"]["seed"]
    return SeededRequests.of(analysis.run, analysis.run.levels[place], SeededRun(12, seed), place)


@pytest.mark.parametrize("place", [0, 1])
def test_the_requests_of_a_seed_are_known_before_a_run_sends_them(sent: Analysis, place: int) -> None:
    mine = ((sent.run.requests["level"] == place) & ~sent.run.requests["warmup"]).to_numpy()
    due = np.sort(sent.run.column("sched")[mine])
    said = list(planned(sent, place).instants_s(sent.run.levels[place]["rate"]))
    np.testing.assert_allclose(due - due[0], said, atol=1e-6)
    order = np.argsort(sent.run.column("sched")[mine])
    known = np.stack([sent.run.column(name)[mine][order] for name in ("prompt_tokens", "output_tokens")], axis=1)
    np.testing.assert_allclose(planned(sent, place).lengths([(1, 1)] * 12, warmups=0), known, atol=2)
    other = dataclasses.replace(planned(sent, place), run=SeededRun(12, 1)).lengths([(1, 1)] * 12, warmups=0)
    assert np.abs(np.array(other) - known).max() > 2


def test_lengths_are_cut_to_the_context_as_a_run_cuts_them(
    simulated_url: str, loadtest: Loadtest, tmp_path: Path
) -> None:
    """The context was looked for where no run.json has it, so that none was cut."""
    say = ("run", simulated_url, *LENGTHS, "--num-ctx", "150", "--rate", "40", "--requests", "12", "--quiet")
    loadtest(*say, "--out", tmp_path / "cut")
    cut = analyse(tmp_path / "cut")
    mine = (~cut.run.requests["warmup"]).to_numpy()
    known = np.stack([cut.run.column(name)[mine] for name in ("prompt_tokens", "output_tokens")], axis=1)
    known = known[np.argsort(cut.run.column("sched")[mine])]
    assert known.sum(axis=1).max() <= 150
    said = np.array(planned(cut, 0).lengths([(1, 1)] * 12, warmups=0))
    np.testing.assert_allclose(said, known, atol=2)
    free = dataclasses.replace(planned(cut, 0), context=None).lengths([(1, 1)] * 12, warmups=0)
    assert np.abs(np.array(free) - known).max() > 2, "none was cut"


def test_warm_ups_come_first_and_lengths_that_are_numbers_stay_as_seen(sent: Analysis) -> None:
    found = planned(sent, 0)
    assert found.lengths([(1, 1)] * 15, warmups=3)[3:] == found.lengths([(1, 1)] * 12, warmups=0)
    level = Level(index=0, concurrency=None, requests=12, input_tokens=64, output_tokens=8)
    assert dataclasses.replace(found, like=level).lengths([(70, 8)], warmups=0) == [(70, 8)]
    answers = dataclasses.replace(found, output_as_asked=False).lengths([(1, 77)] * 12, warmups=0)
    assert {output for _, output in answers} == {77}  # a model that ends by itself keeps the lengths it showed


@pytest.mark.parametrize(
    ("facts", "level", "why"),
    [
        ({"driver": "locust"}, {}, "Locust"),
        ({}, {"turns": "4", "sessions": True}, "conversations"),
        ({"scenario": {"trace": "day.csv"}}, {}, "trace"),
        ({}, {"input_lengths": "day.csv"}, "day.csv"),
    ],
)
def test_what_a_next_run_does_not_repeat_is_refused(
    sent: Analysis, facts: dict[str, Any], level: dict[str, Any], why: str
) -> None:
    kept, levels = dict(sent.run.facts), [dict(each) for each in sent.run.levels]
    try:
        sent.run.facts.update(facts)
        sent.run.levels[0].update(level)
        with pytest.raises(PredictionError, match=why):
            SeededRequests.of(sent.run, sent.run.levels[0], SeededRun(12, 1), 0)
    finally:
        sent.run.facts.update(kept)
        sent.run.levels[0].clear()
        sent.run.levels[0].update(levels[0])


def measured(path: Path, seed: int, *, users: Sequence[int] = (), rates: Sequence[float] = ()) -> Path:
    """Measure a server in virtual time; the run says that it had this seed."""
    loads = [Load(users=each, requests=10 * each) for each in users] + [Load(rate=rate, requests=20) for rate in rates]
    truth = Timing(step=StepLaw(0.020, 0.005), prefill_s=0.001, jitter=0.05)
    played = play(truth, loads, slots=4, seed=seed, says="ollama")
    return played.write(path, driver="asyncio", scenario={"seed": seed, "arrivals": "poisson"})


def test_a_run_sends_what_was_predicted(
    simulated_url: str, loadtest: Loadtest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    measured(tmp_path / "fit", 3, users=(1, 2, 4, 6))
    code, out, err = loadtest("predict", "fit", "--rate", "1,2", "--requests", "20", "--out", "said.json")
    assert code == 0, err
    plan = read_document(Path("said.json")).plan
    assert plan is not None
    assert (plan.requests, plan.seed != 3) == (20, True)
    assert f"Of the very 20 requests of seed {plan.seed} to each load" in " ".join(out.split())
    say = ("run", simulated_url, *LENGTHS, "--quiet", "--rate", "15,25", "--prediction", "said.json")
    code, _, err = loadtest(*say, "--seed", "4")
    assert (code, err) == (2, f"loadtest: said.json is of the requests of --seed {plan.seed}; leave --seed 4 out.\n")
    assert loadtest(*say, "--duration", "3")[0] == 2
    loadtest(*say, "--out", "same")
    same = json.loads(Path("same/run.json").read_bytes())
    assert same["scenario"]["seed"] == plan.seed
    assert [level["requests"] for level in same["levels"]] == [20, 20]


def test_other_requests_than_those_predicted_are_not_scored(tmp_path: Path) -> None:
    fit = analyse(measured(tmp_path / "fit", 3, users=(1, 2, 4, 6)))
    facts = comparable.asked_facts(fit.run)
    document = predict_loads(
        fit.run, fit.slots, fit.steps, fit.summary["levels"], facts, rates=(1.5, 2.5), seeded=SeededRun(20, 9)
    )

    def said(rates: Sequence[float], seed: int) -> str:
        return " ".join(
            score_report.score(document, analyse(measured(tmp_path / f"{rates}{seed}", seed, rates=rates))).said
        )

    assert said((1.5, 2.5), 9) == ""
    assert "it sent 20 requests of seed 4, and the prediction is of 20 of seed 9" in said((1.5, 2.5), 4)
    assert "measure 1.5 and 2.5 in this order" in said((2.5,), 9)


def test_a_plan_is_predicted_with_its_own_lengths(tmp_path: Path) -> None:
    fit = analyse(measured(tmp_path / "fit", 3, users=(1, 2, 4, 6)))
    plan = SeededRun(20, 9)
    facts = comparable.asked_facts(fit.run)
    document = predict_loads(fit.run, fit.slots, fit.steps, fit.summary["levels"], facts, rates=(1.5,), seeded=plan)
    run = analyse(measured(tmp_path / "run", 9, rates=(1.5,)))

    def said(asked: float, came: float, plan: SeededRun | None = plan) -> str:
        """Score the run, had the answers that the prediction rests on been so much longer."""
        lengths = document.run["lengths"]
        known = lengths["output_tokens"]
        other = {**known, "asked": known["asked"] + asked, "mean": known["mean"] + came}
        before = {**document.run, "lengths": {**lengths, "output_tokens": other}}
        return " ".join(score_report.score(dataclasses.replace(document, run=before, plan=plan), run).said)

    assert said(20, 20) == ""
    assert "and the prediction is for" in said(20, 20, None)
    assert "and the prediction is for" in said(0, -20)


def test_the_waits_of_open_loops_are_foretold_up_to_more_than_the_server_can_do() -> None:
    """`scripts/bench open` does this for as many engines as asked for."""
    rows = insight_open.examine(19)
    assert [row.utilisation for row in rows] == list(insight_open.UTILISATIONS)
    for row in rows:
        assert all(row.inside), row
        assert max(map(abs, row.errors)) < 0.2, row


def test_fewer_requests_than_users_are_refused(loadtest: Loadtest, tmp_path: Path) -> None:
    """It was a traceback; a run of so few is refused as well."""
    fit = measured(tmp_path / "fit", 3, users=(1, 2, 4))
    code, _, err = loadtest("predict", fit, "--concurrency", "2,8", "--requests", "3", "--out", tmp_path / "said.json")
    assert (code, err) == (2, "loadtest: --requests 3 cannot keep 8 users busy; ask for 8 or more.\n")
    assert not (tmp_path / "said.json").exists()
