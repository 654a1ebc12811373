"""Where queue wait went: slot wait (all slots taken) and batch wait (a slot is free, the batch in flight must end).

A server with S slots lets its k-th request in (k from 0, in order of admission) when k − S + 1 others have left, so the
instant at which a slot became free for it is the (k − S)-th end in order of time. That needs no guess about who took
whose slot. Slot wait lasts from the send (and load) until then; the rest of queue wait is batch wait. Where the server
tells no durations the order of first tokens stands for that of admissions: slot wait can then be inferred, batch wait not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import Run, peak_at_once
from loadtest.analyse.server.slots import Slots, headers_mark_start
from loadtest.records import Outcome

ADMISSION_ERROR_S = (
    0.020  # admissions closer than the error of the server's durations count as one, taken in order sent
)
SERVER, INFERRED, UNKNOWN = "server", "inferred", "unknown"
NEVER_SERVED = {Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR}


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of every request of a run, seconds, nan where unknown, and where each was learnt."""

    slot: FloatArray
    batch: FloatArray
    source: npt.NDArray[np.object_]  # "server": its durations; "inferred": from slots and ends; "unknown"

    def source_of(self, rows: BoolArray) -> str:
        """Return the source that most requests of `rows` share; "unknown" without any."""
        names, counts = np.unique(self.source[rows].astype(str), return_counts=True)
        return str(names[np.argmax(counts)]) if len(names) else UNKNOWN


def split_waits(run: Run, slots: Slots) -> Waits:
    """Return slot wait and batch wait of every request of the run.

    Slot wait is zero where the load never exceeded the slots, and for a request that never saw more requests in flight
    than there are slots. Where the slots are only known to be at least so many, a level that had more in flight is not
    split: both are nan. Of a server without durations only slot wait is told, and labelled inferred.
    """
    wait = told_wait(run)
    nothing = np.full(len(wait), np.nan)
    seen = np.isfinite(run.column("first_token"))
    if slots.estimate is None:
        return Waits(nothing, nothing, _sources(nothing, wait))
    below = np.where(in_crowded_levels(run, slots.estimate), np.nan, 0.0)
    slot = _slot_wait(run, slots.estimate, wait) if slots.limit else below
    slot = np.where(seen | np.isfinite(wait), slot, np.nan)
    return Waits(slot, wait - slot, _sources(slot, wait))


def told_wait(run: Run) -> FloatArray:
    """Return queue wait by the server's word, seconds; nan where it gives none.

    That of llama.cpp's headers gives way to its timings where something on the way sends headers early or late.
    """
    wait = run.column("queue_wait_s")
    timed = run.column("llamacpp") == 1
    if not timed.any() or headers_mark_start(run):
        return wait
    by_timings = np.maximum(run.column("ttft_s") - run.column("prefill_s"), 0.0)
    return np.where(timed & np.isfinite(by_timings), by_timings, wait)


def _sources(slot: FloatArray, wait: FloatArray) -> npt.NDArray[np.object_]:
    known = np.isfinite(slot)
    found = np.where(known & np.isfinite(wait), SERVER, np.where(known, INFERRED, UNKNOWN))
    return np.asarray(found, dtype=np.object_)


def _slot_wait(run: Run, slots: int, wait: FloatArray) -> FloatArray:
    """Return slot wait, given as many slots; at most the queue wait, or TTFT where that is not told."""
    send, end, first = run.column("send"), run.column("end"), run.column("first_token")
    arrived = np.fmin(send + np.nan_to_num(run.column("load_s")), np.fmin(first, end))
    admitted = _admitted(run, arrived, wait)
    left = _left(run)
    lost = _held_without_token(run, arrived, admitted, left, slots)
    order = np.where(lost, arrived, admitted)
    known = np.isfinite(order) & np.isfinite(left)
    freed = np.full(len(wait), -np.inf)
    freed[known] = slot_free(arrived[known], order[known], left[known], slots)
    contended = more_in_flight(send, end, admitted, slots)
    most = np.where(np.isfinite(wait), wait, np.maximum(first - arrived, 0.0))
    return np.where(contended, np.clip(freed - arrived, 0.0, most), 0.0)


