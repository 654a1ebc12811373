"""Percentiles, intervals for correlated samples, the steady window and throughput."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support import insight_intervals
from support.virtual_runs import Load, play

from loadtest.analyse.figures import intervals, stats
from loadtest.analyse.figures.intervals import FEWEST_INDEPENDENT
from loadtest.analyse.figures.stationarity import queue_memory, too_few_for_interval
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import load as load_run
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
from loadtest.metrics import PERCENTILES
from loadtest.simulate.model.timing import StepLaw, Timing


def test_describe_is_exact() -> None:
    described = stats.describe_values(np.arange(1.0, 101.0))
    assert described["n"] == 100
    assert described["mean"] == 50.5
    assert described["p50"] == 50.5
    assert described["p99"] == pytest.approx(99.01)
    assert described["max"] == 100


@pytest.mark.parametrize(
    ("n", "known"),
    [
        (1, {"p50"}),
        (9, {"p50"}),
        (10, {"p50", "p90"}),
        (20, {"p5", "p50", "p90", "p95"}),
        (100, {"p5", "p50", "p90", "p95", "p99"}),
    ],
)
def test_a_percentile_that_needs_more_samples_is_unknown(n: int, known: set[str]) -> None:
    described = stats.describe_values(np.arange(float(n)))
    assert {name for name in PERCENTILES if described[name] is not None} == known


def test_unknown_values_are_left_out_and_none_at_all_is_empty() -> None:
    assert stats.describe_values(np.array([1.0, np.nan, 3.0]))["n"] == 2
    assert stats.describe_values(np.array([np.nan]))["p50"] is None
    assert stats.describe_values(np.zeros(0)) == {
        "n": 0,
        "mean": None,
        "p5": None,
        "p50": None,
        "p90": None,
        "p95": None,
        "p99": None,
        "max": None,
        "ci95_mean": None,
        "ci95_p5": None,
        "ci95_p50": None,
        "ci95_p90": None,
        "ci95_p95": None,
        "ci95_p99": None,
    }


def test_no_interval_from_few_samples() -> None:
    values = np.random.default_rng(1).normal(size=20)
    assert stats.describe_values(values[:19])["ci95_mean"] is None
    assert stats.describe_values(values)["ci95_mean"] is not None


def test_the_low_tail_has_the_high_tails_interval_upside_down() -> None:
    values = np.random.default_rng(1).normal(size=400)
    low, high = stats.describe_values(values)["ci95_p5"], stats.describe_values(-values)["ci95_p95"]
    assert isinstance(low, list)
    assert isinstance(high, list)
    assert low == pytest.approx([-high[1], -high[0]])


@pytest.mark.parametrize("seed", [5, 7, 8])
def test_no_percentile_may_be_more_than_a_higher_one_may(seed: int) -> None:
    """p90 was said to be up to 15.4 s and p95 up to 13.2 s; of 400 such samples the ends of 118 crossed."""
    rng = np.random.default_rng(seed)
    found = stats.describe_values(rng.exponential(size=120) + (rng.random(120) < 0.08) * 5)
    p90, p95 = found["ci95_p90"], found["ci95_p95"]
    assert isinstance(p90, list)
    assert isinstance(p95, list)
    assert p90[0] <= p95[0]
    assert p90[1] <= p95[1]


def correlated(rng: np.random.Generator, n: int, memory: float) -> FloatArray:
    """An AR(1) series with mean 0: neighbours resemble each other, as requests that share a queue do."""
    noise = rng.normal(size=n)
    series = np.empty(n)
    series[0] = noise[0] / (1 - memory**2) ** 0.5
    for i in range(1, n):
        series[i] = memory * series[i - 1] + noise[i]
    return series


@pytest.mark.parametrize(("n", "block"), [(64, 8), (400, 8), (3000, 8)])
def test_intervals_cover_the_truth_although_samples_are_correlated(n: int, block: int) -> None:
    """Intervals for independent samples cover this series' mean in 68 of 100 cases instead of 95."""
    rng = np.random.default_rng(7)
    trials, known, inside_mean, inside_median, inside_naive = 200, 0, 0, 0, 0
    for _ in range(trials):
        series = correlated(rng, n, 0.6)
        described = stats.describe_values(series, block=block)
        known += described["ci95_p50"] is not None  # of 64 such samples some are worth fewer than ten
        inside_mean += described["ci95_mean"] is not None and holds(described["ci95_mean"], 0.0)
        inside_median += described["ci95_p50"] is not None and holds(described["ci95_p50"], 0.0)
        inside_naive += abs(series.mean()) <= 1.96 * series.std(ddof=1) / n**0.5
    assert inside_naive / trials < 0.80
    assert known > 0.8 * trials
    assert inside_mean / known > 0.90
    assert inside_median / known > 0.90


