"""The number of slots: known from made runs, and from every recorded run of a real Ollama."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import RECORDED, Made, grid, make, recorded, write

from loadtest.analyse import frames, slots

NAMES = sorted(path.stem for path in RECORDED.glob("ollama-*.jsonl"))


@pytest.mark.parametrize("name", NAMES)
def test_slots_of_real_ollama_each_run_by_itself(tmp_path: Path, name: str) -> None:
    facts = json.loads((RECORDED / f"{name}.jsonl").read_text().partition("\n")[0])["facts"]
    found = slots.estimate(frames.load(recorded(tmp_path / "run", [name])))
    offered, taken = int(facts["slots"]), facts["concurrency"]
    if taken > offered:
        assert (found.estimate, found.limit) == (offered, True)
    else:
        assert (found.estimate, found.limit) == (taken, False)


@pytest.mark.parametrize("truth", [1, 2, 4, 7])
def test_slots_of_a_made_server(tmp_path: Path, truth: int) -> None:
    make(tmp_path / "run", Made(slots=truth, jitter_ms=lambda i: i * 7 % 23), users=(1, 2, 4, 8))
    found = slots.estimate(frames.load(tmp_path / "run"))
    assert (found.estimate, found.limit) == (truth, True)
    assert found.to_dict()["ci"] == [truth, truth]


def test_a_load_that_never_exceeded_the_slots_says_at_least(tmp_path: Path) -> None:
    make(tmp_path / "run", Made(slots=16), users=(1, 2, 4))
    found = slots.estimate(frames.load(tmp_path / "run"))
    assert str(found) == "at least 4"
    assert found.to_dict()["ci"] == [4, None]


def test_few_streams_decoding_because_the_others_prefill_is_no_limit(tmp_path: Path) -> None:
    """Eight users, answers of two tokens, long prefill: two or three decode at once, but nothing is full."""
    make(tmp_path / "run", Made(slots=8, prefill_ms=400, tokens=2, jitter_ms=lambda i: i * 37 % 211), users=(8,))
    run = frames.load(tmp_path / "run")
    assert slots.peak_decoding(run, np.ones(len(run.requests), dtype=np.bool_)) < 8
    assert str(slots.estimate(run)) == "at least 8"
    run.requests["prefill_s"] = np.nan  # the same from a server that says nothing about prefill
    assert not slots.estimate(run).limit


def test_a_slot_that_changes_hands_within_a_millisecond_is_one_slot(tmp_path: Path) -> None:
    """The next stream's first token may arrive before the last one of the stream whose slot it took."""
    made = Made(slots=2, prefill_ms=0, load_ms=0)
    levels, truth = grid(made, (4,))
    early = [dataclasses.replace(r, t_first_token=(r.t_first_token or 0) - 500_000, server=None) for r in truth.records]
    run = frames.load(write(tmp_path / "run", early, levels))
    assert slots.estimate(run).estimate == 2


def test_nothing_decoded_is_unknown(tmp_path: Path) -> None:
    found = slots.estimate(frames.load(write(tmp_path / "run", [], [])))
    assert found.estimate is None
    assert str(found) == "unknown"
    assert found.to_dict()["ci"] is None