def _admitted(run: Run, arrived: FloatArray, wait: FloatArray) -> FloatArray:
    """Return when each request was let in; nan where nothing came of it.

    Where its server did not tell: llama.cpp's headers, else a usual prefill before the first token. Of servers that
    tell nothing at all it is the first token itself, which comes in the same order.
    """
    prefill = run.column("prefill_s")
    usual = float(np.nanmedian(prefill)) if np.isfinite(prefill).any() else 0.0
    guessed = np.maximum(run.column("first_token") - usual, arrived)
    if headers_mark_start(run):
        guessed = np.fmin(run.column("headers"), guessed)
    return np.where(np.isfinite(wait), arrived + wait, guessed)


def _left(run: Run) -> FloatArray:
    """Return when each request gave its slot back: its last token, or its end where more was to come or an end token."""
    last, end = run.column("last"), run.column("end")
    done = np.asarray(run.requests["ok"] & (run.requests["finish_reason"] != "stop"), dtype=np.bool_)
    return np.where(done & np.isfinite(last), last, end)


def _held_without_token(run: Run, arrived: FloatArray, admitted: FloatArray, left: FloatArray, slots: int) -> BoolArray:
    """Mark the requests that held a slot without ever giving a token: cancelled, timed out or cut off in prefill.

    One that found a slot free when it came had it; one that did not is taken to have been given up in the queue.
    """
    never = run.requests["outcome"].isin(NEVER_SERVED).to_numpy(dtype=np.bool_)
    holds = np.isfinite(admitted) & np.isfinite(left)
    lost = np.zeros(len(arrived), dtype=np.bool_)
    silent = np.flatnonzero(np.isfinite(arrived) & ~np.isfinite(admitted) & ~never)
    before, after = np.sort(admitted[holds]), np.sort(left[holds])
    held: list[float] = []  # ends of the lost ones that hold a slot
    for index in silent[np.argsort(arrived[silent], kind="stable")]:
        at = arrived[index]
        held = [end for end in held if end > at]
        taken = int(np.searchsorted(before, at, side="right") - np.searchsorted(after, at, side="right"))
        if taken + len(held) < slots:
            lost[index] = True
            held.append(float(left[index]))
    return lost


def in_crowded_levels(run: Run, slots: int) -> BoolArray:
    """Mark the requests of levels that ever had more than `slots` requests in flight."""
    levels = run.requests["level"].to_numpy()
    send, end = run.column("send"), run.column("end")
    marked = np.zeros(len(levels), dtype=np.bool_)
    for level in np.unique(levels):
        rows = (levels == level) & np.isfinite(send)
        marked[levels == level] = peak_at_once(send[rows], end[rows]) > slots
    return marked


def slot_free(arrived: FloatArray, admitted: FloatArray, left: FloatArray, slots: int) -> FloatArray:
    """Return the instant from which a slot was free for each request, −inf for those that found one free at the start.

    Requests admitted within one batch are ordered by arrival: queues of model servers are first in, first out, and the
    admission instants, estimated from durations, are only good to some 20 ms.
    """
    by_admission = np.argsort(admitted, kind="stable")
    new_batch = np.diff(admitted[by_admission], prepend=-np.inf) > ADMISSION_ERROR_S
    batch = np.empty(len(admitted), dtype=np.int64)
    batch[by_admission] = np.cumsum(new_batch)
    order = np.lexsort((arrived, batch))
    ends = np.sort(left)
    freed = np.full(len(admitted), -np.inf)
    freed[order[slots:]] = ends[: max(len(ends) - slots, 0)]
    return freed


def more_in_flight(send: FloatArray, end: FloatArray, admitted: FloatArray, slots: int) -> BoolArray:
    """Mark the requests that, between being sent and admitted, saw more than `slots` requests in flight, own included.

    In flight only grows when a request is sent, so it is enough to look at those instants.
    """
    sent = np.isfinite(send)
    sends, ends = np.sort(send[sent]), np.sort(end[sent])
    in_flight = np.arange(1, len(sends) + 1) - np.searchsorted(ends, sends, side="right")
    crowded = sends[in_flight > slots]
    nearest = np.append(crowded, np.inf)[np.searchsorted(crowded, send, side="left")]
    return np.asarray(nearest < admitted, dtype=np.bool_)
