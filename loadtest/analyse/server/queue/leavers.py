"""What users who hung up cost: their share of the slots, and how long the server worked on for nobody.

No server says that it goes on with an answer that nobody reads. It shows in its slots: while requests wait, a slot without
a visible stream is either being handed over or still at work for somebody who left.

    worked on = Σ (slots − streams at work) · time, while requests wait, less one usual handover for each slot that was freed

The usual handover is the mean over answers that ended while all slots were seen at work, until all were at work again. Whether
the server stops shows where the rest of those answers would have taken far longer than that: short answers end by themselves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.figures.rates import delivered
from loadtest.analyse.run import BoolArray, FloatArray, RunData
from loadtest.analyse.run.overlaps import Depth
from loadtest.analyse.server.queue.at_work import RequestInstants
from loadtest.analyse.server.queue.slots import Slots

FEWEST_HANDOVERS = 5  # of answers that ended, for a usual handover
LONG_S, LARGE_SHARE = 0.3, 0.1  # for each user who left, or of the slots' time: a server notices within 0.3 s
LONG_STEPS = 4  # … or within so many steps, where these are long
FAR_HANDOVER = 5.0  # times the median, from there on a handover was somebody's who had left, where users left the queue
ERRORS_APART = 2.0  # standard errors by which work for those who left must differ from none
MOST_OF_REST = 0.5  # of the time that the rest of their answers would have taken: beyond it a server worked on
ENDED, LEFT, BEGAN = range(3)  # kinds of events in a slot, in the order in which those of one instant count


@dataclass(frozen=True, slots=True)
class WorkedOn:
    """How long a level's server worked for users who had left; seconds of one slot."""

    slots: int
    left: int  # users who hung up, while they waited or in mid-answer
    seconds: float  # in all
    error_s: float  # standard error of `seconds`
    held_s: float  # by users who left, until they hung up
    at_work_s: float  # of all slots together
    handovers: int  # of answers that ended, from which the usual one is taken …
    handover_s: float  # … its mean
    gap_s: float = 0.0  # usual time between two tokens of a stream
    rest_s: float = 0.0  # that the rest of their answers would have taken, had they been as long as others; 0: unknown

    @property
    def each_s(self) -> float:
        return self.seconds / self.left

    @property
    def seen(self) -> bool | None:
        """Whether it is more than chance, and either more than it takes any server to notice or most of the answers' rest.

        None where it is neither that nor surely less than half of the rest, or where that is not known.
        """
        long = self.each_s > max(LONG_S, LONG_STEPS * self.gap_s) or self.seconds > LARGE_SHARE * self.at_work_s
        half, error = MOST_OF_REST * self.rest_s, ERRORS_APART * self.error_s
        most = half > 0 and self.seconds - error > half and self.each_s > LONG_STEPS * self.gap_s
        if self.seconds > error and (long or most):
            return True
        return False if self.seconds + error < half else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "slots": self.slots,
            "held_share": self.held_s / self.at_work_s if self.at_work_s else None,
            "worked_on_s": max(self.seconds, 0.0),
            "worked_on_each_s": max(self.each_s, 0.0),
            "worked_on_error_s": self.error_s,
            "worked_on_share": max(self.seconds, 0.0) / self.at_work_s if self.at_work_s else None,
            "worked_on": self.seen,
            "rest_s": self.rest_s or None,
            "handover_s": self.handover_s,
            "handovers": self.handovers,
        }


def left_figures(run: RunData, index: int, slots: Slots) -> dict[str, Any]:
    """Return what summary.json says of a level's users who hung up; nothing where none did."""
    left = run.left(index)
    if not left.any():
        return {}
    seen = np.isfinite(run.column("first_token"))
    sent = run.sent(index)
    waited = (run.column("end") - run.column("send"))[left & ~seen]
    found: dict[str, Any] = {
        "users": int(left.sum()),
        "share": float(left.sum() / sent.sum()),
        "waiting": int((left & ~seen).sum()),
        "waited_p50_s": float(np.median(waited)) if len(waited) else None,
        "in_answer": int((left & seen).sum()),
        "output_tokens": float(np.nansum(delivered(run)[left])),
    }
    told = worked_on(run, run.of_level(index), slots)
    if isinstance(told, str):
        return {"left": {**found, "worked_on_s": None, "worked_on_s_reason": told}}
    return {"left": {**found, **told.to_dict()}}


