"""Are the waits of open loops foretold? Engines drawn at random.

An engine is measured in closed loops as a case of the scorecard is, and asked for an open loop at 0.5 to 1.1 times the most
requests/s that these showed. The truth is the engine itself under the very requests that were predicted. With PACE each
level, and the truth, goes at a pace of its own that differs by such a standard deviation.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.fit import fit_models
from loadtest.analyse.whatif.model.play import CONTEXT, Played, cold_requests, figures_of_play
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.seeded_run import SeededRequests, SeededRun
from loadtest.errors import PredictionError
from loadtest.scenario import Level
from loadtest.simulate.model.engine import Engine
from loadtest.simulate.model.stream import Emission
from loadtest.simulate.model.timing import StepLaw, Timing
from loadtest.simulate.model.virtual import open_loop
from support.virtual_runs import Load, play

RUNS = 40
REQUESTS = 200
LENGTHS = (((100, 100), (30, 30)), ((40, 240), (10, 50)), ((100, 900), (10, 30)))
UTILISATIONS = (0.5, 0.8, 0.95, 1.1)
FIGURES = (("ttft_s", "p50"), ("ttft_s", "p95"), ("output_tokens_per_s", "mean"), ("stream_tokens_per_s", "p50"))
GOALS = (0.1, 0.1, 0.05, 0.1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """An engine, and how it is measured."""

    timing: Timing
    slots: int
    says: str | None
    prompt: tuple[int, int]
    output: tuple[int, int]
    users: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One open loop asked for: each figure's error as a share of the truth, and whether its band held that."""

    seed: int
    what: str
    utilisation: float
    errors: tuple[float, ...]
    inside: tuple[bool, ...]
    way: str


def draw(seed: int) -> Drawn:
    """Return the engine of a seed, which works much as llama.cpp does on a CPU."""
    dice = random.Random(seed)
    base = 10 ** dice.uniform(-2.7, -1.6)
    each = base * dice.uniform(0.2, 1.0)
    slots = dice.choice((1, 2, 3, 4, 6))
    prompt, output = dice.choice(LENGTHS)
    timing = Timing(
        step=StepLaw(base, each),
        prefill_s=each * dice.uniform(0.1, 0.5),
        jitter=dice.choice((0.03, 0.1)),
        handling_s=0.0,
        handover_s=0.0005,
        caught=dice.choice((0.0, 0.9, 1.0)),
        n_batch=dice.choice((512, 2048)),
    )
    says = dice.choice(("llamacpp", "llamacpp", "ollama", None))
    return Drawn(timing, slots, says, prompt, output, tuple(sorted({1, slots, slots + 1, slots + 3})))


def examine(seed: int, pace: float = 0.0) -> list[Row]:
    """Measure an engine, and hold what is said of open loops against the truth."""
    drawn, dice = draw(seed), random.Random(seed + 1)
    paces = [float(np.exp(dice.gauss(0, pace))) for _ in range(len(drawn.users) + 1)]
    loads = [
        Load(users=users, requests=40, prompt=drawn.prompt, output=drawn.output, pace=each)
        for users, each in zip(drawn.users, paces[1:], strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        played = play(drawn.timing, loads, slots=drawn.slots, seed=seed, says=drawn.says)
        found = analyse(played.write(Path(folder, "run")))
    levels = found.summary["levels"]
    fitted = fit_models(found.run, found.slots, found.steps, levels)
    model = next(iter(fitted.models.values()))
    most = max(level["requests_per_s"] or 0.0 for level in levels)
    return [_asked(drawn, model, seed, share, share * most, paces[0]) for share in UTILISATIONS]


def _asked(drawn: Drawn, model: ServerModel, seed: int, share: float, rate: float, pace: float) -> Row:
    seeded = plan(drawn, seed)
    said = model.open(rate, seeded=seeded)
    true = truth(drawn, seeded, rate, seed, pace)
    seen = [true[f"{name}.{key}"] for name, key in FIGURES]
    bands = [said.bands[f"{name}.{key}"] for name, key in FIGURES]
    what = f"{drawn.slots} slots, says {drawn.says}, {drawn.prompt} in, {drawn.output} out, caught {drawn.timing.caught}, n_batch {drawn.timing.n_batch}"
    return Row(
        seed,
        what,
        share,
        tuple(said.figure(*name) / value - 1 for name, value in zip(FIGURES, seen, strict=True)),
        tuple(low <= value <= high for (low, high), value in zip(bands, seen, strict=True)),
        model.way,
    )


def plan(drawn: Drawn, seed: int) -> SeededRequests:
    level = Level(
        index=0,
        concurrency=None,
        requests=REQUESTS,
        input_lengths="uniform({}, {})".format(*drawn.prompt),
        output_lengths="uniform({}, {})".format(*drawn.output),
    )
    return SeededRequests(SeededRun(REQUESTS, seed), 0, level, 0, True, None, "poisson", None)


def truth(drawn: Drawn, seeded: SeededRequests, rate: float, seed: int, pace: float) -> dict[str, float]:
    """Return what the engine itself does with these requests."""
    tokens: list[Emission] = []
    engine = Engine(drawn.timing.scaled(pace), slots=drawn.slots, seed=seed + 99, loaded=CONTEXT)
    lengths = seeded.lengths([(1, 1)] * REQUESTS, warmups=0)
    streams = open_loop(engine, cold_requests(lengths), list(seeded.instants_s(rate)), see=tokens.append)
    figures, _ = figures_of_play(Played(streams, tokens, np.ones(len(streams), dtype=np.bool_)), None, sessions=False)
    return figures


def _examine(job: tuple[int, float]) -> list[Row]:
    try:
        return examine(*job)
    except PredictionError as error:
        print(job[0], error, flush=True)
        return []


def table(rows: Sequence[Row]) -> str:
    lines = ["| utilisation | loads | " + " | ".join(" ".join(name) for name in FIGURES) + " |"]
    lines.append("|" + "---|" * (2 + len(FIGURES)))
    for share in UTILISATIONS:
        mine = [row for row in rows if row.utilisation == share]
        if not mine:
            continue
        errors, inside = (np.array([getattr(row, name) for row in mine]) for name in ("errors", "inside"))
        cells = [
            f"{np.mean(np.abs(errors[:, i]) <= goal):.0%} within {goal:.0%}, {np.mean(np.abs(errors[:, i]) <= 2 * goal):.0%} "
            f"within {2 * goal:.0%}, median error {np.median(errors[:, i]):+.1%}, covered {inside[:, i].mean():.0%}"
            for i, goal in enumerate(GOALS)
        ]
        lines.append(f"| {share} | {len(mine)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print what misses by much, and the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    pace = float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    with ProcessPoolExecutor() as pool:
        rows = [row for found in pool.map(_examine, [(seed, pace) for seed in range(runs)]) for row in found]
    for row in rows:
        if any(abs(error) > 2 * goal for error, goal in zip(row.errors, GOALS, strict=True)):
            print(
                f"{row.seed}: {row.what}, {row.utilisation}: " + " ".join(f"{error:+.0%}" for error in row.errors),
                row.way,
            )
    print(table(rows))


if __name__ == "__main__":
    main()
