"""Predictions of a run whose users hung up or whose requests failed: they are of answers, and no bound is taken for a figure."""

from __future__ import annotations

import math
from pathlib import Path

import orjson
import pytest
from support.scored import command, measured, predicted

from loadtest.analyse.reports import score_report
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.predict import WHO_FAIL, WHO_WAIT
from loadtest.analyse.whatif.model.self_check import as_measured


def unanswered(folder: Path, outcome: str) -> Path:
    """Measure a run in whose last level every fifth request ended so before the first token."""
    run = measured(folder, (1, 2, 8))
    for path in run.glob("requests-*.jsonl"):
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        for row in rows:
            if row.get("level") == 2 and row["id"] % 5 == 0:
                left = {"outcome": outcome, "t_end": row["t_first_token"], "chunks": [], "token_source": "chunks"}
                row.update(left | {"output_tokens": 0, "reads": 0, "stamped": 0, "arrivals": 0})
                for key in ("t_first_token", "server", "server_us", "server_first", "prompt_tokens"):
                    row.pop(key, None)
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return run


@pytest.fixture
def hung_up(tmp_path: Path) -> Path:
    return unanswered(tmp_path / "run", "left")


@pytest.mark.usefixtures("short_predictions")
def test_a_wait_that_users_did_not_wait_out_is_no_figure_and_that_they_left_is_said(hung_up: Path) -> None:
    """9 of 20 users of a llama.cpp left after 1 s: "TTFT p95 1.00 s, as measured", beside 1.50 s with one slot."""
    level = analyse(hung_up).summary["levels"][2]
    assert "p95" in level["ttft_s"]["at_least"]
    assert math.isnan(as_measured(level, None).figure("ttft_s", "p95"))
    assert as_measured(level, None).figure("ttft_s", "p50") == level["ttft_s"]["p50"]
    for asked in (["advise"], ["predict", "--concurrency", 6, "--out", hung_up / "p.json"]):
        code, said = command(asked[0], hung_up, *asked[1:])
        assert code == 0, said
        assert WHO_WAIT in " ".join(said.split())


@pytest.mark.usefixtures("short_predictions")
def test_a_level_whose_users_hung_up_is_not_scored(hung_up: Path, tmp_path: Path) -> None:
    document = predicted(measured(tmp_path / "fit", (1, 2, 4)), concurrencies=(8,))
    found = score_report.score(document, analyse(hung_up))
    assert not found.figures
    assert any(
        said.endswith("not scored: its users hung up, and predictions are of users who all wait for their answers.")
        for said in found.said
    )


@pytest.mark.usefixtures("short_predictions")
def test_requests_that_failed_are_said_and_a_level_of_many_is_not_scored(tmp_path: Path) -> None:
    """Of a server that refused every fourth request predictions said nothing of it, and its next run was scored."""
    run = unanswered(tmp_path / "run", "timeout")
    failed = len([row for row in analyse(run).run.requests["outcome"] if row == "timeout"])
    document = predicted(run, concurrencies=(6,))
    assert any(said.startswith(f"{failed} of ") and said.endswith(f"failed; {WHO_FAIL}") for said in document.said)
    found = score_report.score(predicted(measured(tmp_path / "fit", (1, 2, 4)), concurrencies=(8,)), analyse(run))
    assert not found.figures
    assert any(said.endswith(f"requests failed, and {WHO_FAIL}") for said in found.said)
