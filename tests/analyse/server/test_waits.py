"""Slot wait and batch wait: exact on made runs, right on every recorded run of a real Ollama."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.made_runs import MS, Made, closed_loop, grid, make, recorded, write
from support.virtual_runs import Load, Played, play

from loadtest.analyse.findings.run_findings import all_findings
from loadtest.analyse.run import frames
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue import slots, waits
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import Analysis, analyse
from loadtest.live import durations_of
from loadtest.records import Outcome, Record
from loadtest.simulate.model.timing import StepLaw, Timing

FOUR_SLOTS = [f"ollama-0.33-mid-slots4-c{users}" for users in (1, 2, 4, 8)]
FOUR_SLOTS_OLD = [f"ollama-0.24-tiny-slots4-c{users}" for users in (1, 2, 4, 8)]


TIMING = Timing(step=StepLaw(0.020, 0.004), prefill_s=0.0005, jitter=0.1)
KNOWN = Slots(4, limit=True, method="known")


def waited(analysis: Analysis, level: int, column: str) -> np.ndarray:
    return analysis.run.column(column)[analysis.run.good(level)]


@pytest.mark.parametrize("names", [FOUR_SLOTS, FOUR_SLOTS_OLD], ids=["0.33", "0.24"])
def test_four_users_on_four_slots_never_wait_for_a_slot_and_eight_mostly_do(tmp_path: Path, names: list[str]) -> None:
    analysis = analyse(recorded(tmp_path / "run", names))
    for level in range(3):
        assert np.quantile(waited(analysis, level, "slot_wait_s"), 0.99) <= 0.020
    slot, batch = (waited(analysis, 3, name).sum() for name in ("slot_wait_s", "batch_wait_s"))
    assert slot > 10 * batch
    assert (waited(analysis, 3, "slot_wait_s") > 0.1).sum() == 28  # all 32 but the first four


@pytest.mark.parametrize("name", FOUR_SLOTS[:3] + FOUR_SLOTS_OLD[:3])
def test_one_level_alone_is_enough_to_see_no_slot_wait(tmp_path: Path, name: str) -> None:
    analysis = analyse(recorded(tmp_path / "run", [name]))
    assert waited(analysis, 0, "slot_wait_s").max() == 0


def test_real_batch_wait_at_two_users_is_up_to_a_prefill(tmp_path: Path) -> None:
    """Recorded: queue wait p50 of 65 ms at two users on four slots, prefill about 110 ms."""
    analysis = analyse(recorded(tmp_path / "run", FOUR_SLOTS[:2]))
    batch = waited(analysis, 1, "batch_wait_s")
    assert 0.05 < float(np.median(batch)) < 0.08
    assert batch.max() < 0.13


def held_back(record: Record, pieces: int) -> Record:
    """Return a request whose answer a proxy sent on in so many pieces, each when the last of its tokens had come."""
    size = -(-len(record.chunks) // pieces)
    merged = [record.chunks[min(i // size * size + size, len(record.chunks)) - 1] for i in range(len(record.chunks))]
    first = (record.t_send or 0) + merged[0] * 1000
    return dataclasses.replace(
        record,
        t_headers=first,
        t_first_token=first,
        t_first_visible=first,
        chunks=merged,
        first_coalesced=True,
        server_us=None,
    )


@pytest.mark.parametrize("pieces", [None, 1, 3])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_one_slot_two_slots_four_slots_with_batch_waits(tmp_path: Path, slots: int, pieces: int | None) -> None:
    made = Made(slots=slots, batch_ms=12, tokens=30, jitter_ms=lambda i: i * 13 % 41)
    levels, truth = grid(made, (1, 2, 4, 8))
    records = [held_back(record, pieces) for record in truth.records] if pieces else truth.records
    analysis = analyse(write(tmp_path / "run", records, levels))
    requests = analysis.run.requests
    assert analysis.slots.limit
    none = dict.fromkeys(truth.batch_wait, 0.0)  # what one user waits as well is no batch of others
    for name, known in (("slot_wait_s", truth.slot_wait), ("batch_wait_s", none)):
        error = requests[name].to_numpy() - np.array([known[i] for i in requests["id"]])
        assert np.abs(error).max() < 1e-6, name
    for record in records:  # as live figures have it
        wait = truth.slot_wait[record.id] + truth.batch_wait[record.id]
        assert dict(durations_of(record))["queue_wait_s"] == pytest.approx(wait, abs=1e-6)


@pytest.mark.parametrize(("end_ms", "batch_s"), [(201, 0.5), (101, 0.0)])
def test_a_wait_with_nobody_else_in_flight_is_no_batch_wait(tmp_path: Path, end_ms: int, batch_s: float) -> None:
    """Two people with time to think never met, and a gateway's half second was drawn as "batch wait"."""
    first, _, last = closed_loop(Made(load_ms=0), level=0, users=1, requests=2, start_ns=0).records
    before = dataclasses.replace(first, t_end=end_ms * MS)
    sent = 102 * MS
    held = dataclasses.replace(last, t_sched=sent, t_send=sent, t_first_token=sent + 550 * MS, t_end=900 * MS)
    level = {"index": 0, "concurrency": 2, "input_tokens": 100, "output_tokens": 20, "words": None, "rate": None}
    run = frames.load(write(tmp_path / "run", [before, held], [level]))
    run.requests["queue_wait_s"] = [0.0, 0.5]
    split = waits.split_waits(run, Slots(2, limit=True, method="known"))
    assert list(split.batch) == pytest.approx([0.0, batch_s])


