"""Does a search find the most users, or the highest rate? Engines drawn at random, searched as `loadtest run --find-max` does.

Each level of a search is played in virtual time and judged from a run folder. The truth is the same engine over far more
requests: the highest load at which the figure still meets its limit.
"""

from __future__ import annotations

import dataclasses
import random
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loadtest.cli.run.find_max import Finder
from loadtest.measure.search import RATE_STEPS, SEARCH_PRECISION, SearchResult
from loadtest.scenario import Level, Scenario
from loadtest.slo import Objective, parse_objectives
from support.insight_open import Drawn, draw
from support.virtual_runs import Load, Played, play

RUNS = 40
MOST = 64  # users, or times the rate that a search begins with
TRUE_REQUESTS, TRUE_ROUNDS = 1500, 40  # of a level that shows the truth, at least
TRUE_AT_A_RATE = 4000
FIGURES = ("ttft_p95", "ttft_p50", "e2e_p95", "tokens_per_s_p5")


@dataclass(frozen=True, slots=True)
class Server:
    """An engine under load: so many users, or so many steps of a rate."""

    drawn: Drawn
    step: float | None  # requests/s; None: users

    def played(self, load: int, requests: int, seed: int) -> Played:
        drawn = self.drawn
        asked = Load(users=load, requests=requests, prompt=drawn.prompt, output=drawn.output)
        if self.step is not None:
            asked = dataclasses.replace(asked, users=1, rate=load * self.step)
        return play(drawn.timing, [asked], slots=drawn.slots, seed=seed, says=drawn.says)

    def truth(self, name: str, load: int, seed: int) -> float:
        """Return a figure by its name in --slo over very many requests."""
        requests = max(TRUE_REQUESTS, TRUE_ROUNDS * load) if self.step is None else TRUE_AT_A_RATE
        return _value(name, self.played(load, requests, seed))


@dataclass(frozen=True, slots=True)
class Row:
    """One search: what it answered, the truth, and what it took."""

    seed: int
    asked: str
    truth: int
    found: SearchResult
    at_a_rate: bool
    levels: int  # measurements, repeated ones included
    seconds: float  # that they took
    needed_s: float  # that the last measurement of each load took

    @property
    def near(self) -> bool:
        """Whether the answer is as good as a search promises."""
        error = abs((self.found.answer or 0) - self.truth)
        return error <= max(1, self.truth // SEARCH_PRECISION)

    @property
    def held(self) -> bool:
        low, high = self.found.interval
        return low <= self.truth and (high is None or self.truth <= high)

    def __str__(self) -> str:
        return (
            f"  {self.seed:4d} {'rate' if self.at_a_rate else 'users'} {self.asked:32s} truth {self.truth:3d}, "
            f"answer {self.found.answer or 0:3d} {self.found.interval!s:12s} {self.levels} levels, "
            f"{self.seconds / self.needed_s:.2f} times as long"
        )


def examine(seed: int, *, at_a_rate: bool = False) -> Row:
    """Search a random engine for the most load, for a random figure and limit."""
    drawn, dice = draw(seed), random.Random(seed + 7)
    name = dice.choice(FIGURES)
    server = Server(drawn, None)
    if at_a_rate:
        shown = server.played(2 * drawn.slots, 100, seed)
        most = 100 / ((shown.levels[0]["ended_ns"] - shown.levels[0]["started_ns"]) * 1e-9)
        server = Server(drawn, float(f"{most * dice.uniform(0.2, 0.8):.2g}") / RATE_STEPS)
        ends = (
            server.truth(name, 1, seed),
            server.truth(name, round(dice.uniform(0.5, 0.95) * most / server.step), seed),
        )
    else:
        ends = server.truth(name, 1, seed), server.truth(name, dice.choice((4, 8, 16, 32)), seed)
    limit = float(f"{ends[0] * (ends[1] / ends[0]) ** dice.uniform(0.02, 0.98):.3g}")
    (objective,) = parse_objectives(f"{name}={limit}")
    low, high = 0, (MOST if server.step is None else MOST * RATE_STEPS) + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if objective.met(server.truth(name, middle, seed + 1000 + middle)) else (low, middle)
    return _searched(server, objective, seed, low)


def _searched(server: Server, objective: Objective, seed: int, truth: int) -> Row:
    step = server.step
    scenario = Scenario() if step is None else Scenario.from_dict({"rate": step * RATE_STEPS})
    finder = Finder(scenario, (objective,), MOST, lambda _: None)
    level: Level | None = finder.first().levels()[0]
    times: list[tuple[int, float]] = []
    while level is not None:
        load = level.concurrency or round((level.rate or 0.0) / (step or 1.0))
        played = server.played(load, level.requests or 0, seed + 50 + 100 * len(times))
        with tempfile.TemporaryDirectory() as folder:
            following = finder(played.write(Path(folder, "run")), [dataclasses.replace(level, index=0)])
        times.append((load, (played.levels[0]["ended_ns"] - played.levels[0]["started_ns"]) * 1e-9))
        level = following
    seconds, needed_s = sum(each for _, each in times), sum(dict(times).values())
    found = SearchResult.of(finder.tried)
    return Row(seed, str(objective), truth, found, step is not None, len(times), seconds, needed_s)


def _value(name: str, played: Played) -> float:
    records = [record for record in played.records if not record.warmup]
    first = np.array([record.chunks[0] * 1e-6 for record in records])
    whole = np.array([record.chunks[-1] * 1e-6 for record in records])
    if name == "tokens_per_s_p5":
        tokens = np.array([len(record.chunks) - 1 for record in records])
        return float(np.quantile(tokens / (whole - first), 0.05))
    return float(np.quantile(whole if name == "e2e_p95" else first, 0.5 if name == "ttft_p50" else 0.95))


def main(runs: int) -> None:
    for at_a_rate in (False, True):
        rows = []
        with ProcessPoolExecutor(2) as pool:
            for row in pool.map(partial(examine, at_a_rate=at_a_rate), range(runs)):
                rows.append(row)
                print(row, flush=True)
        near, held = sum(row.near for row in rows), sum(row.held for row in rows)
        ratios = np.array([row.seconds / row.needed_s for row in rows])
        unit = "sixteenth of the first rate" if at_a_rate else "user"
        print(
            f"{near} of {runs} answers within one {unit} of the truth, or a sixteenth of it; {held} intervals hold it"
        )
        print(
            f"time, of what each load's last measurement took: median {np.median(ratios):.2f}, most {ratios.max():.2f}"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else RUNS)
