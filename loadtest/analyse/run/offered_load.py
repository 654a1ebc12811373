"""The load of a level: users in a closed loop, or requests per second in an open loop."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loadtest import metrics
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.levels import LevelData
from loadtest.records import NOT_SENT, Outcome

FEW_TOKENS = 16  # a prompt longer by no more than this has a chat template, not a wrong length


def label(level: LevelData, prompt_tokens: FloatArray) -> str:
    """Return a level's label, with the real prompt length where it is not as asked: "4 streams · 1513 in (512 asked)"."""
    named = str(level.get("label") or level.as_asked.label)
    known, asked = prompt_tokens[np.isfinite(prompt_tokens)], level.get("input_tokens")
    if not len(known) or not asked or level.get("sessions"):  # later turns hold what was said before
        return named
    shared = level.get("system_tokens") or 0
    got, whole = float(known.mean()) / (level.get("inputs") or 1), shared + asked
    if abs(got - whole) <= max(FEW_TOKENS, metrics.LENGTH_SHARE * whole):
        return named
    # Which part of a prompt came out longer is not known.
    said = f"{asked} in ({got:.0f} in all, {whole} asked)" if shared else f"{got:.0f} in ({asked} asked)"
    return named.replace(f"{asked} in", said, 1)


def per_second(run: RunData, index: int) -> float | None:
    """Return the rate at which measured requests of a level were due; None for fewer than two."""
    due = run.column("sched")[run.measured(index)]
    seconds = float(np.ptp(due)) if len(due) > 1 else 0.0
    return (len(due) - 1) / seconds if seconds > 0 else None


def missing(run: RunData, level: LevelData) -> Iterator[str]:
    """Yield a clause for each driver process that died during a level or before it: which part of the load is missing."""
    said = run.facts.get("workers")
    workers = said if isinstance(said, list) else []  # a Locust run has their number here
    # Workers share the streams of the whole level, also where these go to several models or servers.
    level = next((one for one in run.entire.levels if one["index"] == level["index"]), level)
    for worker in workers:
        died = worker.get("died")
        if not died or died["level"] > level["index"]:
            continue
        number, of, streams = worker["worker"], len(workers), level.get("concurrency")
        part = None if streams is None else len(range(number, int(streams), of))
        if part == 0:
            continue
        lacks = "one request in every " + str(of) if part is None else f"{part} of {streams} streams"
        when = f" at {died['time'][11:19]} UTC" if died["level"] == level["index"] else " in an earlier level"
        yield f"worker {number} died{when} ({died['why']}): {lacks} {'is' if part in (None, 1) else 'are'} missing"


def shed_requests(run: RunData, index: int) -> int:
    """Return how many requests of a level were not sent because of --max-in-flight."""
    rows = run.requests[run.measured(index)]
    stopped = rows["error"][rows["outcome"] == Outcome.CANCELLED]
    return sum(str(error).startswith(NOT_SENT) for error in stopped)
