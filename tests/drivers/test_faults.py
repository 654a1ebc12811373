"""The same faults through both drivers and all wire formats: outcomes and sentences are right, and equal.

`pytest tests/drivers/test_faults.py -s` prints the matrix, as scripts/cases --matrix does.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
from support.odd_answers import DIALECTS
from support.places import CASEBOOK

sys.path.insert(0, str(CASEBOOK))
faults: Any = importlib.import_module("faults")


@pytest.fixture(scope="module")
def matrix() -> Any:
    found = faults.matrix()
    print(f"\n{faults.as_table(found)}")
    return found


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", faults.FAULTS)
def test_a_fault_is_recorded_as_what_it_was_and_alike_by_both_drivers(matrix: Any, fault: str, dialect: str) -> None:
    run, locust = (matrix[fault, dialect, driver] for driver in faults.DRIVERS)
    assert faults.right(fault, run), run
    assert run == locust
    assert bool(run.error) == (run.outcome != "ok")
