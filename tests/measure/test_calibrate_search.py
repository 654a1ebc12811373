"""Calibration's search against clients of known capacity, and its errors against made-up truths."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadtest import metrics
from loadtest.analyse.figures import client_capacity
from loadtest.analyse.summary import analyse
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
from loadtest.records import Clock, Outcome, Record
from loadtest.run_folder import RunFolder
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.stream import EngineRequest
from loadtest.simulate.profiles import PROFILES
from loadtest.workloads.source import nonce_of

MS = 1_000_000
CLOCK = Clock(monotonic_ns=7_000 * MS, wall_ns=1_700_000_000_000 * MS)


# -- the server's two schedules ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("profile", "together"), [("metronome", False), ("lockstep", True)])
def test_streams_tick_each_for_itself_or_all_together(profile: str, together: bool) -> None:
    engine = Engine(PROFILES[profile].timing, slots=None, seed=1, loaded=4096)
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
