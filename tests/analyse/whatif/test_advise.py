"""Advice: slots, capacity and levers, from runs of the simulated engine in virtual time."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from support.advised import CONTEXT, LOADED, PROFILE, play
from support.places import ROOT
from support.virtual_runs import Load

from loadtest.analyse.charts import prediction
from loadtest.analyse.reports import advice_report as words
from loadtest.analyse.server.model_memory.by_slots import MemoryBySlots, memory_by_slots
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.advice import slot_advice as work
from loadtest.analyse.whatif.advice.slot_advice import Advice
from loadtest.analyse.whatif.advice.sustainable_load import SustainableLoad, meets, sustainable_load
from loadtest.analyse.whatif.model import predict, self_check
from loadtest.analyse.whatif.model.fit import ClosedLoopSeries, PredictedCurve, longest_series, predict_curve
from loadtest.analyse.whatif.model.lengths import with_lengths_of, with_spread_lengths
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.prediction import Prediction
from loadtest.cli import cli
from loadtest.errors import PredictionError, ScenarioError
from loadtest.slo import parse_objectives
from loadtest.text import seconds


@pytest.fixture(scope="module", autouse=True)
def _short_predictions() -> Iterator[None]:
    """Simulate a sixth of what a user gets: these tests ask for order, not for percents."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "TOKENS_SIMULATED", 10_000)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1, 2, 4 and 8 users on four slots of the A100 profile."""
    loads = [
        Load(users=users, requests=max(24, 6 * users), prompt=(100, 100), output=(32, 32)) for users in (1, 2, 4, 8)
    ]
    return play(tmp_path_factory.mktemp("advise") / "run", loads)


@pytest.fixture(scope="module")
def analysis(folder: Path) -> Analysis:
    return analyse(folder)


@pytest.fixture(scope="module")
def room(analysis: Analysis) -> SustainableLoad:
    return sustainable_load(model_of(analysis)[0], parse_objectives("ttft_p95=2"))


def model_of(analysis: Analysis) -> tuple[ServerModel, ClosedLoopSeries]:
    group = longest_series(analysis.run)
    assert group is not None
    model = ServerModel.of(analysis.run, analysis.slots, analysis.steps)
    return with_lengths_of(model, analysis.run, group.levels), group


@pytest.fixture(scope="module")
def advice(analysis: Analysis) -> Advice:
    model, group = model_of(analysis)
    levels = analysis.summary["levels"]
    return work.advise_slots(
        model, group, levels, kind="ollama", objectives=parse_objectives("ttft_p95=2,tokens_per_s_p5=10")
    )


def test_more_slots_than_users_change_nothing_and_fewer_queue(advice: Advice) -> None:
    assert advice.now == 4
    assert advice.loads == (1, 2, 4, 8, 16)
    assert set(work.TRIED_SLOTS) <= set(advice.slots)
    assert advice.cells[4, 2].figures == advice.cells[16, 2].figures
    ttft = [advice.cells[slots, 8].figure("ttft_s", "p50") for slots in (1, 2, 4, 8)]
    assert ttft == sorted(ttft, reverse=True)
    speed = [advice.cells[slots, 8].figure("stream_tokens_per_s", "p50") for slots in (1, 2, 4, 8)]
    assert speed == sorted(speed, reverse=True)


def test_now_is_what_was_measured_never_what_is_predicted_of_it(advice: Advice, analysis: Analysis) -> None:
    """A run had measured a TTFT p95 of 4.06 s, and advise said that it "goes from 3.20 s"."""
    for level in analysis.summary["levels"]:
        cell = advice.as_now(level["concurrency"])
        assert cell.figure("ttft_s", "p95") == level["ttft_s"]["p95"]
        assert cell.figure("output_tokens_per_s", "mean") == level["output_tokens_per_s"]
    measured = seconds(analysis.summary["levels"][-1]["ttft_s"]["p95"])
    assert re.search(rf"(TTFT p95|instead of) {measured}.* as measured", words.sentences(advice)[0])
    rows = {row[0]: row for row in words.lever_table(advice).rows}
    assert rows["as measured"][2] == measured
    before = advice.as_now(advice.load)
    unknown = dataclasses.replace(before, figures=before.figures | {"ttft_s.p95": math.nan})  # of few requests
    few = dataclasses.replace(advice, cells=advice.cells | {(advice.usual, advice.load): unknown})
    assert "TTFT p95 unknown, " in words.sentences(few)[0]
    assert advice.is_measured(4, 8)
    assert advice.is_measured(16, 2)  # slots that stay empty change nothing
    assert not advice.is_measured(2, 8)
    assert not advice.is_measured(4, 16)


