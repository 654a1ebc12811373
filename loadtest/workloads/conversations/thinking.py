"""How long a user thinks before a request: a pure function of the seed, the level, the session and its turn."""

from __future__ import annotations

import random

from loadtest.scenario import Scenario, times_of
from loadtest.workloads.job import Job
from loadtest.workloads.nonce import seed_from


def think_time(scenario: Scenario, job: Job) -> float:
    """Return how long the user pauses between the answer before and this job, seconds."""
    asked = scenario.think_time
    if not isinstance(asked, str):
        return asked
    session = job.id if job.session is None else job.session
    rng = random.Random(seed_from("think", scenario.seed, job.level, session, job.turn or 0, job.warmup))
    return times_of(asked).seconds(rng)


def mean_think_time(scenario: Scenario) -> float:
    """Return the mean of a scenario's think times, seconds."""
    return times_of(scenario.think_time).mean