def test_the_two_parts_are_the_queue_wait(tmp_path: Path) -> None:
    analysis = analyse(recorded(tmp_path / "run", ["ollama-0.33-mid-slots2-c8-mixed"]))
    parts = analysis.run.column("slot_wait_s") + analysis.run.column("batch_wait_s")
    assert parts == pytest.approx(analysis.run.column("queue_wait_s"))
    assert analysis.run.column("slot_wait_s").min() >= 0
    assert analysis.run.column("batch_wait_s").min() >= 0


@pytest.mark.parametrize("says", ["llamacpp", "ollama"])
def test_what_passes_on_the_way_is_no_slot_wait(tmp_path: Path, says: str) -> None:
    """llama.cpp behind a proxy 150 ms away each way: 67 % of TTFT was said to be slot wait, where half of that was the way."""
    way_ms = 300
    answered = ("t_headers", "t_first_byte", "t_first_token", "t_first_visible", "t_end")
    played = play(TIMING, [Load(rate=3.0, requests=60)], slots=2, says=says)
    far = [
        dataclasses.replace(
            record,
            chunks=[chunk + way_ms * 1000 for chunk in record.chunks],
            **{name: at + way_ms * MS for name in answered if (at := getattr(record, name))},
        )
        for record in played.records
    ]
    near = analyse(write(tmp_path / "near", played.records, played.levels)).run
    there = analyse(write(tmp_path / "far", far, played.levels)).run
    assert float(np.nanmean(near.column("slot_wait_s"))) > 0.1
    expected = float(np.nanmean(near.column("slot_wait_s")))
    assert float(np.nanmean(there.column("slot_wait_s"))) == pytest.approx(expected, abs=0.02)
    batch = float(np.nanmean(near.column("batch_wait_s")))  # the way was said to be batch wait of whoever met another
    assert float(np.nanmean(there.column("batch_wait_s"))) == pytest.approx(batch, abs=0.02)


