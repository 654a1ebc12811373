"""Does the insight hold? Servers and loads drawn at random, whose whole truth is known.

Each run folder is made by the engine in virtual time and analysed like any other. Held against the truth: the slots, the
step law, the prefill speed, and a prediction at a concurrency that was not measured. All of it is simulated.
"""

from __future__ import annotations

import math
import random
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.analyse.run import frames
from loadtest.analyse.server.queue import slots
from loadtest.analyse.server.timing import steps
from loadtest.analyse.whatif.model import predict
from loadtest.errors import LoadTestError
from loadtest.simulate.model.timing import StepLaw, Timing
from support.virtual_runs import Load, play

SLOTS = (1, 2, 3, 4, 6, 8)
RUNS = 200


@dataclass(frozen=True, slots=True)
class Truth:
    """One drawn server with the load that it is measured under, and the concurrency to predict."""

    timing: Timing
    slots: int
    says: str | None
    lifo: bool
    prompt: tuple[int, int]
    output: tuple[int, int]
    users: tuple[int, ...]
    untried: int

    @property
    def passed(self) -> bool:
        """Whether the load asked for more than the slots."""
        return max(self.users) > self.slots

    def loads(self) -> list[Load]:
        return [Load(users=n, requests=max(8 * n, 24), prompt=self.prompt, output=self.output) for n in self.users]


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one drawn run; errors are estimate / truth − 1, nan where nothing was claimed."""

    seed: int
    truth: Truth
    found: str  # slots as told to a user
    right: bool  # slots exactly right, or "at least" of no more than the truth where the load did not pass them
    named: bool  # a limit was named
    base: float
    per_stream: float
    prefill: float
    ttft_p50: float
    ttft_p95: float
    reason: str  # why no law or no prediction


def draw(seed: int) -> Truth:
    """Return the server and load of a seed."""
    dice = random.Random(seed)
    count = dice.choice(SLOTS)
    base = 10 ** dice.uniform(-2.2, -1.3)
    prompt = dice.choice(((100, 100), (20, 300), (400, 400), (50, 1200)))
    output = dice.choice(((40, 40), (10, 120), (100, 100), (60, 200)))
    timing = Timing(
        step=StepLaw(base, base * dice.uniform(0.05, 0.6)),
        prefill_s=base * 10 ** dice.uniform(-2, -0.9),
        jitter=dice.choice((0.0, 0.03, 0.1)),
        n_batch=dice.choice((512, 512, None)),
    )
    most = dice.choice((count, count + 1, 2 * count, 3 * count))
    users = tuple(sorted({1, 2, max(count // 2, 1), count, most}))
    users = tuple(n for n in users if n <= most)
    untried = dice.choice([n for n in (3 * count // 2 + 1, 2 * count + 2, 4 * count) if n not in users])
    says = dice.choice(("ollama", "ollama", "llamacpp", None))
    return Truth(timing, count, says, dice.random() < 0.3, prompt, output, users, untried)


def examine(seed: int) -> Row:
    """Make one run, analyse it, and hold what was found against the truth."""
    truth = draw(seed)
    played = play(truth.timing, truth.loads(), slots=truth.slots, seed=seed, says=truth.says, lifo=truth.lifo)
    with tempfile.TemporaryDirectory() as folder:
        run = frames.load(played.write(Path(folder, "run")))
    found = slots.estimate_slots(run)
    measured = steps.measure_steps(run, found)
    law, prefill = measured.law, measured.prefill
    exact = found.estimate == truth.slots
    least = found.estimate is not None and found.estimate <= truth.slots
    p50 = p95 = math.nan
    reason = "" if law is not None else f"no law: {measured.law_reason}"
    try:
        if found.limit:  # slots unknown: nothing past them can be told
            predicted = predict.ServerModel.of(run, found, measured).closed(truth.untried)
            seen = true_ttft(truth, seed)
            p50 = predicted.figure("ttft_s", "p50") / float(np.quantile(seen, 0.5)) - 1
            p95 = predicted.figure("ttft_s", "p95") / float(np.quantile(seen, 0.95)) - 1
    except LoadTestError as error:
        reason = str(error)
    return Row(
        seed=seed,
        truth=truth,
        found=str(found),
        right=exact if found.limit or truth.passed else least,
        named=found.limit,
        base=law.base_s / truth.timing.step.base_s - 1 if law else math.nan,
        per_stream=law.per_stream_s / truth.timing.step.per_stream_s - 1 if law else math.nan,
        prefill=prefill.per_token_s / truth.timing.prefill_s - 1 if prefill else math.nan,
        ttft_p50=p50,
        ttft_p95=p95,
        reason=reason,
    )


def true_ttft(truth: Truth, seed: int) -> list[float]:
    """Return TTFT of the drawn server itself at the untried concurrency, in three runs of other prompts, s."""
    load = Load(users=truth.untried, requests=max(16 * truth.untried, 100), prompt=truth.prompt, output=truth.output)
    found = []
    for again in range(3):
        lifo = truth.lifo
        played = play(truth.timing, [load], slots=truth.slots, seed=seed + 10_000 * (again + 1), lifo=lifo)
        records = [record for record in played.records if not record.warmup]
        found += [(record.t_first_token - record.t_send) / 1e9 for record in records]  # type: ignore[operator]
    return found


def examine_all(seeds: Sequence[int]) -> list[Row]:
    """Examine many on all cores, in the order of the seeds."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(examine, seeds, chunksize=4))


