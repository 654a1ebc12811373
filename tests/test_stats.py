"""Percentiles, intervals for correlated samples, the steady window and throughput."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.analyse import stats
from loadtest.analyse.frames import FloatArray


def test_describe_is_exact() -> None:
    described = stats.describe(np.arange(1.0, 101.0))
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
        (20, {"p50", "p90", "p95"}),
        (100, {"p50", "p90", "p95", "p99"}),
    ],
)
def test_a_percentile_that_needs_more_samples_is_unknown(n: int, known: set[str]) -> None:
    described = stats.describe(np.arange(float(n)))
    assert {name for name in stats.PERCENTILES if described[name] is not None} == known


def test_unknown_values_are_left_out_and_none_at_all_is_empty() -> None:
    assert stats.describe(np.array([1.0, np.nan, 3.0]))["n"] == 2
    assert stats.describe(np.array([np.nan]))["p50"] is None
    assert stats.describe(np.zeros(0)) == {
        "n": 0,
        "mean": None,
        "p50": None,
        "p90": None,
        "p95": None,
        "p99": None,
        "max": None,
        "ci95_mean": None,
        "ci95_p50": None,
    }


def test_no_interval_from_few_samples() -> None:
    assert stats.describe(np.arange(19.0))["ci95_mean"] is None
    assert stats.describe(np.arange(20.0))["ci95_mean"] is not None


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
    trials, inside_mean, inside_median, inside_naive = 200, 0, 0, 0
    for _ in range(trials):
        series = correlated(rng, n, 0.6)
        mean, median = stats.intervals(series, block=block)
        assert mean is not None
        assert median is not None
        inside_mean += mean[0] <= 0 <= mean[1]
        inside_median += median[0] <= 0 <= median[1]
        inside_naive += abs(series.mean()) <= 1.96 * series.std(ddof=1) / n**0.5
    assert inside_naive / trials < 0.80
    assert inside_mean / trials > 0.88
    assert inside_median / trials > 0.86


def test_the_same_samples_give_the_same_interval() -> None:
    series = correlated(np.random.default_rng(1), 100, 0.5)
    assert stats.intervals(series, block=4) == stats.intervals(series, block=4)


@pytest.mark.parametrize(("freedom", "table"), [(4, 2.776), (7, 2.365), (9, 2.262), (29, 2.045), (1000, 1.962)])
def test_t_quantile_agrees_with_the_table(freedom: int, table: float) -> None:
    assert stats.t_quantile(freedom) == pytest.approx(table, rel=0.003)


def test_steady_window_leaves_out_ramp_and_drain() -> None:
    send = np.array([0.0, 0.0, 1.0, 1.2, 2.0, 2.2])
    end = np.array([1.0, 1.2, 2.0, 2.2, 3.0, 3.5])
    assert stats.steady_window(send, end, 0.0) == stats.Window(1.0, 3.0, steady=True)


def test_one_request_a_user_has_no_steady_window() -> None:
    window = stats.steady_window(np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.1, 1.2]), 0.0)
    assert window == stats.Window(0.0, 1.2, steady=False)


def test_throughput_counts_what_arrived_inside() -> None:
    instants = np.arange(0.05, 20, 0.1)  # ten a second
    found = stats.throughput(instants, np.full(len(instants), 2.0), stats.Window(5.0, 15.0, steady=True))
    assert found is not None
    assert found.per_second == pytest.approx(20)
    assert found.ci95 == pytest.approx([20, 20])


def test_throughput_over_a_whole_level_has_no_interval() -> None:
    """Ramp and drain are no sample of anything."""
    instants = np.arange(0.05, 20, 0.1)
    found = stats.throughput(instants, np.ones(len(instants)), stats.Window(0.0, 20.0, steady=False))
    assert found is not None
    assert found.ci95 is None
    assert stats.throughput(instants, instants, stats.Window(1.0, 1.0, steady=False)) is None