def holds(interval: object, truth: float) -> bool:
    assert isinstance(interval, list)
    return bool(interval[0] <= truth <= interval[1])


@pytest.mark.parametrize("before", [2000, 0])
def test_intervals_of_a_queue_hold(before: int) -> None:
    """Sixty runs of a queue at 80 % load; `scripts/bench intervals` does 500, which hold in 93 to 96 of 100."""
    for found in insight_intervals.queue_covers(60, seed=11, before=before):
        if "p99" in found.name:
            assert found.given < 10, "2000 requests of such a queue have not seen its p99"
        else:
            assert found.share > 0.85, found
            assert found.given > (30 if "p95" in found.name else 50), found


@pytest.mark.parametrize(
    ("load", "requests", "given"), [(0.5, 300, 50), (0.8, 300, 0), (0.8, 1000, 40), (0.95, 1000, 0)]
)
def test_a_level_at_a_rate_has_an_interval_where_its_queue_leaves_it_one(
    load: float, requests: int, given: int
) -> None:
    """Of those that short levels were given, 8 to 83 in a hundred held: a quiet run looks as if its requests were independent."""
    p50 = next(found for found in insight_intervals.rate_covers(60, requests, load, 1.0) if found.name == "TTFT p50")
    assert p50.given >= given
    assert p50.given < 10 if not given else p50.share > 0.9


def test_requests_that_slow_one_another_down_are_a_queue_too(tmp_path: Path) -> None:
    """Without slots nobody waits, and of the intervals of E2E and decode speed near capacity a quarter to a half held."""
    timing = Timing(step=StepLaw(0.0005, 0.002), prefill_s=0.0002, jitter=0.03)
    for rate, given in ((2.0, True), (7.8, False)):
        played = play(timing, [Load(requests=100, rate=rate, output=(10, 90))], slots=None, seed=1)
        (level,) = analyse(played.write(tmp_path / str(rate))).summary["levels"]
        for name in ("ttft_s", "e2e_s", "stream_tokens_per_s", "itl_s"):
            assert (level[name]["ci95_p50"] is not None) is given, (rate, name)


def test_the_memory_of_a_queue_is_not_read_off_a_quiet_run(tmp_path: Path) -> None:
    """Of mixed lengths at 80 % the quarter whose runs looked calm had an interval, and of these 50 to 72 in a hundred held."""
    timing = Timing(step=StepLaw(0.0005, 0.002), prefill_s=0.0002, jitter=0.03)
    load = Load(requests=100, rate=0.8 * 6.1, prompt=(50, 400), output=(20, 100))
    found = []
    for seed in range(20):
        run = load_run(play(timing, [load], slots=None, seed=seed).write(tmp_path / str(seed)))
        found.append(queue_memory(run, run.levels[0]))
    assert min(found) > 100 / FEWEST_INDEPENDENT
    assert 15 < np.median(found) < 50, "the means of many runs scatter as 27 to 34 requests alike make them"


