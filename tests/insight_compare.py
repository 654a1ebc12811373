"""How often `compare` is right: the same server twice, and the server some percent slower, in virtual time.

python tests/insight_compare.py [TRIES] [PERCENT SLOWER]
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from virtual_runs import Load, play

from loadtest.analyse.compare import SAME, WORSE, Comparison, compare
from loadtest.analyse.summary import Analysis, analyse
from loadtest.simulate.timing import StepLaw, Timing


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
    Case("mixed lengths, jitter 3 %", (50, 400), (20, 100), jitter=0.03),
    Case("mixed lengths, jitter 10 %", (50, 400), (20, 100), jitter=0.10),
    Case("mixed lengths, 20 requests a stream", (50, 400), (20, 100), each=20),
    Case("one length, 3 requests a stream", (128, 128), (64, 64), each=3, users=(4, 8)),
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


def main(tries: int, slower: float) -> None:
    for case in CASES:
        same = [attempt(case, seed) for seed in range(tries)]
        slow = [attempt(case, seed, slower=slower) for seed in range(tries)]
        quiet = sum(one.verdict == SAME for one in same)
        worse = sum(one.verdict == WORSE for one in slow)
        false = Counter(
            row.metric.id for one in same for row in one.headline if row.verdict not in (SAME, None, "not comparable")
        )
        seen = Counter(row.metric.id for one in slow for row in one.judged(WORSE))
        judged = Counter(row.metric.id for one in slow for row in one.headline if row.verdict != "not comparable")
        print(
            f"{case.name:38s} same: no difference seen {quiet}/{tries}   {slower:.0%} slower: worse {worse}/{tries}",
            flush=True,
        )
        print("    false", dict(false), " seen", {key: f"{seen[key]}/{judged[key]}" for key in judged}, flush=True)


if __name__ == "__main__":
    main(*(cast(arg) for cast, arg in zip((int, float), (*sys.argv[1:], "40", "0.1")[:2], strict=False)))
