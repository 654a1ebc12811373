"""When users hang up: how long each waits for the first token, and after which piece of the answer some leave it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from loadtest.scenario import Scenario, times_of
from loadtest.workloads.job import Job
from loadtest.workloads.source import seed_from


@dataclass(frozen=True, slots=True)
class Stay:
    """How long one user stays with one request."""

    patience_s: float | None = None  # for the first token; None: for ever
    pieces: int | None = None  # of the answer, after which the user hangs up; None: to its end
    of: int = 0  # tokens that were expected


STAYS = Stay()


def stay_of(scenario: Scenario, job: Job) -> Stay:
    """Return how long the user of a job stays, by the seed and the job's place in the plan alone.

    Warm-ups stay to the end, for they show nothing.
    """
    patience, share = scenario.patience, scenario.leave or 0.0
    if job.warmup or (patience is None and not share):
        return STAYS
    place = job.session if job.session is not None else job.id
    rng = random.Random(seed_from(scenario.seed, "stay", job.level, place, job.turn))
    patience_s = None if patience is None else times_of(patience).seconds(rng)
    expected = job.output_tokens or 0
    leaves = rng.random() < share and expected > 0
    return Stay(patience_s, rng.randint(1, max(expected - 1, 1)) if leaves else None, expected)
