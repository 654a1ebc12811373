"""Queue wait in two parts: slot wait (all slots are taken) and batch wait (a slot is free, but a batch must end first).

Number the requests in the order in which a server with S slots admits them, from 0. Request k can be admitted once k − S + 1
earlier ones have left, so a slot became free for it at the (k − S + 1)-th end in order of time, whoever held that slot.
Slot wait = that instant − arrival (send, or end of the model load), at least 0. Batch wait = queue wait − slot wait, and none where
no other request was in flight meanwhile: what such a request waits is the way, a gateway, or the server's own work. What it
waits at the median is no batch wait of others either, and where it is never less than 20 ms no slot wait. Where the
server reports no durations, requests are taken to be admitted in the order of their first tokens: this infers slot wait,
but batch wait stays unknown.

Some batch waits are no batch's: other streams got token after token meanwhile. Beside another model of the same server batch wait is
unknown, unless the server tells of its model loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtest.analyse.run import BoolArray, FloatArray, RunData, finite
from loadtest.analyse.run.overlaps import freed_in_order, open_within, peak_at_once
from loadtest.analyse.server.queue.at_work import arrival, headers_mark_start
from loadtest.analyse.server.queue.kept_out import FEWEST_LONE
from loadtest.analyse.server.queue.slots import Slots
from loadtest.metrics import S_PER_US
from loadtest.records import Outcome

ADMISSION_ERROR_S = 0.020  # of an admission by the server's durations: closer ones are ordered by arrival
SERVER, INFERRED, UNKNOWN = "server", "inferred", "unknown"
MOST_BATCHES = 8  # that may pass while a request is taken in
SLICE = 256  # prompt tokens of a batch at least: prompts that wait together take so many batches more
MOST_LOOKED_AT = 200  # of a level's waits, the longest
LEAST_BATCH_WAIT = 0.1  # of the mean TTFT: less is not worth a sentence
MOSTLY_HELD = 0.5  # of a lone request's TTFT that cannot have passed behind a slot wait: then it passed before
MOSTLY_PASSED = 0.5  # of a level's batch wait, from which on it is none: many batches passed meanwhile
FEWEST_BEGUN = 8  # requests that waited, from which on it is said when they began
MOST_BESIDE = 0.1  # of their waits, by those that began beside another stream
NEVER_SERVED = {Outcome.HTTP_ERROR, Outcome.CONNECT_ERROR}


@dataclass(frozen=True, slots=True)
class Waits:
    """The waits of every request in seconds, nan where unknown, and the source of each."""

    queue: FloatArray  # as the server reported it
    slot: FloatArray
    batch: FloatArray
    source: npt.NDArray[np.object_]  # "server": its durations; "inferred": slots and ends; "unknown"


def split_waits(run: RunData, slots: Slots) -> Waits:
    """Return slot wait and batch wait of every request.

    Slot wait is zero for a request that, while it waited, never saw more requests in flight than there are slots. Where
    only a lower bound of the slots is known, both waits are nan in levels that had more requests in flight than that. Of a
    server without durations only slot wait is known, and its source is "inferred".
    """
    wait = _told_wait(run)
    alone = _waited_alone(run, wait)
    least, usual = (
        np.quantile(finite(wait[alone]), (0.0, 0.5)).tolist() if np.isfinite(wait[alone]).any() else (0.0, 0.0)
    )
    way = least if least > ADMISSION_ERROR_S else 0.0
    if slots.estimate is None:
        slot = np.full(len(wait), np.nan)
    elif slots.limit:
        slot = _slot_wait(run, slots.estimate, wait, way)
    else:
        slot = np.where(in_crowded_levels(run, slots.estimate), np.nan, 0.0)
    told = np.isfinite(wait)
    slot = np.where(told | np.isfinite(run.column("first_token")), slot, np.nan)
    source = np.where(np.isfinite(slot), np.where(told, SERVER, INFERRED), UNKNOWN)
    # Beside another model a request may wait for that one's answers, or for a model load that the server does not tell of.
    turn = np.isin(run.requests["level"], run.requests["level"][_accompanied(run)]) & ~np.isfinite(run.column("load_s"))
    batch = np.where(turn, np.nan, np.maximum(wait - slot - usual, 0.0) * ~alone)
    return Waits(wait, slot, batch, source.astype(np.object_))


def _accompanied(run: RunData) -> BoolArray:
    return np.broadcast_to(np.asarray(run.requests.get("accompanied", False), dtype=np.bool_), len(run.requests))


def _waited_alone(run: RunData, wait: FloatArray) -> BoolArray:
    """Mark the requests that waited while no other was in flight at their server."""
    send = run.column("reached")
    alone = open_within(send, run.column("end"), send, send + np.nan_to_num(wait)) < 2
    return alone & ~_accompanied(run)


def _told_wait(run: RunData) -> FloatArray:
    """Return queue wait as the server reported it, seconds; nan where it did not.

    Of llama.cpp it comes from the headers, or from its timings where a proxy sends the headers at another moment. The time over
    which a proxy held an answer back is no wait.
    """
    wait, held = run.column("queue_wait_s"), run.column("made_before_s")
    timed, others = run.column("llamacpp") == 1, np.isnan(run.column("queued_s"))
    until_first = run.column("first_token") - run.column("reached")
    until_prompt = np.maximum(until_first - held - run.column("prefill_s"), 0.0)
    wait = np.where(~timed & others & (held > 0), np.maximum(until_prompt - run.column("load_s"), 0.0), wait)
    if not timed.any() or headers_mark_start(run):
        return wait
    return np.where(timed & np.isfinite(until_prompt), until_prompt, wait)


def _slot_wait(run: RunData, slots: int, wait: FloatArray, way: float) -> FloatArray:
    """Return slot wait, given so many slots; at most the queue wait, or TTFT where that is unknown.

    What passes on the `way` passes between a slot's end and its next first token as well, with no wait for a slot in it. Where
    waits are unknown, so does what a gateway holds each request for, which the least TTFT of one alone shows.
    """
    send, end, first = run.column("reached"), run.column("end"), run.column("first_token")
    arrived = arrival(run, first)
    admitted = _admitted(run, arrived, wait)
    left = left_slot(run)
    order = np.where(_held_without_token(run, arrived, admitted, left, slots), arrived, admitted)
    known = np.isfinite(order) & np.isfinite(left)
    freed = np.full(len(wait), -np.inf)
    freed[known] = slot_free(arrived[known], order[known], left[known], slots)
    contended = more_in_flight(send, end, admitted, slots)
    most = np.where(np.isfinite(wait), wait, np.maximum(first - arrived, 0.0))
    slot = np.where(contended, np.clip(freed - arrived - way, 0.0, most), 0.0)
    alone = _waited_alone(run, most) & np.isfinite(most)
    if alone.sum() < FEWEST_LONE:  # one may have waited for the model to be loaded
        return slot
    least = _least_alone(run, np.where(alone, most, np.inf))
    held = ~np.isfinite(wait) & (slot + least - most > MOSTLY_HELD * least)
    return np.where(held, np.maximum(most - least, 0.0), slot)


def _least_alone(run: RunData, ttft: FloatArray) -> FloatArray:
    """Return for each request the least of these TTFT of prompts no longer than its own; 0 where there is none."""
    tokens = run.uncached_tokens
    order = np.argsort(tokens, kind="stable")
    least = np.minimum.accumulate(ttft[order])
    found = least[np.searchsorted(tokens[order], tokens, side="right") - 1]
    return np.where(np.isfinite(found), found, 0.0)


def _admitted(run: RunData, arrived: FloatArray, wait: FloatArray) -> FloatArray:
    """Return when each request was admitted; nan where it never got a token.

    Without a reported wait it is when llama.cpp's headers came, else the first token less the median prefill. Of a server
    that reports nothing it is the first token itself: only the order counts, and first tokens come in the same order.
    """
    prefill = run.column("prefill_s")
    usual = float(np.nanmedian(prefill)) if np.isfinite(prefill).any() else 0.0
    guessed = np.maximum(run.column("first_token") - usual, arrived)
    if headers_mark_start(run):
        guessed = np.fmin(run.column("headers"), guessed)
    return np.where(np.isfinite(wait), arrived + wait, guessed)


def left_slot(run: RunData) -> FloatArray:
    """Return when each request freed its slot: at its last token; at its end where it was cut off or sent an end token.

    A server notices between two batches that a client has gone: one that left without a token frees its slot with the next
    sign of work on another request.
    """
    last, end = run.column("last"), _noticed(run)
    done = run.flag("ok") & ~run.one_of("finish_reason", "stop")
    return np.where(done & np.isfinite(last), last, end)


def _noticed(run: RunData) -> FloatArray:
    """Return the end of each request, and of those without a token when the server had ended the batch in flight then.

    The next sign of work is a token of a stream that decodes, or the begin of another prompt, while somebody is at the server
    without a break. A server that does not say when prompts begin shows too little.
    """
    send, end, first = run.column("send"), run.column("end"), run.column("first_token")
    silent, begun = ~np.isfinite(first) & np.isfinite(send) & np.isfinite(end), first - run.column("prefill_s")
    if not (silent.any() and np.isfinite(begun).any()):
        return end
    order, owner = np.argsort(send, kind="stable"), run.chunks.owner
    reach = np.fmax.accumulate(end[order])
    idle = np.append(send[order][1:] > reach[:-1], True)  # behind these nobody is at the server
    until = np.empty(len(end))
    until[order] = reach[idle][np.cumsum(idle) - idle]
    later = np.diff(owner, prepend=-1) == 0  # a first token comes when its prompt has been read
    tokens = (send[owner] + run.chunks.flat * S_PER_US)[later]
    signs = np.sort(np.concatenate((begun[np.isfinite(begun)], tokens)))
    following = np.append(signs, np.inf)[np.searchsorted(signs, end)]
    return np.where(silent & (following <= until), following, end)


def _held_without_token(
    run: RunData, arrived: FloatArray, admitted: FloatArray, left: FloatArray, slots: int
) -> BoolArray:
    """Mark the requests that held a slot but never gave a token: cancelled, timed out or cut off during prefill.

    A request without a token is taken to have held a slot if one was free when it arrived, else to have left the queue: none was
    while who had come before it waited, be it for a batch.
    """
    never = run.one_of("outcome", *NEVER_SERVED)
    holds = np.isfinite(admitted) & np.isfinite(left)
    lost = np.zeros(len(arrived), dtype=np.bool_)
    silent = np.flatnonzero(np.isfinite(arrived) & ~np.isfinite(admitted) & ~never)
    before, after = np.sort(arrived[holds]), np.sort(left[holds])
    held: list[float] = []  # ends of the requests marked so far that still hold a slot
    for index in silent[np.argsort(arrived[silent], kind="stable")]:
        at = arrived[index]
        held = [end for end in held if end > at]
        taken = int(np.searchsorted(before, at, side="right") - np.searchsorted(after, at, side="right"))
        if taken + len(held) < slots:
            lost[index] = True
            held.append(float(left[index]))
    return lost


def in_crowded_levels(run: RunData, slots: int) -> BoolArray:
    """Mark the requests of levels that ever had more than `slots` requests in flight."""
    sent = run.requests.loc[run.requests["send"].notna(), ["level", "reached", "end"]]
    peaks = {
        level: peak_at_once(*mine[["reached", "end"]].to_numpy(dtype=np.float64).T)
        for level, mine in sent.groupby("level")
    }
    return run.one_of("level", *(level for level, peak in peaks.items() if peak > slots))


def slot_free(arrived: FloatArray, admitted: FloatArray, left: FloatArray, slots: int) -> FloatArray:
    """Return when a slot became free for each request; −inf for the first ones, which found a free slot.

    Admissions are known to about 20 ms. Requests admitted closer together than that are ordered by arrival, because model
    servers queue first in, first out.
    """
    by_admission = np.argsort(admitted, kind="stable")
    new_batch = np.diff(admitted[by_admission], prepend=-np.inf) > ADMISSION_ERROR_S
    batch = np.empty(len(admitted), dtype=np.int64)
    batch[by_admission] = np.cumsum(new_batch)
    return freed_in_order(np.lexsort((arrived, batch)), left, slots)


def more_in_flight(send: FloatArray, end: FloatArray, admitted: FloatArray, slots: int) -> BoolArray:
    """Mark the requests that saw more than `slots` requests in flight, themselves included, before they were admitted.

    The number in flight only grows when a request is sent, so only those instants are looked at.
    """
    sent = np.isfinite(send)
    sends, ends = np.sort(send[sent]), np.sort(end[sent])
    in_flight = np.arange(1, len(sends) + 1) - np.searchsorted(ends, sends, side="right")
    crowded = sends[in_flight > slots]
    return np.append(crowded, np.inf)[np.searchsorted(crowded, send, side="left")] < admitted


# -- batch waits that are none ----------------------------------------------------------------------------------------


def held_by_others(run: RunData, level: Mapping[str, Any]) -> bool:
    """Whether a level's batch wait is none, and much of its TTFT: the slots that it did not fill were held by others."""
    ttft, slot, batch = (
        (level.get(name) or {}).get("mean") or 0.0 for name in ("ttft_s", "slot_wait_s", "batch_wait_s")
    )
    waited = batch > LEAST_BATCH_WAIT * ttft and slot < 0.1 * batch
    return waited and passed_share(run, level["index"]) >= MOSTLY_PASSED


