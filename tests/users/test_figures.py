"""The figures that users of Locust see: those of the report, however many processes measured them."""

from __future__ import annotations

import dataclasses
import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_runs import MS, WALL, Made, closed_loop, recorded

from loadtest.analyse.run import frames
from loadtest.analyse.summary import analyse
from loadtest.records import Outcome, Record
from loadtest.run_folder import RunFolder

with pytest.MonkeyPatch.context() as patch:  # Locust would patch sockets and threads under the other tests
    patch.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    from loadtest.live import Figures, durations_of
    from loadtest.users.processes.recording import InFlight
    from loadtest.users.results.live_figures import HISTORY_S, TOTAL_ROW, Board

ZERO = WALL / 1e9  # wall time that the records count from
HALF_BUCKET = 1 / 256


def streams(count: int = 24, made: Made | None = None) -> list[Record]:
    """Measured requests of eight users on a made-up server."""
    part = closed_loop(made or Made(), level=0, users=8, requests=count, start_ns=0)
    return [record for record in part.records if not record.warmup]


def board_of(records: list[Record], name: str = "chat") -> Board:
    board = Board()
    for record in records:
        board.add(name, record, ZERO)
    return board


def sent(delta: dict[str, Any]) -> dict[str, Any]:
    """Through the wire and back."""
    result: dict[str, Any] = json.loads(json.dumps(delta))
    return result


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["ollama-0.33-mid-slots4-c8", "ollama-0.24-tiny-slots4-c8-mixed"])
def test_merged_deltas_of_a_real_run_give_the_figures_of_the_report(tmp_path: Path, name: str, seed: int) -> None:
    folder = recorded(tmp_path / "run", [name])
    rng, master = random.Random(seed), Board()
    workers = {f"w{n}": Board() for n in range(rng.randint(2, 5))}
    for record in RunFolder.open(folder).records():
        worker, board = rng.choice(list(workers.items()))
        board.add("chat", record, ZERO)
        if rng.random() < 0.3:
            master.merge(sent(board.take_delta()), worker)
    for worker, board in workers.items():
        master.merge(sent(board.take_delta()), worker)
    run = frames.load(folder)
    good, figures = run.good(0), master.total()
    assert figures.ok == good.sum() > 10
    for column, histogram in figures.histograms.items():
        exact = run.itl.of(good) if column == "itl_s" else run.column(column)[good]
        exact = exact[np.isfinite(exact)]
        assert histogram.count == len(exact), column
        for share in (0.5, 0.95, 0.99):
            expected = pytest.approx(np.quantile(exact, share), rel=HALF_BUCKET, abs=1e-6)
            assert histogram.percentile(share) == expected, column
    tokens, ended = run.column("output_tokens")[good], run.column("end")[good]
    rate = tokens.sum() / (ended.max() - run.column("send")[good].min())
    assert figures.output_tokens_per_s == pytest.approx(rate, rel=1e-4)


def test_a_row_has_every_figure_in_seconds_and_the_last_one_is_the_total() -> None:
    board = board_of(streams(), "a")
    board.add("b", streams(1)[0], ZERO)
    board.live = lambda: {"a": (1, 2), "b": (2, 0)}
    a, b, total = board.rows()
    assert [a["name"], b["name"], total["name"]] == ["a", "b", TOTAL_ROW]
    assert total["requests"] == a["requests"] + b["requests"] == 25
    assert (total["decoding"], total["waiting"]) == (3, 2)
    assert [(a["decoding"], a["waiting"]), (b["decoding"], b["waiting"])] == [(1, 2), (2, 0)]
    assert a["itl_p50"] == pytest.approx(0.010, rel=HALF_BUCKET)
    assert a["tpot_p50"] == pytest.approx(0.010, rel=HALF_BUCKET)
    assert a["stream_tokens_per_s_p50"] == pytest.approx(100, rel=HALF_BUCKET)
    assert a["queue_wait_p50"] == pytest.approx(0.24, rel=0.05)  # half the users wait for one whole answer
    assert a["ttft_p95"] is not None
    assert (a["verdict"], a["reasons"]) == ("valid", [])


def test_percentiles_of_too_few_requests_stay_empty() -> None:
    (row, _) = board_of(streams(19)).rows()
    assert row["ttft_p50"] is not None
    assert row["ttft_p95"] is None
    assert row["ttft_p99"] is None
    assert row["itl_p99"] is not None  # of all gaps


