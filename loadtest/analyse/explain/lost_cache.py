"""What of a request's prompt the server had in its prefix cache and read again, and whose prompts had taken its place."""

from __future__ import annotations

import math

import numpy as np

from loadtest.analyse.explain import time_parts
from loadtest.analyse.explain.time_parts import LostCache
from loadtest.analyse.explain.timeline import Timeline, cause_of
from loadtest.analyse.run import RunData

MOST_CHAINED = 4  # conversations that pushed one another out of the cache


def lost_cache(run: RunData, timeline: Timeline, row: int, depth: int = 0) -> LostCache | None:
    """Return what the request read again although an earlier turn of its session had left it in the cache.

    Only where the server says how many tokens it had cached, and none is expected of a request by itself.
    """
    cached = run.column("cached_tokens")[row]
    if not math.isfinite(cached):
        return None
    session, turn = run.column("session"), run.column("turn")
    here = (session == session[row]) & (timeline.level == timeline.level[row]) & (turn < turn[row])
    before = np.flatnonzero(here & np.isfinite(timeline.last) & np.isfinite(timeline.prompt))
    if not len(before):
        return None
    latest = int(max(before, key=lambda each: turn[each]))
    had = float(timeline.prompt[latest] + np.nan_to_num(run.column("output_tokens")[latest]))
    had = min(had, float(timeline.prompt[row]))
    # The last token of an answer was never read, and templates differ by a few tokens from turn to turn.
    missing = had - cached
    if missing <= max(16.0, 0.05 * had):
        return None
    between = np.flatnonzero(
        (timeline.won >= timeline.last[latest]) & (timeline.won < timeline.won[row]) & (timeline.tokens > 0)
    )
    strange = np.nan_to_num(run.column("cached_tokens")) < 0.5 * timeline.prompt
    found = [int(each) for each in between if each != row and strange[each]]
    fresh = [each for each in found if not (np.isfinite(session[each]) and turn[each] > 0)]
    ordered = sorted(found, key=lambda each: (each not in fresh, -timeline.tokens[each]))
    causes = tuple(cause_of(run, timeline, each, 0.0, time_parts.REREAD) for each in ordered)
    roots = {each: causes[ordered.index(each)] for each in fresh}
    if not roots and depth < MOST_CHAINED:
        for each in found:
            earlier = lost_cache(run, timeline, each, depth + 1)
            roots |= {one.row: one for one in earlier.newcomers} if earlier else {}
    return LostCache(
        round(missing),
        round(had),
        cause_of(run, timeline, latest, 0.0, time_parts.REREAD),
        causes,
        tuple(roots.values()),
    )


def lost_with(run: RunData, timeline: Timeline, row: int, newcomer: int | None) -> dict[int, int]:
    """Return the tokens that a request, and those behind the same newcomer, had lost from the cache, by row."""
    rows = [row]
    if newcomer is not None:
        rows += [
            int(each)
            for each in np.flatnonzero((timeline.won > timeline.won[newcomer]) & (timeline.won < timeline.won[row]))
        ]
    return {
        each: lost.tokens
        for each in rows
        if (lost := lost_cache(run, timeline, each)) is not None
        and (each == row or newcomer in [root.row for root in lost.newcomers])
    }
