"""Run folders read back: instants, durations, chunks, several files, and folders that are broken."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_runs import MS, WALL, Made, Truth, closed_loop, make, recorded, unanswered, write

from loadtest.analyse.run import frames, overlaps
from loadtest.records import Clock, Outcome
from loadtest.run_folder import RunFolder

LEVEL = {"index": 0, "concurrency": 2, "input_tokens": 100, "output_tokens": 20, "words": None, "rate": None}


def two_users(requests: int = 4) -> Truth:
    return closed_loop(Made(), level=0, users=2, requests=requests, start_ns=0)


def test_durations_are_those_that_the_queue_model_made(tmp_path: Path) -> None:
    truth = make(tmp_path / "run", Made(slots=2, batch_ms=7), users=(1, 4))
    run = frames.load(tmp_path / "run")
    ids = run.requests["id"]
    assert len(ids) == len(truth.records)
    assert run.column("ttft_s") == pytest.approx([truth.ttft[i] for i in ids], abs=1e-9)
    assert run.column("queue_wait_s") == pytest.approx(
        [truth.slot_wait[i] + truth.batch_wait[i] for i in ids], abs=1e-9
    )
    assert run.column("tpot_s") == pytest.approx(0.010, abs=1e-6)
    assert run.column("stream_tokens_per_s") == pytest.approx(100, abs=0.1)
    assert run.column("prefill_s") == pytest.approx(0.050)
    assert run.column("load_s") == pytest.approx(0.002)
    assert run.column("e2e_s") == pytest.approx(run.column("ttft_s") + 0.190, abs=1e-6)
    assert set(run.requests.loc[run.requests["level"] == 1, "concurrency"]) == {4}


def test_instants_count_from_the_first_scheduled_request(tmp_path: Path) -> None:
    records = [dataclasses.replace(record, t_sched=record.t_sched - MS) for record in two_users().records]
    run = frames.load(write(tmp_path / "run", records, [LEVEL]))
    assert run.requests["sched"].min() == 0
    assert run.requests["send"].iloc[0] == pytest.approx(0.001)
    assert run.column("schedule_lag_s") == pytest.approx(0.001)
    assert run.column("ttft_sched_s") == pytest.approx(run.column("ttft_s") + 0.001)


def test_gaps_stay_inside_their_request(tmp_path: Path) -> None:
    run = frames.load(write(tmp_path / "run", two_users().records, [LEVEL]))
    assert len(run.itl.of(run.of_level(0))) == 6 * 19
    assert run.itl.of(run.of_level(0)) == pytest.approx(0.010)
    good = run.good(0)
    assert good.sum() == 4  # the two warm-up requests do not count
    assert len(run.itl.of(good)) == 4 * 19
    assert run.server_itl.of(good) == pytest.approx(0.010)


@pytest.mark.parametrize(
    ("counts", "counted"),
    [
        ("aaac", [40, 40, 40, 40]),  # FastChat with two tokens a piece: the text of one answer was short
        ("aaas", [40, 40, 40, 40]),
        ("ccca", [20, 20, 20, 20]),  # cut by the context, and the text of one was long
        ("saaa", [40, 40, 40, 40]),
        ("sssa", [20, 20, 20, 40]),  # one answer says little of the others
        ("smma", [20, 20, 20, 40]),
        ("mmmc", [20, 20, 20, 20]),  # as many pieces as were asked for
        ("tttc", [40, 40, 40, 20]),  # a server that counts most of its answers
    ],
)
def test_answers_of_a_level_that_nobody_counted_are_counted_alike(
    tmp_path: Path, counts: str, counted: list[int]
) -> None:
    """Was a mean of tokens and of pieces: "output length is not as asked: 28.7 tokens a request instead of 32.0"."""
    fields: dict[str, dict[str, Any]] = {
        "a": {"token_source": "asked", "output_tokens": 40, "finish_reason": "length"},
        "c": {"token_source": "chunks", "output_tokens": 20, "finish_reason": "length"},
        "s": {"token_source": "chunks", "output_tokens": 20, "finish_reason": "stop"},
        "m": {"token_source": "asked", "output_tokens": 20, "finish_reason": "length", "asked": 20},
        "t": {"token_source": "server", "output_tokens": 40, "finish_reason": "length"},
    }
    records = two_users().records
    measured = [record for record in records if not record.warmup]
    made = [
        dataclasses.replace(record, **{"asked": 40, **fields[count]})
        for record, count in zip(measured, counts, strict=True)
    ]
    run = frames.load(write(tmp_path / "run", made, [LEVEL]))
    assert run.column("output_tokens") == pytest.approx(counted)


def test_a_request_that_got_nowhere_is_a_row_without_durations(tmp_path: Path) -> None:
    record = two_users().records[0]
    lost = unanswered(record, Outcome.CONNECT_ERROR, id=99, t_send=None, t_headers=None, t_first_byte=None)
    run = frames.load(write(tmp_path / "run", [lost], [LEVEL]))
    row = run.requests.iloc[0]
    assert not row["ok"]
    assert np.isnan([row["ttft_s"], row["e2e_s"], row["tpot_s"], row["queue_wait_s"], row["schedule_lag_s"]]).all()


def test_one_token_has_no_decode_speed(tmp_path: Path) -> None:
    record = dataclasses.replace(two_users().records[0], output_tokens=1, chunks=[50_000], server_us=[0])
    run = frames.load(write(tmp_path / "run", [record], [LEVEL]))
    assert np.isnan(run.column("tpot_s")).all()
    assert run.column("e2e_tokens_per_s") == pytest.approx(20)


@pytest.mark.parametrize(("reads", "seen"), [(1, False), (2, False), (3, True), (20, True)])
def test_an_answer_in_two_reads_has_no_decode_speed(tmp_path: Path, reads: int, seen: bool) -> None:
    """A gateway that held 24 tokens back and let them go in two reads made 102,941 tokens/s of 0.2 ms."""
    record = two_users().records[0]
    first = record.chunks[0]
    chunks = [first + 10_000 * min(place, reads - 1) for place in range(20)]
    record = dataclasses.replace(record, chunks=chunks, reads=reads)
    run = frames.load(write(tmp_path / "run", [record], [LEVEL]))
    assert np.isfinite(run.column("stream_tokens_per_s")).tolist() == [seen]


def test_llamacpp_waits_until_its_headers_and_other_servers_do_not_say(tmp_path: Path) -> None:
    record = two_users().records[0]
    assert record.t_send is not None
    timings = {"timings": {"prompt_ms": 30.0, "cache_n": 12}}
    llamacpp = dataclasses.replace(record, dialect="openai-chat", server=timings, t_headers=record.t_send + 5 * MS)
    vllm = dataclasses.replace(record, id=99, dialect="openai-chat", server={"usage": {"prompt_tokens": 100}})
    run = frames.load(write(tmp_path / "run", [llamacpp, vllm], [LEVEL]))
    assert run.requests["queue_wait_s"].iloc[0] == pytest.approx(0.005)
    assert run.requests["prefill_s"].iloc[0] == pytest.approx(0.030)
    assert run.requests["cached_tokens"].iloc[0] == 12
    assert np.isnan(run.requests["queue_wait_s"].iloc[1])


def test_queue_wait_is_never_negative(tmp_path: Path) -> None:
    record = two_users().records[0]
    server = {**(record.server or {}), "prompt_eval_duration": 900 * MS}
    run = frames.load(write(tmp_path / "run", [dataclasses.replace(record, server=server)], [LEVEL]))
    assert run.column("queue_wait_s") == pytest.approx(0)


@pytest.mark.parametrize(("host", "monotonic", "stepped"), [(None, 0, 7_000 * MS), ("far", 123_456 * MS, 0)])
def test_files_of_two_processes_share_one_axis(
    tmp_path: Path, host: str | None, monotonic: int, stepped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one host the monotonic clock counts, though the wall clock stepped; between hosts the wall clock must do."""
    records = two_users().records
    path = write(tmp_path / "run", records[::2], [LEVEL])
    if host:
        monkeypatch.setattr("platform.node", lambda: host)
    later = 3_000 * MS
    clock = Clock(5_000_000_000 + later + monotonic, WALL + later + stepped)
    other = RunFolder.open(path).record_writer(clock, worker="1")
    for record in records[1::2]:
        moved = {
            name: getattr(record, name) - later
            for name in ("t_sched", "t_send", "t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
        }
        other.write(dataclasses.replace(record, **moved))
    other.close()
    split = frames.load(path)
    whole = frames.load(write(tmp_path / "whole", records, [LEVEL]))
    assert list(split.requests["id"]) == list(whole.requests["id"])
    assert split.column("first_token") == pytest.approx(whole.column("first_token"), abs=1e-9)


def test_delivery_delay_is_what_came_on_top_of_the_smallest(tmp_path: Path) -> None:
    """The server's clock is 5 ms ahead of ours: that offset goes, what differs between requests stays."""
    first, second, *_ = two_users().records
    assert first.server_first is not None
    assert second.server_first is not None
    ahead = dataclasses.replace(first, server_first=first.server_first + 5 * MS)
    slow = dataclasses.replace(second, server_first=second.server_first + 5 * MS - 40 * MS)
    run = frames.load(write(tmp_path / "run", [ahead, slow], [LEVEL]))
    assert run.delivery.of(run.of_level(0))[:20] == pytest.approx(0, abs=1e-6)
    assert run.delivery.of(run.of_level(0))[20:] == pytest.approx(0.040, abs=1e-6)


def test_delivery_delay_of_real_ollama_on_one_host_is_tens_of_microseconds(tmp_path: Path) -> None:
    run = frames.load(recorded(tmp_path / "run", ["ollama-0.33-mid-slots4-c8"]))
    assert np.median(run.delivery.of(run.of_level(0))) < 0.0001
    assert len(run.delivery.of(run.of_level(0))) == len(run.chunks.flat)


def test_a_run_that_was_cut_off_still_reads(tmp_path: Path) -> None:
    """run.json knows no levels yet, and the last line is half a record."""
    path = write(tmp_path / "run", two_users().records, [], state="running")
    with (path / "requests-0.jsonl").open("ab") as file:
        file.write(b'{"id":7,"level":0,"outc')
    run = frames.load(path)
    assert len(run.requests) == 6
    assert run.levels[0]["concurrency"] == 2


def test_an_empty_run_reads_as_no_requests(tmp_path: Path) -> None:
    run = frames.load(write(tmp_path / "run", [], []))
    assert len(run.requests) == 0
    assert run.levels == []


def test_samples_share_the_axis(tmp_path: Path) -> None:
    sample = {"t": 500 * MS, "level": 0, "in_flight": 2, "decoding": 1, "waiting": 1, "loop_gap_us": 2100, "cpu": 0.1}
    run = frames.load(write(tmp_path / "run", two_users().records, [LEVEL], samples=[sample]))
    assert run.samples["t"].iloc[0] == pytest.approx(0.5)
    assert run.samples["cpu"].iloc[0] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("starts", "ends", "peak"),
    [([0.0, 1.0], [1.0, 2.0], 1), ([0.0, 0.5], [1.0, 2.0], 2), ([], [], 0)],
)
def test_peak_at_once(starts: list[float], ends: list[float], peak: int) -> None:
    assert overlaps.peak_at_once(np.array(starts), np.array(ends)) == peak


