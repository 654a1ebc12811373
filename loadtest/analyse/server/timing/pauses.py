"""Pauses: times without a token, though answers had begun or prompts were read, which no prompt of the run explains.

A prompt that is read before the next step keeps all streams waiting, too. So a pause is told only where the prompts that
may have been read in it take far less time than it lasts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, RunData, finite
from loadtest.analyse.server.queue.at_work import lone
from loadtest.analyse.server.timing.prefill_law import Prefill
from loadtest.metrics import S_PER_US

LEAST_S = 1.0  # the tail of ITL tells of shorter ones
UNUSUAL = 5.0  # a pause is at least so many typical gaps between the tokens of any stream
USUAL_TIME = 0.5  # share of a level's time that passes in gaps no longer than the typical one
FAR_LONGER = 2.0  # times what the prompts that may have been read in it take
CLIENT_ASLEEP = 0.5  # of a pause: the client was not awake for it either
SAMPLED_S = 1.0  # between two samples of the client


@dataclass(frozen=True, slots=True)
class Pause:
    """A time without a token."""

    level: int
    begin: float  # seconds since the run's first t_sched
    seconds: float
    answers: int  # that had begun before it, and went on after it
    prompts: int  # that were read in it, by the server's durations, where there were no such answers
    waiting: int  # requests that waited through it, where no prompt was read either


def find_pauses(run: RunData, prefill: Prefill | None) -> Iterator[Pause]:
    """Yield the pauses of a run, in order; without a speed of prefill those with no prompt in them."""
    for level in run.levels:
        rows = run.of_level(level["index"])
        longest = max((int(gaps.max(initial=0)) for gaps in run.itl.ticks(rows)), default=0) * S_PER_US
        before_text = run.column("prefill_s")[rows] + np.nan_to_num(run.column("queue_wait_s")[rows])
        if longest >= LEAST_S or (longest > 0 and (before_text >= LEAST_S).any()):
            yield from _pauses_of_level(run.only(rows), level["index"], prefill)


def _pauses_of_level(run: RunData, level: int, prefill: Prefill | None) -> Iterator[Pause]:
    owner = run.chunks.owner
    at = run.column("send")[owner] + run.chunks.flat * S_PER_US
    same = np.diff(owner) == 0
    begun, went_on = at[:-1][same], at[1:][same]
    every = np.sort(at)
    gaps = np.diff(every)
    usual = _typical_gap(gaps)
    alone = finite(run.column("queue_wait_s")[lone(run)])  # what each request waits on its way is no pause
    waits = float(np.median(alone) if len(alone) else np.nan_to_num(run.column("queue_wait_s")).min(initial=0.0))
    for place in np.flatnonzero(gaps >= max(LEAST_S, UNUSUAL * usual)):
        begin, end = float(every[place]), float(every[place + 1])
        answers = int(((begun <= begin) & (went_on >= end)).sum())
        begin, end, prompts, waiting = (begin, end, 0, 0) if answers else _before_text(run, begin, end)
        least = max(LEAST_S, FAR_LONGER * waits) if waiting else LEAST_S
        told = (answers or prompts or waiting) and end - begin >= least
        if told and _unexplained(run, begin, end, usual, prefill) and _client_was_awake(run, begin, end):
            yield Pause(level, begin, end - begin, answers, prompts, waiting)


def _before_text(run: RunData, begin: float, end: float) -> tuple[float, float, int, int]:
    """Return the part of a time in which prompts were read, and how many, or in which requests waited and nothing was read."""
    first, sent = run.column("first_token"), run.column("reached")
    began = (
        first
        - run.column("prefill_s")
        - np.nan_to_num(run.column("load_s"))
        - np.nan_to_num(run.column("made_before_s"))
    )
    inside = (began < end) & (first > begin)
    read_from = max(begin, float(np.min(began[inside], initial=end)))
    in_flight = (sent < read_from) & (run.column("end") > begin)
    waited = in_flight & (sent <= read_from - LEAST_S) & (began >= read_from)
    if np.isfinite(began[in_flight]).all() and waited.any():
        return max(begin, float(sent[waited].min())), read_from, 0, int(waited.sum())
    return read_from, end, int(inside.sum()), 0


def _typical_gap(gaps: FloatArray) -> float:
    """Return the gap in which, or in shorter ones, USUAL_TIME of the time lies."""
    ordered = np.sort(gaps)
    spent = np.cumsum(ordered)
    return float(ordered[np.searchsorted(spent, USUAL_TIME * spent[-1])])


def _unexplained(run: RunData, begin: float, end: float, usual: float, prefill: Prefill | None) -> bool:
    """Whether the prompts that may have been read meanwhile take far less: those whose first token came soon after, or never.

    A long one may go on after the pause, which was its first slice.
    """
    first, sent, over = run.column("first_token"), run.column("send"), run.column("end")
    tokens = run.uncached_tokens
    tokens = np.where(np.isfinite(tokens), tokens, run.column("asked_input"))
    takes = np.zeros(len(first)) if prefill is None else prefill.seconds(tokens)
    soon = (first > begin) & (first <= end + 2 * usual + np.nan_to_num(takes))
    read = (sent < end) & (soon | (np.isnan(first) & (over > begin)))
    if not read.any():
        return True
    if prefill is None:
        return False
    return bool(end - begin > FAR_LONGER * float(takes[read].sum()))  # not where a length is unknown


def _client_was_awake(run: RunData, begin: float, end: float) -> bool:
    """Whether samples of that time show the client awake; without any it is not known."""
    gap = run.samples["loop_gap_us"].to_numpy(dtype=np.float64) * S_PER_US
    t = run.samples["t"].to_numpy(dtype=np.float64)
    meanwhile: BoolArray = (t >= begin) & (t - np.maximum(gap, SAMPLED_S) <= end)
    return bool(meanwhile.any() and (gap[meanwhile] < CLIENT_ASLEEP * (end - begin)).all())
