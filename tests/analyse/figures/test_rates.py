"""Requests/s, tokens/s and goodput: true whatever the ends of a level look like."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import insight_rates
from support.insight_rates import SHAPES, Shape, closed
from support.made_runs import Made, grid, write
from support.virtual_runs import Load, play

from loadtest.analyse.figures import rates, stats
from loadtest.analyse.figures.rates import Window, steady_window
from loadtest.analyse.run import frames
from loadtest.analyse.summary import analyse
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.020, 0.004), prefill_s=0.0005, jitter=0.02)


def test_a_queue_makes_the_rate_of_a_level_no_surer_than_what_was_sent(tmp_path: Path) -> None:
    """Answers of four slots that are nearly always at work end evenly; by their ends alone 78 of 100 intervals of tokens/s held."""
    load = Load(requests=300, rate=5.7, output=(10, 90))
    run = play(Timing(step=StepLaw(0.01, 0.0002), prefill_s=0.0002, jitter=0.03), [load], slots=4).write(
        tmp_path / "run"
    )
    (level,) = analyse(run).summary["levels"]
    low, high = level["output_tokens_per_s_ci95"]
    assert (high - low) / 2 / level["output_tokens_per_s"] > 1.96 * np.sqrt((1 + 0.21) / 300) * 0.9


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.exact], ids=lambda shape: shape.name)
def test_a_closed_loops_rates_are_true_within_two_percent(shape: Shape) -> None:
    """Ragged ends and warm-ups that overlap included; by whole answers requests/s was up to 56 % off."""
    worst = insight_rates.examine(shape, 2).worst
    assert abs(worst.requests) < 0.02
    assert abs(worst.tokens) < 0.02


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape.load.rate == 8.0], ids=lambda shape: shape.name)
def test_an_open_loop_past_what_the_server_can_do_is_answered_at_the_servers_rate(shape: Shape) -> None:
    mean = insight_rates.examine(shape, 3).mean
    assert abs(mean.requests) < 0.02
    assert abs(mean.tokens) < 0.02


@pytest.mark.parametrize("shape", [closed(8, 26), closed(8, 26, 8), closed(16, 26, 16)], ids=lambda shape: shape.name)
def test_goodput_is_of_the_same_window(shape: Shape) -> None:
    """The last of 26 requests have the server to themselves."""
    assert abs(insight_rates.examine(shape, 2).mean.good) < 0.02


def test_a_closed_loops_window_ends_when_the_first_user_has_nothing_left_to_send() -> None:
    """Two users, five requests: the fourth end is the first after which nothing is sent."""
    send = np.array([0.0, 0.0, 1.0, 1.1, 2.0])
    end = np.array([1.0, 1.1, 2.0, 2.1, 3.0])
    assert steady_window(send, end, 0.0, 2) == Window(0.0, 2.1, steady=True)


def test_a_closed_loops_window_opens_when_all_users_are_at_work() -> None:
    send = np.array([0.0, 0.8, 1.0, 1.8, 2.0, 2.8, 3.0])
    assert steady_window(send, send + 1.0, 0.0, 2) == Window(0.8, 3.8, steady=True)
    assert steady_window(send, send + 1.0, 1.8, 2) == Window(1.8, 3.8, steady=True)  # six of seven were warm-ups


def test_a_round_begun_is_left_out_for_no_tokens_come_while_all_prefill() -> None:
    """Four users in step and 14 requests: the window is three rounds of four."""
    send = np.array([0.0] * 4 + [1.0] * 4 + [2.0] * 4 + [3.0] * 2)
    end = send + np.array([0.9, 0.91, 0.92, 0.93] * 3 + [0.9, 0.91])
    assert steady_window(send, end, 0.0, 4) == Window(0.92, 2.92, steady=True)


def test_a_whole_round_is_not_given_up_where_users_end_together() -> None:
    """All warm-ups end just before the first measured request is sent: the first round counts."""
    send = np.repeat(np.arange(6.0), 4)
    end = send + 0.98 + np.tile([0.0, 0.002, 0.004, 0.006], 6)
    window = steady_window(send, end, 1.0, 4)
    assert (window.start, window.end) == pytest.approx((0.98, 5.98))
    assert len(rates.round_edges(end, window, 4)) - 1 == 5


def test_an_open_loops_window_is_from_its_first_end_to_the_first_after_its_last_send() -> None:
    send = np.array([0.0, 0.0, 1.0, 1.2, 2.0, 2.2])
    end = np.array([1.0, 1.2, 2.0, 2.2, 3.0, 3.5])
    assert steady_window(send, end, 0.0) == Window(1.0, 3.0, steady=True)


def test_an_idle_server_answers_as_many_a_second_as_come() -> None:
    """Ten requests, one every 2 s: closed with the last send, the window held eight answers in nine gaps."""
    send = np.arange(0.0, 20.0, 2.0)
    end = send + 0.5
    window = steady_window(send, end, 0.0)
    assert window.holds(end).sum() / window.seconds == pytest.approx(0.5)


def test_one_request_a_user_has_no_steady_window() -> None:
    window = steady_window(np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.1, 1.2]), 0.0, 3)
    assert window == Window(0.0, 1.2, steady=False)


def test_answers_without_tokens_count_at_their_end(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (4,), each=8)
    nothing: dict[str, Any] = {"chunks": [], "output_tokens": 0, "asked": None, "server_us": None, "server_first": None}
    nothing |= {"t_first_token": None, "t_first_visible": None}
    empty = [dataclasses.replace(record, **nothing) for record in truth.records]
    seen = []
    for name, records in (("full", truth.records), ("empty", empty)):
        run = frames.load(write(tmp_path / name, records, levels))
        found = rates.level_rates(run, rates.flow(run, run.levels[0]), run.good(0))
        seen.append(found["requests_per_s"])
    assert seen[1] == pytest.approx(seen[0], rel=0.001)


def test_fewer_than_five_rounds_have_no_interval(tmp_path: Path) -> None:
    """32 requests are many, and yet two rounds of sixteen streams, which share their fate."""
    for each, given in ((2, False), (5, True)):
        played = play(TIMING, [Load(users=16, requests=16 * each)], slots=4, seed=each)
        level = analyse(played.write(tmp_path / str(each))).summary["levels"][0]
        assert (level["output_tokens_per_s_ci95"] is not None) is given
        assert (level["ttft_s"]["ci95_mean"] is not None) is given
        assert (level["itl_s"]["ci95_mean"] is not None) is given


def test_waits_have_no_negative_end() -> None:
    values = np.random.default_rng(5).exponential(0.01, size=40) * (np.arange(40) % 8 == 0)
    described = stats.describe_values(values, block=4)
    ends = [each for key, each in described.items() if key.startswith("ci95") and isinstance(each, list)]
    assert ends
    assert all(each[0] >= 0 for each in ends)


def test_the_drain_is_in_latencies_and_said(tmp_path: Path) -> None:
    """26 requests on 8 streams: two have the server to themselves at the end, and decode twice as fast.

    A queue at a rate runs out too, with all slots at work nearly to the end: it said "ended with fewer streams at work".
    """
    (level,) = analyse(play(TIMING, [Load(users=8, requests=26)], slots=8).write(tmp_path / "run")).summary["levels"]
    assert level["window"]["drain_requests"] >= 7
    said = str(rates.drained([level]))
    assert said.startswith(
        f"The last {level['window']['drain_requests']} of 26 requests at {level['label']} ended while the load ran out"
    )
    assert rates.drained([level, level]) == said  # was a sentence for each level
    (long,) = analyse(play(TIMING, [Load(users=2, requests=60)], slots=8).write(tmp_path / "long")).summary["levels"]
    assert rates.drained([long]) is None


def test_a_level_at_a_rate_says_by_how_much_its_rates_may_be_low(tmp_path: Path) -> None:
    """Of 60 requests at 80 % load three were not answered as the window closed; where a queue grows that is the server's rate."""
    timing = Timing(step=StepLaw(0.02, 0.003), prefill_s=0.0005, jitter=0.05)
    load = Load(requests=60, rate=1.4, prompt=(50, 400), output=(20, 100))
    kept, grew = (
        analyse(play(timing, [load], slots=4, seed=seed).write(tmp_path / str(seed))).summary["levels"][0]
        for seed in (0, 1)
    )
    assert kept["window"]["unanswered_share"] == pytest.approx(0.05, abs=0.001)
    assert str(rates.understated([kept])).startswith(
        "Rates at 1.4 requests/s may be 5 % low: the level began with an idle server"
    )
    assert grew["window"]["unanswered_share"] > 0.2
    assert rates.understated([grew]) is None


