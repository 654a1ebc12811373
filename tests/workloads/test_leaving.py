"""Users who hang up: when they do, what becomes of their requests, and what it costs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from loadtest.analyse.figures.stats import describe_waits
from loadtest.errors import ScenarioError
from loadtest.live import Figures
from loadtest.measure.failure import FailedInARow
from loadtest.measure.progress import Tally
from loadtest.measure.request import STAYS
from loadtest.measure.request_maker import stay_of
from loadtest.records import Outcome, Record
from loadtest.scenario import Level, Scenario
from loadtest.slo import failed_and_sent, judge_by_figures, parse_objectives
from loadtest.workloads.job import Job

LEVEL = Level(index=0, concurrency=4, input_tokens=8, output_tokens=64, words=None, requests=8)


def job(number: int, **more: Any) -> Job:
    return Job(number, 0, 7, "hello", 8, 64, **more)


def record(outcome: Outcome, number: int = 0, *, first: int | None = 1_000_000, end: int = 2_000_000_000) -> Record:
    return Record(
        id=number,
        level=0,
        seed=1,
        dialect="ollama-chat",
        model="m",
        outcome=outcome,
        t_sched=0,
        t_send=0,
        t_end=end,
        t_first_token=first,
        chunks=[] if first is None else [first // 1000, end // 1000],
        output_tokens=None if first is None else 2,
    )


def test_who_leaves_when_follows_from_the_seed_and_the_place_alone() -> None:
    scenario = Scenario.from_dict({"patience": "uniform(5, 15)", "leave": "25%", "seed": 3})
    stays = [stay_of(scenario, job(number)) for number in range(2000)]
    assert stays == [stay_of(scenario, job(number)) for number in range(2000)]
    assert all(stay.patience is not None and 5 <= stay.patience <= 15 for stay in stays)
    pieces = [stay.pieces for stay in stays if stay.pieces is not None]
    assert len(pieces) / len(stays) == pytest.approx(0.25, abs=0.03)
    assert min(pieces) == 1
    assert max(pieces) == 63
    assert np.mean(pieces) == pytest.approx(32, abs=3)
    other = scenario.replace(seed=4)
    assert [stay_of(other, job(number)) for number in range(10)] != stays[:10]


def test_warm_ups_and_users_of_other_scenarios_stay() -> None:
    assert stay_of(Scenario(), job(0)) == STAYS
    scenario = Scenario.from_dict({"patience": 1, "leave": 1})
    assert stay_of(scenario, job(0, warmup=True)) == STAYS != stay_of(scenario, job(0))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"leave": "5"}, "5 % is 5% or 0.05"),
        ({"leave": "many"}, "leave must be a share like 5% or 0.05"),
        ({"patience": 0}, "patience must be above 0"),
        ({"patience": "unifrom(1, 2)"}, "did you mean uniform"),
        ({"leave": 0.1, "endpoint": "embeddings", "api": "openai"}, "no middle to hang up in"),
        ({"leave": 0.1, "prompt": "hi", "output_tokens": []}, "give output_tokens"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_to_do(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        Scenario.from_dict(keys)


def test_a_user_who_left_is_no_failure() -> None:
    tally = Tally(LEVEL, 8, 0)
    ended = [record(outcome, first=None) for outcome in (Outcome.TIMEOUT, Outcome.LEFT, Outcome.TIMEOUT)]
    for one in ended:
        tally.add(one)
    assert (tally.failed, tally.left) == (2, 1)
    in_a_row = FailedInARow({0: 2})
    assert [in_a_row.hopeless(one) is not None for one in ended] == [False, False, True]  # no proof that it answers
    assert failed_and_sent({"outcomes": {"ok": 5, "left": 3, "timeout": 1, "cancelled": 2}}) == (1, 9)


def test_live_percentiles_count_who_left_as_slower_than_all_who_stayed() -> None:
    figures = Figures()
    for number in range(90):
        figures.add(record(Outcome.OK, number, first=1_000_000_000), 0.0)
    assert figures.percentile("ttft_s", 0.95) == pytest.approx(1, rel=0.02)
    for number in range(10):
        figures.add(record(Outcome.LEFT, number, first=None), 0.0)
    assert figures.percentile("ttft_s", 0.95) is None
    assert figures.percentile("ttft_s", 0.5) == pytest.approx(1, rel=0.02)
    assert (figures.failures, figures.left, figures.left_waiting) == (0, 10, 10)
    assert Figures.from_json(json.loads(json.dumps(figures.to_json()))).left_waiting == 10


def test_a_percentile_that_falls_on_a_user_who_left_is_at_least_what_that_user_waited() -> None:
    values = np.concatenate((np.linspace(0.1, 2.0, 92), np.full(8, np.nan)))
    left, waited = np.isnan(values), np.full(100, 2.5)
    found = describe_waits(values, left, waited)
    assert found["at_least"] == ["mean", "p95", "p99", "max"]
    assert found["p95"] == found["max"] == 2.5
    assert found["p50"] < 1.2
    assert found["mean_stayed"] == pytest.approx(1.05)
    (objective,) = parse_objectives("ttft_p95=3")
    judged = judge_by_figures(objective, {"ttft_s": found, "outcomes": {"ok": 92, "left": 8}})
    assert judged.unjudged is not None
    assert not judged.met
    assert judge_by_figures(parse_objectives("ttft_p95=2")[0], {"ttft_s": found}).word.startswith("missed")
    without = describe_waits(values[:92], left[:92], waited[:92])
    assert "at_least" not in without


def test_a_request_that_loadtest_stopped_is_no_failure_while_the_level_runs() -> None:
    """After a Ctrl-C the last line of progress called those in flight failed, which no report does."""
    tally = Tally(LEVEL, 8, 0)
    for outcome in (Outcome.CANCELLED, Outcome.TIMEOUT):
        tally.add(record(outcome, first=None))
    assert (tally.done, tally.failed) == (2, 1)
