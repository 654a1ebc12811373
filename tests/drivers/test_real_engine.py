"""The main job on real input: llama.cpp's own server, four slots, driven past them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from support import llamacpp

from loadtest.analyse.summary import analyse
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder

LEVELS = (1, 2, 4, 8)
ASKED = 40


@pytest.fixture(scope="module")
def folder(llamacpp_url: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run at 1, 2, 4 and 8 streams, measured once for this module."""
    from loadtest.cli import main

    out = tmp_path_factory.mktemp("real") / "run"
    options = ["--concurrency", "1,2,4,8", "--input-tokens", "60", "--output-tokens", str(ASKED)]
    with pytest.raises(SystemExit) as end:
        main(
            [
                "run",
                "--url",
                llamacpp_url,
                "--seed",
                "1",
                *options,
                "--requests-per-stream",
                "4",
                "--out",
                str(out),
                "--report",
            ]
        )
    assert end.value.code in (0, 3)  # 3: a busy test machine may void what it could not measure
    return RunFolder.open(out)


@pytest.fixture
def summary(folder: RunFolder) -> dict[str, Any]:
    return dict(orjson.loads((folder.path / "summary.json").read_bytes()))


def test_every_request_is_ok_and_as_long_as_asked(folder: RunFolder) -> None:
    records = list(folder.records())
    assert len(records) == sum(level * (4 + 1) for level in LEVELS)
    assert {record.outcome for record in records} == {Outcome.OK}
    assert {record.output_tokens for record in records} == {ASKED}
    assert {record.token_source for record in records} == {"server"}
    assert {record.finish_reason for record in records} == {"length"}


def test_prompts_are_as_long_as_asked_by_the_server_s_own_count(folder: RunFolder) -> None:
    # the tiny vocabulary spells most words out, four tokens for one of ours, so that single texts scatter
    lengths = [record.prompt_tokens or 0 for record in folder.records()]
    assert abs(sum(lengths) / len(lengths) - 60) <= 12, lengths


def test_at_most_four_decode_at_once(summary: dict[str, Any]) -> None:
    assert [level["peak_decoding"] for level in summary["levels"]] == [1, 2, 4, 4]
    assert summary["slots"]["estimate"] == 4


def test_past_four_requests_wait_for_a_slot(summary: dict[str, Any]) -> None:
    waits = {level["concurrency"]: level["queue_wait_s"]["p50"] for level in summary["levels"]}
    decode = {level["concurrency"]: level["e2e_s"]["p50"] for level in summary["levels"]}
    assert waits[8] > 0.25 * decode[4]  # a whole answer of somebody else's, not a batch in flight
    assert waits[4] < 0.25 * waits[8]


def test_stamps_are_the_kernel_s(folder: RunFolder) -> None:
    records = list(folder.records())
    assert sum(record.stamped for record in records) >= 0.99 * sum(record.arrivals for record in records)


def test_charts_and_reports_are_made(folder: RunFolder) -> None:
    pngs = sorted(folder.path.glob("*.png"))
    assert len(pngs) >= 5
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000 for path in pngs)
    assert (folder.path / "report.html").exists()
    assert (folder.path / "report.md").exists()


def test_a_real_run_is_not_called_simulated(folder: RunFolder) -> None:
    assert "simulated" not in (folder.path / "report.md").read_text().lower()


def test_completions_are_measured_too(
    loadtest: Callable[..., tuple[int, str, str]], llamacpp_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = ["--endpoint", "completions", "--concurrency", "2", "--output-tokens", "10", "--requests", "4"]
    code, _, _ = loadtest("run", "--url", llamacpp_url, *options, "--out", out)
    assert code in (0, 3)
    records = list(RunFolder.open(out).records())
    assert {(record.dialect, record.outcome, record.output_tokens) for record in records} == {
        ("openai-completions", Outcome.OK, 10)
    }


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_written(
    loadtest: Callable[..., tuple[int, str, str]], llamacpp_url: str, tmp_path: Path
) -> None:
    code, _, err = loadtest("run", "--url", llamacpp_url, "--input-tokens", "9000", "--out", tmp_path / "run")
    assert code == 2
    assert "has a context of 4096" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_slots_are_found_and_waits_agree_with_the_engine_s_own_timings(
    slots: int, llamacpp_model: Path, tmp_path: Path, loadtest: Callable[..., tuple[int, str, str]]
) -> None:
    levels = f"1,{slots},{2 * slots}" if slots > 1 else "1,2"
    with llamacpp.serving(llamacpp_model, slots=slots) as url:
        lengths = ("--input-tokens", "60", "--output-tokens", "40", "--requests-per-stream", "6")
        code, _, said = loadtest("run", "--url", url, "--concurrency", levels, *lengths, "--out", str(tmp_path / "run"))
    assert code in (0, 3), said
    one = analyse(tmp_path / "run")
    assert (one.slots.estimate, one.slots.limit) == (slots, True), one.slots.method
    good = one.run.requests[one.run.requests["ok"]]
    # llama.cpp's headers leave when the slot starts; its own prompt time then runs until the first token.
    by_timings = (good["ttft_s"] - good["prefill_s"]).to_numpy()
    assert float(np.median(np.abs(good["queue_wait_s"].to_numpy() - by_timings))) < 0.010