def test_a_rate_over_a_whole_level_has_no_interval(tmp_path: Path) -> None:
    """Ramp and drain are no sample of anything."""
    levels, truth = grid(Made(), (4,), each=1)
    records = [dataclasses.replace(record, warmup=False) for record in truth.records[:4]]
    run = frames.load(write(tmp_path / "run", records, levels))
    flow = rates.flow(run, run.levels[0])
    assert flow is not None
    assert not flow.window.steady
    found = rates.weighted_rate(run, flow, run.column("output_tokens"))
    assert found is not None
    assert found.ci95 is None


def test_an_interval_that_reaches_zero_is_none(tmp_path: Path) -> None:
    """Of a ramp it was said that output is 88 tokens/s (0.00 to 166)."""
    run = frames.load(play(TIMING, [Load(requests=40, rate=1.0)], slots=4).write(tmp_path / "run"))
    flow = rates.flow(run, run.levels[0])
    assert flow is not None
    even = rates.weighted_rate(run, flow, np.ones(40))
    uneven = rates.weighted_rate(run, flow, np.where(np.arange(40) == 20, 1000.0, 1.0))
    assert even is not None
    assert even.ci95 is not None
    assert uneven is not None
    assert uneven.ci95 is None


def test_throughput_of_a_closed_loop_goes_by_rounds_not_by_the_clock() -> None:
    """Four users in step, 50 tokens a second each: rounds are alike, wherever a window's tenths would cut them."""
    send = np.repeat(np.arange(12) * 1.03, 4)
    window = steady_window(send, send + 1.02, 1.03, 4)
    edges = rates.round_edges(send + 1.02, window, 4)
    assert len(edges) == 12
    spread = rates.rounds_spread(send + 0.02, send + 1.02, np.full(48, 50.0), edges)
    assert spread is not None
    assert spread.error == pytest.approx(0.0, abs=1e-9)