def test_the_model_gives_back_what_it_was_fitted_to(analysis: Analysis) -> None:
    model, _ = model_of(analysis)
    levels = analysis.summary["levels"]
    assert worst_miss(model.closed, levels) is None
    for level in levels:
        cell = model.closed(level["concurrency"])
        assert cell.figure("ttft_s", "p50") == pytest.approx(level["ttft_s"]["p50"], rel=0.12)
        assert cell.figure("output_tokens_per_s", "mean") == pytest.approx(level["output_tokens_per_s"], rel=0.12)


def test_a_model_that_misses_what_was_measured_predicts_nothing(analysis: Analysis) -> None:
    """Of a foreign server 48 tokens/s were measured at 11 streams, and 6 "predicted" there."""
    model, group = model_of(analysis)
    slow = [
        dataclasses.replace(model.closed(load), figures=halved(model.closed(load)), bands={})
        for load in (1, 2, 4, 8, 16)
    ]
    said = worst_miss({each.concurrency: each for each in slow}.__getitem__, analysis.summary["levels"])
    assert said is not None
    assert "tokens/s a stream at" in said
    assert "by the model and" in said
    assert prediction.title(analysis, PredictedCurve(group, (), said)) == f"No prediction: {said}"
    growing = {each.concurrency: dataclasses.replace(each, grows=True) for each in slow}  # its waits are no measure
    assert worst_miss(growing.__getitem__, analysis.summary["levels"]) == said
    people = [{**level, "thinks": True} for level in analysis.summary["levels"]]  # was "at 4 streams" of 4 people
    of_people = re.sub(r"at (\d+) streams", r"at \1 people", said)
    assert worst_miss({each.concurrency: each for each in slow}.__getitem__, people) == of_people != said
    void = [{**level, "verdict": "void"} for level in analysis.summary["levels"]]  # what is void is no measure
    assert worst_miss(model.closed, void) is None


def worst_miss(predicted: Callable[[int], Prediction], levels: Sequence[dict[str, Any]]) -> str | None:
    return self_check.worst_miss(lambda level: predicted(int(level["concurrency"])), levels)


def halved(one: Prediction) -> dict[str, float]:
    return {key: value / 8 if key.startswith("stream_tokens_per_s") else value for key, value in one.figures.items()}


def test_void_levels_are_said_beside_the_advice(analysis: Analysis) -> None:
    model, group = model_of(analysis)
    found = work.advise_slots(model, group, analysis.summary["levels"])
    assert words.doubts(found, analysis) == []
    label = analysis.summary["levels"][1]["label"]
    found = dataclasses.replace(found, void=(label, label))  # as --find-max measures a void level again
    said = f"Void, so the advice does not rest on them: 2 levels at {label.replace(' · ', ' (', 1)})."
    assert words.doubts(found, analysis) == [said]
    assert said in words.markdown(found, analysis, None)


def without_figures(text: str) -> str:
    return re.sub(r"\d[\d.,]*( m?s\b)?", "N", text)


