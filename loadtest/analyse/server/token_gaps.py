"""Every gap between two tokens of a stream: how many streams decoded all through it, and whether a prompt was in work.

Batching servers decode in lockstep: the gap between two tokens of any stream is one step of all. The number of streams
decoding through it comes from the others' first and last tokens. Instants are the server's own (created_at) where it
stamps its chunks, arrivals otherwise; seconds since the run's first t_sched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from loadtest.analyse.run import excerpts
from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.frames import Run, blocks
from loadtest.analyse.server.slots import Slots
from loadtest.metrics import S_PER_US

EDGE_SHARE = 0.25  # of the median gap: tokens of one batch arrive within this …
EDGE_MOST_S = 0.005  # … and within this
MERGED_SHARE = 0.1  # of the stream's median gap: shorter ones are two tokens in one read, or written together


@dataclass(frozen=True, slots=True)
class Decoding:
    """The gaps of a run, one entry a gap in order of requests and time, and the prompts that were in work.

    Of a very long run the gaps are those of stretches of it (`spans`, see stretches); what is one a request never is.
    """

    row: IntArray
    left: FloatArray
    right: FloatArray
    step_s: FloatArray  # the gap; tokens that came together share the gap before them evenly
    streams: IntArray  # decoding all through the gap, the own included; 0 where one began or ended inside it
    begun: IntArray  # streams decoding when the gap began
    held: BoolArray  # another's prompt was, or may have been, in work during it
    lives: TokenInstants
    spans: FloatArray | None  # (start, end) each; None: all gaps are here
    said: str | None  # which gaps these are; None: all

    @property
    def first(self) -> FloatArray:
        """One a request: its first token."""
        return self.lives.first

    @property
    def last(self) -> FloatArray:
        return self.lives.last

    @property
    def free(self) -> FloatArray:
        """One a request: when a slot became free for it; −inf where none had to."""
        return self.lives.free

    @property
    def started(self) -> FloatArray:
        """One a request: when work on its prompt began, at the earliest; nan unknown."""
        return self.lives.started

    @property
    def told(self) -> BoolArray:
        """One a request: whether `started` comes from the server's own durations."""
        return self.lives.told

    @property
    def edge_s(self) -> float:
        return self.lives.edge_s

    @property
    def clean(self) -> BoolArray:
        """Mark the gaps that are one step of a known number of streams and nothing else."""
        return np.asarray((self.streams > 0) & ~self.held & (self.step_s > 0), dtype=np.bool_)

    def decoding_at(self, instants: FloatArray) -> IntArray:
        """Return how many streams are between first and last token at each instant."""
        first, last = (np.sort(ends[np.isfinite(self.first)]) for ends in (self.first, self.last))
        return np.searchsorted(first, instants, side="right") - np.searchsorted(last, instants, side="right")

    def covers(self, start: FloatArray, end: FloatArray) -> BoolArray:
        """Mark the windows all of whose gaps are here."""
        if self.spans is None:
            return np.ones(len(start), dtype=np.bool_)
        span = np.maximum(np.searchsorted(self.spans[:, 0], start, side="right") - 1, 0)
        return np.asarray((start >= self.spans[span, 0]) & (end <= self.spans[span, 1]), dtype=np.bool_)

    def every(self, run: Run) -> list[Callable[[], Decoding]]:
        """Return what reads all gaps of the run, block by block; there `step_s` is the gap as it is."""
        if self.spans is None:
            return [lambda: self]
        return [partial(_block, self.lives, run, low, high) for low, high in blocks(run.chunks.starts)]


@dataclass(frozen=True, slots=True)
class TokenInstants:
    """When each request's tokens came and its prompt was in work; one entry a request, seconds, nan unknown."""

    first: FloatArray
    last: FloatArray
    free: FloatArray
    started: FloatArray
    told: BoolArray
    edge_s: float
    firsts: FloatArray  # sorted, as are the next three
    lasts: FloatArray
    starts: FloatArray  # of the prompts of which both is known
    ends: FloatArray

    @classmethod
    def of(cls, run: Run, slots: Slots, edge_s: float) -> TokenInstants:
        """Read them; `edge_s` is within what tokens of one batch arrive."""
        starts, counts = run.chunks.starts, run.chunks.counts
        seen = counts > 0
        rows = np.flatnonzero(seen)
        first, last = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
        for instants, places in ((first, starts[:-1][seen]), (last, starts[1:][seen] - 1)):
            at = run.column("send")[rows] + run.chunks.flat[places] * S_PER_US
            instants[seen] = at - run.delivery.at(rows, places)
        # The end token is counted, not sent: such a stream decodes on for a step.
        silent = np.asarray(run.requests["finish_reason"] == "stop", dtype=np.bool_) & (
            run.column("output_tokens") > counts
        )
        last = np.where(silent & seen, np.maximum(last, run.column("end")), last)
        free = _free(first, last, slots)
        spent = run.column("prefill_s")
        told = np.isfinite(spent)
        # Without the server's word work begins as early as it may: sent, and a slot free.
        started = np.where(told, first - spent, np.minimum(np.maximum(run.column("send"), free), first))
        known = np.isfinite(started) & np.isfinite(first)
        every = (first[seen], last[seen], started[known], first[known])
        firsts, lasts, begun, ended = (np.sort(values) for values in every)
        if np.array_equal(firsts, ended):
            ended = firsts
        return cls(first, last, free, started, told, edge_s, firsts, lasts, begun, ended)