@pytest.mark.parametrize("says", ["vllm", "ollama"])
def test_what_a_lone_request_takes_before_its_prompt_is_no_batch_wait(tmp_path: Path, says: str) -> None:
    """A vLLM that took 18 ms to tokenise: 36 % of TTFT was batch wait and 97 % slot wait, where its queue time says 16 and 93 %."""
    before, behind = (
        (0.018, 0.002) if says == "vllm" else (0.002, 0.018)
    )  # a slot is won; Ollama counts the former as model load
    timing = Timing(step=StepLaw(0.020, 0.004), prefill_s=0.0002, jitter=0.1, handling_s=before, handover_s=behind)
    played = play(timing, [Load(users=users, requests=60) for users in (1, 2, 8)], slots=4, says=says)
    analysis = analyse(played.write(tmp_path / "run"))
    streams = [played.streams[i] for i in analysis.run.requests["id"]]
    truth = np.array([(s.prefill_start - s.slot_won) / 1e9 - behind for s in streams])  # type: ignore[operator]
    alone = analysis.run.measured(0)
    assert analysis.slots.number == 4
    assert analysis.run.column("batch_wait_s")[~alone] == pytest.approx(truth[~alone], abs=0.004)
    assert waited(analysis, 2, "slot_wait_s") == pytest.approx(
        truth_of(played, analysis.run)[analysis.run.good(2)], abs=0.004
    )
    if says == "vllm":
        assert waited(analysis, 0, "queue_wait_s").max() < 0.005
        assert analysis.steps.handling_s == pytest.approx(0.018, abs=0.001)


@pytest.mark.parametrize("says", ["vllm", "ollama", "llamacpp"])
def test_writing_an_answer_that_came_in_one_piece_is_no_wait(tmp_path: Path, says: str) -> None:
    """Of answers that were not streamed: "At 4 streams, 33 % of the mean TTFT (1.98 s) is batch wait", which was their decode."""
    played = play(
        TIMING, [Load(users=users, prompt=(50, 200), output=(20, 60)) for users in (1, 4)], slots=4, says=says
    )
    came = [(one.t_send or 0) + one.chunks[-1] * 1000 for one in played.records]
    whole = [
        dataclasses.replace(one, t_first_token=at, chunks=one.chunks[-1:], reads=1, server_us=None, server_first=None)
        for one, at in zip(played.records, came, strict=True)
    ]
    near = analyse(write(tmp_path / "near", played.records, played.levels))
    found = analyse(write(tmp_path / "whole", whole, played.levels))
    expected = near.run.column("queue_wait_s")[near.run.measured(1)]
    assert waited(found, 1, "queue_wait_s") == pytest.approx(expected, abs=0.002)
    assert found.steps.prefill is not None  # from the durations of lone prompts
    assert found.steps.prefill.per_token_s == pytest.approx(TIMING.prefill_s, rel=0.05)
    assert "is batch wait" not in " ".join(all_findings(found))


@pytest.mark.parametrize("says", ["vllm", "ollama"])
def test_answers_that_come_whole_move_no_wait_of_those_beside_them(tmp_path: Path, says: str) -> None:
    """Their decode was time before vLLM's queue: 50 % of TTFT was slot wait, which is 72 %."""
    played = play(TIMING, [Load(users=u, requests=40, output=(40, 60)) for u in (1, 2, 8)], slots=4, says=says)
    some = [
        dataclasses.replace(
            one,
            t_first_token=(one.t_send or 0) + one.chunks[-1] * 1000,
            chunks=one.chunks[-1:],
            reads=1,
            server_us=None,
            server_first=None,
        )
        if place % 3 == 0
        else one
        for place, one in enumerate(played.records)
    ]
    near = analyse(write(tmp_path / "near", played.records, played.levels))
    found = analyse(write(tmp_path / "some", some, played.levels))
    assert waited(found, 2, "slot_wait_s") == pytest.approx(waited(near, 2, "slot_wait_s"), abs=0.02)


def test_a_wait_that_the_server_does_not_tell_of_is_said(tmp_path: Path) -> None:
    """Behind a gateway with a queue of its own, before a vLLM that says its queue time: TTFT of 4.6 s stood there without a word."""
    played = play(TIMING, [Load(users=users) for users in (1, 8)], slots=2, says="vllm")
    for one in played.records:
        (one.server or {})["metrics"]["queue_time_ms"] = 0.05
    (found,) = (one for one in all_findings(analyse(played.write(tmp_path / "run"))) if "tells of" in one)
    assert found.startswith(("At 8 streams, 98 % of the mean TTFT", "At 8 streams, 99 % of the mean TTFT"))
    assert "is neither prefill nor a wait that the server tells of" in found


