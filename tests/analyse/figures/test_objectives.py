"""Objectives over every request that was sent: what fails is slower than any limit, and what cannot be judged is said."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from support.made_runs import Made, grid, unanswered, write
from support.virtual_runs import Load, play

from loadtest.analyse.figures.objectives import binomial_tail
from loadtest.analyse.summary import analyse
from loadtest.records import NOT_SENT, Outcome, Record
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.slo import Judged, all_met, judge_objectives, least_requests, parse_objectives

Call = Callable[..., tuple[int, str, str]]


def failing(path: Path, every: Callable[[int], bool], *, users: int = 4, each: int = 15, **more: object) -> Path:
    """Write a run of one level whose i-th measured request failed where `every` says so; the others take 52 ms."""
    levels, truth = grid(Made(slots=8), [users], each=each)
    measured = iter(range(users * each))

    def one(record: Record) -> Record:
        fails = not record.warmup and every(next(measured))
        return unanswered(record, Outcome.HTTP_ERROR, status=500, error="busy", **more) if fails else record

    return write(path, [one(record) for record in truth.records], levels)


def held(path: Path, asked: str) -> tuple[Judged, ...]:
    """Judge the only level of a run, by what its summary says."""
    objectives = parse_objectives(asked)
    (level,) = analyse(path, objectives).summary["levels"]
    return judge_objectives(objectives, level)


@pytest.mark.parametrize(
    ("asked", "share", "met"),
    [
        ("ttft_p95=2", 0.0, True),
        ("ttft_p50=52ms", 0.0, True),  # exactly at its limit, as are the next two
        ("e2e_mean=242ms", 0.0, True),
        ("tokens_per_s_p50=100", 0.0, True),
        ("ttft_p95=2", 0.4, False),
        ("ttft_p50=2", 0.4, True),  # the median request was answered in time
        ("ttft_p50=2", 0.6, False),
        ("ttft_mean=2", 0.05, False),
        ("ttft_sched_p90=2", 0.2, False),
        ("e2e_p95=2", 0.4, False),
        ("tpot_p95=2", 0.4, False),
        ("itl_p95=2", 0.4, False),
        ("itl_p50=2", 0.4, True),
        ("itl_mean=2", 0.05, False),
        ("queue_wait_p95=2", 0.4, False),
        ("tokens_per_s_p5=10", 0.4, False),
        ("tokens_per_s_p50=10", 0.4, True),
        ("e2e_tokens_per_s_p5=1", 0.4, False),
        ("errors=0.4", 0.4, True),
        ("errors=0.39", 0.4, False),
        ("errors=0", 0.0, True),
    ],
)
def test_a_failed_request_misses_every_objective(tmp_path: Path, asked: str, share: float, met: bool) -> None:
    (judged,) = held(failing(tmp_path / "run", lambda i: i % 20 < share * 20), asked)
    assert judged.unjudged is None
    assert judged.met == met, str(judged)


def test_without_failures_an_objective_is_held_against_the_figure_that_the_report_shows(tmp_path: Path) -> None:
    objectives = parse_objectives("ttft_p95=2,tokens_per_s_p5=10,itl_p99=1")
    path = failing(tmp_path / "run", lambda _: False)
    (level,) = analyse(path, objectives).summary["levels"]
    for judged in judge_objectives(objectives, level):
        assert judged.value == judged.objective.value(level)
        assert judged.interval == judged.objective.interval(level)


def test_an_answer_without_any_token_misses_too(tmp_path: Path) -> None:
    levels, truth = grid(Made(slots=8), [4], each=15)
    empty = [unanswered(one, Outcome.OK) if one.id % 5 == 0 else one for one in truth.records]
    (judged,) = held(write(tmp_path / "run", empty, levels), "ttft_p95=2")
    assert not judged.met
    assert math.isinf(judged.value)


@pytest.mark.parametrize(("chats", "unknown"), [(60, ()), (0, ("ttft_p95", "tokens_per_s_p50"))])
def test_embeddings_are_no_failed_requests(tmp_path: Path, chats: int, unknown: tuple[str, ...]) -> None:
    """Was "E2E p95 is that of a failed request with 100 of 100 requests failed: missed" of embeddings that all ended well."""
    levels, truth = grid(Made(slots=8), [4], each=30)
    every = [
        one if one.id < chats else unanswered(one, Outcome.OK, dialect="openai-embeddings") for one in truth.records
    ]
    for judged in held(write(tmp_path / "run", every, levels), "ttft_p95=2,e2e_p95=9,tokens_per_s_p50=10,errors=0"):
        assert judged.met != (judged.objective.name in unknown), str(judged)
        assert not judged.failed, str(judged)


def test_few_failures_leave_a_percentile_and_are_said(tmp_path: Path) -> None:
    (judged,) = held(failing(tmp_path / "run", lambda i: i == 7), "ttft_p95=2")
    assert judged.met
    assert "with 1 of 60 requests failed" in str(judged)


def test_so_few_requests_that_nothing_can_be_said_are_not_judged(tmp_path: Path) -> None:
    (judged,) = held(failing(tmp_path / "a", lambda _: False, each=4), "ttft_p95=2")
    assert str(judged) == "TTFT p95 needs 20 requests and has 16, TTFT p95 ≤ 2 s: not judged"
    (judged,) = held(failing(tmp_path / "b", lambda i: i < 4, each=4), "ttft_p95=2")
    assert str(judged) == ("TTFT p95 is that of a failed request with 4 of 16 requests failed, TTFT p95 ≤ 2 s: missed")


@pytest.mark.parametrize(
    ("name", "failed", "word"),
    [("ttft_p95", 6, "missed"), ("ttft_p95", 2, "missed, but not surely"), ("ttft_mean", 1, "missed")],
)
def test_a_percentile_of_failed_requests_is_surely_missed_only_where_so_many_failed(
    name: str, failed: int, word: str
) -> None:
    """Was "missed" at 2 of 40, although "error rate is 5 % (1.4 % to 17 %)" stood beside it."""
    (objective,) = parse_objectives(f"{name}=2")
    judged = Judged(objective, math.inf, None, failed, 40)
    assert judged.word == word
    assert judged.sure is (word == "missed")


def test_a_percentile_among_requests_that_failed_or_were_left_is_not_said_to_be_of_one_kind() -> None:
    """Was "TTFT p95 is that of a failed request" where it may be that of a user who left, and of a mean too."""
    p95, mean = parse_objectives("ttft_p95=2,ttft_mean=2")
    assert Judged(p95, math.inf, None, 4, 40, left=2).amount.startswith(
        "that of a failed request or a user who left with"
    )
    assert Judged(p95, math.inf, None, 4, 40, left=4).amount.startswith("that of a user who left with")
    assert Judged(mean, math.inf, None, 1, 40).amount == "without end with 1 of 40 requests failed"


def test_a_figure_that_the_server_does_not_say_is_not_judged(tmp_path: Path) -> None:
    silent = play(Timing(step=StepLaw(base_s=0.01), prefill_s=0.0001), [Load(users=4, requests=60)], slots=8, says=None)
    (judged,) = held(silent.write(tmp_path / "run"), "queue_wait_p95=2")
    assert str(judged).startswith("queue wait p95 is unknown (this server does not say")
    assert str(judged).endswith(": not judged")
    assert not judged.few


def test_what_was_not_sent_may_not_pass(tmp_path: Path) -> None:
    levels, truth = grid(Made(slots=8), [4], each=15)
    shed = [
        unanswered(
            one, Outcome.CANCELLED, t_send=None, error=f"{NOT_SENT}: 4 requests were in flight (--max-in-flight)"
        )
        if one.id % 3 == 0
        else one
        for one in truth.records
    ]
    opened = [{**level, "concurrency": None, "rate": 4.0} for level in levels]
    (judged,) = held(write(tmp_path / "run", shed, opened), "ttft_p95=2")
    assert not judged.met
    assert "requests that were not sent (--max-in-flight)" in str(judged)
    assert judged.word == "not judged"


@pytest.mark.usefixtures("bare_reports")
@pytest.mark.parametrize(
    ("failed", "code", "word"), [(0, 0, "met"), (6, 1, "missed"), (24, 1, "missed"), (36, 3, "missed")]
)
def test_a_gate_over_failures_sets_the_exit_code(
    tmp_path: Path, loadtest: Call, failed: int, code: int, word: str
) -> None:
    """36 of 60: half or more failed is void, and void comes before a gate."""
    run = failing(tmp_path / "run", lambda i: i * failed // 60 != (i - 1) * failed // 60)
    got, out, _ = loadtest("report", run, "--slo", "ttft_p95=2,errors=0.05")
    lines = [line for line in " ".join(out.split()).split("4 streams") if "≤" in line]
    assert got == code, out
    assert len(lines) == 2
    assert all(f": {word}" in line for line in lines), lines
    level = json.loads((run / "summary.json").read_bytes())["levels"][0]
    assert [row["judged"].split(",")[0] for row in level["objectives"]] == [word, word]


@pytest.mark.parametrize(
    ("asked", "requests"),
    [
        ("ttft_p95=2", 20),
        ("tokens_per_s_p5=10", 20),
        ("ttft_p90=2", 10),
        ("ttft_p99=2", 100),
        ("ttft_p50=2,e2e_mean=3", 5),
        ("output_tokens_per_s=3", 5),
        ("errors=0.1", 10),
        ("errors=0.001", 100),
        ("errors=0", 100),
        ("ttft_p50=1,tokens_per_s_p5=10", 20),
    ],
)
def test_an_objective_says_how_many_requests_it_takes(asked: str, requests: int) -> None:
    assert least_requests(parse_objectives(asked)) == requests


def test_a_share_of_errors_is_clear_from_the_requests_that_were_sent() -> None:
    objectives = parse_objectives("errors=0.05")
    level = {"outcomes": {"ok": 59, "timeout": 1, "cancelled": 40}}
    (judged,) = judge_objectives(objectives, level)
    assert str(judged) == "error rate is 1.7 % (0.29 % to 8.9 %), 1 of 60, error rate ≤ 5 %: met, but not surely"
    assert all_met([judged]) is True
    assert all_met(judge_objectives(objectives, {"outcomes": {"ok": 50, "timeout": 10}})) is False
    assert judge_objectives(objectives, {"outcomes": {"cancelled": 4}})[0].word == "not judged"


def test_a_miss_by_far_is_sure_though_there_are_too_few_rounds_for_an_interval(tmp_path: Path) -> None:
    """Eight streams at p95 2.4 s against 1.5 s used to be measured three times, and then sixteen."""
    timing = Timing(step=StepLaw(0.02, 0.002), prefill_s=0.0005)
    played = play(timing, [Load(users=8, requests=32, output=(40, 60))], slots=4)
    folder = played.write(tmp_path / "run")
    (level,) = analyse(folder).summary["levels"]
    p95 = level["ttft_s"]["p95"]
    assert level["ttft_s"]["ci95_p95"] is None
    for limit, sure in ((p95 / 4, True), (p95 * 0.98, False)):
        asked = parse_objectives(f"ttft_p95={limit}")
        (judged,) = judge_objectives(asked, analyse(folder, asked).summary["levels"][0])
        assert not judged.met
        assert judged.sure is sure
        assert all_met([judged]) is (False if sure else None)
    asked = parse_objectives(f"ttft_p95={level['ttft_s']['p50']}")
    beside = write(tmp_path / "beside", played.records, [played.levels[0] | {"rate": 4.0}])  # which has no rounds
    for where, sure in ((folder, True), (beside, False)):
        (judged,) = judge_objectives(asked, analyse(where, asked).summary["levels"][0])
        assert (judged.met, judged.sure) == (False, sure)


@pytest.mark.parametrize(
    ("rate", "asked", "sure"),
    [
        # Was "TTFT p50 is 5.40 s, TTFT p50 ≤ 300 ms: missed, but not surely", and measured again with twice the requests.
        (4.0, "ttft_p50=0.3", True),
        (4.0, "e2e_p95=3", True),
        (1.0, "ttft_p95={p95}", False),
        (1.5, "ttft_p50=0.02", True),  # not even an idle server answers so soon
    ],
)
def test_a_miss_at_a_rate_is_sure_where_the_server_falls_behind_or_every_request_misses(
    tmp_path: Path, rate: float, asked: str, *, sure: bool
) -> None:
    timing = Timing(step=StepLaw(0.02, 0.002), prefill_s=0.0005)
    folder = play(timing, [Load(rate=rate, requests=64)], slots=2).write(tmp_path / "run")
    p95 = analyse(folder).summary["levels"][0]["ttft_s"]["p95"]
    (judged,) = held(folder, asked.format(p95=0.98 * p95))
    assert not judged.met
    assert judged.sure is sure


def test_a_tail_of_very_many_tries_is_a_number() -> None:
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert binomial_tail(0, 10, 0.05) == pytest.approx(1.0)
    assert binomial_tail(100, 20_000, 0.05) == pytest.approx(1.0)  # a factorial of so many is beyond any float
    assert 0 < binomial_tail(1100, 20_000, 0.05) < 0.01
