"""A very long run: what is read from stretches of it agrees with the whole, and what is exact stays exact."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from support.virtual_runs import Load, play

from loadtest.analyse.figures import intervals, rates, stats
from loadtest.analyse.run import event_times, excerpts, frames
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue import slots
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing import prefill, steps, token_gaps
from loadtest.analyse.server.timing.steps import Steps
from loadtest.simulate.model.timing import StepLaw, Timing

TIMING = Timing(step=StepLaw(0.012, 0.002), prefill_s=0.0002, jitter=0.03)
LOADS = [
    Load(users=users, requests=requests, prompt=(50, 900), output=(20, 60))
    for users, requests in ((1, 60), (3, 120), (8, 240))
]
MOST = 6000


@pytest.fixture(scope="module", params=["ollama", None])
def run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> RunData:
    folder = tmp_path_factory.mktemp("stretches") / "run"
    return frames.load(play(TIMING, LOADS, slots=4, says=request.param).write(folder))


def measured(run: RunData) -> tuple[Slots, Steps]:
    found = slots.estimate_slots(run)
    return found, steps.measure_steps(run, found)


def test_events_of_stretches_are_whole_there_and_about_as_many_as_asked(run: RunData) -> None:
    every, some = excerpts.events(run), excerpts.events(run, MOST)
    assert every.said is None
    assert every.of == some.of == len(run.chunks.flat)
    assert 0.6 * MOST < len(some.at) < 1.4 * MOST
    assert some.spans is not None
    assert len(some.spans) == excerpts.EXCERPTS_A_LEVEL * len(LOADS)
    inside = np.zeros(len(every.at), dtype=np.bool_)
    for start, end in some.spans:
        inside |= (every.at >= start) & (every.at <= end)
    assert np.array_equal(some.place, np.flatnonzero(inside))
    assert f"{len(some.at)} of its {len(every.at)} chunks" in (some.said or "")


def test_a_gap_never_spans_what_lies_between_stretches(run: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = token_gaps.read_gaps(run, slots.estimate_slots(run)).step_s.max()
    monkeypatch.setattr(excerpts, "EXCERPTS_A_LEVEL", 200)  # many a stream is in two of them
    some = excerpts.events(run, MOST)
    assert (np.diff(some.at)[np.diff(some.row) == 0] > longest).any()
    assert np.diff(some.at)[some.inside].max() <= longest


def test_stretches_say_what_the_whole_run_does(run: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    found, whole = measured(run)
    monkeypatch.setattr(excerpts.events, "__defaults__", (MOST,))
    monkeypatch.setattr(event_times.blocks, "__defaults__", (None, 1000))
    thin, part = measured(run)
    assert (thin.estimate, thin.limit) == (found.estimate, found.limit) == (4, True)
    assert "stretches of the run" in thin.method
    assert whole.read_from is None
    assert "read_from" not in whole.to_dict()
    assert part.to_dict()["read_from"] == part.read_from
    assert whole.law is not None
    assert part.law is not None
    assert part.law.base_s == pytest.approx(whole.law.base_s, rel=0.02)
    assert part.law.per_stream_s == pytest.approx(whole.law.per_stream_s, rel=0.05)
    assert whole.prefill is not None
    assert part.prefill is not None
    assert part.prefill.n_batch == whole.prefill.n_batch
    assert part.prefill.per_token_s == pytest.approx(whole.prefill.per_token_s, rel=0.05)
    assert part.interference_s == pytest.approx(whole.interference_s, rel=0.05)


def test_stalls_are_read_from_every_gap(run: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same step time the stall of each request is the same, block by block or all at once."""
    found = slots.estimate_slots(run)
    whole = token_gaps.read_gaps(run, found)

    def step(streams: FloatArray) -> FloatArray:
        return np.asarray(0.012 + 0.002 * streams)

    before = prefill.stalls(run, whole, step)
    monkeypatch.setattr(event_times.blocks, "__defaults__", (None, 1000))
    blocked = dataclasses.replace(whole, spans=np.array([[0.0, 1.0]]))
    assert len(blocked.every(run)) > 10
    after = prefill.stalls(run, blocked, step)
    assert np.nansum(before[0]) > 0.1
    assert np.array_equal(before[0], after[0], equal_nan=True)
    assert before[1] == pytest.approx(after[1], rel=1e-9)


def test_pooled_figures_are_the_same_counted_and_sorted(run: RunData, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run.good(2)

    def figures() -> list[object]:
        pooled = [stats.describe_pooled(each, rows, block=8) for each in (run.itl, run.server_itl, run.delivery)]
        flow = rates.flow(run, run.levels[2])
        assert flow is not None
        return [*pooled, rates.weighted_rate(run, flow, run.column("output_tokens"))]

    sorted_ = figures()
    monkeypatch.setattr(stats, "MANY", 700)
    monkeypatch.setattr(intervals, "COUNTERS", 13_500)  # some gaps lie beyond the table
    for reader in (rates, intervals):
        monkeypatch.setattr(reader, "blocks", functools.partial(event_times.blocks, size=700))
    for was, now in zip(sorted_, figures(), strict=True):
        flat, again = (stats_values(each) for each in (was, now))
        assert flat == pytest.approx(again, rel=1e-9, nan_ok=True)


def stats_values(found: object) -> list[float]:
    if isinstance(found, rates.Throughput):
        return [found.per_second, *(found.ci95 or [])]
    assert isinstance(found, dict)
    values = (value for each in found.values() for value in (each if isinstance(each, list) else [each]))
    return [np.nan if value is None else float(value) for value in values]