def test_what_a_silent_gateway_holds_every_request_for_is_no_slot_wait(tmp_path: Path) -> None:
    """91 % of TTFT was said to be slot wait at 8 users, where a lone request's first token took as long: all of it was held."""
    held = Timing(step=StepLaw(base_s=0.02, per_stream_s=0.004), prefill_s=0.0005, jitter=0.03, handling_s=2.0)
    played = play(held, [Load(users=users) for users in (1, 8)], slots=4, says=None)
    run = frames.load(played.write(tmp_path / "run"))
    split = waits.split_waits(run, KNOWN)
    assert float(truth_of(played, run)[run.measured(1)].mean()) < 0.05
    assert float(split.slot[run.measured(1)].mean()) < 0.15


def test_two_slots_freed_before_one_batch_count_each_for_its_own_request() -> None:
    """Slots free at 1.0 and 1.4, both prompts enter the batch at 1.5: the second waited 0.4 s longer for its slot."""
    arrived = np.array([0.0, 0.0, 0.1, 0.2])
    admitted = np.array([0.0, 0.0, 1.5, 1.5])
    left = np.array([1.0, 1.4, 3.0, 3.0])
    assert list(waits.slot_free(arrived, admitted, left, 2)) == [-np.inf, -np.inf, 1.0, 1.4]


def test_admissions_of_one_batch_are_in_the_order_sent() -> None:
    """Estimated from durations, admissions of one batch differ by milliseconds in no particular order."""
    arrived = np.array([0.0, 0.0, 0.1, 0.2])
    admitted = np.array([0.0, 0.0, 1.508, 1.5])
    left = np.array([1.0, 1.4, 3.0, 3.0])
    assert list(waits.slot_free(arrived, admitted, left, 2))[2:] == [1.0, 1.4]


def test_being_overtaken_while_slots_are_free_is_batch_wait(tmp_path: Path) -> None:
    """Two users on two slots; while one's prompt waits for a batch, the other's answer ends and its next begins."""
    first = closed_loop(Made(load_ms=0, prefill_ms=100, tokens=2), level=0, users=2, requests=2, start_ns=0).records
    held = dataclasses.replace(
        first[0], id=0, t_sched=0, t_send=0, t_first_token=600 * MS, t_end=900 * MS, chunks=[600_000]
    )
    short = dataclasses.replace(first[1], id=1, t_first_token=100 * MS, t_end=201 * MS, chunks=[100_000, 200_000])
    send = 202 * MS
    after = dataclasses.replace(
        first[2], id=2, t_sched=send, t_send=send, t_first_token=302 * MS, t_end=800 * MS, chunks=[100_000, 500_000]
    )
    level = {"index": 0, "concurrency": 2, "input_tokens": 100, "output_tokens": 20, "words": None, "rate": None}
    run = frames.load(write(tmp_path / "run", [held, short, after], [level]))
    split = waits.split_waits(run, Slots(2, limit=True, method="known"))
    assert list(split.slot) == [0, 0, 0]
    assert split.batch == pytest.approx([0.5, 0, 0])


def test_a_burst_taken_last_in_first_out_charges_those_that_really_waited() -> None:
    arrived = np.array([0.000, 0.001, 0.002, 0.003])
    admitted = np.array([2.0, 1.0, 0.003, 0.003])
    left = np.array([3.0, 2.0, 1.0, 4.0])
    freed = waits.slot_free(arrived, admitted, left, 2)
    assert list(freed) == [2.0, 1.0, -np.inf, -np.inf]


def test_never_more_in_flight_than_slots_is_never_contended() -> None:
    send, end = np.array([0.0, 0.1, 1.0]), np.array([1.0, 2.0, 2.0])
    admitted = send + 0.05
    assert not waits.more_in_flight(send, end, admitted, 2).any()
    assert list(waits.more_in_flight(send, end, admitted, 1)) == [False, True, True]


