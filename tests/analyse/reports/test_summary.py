"""summary.json: its keys, its truths on made runs, and reasons beside what is unknown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.made_runs import Made, grid, make, unanswered, write
from support.virtual_runs import Load, play

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports import run_table
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.summary import analyse
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing

PERCENTILES = ("p5", "p50", "p90", "p95", "p99")
DESCRIBED = {"n", "mean", "max", "ci95_mean", *PERCENTILES, *(f"ci95_{name}" for name in PERCENTILES)}
PER_LEVEL = (
    "ttft_s",
    "ttft_sched_s",
    "itl_s",
    "tpot_s",
    "e2e_s",
    "stream_tokens_per_s",
    "e2e_tokens_per_s",
    "queue_wait_s",
    "slot_wait_s",
    "batch_wait_s",
    "prefill_s",
    "stall_s",
    "delivery_delay_s",
)


@pytest.fixture
def summary(tmp_path: Path) -> dict[str, Any]:
    make(tmp_path / "run", Made(), users=(1, 2, 4, 8))
    return analyse(tmp_path / "run").summary


def test_every_key_is_there_and_all_of_it_is_json(summary: dict[str, Any]) -> None:
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {"schema", "server", "slots", "step_law", "levels", "verdict", "simulated"} <= summary.keys()
    assert {"base_s", "per_stream_s", "fits", "reason", "times", "prefill"} <= summary["step_law"].keys()
    for level in summary["levels"]:
        for name in PER_LEVEL:
            assert set(level[name]) == DESCRIBED, name
        assert {"lag_s", "schedule_lag_s", "schedule_lag_p99_s", "cpu", "stamps"} == level["client"].keys()


def test_figures_of_a_made_server(summary: dict[str, Any]) -> None:
    told = {key: summary["slots"][key] for key in ("estimate", "ci", "limit", "agree")}
    assert told == {"estimate": 4, "ci": [4, 4], "limit": True, "agree": True}
    assert summary["step_law"]["base_s"] == pytest.approx(0.010, rel=0.01)  # the same for any number of streams
    assert summary["step_law"]["per_stream_s"] == pytest.approx(0.0, abs=1e-5)
    assert [level["concurrency"] for level in summary["levels"]] == [1, 2, 4, 8]
    assert [level["requests"] for level in summary["levels"]] == [8, 16, 32, 64]
    assert [level["warmup_requests"] for level in summary["levels"]] == [1, 2, 4, 8]
    assert [level["peak_decoding"] for level in summary["levels"]] == [1, 2, 4, 4]
    assert summary["levels"][0]["label"] == "1 stream · 100 in · 20 out"
    eight = summary["levels"][3]
    # Of 8 users 4 wait for one answer (50 ms prefill + 190 ms), less the 2.1 ms between two of their requests.
    assert eight["slot_wait_s"]["p50"] == pytest.approx(0.2379, abs=1e-6)
    assert eight["ttft_s"]["p50"] == pytest.approx(0.2899, abs=1e-6)
    assert eight["wait_source"] == "server"
    assert eight["window"]["throughput_over"] == "steady window"
    assert eight["output_tokens_per_s"] == pytest.approx(4 * 20 / 0.240, rel=0.001)
    assert eight["input_tokens_per_s"] == pytest.approx(4 * 100 / 0.240, rel=0.001)
    assert eight["requests_per_s"] == pytest.approx(4 / 0.240, rel=0.001)
    assert eight["tokens"] == {
        "prompt": 6400,
        "output": 1280,
        "asked": 1280,
        "achieved": 1.0,
        "partial": 0,
        "source": "server",
    }
    assert eight["client"]["stamps"] == "kernel"


def test_one_request_a_user_gives_throughput_over_the_whole_level(tmp_path: Path) -> None:
    """As the published tables were measured."""
    levels, truth = grid(Made(), (4,), each=1)
    records = [dataclasses.replace(record, warmup=False) for record in truth.records[:4]]
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    assert level["window"]["throughput_over"] == "whole level"
    assert level["output_tokens_per_s"] == pytest.approx(80 / 0.2421)
    assert level["output_tokens_per_s_ci95"] is None


def test_chunks_are_not_tokens(tmp_path: Path) -> None:
    """A server that sends two tokens a chunk is as fast as its tokens."""
    levels, truth = grid(Made(), (8,))
    records = [
        dataclasses.replace(record, output_tokens=40, asked=40, token_source="server") for record in truth.records
    ]
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    assert level["output_tokens_per_s"] == pytest.approx(4 * 40 / 0.240, rel=0.001)
    assert level["tpot_s"]["p50"] == pytest.approx(0.190 / 39, abs=1e-6)
    assert level["itl_s"]["p50"] == pytest.approx(0.010, abs=1e-6)


def test_what_a_server_does_not_say_is_null_with_a_reason(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (8,))
    records = [dataclasses.replace(r, server=None, server_us=None, server_first=None) for r in truth.records]
    level = analyse(write(tmp_path / "run", records, levels)).summary["levels"][0]
    for name in ("queue_wait_s", "batch_wait_s", "prefill_s", "delivery_delay_s"):
        assert level[name] is None
        assert "server does not" in level[f"{name}_reason"]
    assert level["ttft_s"]["n"] == 64
    assert level["slot_wait_s"]["p50"] == pytest.approx(0.239, abs=0.003)
    assert level["wait_source"] == "inferred"  # from slots and earlier ends


def test_partial_tokens_of_failed_requests_are_counted_apart(tmp_path: Path) -> None:
    levels, truth = grid(Made(), (4,))
    records = [
        dataclasses.replace(r, outcome=Outcome.TRUNCATED, output_tokens=7) if r.id in {10, 11} else r
        for r in truth.records
    ]
    level = analyse(write(tmp_path / "run", records, levels)).levels[0]
    assert level["outcomes"] == {"ok": 30, "truncated": 2}
    assert level.failed == 2
    assert level["tokens"]["partial"] == 14
    assert level["tokens"]["output"] == 600
    assert level["ttft_s"]["n"] == 30


def test_a_run_without_a_request_is_void(tmp_path: Path) -> None:
    summary = analyse(write(tmp_path / "run", [], [])).summary
    assert (summary["verdict"], summary["levels"]) == ("void", [])


def test_queue_wait_is_that_of_the_timings_where_a_proxy_sends_headers_early(tmp_path: Path) -> None:
    timing = Timing(step=StepLaw(0.010, 0.002), prefill_s=0.001)
    played = play(timing, [Load(users=4, requests=24)], slots=2, says="llamacpp")
    direct = analyse(played.write(tmp_path / "direct")).summary["levels"][0]["queue_wait_s"]["mean"]
    played.records[:] = [
        dataclasses.replace(record, t_headers=(record.t_send or 0) + 1_000_000) for record in played.records
    ]
    behind = analyse(played.write(tmp_path / "proxy")).summary["levels"][0]["queue_wait_s"]["mean"]
    assert direct > 0.3
    assert behind == pytest.approx(direct, abs=0.002)


def test_the_knee_and_little_s_law_stand_in_it(summary: dict[str, Any]) -> None:
    (knee,) = summary["knee"]
    assert (knee["label"], knee["concurrency"], knee["ci95"][1]) == ("100 in · 20 out", 4, 4)
    eight = summary["levels"][3]["little"]
    assert eight["holds"]
    assert eight["in_flight"] == pytest.approx(8, rel=0.05)


def test_what_a_server_says_is_not_said_to_be_missing_where_nothing_ended_well(tmp_path: Path) -> None:
    """Was "this server does not say how long requests wait" of an Ollama, in a level whose requests all failed."""
    levels, truth = grid(Made(), (4,))
    failed = [unanswered(record, Outcome.HTTP_ERROR, status=500, error="busy") for record in truth.records]
    (level,) = analyse(write(tmp_path / "run", failed, levels)).summary["levels"]
    reasons = {level[f"{name}_reason"] for name in ("queue_wait_s", "load_s", "prefill_s", "server_itl_s", "ttft_s")}
    assert reasons == {"no request of this level ended well"}


def test_lengths_of_void_levels_are_not_quoted(tmp_path: Path) -> None:
    """Was "Answers: … at most 500 tokens" with those of a void level among them."""
    levels, truth = grid(Made(), (2, 4))
    levels = [level | {"output_lengths": "10..30"} for level in levels]
    levels[1]["stopped"] = "stopped after 20 errors"
    records = [dataclasses.replace(one, output_tokens=500) if one.level else one for one in truth.records]
    said = all_findings(analyse(write(tmp_path / "run", records, levels)))
    assert "Answers: 10..30 asked; median 20, at most 20 tokens." in said


def test_how_the_load_came_holds_with_pauses_and_with_requests_that_were_not_sent() -> None:
    """Was "when its last answer had ended" of users who think, and "were sent when they were due" of requests held back."""
    assert run_table._loop([LevelData(concurrency=4)]).endswith("sent its next request after its last answer had ended")
    assert "request a think time after its last" in run_table._loop([LevelData(concurrency=4, thinks=True)])
    assert (
        run_table._loop([LevelData(rate=4)])
        == "open loop: requests were due by the clock, however many were unanswered"
    )
