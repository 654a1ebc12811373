"""The engine held against recorded runs of a real Ollama: fitted at 1, 2 and 4 users, asked about all the others."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median
from typing import Any

import pytest
from support.places import RECORDED_RUNS

from loadtest.metrics import queue_wait_ollama
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.stream import EngineRequest, Stream
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.simulate.model.virtual import closed_loop, cold_prompt

EDGE_S = 0.0005  # tokens of one batch arrive within this


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded closed loop; times in seconds since it began."""

    slots: int
    users: int
    rows: list[dict[str, Any]]

    def column(self, name: str, scale: float) -> list[float]:
        return [row[name] * scale for row in self.rows]

    @property
    def sent(self) -> list[float]:
        return self.column("sent_us", 1e-6)

    @property
    def tokens(self) -> list[list[float]]:
        """Arrivals of each request's tokens."""
        return [[(row["sent_us"] + chunk) * 1e-6 for chunk in row["chunks_us"]] for row in self.rows]

    @property
    def load(self) -> list[float]:
        return self.column("load_ns", 1e-9)

    @property
    def prefill(self) -> list[float]:
        return self.column("prompt_eval_ns", 1e-9)

    @property
    def ttft(self) -> list[float]:
        return [(row["first_us"] - row["sent_us"]) * 1e-6 for row in self.rows]

    @property
    def wait(self) -> list[float]:
        parts = zip(self.ttft, self.load, self.prefill, strict=True)
        return [max(queue_wait_ollama(*part), 0.0) for part in parts]

    @property
    def first_batch(self) -> int:
        """How many of the first burst the server took into its first batch.

        A race in the real server (1 of 2 and 2 of 2, 1 of 4 and 3 of 4 were seen), and a closed loop keeps the pattern:
        so it is an initial condition of the simulation, taken from the run.
        """
        starts = [first - prefill for first, prefill in zip(self.column("first_us", 1e-6), self.prefill, strict=True)]
        return sum(start - min(starts) < 0.005 for start in starts)


@cache
def read(name: str) -> Run:
    lines = [json.loads(line) for line in (RECORDED_RUNS / f"ollama-{name}.jsonl").read_text().splitlines()]
    facts = lines[0]["facts"]
    return Run(int(facts["slots"]), int(facts["concurrency"]), lines[1:])


def step_times(run: Run) -> dict[int, list[float]]:
    """Gaps between tokens by the number of streams decoding all through them, without those that hold a prefill."""
    gaps: dict[int, list[float]] = defaultdict(list)
    spans = [(tokens[0], tokens[-1]) for tokens in run.tokens]
    for left, right in itertools.chain.from_iterable(itertools.pairwise(tokens) for tokens in run.tokens):
        prefill = any(left + EDGE_S < first <= right + EDGE_S for first, _ in spans)
        decoding = sum(first <= left + EDGE_S and last >= right - EDGE_S for first, last in spans)
        if decoding and not prefill:
            gaps[decoding].append(right - left)
    return gaps


def fit(runs: Sequence[Run], *, neighbours: bool) -> Timing:
    """Fit the engine's timing to runs: a step time per B, prefill per token, and the fixed costs.

    Step times are medians; those of B streams on exactly B slots win where there are any, for there streams sit side by
    side in one pass. Prefill comes from runs in which requests had the engine to themselves: one user or one slot.
    """
    everywhere: dict[int, list[float]] = defaultdict(list)
    side_by_side: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for streams, gaps in step_times(run).items():
            everywhere[streams] += gaps
            if streams == run.slots:
                side_by_side[streams] += gaps
    table = tuple(
        (streams, (median(side_by_side.get(streams, gaps)),))
        for streams, gaps in sorted(everywhere.items())
        if len(gaps) > 5
    )
    alone = [run for run in runs if run.slots == 1 or run.users == 1]
    per_token = [
        spent / row["prompt_tokens"] for run in alone for spent, row in zip(run.prefill, run.rows, strict=True)
    ]
    idle = [run for run in runs if run.users == 1]
    return Timing(
        step=StepLaw(table=table),
        prefill_s=median(per_token),
        handling_s=median(load for run in alone for load in run.load),
        handover_s=median(wait for run in idle for wait in run.wait) if idle else 0.002,
        neighbours=neighbours,
    )


