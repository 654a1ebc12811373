"""The scorecard's cases and its page; what the predictions are worth is measured by `scripts/bench scorecard` alone."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.places import BENCHMARKS


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("scorecard")


def figure(name: str, said: float, measured: float) -> dict[str, Any]:
    return {
        "load": "6 streams",
        "case": "as known",
        "figure": name,
        "predicted": said,
        "band": [0.9 * said, 1.1 * said],
        "measured": measured,
        "measured_ci95": [0.9 * measured, 1.1 * measured],
        "textbook_errors": {"USL": 0.5},
    }


def result(card: Any, number: int, said: float, first: float, second: float) -> dict[str, Any]:
    runs = [
        {"verdict": "valid", "figures": [figure("ttft_s.p50", said, measured)], "not_scored": []}
        for measured in (first, second)
    ]
    return {"case": number, "digest": card.DIGEST, "load_average": 1.5, "requests": 200, "scores": runs}


def test_at_least_forty_cases_are_fixed(card: Any) -> None:
    assert len(card.CASES) >= 40
    assert [case.number for case in card.CASES] == list(range(len(card.CASES)))
    assert {case.slots for case in card.CASES} == {1, 2, 3, 4, 6}
    assert {case.model for case in card.CASES} == set(card.MODELS)
    assert {case.utilisation for case in card.CASES} >= {0.5, 0.8, 1.1}
    for case in card.CASES:
        assert len(case.fit) >= 2
        assert case.users not in case.fit  # what is predicted was not measured
        assert (case.users is None) != (case.utilisation is None)


def test_the_page_counts_hits_and_misses_and_says_how_many_cases_ran(card: Any) -> None:
    unmade = {"case": 2, "digest": card.DIGEST, "load_average": 3.0, "requests": 200, "failed": "No prediction: why."}
    results = [result(card, 0, 1.0, 1.02, 1.04), result(card, 1, 1.0, 1.4, 1.45), unmade]
    text = card.page(results)
    assert f"3 of {len(card.CASES)} cases were run" in text
    assert card.DIGEST in text
    assert "the case before included: 1.5 to 3.0 on" in text
    assert "1 within 10% (goal 80%); 1 within 20% (goal 95%) | 1 of 2 |" in text
    assert f"| {card.CASES[0].label} | -2.9% | – | – |" in text
    assert f"| {card.CASES[1].label} | **-29.8%** | – | – |" in text
    assert "- small, 1 slot, long prompts: 3 users: why." in text
    hit, miss = card.scored(results)
    assert hit.other_error("USL") == pytest.approx(1.5 * 1.02 / 1.03 - 1)
    assert miss.other_error("M/M/c") is None


def test_a_textbook_model_is_held_against_ours_on_the_cases_that_it_predicts(card: Any) -> None:
    without = result(card, 2, 1.0, 3.0, 3.0)
    for run in without["scores"]:
        run["figures"][0]["textbook_errors"] = {}
    text = card.page([result(card, 0, 1.0, 1.0, 1.0), result(card, 1, 1.0, 1.25, 1.25), without])
    assert "| TTFT p50 | USL | 2 | 50.0%, 50.0% | 10.0%, 20.0% |" in text
    assert "| TTFT p50 | all | 3 |" in text
    assert "| TTFT p50 | M/M/c |" not in text


def test_where_two_runs_of_one_plan_differ_an_interval_holds_the_hit(card: Any) -> None:
    (one,) = card.scored([result(card, 0, 1.0, 1.05, 1.6)])
    assert not one.repeats
    assert one.within(0.1)
    assert abs(one.error) > 0.1


def test_a_case_run_again_replaces_its_result_and_the_page_says_of_which_day_each_is(card: Any, tmp_path: Path) -> None:
    old, new = result(card, 1, 1.0, 1.4, 1.45), {**result(card, 1, 1.0, 1.0, 1.0), "day": "2026-12-01"}
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (old, result(card, 0, 1.0, 1.0, 1.0), new)))
    assert [(each["case"], each.get("day")) for each in card.read(path)] == [(0, None), (1, "2026-12-01")]
    assert "code of its day could do: 1 on 2026-12-01, 1 before 2026-11-27." in card.page(card.read(path))
    assert "code of its day" not in card.page([old])