def test_failures_warm_up_and_cancelled_requests_are_counted_apart() -> None:
    ok, *others = streams(8)
    changes: list[dict[str, Any]] = [
        {"outcome": Outcome.HTTP_ERROR},
        {"outcome": Outcome.TRUNCATED},
        {"outcome": Outcome.TRUNCATED},
        {"outcome": Outcome.CANCELLED},
        {"warmup": True},
        {"warmup": True, "outcome": Outcome.CONNECT_ERROR, "t_send": None, "t_first_token": None, "chunks": []},
        {"warmup": True, "outcome": Outcome.CANCELLED},
    ]
    changed = [dataclasses.replace(record, **change) for record, change in zip(others, changes, strict=True)]
    board = board_of([ok, *changed])
    figures, (row, _) = board.total(), board.rows()
    assert figures.outcomes == Counter(ok=1, http_error=1, truncated=2)
    assert {name: row[name] for name in ("requests", "failures", "cancelled", "warmup")} == {
        "requests": 4,
        "failures": 3,
        "cancelled": 2,
        "warmup": 2,
    }
    assert figures.histograms["ttft_s"].count == 1
    assert row["output_tokens"] == ok.output_tokens


def test_queue_wait_is_known_only_where_the_server_says_enough(tmp_path: Path) -> None:
    from support.made_runs import write

    record = streams(1)[0]
    assert record.t_send is not None
    silent = dataclasses.replace(record, server={"usage": {"completion_tokens": 20}})
    assert "queue_wait_s" not in dict(durations_of(silent))
    headers = dataclasses.replace(record, server={"timings": {"prompt_ms": 1}}, t_headers=record.t_send + 7 * MS)
    assert dict(durations_of(headers))["queue_wait_s"] == pytest.approx(0.007)
    odd = dataclasses.replace(record, server={**(record.server or {}), "prompt_eval_duration": 10**12})
    assert dict(durations_of(odd))["queue_wait_s"] == 0.0
    headless = dataclasses.replace(headers, t_headers=None)
    twice = dataclasses.replace(headers, t_send=record.t_send - 5 * MS, resent=record.t_send)
    assert dict(durations_of(twice))["queue_wait_s"] == pytest.approx(0.007)
    both = [dataclasses.replace(one, id=number) for number, one in enumerate((twice, silent, headers, odd, headless))]
    reported = frames.load(write(tmp_path / "run", both, [])).column("queue_wait_s")
    live = [dict(durations_of(one)).get("queue_wait_s", np.nan) for one in both]
    assert live == pytest.approx(reported.tolist(), nan_ok=True)
    assert np.isnan(live).tolist() == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "valid"),
        ({"late": 1}, "void"),
        ({"schedule": 4}, "suspect"),
        ({"schedule": 6}, "void"),
        ({"schedule": 30, "only": 1}, "suspect"),  # one of few proves little
        ({"late": 1, "only": 1}, "valid"),
        ({"late": 2, "only": 1}, "valid"),
        ({"late": 4, "only": 1}, "suspect"),
        ({"late": 6, "only": 1}, "void"),
        ({"late": 1, "late_tokens": 0, "late_gaps": 0}, "valid"),
        ({"late": 1, "late_tokens": 1, "late_gaps": 2}, "void"),
        ({"late": 1, "late_tokens": 2, "late_gaps": 3, "only": 1}, "valid"),
        ({"late": 1, "late_tokens": 9, "late_gaps": 10, "only": 1}, "suspect"),
        ({"stamped": 0, "lag_us": 1000}, "valid"),
        ({"stamped": 0, "lag_us": 4000}, "suspect"),
        ({"stamped": 0, "lag_us": 9000}, "void"),
        ({"lag_us": 9000}, "valid"),  # kernel stamps stay true
        ({"first_coalesced": True, "server_us": None}, "suspect"),
        ({"first_coalesced": True, "server_us": [0, 900, 2000]}, "valid"),
        ({"first_coalesced": True, "server_us": None, "arrivals": 2}, "suspect"),
        (
            {"chunks": [900_000 + n for n in range(20)], "server": {"eval_count": 20, "eval_duration": 8 * 10**8}},
            "suspect",
        ),
        ({"chunks": [900_000 + n for n in range(20)], "server": {}}, "suspect"),
        ({"chunks": [900_000 + 500 * n for n in range(20)], "server": {}}, "valid"),  # models do write so fast
        (
            {
                "chunks": [900_000 + n for n in range(20)],
                "server": {"eval_count": 20, "eval_duration": 8 * 10**8},
                "late": 2,
                "late_tokens": 19,
                "late_gaps": 19,
            },
            "suspect",  # whose gaps are nobody's
        ),
        ({"outcome": Outcome.TRUNCATED, "only": 7}, "suspect"),
        ({"outcome": Outcome.TRUNCATED, "only": 20}, "void"),
        ({"outcome": Outcome.CLIENT_ERROR, "only": 1}, "void"),
    ],
)
def test_the_verdict_is_that_of_the_report(tmp_path: Path, change: dict[str, Any], verdict: str) -> None:
    from support.made_runs import write

    later, only = change.get("schedule", 0), change.get("only", 24)
    fields = {name: value for name, value in change.items() if name not in ("schedule", "only")}
    records = [dataclasses.replace(r, t_sched=r.t_sched - later * MS, **fields) for r in streams()]
    if chunks := change.get("chunks"):
        records = [dataclasses.replace(r, t_first_token=(r.t_send or 0) + chunks[0] * 1000) for r in records]
    records[only:] = streams()[only:]
    (row, _) = board_of(records).rows()
    level = analyse(write(tmp_path / "run", records, [])).summary["levels"][0]
    assert (row["verdict"], row["reasons"]) == (level["verdict"], level["reasons"])  # in the same words
    assert row["verdict"] == verdict
    assert bool(row["reasons"]) == (verdict != "valid")