def test_a_tail_that_a_few_requests_hold_may_lie_far_above_what_a_calm_run_shows() -> None:
    """The stalls that make the p95 of gaps fall on few requests: most runs meet fewer than usual, and 85 of 100 intervals held."""
    draw = np.random.default_rng(6)
    owner = np.repeat(np.arange(100), 40)

    def gaps() -> FloatArray:
        stalled = draw.random(len(owner)) < np.minimum(draw.gamma(0.1, 0.7, size=100), 1.0)[owner]
        return 0.005 + 0.001 * draw.random(len(owner)) + stalled * draw.exponential(0.05, size=len(owner))

    truth = float(np.quantile(np.concatenate([gaps() for _ in range(400)]), 0.95))
    found = [stats.describe_values(gaps(), requests=owner)["ci95_p95"] for _ in range(200)]
    covers = insight_intervals.cover("ITL p95", found, truth)
    assert covers.given > 90
    assert covers.share > 0.9, covers


def test_an_interval_is_not_given_because_it_happens_to_be_narrow() -> None:
    """Eight users behind one another: of 40 waits' medians the fifth whose rounds agreed had an interval, and 80 of 100 held."""
    draw = np.random.default_rng(2)
    waits = (100 + np.convolve(draw.normal(size=47), np.ones(8), "valid") for _ in range(300))
    covers = insight_intervals.cover("p50", [stats.describe_values(one, block=8)["ci95_p50"] for one in waits], 100.0)
    assert covers.given > 200
    assert covers.share > 0.88, covers


def test_a_median_between_those_who_wait_and_those_who_do_not_is_no_point() -> None:
    """One of two users waits in every round: the rounds agree, and the interval was the middle of both."""
    described = stats.describe_values(np.tile([1.0, 3.0], 20), block=2)
    assert described["p50"] == 2.0
    assert described["ci95_p50"] == [1.0, 3.0]


@pytest.mark.parametrize(
    ("memory", "n", "said"),
    [
        (None, 40, " below about 72 requests"),
        (None, 72, ""),
        (3.3, 100, " below about 240 requests"),
        (33.3, 100, ""),  # so far beyond its own number that what the server can do was not seen
    ],
)
def test_a_level_says_how_many_requests_an_interval_takes(memory: float | None, n: int, said: str) -> None:
    own = {} if memory is None else {"queue_memory": memory}
    level = LevelData({**own, "ttft_s": {"n": n, "p95": 1.0, "ci95_p95": None}})
    assert too_few_for_interval(level, "ttft_s", "p95") == said
    assert not too_few_for_interval(LevelData({**level, "little": {"growing": True}}), "ttft_s", "p95")


@pytest.mark.parametrize(("share", "fewest"), [(0.05, 72), (0.9, 36), (0.95, 72), (0.99, 368)])
def test_a_percentile_has_an_interval_from_where_a_value_beyond_it_is_sure(share: float, fewest: int) -> None:
    name = next(name for name, each in PERCENTILES.items() if each == share)
    values = np.tile([1.0, 2.0], 200)
    assert stats.describe_values(values[: fewest - 1])[f"ci95_{name}"] is None
    assert stats.describe_values(values[:fewest])[f"ci95_{name}"] is not None


@pytest.mark.parametrize(("independent", "ranks"), [(72, (64, 72)), (100, (90, 100)), (1000, (936, 964))])
def test_a_p95_lies_between_the_ranks_of_the_binomial(independent: int, ranks: tuple[int, int]) -> None:
    low, high = intervals.order_statistics(independent, 0.95)
    assert (1 + low * (independent - 1), 1 + high * (independent - 1)) == pytest.approx(ranks)


