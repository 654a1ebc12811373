"""The ways servers work: each is found from a run of such a server, and what it predicts comes true. All of it simulated."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner
from support.made_runs import Made, make, write
from support.virtual_runs import Load, play

from loadtest.analyse.charts import prediction
from loadtest.analyse.explain.explanation import Explainer, at_percentile, rows_by_length
from loadtest.analyse.findings.slot_findings import slots_finding
from loadtest.analyse.reports import answers
from loadtest.analyse.run import RunData
from loadtest.analyse.server.queue.slots import known_slots
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.model import fit
from loadtest.analyse.whatif.model.cases import AS_KNOWN
from loadtest.analyse.whatif.model.fit import NoWayError, fitted_way, levels_used, predicted_curve
from loadtest.analyse.whatif.model.predict import SLICED_WAY, ServerModel
from loadtest.analyse.whatif.predictions.predict_loads import predict_loads
from loadtest.analyse.whatif.predictions.prediction_file import Case
from loadtest.cli import cli
from loadtest.errors import PredictionError
from loadtest.simulate.model.timing import BEFORE, BESIDE, SLICED, StepLaw, Timing

STEP = StepLaw(0.010, 0.002)
CLOCKS = Timing(
    step=STEP, prefill_s=0.0004, prompt_s=0.2, prompt_jitter=0.05, jitter=0.05, own_clocks=True, handling_s=0
)
PROMPTS, ANSWERS = (100, 900), (20, 80)


def shared(way: str) -> Timing:
    return Timing(step=STEP, prefill_s=0.0006, prefill_way=way, jitter=0.02, n_batch=512 if way == SLICED else None)


def loads(*users: int) -> list[Load]:
    return [Load(users=each, requests=max(12 * each, 40), prompt=PROMPTS, output=ANSWERS) for each in users]


def fitted(analysis: Analysis) -> ServerModel:
    used = levels_used(analysis.run, analysis.summary["levels"])
    return fitted_way(analysis.run, known_slots(analysis.run, analysis.slots), analysis.steps, used)


def test_a_model_of_short_prompts_predicts_nothing_of_a_long_one(tmp_path: Path) -> None:
    """A real llama.cpp read one prompt of 1,301 tokens in 2.05 s; by 23 of 9 tokens advise promised a TTFT p95 of 10.6 ms."""
    analysis = analyse(play(shared(SLICED), loads(3), slots=2).write(tmp_path / "run"))
    assert fitted(analysis).way == SLICED_WAY
    analysis.run.requests.loc[20, ["prompt_tokens", "prefill_s"]] = (9000, 90.0)
    with pytest.raises(
        NoWayError, match=r"a prompt of 9,000 tokens takes .* to read by the model and 90.0 s as measured"
    ):
        fitted(analysis)


@pytest.mark.parametrize(
    ("timing", "slots", "named"),
    [
        (shared(SLICED), 4, {SLICED_WAY}),
        (shared(BEFORE), 4, {fit.BEFORE_WAY, SLICED_WAY}),  # a prompt in few slices stalls others as long
        (shared(BESIDE), 4, {fit.BESIDE_WAY, fit.CLOCKS_WAY}),
        (CLOCKS, 4, {fit.CLOCKS_WAY}),
    ],
    ids=["sliced", "before", "beside", "clocks"],
)
def test_a_way_of_working_is_found_and_predicts(timing: Timing, slots: int, named: set[str], tmp_path: Path) -> None:
    analysis = analyse(play(timing, loads(1, 2, 4, 8), slots=slots, says=None).write(tmp_path / "run"))
    assert (analysis.slots.estimate, analysis.slots.limit) == (slots, True), analysis.slots.method
    found = fitted(analysis)
    assert found.way in named
    truth = analyse(play(timing, loads(12), slots=slots, says=None, seed=5).write(tmp_path / "later")).summary[
        "levels"
    ][0]
    said = found.closed(12)
    assert said.figure("ttft_s", "p50") == pytest.approx(truth["ttft_s"]["p50"], rel=0.15)
    assert said.figure("output_tokens_per_s", "mean") == pytest.approx(truth["output_tokens_per_s"], rel=0.1)


def test_a_budget_of_tokens_is_found_where_the_number_at_work_says_nothing(tmp_path: Path) -> None:
    timing = dataclasses.replace(CLOCKS, kv_tokens=2500)
    analysis = analyse(play(timing, loads(1, 2, 4, 12), slots=None, says=None).write(tmp_path / "run"))
    assert not analysis.slots.limit, analysis.slots.method
    found = fitted(analysis)
    assert "tokens of prompts and answers are held at most" in found.way
    assert found.timing.kv_tokens == pytest.approx(2500, rel=0.05)
    room = f"others wait for room for about {found.timing.kv_tokens} tokens of prompts and answers, not for one of a number of slots"
    assert slots_finding(analysis) == f"The server handles at least 5 requests in parallel; {room}."
    assert (
        answers.tiles(analysis)[3].note == room
    )  # both were "its limit was not seen: measure longer, or with more load"


def test_chart_and_explanation_rest_on_the_way_that_predict_does(tmp_path: Path) -> None:
    """A server that evaluates prompts beside its steps: by the usual way each prompt would stall the others."""
    folder = play(shared(BESIDE), loads(1, 2, 4, 8), slots=4, says=None).write(tmp_path / "run")
    analysis = analyse(folder)
    levels = analysis.summary["levels"]
    curve = predicted_curve(analysis.run, analysis.slots, analysis.steps, levels)
    assert curve is not None
    assert curve.model is not None
    assert curve.model.way != SLICED_WAY
    drawn = next(each for each in curve.predictions if each.concurrency == 16)
    document = predict_loads(analysis.run, analysis.slots, analysis.steps, levels, {}, concurrencies=(16,))
    assert Case.of(AS_KNOWN, drawn) == document.loads[0].cases[0]
    assert document.rests_on["way"] == curve.model.way
    assert prediction.draw(tmp_path / "prediction.png", analysis, curve).exists()
    explainer = Explainer.of(analysis.run, analysis.slots, analysis.steps, levels)
    assert explainer.models[0] == curve.model
    row = at_percentile(rows_by_length(analysis.run, [3], "ttft"), 0.5)
    found = explainer.explain(row)
    assert found.no_replay is None
    assert found.without
    usual = dataclasses.replace(explainer, models=(ServerModel.of(analysis.run, analysis.slots, analysis.steps),))
    assert "misses what was measured" in (usual.explain(row).no_replay or "")


def test_no_way_is_an_answer(tmp_path: Path) -> None:
    """Four streams at once wait three times as long as they should, and two do not."""
    played = play(CLOCKS, loads(1, 2, 4), slots=None, says=None)
    late = [
        record
        if record.level != 1
        else dataclasses.replace(
            record,
            t_first_token=(record.t_first_token or 0) + 2_000_000_000,
            t_first_visible=(record.t_first_visible or 0) + 2_000_000_000,
            chunks=[chunk + 2_000_000 for chunk in record.chunks],
            t_end=record.t_end + 2_000_000_000,
        )
        for record in played.records
    ]
    analysis = analyse(write(tmp_path / "run", late, played.levels))
    with pytest.raises(NoWayError, match="nor does any other way of working that loadtest knows"):
        fitted(analysis)
    levels = analysis.summary["levels"]
    curve = predicted_curve(analysis.run, analysis.slots, analysis.steps, levels)
    assert curve is not None
    assert not curve.predictions
    assert prediction.title(analysis, curve) == f"No prediction: {curve.missed}"
    assert curve.missed
    drawn = prediction.draw(tmp_path / "prediction.png", analysis, curve)
    assert drawn.exists()
    for command, todo in (("advise", "`loadtest compare`"), ("predict", "Measure the loads that you ask about")):
        load = ["--concurrency", "8"] if command == "predict" else []
        result = CliRunner().invoke(cli, [command, str(tmp_path / "run"), *load])
        assert todo in str(result.exception)


def test_answers_that_a_proxy_held_back_show_no_way(tmp_path: Path) -> None:
    """Every answer comes whole, in one read: all gaps between tokens are zero."""
    played = play(CLOCKS, loads(1, 2, 4), slots=None, says=None)
    whole = [
        dataclasses.replace(
            record,
            t_first_token=record.t_end,
            t_first_visible=record.t_end,
            chunks=[(record.t_end - (record.t_send or 0)) // 1000] * len(record.chunks),
        )
        for record in played.records
    ]
    analysis = analyse(write(tmp_path / "run", whole, played.levels))
    with pytest.raises(PredictionError, match="no steps between tokens were seen"):
        fitted(analysis)
    curve = predicted_curve(analysis.run, analysis.slots, analysis.steps, analysis.summary["levels"])
    assert curve is None or not curve.predictions


def test_a_budget_of_tokens_is_no_number_of_slots(tmp_path: Path) -> None:
    """Prompts of like lengths: 4 requests were at work for 94 % of the time, since a fifth mostly did not fit."""
    timing = Timing(step=STEP, prefill_s=0.0004, jitter=0.02, kv_tokens=2000)
    like = [Load(users=each, requests=max(12 * each, 40), prompt=(300, 500), output=(40, 60)) for each in (1, 2, 4, 12)]
    analysis = analyse(play(timing, like, slots=None, says=None, seed=9).write(tmp_path / "run"))
    assert not analysis.slots.limit
    assert "a budget of" in analysis.slots.method
    found = fitted(analysis)
    assert "tokens of prompts and answers are held at most" in found.way
    assert found.timing.kv_tokens == pytest.approx(2000, rel=0.05)


def test_one_stream_does_not_show_how_a_server_works(tmp_path: Path) -> None:
    """Of one request: "of the ways servers work this one gives back the run: each stream has a clock of its own"."""
    make(tmp_path / "run", Made(), users=(1,), each=1)
    one = analyse(tmp_path / "run")
    with pytest.raises(PredictionError, match="too few prompts"):
        fit.fit_models(one.run, one.slots, one.steps, one.levels)


@pytest.mark.parametrize("way", [{"sessions": True}, {"shed": 34}, {"rate_to": 8.0}, {}])
def test_an_open_loop_that_the_model_does_not_play_is_no_ground_for_predictions(way: dict[str, object]) -> None:
    """1.2 sessions a second were taken for 1.2 requests, and 48 due requests for sent ones, of which 34 were not."""
    run = cast("RunData", SimpleNamespace(levels=[], path="run"))
    level = {"index": 0, "rate": 1.2, "input_tokens": 100, "output_tokens": 20, "words": None, "shed": 0, **way}
    if way:
        with pytest.raises(PredictionError, match="single requests"):
            levels_used(run, [level])
    else:
        assert levels_used(run, [level]) == [level]


def test_streams_that_share_steps_have_no_clocks_of_their_own(tmp_path: Path) -> None:
    """Was "each stream has a clock of its own" of a noisy run of a real Ollama, whose streams all got their tokens together."""
    one = analyse(play(shared(SLICED), loads(1, 2, 4), slots=2, seed=3).write(tmp_path / "run"))
    assert one.steps.out_of_step == 0.0
    tried = [way for way, _ in fit._ways(one.run, one.slots, one.steps)]
    assert tried
    assert not [way for way in tried if way.startswith(fit.CLOCKS_WAY)]
