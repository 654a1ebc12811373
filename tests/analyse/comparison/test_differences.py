"""How sure differences are: how often one is claimed of equal servers, how often a true one is seen, chances, and errors."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from support import insight_compare
from support.insight_compare import Case
from support.made_runs import Made, make
from support.virtual_runs import Load, play

from loadtest.analyse.comparison.compare import SAME, WORSE
from loadtest.analyse.comparison.differences import fisher
from loadtest.analyse.comparison.estimates import Metric, estimate_of
from loadtest.analyse.summary import analyse
from loadtest.simulate.model.timing import StepLaw, Timing


def test_the_same_server_twice_shows_no_difference_and_a_slower_one_is_worse() -> None:
    """Two tries, from end to end; the next test does hundreds, and `scripts/bench compare` very many, from a pool of runs."""
    case = Case("small", (50, 400), (20, 100), users=(1, 4))
    same = [insight_compare.attempt(case, seed) for seed in range(2)]
    assert [one.verdict for one in same] == [SAME] * 2
    slow = [insight_compare.attempt(case, seed, slower=0.25) for seed in range(2)]
    assert [one.verdict for one in slow] == [WORSE] * 2
    assert all(one.regressions for one in slow)


def test_false_differences_are_rare_and_ten_percent_is_found_by_five_runs_a_side() -> None:
    """A hundred tries each; `scripts/bench compare` does 1000 and prints the table."""
    runs = insight_compare.pool(Case("small", (128, 128), (64, 64), users=(2, 8)), 12)
    for a_side in (1, 5):
        found = [insight_compare.examine(runs, 100, noise, a_side) for noise in insight_compare.NOISES]
        assert max(each.false for each in found) <= 4  # of which one in a hundred is the promise
        assert sum(each.false for each in found) <= 6
    assert found[1].seen >= 90


@pytest.mark.parametrize(
    ("counts", "chance"), [((0, 10, 0, 10), 1.0), ((0, 10, 10, 10), 2 / math.comb(20, 10)), ((3, 9, 4, 12), 1.0)]
)
def test_fisher(counts: tuple[int, int, int, int], chance: float) -> None:
    assert fisher(*counts) == pytest.approx(chance)


def test_fisher_of_many_requests_is_exact() -> None:
    """By whole binomials 2000 failures of 40,000 took minutes."""
    assert fisher(200, 4000, 210, 4000) == pytest.approx(0.6482037321749842, rel=1e-9)
    assert 0.05 < fisher(2000, 40_000, 2100, 40_000) < 0.2
    assert fisher(0, 40_000, 2000, 40_000) == pytest.approx(0.0, abs=1e-300)


@pytest.mark.parametrize(("waited", "told"), [(0, True), (3, False), (30, True)])
def test_a_mean_that_a_few_long_waits_make_has_no_error(tmp_path: Path, waited: int, *, told: bool) -> None:
    """Was "TTFT mean +256 %, worse" of one server at a third of its load: three of 60 requests had waited, and none before."""
    made = Made(jitter_ms=lambda number: 1500 if waited and number % (60 // waited) == 1 else 0)
    make(tmp_path / "run", made, users=(1,), each=60)
    one = analyse(tmp_path / "run")
    found = estimate_of(one.run, one.summary["levels"][0], Metric("ttft_s", "mean", "TTFT mean", "s"))
    assert found is not None
    assert found.told is told


def test_a_queue_too_long_for_a_level_leaves_its_waits_unjudged(tmp_path: Path) -> None:
    """Was "TTFT mean +352 %, worse" of one server at 95 %: a quiet run looks as if its requests were independent."""
    timing = Timing(step=StepLaw(0.0005, 0.002), prefill_s=0.0002, jitter=0.03)
    played = play(timing, [Load(requests=150, rate=7.0, output=(10, 90))], slots=None, seed=6)
    one = analyse(played.write(tmp_path / "run"))
    found = estimate_of(one.run, one.summary["levels"][0], Metric("ttft_s", "mean", "TTFT mean", "s"))
    assert found is not None
    assert not found.told