@pytest.mark.parametrize(("n", "block"), [(80, 8), (128, 8), (300, 1)])
def test_a_tail_of_few_slow_requests_is_not_denied_by_runs_that_met_fewer(n: int, block: int) -> None:
    """Where 6 % take ten times as long, the quarter to a third of runs that had an interval of p95 held in 53 to 79 of 100."""
    draw = np.random.default_rng(12)
    runs = [1 + 0.05 * draw.random(n) + 9 * (draw.random(n) < 0.06) for _ in range(200)]
    truth = float(np.quantile(1 + 0.05 * draw.random(400_000) + 9 * (draw.random(400_000) < 0.06), 0.95))
    covers = insight_intervals.cover(
        "p95", [stats.describe_values(one, block=block)["ci95_p95"] for one in runs], truth
    )
    assert covers.given > 150
    assert covers.share > 0.93, covers


def test_a_mean_is_no_surer_than_its_queue_leaves_it() -> None:
    """Ten batches of fewer requests than are alike: of the means of 300 requests at 80 % load 85 of 100 intervals held."""
    values = np.tile([1.0, 3.0], 50)
    low, high = stats.describe_values(values, queue=4.0)["ci95_mean"] or (0.0, 0.0)  # type: ignore[misc]
    assert high - low > 2 * 1.96 * values.std() / np.sqrt(100 / 4)


def test_no_figure_of_a_calm_run_near_saturation_has_an_interval(tmp_path: Path) -> None:
    """Gaps hardly followed the number in flight in a tenth to a fifth of such runs, and 26 to 81 of 100 of their medians held."""
    timing = Timing(step=StepLaw(0.02, 0.003), prefill_s=0.0005, jitter=0.05)
    load = Load(requests=60, rate=1.4, prompt=(50, 400), output=(20, 100))
    for seed in (9, 10):
        (level,) = analyse(play(timing, [load], slots=4, seed=seed).write(tmp_path / str(seed))).summary["levels"]
        assert level["itl_s"]["ci95_p50"] is None


def test_intervals_of_closed_loops_hold_and_are_no_wider_than_they_must_be() -> None:
    covers = {found.name: found for found in insight_intervals.closed_covers(40, Load(users=8, requests=64))}
    assert all(found.share > 0.8 for found in covers.values() if found.given)
    assert covers["TTFT mean"].half < 0.02
    assert covers["output tokens/s"].half < 0.02


def test_the_drain_is_no_chance() -> None:
    """Users that drain are faster in every run: as one of eight batches they made the interval seven times as wide."""
    rounds = np.random.default_rng(4).normal(20.0, 0.5, size=(8, 4))
    rounds[-1] += 3.0
    low, high = intervals.mean_interval(intervals.Sample.of(rounds.ravel(), block=4)) or (0.0, 0.0)
    assert high - low < 1.2


def test_mixed_lengths_do_not_blur_a_closed_loops_throughput() -> None:
    """A long answer's tokens took its user longer: by the time between ends the interval would be four times as wide."""
    load = Load(users=4, requests=32, prompt=(50, 400), output=(20, 100))
    covers = {found.name: found for found in insight_intervals.closed_covers(20, load)}
    assert covers["output tokens/s"].half < 0.12


def test_few_requests_have_no_interval_however_many_gaps() -> None:
    gaps = np.random.default_rng(9).normal(0.02, 0.001, size=900)
    assert stats.describe_values(gaps)["ci95_mean"] is not None
    assert stats.describe_values(gaps, requests=np.repeat(np.arange(9), 100))["ci95_mean"] is None


def test_a_run_too_short_for_its_own_memory_has_no_interval() -> None:
    walk = np.cumsum(np.random.default_rng(2).normal(size=400)) + 100  # a queue that grows and shrinks slowly
    described = stats.describe_values(walk)
    assert described["p95"] is not None
    assert [described[f"ci95_{name}"] for name in ("mean", *PERCENTILES)] == [None] * (1 + len(PERCENTILES))


def test_a_tail_hardly_seen_has_no_interval() -> None:
    described = stats.describe_values(np.random.default_rng(3).gamma(2, size=100))
    assert described["ci95_p90"] is not None
    assert described["p99"] is not None
    assert described["ci95_p99"] is None


