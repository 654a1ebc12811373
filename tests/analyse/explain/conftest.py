"""A run of two levels, the second past its slots; and explanations without what-ifs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.explained import TIMING
from support.virtual_runs import Load, play


@pytest.fixture(scope="module")
def queued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("explain") / "run"
    return play(TIMING, [Load(users=1, requests=20), Load(users=5, requests=60)], slots=2).write(path)


@pytest.fixture
def no_what_ifs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare explanations their replays, which take seconds, for tests of the parts alone."""
    monkeypatch.setattr("loadtest.analyse.explain.explanation.replay_models", lambda *_: "this test replays nothing")