def simulate(timing: Timing, run: Run) -> tuple[float, float]:
    """Return the medians of TTFT and wait of the run's own plan in virtual time, seconds."""
    plan = [
        EngineRequest(row["id"], cold_prompt(row["prompt_tokens"], row["id"]), row["output_tokens"]) for row in run.rows
    ]
    starts = [0.0] * run.first_batch + [0.0002] * (run.users - run.first_batch)
    streams = closed_loop(Engine(timing, slots=run.slots, loaded=4096), plan, starts_s=starts, turnaround_s=0.0015)
    ttfts = [_ttft(stream) for stream in streams]
    waits = [
        max(queue_wait_ollama(ttft, stream.load_ns * 1e-9, stream.prefill_ns * 1e-9), 0.0)
        for ttft, stream in zip(ttfts, streams, strict=True)
    ]
    return median(ttfts), median(waits)


def _ttft(stream: Stream) -> float:
    assert stream.first is not None
    return (stream.first - stream.arrived) * 1e-9


@cache
def mid_033() -> Timing:
    """98 M parameters on Ollama 0.33 (llama-server)."""
    runs = [read(f"0.33-mid-slots{slots}-c{users}") for slots in (1, 2, 4) for users in (1, 2, 4)]
    return fit(runs, neighbours=True)


@cache
def tiny_024() -> Timing:
    """3.5 M parameters on Ollama 0.24 (Go runner)."""
    return fit([read(f"0.24-tiny-slots4-c{users}") for users in (1, 2, 4)], neighbours=False)


@cache
def tiny_033() -> Timing:
    """3.5 M parameters on Ollama 0.33: recorded at 8 users only, so no prediction but a check that the model holds."""
    return fit([read(f"0.33-tiny-slots{slots}-c8") for slots in (1, 2, 4)], neighbours=True)


def verdicts(timing: Timing, run: Run) -> list[tuple[str, float, float, bool]]:
    """Return (name, real, simulated, within 25 % or 20 ms) of TTFT p50 and wait p50."""
    real = (median(run.ttft), median(run.wait))
    rows = zip(("ttft", "wait"), real, simulate(timing, run), strict=True)
    return [(name, seen, made, abs(made - seen) <= max(0.25 * seen, 0.020)) for name, seen, made in rows]


CELLS = [
    *[(mid_033, f"0.33-mid-slots{slots}-c{users}") for slots in (1, 2, 4) for users in ("1", "2", "4", "8", "8-mixed")],
    *[(tiny_024, f"0.24-tiny-slots4-c{users}") for users in ("1", "2", "4", "8", "8-mixed")],
    *[(tiny_033, f"0.33-tiny-slots{slots}-c8") for slots in (1, 2, 4)],
]


@pytest.mark.parametrize(("timing", "name"), CELLS, ids=[name for _, name in CELLS])
def test_simulated_ttft_and_wait_are_the_real_ones(timing: Any, name: str) -> None:
    for figure, real, simulated, within in verdicts(timing(), read(name)):
        assert within, f"{figure} p50: real {real:.3f} s, simulated {simulated:.3f} s"


def test_the_fit_finds_the_step_times_that_were_seen() -> None:
    law = mid_033().step
    seen = {1: 0.0203, 2: 0.0235, 4: 0.0277}
    assert {streams: law.values(streams)[0] for streams in seen} == pytest.approx(seen, rel=0.05)
    assert mid_033().prefill_s == pytest.approx(0.0028, rel=0.1)


def test_two_streams_on_slots_that_are_not_neighbours_decode_as_slowly_as_seen() -> None:
    """Two users on four slots got 40 ms a token in the real run while they sat on slots that are not neighbours."""
    engine = Engine(mid_033(), slots=4, loaded=4096)
    streams = [engine.submit(EngineRequest(i, cold_prompt(30, i), (400, 5, 400)[i]), 0) for i in range(3)]
    while (due := engine.due()) is not None:
        engine.advance(due)
    assert [stream.slot for stream in streams] == [3, 2, 1]
    real = step_times(read("0.33-mid-slots4-c2"))[2]
    assert streams[2].decode_ns / 399 * 1e-9 == pytest.approx(median(real), rel=0.05)


if __name__ == "__main__":  # python tests/simulate/test_simulate_real_runs.py: the figures themselves
    for make, cell in CELLS:
        for what, measured, modelled, good in verdicts(make(), read(cell)):
            print(f"{cell:28s} {what} p50 {measured * 1e3:7.0f} ms real {modelled * 1e3:7.0f} simulated {good}")