def test_beyond_what_was_measured_bands_are_wider_and_the_headline_is_a_try(advice: Advice) -> None:
    assert advice.furthest == 8
    more = dataclasses.replace(advice, best=16)
    assert more.trial == 8
    choice = words.sentences(more)[0]
    assert choice.startswith("Try OLLAMA_NUM_PARALLEL 8 (now 4), then measure. At 8 streams TTFT p95 would be ")
    page = " ".join((ROOT / "docs/tutorial.md").read_text(encoding="utf-8").split())
    assert without_figures(choice.partition(" In this run")[0]) in without_figures(page)
    assert words.title(more).startswith("Try OLLAMA_NUM_PARALLEL 8 (now 4), then measure")
    ranked = (
        f"{advice.ranked_by.figure}.{advice.ranked_by.statistic}" if advice.objectives else "output_tokens_per_s.mean"
    )
    now = advice.as_now(8).figure(*ranked.split("."))
    sure, may_err = (
        dataclasses.replace(advice.promised[8], bands={ranked: (least * now, 1.3 * now)}) for least in (1.1, 0.9)
    )
    for after, said in (sure, "Set OLLAMA_NUM_PARALLEL to 2 (now 4)"), (may_err, "Try OLLAMA_NUM_PARALLEL 2"):
        paced = dataclasses.replace(advice.model, pace_error=0.05)
        fewer = dataclasses.replace(advice, best=2, promised={8: after}, model=paced)
        assert words.sentences(fewer)[0].startswith(said)
    # One level on a busy machine: "Set --parallel to 2 (now 3)", for 1706 tokens/s after 713 that a neighbour had slowed down.
    unsure = dataclasses.replace(fewer, promised={8: sure}, model=dataclasses.replace(advice.model, pace_error=0.0))
    assert words.sentences(unsure)[0].startswith("Try OLLAMA_NUM_PARALLEL 2")
    plain = advice.model.closed(8, slots=8).bands["ttft_s.p95"]
    wider = advice.cells[8, 8].bands["ttft_s.p95"]
    assert list(wider) == pytest.approx([plain[0] / 1.4, plain[1] * 1.4])
    assert all(each.concurrency <= 2 * advice.load for each in advice.capacities)


def test_equal_lengths_are_drawn_ten_percent_to_either_side(analysis: Analysis, advice: Advice) -> None:
    model, _ = model_of(analysis)
    assert (set(model.prompts), set(model.outputs)) == ({100}, {32})
    assert (min(advice.model.prompts), max(advice.model.prompts)) == (90, 110)
    assert (min(advice.model.outputs), max(advice.model.outputs)) == (29, 35)
    several = dataclasses.replace(model, prompts=(50, 60), outputs=(8, 16))
    assert with_spread_lengths(several) == several


def test_slots_that_the_run_does_not_show_are_not_advised_on() -> None:
    """Two thirds of 24 streams waited always, and advise said that nothing waited for a slot."""
    group = ClosedLoopSeries("", (0, 1), (1, 24))
    with pytest.raises(PredictionError, match="with 24 streams at once no more than 8 were seen at work"):
        work.require_slots(Slots(8, limit=False, method=""), group)
    work.require_slots(Slots(24, limit=False, method=""), group)
    work.require_slots(Slots(8, limit=True, method=""), group)


def test_what_was_never_seen_is_marked(advice: Advice) -> None:
    assert not advice.extrapolated(4, 16)
    assert not advice.extrapolated(16, 4)
    assert advice.extrapolated(8, 8)
    rows = {row[0].strip("▶ "): row for row in words.slots_table(advice, (8,)).rows}
    assert not any("*" in cell for cell in rows["4 (now, measured)"])
    assert rows["8"][2].endswith("*")
    assert any(note.startswith("* extrapolated") for note in words.notes(advice))


def test_an_objective_that_the_measured_requests_do_not_tell_is_not_missed(advice: Advice) -> None:
    """One user's 8 requests had no p95, and the table said that the SLO holds to "none", above a sentence that it does."""
    grid = words.console_table(advice)
    column = grid.heads.index("SLO holds to")
    assert "not known" not in {row[column] for row in grid.rows}
    assert "4 to 7" in {row[column] for row in grid.rows}  # was "4" above "holds up to 6 streams at once"
    easy = dataclasses.replace(advice, objectives=parse_objectives("ttft_p95=3600"))  # all loads that are shown meet it
    assert {row[column] for row in words.console_table(easy).rows} == {f"≥ {max(advice.loads)}"}  # was the load alone
    lacking = {
        key: dataclasses.replace(
            cell, figures={name: value for name, value in cell.figures.items() if not name.startswith("ttft_s")}
        )
        for key, cell in advice.cells.items()
    }
    few = dataclasses.replace(advice, cells=lacking)
    assert {row[column] for row in words.console_table(few).rows} == {"not known"}
    lowest = {key: cell for key, cell in lacking.items() if key[1] == 1}
    few = dataclasses.replace(advice, cells={**advice.cells, **lowest})
    assert [row[column] for row in words.console_table(few).rows] == [row[column] for row in grid.rows]
    rows = words.slots_table(few, (1,)).rows
    assert {row[words.slots_table(few, (1,)).heads.index("SLO")] for row in rows} == {"not known"}


