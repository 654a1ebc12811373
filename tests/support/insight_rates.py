"""Are requests/s, tokens/s and goodput true? 20 shapes of load in virtual time.

The truth of a closed loop, and of an open loop past what the server can do, is what the same server does in the middle
of a run of the same kind that is very long, counted by whole answers; of an open loop that it keeps up with, it is what
came. Lengths and arrivals drawn at random make single runs differ: there the mean of many runs is what is held against the
truth. So does the share of requests that find such a server idle: at 1 request/s it goes from 31 % in a long run in which
0.91 a second came to 23 % in one with 1.07. Goodput of such a load is therefore held against the mean of several long runs. From run to run it scatters by
24 %: the mean of ten runs says nothing of it, that of 500 is +0.2 ± 1.3 % from the truth.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest import slo
from loadtest.analyse.figures.objectives import goodput
from loadtest.analyse.figures.rates import flow, weighted_rate
from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import load as read
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, Played, play

RUNS = 10
LONG = 60  # rounds of a closed loop's long run
LONG_RUNS = 16  # of an open loop that is kept up with
TIMING = Timing(step=StepLaw(0.02, 0.003), prefill_s=0.0005, jitter=0.02)
SLOTS = 4
LENGTHS = ("one length", "mixed lengths")


@dataclass(frozen=True, slots=True)
class Shape:
    """One load on so many slots (None: no limit)."""

    name: str
    load: Load
    slots: int | None = SLOTS

    @property
    def exact(self) -> bool:
        """Whether one run must be right: its answers are of one length, and nobody's arrival is left to chance."""
        return self.load.output[0] == self.load.output[1] and self.load.rate is None


def closed(users: int, requests: int, slots: int | None = SLOTS, *, mixed: bool = False) -> Shape:
    name = f"{requests} × {users} streams, {f'{slots} slots' if slots else 'no limit'}, {LENGTHS[mixed]}"
    return Shape(name, _load(Load(users=users, requests=requests), mixed=mixed), slots)


def opened(rate: float, requests: int, *, mixed: bool = False) -> Shape:
    name = f"{rate:g} requests/s, {requests} of them, {LENGTHS[mixed]}"
    return Shape(name, _load(Load(rate=rate, requests=requests), mixed=mixed))


def _load(load: Load, *, mixed: bool) -> Load:
    return dataclasses.replace(load, prompt=(50, 400), output=(20, 100)) if mixed else load


SHAPES = (
    closed(1, 8),
    closed(2, 16),
    closed(3, 10),
    closed(4, 13),
    closed(8, 16),
    closed(8, 26),
    closed(8, 26, 8),
    closed(8, 26, None),
    closed(16, 26),
    closed(16, 26, 8),
    closed(16, 26, 16),
    closed(16, 40, None),
    closed(8, 64),
    closed(4, 32, mixed=True),
    closed(8, 26, mixed=True),
    closed(16, 128, mixed=True),
    opened(1.0, 60),
    opened(4.0, 60),
    opened(4.0, 120, mixed=True),
    opened(8.0, 120),
)


@dataclass(frozen=True, slots=True)
class Rates:
    """What a level did a second; `good`: requests whose TTFT was at most the limit."""

    requests: float
    tokens: float
    good: float


def measured(shape: Shape, seed: int, limit_s: float) -> Rates:
    """Return a level's rates as a report has them, those of a load that is kept up with as shares of what came."""
    with tempfile.TemporaryDirectory() as place:
        run = read(play(TIMING, [shape.load], slots=shape.slots, seed=seed).write(Path(place, "run")))
    found = flow(run, run.levels[0])
    assert found is not None
    rates = [
        weighted_rate(run, found, weights) for weights in (np.ones(len(run.requests)), run.column("output_tokens"))
    ]
    requests, tokens = (rate.per_second if rate else float("nan") for rate in rates)
    if not shape.exact:  # of the lengths that this run drew
        requests *= float(run.column("output_tokens").mean()) / (sum(shape.load.output) / 2)
    if kept_up(shape):
        requests /= run.due_per_s(0) or 1.0
        tokens /= (run.due_per_s(0) or 1.0) * sum(shape.load.output) / 2
    good = goodput(run, 0, slo.parse_objectives(f"ttft_p95={limit_s}"), requests_per_s=requests, flow=found)
    return Rates(requests, tokens, good["requests_per_s"] or 0.0 if good else float("nan"))


