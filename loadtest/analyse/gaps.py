"""Every gap between two tokens of a stream: how many streams decoded all through it, and whether a prompt was in work.

Batching servers decode in lockstep: the gap between two tokens of any stream is one step of all. The number of streams
decoding through it comes from the others' first and last tokens. Instants are the server's own (created_at) where it
stamps its chunks, arrivals otherwise; seconds since the run's first t_sched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.frames import US, BoolArray, FloatArray, IntArray, Run
from loadtest.analyse.slots import Slots

EDGE_SHARE = 0.25  # of the median gap: tokens of one batch arrive within this …
EDGE_MOST_S = 0.005  # … and within this
MERGED_SHARE = 0.1  # of the stream's median gap: shorter ones are two tokens in one read, or written together


@dataclass(frozen=True, slots=True)
class Decoding:
    """All gaps of a run, one entry a gap in order of requests and time, and the prompts that were in work."""

    row: IntArray
    left: FloatArray
    right: FloatArray
    step_s: FloatArray  # the gap; tokens that came together share the gap before them evenly
    streams: IntArray  # decoding all through the gap, the own included; 0 where one began or ended inside it
    held: BoolArray  # another's prompt was, or may have been, in work during it
    first: FloatArray  # one a request: first token …
    last: FloatArray  # … and last
    free: FloatArray  # one a request: when a slot became free for it; −inf where none had to
    started: FloatArray  # one a request: when work on its prompt began, at the earliest; nan unknown
    told: BoolArray  # one a request: `started` comes from the server's own durations
    edge_s: float

    @property
    def clean(self) -> BoolArray:
        """Mark the gaps that are one step of a known number of streams and nothing else."""
        return np.asarray((self.streams > 0) & ~self.held & (self.step_s > 0), dtype=np.bool_)

    def decoding_at(self, instants: FloatArray) -> IntArray:
        """Return how many streams are between first and last token at each instant."""
        first, last = (np.sort(ends[np.isfinite(self.first)]) for ends in (self.first, self.last))
        return np.searchsorted(first, instants, side="right") - np.searchsorted(last, instants, side="right")


def decoding(run: Run, slots: Slots) -> Decoding:
    """Read a run's gaps."""
    owner = run.chunks.owner
    at = run.column("send")[owner] + run.chunks.flat * US
    at = _on_server_clock(run, at)
    starts, counts = run.chunks.starts, run.chunks.counts
    seen = counts > 0
    first, last = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    first[seen], last[seen] = at[starts[:-1][seen]], at[starts[1:][seen] - 1]
    inside = owner[1:] == owner[:-1]
    row, left, right = owner[1:][inside], at[:-1][inside], at[1:][inside]
    seconds = right - left
    positive = seconds[seconds > 0]
    middle = float(np.median(positive)) if len(positive) else 0.0
    edge = min(EDGE_SHARE * middle, EDGE_MOST_S)
    # The end token is counted, not sent: such a stream decodes on for a step.
    silent = np.asarray(run.requests["finish_reason"] == "stop", dtype=np.bool_) & (
        run.column("output_tokens") > counts
    )
    last = np.where(silent & seen, np.maximum(last, run.column("end")), last)
    firsts, lasts = np.sort(first[seen]), np.sort(last[seen])
    began = np.searchsorted(firsts, left + edge, side="right")
    through = began - np.searchsorted(lasts, right - edge, side="left")
    at_left = began - np.searchsorted(lasts, left + edge, side="right")
    joined = np.searchsorted(firsts, right + edge, side="right") > began
    free = _free(first, last, slots)
    spent = run.column("prefill_s")
    told = np.isfinite(spent)
    # Without the server's word work begins as early as it may: sent, and a slot free.
    started = np.where(told, first - spent, np.minimum(np.maximum(run.column("send"), free), first))
    held = joined | _any_between(started, first, left + edge, right - edge)
    return Decoding(
        row=row,
        left=left,
        right=right,
        step_s=_spread(row, seconds, len(counts)),
        streams=np.where((through == at_left) & (through > 0), through, 0),
        held=held,
        first=first,
        last=last,
        free=free,
        started=started,
        told=told,
        edge_s=edge,
    )


def _on_server_clock(run: Run, at: FloatArray) -> FloatArray:
    """Take each chunk's delivery delay off its arrival, where the server stamped it: a constant offset stays."""
    late = np.zeros(len(at))
    rows = run.delivery.row
    if len(rows):
        stamped = np.zeros(len(run.chunks.counts), dtype=np.bool_)
        stamped[rows] = True
        late[stamped[run.chunks.owner]] = run.delivery.seconds
    return at - late


def _spread(row: IntArray, seconds: FloatArray, rows: int) -> FloatArray:
    """Share a gap evenly with the ones right after it that are next to nothing."""
    if not len(seconds):
        return seconds
    total = np.bincount(row, weights=seconds, minlength=rows)
    count = np.bincount(row, minlength=rows)
    usual = (total / np.maximum(count, 1))[row]
    fresh = np.diff(row, prepend=-1) != 0
    group = np.cumsum(fresh | (seconds > MERGED_SHARE * usual)) - 1
    size = np.bincount(group)
    return np.asarray((np.bincount(group, weights=seconds) / size)[group], dtype=np.float64)


def _free(first: FloatArray, last: FloatArray, slots: Slots) -> FloatArray:
    """Return when a slot became free for each request, by order of first tokens; −inf without a limit or wait."""
    free = np.full(len(first), -np.inf)
    seen = np.isfinite(first)
    if slots.limit and slots.estimate is not None:
        order = np.argsort(np.where(seen, first, np.inf), kind="stable")[: int(seen.sum())]
        free[order[slots.estimate :]] = np.sort(last[seen])[: max(len(order) - slots.estimate, 0)]
    return free


def _any_between(starts: FloatArray, ends: FloatArray, left: FloatArray, right: FloatArray) -> BoolArray:
    """Mark the spans (left, right) that meet any of the windows starts..ends."""
    known = np.isfinite(starts) & np.isfinite(ends)
    opened = np.searchsorted(np.sort(starts[known]), right, side="left")
    closed = np.searchsorted(np.sort(ends[known]), left, side="right")
    return np.asarray(opened > closed, dtype=np.bool_)
