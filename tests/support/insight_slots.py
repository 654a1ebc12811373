"""Are the slots found, and only where they show? Servers and loads drawn at random.

Each run folder is made by the engine in virtual time (all of it simulated) and read like any other. Drawn: slots 1 to
16 or none at all (a server that only budgets prefill), jitter to 20 %, short and long prompts and answers, one level or
a grid, closed and open loops, bursts taken last in first out, failures, and which durations the server tells.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.analyse.run import frames
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue import slots, waits
from loadtest.records import Outcome
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, Played, play

SLOTS = (1, 2, 3, 4, 6, 8, 16, None)
RUNS = 300
CLEAR_SHARE = 0.2  # of the busiest level's time in which a request waited for a slot: the load clearly passed the slots
CLEAR_TURNS = 3  # requests a slot that waited for one, and …
CLEAR_WAITS = 12  # at least so many, likewise
FEWEST_TOKENS = 5  # an answer, and …
MOST_PREFILL = 0.5  # of the time on prompts: what it takes where the server tells no durations
EXPECTATION = ("found", "at least", "either")


@dataclass(frozen=True, slots=True)
class Drawn:
    """One server with its load."""

    timing: Timing
    slots: int | None
    says: str | None
    lifo: bool
    noise_s: float
    failing: float  # share of requests whose end was lost, and the server's durations with it
    loads: tuple[Load, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one drawn run."""

    seed: int
    drawn: Drawn
    found: slots.Slots
    expected: str  # of EXPECTATION
    errors: tuple[float, ...]  # slot wait p50, p99 of |error| against the engine; of the same in units of a batch

    @property
    def verdict(self) -> str:
        """Return right, wrong (a false limit, or more than there are) or missed (no limit where it clearly showed)."""
        found, truth = self.found, self.drawn.slots
        most = truth if truth is not None else max(load.users for load in self.drawn.loads) * 1000
        if (found.limit and found.estimate != truth) or (found.estimate or 0) > most:
            return "wrong"
        return "missed" if self.expected == "found" and not found.limit else "right"


