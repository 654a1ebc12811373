"""Calibration: the search against clients of known capacity, comparing with made-up truths, the file, and the command."""

from __future__ import annotations

import dataclasses
import platform
import random
import socket
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from support import made_runs

from loadtest import metrics
from loadtest.analyse.figures import client_capacity
from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.reports import tables
from loadtest.analyse.summary import analyse
from loadtest.cli import calibrate as command
from loadtest.errors import ScenarioError
from loadtest.measure import capacity_file
from loadtest.measure.calibrate import (
    CheckedLevel,
    ClientLimit,
    Errors,
    Served,
    by_nonce,
    checked,
    errors_against,
    next_streams,
)
from loadtest.measure.capacity_file import KeptCapacity
from loadtest.records import Clock, Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.simulate.model.metronome import Metronome
from loadtest.simulate.model.stream import EngineRequest
from loadtest.simulate.profiles import PROFILES
from loadtest.wire.clock import ask_for_stamps
from loadtest.workloads.nonce import nonce_of

Call = Callable[..., tuple[int, str, str]]
MS = 1_000_000
CLOCK = Clock(monotonic_ns=7_000 * MS, wall_ns=1_700_000_000_000 * MS)


# -- the server's two schedules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "together"), [("metronome", False), ("lockstep", True)])
def test_streams_tick_each_for_itself_or_all_together(profile: str, together: bool) -> None:
    engine = Metronome(PROFILES[profile].timing, seed=1)
    for number in range(20):
        engine.submit(EngineRequest(number, (), 10), now=number * 3 * MS)
    ticks = [(emission.at, emission.stream) for emission in engine.advance(1 << 62)]
    assert len(ticks) == 200
    phases = Counter(at % (20 * MS) for at, _ in ticks)
    assert (set(phases) == {0}) is together
    assert together or len(phases) == 20
    first = [at for at, stream in ticks if stream is ticks[0][1]]
    assert {after - before for before, after in pairwise(first)} == {20 * MS}


# -- the search ----------------------------------------------------------------------------------------------------------


def errors(streams: int, *, off_s: float = 0.0, late_s: float = 0.0, **changed: Any) -> Errors:
    known = {"gap_s": 0.02, "ttft_p50_s": 0.0, "ttft_p99_s": off_s, "itl_p50_s": 0.0, "itl_p99_s": off_s}
    return Errors(
        **{"streams": streams, "requests": 100, "lost": 0, "chunks_per_s": 50 * streams, "late_s": late_s}
        | known
        | changed
    )


def searched(
    client: int, server: int = 1 << 30, *, most: int = 4096, hiccups: frozenset[int] = frozenset()
) -> ClientLimit:
    """Run a whole search on a client and a server of known capacity; the i-th levels of `hiccups` are spoilt."""
    tried: list[CheckedLevel] = []
    while (streams := next_streams(tried, most)) is not None:
        off = 0.005 if streams > client or len(tried) in hiccups else 0.0
        level = errors(streams, off_s=off, late_s=0.02 if streams > server else 0.0)
        tried.append(checked(level, step_s=0.02, together=False))
        assert len(tried) < 40
    assert len(tried) <= 24
    return ClientLimit.of(tried)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 30, 49, 50, 51, 75, 99, 100, 333, 1000, 1601, 4000])
