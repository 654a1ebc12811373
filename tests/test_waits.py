"""Slot wait and batch wait: exact on made runs, right on every recorded run of a real Ollama."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_runs import MS, Made, closed_loop, make, recorded, write

from loadtest.analyse import frames, waits
from loadtest.analyse.slots import Slots
from loadtest.analyse.summary import Analysis, analyse

FOUR_SLOTS = [f"ollama-0.33-mid-slots4-c{users}" for users in (1, 2, 4, 8)]
FOUR_SLOTS_OLD = [f"ollama-0.24-tiny-slots4-c{users}" for users in (1, 2, 4, 8)]


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


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_one_slot_two_slots_four_slots_with_batch_waits(tmp_path: Path, slots: int) -> None:
    made = Made(slots=slots, batch_ms=12, tokens=30, jitter_ms=lambda i: i * 13 % 41)
    truth = make(tmp_path / "run", made, users=(1, 2, 4, 8))
    analysis = analyse(tmp_path / "run")
    requests = analysis.run.requests
    assert analysis.slots.limit
    for name, known in (("slot_wait_s", truth.slot_wait), ("batch_wait_s", truth.batch_wait)):
        error = requests[name].to_numpy() - np.array([known[i] for i in requests["id"]])
        assert np.abs(error).max() < 1e-6, name


def test_the_two_parts_are_the_queue_wait(tmp_path: Path) -> None:
    analysis = analyse(recorded(tmp_path / "run", ["ollama-0.33-mid-slots2-c8-mixed"]))
    parts = analysis.run.column("slot_wait_s") + analysis.run.column("batch_wait_s")
    assert parts == pytest.approx(analysis.run.column("queue_wait_s"))
    assert analysis.run.column("slot_wait_s").min() >= 0
    assert analysis.run.column("batch_wait_s").min() >= 0


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
    first = closed_loop(Made(load_ms=0, prefill_ms=100), level=0, users=2, requests=2, start_ns=0).records
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
    slot_wait, batch_wait = waits.split(run, Slots(2, limit=True, method="known"))
    assert list(slot_wait) == [0, 0, 0]
    assert batch_wait == pytest.approx([0.5, 0, 0])


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
    slot, batch = waits.split(run, Slots(4, limit=False, method="held only 30 % of the time that more were in flight"))
    eight = np.asarray(run.requests["level"] == 1)
    assert np.isnan(slot[eight]).all()
    assert np.isnan(batch[eight]).all()
    assert (slot[~eight] == 0).all()
