"""What a stream's decoding loses to others' prompts, held against the engine's own timing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from support import made_runs
from support.virtual_runs import Load, Played, play

from loadtest.analyse.run import frames
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing import steps
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.summary import analyse
from loadtest.simulate.model.timing import StepLaw, Timing

LINE = Timing(step=StepLaw(0.020, 0.005), prefill_s=0.001)


def measured(path: Path, played: Played, number: int) -> Steps:
    return steps.measure_steps(frames.load(played.write(path)), Slots(number, limit=True, method="known"))


def stalls_of(played: Played) -> list[float]:
    """Return what each stream's decode lost to others' prompts, at 1 ms a token."""
    streams = sorted(played.streams.values(), key=lambda one: one.arrived)
    firsts = [(stream.first or 0, stream.prompt_tokens) for stream in streams]
    return [
        0.001 * sum(size for first, size in firsts if (one.first or 0) < first <= (one.last or 0)) for one in streams
    ]


def test_stalls_are_what_others_prompts_took(tmp_path: Path) -> None:
    """Truth: between a stream's tokens lies one step each, and the prompts that were worked on meanwhile."""
    played = play(LINE, [Load(users=3, prompt=(80, 160), output=(20, 60))], slots=3, seed=2)
    found = measured(tmp_path / "run", played, 3)
    assert found.interference_s == pytest.approx(0.001, rel=0.05)
    for truth, stall in zip(stalls_of(played), found.stall_s, strict=True):
        assert stall == pytest.approx(truth, abs=0.002 + 0.05 * truth)


@pytest.mark.parametrize("says", [None, "llamacpp"])
@pytest.mark.parametrize("noise_ms", [0.001, 2, 4, 8])
def test_stalls_come_out_as_long_where_tokens_scatter(tmp_path: Path, noise_ms: float, says: str | None) -> None:
    """They came out 6-9 % too long at 8 ms: of gaps that scatter only the longer half counted."""
    loads = [Load(users=users, requests=20 * users, prompt=(80, 160), output=(20, 60)) for users in (1, 2, 3)]
    played = play(LINE, loads, slots=3, seed=2, says=says, noise_s=noise_ms / 1000)
    found = measured(tmp_path / "run", played, 3)
    assert float(found.stall_s.sum()) == pytest.approx(sum(stalls_of(played)), rel=0.03)


def test_the_wait_for_a_whole_tool_call_is_no_stall(tmp_path: Path) -> None:
    """A server that sends a call of 40 tokens in one piece: 1.2 s of each decode "lost to others' prompts"."""
    played = play(LINE, [Load(users=3, prompt=(80, 160), output=(60, 100))], slots=3, seed=2, says=None)
    plain = measured(tmp_path / "plain", played, 3)
    for i, record in enumerate(played.records):
        chunks = [*record.chunks[:-41], record.chunks[-1]]
        played.records[i] = dataclasses.replace(record, chunks=chunks, reads=len(chunks), finish_reason="tool_calls")
    found = measured(tmp_path / "run", played, 3)
    assert (found.stall_s <= plain.stall_s + 0.01).all()
    assert found.interference_s == pytest.approx(0.001, rel=0.05)


def test_stalls_of_a_run_without_other_prompts_are_zero(tmp_path: Path) -> None:
    found = measured(tmp_path / "run", play(LINE, [Load(users=1)], slots=1), 1)
    assert found.stall_s == pytest.approx(0.0)
    assert found.interference_s is None
    assert found.interference_reason == "no stream ran while another's prompt was in work"


def test_a_stream_that_stood_still_while_the_others_went_on_was_not_held_up_by_prompts(tmp_path: Path) -> None:
    """A real vLLM preempted: "12 % of the answers lose about 8.91 s each to other requests' prompts"."""
    levels, truth = made_runs.grid(made_runs.Made(), (4,))
    row = next(i for i, one in enumerate(truth.records) if not one.warmup and one.id > 12)
    one = truth.records[row]
    late = [chunk + (900_000 if i > 9 else 0) for i, chunk in enumerate(one.chunks)]
    truth.records[row] = dataclasses.replace(one, chunks=late, t_end=one.t_end + 900_000_000, server_us=None)
    path = made_runs.write(tmp_path / "run", truth.records, levels)
    found = analyse(path)
    at = int(np.flatnonzero(found.run.requests["id"] == one.id)[0])
    assert found.run.column("e2e_s")[at] > 1.0
    assert found.steps.stall_s[at] < 0.2