def worked_on(run: RunData, rows: BoolArray, slots: Slots) -> WorkedOn | str:
    """Return how long the server worked for nobody in the level of `rows`; a reason where that cannot be told."""
    limit = run.fact("server", "slots_said") or slots.number  # of more slots than were seen, one may work on unseen
    if not limit:
        return "the server's slots are not known"
    requests = RequestInstants.of(run, rows)
    keep = rows & np.isfinite(run.column("send"))
    left = run.flag("left")[keep]
    gone = np.where(left, run.column("end")[keep], requests.gone)
    at_work = np.isfinite(requests.begun) & np.isfinite(gone)
    if not at_work.any():
        return "no stream was seen at work"
    begun = requests.begun[at_work]
    gone_at = np.maximum(gone[at_work], begun)
    waits_until = np.where(at_work, requests.begun, gone)
    work, waiting = Depth.of(begun, gone_at), Depth.of(requests.arrived, np.maximum(waits_until, requests.arrived))
    times, empty = _empty_slots(work, waiting, int(limit))
    usual = _handovers(times, empty, gone_at[~left[at_work]], gone_at[left[at_work]], begun, int(limit))
    if len(usual) and (left & ~at_work).any():  # the next in line may have left before its turn came
        usual = usual[usual <= FAR_HANDOVER * float(np.median(usual)) + requests.gap]
    if len(usual) < FEWEST_HANDOVERS:
        return "too few answers ended while requests waited to know what a handover takes"
    handover, spread = float(usual.mean()), float(usual.std(ddof=1))
    freed = int((gone_at < begun.max()).sum())
    return WorkedOn(
        slots=int(limit),
        left=int(left.sum()),
        seconds=float(empty[-1]) - freed * handover,
        error_s=spread * math.sqrt(freed + freed**2 / len(usual)),
        held_s=float((gone_at - begun)[left[at_work]].sum()),
        at_work_s=float((gone_at - begun).sum() + empty[-1]),
        handovers=len(usual),
        handover_s=handover,
        gap_s=requests.gap,
        rest_s=_rest_tokens(run, rows, _never_begun(requests, left & ~at_work, gone, keep)) * requests.gap,
    )


def _never_begun(requests: RequestInstants, waiting: BoolArray, gone: FloatArray, keep: BoolArray) -> BoolArray:
    """Mark the rows of users who left while one that had come before them still waited: no work for them had begun."""
    order = np.argsort(requests.arrived, kind="stable")
    latest = np.maximum.accumulate(np.nan_to_num(requests.begun[order], nan=-np.inf))
    behind = np.zeros(len(keep), dtype=np.bool_)
    behind[np.flatnonzero(keep)[order]] = waiting[order] & (latest > gone[order]) & requests.mostly_told
    return behind


def _rest_tokens(run: RunData, rows: BoolArray, never_begun: BoolArray) -> float:
    """Return how many tokens users who left did not get of answers as long as the median one; 0 where none ended."""
    got = delivered(run)
    ok, left = run.flag("ok"), run.flag("left") & ~never_begun
    whole = got[rows & ok & np.isfinite(got)]
    return float(np.maximum(np.median(whole) - np.nan_to_num(got[rows & left]), 0.0).sum()) if len(whole) else 0.0


def _empty_slots(work: Depth, waiting: Depth, limit: int) -> tuple[FloatArray, FloatArray]:
    """Return instants, and the seconds that slots stood without a visible stream up to each while requests waited."""
    times = np.unique(np.concatenate((work.times, waiting.times)))
    missing = np.maximum(limit - work.at(times), 0.0)
    slots = np.where(waiting.at(times) > 0, missing, 0.0)
    return times, np.concatenate(([0.0], np.cumsum(slots[:-1] * np.diff(times))))


def _handovers(
    times: FloatArray, empty: FloatArray, ended: FloatArray, left: FloatArray, begun: FloatArray, limit: int
) -> FloatArray:
    """Return how long a slot stood empty after each answer that ended while all were at work, until they were again.

    Streams in step end together, and their slots are filled together: each then stood empty for the mean. Nothing counts
    during which a user left.
    """

    def upto(at: float) -> float:
        return float(np.interp(at, times, empty))

    events = sorted((at, kind) for kind, instants in ((ENDED, ended), (LEFT, left), (BEGAN, begun)) for at in instants)
    found: list[float] = []
    work, since, freed, spoilt = 0, math.nan, 0, False
    for at, kind in events:
        if kind == BEGAN:
            work += 1
            if work >= limit and freed:
                found += [] if spoilt else [(upto(at) - upto(since)) / freed] * freed
                freed = 0
            continue
        work -= 1
        if work >= limit:  # the next one was seen to begin first
            found += [0.0] * (kind == ENDED)
        elif work + 1 >= limit or freed:
            since, spoilt = (since, spoilt) if freed else (at, False)
            freed, spoilt = freed + 1, spoilt or kind == LEFT
    return np.array(found, dtype=np.float64)