def begin_after_all(run: RunData, level: Mapping[str, Any]) -> bool:
    """Whether requests that waited began only when no other stream was in mid-answer, though several decode at once."""
    if (level.get("peak_decoding") or 0) < 2:
        return False
    waits = np.where(run.of_level(level["index"]), np.nan_to_num(run.column("batch_wait_s")), 0.0)
    first = run.column("first_token")
    begun = first - np.nan_to_num(run.column("prefill_s"))
    beside = open_within(first, run.column("last"), begun + ADMISSION_ERROR_S, begun - ADMISSION_ERROR_S) > 0
    return bool((waits > 0).sum() >= FEWEST_BEGUN and waits[beside].sum() <= MOST_BESIDE * waits.sum())


def passed_share(run: RunData, index: int) -> float:
    """Return the share of a level's batch wait during which more batches passed than a request waits for before it is taken in.

    A batch gives each stream that decodes one token, so the tokens of one other stream count the batches.
    """
    of_level = run.of_level(index)
    waits = np.nan_to_num(np.where(of_level, run.column("batch_wait_s"), 0.0))
    if not waits.sum() > 0:
        return 0.0
    rows = np.argsort(-waits)[: min(MOST_LOOKED_AT, int((waits > 0).sum()))]
    ends = run.column("first_token") - np.nan_to_num(run.column("prefill_s"))
    users = next(one.get("concurrency") for one in run.levels if one["index"] == index) or int(of_level.sum())
    prompts = np.nan_to_num(run.column("prompt_tokens")[of_level])
    most = MOST_BATCHES + users * float(prompts.max(initial=0.0)) / SLICE
    long = [row for row in rows if _batches(run, index, ends[row] - waits[row], ends[row]) > most]
    return float(waits[long].sum() / waits.sum())


def _batches(run: RunData, index: int, begin: float, end: float) -> int:
    """Return the most tokens that one stream of the level got between two instants."""
    beside = run.of_level(index) & (run.column("first_token") < end) & (run.column("end") > begin)
    tokens = (run.column("send")[row] + run.chunks.row(int(row)) * S_PER_US for row in np.flatnonzero(beside))
    return max((int(np.searchsorted(at, end) - np.searchsorted(at, begin)) for at in tokens), default=0)
