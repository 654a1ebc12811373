"""What users who hung up cost: their share of the slots, and how long the server worked on for nobody.

No server says that it goes on with an answer that nobody reads. It shows in its slots: while requests wait, a slot without
a visible stream is either being handed over or still at work for somebody who left.

    worked on = Σ (slots − streams at work) · time, while requests wait, less one usual handover for each request that began

The usual handover is the mean over answers that ended while all slots were seen at work, up to the next request's begin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.figures.rates import delivered
from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import Run
from loadtest.analyse.server.at_work import Depth, RequestInstants
from loadtest.analyse.server.slots import Slots

FEWEST_HANDOVERS = 5  # of answers that ended, for a usual handover
SIGMAS = 2.0  # standard errors within which nothing was seen


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

    @property
    def each_s(self) -> float:
        return self.seconds / self.left

    @property
    def seen(self) -> bool:
        """Whether it is more than chance."""
        return self.seconds > SIGMAS * self.error_s and self.each_s > self.handover_s

    def to_dict(self) -> dict[str, Any]:
        """Return what summary.json holds."""
        return {
            "slots": self.slots,
            "held_share": self.held_s / self.at_work_s if self.at_work_s else None,
            "worked_on_s": max(self.seconds, 0.0),
            "worked_on_each_s": max(self.each_s, 0.0),
            "worked_on_error_s": self.error_s,
            "worked_on_share": max(self.seconds, 0.0) / self.at_work_s if self.at_work_s else None,
            "worked_on": self.seen,
            "handover_s": self.handover_s,
            "handovers": self.handovers,
        }


def summed_up(run: Run, index: int, slots: Slots) -> dict[str, Any]:
    """Return what summary.json says of a level's users who hung up; nothing where none did."""
    left = run.left(index)
    if not left.any():
        return {}
    seen = np.isfinite(run.column("first_token"))
    sent = run.measured(index) & np.asarray(run.requests["outcome"] != "cancelled", dtype=np.bool_)
    waited = (run.column("end") - run.column("send"))[left & ~seen]
    found: dict[str, Any] = {
        "users": int(left.sum()),
        "share": float(left.sum() / sent.sum()),
        "waiting": int((left & ~seen).sum()),
        "waited_p50_s": float(np.median(waited)) if len(waited) else None,
        "in_answer": int((left & seen).sum()),
        "output_tokens": float(np.nansum(delivered(run)[left])),
    }
    told = worked_on(run, np.asarray(run.requests["level"] == index, dtype=np.bool_), slots)
    if isinstance(told, str):
        return {"left": {**found, "worked_on_s": None, "worked_on_s_reason": told}}
    return {"left": {**found, **told.to_dict()}}


def worked_on(run: Run, rows: BoolArray, slots: Slots) -> WorkedOn | str:
    """Return how long the server worked for nobody in the level of `rows`; a reason where that cannot be told."""
    limit = (run.facts.get("server") or {}).get("slots_said") or slots.estimate
    if not limit:
        return "the server's slots are not known"
    lives = RequestInstants.of(run, rows)
    keep = rows & np.isfinite(run.column("send"))
    left = np.asarray(run.requests["left"], dtype=np.bool_)[keep]
    gone = np.where(left, run.column("end")[keep], lives.gone)
    begun = np.where(np.isfinite(lives.begun), lives.begun, lives.first)
    at_work = np.isfinite(begun) & np.isfinite(gone)
    if (at_work.sum()) == 0:
        return "no stream was seen at work"
    begun, gone_at = begun[at_work], np.maximum(gone[at_work], begun[at_work])
    waits_until = np.where(at_work, np.where(np.isfinite(lives.begun), lives.begun, lives.first), gone)
    empty = _Empty.of(
        Depth.of(begun, gone_at), Depth.of(lives.arrived, np.maximum(waits_until, lives.arrived)), int(limit)
    )
    usual = empty.handovers(np.sort(gone_at[~left[at_work]]), np.sort(gone[left]), np.sort(begun))
    if len(usual) < FEWEST_HANDOVERS:
        return "too few answers ended while requests waited to know what a handover takes"
    handover, spread = float(usual.mean()), float(usual.std(ddof=1))
    starts = empty.starts(begun)
    return WorkedOn(
        slots=int(limit),
        left=int(left.sum()),
        seconds=empty.total - starts * handover,
        error_s=spread * math.sqrt(starts + starts**2 / len(usual)),
        held_s=float((gone_at - begun)[left[at_work]].sum()),
        at_work_s=float((gone_at - begun).sum() + empty.total),
        handovers=len(usual),
        handover_s=handover,
    )


@dataclass(frozen=True, slots=True)
class _Empty:
    """Slots without a visible stream while requests wait, a step function of time."""

    times: FloatArray
    slots: FloatArray  # from each of `times` to the next; 0 while nobody waits
    missing: FloatArray  # slots without a visible stream, whoever waits
    area: FloatArray  # slot-seconds up to each of `times`

    @classmethod
    def of(cls, work: Depth, waiting: Depth, limit: int) -> _Empty:
        times = np.unique(np.concatenate((work.times, waiting.times)))
        missing = np.maximum(limit - work.at(times), 0.0)
        slots = np.where(waiting.at(times) > 0, missing, 0.0)
        area = np.concatenate(([0.0], np.cumsum(slots[:-1] * np.diff(times))))
        return cls(times, slots, missing, area)

    @property
    def total(self) -> float:
        return float(self.area[-1]) if len(self.area) else 0.0

    def handovers(self, ended: FloatArray, left: FloatArray, begun: FloatArray) -> FloatArray:
        """Return how long each slot stood empty whose answer ended while all slots were at work, until a request began.

        Only those count of which nothing else ended or was left in between.
        """
        found = []
        departures = np.sort(np.concatenate((ended, left)))
        for at in ended:
            place = int(np.searchsorted(self.times, at, side="left"))
            if place == 0 or self.missing[place - 1] > 0:
                continue
            after = int(np.searchsorted(begun, at, side="left"))
            if after >= len(begun):
                continue
            until = float(begun[after])
            between = np.searchsorted(departures, until, "left") - np.searchsorted(departures, at, "right")
            if between == 0:
                found.append(self._upto(until) - self._upto(at))
        return np.array(found, dtype=np.float64)

    def starts(self, begun: FloatArray) -> int:
        """Return how many requests began in a slot that had stood empty while they waited."""
        before = np.searchsorted(self.times, begun, side="left") - 1
        return int((self.slots[np.maximum(before, 0)] * (before >= 0) > 0).sum())

    def _upto(self, at: float) -> float:
        return float(np.interp(at, self.times, self.area))