def draw(seed: int) -> Drawn:
    """Return the server and load of a seed."""
    dice = random.Random(seed)
    count = dice.choice(SLOTS)
    base = 10 ** dice.uniform(-2.6, -1.2)
    timing = Timing(
        step=StepLaw(base, base * dice.uniform(0.05, 0.6)),
        prefill_s=base * 10 ** dice.uniform(-2.2, -0.9),
        jitter=dice.choice((0.0, 0.03, 0.1, 0.2)),
        n_batch=dice.choice((512, 512, 2048, None)),
        neighbours=count is not None and dice.random() < 0.2,
        handover_s=dice.choice((0.002, 0.002, 0.012)),
    )
    prompt = dice.choice(((100, 100), (10, 2000), (20, 300), (2000, 2000), (400, 400), (10, 10)))
    output = dice.choice(((5, 300), (5, 5), (1, 3), (40, 40), (10, 120), (200, 200)))
    rounds = dice.choice((4, 8, 16))
    if count is None:
        most = dice.choice((2, 4, 8, 16, 32))
        says = None
    else:
        most = dice.choice((max(count - 1, 1), count, count + 1, count + 1, 2 * count, 3 * count))
        says = dice.choice(("ollama", "ollama", "llamacpp", None, None))
    users = (most,) if dice.random() < 0.4 else tuple(sorted({1, 2, max(most // 2, 1), most}))
    users = tuple(n for n in users if n <= most)
    loads = [Load(users=n, requests=max(rounds * n, 8), prompt=prompt, output=output) for n in users]
    if dice.random() < 0.2:
        loads = [_open(timing, count or most, load, dice.choice((0.3, 0.8, 1.0, 1.3))) for load in loads[-1:]]
    return Drawn(
        timing=timing,
        slots=count,
        says=says,
        lifo=dice.random() < 0.3,
        noise_s=dice.choice((30e-6, 300e-6, 1e-3)),
        failing=dice.choice((0.0, 0.0, 0.05)),
        loads=tuple(loads),
    )


def _open(timing: Timing, streams: int, load: Load, busy: float) -> Load:
    """Return the load as an open loop at a share of roughly what so many streams can take."""
    answer = timing.step.values(streams)[0] * sum(load.output) / 2
    a_second = streams / (answer + streams * timing.prefill_s * sum(load.prompt) / 2)
    return dataclasses.replace(load, rate=busy * a_second, requests=max(load.requests, 60))


def made(drawn: Drawn, seed: int) -> Played:
    """Play a drawn run, and lose the end of some of its answers."""
    played = play(
        drawn.timing,
        drawn.loads,
        slots=drawn.slots,
        seed=seed,
        says=drawn.says,
        noise_s=drawn.noise_s,
        lifo=drawn.lifo,
    )
    dice = random.Random(seed)
    for index, record in enumerate(played.records):
        if dice.random() < drawn.failing:
            played.records[index] = dataclasses.replace(
                record, outcome=Outcome.STREAM_ERROR, server=None, server_us=None, server_first=None
            )
    return played


def expected(drawn: Drawn, played: Played) -> str:
    """Return what the load allows to know: the limit, only "at least", or either."""
    if drawn.slots is None:
        return "at least"
    best = "at least"
    for level in range(len(drawn.loads)):
        streams = [played.streams[record.id] for record in played.records if record.level == level]
        waited = [(s.scheduled, s.slot_won) for s in streams if s.slot_won - s.scheduled > 0]  # type: ignore[operator]
        spans = np.array(waited, dtype=np.float64).reshape(-1, 2)
        whole = max(s.ended or 0 for s in streams) - min(s.arrived for s in streams)
        clear = _union(spans) > CLEAR_SHARE * whole and len(spans) >= max(CLEAR_TURNS * drawn.slots, CLEAR_WAITS)
        if drawn.says is None:  # then only steps without a prompt in them tell slots from a queue for prefill
            prefill = drawn.timing.prefill_s * sum(s.prompt_tokens for s in streams) * 1e9
            clear = clear and drawn.loads[level].output[0] >= FEWEST_TOKENS and prefill < MOST_PREFILL * whole
        best = "found" if clear else "either" if len(spans) and best == "at least" else best
    return best


def _union(spans: FloatArray) -> float:
    """Return the length covered by spans (rows: start, end)."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(map(tuple, spans)):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def examine(seed: int) -> Row:
    """Make one run, read it, and hold slots and slot waits against the engine's truth."""
    drawn = draw(seed)
    played = made(drawn, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = frames.load(played.write(Path(folder, "run")))
    found = slots.estimate_slots(run)
    return Row(seed, drawn, found, expected(drawn, played), slot_wait_errors(run, found, played))


def slot_wait_errors(run: RunData, found: slots.Slots, played: Played) -> tuple[float, ...]:
    """Return |slot wait − truth| at p50 and p99, seconds; nothing where no limit is known or nobody waited."""
    if not found.limit:
        return ()
    streams = [played.streams[i] for i in run.requests["id"]]
    truth = np.array([(s.slot_won - s.scheduled) / 1e9 for s in streams])  # type: ignore[operator]
    slot = waits.split_waits(run, found).slot
    known = np.isfinite(slot)
    if not known.any():
        return ()
    error = np.abs(slot - truth)[known]
    gaps = run.itl.of(np.ones(len(slot), dtype=np.bool_))
    step = np.quantile(gaps[gaps > 0], 0.5) if (gaps > 0).any() else np.nan
    return tuple(float(x) for x in (*np.quantile(error, (0.5, 0.99)), *(np.quantile(error, (0.5, 0.99)) / step)))


def examine_all(seeds: Sequence[int]) -> list[Row]:
    """Examine many on all cores, in the order of the seeds."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(examine, seeds, chunksize=4))


def table(rows: Iterable[Row]) -> str:
    """Return the confusion table as Markdown: what the load allowed to know × what was said."""
    counts = Counter((row.drawn.says or "nothing", row.expected, row.verdict, row.found.limit) for row in rows)
    lines = ["| server says | load | limit, right | limit, wrong | at least, right | at least, missed | too many |"]
    lines.append("|---|---|---|---|---|---|---|")
    for says in ("ollama", "llamacpp", "nothing"):
        for load in EXPECTATION:
            cells = [counts[says, load, *kind] for kind in (("right", True), ("wrong", True), ("right", False))]
            cells += [counts[says, load, *kind] for kind in (("missed", False), ("wrong", False))]
            lines.append(f"| {says} | {load} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print every row that is not right, then the table and the errors of the slot wait."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    rows = examine_all(range(first, first + runs))
    for row in rows:
        if row.verdict != "right":
            d, t = row.drawn, row.drawn.timing
            users = [f"{load.rate:.2g}/s" if load.rate else load.users for load in d.loads]
            print(
                f"{row.seed}: {row.verdict} ({row.expected}): {d.slots} slots, found {row.found}, users {users}, "
                f"says {d.says}, prompt {d.loads[0].prompt} × {t.prefill_s * 1e3:.2f} ms, output {d.loads[0].output}, "
                f"a {t.step.base_s * 1e3:.0f} b {t.step.per_stream_s * 1e3:.1f} ms, n_batch {t.n_batch}, jitter {t.jitter}, "
                f"noise {d.noise_s * 1e3} ms, lifo {d.lifo}, failing {d.failing}\n      {row.found.method}"
            )
    print(table(rows))
    for says in ("ollama", "llamacpp", None):
        errors = np.array([row.errors for row in rows if row.errors and row.drawn.says == says]).reshape(-1, 4)
        if len(errors):
            p50, p99, steps50, steps99 = np.nanmedian(errors, axis=0)
            worst = np.nanquantile(errors[:, 3], 0.95)
            print(
                f"slot wait, {says}, {len(errors)} runs: |error| p50 {p50 * 1e3:.1f} ms ({steps50:.2f} steps), p99 {p99 * 1e3:.1f} ms ({steps99:.2f}); p99 in the worst twentieth of runs {worst:.1f} steps"
            )


if __name__ == "__main__":
    main()
