"""Embeddings through the whole product: what a run of them says, and what it does not claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtest.analyse.report import console_table, write_report
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder

Call = Callable[..., tuple[int, str, str]]
ASKED = ("--input-tokens", "32", "--seed", "7", "--requests", "12", "--concurrency", "1,3", "--inputs-per-request", "4")


@pytest.fixture(scope="module")
def folder(simulated_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from loadtest import Scenario, run

    out = tmp_path_factory.mktemp("embeddings") / "run"
    scenario = Scenario(
        url=simulated_url,
        endpoint="embeddings",
        input_tokens=[32],
        inputs_per_request=4,
        concurrency=[1, 3],
        requests=12,
        seed=7,
    )
    run(scenario, out=out)
    return out


def test_a_record_has_no_token_and_all_input(folder: Path) -> None:
    records = [record for record in RunFolder.open(folder).records() if not record.warmup]
    assert len(records) == 24
    for record in records:
        assert (record.outcome, record.dialect) == (Outcome.OK, "ollama-embeddings")
        assert (record.output_tokens, record.chunks, record.t_first_token, record.asked) == (None, [], None, None)
        assert (record.asked_input, record.token_source) == (128, "server")
        assert record.prompt_tokens is not None
        assert abs(record.prompt_tokens - 128) < 16


def test_a_report_shows_e2e_and_input_tokens_and_claims_nothing_of_tokens(folder: Path, tmp_path: Path) -> None:
    report = write_report([folder], tmp_path / "out")
    assert {path.name for path in report.files} == {
        *("summary.json", "report.md", "report.html", "e2e.png", "e2e-distribution.png", "timeline.png")
    }
    one, three = report.summary["levels"]
    for level in (one, three):
        assert level["e2e_s"]["n"] == 12
        assert level["input_tokens_per_s"] == pytest.approx(level["requests_per_s"] * 128, rel=0.15)
        assert not [name for name in ("ttft_s", "tpot_s", "itl_s", "stream_tokens_per_s") if level[name]]
        assert level["output_tokens_per_s"] is None
        assert not [reason for reason in level["reasons"] if "without any text" in reason or "length" in reason]
    assert one["label"] == "1 stream · 4 × 32 in"
    heads = [str(column.header) for column in console_table(report.summary, 200).columns]
    assert "TTFT p50" not in heads
    assert [head for head in heads if head in ("E2E p50", "requests/s", "input tokens/s")] == [
        *("E2E p50", "requests/s", "input tokens/s")
    ]
    text = (tmp_path / "out" / "report.md").read_text()
    assert "No stream was seen decoding" not in text
    assert "| E2E p50 |" in text
    assert "| TTFT" not in text


def test_a_data_frame_has_e2e(folder: Path) -> None:
    from loadtest import read_run

    requests = read_run(folder).requests
    assert (requests["e2e_s"] > 0).all()
    assert requests["ttft_s"].isna().all()


def test_records_that_failed_leave_no_column_out(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    """A level in which nothing ended well stands beside one of embeddings in the same table."""
    code, said, _ = loadtest(
        *("run", "--url", simulated_url, "--endpoint", "embeddings", *ASKED, "--out", tmp_path / "run")
    )
    assert code in (0, 3)
    assert "E2E p50" in said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    summary["levels"][0] |= {"e2e_s": None, "input_tokens_per_s": None, "requests_per_s": None}
    assert len(console_table(summary, 200).rows) == 2
