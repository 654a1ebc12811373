"""Do the bands hold past the streams measured? Engines drawn at random.

An engine reads its weights once a step and takes a part for each stream and for each token of context; from some number of
streams on it may be bound by arithmetic, so that a step grows faster. Each is measured with few streams, all of which find
a slot, and asked for two to eight times as many. A figure is covered where one later run of the engine lies in its band.
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

from loadtest.analyse.run import frames
from loadtest.analyse.server.queue import slots
from loadtest.analyse.server.timing import steps
from loadtest.analyse.summary import analyse
from loadtest.analyse.whatif.model.extrapolation import allowing_for_growth
from loadtest.analyse.whatif.model.predict import ServerModel
from loadtest.analyse.whatif.model.self_check import as_measured
from loadtest.errors import PredictionError
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, play

RUNS = 60
FIGURES = (
    ("ttft_s", "p50"),
    ("ttft_s", "p95"),
    ("stream_tokens_per_s", "p50"),
    ("output_tokens_per_s", "mean"),
)
MOST_STREAMS = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """One load asked for: each figure's error, whether it lay in its band, and how wide that was."""

    measured: int
    users: int
    errors: tuple[float, ...]
    inside: tuple[bool, ...]
    widths: tuple[float, ...]


def draw(seed: int) -> tuple[Timing, tuple[int, ...]]:
    """Return an engine and the users it is measured with."""
    dice = random.Random(seed)
    base = 10 ** dice.uniform(-2.2, -1.3)
    each = base * 10 ** dice.uniform(-1.7, -0.3)
    knee = dice.choice((None, None, dice.uniform(2, 24)))
    line = [base * max(1.0, streams / knee if knee else 1.0) + each * streams for streams in range(1, MOST_STREAMS + 1)]
    timing = Timing(
        step=StepLaw(table=tuple((streams + 1, (seconds,)) for streams, seconds in enumerate(line))),
        prefill_s=base * 10 ** dice.uniform(-2, -1),
        context_s=dice.choice((0.0, 0.3 * base / 500 * dice.random())),
        jitter=dice.choice((0.0, 0.03, 0.1)),
    )
    return timing, dice.choice(((1,), (1, 2), (1, 2, 4), (2, 4)))


def examine(seed: int) -> list[Asked]:
    """Measure an engine, and hold what is said of more streams against later runs."""
    timing, measured = draw(seed)
    dice = random.Random(seed + 1)
    prompt, output = dice.choice(((100, 100), (20, 300), (50, 600))), dice.choice(((40, 40), (10, 120), (60, 160)))

    def load(users: int) -> Load:
        return Load(users=users, requests=max(8 * users, 24), prompt=prompt, output=output)

    says = dice.choice(("ollama", "llamacpp", None))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        loads = [load(users) for users in measured]
        run = frames.load(play(timing, loads, slots=MOST_STREAMS, seed=seed, says=says).write(Path(folder, "run")))
        known = slots.estimate_slots(run)
        model = ServerModel.of(run, known, steps.measure_steps(run, known))
        for times in (2, 4, 8):
            users = times * max(measured)
            said = allowing_for_growth(model, model.closed(users, requests=max(8 * users, 24)))
            later = play(timing, [load(users)], slots=MOST_STREAMS, seed=seed + 7, says=says)
            seen = as_measured(analyse(later.write(Path(folder, f"later{times}"))).summary["levels"][0], None)
            true = [seen.figure(*name) for name in FIGURES]
            bands = [said.bands[".".join(name)] for name in FIGURES]
            found.append(
                Asked(
                    max(measured) if len(measured) > 1 else 1,
                    times,
                    tuple(said.figure(*name) / value - 1 for name, value in zip(FIGURES, true, strict=True)),
                    tuple(low <= value <= high for (low, high), value in zip(bands, true, strict=True)),
                    tuple((high - low) / value for (low, high), value in zip(bands, true, strict=True)),
                )
            )
    return found


def _examine(seed: int) -> list[Asked]:
    try:
        return examine(seed)
    except PredictionError:
        return []


def table(rows: Sequence[Asked]) -> str:
    """Return coverage, median |error| and median width of the bands, by how far past the measured streams."""
    lines = ["| streams asked for | loads | covered | " + " | ".join(f"{a} {b}" for a, b in FIGURES) + " |"]
    lines.append("|" + "---|" * (3 + len(FIGURES)))
    for one in (True, False):
        for times in (2, 4, 8):
            mine = [row for row in rows if row.users == times and (row.measured == 1) == one]
            if not mine:
                continue
            inside, errors, widths = (
                np.array([getattr(row, name) for row in mine]) for name in ("inside", "errors", "widths")
            )
            cells = [
                f"{inside[:, i].mean():.0%}, error {np.median(np.abs(errors[:, i])):.0%}, width {np.median(widths[:, i]):.0%}"
                for i in range(len(FIGURES))
            ]
            what = f"{times} × {'1 (alone measured)' if one else 'the most of 2 to 3 levels'}"
            lines.append(f"| {what} | {len(mine)} | {inside.mean():.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    with ProcessPoolExecutor() as pool:
        rows = [row for found in pool.map(_examine, range(runs), chunksize=2) for row in found]
    print(table(rows))


if __name__ == "__main__":
    main()