def test_pieces_are_held_against_the_reads_that_brought_them(tmp_path: Path) -> None:
    from support.made_runs import write

    buffered: dict[str, Any] = {"first_coalesced": True, "server_us": None, "reads": 1}
    records = [dataclasses.replace(r, **buffered, arrivals=len(r.chunks)) for r in streams()]
    (row, _) = board_of(records).rows()
    level = analyse(write(tmp_path / "run", records, [])).summary["levels"][0]
    for reasons in (row["reasons"], level["reasons"]):
        assert f"{len(records[0].chunks)} pieces of an answer came in one read on average" in " ".join(reasons)


def test_no_figures_no_verdict_and_nothing_but_failures_is_void(tmp_path: Path) -> None:
    from support.made_runs import write

    assert Board().rows()[0]["verdict"] is None
    failed = [dataclasses.replace(record, outcome=Outcome.TIMEOUT) for record in streams(2)]
    (row, _) = board_of(failed).rows()
    level = analyse(write(tmp_path / "run", failed, [])).summary["levels"][0]
    assert (row["verdict"], row["reasons"]) == (level["verdict"], level["reasons"])
    assert row["verdict"] == "void"


def test_tokens_of_users_who_left_came_in_the_time_of_users_who_left() -> None:
    """Of users of whom nearly all hung up the table said 2,723 tokens/s, and the report 176."""
    records = streams()
    left = [dataclasses.replace(record, outcome=Outcome.LEFT) for record in records[1:]]
    stayed, gone = board_of(records).total(), board_of([records[0], *left]).total()
    assert gone.output_tokens_per_s == stayed.output_tokens_per_s
    only_left = board_of(left).total()
    assert Figures.from_json(json.loads(json.dumps(only_left.to_json()))).output_tokens_per_s is not None


def test_figures_survive_json_when_empty_and_when_full() -> None:
    for figures in (Figures(), board_of(streams()).total()):
        assert Figures.from_json(json.loads(json.dumps(figures.to_json()))).row("x") == figures.row("x")


def test_a_delta_holds_only_what_is_new() -> None:
    records, board, master = streams(), Board(), Board()
    for record in records:
        board.add("chat", record, ZERO)
        master.merge(sent(board.take_delta()), "w")
    assert master.rows() == board_of(records).rows()
    assert board.take_delta()["names"] == {}


def test_a_reset_drops_reports_that_were_on_their_way() -> None:
    worker, master = board_of(streams()), Board()
    worker.generation = 1
    master.reset(2)
    master.merge(sent(worker.take_delta()), "w")
    assert master.rows()[-1]["requests"] == 0
    worker.reset(2)
    worker.add("chat", streams(1)[0], ZERO)
    master.merge(sent(worker.take_delta()), "w")
    assert master.rows()[-1]["requests"] == 1


