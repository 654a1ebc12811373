"""How many requests the server handles in parallel, as far as levels that are not void show it, in sentences.

And what that shows of what stands behind its URL: more servers than the one that was asked, or a gateway that lets fewer through.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run import LevelData
from loadtest.analyse.summary import Analysis
from loadtest.metrics import SEVERAL_TOKENS
from loadtest.records import TURNED_AWAY
from loadtest.text import counted, listed, percent, some_of


def slots_told(analysis: Analysis) -> str | None:
    """Return who knows the limit that the run did not reach, as "the server says 12"; None where it did, or nobody does."""
    known = analysis.known_slots.number
    if analysis.slots.limit or known is None:
        return None
    by_server = analysis.run.fact("server", "slots_said") == known
    return f"{'the server says' if by_server else 'bursts before the run showed'} {known}"


def only_void(levels: Iterable[LevelData]) -> str:
    """Return "only a void level shows", "only void levels show": where a limit is known from."""
    return "only a void level shows" if sum(level.is_void for level in levels) == 1 else "only void levels show"


def what_happens(analysis: Analysis) -> str:
    """Say what happens to requests past the limit: they queue; that some were refused may be a limit of another kind."""
    run = analysis.run
    status = run.column("status")[~run.flag("warmup")]
    refused = sorted({int(code) for code in TURNED_AWAY if (status == code).any()})
    if not refused:
        return "queue"
    count = int(np.isin(status, refused).sum())
    return f"queue ({some_of(count, len(status), 'request')} got HTTP {listed(refused)})"


def slots_finding(analysis: Analysis) -> Finding:
    """Say how many requests the server handles in parallel, and what that rests on."""
    slots, levels = analysis.believed_slots, analysis.levels
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
    unseen = slots_told(analysis) or slots.unknown
    unseen = f"{only_void(levels)} its limit" if analysis.slots.limit else unseen
    if analysis.slots.limit or slots.estimate != analysis.slots.estimate:
        evidence += " Void levels are part of that: measure them again before you rely on it."
    return Finding(f"The server handles at least {least} in parallel; {unseen}.", evidence)


def behind_the_url(analysis: Analysis) -> Finding | None:
    """Say where the slots that a server says do not fit what was seen at work, else where streams share no steps."""
    found = _other_slots(analysis)
    if found or not analysis.steps.apart or not analysis.believed:
        return found
    gathered = analysis.run.tokens_a_piece(analysis.run.flag("ok")) >= SEVERAL_TOKENS
    why = "the server or a gateway gathers several tokens of each stream before it sends them, " if gathered else ""
    why += (
        "several servers stand behind this URL, each stream has a worker of its own, or the way or a busy machine delays each stream "
        "by itself"
    )
    return Finding(
        f"Streams that decode together do not get their tokens together: {why}.",
        f"{percent(analysis.steps.out_of_step or 0.0)} of the pairs of such streams got theirs at different moments. So a step time "
        "by the number of streams, a speed of prefill beside them and batch wait are not said; measure each server by its own URL as "
        "well.",
    )


def _other_slots(analysis: Analysis) -> Finding | None:
    said, slots = analysis.run.fact("server", "slots_said"), analysis.slots
    levels = analysis.believed
    if not isinstance(said, int) or said < 1 or slots.estimate is None or not levels:
        return None
    if slots.estimate > said and max(int(level.get("peak_decoding") or 0) for level in levels) > said:
        return Finding(
            f"More than one server stands behind this URL: at least {counted(slots.estimate, 'request')} were at work at once, "
            f"and the server that was asked has {counted(said, 'slot')}.",
            "What `loadtest check` and monitors read there is of one server at a time, each has a prefix cache of its own, and step "
            "times and predictions take all of them for one; measure each by its own URL as well.",
        )
    if slots.limit and slots.estimate < said:
        return Finding(
            f"No more than {counted(slots.estimate, 'request')} at a time got through, though the server says that it has "
            f"{counted(said, 'slot')}.",
            "A gateway on the way may have a limit of its own (HAProxy: maxconn of the server), or others use this server.",
        )
    return None
