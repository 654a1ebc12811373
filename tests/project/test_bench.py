"""The comparison's own parts: a server in C that keeps a schedule and says what it did, and the table made of that.

How clients fare is measured by `scripts/bench peers`; here only that what they are held against is right.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.places import BENCHMARKS, ROOT, TESTS

PEERS = TESTS / "peers"
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of scripts/benchmarks by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        made: dict[str, Path] = importlib.import_module("rig").build(tmp_path_factory.mktemp("c"), "source", "floor")
    finally:
        sys.path.remove(str(BENCHMARKS))
    return made


def ran(bench: Any, programs: dict[str, Path], folder: Path, client: str, **work: Any) -> tuple[Any, Any, Any]:
    """Run one client; return (work, what it saw, the truth)."""
    rig, clients = bench("rig"), bench("clients")
    asked = rig.Work(**{"streams": 5, "requests": 2, "tokens": 6, "tokens_per_s": 50.0, **work})
    with rig.source(programs["source"], asked, folder) as server:
        run = clients.Run(asked, server.url, folder, programs)
        command = [str(part) for part in clients.CLIENTS[client].command(run)]
        meter = rig.metered(command, limit_s=60, stdin=asked.wire() if client == "floor" else b"")
    truth = server.truth()
    return asked, clients.CLIENTS[client].read(run, meter, truth), truth


@needs_compiler
@pytest.mark.parametrize("api", ["openai", "ollama"])
def test_the_source_serves_every_request_whole_and_says_when(
    bench: Any, programs: dict[str, Path], tmp_path: Path, api: str
) -> None:
    work, seen, truth = ran(bench, programs, tmp_path, "floor", api=api)
    assert (seen.ok, seen.lost) == (10, 0)
    assert len(truth.rows) == work.total
    assert truth.chunks == work.total * work.tokens
    assert {row["prompt"] for row in truth.rows} == {f"[{i:012d}]" for i in range(10)}
    for row in truth.rows:
        at = row["monotonic_ns"]
        assert at["arrived"] < at["first_due"] <= at["first_token"] < at["last_token"] <= at["end"]
        assert at["last_token"] >= at["first_due"] + 5 * 20_000_000  # late it may be, never early
        assert len(row["chunks_us"]) == work.tokens
    assert len(seen.ttft) == work.total


@needs_compiler
@pytest.mark.parametrize("steps", [True, False])
def test_in_steps_all_streams_share_one_grid(
    bench: Any, programs: dict[str, Path], tmp_path: Path, *, steps: bool
) -> None:
    _, _, truth = ran(bench, programs, tmp_path, "floor", steps=steps)
    phases = {row["monotonic_ns"]["first_due"] % 20_000_000 for row in truth.rows}
    assert phases == {0} if steps else len(phases) == len(truth.rows)


@needs_compiler
@pytest.mark.parametrize("client", ["asyncio", "wire", "wire-gevent"])
def test_what_this_project_saw_is_read_back_whole(
    bench: Any, programs: dict[str, Path], tmp_path: Path, client: str
) -> None:
    work, seen, truth = ran(bench, programs, tmp_path, client)
    assert (seen.ok, seen.lost) == (work.total, 0)
    assert len(seen.ttft) == work.total
    assert len(seen.gaps) == work.total * (work.tokens - 1)
    assert seen.done_ns >= truth.started_ns


def test_a_row_holds_a_client_against_the_truth(bench: Any) -> None:
    peers, rig, clients = bench("peers"), bench("rig"), bench("clients")
    at = [{"arrived": 0, "first_token": 200_000_000, "last_token": 240_000_000, "end": 240_000_000}]
    rows = [{"monotonic_ns": at[0], "chunks_us": [0, 20_000, 40_000], "late_max_us": 30.0, "output_tokens": 3}]
    truth = rig.Truth(rows, chunks=3)
    meter = rig.Meter(np.array([0.0, 480e6]), np.array([0.0, 0.6]), 50.0, "", 0)
    seen = clients.Seen(1, 0, np.array([203.0]), np.array([20.0, 21.0]), done_ns=240e6)
    row = peers.row_of("x", rig.Work(1), seen, truth, meter, floor_us=50_000.0)
    assert row.ttft_p50 == pytest.approx(3.0)
    assert row.itl_p50 == pytest.approx(0.5)
    assert row.cpu_us == pytest.approx(0.3 / 3 * 1e6)  # of the time that it streamed, interpolated
    assert row.ratio == pytest.approx(2.0)
    blind = clients.Seen(1, 0, np.array([203.0]), np.array([]), done_ns=240e6)
    assert math.isnan(peers.row_of("x", rig.Work(1), blind, truth, meter, None).itl_p99)


def test_the_events_of_mlperfs_client_are_read_with_and_without_chunks(bench: Any, tmp_path: Path) -> None:
    mlperf, rig, clients = bench("mlperf"), bench("rig"), bench("clients")
    run = clients.Run(rig.Work(3), "http://h", tmp_path, {})
    run.out.mkdir()
    events = [("", "session.started", 0)]
    events += [("a", "sample.issued", 1_000_000), ("b", "sample.issued", 2_000_000), ("c", "sample.issued", 2_000_000)]
    events += [("a", "sample.recv_first", 4_000_000), ("a", "sample.recv_non_first", 6_500_000)]
    events += [("b", "sample.recv_first", 7_000_000), ("a", "sample.complete", 8_000_000)]
    events += [
        ("b", "sample.complete", 9_000_000),
        ("c", "error.generic", 9_000_000),
        ("c", "sample.complete", 9_500_000),
    ]
    lines = [json.dumps({"sample_uuid": who, "event_type": kind, "timestamp_ns": at}) for who, kind, at in events]
    (run.out / "events.jsonl").write_text("\n".join(lines))
    seen = mlperf._read(run, None, None)
    assert (seen.ok, seen.lost, seen.done_ns) == (2, 1, 9e6)
    assert seen.ttft.tolist() == [3.0, 5.0]
    assert seen.gaps.tolist() == [2.5]


def test_mlperfs_client_is_found_in_a_checkout_or_missed_in_one_sentence(bench: Any, tmp_path: Path) -> None:
    mlperf = bench("mlperf")
    with pytest.raises(SystemExit, match="run `uv sync` in the checkout first"):
        mlperf.program_of(tmp_path)
    program = tmp_path / ".venv/bin/inference-endpoint"
    program.parent.mkdir(parents=True)
    program.touch()
    assert mlperf.program_of(tmp_path) == program
    assert set(mlperf.clients(tmp_path)) == {"mlperf", "mlperf-chunks"}


def recorded(bench: Any, client: str, folder: Path) -> Any:
    """Read what a tool left of three requests of four tokens, the second answered with 500 (recorded, texts left out)."""
    rig, clients = bench("rig"), bench("clients")
    return clients.CLIENTS[client].read(clients.Run(rig.Work(3, tokens=4), "http://h", folder, {}), None, None)


def test_the_database_of_evalscope_is_read(bench: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out/llama3.2_1b/parallel_1_number_3"
    folder.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "benchmark_data.db")) as database:
        database.executescript((PEERS / "evalscope.sql").read_text())
    seen = recorded(bench, "evalscope", tmp_path)
    assert (seen.ok, seen.lost) == (2, 1)
    assert seen.ttft.tolist() == pytest.approx([267.935888, 191.411209])
    assert seen.gaps.tolist() == pytest.approx([27.756962, 12.005279, 36.060655, 12.208992, 27.665686, 12.084057])
    assert seen.done_ns == pytest.approx(69932_936_378_707)


def test_the_result_of_vllms_bench_is_read(bench: Any, tmp_path: Path) -> None:
    shutil.copy(PEERS / "vllm.json", tmp_path / "out.json")
    seen = recorded(bench, "vllm", tmp_path)
    assert (seen.ok, seen.lost) == (2, 1)
    assert seen.ttft.tolist() == pytest.approx([224.860107, 190.035492])
    assert seen.gaps.tolist() == pytest.approx([27.342315, 16.142494, 16.480086, 22.242518, 17.413846, 22.584577])
    assert seen.done_ns == pytest.approx(70502_540_538_533)


def test_the_result_of_vllms_bench_in_rust_is_read_without_its_clock(bench: Any, tmp_path: Path) -> None:
    shutil.copy(PEERS / "vllm-rust.json", tmp_path / "out.json")
    seen = recorded(bench, "vllm-rust", tmp_path)
    assert (seen.ok, seen.lost, seen.done_ns) == (2, 1, None)
    assert seen.ttft.tolist() == pytest.approx([180.487498, 216.856922])
    last = [0.082874, 0.031477]  # it counts the empty chunk at the end
    assert seen.gaps.tolist() == pytest.approx(
        [20.048866, 23.10458, 16.793042, last[0], 19.898542, 19.966663, 20.034353, last[1]]
    )


def test_the_other_load_testers_speak_only_openai(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench("peers").parse(["evalscope", "--api", "ollama"])
    assert "speak only --api openai" in capsys.readouterr().err


def test_a_chart_is_drawn_of_the_table_in_a_page(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = BENCHMARKS.parent.parent / "docs/other-tools.md"
    found = bench("peers_table").read(page.read_text())
    assert list(found) == ["300 streams"]
    clients = [row.client for row in found["300 streams"]]
    assert set(clients) < {one.label for one in bench("clients").CLIENTS.values()}
    row = found["300 streams"][clients.index("vllm bench serve")]
    assert (row.ttft_p50, row.ttft_p99, row.cpu_us, row.ratio) == (205.88, 210.14, 49.4, 7.21)
    assert math.isnan(found["300 streams"][0].itl_p50)
    with pytest.raises(SystemExit):
        bench("peers").parse(["--from", str(page)])
    assert "give --plot FILE" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("cases", "--list"), ("bench", "--help"), ("bench", "slots", "1")], ids=" ".join)
def test_a_script_whose_reader_went_away_says_nothing_of_it(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, str(ROOT / "scripts" / words[0]), *words[1:]]
    env = {**os.environ, "LOADTEST_BENCH_HERE": "1"}
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=env, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
