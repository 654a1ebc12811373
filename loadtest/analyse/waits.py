"""Where queue wait went: slot wait (all slots taken) and batch wait (a slot is free, the batch in flight must end).

A server with S slots lets its k-th request in (k from 0, in order of admission) when k − S + 1 others have left, so the
instant at which a slot became free for it is the (k − S)-th end in order of time. That needs no guess about who took
whose slot. Slot wait lasts from the send (and load) until then; the rest of queue wait is batch wait.
"""

from __future__ import annotations

import numpy as np

from loadtest.analyse.frames import BoolArray, FloatArray, Run, peak_at_once
from loadtest.analyse.slots import Slots

SAME_BATCH_S = 0.020  # admissions closer than the error of the server's durations count as one, taken in order sent


def split(run: Run, slots: Slots) -> tuple[FloatArray, FloatArray]:
    """Return (slot wait, batch wait) of every request of the run, seconds; nan where queue wait is unknown.

    Slot wait is zero where the load never exceeded the slots, and for a request that never saw more requests in flight
    than there are slots. Where the slots are only known to be at least so many, a level that had more in flight is not
    split: both are nan.
    """
    wait = run.column("queue_wait_s")
    if slots.estimate is None:
        return np.full(len(wait), np.nan), np.full(len(wait), np.nan)
    if not slots.limit:
        unknown = beyond(run, slots.estimate) | ~np.isfinite(wait)
        return np.where(unknown, np.nan, 0.0), np.where(unknown, np.nan, wait)
    arrived = run.column("send") + run.column("load_s")
    admitted = arrived + wait
    left = np.where(np.isfinite(run.column("last")), run.column("last"), run.column("end"))
    known = np.isfinite(admitted) & np.isfinite(left)
    freed = np.full(len(wait), -np.inf)
    freed[known] = slot_free(arrived[known], admitted[known], left[known], slots.estimate)
    contended = more_in_flight(run.column("send"), run.column("end"), admitted, slots.estimate)
    slot_wait = np.where(contended, np.clip(freed - arrived, 0.0, wait), 0.0)
    slot_wait = np.where(np.isfinite(wait), slot_wait, np.nan)
    return slot_wait, wait - slot_wait


def beyond(run: Run, slots: int) -> BoolArray:
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
    new_batch = np.diff(admitted[by_admission], prepend=-np.inf) > SAME_BATCH_S
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