def test_the_slots_that_hold_the_slo_at_most_users_are_chosen(advice: Advice) -> None:
    reach = {slots: min(work.highest_met_load(advice, slots), advice.load) for slots in advice.slots}
    assert advice.best is not None
    assert reach[advice.best] == max(reach.values())
    assert reach[advice.best] > 0
    equals = [slots for slots in advice.slots if reach[slots] == reach[advice.best]]
    assert advice.best == (4 if 4 in equals else min(equals))
    choice, room, levers = words.sentences(advice)
    assert "OLLAMA_NUM_PARALLEL" in choice
    assert "TTFT p95 ≤ 2 s" in room
    assert advice.levers[0].name in levers
    assert all(") (" not in said for said in (choice, room, levers))  # was "(surely 0.91) (extrapolated)"


def test_without_an_slo_throughput_decides_and_memory_forbids(analysis: Analysis, advice: Advice) -> None:
    found = memory_by_slots(analysis.run, analysis.slots)
    assert isinstance(found, MemoryBySlots)
    assert found.at(4) == LOADED
    assert found.at(8) - found.at(4) == 4 * CONTEXT * PROFILE.model.kv_bytes_per_token
    free = dataclasses.replace(advice, objectives=(), memory=found)
    best = work._best(free)
    assert best is not None
    assert best > 4
    assert all(free.fits(slots) is None for slots in free.slots)
    tight = dataclasses.replace(free, gpu_bytes=found.at(4) + 1.0)
    assert work._best(tight) == 4
    level = free.predicted_now.figure(
        "output_tokens_per_s", "mean"
    )  # with any number of slots: was "Set … to 1 (now 4)"
    alike = {
        each: dataclasses.replace(cell, figures={"output_tokens_per_s.mean": level})
        for each, cell in free.cells.items()
    }
    assert work._best(dataclasses.replace(free, cells=alike)) == 4
    nothing = dataclasses.replace(free, gpu_bytes=1e9)
    assert work._best(nothing) is None
    assert words.sentences(dataclasses.replace(nothing, best=None))[0].startswith(
        "No number of slots fits 1 GB: even 1 slot"
    )


def test_where_no_request_waited_nothing_is_to_be_set(tmp_path: Path) -> None:
    loads = [Load(users=users, requests=24, prompt=(100, 100), output=(16, 16)) for users in (1, 3)]
    found = analyse(play(tmp_path / "run", loads))
    model, group = model_of(found)
    advice = work.advise_slots(model, group, found.summary["levels"], objectives=parse_objectives("ttft_p95=60"))
    assert (advice.now, advice.best) == (None, None)
    (room,) = advice.capacities
    assert (room.slots, room.concurrency, room.more) == (None, 3, True)
    choice, limit, _ = words.sentences(advice)
    assert choice.startswith("Nothing waited for a slot with 3 streams at once")
    assert "--concurrency 6,12" in choice
    assert "holds up to at least 3 streams" in limit
    assert words.title(advice).startswith("Nothing waited for a slot")
    fewer = dataclasses.replace(advice, at_once=2)  # the third may have waited
    assert words.title(fewer).startswith("Of 3 streams up to 2 decoded at once, so hardly anything waited for a slot")
    assert "more slots would change little there" in words.sentences(fewer)[0]


def test_levers_are_ranked_by_what_they_bring(advice: Advice) -> None:
    gains = [lever.gain for lever in advice.levers]
    assert gains == sorted(gains, reverse=True)
    by_name = {lever.name: lever for lever in advice.levers}
    now = advice.predicted_now.figure("ttft_s", "p95")
    warm = by_name["prompts that are all cached"].prediction.figure("ttft_s", "p95")
    half = by_name["prompts half as long"].prediction.figure("ttft_s", "p95")
    short = by_name["answers half as long"].prediction.figure("ttft_s", "p95")
    assert warm < half < now
    assert short < now
    assert by_name["prompts that are all cached"].gain == pytest.approx((now - warm) / now)


