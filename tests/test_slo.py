"""Objectives: what --slo may say, how figures are held against it, and which requests met it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from support import made_runs

from loadtest.analyse.figures.objectives import goodput, widest
from loadtest.analyse.run.frames import load
from loadtest.errors import ScenarioError
from loadtest.slo import Judged, all_met, judge_objectives, parse_objectives


def test_an_slo_is_read_as_people_write_it() -> None:
    ttft, speed, total = parse_objectives("ttft_p95=2, tokens_per_s_p5=10,output_tokens_per_s=60")
    assert (ttft.figure, ttft.statistic, ttft.limit, ttft.at_most) == ("ttft_s", "p95", 2.0, True)
    assert (speed.figure, speed.statistic, speed.limit, speed.at_most) == ("stream_tokens_per_s", "p5", 10.0, False)
    assert (total.figure, total.statistic, total.at_most, total.a_request) == (
        "output_tokens_per_s",
        "mean",
        False,
        False,
    )
    assert str(ttft) == "TTFT p95 ≤ 2 s"
    assert str(speed) == "tokens/s a stream p5 ≥ 10"
    assert [round(each.tail, 6) for each in parse_objectives("ttft_p95=2,tokens_per_s_p5=1,e2e_mean=3,itl_p99=1")] == [
        0.05,
        0.05,
        0.5,
        0.01,
    ]


@pytest.mark.parametrize(("text", "limit"), [("itl_p99=250ms", 0.25), ("itl_p99=0.25 s", 0.25), ("itl_p99=.25", 0.25)])
def test_a_duration_may_have_its_unit(text: str, limit: float) -> None:
    assert parse_objectives(text)[0].limit == pytest.approx(limit)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "--slo is empty"),
        ("ttft_p95", "has no limit"),
        ("p95", "has no limit"),
        ("p95=2", "'p95' is not an objective; did you mean 'ttft_p95'? objectives are"),
        ("ttft < 2s", "write 'ttft < 2s' with = alone, not <, like ttft_p95=2"),
        ("ttft_p95<=2", "with = alone, not <, like"),
        ("ttft_p95: 2", "with = alone, not :, like"),
        ("tokens_per_s=2", "tokens_per_s needs a statistic, e.g. tokens_per_s_p5;"),
        ("ttft=2", "ttft needs a statistic, e.g. ttft_p95"),
        ("ttft_p97=2", "'ttft_p97' is not an objective; of ttft there are _mean, _p5, _p50, _p90, _p95, _p99."),
        ("ttft_max=2", "'ttft_max' is not an objective; of ttft there are _mean"),
        ("ttft_p59=3", "'ttft_p59' is not an objective; of ttft there are _mean"),
        ("tfft_p59=3", "did you mean 'ttft'?"),
        ("ttftp95=3", "did you mean 'ttft'?"),
        ("tokens_p5=3", "did you mean 'tokens_per_s_p5'?"),
        ("request_per_s=3", "did you mean 'requests_per_s'?"),
        ("tokens_per_sec=3", "did you mean 'tokens_per_s'?"),
        ("eror=3", "did you mean 'errors'?"),
        ("tftt_p95=2", "did you mean 'ttft_p95'"),
        ("bogus=2", "objectives are ttft, ttft_sched, itl"),
        ("ttft_p95=fast", "is seconds, e.g. 2 or 500ms, not 'fast'"),
        ("ttft_p95=-1", "is seconds"),
        ("ttft_p95=nan", "is seconds"),
        ("tokens_per_s_p5=10ms", "is a number above 0"),
        ("ttft_p95=2,ttft_p95=3", "twice"),
    ],
)
def test_a_mistake_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ScenarioError, match=r"\.$") as mistake:
        parse_objectives(text)
    assert words in str(mistake.value)


@pytest.mark.parametrize(
    ("value", "interval", "met", "sure", "clear"),
    [
        (1.0, [0.8, 1.4], True, True, True),
        (1.8, [1.5, 2.2], True, False, None),
        (2.1, [1.5, 2.2], False, False, None),
        (3.0, [2.5, 3.2], False, True, False),
        (1.0, None, True, False, None),
        (None, None, False, False, None),
    ],
)
def test_an_objective_is_clear_where_its_interval_is(
    value: float | None, interval: list[float] | None, met: bool, sure: bool, clear: bool | None
) -> None:
    objectives = parse_objectives("ttft_p95=2")
    (judged,) = found = judge_objectives(objectives, {"ttft_s": {"p95": value, "ci95_p95": interval}})
    assert (judged.met, judged.sure, all_met(found)) == (met, sure, clear)


def test_it_says_how_many_requests_were_sent_where_none_failed() -> None:
    level = {"ttft_s": {"p95": 1.0}, "outcomes": {"ok": 20}}
    found = judge_objectives(parse_objectives("ttft_p95=2,e2e_p99=9,errors=0.5"), level)
    assert [(judged.failed, judged.requests) for judged in found] == [(0, 20)] * 3


def test_an_interval_that_ends_past_all_that_was_seen_says_so_as_the_report_does() -> None:
    """Was "661 ms (543 ms to 1.12 s)" below a report of the same run that said "543 ms to over 854 ms"."""
    figure = {"p95": 0.661, "ci95_p95": [0.543, 1.12], "max": 0.854}
    (judged,) = judge_objectives(parse_objectives("ttft_p95=1"), {"ttft_s": figure})
    assert "661 ms (543 ms to over 854 ms)" in str(judged)
    assert not judged.sure
    assert Judged.of(judged.objective, judged.to_dict()) == judged


def test_one_sure_miss_decides_and_one_doubt_does_not() -> None:
    level = {"ttft_s": {"p95": 1.9, "ci95_p95": [1.5, 2.2]}, "output_tokens_per_s": 50.0}
    level_missed = {**level, "output_tokens_per_s_ci95": [45.0, 55.0]}
    objectives = parse_objectives("ttft_p95=2,output_tokens_per_s=60")
    assert all_met(judge_objectives(objectives, level_missed)) is False
    assert all_met(judge_objectives(objectives, level)) is None
    assert (
        str(judge_objectives(objectives, level_missed)[1])
        == "output tokens/s is 50 (45 to 55), output tokens/s ≥ 60: missed"
    )


def test_a_figure_that_is_not_known_is_nan() -> None:
    (objective,) = parse_objectives("queue_wait_p95=1")
    assert math.isnan(objective.value({"queue_wait_s": None}))
    assert not objective.met(math.nan)


def test_goodput_counts_requests_that_met_everything(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", made_runs.Made(slots=4, jitter_ms=lambda i: i % 7), users=(8,), each=8)
    run = load(tmp_path / "run")
    limit = float(np.median(run.column("ttft_s")))
    rows = run.good(0)
    within = int((run.column("ttft_s")[rows] <= limit).sum())
    assert 0 < within < rows.sum()
    found = goodput(run, 0, parse_objectives(f"ttft_p95={limit!r},tokens_per_s_p5=99"), requests_per_s=2.0)
    assert found is not None
    assert (found["good"], found["requests"]) == (within, 64)
    assert found["requests_per_s"] == pytest.approx(2.0 * within / 64)
    none = goodput(
        run, 0, parse_objectives("tokens_per_s_p5=101,ttft_p95=100"), requests_per_s=2.0
    )  # every stream does 100
    assert none is not None
    assert none["good"] == 0
    gaps = goodput(run, 0, parse_objectives("itl_p95=0.011"), requests_per_s=None)
    assert gaps is not None
    assert (gaps["good"], gaps["requests_per_s"]) == (64, None)


def test_goodput_takes_the_widest_limit_and_leaves_totals_out(tmp_path: Path) -> None:
    assert [each.name for each in widest(parse_objectives("ttft_p50=1,ttft_p95=2,ttft_mean=1.5,requests_per_s=3"))] == [
        "ttft_p95"
    ]
    assert [each.name for each in widest(parse_objectives("tokens_per_s_p50=20,tokens_per_s_p5=10"))] == [
        "tokens_per_s_p5"
    ]
    made_runs.make(tmp_path / "run", users=(2,))
    assert goodput(load(tmp_path / "run"), 0, parse_objectives("requests_per_s=3"), requests_per_s=1.0) is None
