"""What other requests' prompts cost: those that are read together with one's own, and those that interrupt its decoding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run.arrays import BoolArray, FloatArray, finite
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.levels import LevelData, Series
from loadtest.analyse.server.timing.prefill import NEAR_S
from loadtest.text import percent, seconds

LEAST_STALL = 0.05  # of the time that a stream decodes
MOST_HIT = 0.6  # share of the answers that a few are at most
LITTLE = 0.1  # share of their loss that the others lose at most
LOSSES_ALIKE = 0.2  # share by which losses lie round their median, to be one figure
LEAST_SHARED, LEAST_SLOWER = 0.5, 1.25  # share of the prompts that are read together; times as long as a prompt alone
SAME_LENGTH = 0.1  # share by which prompts that are compared differ in length


def stalling(run: RunData, series: Series) -> Finding | None:
    """Say what share of the decode others' prompts took at the highest concurrency; None below a twentieth.

    Where a few answers lose nearly all of it, a mean would stand for nobody: those are counted.
    """
    levels = series.believed
    if not levels or levels[-1].get("concurrency") == 1:  # a stream alone has no others
        return None
    level = levels[-1]
    stall, e2e, ttft = level.figure("stall_s"), level.figure("e2e_s"), level.mean_ttft
    if not stall or e2e is None or ttft is None or e2e <= ttft or stall < LEAST_STALL * (e2e - ttft):
        return None
    at, share = level.load, percent(stall / (e2e - ttft))
    if said := _loss_of_a_few(finite(run.column("stall_s")[run.good(level["index"])])):
        return Finding(f"At {at}, {said}; the mean over all answers is {seconds(stall)}, {share} of their decode time.")
    return Finding(
        f"At {at}, other requests' prompts interrupt a stream for {seconds(stall)} in all, {share} of its decode time."
    )


def _loss_of_a_few(stalls: FloatArray) -> str | None:
    """Return what those lose who lose much, where the others lose next to nothing; None where the mean tells it."""
    hit = stalls > stalls.mean() / 2 if len(stalls) else np.zeros(0, dtype=np.bool_)
    if not hit.any() or hit.mean() > MOST_HIT:
        return None
    lost, usual = stalls[hit], float(np.median(stalls[hit]))
    if stalls[~hit].max(initial=0.0) > LITTLE * usual:
        return None
    alike = bool((np.abs(lost - usual) <= LOSSES_ALIKE * usual).all())
    each = f"about {seconds(usual)}" if alike else f"{seconds(float(lost.min()))} to {seconds(float(lost.max()))}"
    return (
        f"{percent(float(hit.mean()))} of the answers lose {each} each to other requests' prompts, which interrupt their decoding, "
        "and the others next to nothing"
    )


class _Prefills(NamedTuple):
    """The prefills of a level that the server gave durations of."""

    seconds: FloatArray
    together: FloatArray  # how many prompts began and ended with each, itself among them
    tokens: FloatArray  # of its prompt that were not cached


def reading_together(run: RunData, series: Series) -> Finding | None:
    """Say how much longer prefill takes where most prompts are read with others at once, against prompts read alone."""
    levels = series.believed
    if not levels or any(level.is_open for level in levels) or levels[0]["concurrency"] != 1:
        return None
    alone = _prefills(run, levels[0])
    if not len(alone.seconds) or (alone.together > 1).any():
        return None
    usual, found = float(np.median(alone.seconds)), None
    for level in levels[1:]:
        here = _prefills(run, level)
        if not len(here.seconds) or (here.together > 1).mean() < LEAST_SHARED:
            continue
        slower = float(np.median(here.seconds))
        same = abs(np.median(here.tokens) / np.median(alone.tokens) - 1) <= SAME_LENGTH
        if (
            same
            and LEAST_SLOWER <= slower / usual <= LEAST_SLOWER * here.together.max()  # past that it was not they alone
            and (found is None or slower > LEAST_SLOWER * found[1])
        ):
            found = level, slower, here
    if found is None:
        return None
    level, slower, here = found
    most = int(here.together.max())
    return Finding(
        f"At {level.load}, prompts are read together, up to {most} at once: the median prefill is {seconds(slower)}, "
        f"against {seconds(usual)} of a prompt alone.",
        f"{percent(float((here.together > 1).mean()))} of the prompts there began and ended their prefill with another one's, by "
        "the server's own durations.",
    )


def _prefills(run: RunData, level: LevelData) -> _Prefills:
    """Return the prefills of a level's measured requests; of its warm-ups too it is known whom they were read with."""
    tokens = run.uncached_tokens
    of_level = run.of_level(level["index"])
    took, first = run.column("prefill_s"), run.column("first_token")
    rows = np.flatnonzero(of_level & np.isfinite(took) & np.isfinite(first) & (tokens > 0))
    rows = rows[np.argsort(first[rows], kind="stable")]
    together = np.ones(len(rows))
    if len(rows):
        group = np.cumsum((np.diff(first[rows], prepend=first[rows[0]]) > NEAR_S) | _apart(first[rows] - took[rows]))
        together = np.bincount(group)[group].astype(np.float64)
    good = run.good(level["index"])[rows]
    return _Prefills(took[rows][good], together[good], tokens[rows][good])


def _apart(starts: FloatArray) -> BoolArray:
    """Mark the starts that are not near the one before."""
    return np.asarray(np.abs(np.diff(starts, prepend=starts[0])) > NEAR_S, dtype=np.bool_)