def test_past_a_limit_that_is_not_known_the_wait_is_not_split(tmp_path: Path) -> None:
    """Eight users whose prefills hardly overlap: the peak at work is no proof, so neither part is claimed."""
    made = Made(slots=4, batch_ms=12, tokens=30)
    make(tmp_path / "run", made, users=(2, 8))
    run = frames.load(tmp_path / "run")
    split = waits.split_waits(run, Slots(4, limit=False, method="held only 30 % of the time that more were in flight"))
    eight = np.asarray(run.requests["level"] == 1)
    assert np.isnan(split.slot[eight]).all()
    assert np.isnan(split.batch[eight]).all()
    assert (split.slot[~eight] == 0).all()


def truth_of(played: Played, run: RunData) -> FloatArray:
    """Return the engine's own slot wait of every request, seconds."""
    streams = [played.streams[i] for i in run.requests["id"]]
    return np.array([(s.slot_won - s.scheduled) / 1e9 for s in streams])  # type: ignore[operator]


@pytest.mark.parametrize("lifo", [False, True], ids=["fifo", "lifo"])
@pytest.mark.parametrize("says", ["ollama", "llamacpp", None])
def test_slot_wait_is_the_engine_s_own(tmp_path: Path, says: str | None, lifo: bool) -> None:
    """Simulated. Errors seen are 1.2 ms at most, where a step takes 36 ms and slot waits nearly four seconds."""
    loads = [
        Load(users=2, requests=16, prompt=(50, 600), output=(10, 80)),
        Load(users=9, requests=72, prompt=(50, 600), output=(10, 80)),
    ]
    played = play(TIMING, loads, slots=4, says=says, lifo=lifo)
    run = frames.load(played.write(tmp_path / "run"))
    split = waits.split_waits(run, slots.estimate_slots(run))
    truth = truth_of(played, run)
    assert float(np.quantile(truth, 0.9)) > 0.5
    assert float(np.abs(split.slot - truth).max()) < 0.005
    source = waits.SERVER if says else waits.INFERRED
    assert all(set(split.source[run.measured(level)]) == {source} for level in (0, 1))
    assert np.isnan(split.batch).all() == (says is None)


@pytest.mark.parametrize("names", [FOUR_SLOTS, FOUR_SLOTS_OLD], ids=["0.33", "0.24"])
def test_inferred_slot_wait_of_real_ollama_is_what_its_durations_say(tmp_path: Path, names: list[str]) -> None:
    """Recorded: they differ by 11 and 14 ms at p99, where the queue lasts more than a second."""
    run = frames.load(recorded(tmp_path / "run", names))
    told = waits.split_waits(run, KNOWN)
    for column in ("load_s", "prefill_s", "queue_wait_s"):
        run.requests[column] = np.nan
    inferred = waits.split_waits(run, KNOWN)
    assert set(inferred.source) == {waits.INFERRED}
    assert np.isnan(inferred.batch).all()
    assert float(np.quantile(np.abs(told.slot - inferred.slot), 0.99)) < 0.020
    assert inferred.slot[run.requests["level"] < 3].max() == 0


def test_failed_streams_hold_their_slot_all_the_same(tmp_path: Path) -> None:
    """One answer in five lost its end and with it the server's durations; the others' waits stay right."""
    played = play(TIMING, [Load(users=8, requests=80, output=(20, 90))], slots=4)
    lost = [
        dataclasses.replace(r, outcome=Outcome.STREAM_ERROR, server=None, server_us=None, server_first=None)
        if r.id % 5 == 0
        else r
        for r in played.records
    ]
    played.records[:] = lost
    run = frames.load(played.write(tmp_path / "run"))
    split = waits.split_waits(run, KNOWN)
    assert float(np.abs(split.slot - truth_of(played, run)).max()) < 0.005  # truth: up to 3.4 s
    failed = ~np.asarray(run.requests["ok"], dtype=np.bool_)
    assert set(split.source[failed]) == {waits.INFERRED}
    assert set(split.source[~failed]) == {waits.SERVER}