def test_in_flight_adds_up_over_workers_and_forgets_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now, master = 1000.0, Board()
    monkeypatch.setattr("loadtest.users.results.live_figures.time.monotonic", lambda: now)
    flying: dict[str, InFlight] = {"w1": {"chat": (2, 1)}, "w2": {"chat": (1, 1), "long": (0, 3)}}
    for name, live in flying.items():
        worker = Board(lambda live=live: live)  # type: ignore[misc]
        worker.sample(ZERO)
        master.merge(sent(worker.take_delta()), name)
    assert master.in_flight() == {"chat": (3, 2), "long": (0, 3)}
    rows = {row["name"]: (row["decoding"], row["waiting"], row["requests"]) for row in master.rows()}
    assert rows == {"chat": (3, 2, 0), "long": (0, 3, 0), TOTAL_ROW: (3, 5, 0)}  # though none of them has ended
    now += 60
    assert master.in_flight() == {}
    assert [row["name"] for row in master.rows()] == [TOTAL_ROW]


def test_history_shows_tokens_where_they_arrived_and_nothing_is_lost() -> None:
    records = streams(64, Made(tokens=150))  # answers of 1.5 s
    board = board_of(records)
    end = max(record.t_end for record in records) * 1e-9
    board.live = lambda: {"chat": (4, 4)}
    for second in range(2, int(end) + 3):
        board.sample(ZERO + second)
    busy = board.history
    unknown = [point["t"] for point in busy if point["tokens_per_s"] is None]
    assert unknown == [busy[-2]["t"], busy[-1]["t"]]  # a decode may still be under way there
    board.live = dict
    points = board.history
    assert [point["t"] for point in points] == list(range(points[0]["t"], points[0]["t"] + len(points)))
    assert sum(point["tokens_per_s"] for point in points) == pytest.approx(64 * 150)
    assert points[5]["tokens_per_s"] == pytest.approx(4 * 100, rel=0.1)  # four slots, a token every 10 ms
    assert {point["decoding"] for point in points[1:]} == {4}
    assert points[5]["ttft_p50"] == pytest.approx(1.6, rel=0.05)  # an answer, and its prefill, ahead of it


def test_history_of_two_workers_adds_up_to_the_second_that_both_have_told_of() -> None:
    master, ahead, behind = Board(), Board(lambda: {"a": (2, 0)}), Board(lambda: {"b": (1, 3)})
    for second in range(10):
        ahead.sample(ZERO + second)
        if second < 7:
            behind.sample(ZERO + second)
    master.merge(sent(ahead.take_delta()), "ahead")
    master.merge(sent(behind.take_delta()), "behind")
    points = master.history
    assert points[-1]["t"] == int(ZERO) + 5
    assert {(point["decoding"], point["waiting"]) for point in points} == {(3, 3)}


def test_history_fills_in_what_a_late_sampler_missed_and_stays_bounded() -> None:
    board = Board(lambda: {"chat": (5, 0)})
    board.sample(ZERO)
    board.sample(ZERO + 4)
    assert [point["decoding"] for point in board.history] == [5] * 5
    for second in range(5, 2 * HISTORY_S):
        board.sample(ZERO + second)
    points = board.history
    assert len(points) == HISTORY_S
    assert points[-1]["t"] == int(ZERO) + 2 * HISTORY_S - 2
    assert len(board._seconds) < 1.1 * HISTORY_S


def test_a_second_of_the_history_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are HISTORY_S of them in a run of any length, whether or not anybody looks."""
    monkeypatch.setattr(Figures, "add", lambda *_: None)
    record = streams(1)[0]
    assert record.t_send is not None
    board = Board()
    tracemalloc.start()
    try:
        for number in range(300):
            board.add("chat", dataclasses.replace(record, t_send=record.t_send - number * number * 10_000), ZERO)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 3000 * len(board._seconds)


def test_a_point_follows_what_is_learned_of_its_seconds_later() -> None:
    board = Board()
    board.sample(ZERO + 9)
    before = board.history[-1]
    board.add("chat", dataclasses.replace(streams(1)[0]), ZERO + 6)
    assert before["ttft_p50"] is None
    assert board.history[-1]["ttft_p50"] is not None