def decoding(run: Run, slots: Slots) -> Decoding:
    """Read a run's gaps."""
    seen = excerpts.events(run)
    inside = seen.inside
    at = seen.at - run.delivery.at(seen.row, seen.place)
    seconds = np.diff(at)[inside]
    positive = seconds[seconds > 0]
    middle = float(np.median(positive)) if len(positive) else 0.0
    lives = TokenInstants.of(run, slots, min(EDGE_SHARE * middle, EDGE_MOST_S))
    found = _gaps_of(lives, seen.row, at, inside)
    group = _number_merged(found.row, seconds, len(lives.first))
    size = np.bincount(group)
    shared = (np.bincount(group, weights=seconds) / size)[group] if len(group) else seconds
    # Tokens that came together share what happened in the gap before them: a prompt, or a stream that began or ended.
    odd = (found.streams == 0) | (np.diff(found.streams, prepend=0) != 0) & (np.diff(group, prepend=-1) == 0)
    spoilt = (np.bincount(group, weights=odd | found.held) > 0)[group] if len(group) else found.held
    return replace(
        found, step_s=shared, held=found.held | (spoilt & (size > 1)[group]), spans=seen.spans, said=seen.said
    )


def _block(lives: TokenInstants, run: Run, low: int, high: int) -> Decoding:
    """Read all gaps of the requests from row `low` up to row `high`."""
    starts = run.chunks.starts
    place = np.arange(starts[low], starts[high])
    row = np.repeat(np.arange(low, high), run.chunks.counts[low:high])
    at = run.column("send")[row] + run.chunks.flat[starts[low] : starts[high]] * S_PER_US
    return _gaps_of(lives, row, at - run.delivery.at(row, place), np.diff(row) == 0)


def _gaps_of(lives: TokenInstants, row: IntArray, at: FloatArray, inside: BoolArray) -> Decoding:
    """Read the gaps between neighbouring tokens of a stream, those marked in `inside`."""
    edge = lives.edge_s
    started = np.searchsorted(lives.firsts, at + edge, side="right")
    ended = np.searchsorted(lives.lasts, at + edge, side="right")
    before = np.searchsorted(lives.lasts, at - edge)
    done = started if lives.ends is lives.firsts else np.searchsorted(lives.ends, at + edge, side="right")
    opened = np.searchsorted(lives.starts, at - edge)
    left, right = at[:-1][inside], at[1:][inside]
    began = started[:-1][inside]
    through = began - before[1:][inside]
    at_left = began - ended[:-1][inside]
    joined = started[1:][inside] > began
    return Decoding(
        row=row[1:][inside],
        left=left,
        right=right,
        step_s=right - left,
        streams=np.where((through == at_left) & (through > 0), through, 0),
        begun=at_left,
        held=joined | (opened[1:][inside] > done[:-1][inside]),
        lives=lives,
        spans=None,
        said=None,
    )


def _number_merged(row: IntArray, seconds: FloatArray, rows: int) -> IntArray:
    """Number the gaps so that one shares its number with those right after it that are next to nothing."""
    total = np.bincount(row, weights=seconds, minlength=rows)
    count = np.bincount(row, minlength=rows)
    usual = (total / np.maximum(count, 1))[row]
    fresh = np.diff(row, prepend=-1) != 0
    return np.asarray(np.cumsum(fresh | (seconds > MERGED_SHARE * usual)) - 1, dtype=np.int64)


def _free(first: FloatArray, last: FloatArray, slots: Slots) -> FloatArray:
    """Return when a slot became free for each request, by order of first tokens; −inf without a limit or wait."""
    free = np.full(len(first), -np.inf)
    seen = np.isfinite(first)
    if slots.limit and slots.estimate is not None:
        order = np.argsort(np.where(seen, first, np.inf), kind="stable")[: int(seen.sum())]
        free[order[slots.estimate :]] = np.sort(last[seen])[: max(len(order) - slots.estimate, 0)]
    return free
