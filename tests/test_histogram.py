"""The mergeable histogram: as good as the exact figures, to the precision it promises, however the values were split."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable

import numpy as np
import pytest

from loadtest.histogram import Histogram

HALF_BUCKET = 1 / 256  # of the value
SHARES = (0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0)


def histogram_of(values: Iterable[float]) -> Histogram:
    histogram = Histogram()
    histogram.add(*values)
    return histogram


def drawn(seed: int) -> list[float]:
    """Some thousand latencies over many scales, with zeros and equal values among them."""
    rng = random.Random(seed)
    kinds = (
        lambda: rng.lognormvariate(-2, 1.5),
        lambda: rng.choice((0.0, 0.02, 0.02)),
        lambda: rng.uniform(1e-6, 90.0),
    )
    return [rng.choice(kinds)() for _ in range(rng.choice((1, 2, 7, 150, 3000)))]


@pytest.mark.parametrize("seed", range(40))
def test_percentiles_merged_from_random_splits_are_those_of_all_values(seed: int) -> None:
    values, rng = drawn(seed), random.Random(-seed)
    parts = [Histogram() for _ in range(rng.randint(1, 9))]
    for value in values:
        rng.choice(parts).add(value)
    merged = Histogram()
    for part in parts:
        merged.merge(Histogram.from_json(json.loads(json.dumps(part.to_json()))))
    for share in SHARES:
        exact = float(np.quantile(values, share))
        assert merged.percentile(share) == pytest.approx(exact, rel=HALF_BUCKET, abs=1e-12)
    assert merged.count == len(values)
    assert merged.sum / merged.count == pytest.approx(float(np.mean(values)))
    assert (merged.min, merged.max) == (min(values), max(values))


@pytest.mark.parametrize("seed", range(10))
def test_merging_in_any_order_gives_the_same_as_adding(seed: int) -> None:
    values = drawn(seed)
    at_once, one_by_one, merged = histogram_of(values), Histogram(), Histogram()
    for value in values:
        one_by_one.add(value)
    for part in np.array_split(np.array(values), 5)[::-1]:
        merged.merge(histogram_of(part.tolist()))
    whole = at_once.to_json()
    for other in (one_by_one.to_json(), merged.to_json()):
        assert other.pop("sum") == pytest.approx(whole["sum"])
        assert other == {key: value for key, value in whole.items() if key != "sum"}


@pytest.mark.parametrize("seed", range(10))
def test_at_most_counts_what_is_below_a_bound_to_within_half_a_bucket(seed: int) -> None:
    values = np.array(drawn(seed))
    histogram = histogram_of(values.tolist())
    bounds = [0.0, *np.geomspace(1e-7, 1e3, 300).tolist(), *np.sort(values[:20]).tolist(), float(values.max())]
    bounds.sort()
    counts = histogram.at_most(bounds)
    assert counts == sorted(counts)
    assert histogram.at_most([float(values.max())]) == [len(values)]  # the end is exact
    for bound, count in zip(bounds, counts, strict=True):
        least, most = (values <= bound * (1 - HALF_BUCKET)).sum(), (values <= bound * (1 + HALF_BUCKET)).sum()
        assert least <= count <= most, bound


def test_a_bucket_is_nowhere_wider_than_one_percent() -> None:
    for value in np.geomspace(1e-6, 1e5, 5000).tolist():
        histogram = histogram_of([0.0, value, value, 1e9])  # the middle of the bucket, neither least nor largest
        assert histogram.percentile(1 / 3) == pytest.approx(value, rel=HALF_BUCKET)
        assert HALF_BUCKET < 0.005


def test_unknown_is_left_out_and_below_zero_is_zero() -> None:
    histogram = histogram_of([float("nan"), float("inf"), -0.001, 0.0])
    assert (histogram.count, histogram.min, histogram.max) == (2, 0.0, 0.0)
    assert histogram.percentile(0.5) == 0.0


def test_nothing_has_no_figures_and_merges_into_anything() -> None:
    nothing = Histogram()
    assert (nothing.count, nothing.percentile(0.5), nothing.to_json()) == (0, None, {})
    some = histogram_of([0.5, 0.7])
    before = some.to_json()
    some.merge(Histogram.from_json(nothing.to_json()))
    assert some.to_json() == before


def test_the_json_form_is_sparse() -> None:
    """A day of streams costs no more than their spread."""
    histogram = histogram_of(random.Random(1).uniform(0.019, 0.021) for _ in range(100_000))
    assert len(json.dumps(histogram.to_json())) < 1000