def test_open_within_counts_what_has_both_ends() -> None:
    """An interval that ends where the time begins, or begins where it ends, is outside; one without a begin never was."""
    starts, ends = np.array([0.0, 2.0, 3.0, 5.0, np.nan]), np.array([2.0, 4.0, 6.0, 7.0, 1.0])
    since, until = np.array([2.0, 0.0, 4.0]), np.array([5.0, 2.0, 4.0])
    assert list(overlaps.open_within(starts, ends, since, until)) == [2, 1, 1]


def test_what_was_odd_in_an_answer_is_in_its_row(tmp_path: Path) -> None:
    first, second, *_ = two_users().records
    odd = dataclasses.replace(
        first,
        send_us=250,
        resent=first.t_send,
        target=2,
        notes=["an odd key"],
        doubts=["counts disagree", "no end mark"],
    )
    failed = unanswered(second, Outcome.CLIENT_ERROR)
    run = frames.load(write(tmp_path / "run", [odd, failed], [LEVEL]))
    named, plain = (row for _, row in run.requests.sort_values("id").iterrows())
    assert (named["notes"], named["doubts"]) == (("an odd key",), ("counts disagree", "no end mark"))
    assert (named["send_s"], named["resent_after_s"] == 0.0, named["target"]) == (pytest.approx(250e-6), True, 2)
    assert (plain["notes"], plain["doubts"]) == ((), ())
    assert plain["notes"] is plain["doubts"]
    assert (plain["send_s"], plain["resent_after_s"] >= 0.0, plain["target"]) == (0.0, False, 0)
    assert (plain["outcome"], bool(plain["ok"])) == ("client_error", False)