@pytest.mark.parametrize("told", [True, False], ids=["told", "silent"])
def test_a_request_given_up_in_prefill_held_a_slot_and_one_given_up_in_the_queue_did_not(
    tmp_path: Path, told: bool
) -> None:
    """One slot: the first request is cancelled in prefill at 1 s, the third in the queue; the second and fourth wait."""
    plain = closed_loop(Made(load_ms=0, prefill_ms=500), level=0, users=4, requests=1, start_ns=0).records
    silent: dict[str, Any] = {"t_headers": None, "t_first_byte": None, "t_first_token": None, "t_first_visible": None}
    given_up: dict[str, Any] = {
        "outcome": Outcome.CANCELLED,
        "chunks": [],
        "server": None,
        "server_us": None,
        "server_first": None,
    }
    made = [
        dataclasses.replace(plain[0], id=0, t_sched=0, t_send=0, t_end=1000 * MS, **silent, **given_up),
        _answer(plain[1], 1, sent=100, first=1500, last=2000),
        dataclasses.replace(plain[2], id=2, t_sched=0, t_send=200 * MS, t_end=1200 * MS, **silent, **given_up),
        _answer(plain[3], 3, sent=300, first=2500, last=3000),
    ]
    made = made if told else [dataclasses.replace(record, server=None) for record in made]
    level = {"index": 0, "concurrency": 4, "input_tokens": 100, "output_tokens": 20, "words": None, "rate": None}
    run = frames.load(write(tmp_path / "run", made, [level]))
    split = waits.split_waits(run, Slots(1, limit=True, method="known"))
    assert split.slot[[1, 3]] == pytest.approx([0.9, 1.7])
    source = waits.SERVER if told else waits.INFERRED
    assert list(split.source) == [waits.UNKNOWN, source, waits.UNKNOWN, source]


def _answer(record: Record, number: int, *, sent: int, first: int, last: int) -> Record:
    return dataclasses.replace(
        record,
        id=number,
        t_sched=sent * MS,
        t_send=sent * MS,
        t_headers=first * MS,
        t_first_byte=first * MS,
        t_first_token=first * MS,
        t_first_visible=first * MS,
        t_end=last * MS,
        chunks=[(first - sent) * 1000, (last - sent) * 1000],
    )


def test_headers_that_a_proxy_sends_at_once_give_way_to_llamacpp_s_timings(tmp_path: Path) -> None:
    played = play(TIMING, [Load(users=8, requests=64, output=(20, 90))], slots=4, says="llamacpp")
    played.records[:] = [dataclasses.replace(r, t_headers=r.t_send + MS) for r in played.records]  # type: ignore[operator]
    run = frames.load(played.write(tmp_path / "run"))
    assert run.column("queue_wait_s").max() < 0.002
    assert float(np.quantile(np.abs(waits.split_waits(run, KNOWN).slot - truth_of(played, run)), 0.99)) < 0.005


@pytest.mark.parametrize(("users", "says"), [(2, True), (2, False), (8, True)])
def test_a_request_that_was_sent_twice_waits_in_the_server_from_its_second_send(
    tmp_path: Path, users: int, *, says: bool
) -> None:
    """Was a batch wait of 200 ms, or a longer slot wait, of a request that had been sent to a connection that was dead."""
    levels, truth = grid(Made(), (users,))
    again = {record.id for record in truth.records if record.id % 5 == 4}
    records = [resent(record, 200) if record.id in again else record for record in truth.records]
    if not says:
        records = [dataclasses.replace(record, server=None) for record in records]
    run = analyse(write(tmp_path / "run", records, levels)).run
    rows = run.one_of("id", *again) & run.flag("ok")
    expected = [truth.slot_wait[number] for number in run.requests["id"][rows]]
    assert run.column("slot_wait_s")[rows] == pytest.approx(expected, abs=0.005 if says else 0.08)
    assert np.nan_to_num(run.column("batch_wait_s"))[rows] == pytest.approx(0.0, abs=0.005)
    assert (run.column("ttft_s") - np.nan_to_num(run.column("queue_wait_s")))[
        rows
    ].min() > 0.2  # counts from the first send


def resent(record: Record, after_ms: int) -> Record:
    """Return a request that was sent so long before as well, on a connection that died."""
    sent = (record.t_send or 0) - after_ms * MS
    chunks = [chunk + after_ms * 1000 for chunk in record.chunks]
    return dataclasses.replace(record, t_sched=sent, t_send=sent, chunks=chunks, resent=record.t_send)
