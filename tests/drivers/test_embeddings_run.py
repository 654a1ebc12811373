"""Embeddings through the whole product: what a run of them says, and what it does not claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.made_servers import made

from loadtest.analyse.report import console_table, write_report
from loadtest.analyse.reports import answers
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
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


def test_the_four_figures_are_those_that_embeddings_have(folder: Path) -> None:
    """They were four times "not known: no level has a steady rate of output"."""
    analysis = analyse(folder)
    levels = analysis.summary["levels"]
    for level in levels:
        level["verdict"] = "valid"  # whatever a busy machine made of it
    tiles = {tile.name: tile for tile in answers.tiles(analysis)}
    assert list(tiles) == ["Most requests/s", "Input tokens/s there", "E2E p95 there", "Slots"]
    most = max(level["requests_per_s"] for level in levels)
    assert float(tiles["Most requests/s"].value) == pytest.approx(most, rel=0.01)
    assert tiles["Slots"].note == "answers that have no tokens do not show them"
    assert "p95 needs 20 requests" in tiles["E2E p95 there"].note


@pytest.mark.parametrize(("vectors", "doubted"), [(2, True), (4, False)])
def test_fewer_embeddings_than_texts_are_doubted(loadtest: Call, tmp_path: Path, vectors: int, doubted: bool) -> None:
    """smaramwbc/statewave#225: a provider that answers with fewer vectors than it was sent texts."""
    rows = [{"embedding": [0.1], "index": i} for i in range(vectors)]
    with made({"/v1/models": {"data": [{"id": "m"}]}, "/v1/embeddings": {"data": rows}}) as server:
        loadtest("run", server.url, "--endpoint", "embeddings", *ASKED, "--out", tmp_path / "run")
    records = list(RunFolder.open(tmp_path / "run").records())
    assert {bool(record.doubts) for record in records} == {doubted}


def test_objectives_that_no_embedding_has_are_refused(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    """They were measured to the end, and then all missed."""
    asked = ("--endpoint", "embeddings", "--slo", "ttft_p95=2,e2e_p95=2", "--out", tmp_path / "run")
    code, _, err = loadtest("run", simulated_url, *asked)
    assert (code, (tmp_path / "run").exists()) == (2, False)
    assert "--slo ttft_p95: answers of embeddings have no tokens; name e2e_p95" in err


@pytest.mark.parametrize("command", [("advise",), ("predict", "--concurrency", "8")])
def test_embeddings_are_no_ground_for_advice_and_it_is_said(
    command: tuple[str, ...], folder: Path, tmp_path: Path, loadtest: Call
) -> None:
    """The advice was to measure more streams, with answers of one length."""
    code, _, err = loadtest(*command, folder, *(("--out", tmp_path / "p.json") if len(command) > 1 else ()))
    assert code == 2
    assert err.endswith("which have no tokens to predict from; measure a chat or completions endpoint.\n")


def test_a_report_shows_e2e_and_input_tokens_and_claims_nothing_of_tokens(folder: Path, tmp_path: Path) -> None:
    report = write_report(folder, tmp_path / "out")
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
    first, second = map(LevelData, summary["levels"])
    summary["levels"] = [
        LevelData(first, e2e_s=None, input_tokens_per_s=None, requests_per_s=None),
        second,
    ]
    assert len(console_table(summary, 200).rows) == 2
