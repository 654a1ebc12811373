"""How often `compare` is right, in virtual time: the same server twice, and the server some percent slower.

Runs of one server differ by more than their requests show: each run is as a whole faster or slower by a factor that is drawn
anew (`together`), or each of its figures is by one of its own (`apart`), with a standard deviation of 1, 2 or 3 %. A pool
of runs is played once; each try draws runs from it and gives them new factors.
"""

from __future__ import annotations

import functools
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtest.analyse.comparison.compare import (
    BETTER,
    FAMILY_ERROR,
    SAME,
    TOLERANCE,
    WORSE,
    Change,
    Comparison,
    Limits,
    compare,
    judge_change,
)
from loadtest.analyse.comparison.differences import RUN_NOISE
from loadtest.analyse.comparison.estimates import METRICS, STEPS, Estimate, Metric, estimate_of, step_estimates
from loadtest.analyse.run.levels import LevelData
from loadtest.analyse.server.timing.step_law import StepTimes
from loadtest.analyse.summary import Analysis, analyse
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, play

POOL = 24  # runs that each case is played
HEADLINES = tuple(metric for metric in METRICS if metric.headline)
NOISES = (0.01, 0.02, 0.03)
Cells = dict[tuple[int, Metric], Estimate]  # of a run: level and metric


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: lengths drawn from a range, and how many requests each stream sends."""

    name: str
    prompt: tuple[int, int]
    output: tuple[int, int]
    each: int = 8
    jitter: float = 0.05
    users: tuple[int, ...] = (1, 2, 4, 8)


CASES = (
    Case("one length, jitter 3 %", (128, 128), (64, 64), jitter=0.03),
    Case("one length, jitter 10 %", (128, 128), (64, 64), jitter=0.10),
    Case("mixed lengths, jitter 10 %", (50, 400), (20, 100), jitter=0.10),
    Case("mixed lengths, 20 requests a stream", (50, 400), (20, 100), each=20),
)


def server(seed: int, jitter: float) -> Timing:
    """Return an engine that differs from seed to seed as servers do."""
    draw = random.Random(seed)
    step = StepLaw(draw.uniform(0.005, 0.03), draw.uniform(0.0005, 0.006))
    return Timing(step=step, prefill_s=draw.uniform(0.0002, 0.003), jitter=jitter)


def measure(folder: Path, case: Case, timing: Timing, seed: int) -> Analysis:
    """Measure a server in virtual time and read the run folder."""
    loads = [
        Load(users=users, requests=case.each * users, prompt=case.prompt, output=case.output) for users in case.users
    ]
    return analyse(play(timing, loads, slots=4, seed=seed).write(folder))


def attempt(case: Case, seed: int, *, slower: float = 0.0) -> Comparison:
    """Compare two runs of one server; the second one takes `slower` longer for everything."""
    timing = server(seed, case.jitter)
    with tempfile.TemporaryDirectory() as place:
        base = measure(Path(place) / "base", case, timing, 2 * seed)
        new = measure(Path(place) / "new", case, timing.scaled(1 + slower), 2 * seed + 1)
        return compare(base, new)


def pool(case: Case, runs: int = POOL) -> list[Cells]:
    """Return the headline figures of so many runs of one server."""
    with tempfile.TemporaryDirectory() as place:
        timing = server(7, case.jitter)
        return [_headlines(measure(Path(place, str(seed)), case, timing, seed)) for seed in range(runs)]


@functools.cache
def at_a_rate(
    share: float, noise: float, runs: int = POOL, *, slower: float = 0.0, seed: int = 0
) -> list[tuple[Cells, tuple[StepTimes, ...]]]:
    """Return figures and step times of so many open loops at a share of a server's capacity, as a whole faster or slower by chance."""
    prompt, output = (50, 400), (20, 100)
    found = []
    with tempfile.TemporaryDirectory() as place:
        timing = server(7, 0.05)
        closed = Load(users=8, requests=160, prompt=prompt, output=output)
        full = analyse(play(timing, [closed], slots=4, seed=1).write(Path(place, "full")))
        load = Load(
            rate=share * full.summary["levels"][0]["requests_per_s"], requests=200, prompt=prompt, output=output
        )
        for number in range(runs):
            draw = random.Random(f"{share} {noise} {slower} {seed} {number}")
            drawn = timing.scaled((1 + slower) * math.exp(draw.gauss(0, noise)))
            path = play(drawn, [load], slots=4, seed=1000 * seed + number).write(Path(place, str(number)))
            one = analyse(path)
            found.append((_headlines(one), one.steps.times))
    return found


@dataclass(frozen=True, slots=True)
class Found:
    """In how many of so many comparisons a difference was seen where there is none, and where there is one."""

    tries: int
    false: int
    seen: int

    def __str__(self) -> str:
        return f"{self.false / self.tries:.1%} | {self.seen / self.tries:.0%}"


