"""The requests of a workload, one by one: those that begin its sessions."""

from __future__ import annotations

from loadtest.scenario import Level
from loadtest.workloads.job import Job
from loadtest.workloads.workload import Workload


def first_job(workload: Workload, level: Level, i: int, *, warmup: bool = False) -> Job:
    job = workload.session(level, i, warmup=warmup).next(None)
    assert job is not None, "a session has at least one job"
    return job
