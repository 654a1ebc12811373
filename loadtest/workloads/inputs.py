"""Several texts in one request, for embeddings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from loadtest.scenario import Scenario
from loadtest.workloads.job import Job
from loadtest.workloads.nonce import seed_from


def with_inputs(job: Job, scenario: Scenario, text: Callable[[int], str]) -> Job:
    """Return the job with as many inputs as the scenario asks for, the first its own prompt; `text` makes one of a seed.

    The length asked for is that of all inputs together, as the server counts them.
    """
    count = scenario.inputs_per_request
    if count == 1:
        return job
    more = (job.seed if scenario.warm_cache else seed_from(job.seed, "input", number) for number in range(1, count))
    asked = None if job.input_tokens is None else job.input_tokens * count
    return dataclasses.replace(job, inputs=(job.prompt, *map(text, more)), input_tokens=asked)
