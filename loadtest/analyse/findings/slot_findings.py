"""How many requests the server handles in parallel, as far as levels that are not void show it, in sentences."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run.levels import LevelData, believed
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import Analysis
from loadtest.analyse.whatif.model.fit import known_slots
from loadtest.records import TURNED_AWAY
from loadtest.text import counted, listed, some_of


def believed_slots(analysis: Analysis) -> Slots:
    """Return the slots as far as levels that are not void show them: a lower bound where only void ones show the limit."""
    slots, levels = analysis.slots, analysis.levels
    good = believed(levels)
    if slots.estimate is None or len(good) == len(levels):
        return slots
    if not good:
        return Slots(None, limit=False, method=slots.method)
    seen = max(int(level["peak_decoding"]) for level in good)
    loaded = any(level.is_open or level["concurrency"] > slots.estimate for level in good)
    if slots.limit and loaded and seen >= slots.estimate:
        return slots
    return Slots(min(seen, slots.estimate), limit=False, method=slots.method)


def slot_limit(analysis: Analysis) -> int | None:
    """Return how many slots the server has where levels that are not void show it; None where they show none, or a lower bound."""
    slots = believed_slots(analysis)
    return slots.estimate if slots.limit else None


def slots_told(analysis: Analysis) -> str | None:
    """Return who knows the limit that the run did not reach, as "the server says 12"; None where it did, or nobody does."""
    known = known_slots(analysis.run, analysis.slots)
    if analysis.slots.limit or known.limit is None:
        return None
    who = "the server says" if (analysis.run.facts.get("server") or {}).get("slots_said") == known.limit else None
    return f"{who or 'bursts before the run showed'} {known.limit}"


def only_void(levels: Iterable[LevelData]) -> str:
    """Return "only a void level shows", "only void levels show": where a limit is known from."""
    void = sum(level.is_void for level in levels)
    return "only a void level shows" if void == 1 else "only void levels show"


def what_happens(analysis: Analysis) -> str:
    """Say what happens to requests past the limit: they queue; that some were turned away may be a limit of another kind."""
    status = np.asarray(analysis.run.requests["status"], dtype=np.float64)
    refused = sorted({int(code) for code in TURNED_AWAY if (status == code).any()})
    if not refused:
        return "queue"
    count = int(np.isin(status, refused).sum())
    were = "was" if count == 1 else "were"
    return f"queue ({some_of(count, len(status), 'request')} {were} turned away, HTTP {listed(refused)})"


def slots_finding(analysis: Analysis) -> Finding:
    """Say how many requests the server handles in parallel, and what that rests on."""
    slots, levels = believed_slots(analysis), analysis.levels
    if analysis.slots.estimate is None:
        return Finding("No stream was seen decoding, so nothing is known about the server's slots.")
    evidence = f"{slots.method}." if slots.method else ""
    if slots.estimate is None:
        evidence += " All of that is from void levels: measure again before you rely on it."
        return Finding("How many requests the server handles in parallel is not known: every level is void.", evidence)
    if slots.limit:
        what = "one request at a time" if slots.estimate == 1 else f"{slots.estimate} requests in parallel"
        return Finding(f"The server handles {what}; further requests {what_happens(analysis)}.", evidence)
    least = counted(slots.estimate, "request")
    unseen = slots_told(analysis) or "its limit was not seen"
    unseen = f"{only_void(levels)} its limit" if analysis.slots.limit else unseen
    if analysis.slots.limit or slots.estimate != analysis.slots.estimate:
        evidence += " Void levels are part of that: measure them again before you rely on it."
    return Finding(f"The server handles at least {least} in parallel; {unseen}.", evidence)
