"""Predictions of people not tried, from conversations: held against the engine's own answer to so many people."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import virtual_runs
from support.scored import command
from support.virtual_runs import Load, play_sessions

from loadtest.analyse.charts import prediction as chart
from loadtest.analyse.comparison import comparable
from loadtest.analyse.reports import prediction_report, score_report
from loadtest.analyse.summary import Analysis, analyse
from loadtest.analyse.whatif.model import sessions
from loadtest.analyse.whatif.model.bands import prediction_band
from loadtest.analyse.whatif.model.cases import AS_KNOWN, LIMIT_SEEN, NO_LIMIT
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.predictions import prediction_file
from loadtest.analyse.whatif.predictions.predict_loads import predict_loads
from loadtest.analyse.whatif.predictions.prediction_file import Document
from loadtest.simulate.model.prefix_cache import HostCache
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.02, 0.005), prefill_s=0.002, jitter=0.05, prompt_jitter=0.05)


def talked(
    path: Path,
    *users: int,
    slots: int = 2,
    sessions: int = 30,
    seed: int = 0,
    host: HostCache | None = None,
    timing: Timing = TIMING,
    **facts: Any,
) -> Analysis:
    loads = [virtual_runs.SessionLoad(users=each, sessions=sessions) for each in users]
    made = play_sessions(timing, loads, slots=slots, host=host, seed=seed)
    return analyse(made.write(path, scenario={"turns": 4}, **facts))


def said(found: Analysis, *users: int) -> Document:
    return predict_loads(found.run, found.slots, found.steps, found.summary["levels"], {}, concurrencies=users)


def held_against(document: Document, case: str, measured: Analysis) -> list[tuple[float, float]]:
    """Return (error of TTFT p95 as a share, error of the cached share) of each load."""
    found = []
    for load, level in zip(document.loads, measured.summary["levels"], strict=True):
        figures: dict[str, Any] = next(one.figures for one in load.cases if one.name == case)
        off = figures["ttft_s.p95"] / level["ttft_s"]["p95"] - 1
        found.append((off, figures["cached_share.mean"] - level["cached_share"]))
    return found


@pytest.fixture(scope="module")
def two_slots(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return talked(tmp_path_factory.mktemp("sessions") / "run", 1, 2, 4)


def test_people_not_tried_are_predicted_with_their_sessions_and_the_cache(two_slots: Analysis, tmp_path: Path) -> None:
    document = said(two_slots, 6, 8)
    measured = talked(tmp_path / "held", 6, 8, sessions=60, seed=5)
    for ttft, share in held_against(document, AS_KNOWN, measured):
        assert abs(ttft) < 0.2
        assert abs(share) < 0.05


@pytest.mark.usefixtures("short_predictions")
def test_a_rate_after_conversations_is_one_case_and_said_to_be_of_single_requests(tmp_path: Path) -> None:
    """Two cases of the same figures, with a host cache and without, and not a word on the conversations."""
    talk = talked(tmp_path / "run", 2, 4, slots=4, host=HostCache(1200), server={"kind": "llama.cpp", "slots_said": 4})
    run, facts = talk.run, comparable.asked_facts(talk.run)
    found = predict_loads(run, talk.slots, talk.steps, talk.summary["levels"], facts, rates=(0.2,))
    assert [case.name for case in found.loads[0].cases] == [AS_KNOWN]
    assert any(said.startswith("A rate is of single requests") for said in found.said)


@pytest.mark.usefixtures("short_predictions")
def test_advice_on_conversations_is_for_people(tmp_path: Path) -> None:
    """Six people who think are fewer streams: it was "at 6 streams", and a rate of single requests stood beside it."""
    run = talked(tmp_path / "run", 2, 6).run.path
    code, told = command("advise", run, "--slo", "ttft_p95=30", "-o", tmp_path)
    assert code == 0, told
    said = " ".join(told.split())
    assert "at 6 people" in said
    assert "TTFT p95 ≤ 30 s holds up to at least 12 people." in said
    assert not re.search(r"\d streams", said)
    assert "varied by 10 %" not in said  # what conversations say is as it was


def test_a_host_cache_is_predicted_full_and_never_full_where_it_did_not_fill(tmp_path: Path) -> None:
    found = talked(tmp_path / "run", 1, 2, 4, host=HostCache(None))
    document = said(found, 8)
    assert [case.name for case in document.loads[0].cases] == [sessions.HOST_CACHE, sessions.SIZED_HOST_CACHE]
    assert "host cache lost nothing that was asked for again" in document.said[0]
    measured = talked(tmp_path / "held", 8, sessions=60, seed=5, host=HostCache(None))
    [(ttft, share)] = held_against(document, sessions.HOST_CACHE, measured)
    assert abs(ttft) < 0.2
    assert abs(share) < 0.05


def test_the_band_allows_for_what_is_not_known_of_the_size_of_a_host_cache_that_filled(tmp_path: Path) -> None:
    """Was a cached share of 7 % (0 to 16 %), and 19 % measured: one size was taken, of those that keep as much of the run."""
    quick = Timing(step=StepLaw(0.010, 0.002), prefill_s=0.0005, jitter=0.03)
    found = talked(tmp_path / "run", 4, 7, sessions=20, seed=3, host=HostCache(2333), timing=quick)
    document = said(found, 10)
    [case] = document.loads[0].cases
    measured = talked(tmp_path / "held", 10, sessions=60, seed=53, host=HostCache(2333), timing=quick)
    low, high = case.bands["cached_share.mean"]
    assert low < measured.summary["levels"][0]["cached_share"] < high


def test_a_host_cache_too_small_to_show_is_a_case_of_its_own(tmp_path: Path) -> None:
    """13 turns that the slots lost were read again, so there was no host cache: 40 % cached were said, and 51 % measured."""
    server = {"kind": "llama.cpp", "slots_said": 4}
    found = talked(tmp_path / "run", 2, 4, slots=4, host=HostCache(1200), server=server)
    document = said(found, 6)
    assert [case.name for case in document.loads[0].cases] == [sessions.NO_HOST_CACHE, sessions.UNSEEN_HOST_CACHE]
    assert any("a small one need not have shown" in sentence for sentence in document.said)
    measured = talked(tmp_path / "held", 6, slots=4, sessions=60, seed=5, host=HostCache(1200), server=server)
    none, small = (held_against(document, case.name, measured)[0][1] for case in document.loads[0].cases)
    assert none < small
    assert abs(small) < 0.05
    (load,), (level,) = document.loads, measured.summary["levels"]
    assert score_report._cached_share(load, load.cases[0], level)[0].startswith("6 people (no host cache): cached ")


def test_people_no_more_than_the_slots_seen_do_not_rule_out_that_there_are_more(tmp_path: Path) -> None:
    """No limit was "ruled out by the run": the engine caches prompts in slots alone, so people read all of their history again."""
    found = talked(tmp_path / "run", 1, 2, 4, slots=4)
    document = said(found, 8)
    names = [case.name for case in document.loads[0].cases]
    assert names[0] == NO_LIMIT
    assert all(name.startswith(LIMIT_SEEN) for name in names[1:])
    assert len(names) > 1
    assert not any("Ruled out" in sentence for sentence in document.said)
    measured = talked(tmp_path / "held", 8, slots=8, seed=5, host=HostCache(None))
    [(_, share)] = held_against(document, NO_LIMIT, measured)
    assert abs(share) < 0.05


def test_the_band_of_a_share_is_one_of_shares(two_slots: Analysis) -> None:
    model = ServerModel.of(two_slots.run, two_slots.slots, two_slots.steps)
    for users in (1, 8):
        low, high = model.closed(users, slots=16).bands["cached_share.mean"]
        assert 0 <= low <= high <= 1


def test_shares_that_are_small_do_not_scatter_by_factors() -> None:
    """Was 0.077 % to 100 % around 2.9 %, of repetitions between 0.5 and 10 %."""
    played = [{"mean": share} for share in (0.005, 0.02, 0.04, 0.1)]
    low, high = prediction_band(played, "mean", share=True)
    assert (low, high) == pytest.approx((0.0, 0.19), abs=0.02)
    low, high = prediction_band([{"mean": 0.018}] * 4, "mean", share=True)
    assert (low, high) == pytest.approx((0.0, 0.038))


def test_whether_there_is_a_host_cache_has_both_cases_where_the_run_does_not_show_it(tmp_path: Path) -> None:
    found = talked(tmp_path / "run", 1, 2)
    model = ServerModel.of(found.run, found.slots, found.steps)
    assert model.sessions is not None
    both = sessions.cache_cases(model.sessions, found.run, 4, found.cache)
    assert list(both) == [sessions.NO_HOST_CACHE, sessions.HOST_CACHE]


def test_the_thinking_and_the_lengths_are_those_of_the_run(two_slots: Analysis) -> None:
    found = sessions.sessions_of(two_slots.run, two_slots.cache)
    assert found is not None
    assert len(found.scripts) == 90
    assert {len(script) for script in found.scripts} == {4}
    thought = [turn.think_s for script in found.scripts for turn in script]
    assert sum(thought) / len(thought) == pytest.approx(5, rel=0.25)
    assert found.answers_kept
    assert found.shared == 0
    halved = found.scaled(answers=0.5).scripts[0]
    assert halved[0].prompt == found.scripts[0][0].prompt
    assert halved[3].prompt < found.scripts[0][3].prompt


def test_the_prediction_is_kept_and_drawn_as_any(two_slots: Analysis, tmp_path: Path) -> None:
    document = said(two_slots, 6)
    again = prediction_file.parse_document(document.to_bytes(), "prediction.json")
    assert again.loads[0].cases[0].figures == pytest.approx(document.loads[0].cases[0].figures)
    assert chart.draw_loads(tmp_path / "prediction.png", two_slots, document).exists()


def test_single_requests_are_predicted_as_before(tmp_path: Path) -> None:
    found = analyse(virtual_runs.play(TIMING, [Load(users=4)], slots=2).write(tmp_path / "run"))
    model = ServerModel.of(found.run, found.slots, found.steps)
    assert model.sessions is None
    assert "cached_share.mean" not in model.closed(4).figures


def test_prompts_of_one_conversation_count_once_and_the_cached_share_is_scored(
    two_slots: Analysis, tmp_path: Path
) -> None:
    facts = comparable.asked_facts(two_slots.run)
    basis = (two_slots.run, two_slots.slots, two_slots.steps, two_slots.summary["levels"], facts)
    document = predict_loads(*basis, concurrencies=(4, 6))
    lengths = document.run["lengths"]
    assert lengths["prompt_tokens"]["n"] == len(two_slots.run.requests[["level", "session"]].drop_duplicates())
    assert lengths["prompt_tokens"]["n"] < lengths["output_tokens"]["n"]
    scored = score_report.score(document, talked(tmp_path / "held", 6, seed=5))
    assert scored.said[0].startswith("6 people: cached share ")
    beyond = [
        replace(one, cases=tuple(replace(case, extrapolates="it is a guess") for case in one.cases))
        for one in document.loads
    ]
    notes = list(prediction_report.notes(replace(document, loads=tuple(beyond))))
    assert notes[0] == "4 and 6 people: it is a guess.", "what is true of both is said once"


def test_users_who_think_between_single_requests_are_people(tmp_path: Path) -> None:
    loads = [Load(users=each, requests=30, prompt=(200, 400), output=(16, 24)) for each in (1, 2, 4)]
    found = analyse(virtual_runs.play(TIMING, loads, slots=2).write(tmp_path / "run"))
    assert said(found, 8).loads[0].label == "8 streams"
    levels = [{**level, "thinks": True} for level in found.summary["levels"]]
    thinking = predict_loads(found.run, found.slots, found.steps, levels, {}, concurrencies=(8,))
    assert thinking.loads[0].label == "8 people"
