"""The load of a level: users in a closed loop, or requests per second in an open loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from loadtest import metrics
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.records import NOT_SENT, Outcome
from loadtest.scenario import Level

FEW_TOKENS = 16  # a prompt longer by no more than this has a chat template, not a wrong length


def is_open(level: dict[str, Any]) -> bool:
    """Return whether a level of run.json or summary.json was an open loop: requests are sent when due."""
    return level.get("concurrency") is None


def level_of(level: dict[str, Any]) -> Level:
    """Return a level of run.json or summary.json as a scenario's level, which has the names for it."""
    keys = [
        *("concurrency", "rate", "rate_to", "trace", "words", "system_tokens"),
        *("input_tokens", "output_tokens", "input_lengths", "output_lengths"),
    ]
    given: dict[str, Any] = {key: level.get(key) for key in keys}
    given |= {"inputs": level.get("inputs") or 1, "turns": level.get("turns"), "sessions": bool(level.get("sessions"))}
    return Level(index=level["index"], requests=0, **given)


def load_name(level: dict[str, Any]) -> str:
    """Return the name of a level's load as in its label: "8 streams", "4 requests/s"."""
    if is_open(level) and level.get("rate") is None and level.get("trace") is None:
        return "an unknown load"
    return level_of(level).load


def label(level: dict[str, Any], prompt_tokens: FloatArray) -> str:
    """Return a level's label, with the real prompt length where it is not as asked: "4 streams · 1513 in (512 asked)"."""
    named = str(level.get("label") or level_of(level).label)
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


def amount(level: dict[str, Any]) -> float:
    """Return a level's load as a number: users, or requests/s (of a ramp or trace the mean rate due); 0 where unknown."""
    if not is_open(level):
        return float(level["concurrency"])
    steady = level.get("rate_to") is None and level.get("rate")
    return float(steady or level.get("offered_per_s") or level.get("rate") or 0.0)


def axis(levels: Iterable[dict[str, Any]]) -> str:
    """Return the name of the axis that these levels lie on."""
    known = list(levels)
    kinds = {is_open(level) for level in known}
    if kinds == {True}:
        return "offered load (requests/s)"
    people = any(level_of(level).sessions for level in known)
    if kinds <= {False}:
        return users_axis(people=people)
    return f"{'people' if people else 'streams at once'}, or requests/s"


def users_axis(*, people: bool) -> str:
    """Return the name of the axis of a closed loop's users."""
    return "concurrency (people)" if people else "concurrency (streams at once)"


def per_second(run: RunData, index: int) -> float | None:
    """Return the rate at which measured requests of a level were due; None for fewer than two."""
    due = run.column("sched")[run.measured(index)]
    seconds = float(np.ptp(due)) if len(due) > 1 else 0.0
    return (len(due) - 1) / seconds if seconds > 0 else None


def missing(run: RunData, level: dict[str, Any]) -> Iterator[str]:
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


def shared(labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the parts that all labels share, such as lengths, and each label without them; of one label all but the load."""
    parts = [label.split(" · ") for label in labels]
    common = [part for part in parts[0][len(parts) == 1 :] if all(part in other for other in parts)]
    return common, [
        " · ".join(part for part in own if part not in common) or label
        for own, label in zip(parts, labels, strict=True)
    ]


def name_among(level: dict[str, Any], levels: Sequence[dict[str, Any]]) -> str:
    """Return the label of one of these levels without what all of them share, which charts say under their title."""
    _, names = shared([one["label"] for one in levels])
    return next(name for one, name in zip(levels, names, strict=True) if one is level)