def table(rows: Sequence[Row]) -> str:
    """Return what was found as a Markdown table; shares of the runs where the figure was claimed."""
    passed = [row for row in rows if row.truth.passed]
    rest = [row for row in rows if not row.truth.passed]
    wrong = [row for row in rows if row.named and not row.right]
    lines = [
        f"Simulated: {len(rows)} random servers and loads.",
        "",
        "| what | of runs | share |",
        "|---|---|---|",
        (
            f"| slots exactly right and named as the limit, load passed them | {len(passed)} "
            f"| {_share(row.right and row.named for row in passed)} |"
        ),
        f'| "at least", never too many, load did not pass them | {len(rest)} | {_share(row.right for row in rest)} |',
        f"| a wrong limit named | {len(rows)} | {len(wrong) / len(rows):.1%} |",
    ]
    for name, words, within in (
        ("base", "step law: a within 5 %", 0.05),
        ("per_stream", "step law: b within 5 %", 0.05),
        ("prefill", "prefill a token within 5 %", 0.05),
        ("ttft_p50", "predicted TTFT p50, untried concurrency, within 10 %", 0.10),
        ("ttft_p95", "predicted TTFT p95, untried concurrency, within 10 %", 0.10),
    ):
        errors = [abs(getattr(row, name)) for row in rows if not math.isnan(getattr(row, name))]
        lines.append(f"| {words} | {len(errors)} | {_share(error <= within for error in errors)} |")
    return "\n".join(lines)


def _share(flags: Iterable[bool]) -> str:
    known = list(flags)
    return f"{sum(known) / len(known):.1%}" if known else "–"


def odd(row: Row) -> bool:
    """Whether a row misses anything."""
    near = all(not abs(error) > limit for error, limit in zip(_errors(row), (0.05, 0.05, 0.05, 0.1, 0.1), strict=True))
    return not (row.right and near and not row.reason)


def _errors(row: Row) -> tuple[float, ...]:
    return (row.base, row.per_stream, row.prefill, row.ttft_p50, row.ttft_p95)


def main() -> None:
    """Print every row that misses something, then the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    rows = examine_all(range(runs))
    for row in filter(odd, rows):
        t = row.truth
        said = " ".join(f"{error * 100:+.1f}%" for error in _errors(row))
        print(
            f"{row.seed}: {t.slots} slots (found {row.found}), users {t.users}→{t.untried}, says {t.says}, jitter {t.timing.jitter}, "
            f"prompt {t.prompt} × {t.timing.prefill_s * 1e3:.2f} ms, output {t.output}, a {t.timing.step.base_s * 1e3:.1f} ms, "
            f"n_batch {t.timing.n_batch}, lifo {t.lifo}: a b prefill p50 p95 {said} {row.reason}"
        )
    print(table(rows))


if __name__ == "__main__":
    main()