def test_capacity_is_where_the_objective_is_met_and_the_next_is_not(analysis: Analysis, room: SustainableLoad) -> None:
    model, _ = model_of(analysis)
    found, objectives = room, room.objectives
    assert meets(model.closed(found.concurrency), objectives)
    assert not meets(model.closed(found.concurrency + 1), objectives)
    assert found.sure_concurrency <= found.concurrency
    assert 0 < found.sure_rate <= found.rate
    assert meets(model.open(found.rate), objectives)
    assert not meets(model.open(1.3 * found.rate), objectives)
    assert found.sentence.startswith(f"TTFT p95 ≤ 2 s holds up to {found.concurrency} streams")
    nothing = sustainable_load(model, parse_objectives("ttft_p95=1ms"))
    assert (nothing.concurrency, nothing.rate) == (0, 0.0)
    assert nothing.sentence == "not even one stream meets TTFT p95 ≤ 1 ms"
    few = dataclasses.replace(model.closed(found.concurrency), figures={"ttft_s.p50": 0.1})  # measured, and no p95
    assert sustainable_load(model, objectives, known={found.concurrency: few}).concurrency == found.concurrency
    all_of_them = sustainable_load(model, parse_objectives("ttft_p95=1000"), most=9)
    assert (all_of_them.concurrency, all_of_them.more) == (9, True)


def test_capacity_agrees_with_the_engine_itself(room: SustainableLoad, tmp_path: Path) -> None:
    around = [room.concurrency + away for away in (-1, 0, 1, 2)]
    loads = [Load(users=users, requests=60, prompt=(100, 100), output=(32, 32)) for users in around if users]
    truth = [level["ttft_s"]["p95"] <= 2 for level in analyse(play(tmp_path / "run", loads)).summary["levels"]]
    assert truth[0]
    assert not truth[-1]


def test_a_grid_is_advised_on_its_lengths_with_most_concurrencies(tmp_path: Path) -> None:
    short = [Load(users=users, requests=24, prompt=(50, 50), output=(16, 16)) for users in (1, 2, 6)]
    long = [Load(users=users, requests=24, prompt=(200, 200), output=(16, 16)) for users in (1, 6)]
    found = analyse(play(tmp_path / "run", short + long))
    group = longest_series(found.run)
    assert group == ClosedLoopSeries("50 in · 16 out", (0, 1, 2), (1, 2, 6))
    model, _ = model_of(found)
    assert set(model.prompts) == {50}


def test_the_pages_hold_the_advice(advice: Advice, analysis: Analysis, tmp_path: Path) -> None:
    told = words.markdown(advice, analysis, "advice.png")
    assert "SIMULATED SERVER" in told
    assert "| ▶" in told
    plain = orjson.loads(orjson.dumps(words.to_dict(advice, analysis)))
    assert len(plain["sentences"]) == 3
    assert len(plain["predictions"]) == len(advice.slots) * len(advice.loads)
    assert {cell["slots"] for cell in plain["predictions"]} == set(advice.slots)
    picture = prediction.draw_slots(tmp_path / "advice.png", analysis, advice, words.title(advice))
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_prediction_chart_shows_measured_beside_predicted(analysis: Analysis, tmp_path: Path) -> None:
    model, group = model_of(analysis)
    curve = predict_curve(model, group.concurrencies)
    assert {1, 2, 4, 8, 16} <= {each.concurrency for each in curve}
    points = prediction.measured(analysis, group, "ttft_s", "p50")
    assert [users for users, _, _ in points] == [1, 2, 4, 8]
    found = PredictedCurve(group, curve, model=model)
    assert "where measured it is off by at most" in prediction.title(analysis, found)
    picture = prediction.draw(tmp_path / "prediction.png", analysis, found)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_command_writes_its_files_and_says_three_sentences(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["advise", str(folder), "--slo", "ttft_p95=2", "--gpu-memory", "80GB"])
    assert result.exit_code == 0, result.output
    assert sum(line.startswith("• ") for line in result.output.splitlines()) == 3
    assert "simulated" in result.output
    kept = orjson.loads((folder / "advice.json").read_bytes())
    assert kept["simulated"]["profile"] == PROFILE.name
    assert kept["slots"]["measured"] == 4
    assert kept["memory"]["loaded_bytes"] == LOADED
    assert (folder / "advice.md").read_text().startswith("# Advice for virtual")
    assert (folder / "advice.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "words"),
    [(("--slo", "ttft=2"), "ttft needs a statistic"), (("--gpu-memory", "big"), "a size like 80GB")],
)
def test_a_mistake_in_the_command_is_one_sentence(folder: Path, options: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(cli, ["advise", str(folder), *options])
    assert isinstance(result.exception, ScenarioError)
    assert words in str(result.exception)