def test_intervals_of_equal_values_are_points() -> None:
    described = stats.describe_values(np.full(64, 0.25), block=8)
    assert described["ci95_mean"] == [0.25, 0.25]
    assert described["ci95_p50"] == [0.25, 0.25]


def test_rounds_of_a_closed_loop_are_never_cut() -> None:
    """Five users of whom each round's last waits longest: every round is alike, so the mean is certain."""
    described = stats.describe_values(np.tile([1.0, 2.0, 3.0, 4.0, 5.0], 13), block=5)
    assert described["ci95_mean"] == pytest.approx([3.0, 3.0])


def test_gaps_of_one_request_are_one_piece_of_evidence() -> None:
    """Each request has its own speed: 40 requests of 100 gaps are 40 samples, not 4000."""
    rng = np.random.default_rng(4)
    held = held_by_gaps = 0
    for _ in range(50):
        speeds = rng.normal(0.02, 0.002, size=40)
        gaps = np.repeat(speeds, 100) + rng.normal(0, 0.0005, size=4000)
        owner = np.repeat(np.arange(40), 100)
        held += holds(stats.describe_values(gaps, requests=owner)["ci95_mean"], 0.02)
        shuffled = rng.permutation(gaps)
        held_by_gaps += holds(stats.describe_values(shuffled)["ci95_mean"], 0.02)
    assert held >= 44
    assert held_by_gaps < 25


def test_requests_count_by_how_many_gaps_they_have() -> None:
    """The mean of all gaps lies inside its interval, wherever the mean of the requests' means lies."""
    lengths = np.tile([10, 200], 20)
    owner = np.repeat(np.arange(40), lengths)
    gaps = np.where(lengths[owner] == 10, 0.1, 0.02) + np.random.default_rng(5).normal(0, 0.001, size=len(owner))
    described = stats.describe_values(gaps, requests=owner)
    assert holds(described["ci95_mean"], float(gaps.mean()))
    assert not holds(described["ci95_mean"], 0.06)


def test_the_same_samples_give_the_same_interval() -> None:
    series = correlated(np.random.default_rng(1), 100, 0.5)
    assert stats.describe_values(series, block=4) == stats.describe_values(series, block=4)


@pytest.mark.parametrize(
    ("freedom", "confidence", "table"),
    [
        (1, 0.95, 12.706),
        (2, 0.99, 9.925),
        (4, 0.95, 2.776),
        (7, 0.95, 2.365),
        (7, 0.999, 5.408),
        (10, 0.999, 4.587),
        (29, 0.95, 2.045),
        (1000, 0.95, 1.962),
    ],
)
def test_t_quantile_agrees_with_the_table(freedom: int, confidence: float, table: float) -> None:
    assert intervals.t_quantile(freedom, confidence) == pytest.approx(table, rel=0.0005)


def test_correlation_time_of_known_series() -> None:
    rng = np.random.default_rng(6)
    assert intervals.correlation_time(rng.normal(size=5000)) == pytest.approx(1, abs=0.2)
    assert intervals.correlation_time(correlated(rng, 20000, 0.6)) == pytest.approx(4, rel=0.2)  # (1 + φ)/(1 − φ)
    assert intervals.correlation_time(np.tile([1.0, 2.0], 50)) == 1
    assert intervals.correlation_time(np.full(50, 3.0)) == 1


def test_a_tail_that_hardly_differs_from_the_median_at_its_lower_end_has_no_interval() -> None:
    """Was "29.7 to 35,200 ms" for the p95 of a TPOT that was 29.7 ms for most answers, and 43.7 ms for a quarter of them."""
    values = np.where(np.arange(48) % 4 == 0, 0.0437, 0.0297 + 1e-6 * np.arange(48))
    found = stats.describe_values(values, block=8)
    assert found["p95"] == pytest.approx(0.0437)
    assert found["ci95_p50"] is not None
    tails = [each for each in (found["ci95_p90"], found["ci95_p95"]) if isinstance(each, list)]
    assert all(high < 0.44 for _, high in tails)