def examine_at_a_rate(share: float, noise: float, a_side: int = 1, runs: int = POOL, tries: int = 500) -> Found:
    """Compare open loops of one server, and with those of a server 10 % slower, so many a side."""
    same, slow = at_a_rate(share, noise, runs), at_a_rate(share, noise, runs, slower=0.1, seed=1)
    draw = random.Random(f"{share} {noise} {a_side}")
    false = seen = 0
    for _ in range(tries):
        picked = draw.sample(same, 2 * a_side)
        false += bool(_verdict_with_steps(picked[:a_side], picked[a_side:]) & {BETTER, WORSE})
        seen += WORSE in _verdict_with_steps(picked[:a_side], draw.sample(slow, a_side))
    return Found(tries, false, seen)


def _verdict_with_steps(
    base: Sequence[tuple[Cells, tuple[StepTimes, ...]]], new: Sequence[tuple[Cells, tuple[StepTimes, ...]]]
) -> set[str | None]:
    steps = step_estimates([times for _, times in (*base, *new)])
    both = [{**cells, (0, STEPS): figure} for (cells, _), figure in zip((*base, *new), steps, strict=True)]
    return verdict(both[: len(base)], both[len(base) :])


def _headlines(one: Analysis) -> Cells:
    cells = {
        (level["index"], metric): estimate_of(one.run, level, metric)
        for level in one.summary["levels"]
        for metric in HEADLINES
    }
    return {key: found for key, found in cells.items() if found is not None}


def noisy(cells: Cells, noise: float, draw: random.Random, *, slower: float = 0.0, together: bool = True) -> Cells:
    """Return a run's figures as if the run as a whole, or each figure by itself, had been slower or faster by chance."""
    whole = draw.gauss(0, noise)
    found = {}
    for (level, metric), figure in cells.items():
        factor = (1 + slower) * math.exp(whole if together else draw.gauss(0, noise))
        found[level, metric] = figure.scaled(factor if metric.lower_is_better else 1 / factor)
    return found


def verdict(base: Sequence[Cells], new: Sequence[Cells]) -> set[str | None]:
    """Return the verdicts on all headline figures, as `compare` gives them."""
    single = len(base) == len(new) == 1
    every = [key for key in base[0] if all(key in one and (one[key].told or not single) for one in (*base, *new))]
    limits = Limits(1 - FAMILY_ERROR / max(len(every), 1), TOLERANCE, RUN_NOISE)
    verdicts = set()
    for level, metric in every:
        ours, theirs = (tuple(one[level, metric] for one in side) for side in (base, new))
        verdicts.add(judge_change(Change.of(LevelData(), metric, (ours, theirs)), limits).verdict)
    return verdicts


def examine(
    runs: Sequence[Cells], tries: int, noise: float, a_side: int, *, slower: float = 0.1, together: bool = True
) -> Found:
    """Compare runs of the pool with each other, so many a side."""
    draw = random.Random(f"{noise} {a_side} {together}")
    false = seen = 0
    for _ in range(tries):
        picked = draw.sample(list(runs), 2 * a_side)
        base = [noisy(one, noise, draw, together=together) for one in picked[:a_side]]
        new = picked[a_side:]
        false += verdict(base, [noisy(one, noise, draw, together=together) for one in new]) - {None} != {SAME}
        worse = [noisy(one, noise, draw, slower=slower, together=together) for one in new]
        seen += WORSE in verdict(base, worse)
    return Found(tries, false, seen)


def main(tries: int, slower: float) -> None:
    print(
        f"Simulated; {tries} comparisons each of 16 headline figures: false differences | {slower:.0%} slower is seen\n"
    )
    heads = [f"{a_side} a side, sd {noise:.0%}" for a_side in (1, 2, 3, 5) for noise in NOISES]
    print("| case | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
    for case in CASES:
        runs = pool(case)
        for together in (True, False):
            cells = [
                str(examine(runs, tries, noise, a_side, slower=slower, together=together)).replace(" | ", " / ")
                for a_side in (1, 2, 3, 5)
                for noise in NOISES
            ]
            print(f"| {case.name}, {'together' if together else 'apart'} | " + " | ".join(cells) + " |", flush=True)
    heads = [f"{a_side} a side, sd {noise:.0%}" for a_side in (1, 5) for noise in NOISES]
    print(f"\nOpen loops of 200 requests:\n\n| share of the capacity | {' | '.join(heads)} |\n" + "|---" * 7 + "|")
    for share in (0.5, 0.8, 0.9, 0.95):
        found = [examine_at_a_rate(share, noise, a_side) for a_side in (1, 5) for noise in NOISES]
        print(f"| {share:g} | {' | '.join(str(one).replace(' | ', ' / ') for one in found)} |", flush=True)


if __name__ == "__main__":
    given = (*sys.argv[1:], *("1000", "0.1")[len(sys.argv) - 1 :])
    main(int(given[0]), float(given[1]))
