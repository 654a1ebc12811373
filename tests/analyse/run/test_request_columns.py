"""The list of the columns that a run's requests have."""

from __future__ import annotations

import pytest
from support.places import TESTS

from loadtest.analyse.run.request_columns import (
    ACCOMPANIED,
    INFERRED_COLUMNS,
    INSTANTS,
    RECORDED,
    SAID,
    WORKED_OUT,
)
from loadtest.analyse.summary import analyse

LISTED = {*RECORDED, *INSTANTS, *SAID, *WORKED_OUT, *INFERRED_COLUMNS}
FOLDERS = sorted(path for path in (TESTS / "folders").iterdir() if (path / "run.json").exists())


@pytest.mark.parametrize("name", [path.name for path in FOLDERS])
def test_a_run_has_the_columns_that_are_listed_and_no_other(name: str) -> None:
    analysis = analyse(TESTS / "folders" / name)
    parts = [part.run for _, part in analysis.groups]
    assert set(analysis.run.requests.columns) == LISTED
    assert all(set(part.requests.columns) == LISTED | {ACCOMPANIED} for part in parts)
