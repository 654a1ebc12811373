"""The list of the columns that a run's requests have."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.places import TESTS
from support.two_models import two_models

from loadtest.analyse.run.request_columns import (
    INFERRED_COLUMNS,
    INSTANTS,
    OF_SEVERAL,
    RECORDED,
    SAID,
    WORKED_OUT,
)
from loadtest.analyse.summary import analyse

LISTED = {*RECORDED, *INSTANTS, *SAID, *WORKED_OUT, *INFERRED_COLUMNS}
FOLDERS = sorted(path for path in (TESTS / "folders").iterdir() if (path / "run.json").exists())


@pytest.mark.parametrize("name", [path.name for path in FOLDERS])
def test_a_run_has_the_columns_that_are_listed_and_no_other(name: str) -> None:
    assert set(analyse(TESTS / "folders" / name).run.requests.columns) == LISTED


def test_the_parts_of_a_run_of_two_models_say_who_was_beside_them(tmp_path: Path) -> None:
    analysis = two_models(tmp_path / "run")
    assert set(analysis.run.requests.columns) == LISTED | {"loaded_in_turn"}
    assert [set(part.run.requests.columns) for _, part in analysis.groups] == [LISTED | set(OF_SEVERAL)] * 2