def kept_up(shape: Shape) -> bool:
    """Whether the server keeps up with an open loop: it can do some 2.5 requests/s."""
    return shape.load.rate is not None and shape.load.rate < 2


def truth(shape: Shape) -> tuple[Rates, float]:
    """Return the true rates and the TTFT limit that goodput is judged by: s."""
    load = shape.load
    rounds = LONG * load.users if load.rate is None else 12 * load.requests
    long = dataclasses.replace(load, requests=max(rounds, 400))
    played = play(TIMING, [long], slots=shape.slots, seed=12345)
    ttft = np.array([(record.t_first_token or 0) - (record.t_send or 0) for record in played.records]) / 1e9
    limit = _limit(ttft)
    found = _middle(played, ttft <= limit, load.users)
    if kept_up(shape):
        runs = (play(TIMING, [long], slots=shape.slots, seed=seed) for seed in range(12345, 12345 + LONG_RUNS))
        return Rates(1.0, 1.0, float(np.mean([_share(one, limit) for one in runs]))), limit
    if not shape.exact:
        found = dataclasses.replace(found, requests=found.tokens / (sum(load.output) / 2))
    share = found.good / _middle(played, ttft > -1.0, load.users).requests
    return dataclasses.replace(found, good=found.requests * share), limit


def _share(played: Played, limit: float) -> float:
    """Return the share of requests with a TTFT of at most the limit in the middle of a long run."""
    ttft = np.array([(record.t_first_token or 0) - (record.t_send or 0) for record in played.records]) / 1e9
    return _middle(played, ttft <= limit, 1).good / _middle(played, ttft > -1.0, 1).requests


def _limit(ttft: FloatArray) -> float:
    """Return a limit inside the widest gap of the middle, or one that all meet: a limit on a cliff would judge the cliff."""
    middle = np.sort(ttft)[len(ttft) // 10 : -len(ttft) // 10]
    at = int(np.argmax(np.diff(middle)))
    if middle[at + 1] > 1.05 * middle[at]:
        return float(middle[at] + middle[at + 1]) / 2
    return 1.2 * float(ttft.max())


def _middle(played: Played, good: BoolArray, users: int) -> Rates:
    """Count whole answers in the middle of a long run, from an end to the end so many whole rounds later."""
    order = np.argsort([record.t_end for record in played.records], kind="stable")
    end = np.array([played.records[at].t_end for at in order]) / 1e9
    tokens = np.array([played.records[at].output_tokens for at in order])
    low = len(end) // 5
    high = low + len(end) * 3 // 5 // users * users
    seconds = end[high] - end[low]
    return Rates(
        *(float(what[low + 1 : high + 1].sum()) / seconds for what in (np.ones(len(end)), tokens, good[order] * 1.0))
    )


@dataclass(frozen=True, slots=True)
class Row:
    """How far a shape's rates are from the truth, as shares: on average over runs, and the worst run."""

    shape: Shape
    mean: Rates
    worst: Rates


def examine(shape: Shape, runs: int) -> Row:
    """Measure a shape so many times."""
    true, limit = truth(shape)
    names = [field.name for field in dataclasses.fields(Rates)]
    off = np.array(
        [
            [getattr(found, name) / max(getattr(true, name), 1e-9) - 1 for name in names]
            for found in (measured(shape, seed, limit) for seed in range(runs))
        ]
    )
    return Row(shape, Rates(*off.mean(axis=0)), Rates(*off[np.abs(off).argmax(axis=0), range(len(names))]))


def table(rows: Iterable[Row]) -> str:
    """Return a Markdown table."""
    lines = ["| load | requests/s | worst | tokens/s | worst | goodput |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = (row.mean.requests, row.worst.requests, row.mean.tokens, row.worst.tokens, row.mean.good)
        lines.append(f"| {row.shape.name} | " + " | ".join(f"{cell * 100:+.1f} %" for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    print("Simulated; error against the truth, mean and worst of", count, "runs of each load:\n")
    print(table(examine(shape, count) for shape in SHAPES))
