"""What a level put on the server: so many streams at once (closed loop), or so many requests a second (open loop)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from loadtest import metrics
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import Run
from loadtest.records import NOT_SENT, Outcome
from loadtest.scenario import Level

FEW_TOKENS = 16  # a prompt off by less than this is a chat template, not a wrong length


def is_open(level: dict[str, Any]) -> bool:
    """Whether requests were sent when due, whoever still waited; takes a level of run.json or of summary.json."""
    return level.get("concurrency") is None


def level_of(level: dict[str, Any]) -> Level:
    """Return a level of run.json or of summary.json as its scenario had it, so that it is named the same."""
    keys = ("concurrency", "rate", "rate_to", "trace", "input_tokens", "output_tokens", "words")
    return Level(index=level["index"], requests=0, **{key: level.get(key) for key in keys})


def load_name(level: dict[str, Any]) -> str:
    """Name a level's load as its label does: "8 streams", "4 requests/s"."""
    if is_open(level) and level.get("rate") is None and level.get("trace") is None:
        return "an unknown load"
    return level_of(level).load


def label(level: dict[str, Any], prompt_tokens: FloatArray) -> str:
    """Name a level, with the prompts' length as it was where that is not what was asked: "4 streams · 1513 in (512 asked)"."""
    named = str(level.get("label") or level_of(level).label)
    known, asked = prompt_tokens[np.isfinite(prompt_tokens)], level.get("input_tokens")
    if not len(known) or not asked:
        return named
    got = float(known.mean())
    if abs(got - asked) <= max(FEW_TOKENS, metrics.LENGTH_SHARE * asked):
        return named
    return named.replace(f"{asked} in", f"{got:.0f} in ({asked} asked)", 1)


def amount(level: dict[str, Any]) -> float:
    """Return where a level of summary.json stands on its series' axis: streams, or requests/s; 0 where unknown.

    Of a ramp or a trace it is the mean rate that was due.
    """
    if not is_open(level):
        return float(level["concurrency"])
    steady = level.get("rate_to") is None and level.get("rate")
    return float(steady or level.get("offered_per_s") or level.get("rate") or 0.0)


def axis(levels: Iterable[dict[str, Any]]) -> str:
    """Name the axis that these levels lie on."""
    kinds = {is_open(level) for level in levels}
    if kinds == {True}:
        return "offered load (requests/s)"
    return "concurrency (streams at once)" if kinds <= {False} else "streams at once, or requests/s"


def per_second(run: Run, index: int) -> float | None:
    """Return how many requests a second were due in a level, warm-up left out; None for fewer than two."""
    due = run.column("sched")[run.measured(index)]
    seconds = float(np.ptp(due)) if len(due) > 1 else 0.0
    return (len(due) - 1) / seconds if seconds > 0 else None


def missing(run: Run, level: dict[str, Any]) -> Iterator[str]:
    """Say for each driver process that died before the end of a level, or before it, what the level lacks of its part."""
    said = run.facts.get("workers")
    workers = said if isinstance(said, list) else []  # of a Locust run it is how many
    # The workers share a level's streams whichever model or server each is for.
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


def shed_requests(run: Run, index: int) -> int:
    """Return how many requests of a level were not sent, for --max-in-flight others were in flight."""
    rows = run.requests[run.measured(index)]
    stopped = rows["error"][rows["outcome"] == Outcome.CANCELLED]
    return sum(str(error).startswith(NOT_SENT) for error in stopped)


def shared(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the parts that all of several levels' labels share, such as their lengths, and each label without them."""
    parts = [label.split(" · ") for label in labels]
    common = [part for part in parts[0] if all(part in other for other in parts)] if len(parts) > 1 else []
    return common, [
        " · ".join(part for part in own if part not in common) or label
        for own, label in zip(parts, labels, strict=True)
    ]
