"""The load of a level: users in a closed loop, or requests per second in an open loop."""

from __future__ import annotations

import numpy as np

from loadtest import metrics
from loadtest.analyse.run.arrays import FloatArray, finite
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.levels import LevelData
from loadtest.records import NOT_SENT, Outcome

FEW_TOKENS = 16  # a prompt longer by no more than this has a chat template, not a wrong length


def label(level: LevelData, prompt_tokens: FloatArray) -> str:
    """Return a level's label, with the real prompt length where it is not as asked: "4 streams · 1513 in (512 asked)"."""
    named = str(level.get("label") or level.as_asked.label)
    known, asked = finite(prompt_tokens), level.get("input_tokens")
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


def shed_requests(run: RunData, index: int) -> int:
    """Return how many requests of a level were not sent because of --max-in-flight."""
    rows = run.requests[run.measured(index)]
    stopped = rows["error"][rows["outcome"] == Outcome.CANCELLED]
    return sum(str(error).startswith(NOT_SENT) for error in stopped)