def test_the_capacity_is_found_to_an_eighth(limit: int) -> None:
    found = searched(limit)
    assert found.limit == "client"
    assert found.best is not None
    assert found.failed is not None
    best = found.best.errors.streams
    assert best <= limit < found.failed.errors.streams <= best + max(1, best // 8)
    assert "this client measures " in found.sentence(50)
    assert "at least" not in found.sentence(50)


def test_a_late_server_is_the_limit_and_the_capacity_is_at_least() -> None:
    found = searched(1000, 400)
    assert found.limit == "server"
    assert (
        found.sentence(50) == "this client measures at least 400 streams × 50 tokens/s; at 450 the server is the limit"
    )


def test_streams_never_go_past_what_was_asked_for() -> None:
    found = searched(1000, most=130)
    assert (found.limit, found.failed) == ("asked", None)
    assert found.sentence(50) == "this client measures at least 130 streams × 50 tokens/s; more were not tried"


def test_one_hiccup_is_no_limit() -> None:
    calm, shaken = searched(300), searched(300, hiccups=frozenset({0, 3}))
    assert calm.best is not None
    assert shaken.best is not None
    assert shaken.best.errors.streams == calm.best.errors.streams


def test_of_two_failures_the_last_says_whose_limit_it_is() -> None:
    good, late, off = errors(50), errors(100, off_s=0.005, late_s=0.02), errors(100, off_s=0.005)
    for last, limit in ((off, "client"), (late, "server")):
        tried = [checked(level, step_s=0.02, together=False) for level in (good, late if last is off else off, last)]
        assert ClientLimit.of(tried).limit == limit


def test_a_client_that_measures_nothing_is_said_to() -> None:
    found = searched(0)
    assert found.best is None
    assert found.sentence(50).startswith("not even one stream")


@pytest.mark.parametrize(
    ("changed", "true"),
    [
        ({}, True),
        ({"ttft_p99_s": 0.001}, True),
        ({"ttft_p99_s": 0.0011}, False),
        ({"ttft_p50_s": 0.0011}, False),
        ({"itl_p99_s": 0.0011}, False),
        ({"itl_p50_s": 0.0002}, True),
        ({"itl_p50_s": 0.00021}, False),
        ({"lost": 1}, False),
        ({"ttft_p50_s": None}, False),
    ],
)
def test_true_is_within_1_ms_and_1_percent(changed: dict[str, Any], true: bool) -> None:
    assert errors(50, **changed).true is true


def test_a_step_takes_its_time_to_be_sent() -> None:
    untrue = errors(50, off_s=0.002, late_s=0.005)
    assert not checked(untrue, step_s=0.02, together=False).on_time
    assert checked(untrue, step_s=0.02, together=True).on_time
    assert not checked(errors(50, off_s=0.002, late_s=0.011), step_s=0.02, together=True).on_time


@pytest.mark.parametrize("together", [False, True])
def test_a_true_figure_of_a_server_a_little_late_is_true(together: bool) -> None:
    assert checked(errors(50, late_s=0.005), step_s=0.02, together=together).met
    assert not checked(errors(50, late_s=0.011), step_s=0.02, together=together).met


# -- against the truth -----------------------------------------------------------------------------------------------------


def record(number: int, sent_ms: int, **changed: Any) -> Record:
    """A request of five tokens, 20 ms apart from 200 ms on, measured without error (see `truth`)."""
    chunks = [200_000 + 20_000 * i for i in range(5)]
    sent = sent_ms * MS
    plain: dict[str, Any] = {
        "id": number,
        "level": 0,
        "seed": number,
        "dialect": "ollama-chat",
        "model": "m",
        "outcome": Outcome.OK,
        "t_sched": sent,
        "t_send": sent,
        "t_first_token": sent + 200 * MS,
        "t_end": sent + 281 * MS,
        "chunks": chunks,
        "server_us": [chunk - chunks[0] for chunk in chunks],
        "server_first": CLOCK.wall_ns + sent + 200 * MS - 20_000,
    }
    return Record(**plain | changed)


def truth(number: int, sent_ms: int, *, late_us: float = 0.0) -> dict[str, Any]:
    sent = CLOCK.wall_ns + sent_ms * MS
    wall = {"arrived": sent, "first_token": sent + 200 * MS + 30_000}
    return {"prompt": f"{nonce_of(number)} The old river", "wall_ns": wall, "late_mean_us": late_us}


def test_a_true_record_has_no_error() -> None:
    served = by_nonce(truth(i, 10 * i, late_us=300) for i in range(10))
    found = errors_against(10, [record(i, 10 * i) for i in range(10)], CLOCK, served)
    assert (found.requests, found.lost, found.chunks_per_s) == (10, 0, 50)
    assert (found.ttft_p50_s, found.ttft_p99_s, found.itl_p50_s, found.itl_p99_s) == (0, 0, 0, 0)
    assert found.gap_s == pytest.approx(0.02)
    assert found.late_s == pytest.approx(0.0003)
    assert found.true


def test_errors_are_seen_one_by_one_whatever_their_sign() -> None:
    served = by_nonce(truth(i, 10 * i) for i in range(10))
    late = record(0, 0, t_first_token=203 * MS)
    early = record(1, 10, t_first_token=10 * MS + 198 * MS)
    merged = record(2, 20, chunks=[200_000, 240_000, 240_000, 260_000, 280_000])
    found = errors_against(3, [late, early, merged], CLOCK, served)
    assert found.ttft_p50_s == pytest.approx(0.00198)  # 2 ms less the 20 µs between created_at and the write's return
    assert found.ttft_p99_s == pytest.approx(0.00297, abs=3e-5)
    assert found.itl_p99_s == pytest.approx(0.02)
    assert not found.true


def test_what_was_not_answered_whole_is_lost_and_what_we_stopped_is_not() -> None:
    served = by_nonce([truth(i, 0) for i in range(5)] + [{"prompt": "", "wall_ns": {}}])
    records = [
        record(0, 0),
        record(1, 0, outcome=Outcome.TRUNCATED),
        record(2, 0, chunks=[200_000]),
        record(99, 0),
        record(3, 0, outcome=Outcome.CANCELLED),
        record(4, 0, warmup=True),
    ]
    found = errors_against(1, records, CLOCK, served)
    assert (found.requests, found.lost) == (1, 3)
    assert found.chunks_per_s == 26  # of all that came, compared or not


def test_the_first_requests_can_be_left_out() -> None:
    served = by_nonce(truth(i, i) for i in range(3))
    records = [record(2, 2), record(0, 0, t_first_token=900 * MS), record(1, 1)]
    assert errors_against(1, records, CLOCK, served, warm=1).true
    assert not errors_against(1, records, CLOCK, served).true


def test_a_request_that_the_server_never_answered_has_no_truth() -> None:
    assert Served.from_json({"prompt": "[1] x", "wall_ns": {"arrived": 1}, "late_mean_us": 0.0}) is None


def test_the_busiest_second_is_found_wherever_it_lies() -> None:
    draw = random.Random(2)
    for _ in range(20):
        bins = [draw.randint(0, 9) for _ in range(draw.randint(0, 400))]
        brute = max((sum(bins[i : i + 100]) for i in range(max(len(bins) - 99, 1))), default=0)
        assert metrics.busiest_second(bins) == brute


# -- the file --------------------------------------------------------------------------------------------------------------

FOUND = KeptCapacity(
    chunks_per_s=31_000, streams=620, tokens_per_s=50.0, limit="client", measured_at="2026-01-01T00:00:00Z"
)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "state" / "calibration.json"
    monkeypatch.setenv("LOADTEST_CALIBRATION", str(path))
    return path


def test_a_capacity_applies_to_its_driver_on_its_machine(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert capacity_file.applying("asyncio") is None
    capacity_file.check_writable(kept)
    capacity_file.store(kept, FOUND, driver="asyncio", arrivals="steps", stamps="kernel")
    capacity_file.store(kept, dataclasses.replace(FOUND, streams=2), driver="asyncio", arrivals="steps", stamps="user")
    known = capacity_file.applying("asyncio")
    assert known is not None
    assert known["arrivals"]["steps"]["kernel"] == dataclasses.asdict(FOUND)
    assert known["arrivals"]["steps"]["user"]["streams"] == 2
    assert capacity_file.applying("locust") is None
    monkeypatch.setattr(capacity_file, "usable_cores", lambda: 4711)
    assert capacity_file.applying("asyncio") is None


def test_capacities_of_other_software_are_dropped(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capacity_file.check_writable(kept)
    capacity_file.store(kept, FOUND, driver="asyncio", arrivals="steps", stamps="kernel")
    monkeypatch.setattr(capacity_file, "__version__", "another")
    capacity_file.store(kept, FOUND, driver="locust", arrivals="steps", stamps="kernel")
    assert set(orjson.loads(kept.read_bytes())["drivers"]) == {"locust"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99, "drivers": {}}', '{"schema": 1}'])
def test_a_file_that_makes_no_sense_is_as_none(kept: Path, text: str) -> None:
    capacity_file.check_writable(kept)
    kept.write_text(text)
    assert capacity_file.applying("asyncio") is None


def test_where_the_file_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOADTEST_CALIBRATION")
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert capacity_file.file_path() == Path("/somewhere/loadtest/calibration.json")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert capacity_file.file_path() == Path.home() / ".local/state/loadtest/calibration.json"


def test_a_place_that_cannot_be_written_to_is_found_before_anything_runs(tmp_path: Path, loadtest: Call) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "calibration.json"):
        code, _, err = loadtest("calibrate", "--out", path)
        assert code == 2
        assert "--out" in err
        assert err.count("\n") == 1
    with pytest.raises(ScenarioError, match="is a folder"):
        capacity_file.check_writable(tmp_path)


# -- what later runs say ---------------------------------------------------------------------------------------------------


def calibrated(chunks_per_s: int, limit: str = "client", **kinds: int) -> dict[str, Any]:
    """What run.json holds: the same for steps, and other kinds of arrivals."""
    every = {"steps": chunks_per_s, **kinds}
    one = dataclasses.asdict(FOUND) | {"limit": limit}
    return {
        "host": platform.node(),
        "arrivals": {kind: {"kernel": one | {"chunks_per_s": count}} for kind, count in every.items()},
    }


def test_a_run_says_what_share_of_the_client_it_used(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", users=(1, 4), calibration=calibrated(4000, independent=6000))
    analysis = analyse(tmp_path / "run")
    shares = []
    for level in analysis.summary["levels"]:
        client = level["client"]
        assert client["capacity"] == {
            "chunks_per_s": 4000.0,
            "arrivals": "steps",
            "at_least": False,
            "measured_at": FOUND.measured_at,
        }
        assert client["capacity_share"] == client["busiest_chunks_per_s"] / 4000
        shares.append(client["capacity_share"])
        assert not any("calibrate" in reason for reason in level["reasons"])
    assert 0 < shares[0] < shares[1] < 1
    label = analysis.summary["levels"][1]["label"]
    said = next(finding for finding in all_findings(analysis) if "this client can measure" in finding)
    assert said.startswith(
        f"{label} used {client_capacity.capacity_cell(analysis.summary['levels'][1]['client'])} of what"
    )
    grid = tables.client_table(analysis.summary)
    assert [row[grid.heads.index("of what it can measure")] for row in grid.rows] == [
        client_capacity.capacity_cell(level["client"]) for level in analysis.summary["levels"]
    ]


def test_a_run_past_the_capacity_is_suspect(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", users=(4,), calibration=calibrated(100))
    analysis = analyse(tmp_path / "run")
    (level,) = analysis.summary["levels"]
    assert level["verdict"] == "suspect"
    assert any("that this client measures truthfully" in reason for reason in level["reasons"])


def test_past_what_the_server_could_offer_nothing_is_known(tmp_path: Path) -> None:
    made_runs.make(tmp_path / "run", users=(4,), calibration=calibrated(100, "server"))
    analysis = analyse(tmp_path / "run")
    (level,) = analysis.summary["levels"]
    assert level["verdict"] == "valid"
    assert any("beyond what the calibration of this client could offer" in said for said in all_findings(analysis))


ONLY_USER = {"host": platform.node(), "arrivals": {"steps": {"user": dataclasses.asdict(FOUND)}}}


@pytest.mark.parametrize(
    "facts", [{}, {"calibration": ONLY_USER}, {"calibration": calibrated(100) | {"host": "elsewhere"}}]
)
def test_never_calibrated_says_nothing(tmp_path: Path, facts: dict[str, Any]) -> None:
    made_runs.make(tmp_path / "run", users=(1,), **facts)
    analysis = analyse(tmp_path / "run")
    assert set(analysis.summary["levels"][0]["client"]) == {"lag_s", "schedule_lag_s", "cpu", "stamps"}
    assert "of what it can measure" not in tables.client_table(analysis.summary).heads
    assert not any("client can measure" in said for said in all_findings(analysis))


def test_the_busiest_second_is_that_of_one_process(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run")
    for worker, streams in enumerate((3, 2)):
        writer = folder.record_writer(CLOCK, worker=str(worker))
        for i in range(streams):
            writer.write(record(10 * worker + i, 5 * i, outcome=Outcome.TRUNCATED if i else Outcome.OK))
        writer.close()
    folder.write_run({"levels": []})
    run = analyse(tmp_path / "run").run
    assert client_capacity.peak_events(run, 0) == 15
    assert client_capacity.peak_events(run, 1) == 0


# -- the command -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short levels on which every figure is true enough: what is tested is not this machine."""
    monkeypatch.setattr(metrics, "TRUE_WITHIN_S", 60.0)
    monkeypatch.setattr(metrics, "TRUE_WITHIN_SHARE", 1e6)
    monkeypatch.setattr(command, "OUTPUT_TOKENS", 5)
    monkeypatch.setattr(command, "LOCUST_S", 2)


@pytest.mark.usefixtures("lenient")
def test_both_kinds_of_arrivals_are_measured_and_kept_for_later_runs(
    kept: Path, tmp_path: Path, loadtest: Call, simulated_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loadtest.measure.calibrate.FIRST", 2)
    monkeypatch.setattr("loadtest.measure.calibrate.LATE_STEPS", 1e6)
    code, out, err = loadtest("calibrate", "--streams-most", "3")
    assert code == 0, err
    assert "simulated" in out
    assert "  2 streams, " in err
    assert "  3 streams, " in err
    assert "this client measures at least 3 streams" in err
    drivers = orjson.loads(kept.read_bytes())["drivers"]
    for kind in ("independent", "steps"):
        known = drivers["asyncio"][kind]["kernel"]
        assert (known["streams"], known["limit"]) == (3, "asked")
        assert known["chunks_per_s"] >= 15  # the last round's three answers of five tokens lie within a second
    ordinary = ("--url", simulated_url, "--concurrency", "1", "--requests", "2", "--output-tokens", "5")
    code, out, err = loadtest("run", *ordinary, "--out", tmp_path / "run")
    assert code in (0, 3), err
    assert RunFolder.open(tmp_path / "run").read_run()["calibration"]["arrivals"] == drivers["asyncio"]


@pytest.mark.usefixtures("lenient")
def test_the_locust_users_are_calibrated_too(kept: Path, loadtest: Call) -> None:
    asked = ("--driver", "locust", "--arrivals", "independent", "--stamps", "user", "--streams-most", "2")
    code, out, err = loadtest("calibrate", *asked)
    assert code == 0, err
    assert "locust driver can measure here, user stamps" in out
    known = orjson.loads(kept.read_bytes())["drivers"]["locust"]["independent"]
    assert set(known) == {"user"}
    assert known["user"]["streams"] == 2


def test_kinds_of_arrivals_are_named_right(loadtest: Call) -> None:
    code, _, err = loadtest("calibrate", "--arrivals", "waves")
    assert code == 2
    assert "independent or steps" in err


def test_kernel_stamps_can_be_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_STAMPS", "user")
    with socket.socket() as sock:
        assert not ask_for_stamps(sock)
