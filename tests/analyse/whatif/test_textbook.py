"""Textbook models that predictions are held against: Erlang C, the scalability law, lines."""

from __future__ import annotations

import math

import pytest

from loadtest.analyse.whatif.predictions import textbook
from loadtest.analyse.whatif.predictions.textbook import MeasuredLevel


def level(users: int, **figures: float) -> MeasuredLevel:
    return MeasuredLevel(users, {name.replace("__", "."): value for name, value in figures.items()})


def test_erlang_c_is_that_of_the_tables() -> None:
    assert textbook.waiting_probability(1, 0.5) == pytest.approx(0.5)
    assert textbook.waiting_probability(2, 1.0) == pytest.approx(1 / 3)
    assert textbook.waiting_probability(10, 8.0) == pytest.approx(0.4092, abs=1e-4)
    assert textbook.waiting_probability(2, 2.0) == 1.0


def test_an_open_mmc_waits_as_kleinrock_says() -> None:
    levels = [level(1, e2e_s__mean=2.0, ttft_s__p50=0.1, output_tokens_per_s__mean=25.0, requests_per_s__mean=0.5)]
    said = textbook.erlang_c(levels, 1, users=None, rate=0.25)  # M/M/1 at half load: P(W > t) = 0.5 e^(-t / 4)
    assert said["ttft_s.p95"] == pytest.approx(0.1 + 4 * math.log(0.5 / 0.05))
    assert said["ttft_s.p50"] == pytest.approx(0.1)
    assert said["output_tokens_per_s.mean"] == pytest.approx(0.25 * 50)


def test_the_scalability_law_finds_its_own_parameters() -> None:
    def law(n: int) -> float:
        return 10 * n / (1 + 0.1 * (n - 1) + 0.002 * n * (n - 1))

    levels = [level(n, requests_per_s__mean=law(n)) for n in (1, 2, 4, 8, 16)]
    said = textbook.scalability_law(levels, 32)
    assert said["requests_per_s.mean"] == pytest.approx(law(32))
    assert said["e2e_s.p50"] == pytest.approx(32 / law(32))
    assert textbook.scalability_law(levels[:2], 32) == {}


def test_a_line_goes_through_its_neighbours_and_on() -> None:
    levels = [level(n, ttft_s__p50=value) for n, value in ((1, 1.0), (2, 3.0), (4, 4.0))]
    assert textbook.straight_line(levels, 3)["ttft_s.p50"] == pytest.approx(3.5)
    assert textbook.straight_line(levels, 8)["ttft_s.p50"] == pytest.approx(6.0)
    assert textbook.straight_line(levels[:1], 8) == {}


def test_a_bend_is_found_where_it_is() -> None:
    def kinked(n: float) -> float:
        return 1 + n + 5 * max(n - 6.0, 0.0)

    levels = [level(n, ttft_s__p50=kinked(n)) for n in (1, 2, 4, 8, 10, 12)]
    assert textbook.two_segments(levels, 16)["ttft_s.p50"] == pytest.approx(kinked(16), rel=0.02)
    assert textbook.two_segments(levels[:3], 16) == {}
