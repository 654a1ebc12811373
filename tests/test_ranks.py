"""A table of ranks says what numpy.searchsorted does."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest.analyse import ranks
from loadtest.analyse.frames import FloatArray
from loadtest.analyse.ranks import Ranks

DRAW = np.random.default_rng(5)
EVEN = np.sort(DRAW.uniform(0, 1e5, 50_000))
TIED = np.sort(DRAW.integers(0, 90_000, 20_000).astype(np.float64))
BURST = np.sort(np.concatenate((DRAW.uniform(0, 1e5, 1000), DRAW.uniform(5, 5.0001, 1000))))


@pytest.mark.parametrize("values", [EVEN, TIED, BURST, np.zeros(5), np.zeros(0), np.array([3.0])])
def test_ranks_are_those_of_searchsorted(values: FloatArray) -> None:
    odd = [-np.inf, np.inf, -1.0, 1e9, *values[:1], *values[-1:]]
    at = np.concatenate((DRAW.uniform(-10, 1e5 + 10, ranks.FEW), values, np.nextafter(values, np.inf), odd))
    found = Ranks(values)
    assert np.array_equal(found.upto(at), np.searchsorted(values, at, side="right"))
    assert np.array_equal(found.before(at), np.searchsorted(values, at, side="left"))


def test_the_table_is_used_where_it_helps_and_only_there() -> None:
    for values, helps in ((EVEN, True), (BURST, False)):
        found = Ranks(values)
        found.upto(np.zeros(ranks.FEW))
        assert (found._table is not None) is helps


def test_an_unknown_instant_ranks_last() -> None:
    at = np.append(np.zeros(ranks.FEW), np.nan)
    assert Ranks(EVEN).upto(at)[-1] == len(EVEN)
