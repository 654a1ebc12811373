"""Every gap between two tokens of a stream, with the streams that decoded through it and the prompts evaluated in it.

A server with continuous batching gives every stream one token per step, so the gap between two tokens of any stream is one
step of the whole batch. How many streams shared that step follows from the first and last tokens of all requests: those
that had begun before the gap and ended after it. Instants are the server's own (created_at) where it stamps its chunks,
else arrivals; in seconds since the run's first t_sched.

Where two servers stand behind one URL, each has steps of its own: a stream is in step with some of the others and not with
the rest. Then a gap is a step of some of the streams, and no figure by the number of all streams describes a server.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, IntArray, RunData, evenly, excerpts
from loadtest.analyse.run.event_times import blocks
from loadtest.analyse.run.overlaps import freed_in_order
from loadtest.analyse.server.queue.at_work import FEWEST_TOKENS, caught_up, distance, made_tokens
from loadtest.analyse.server.queue.slots import Slots
from loadtest.records import Outcome

EDGE_SHARE = 0.25  # of the median gap, within which tokens of one batch arrive …
EDGE_MOST_S = 0.005  # … but within no more than this
MERGED_SHARE = 0.1  # of the stream's mean gap: after a shorter one two tokens came in one read or one write
NEAR = 0.1  # of the usual gap: tokens closer together than this are of one step
SHORTEST_GAP_S = 0.005  # below it, arrivals scatter too much to tell steps apart
MOST_STREAMS, MOST_BESIDE = 200, 12  # looked at, evenly spread; of each those beside it
# share of a stream's tokens that come with another's: below the first the two share no steps, above the second they do
OUT_OF_STEP, IN_STEP = 0.5, 0.8
LEAST_APART = 0.2  # of the pairs, out of step, from which on streams are not of one batch
FEWEST_PAIRS = 8
CALL_TOKENS = 8  # tokens without a piece of their own that end an answer: more are a tool call's
MOST_GATHERED = 0.1  # of a stream's tokens may come with the one before …
MOST_LATE = 2.0  # … and where more do, later by so many steps at most


@dataclass(frozen=True, slots=True)
class TokenGaps:
    """The gaps of a run in order of requests and time, and the instants of its requests.

    Of a very long run the gaps are from stretches of it (`spans`; see run/excerpts.py). Instants of requests are complete.
    """

    row: IntArray
    left: FloatArray
    right: FloatArray
    step_s: FloatArray  # the gap; tokens that came together share the gap before them equally
    # Streams that decoded all through the gap, its own included; 0 where one began or ended in it, or where a prompt may have
    # been evaluated whose request was given up before its first token.
    streams: IntArray
    begun: IntArray  # streams that were decoding when the gap began
    held: BoolArray  # the prompt of another request, which got a token, was or may have been evaluated in it
    requests: TokenInstants
    spans: FloatArray | None  # (start, end) of each stretch; None: all gaps of the run are here
    said: str | None  # which part of the run the gaps are from; None: all of it

    @property
    def clean(self) -> BoolArray:
        """Mark the gaps that are one decode step of a known number of streams and hold no prefill."""
        return (self.streams > 0) & ~self.held & (self.step_s > 0)

    @property
    def gathered(self) -> bool:
        """Whether tokens come several at once, as of a proxy that gathers them, or of steps that make several."""
        return bool(len(self.left)) and float((self.right - self.left < self.step_s / 2).mean()) > MOST_GATHERED

    @property
    def reads_apart_s(self) -> float | None:
        """How far apart reads are where tokens come several at once; None where they come one by one."""
        apart = self.right - self.left
        return float(np.median(apart[apart >= self.step_s / 2])) if self.gathered else None

    @property
    def around_held(self) -> BoolArray:
        """Mark the held gaps and the one on each side of them in the same stream.

        Where tokens scatter, whether a gap is held goes by when it begins and ends: those alone are too long on average.
        """
        same, found = self.row[1:] == self.row[:-1], self.held.copy()
        found[1:] |= self.held[:-1] & same
        found[:-1] |= self.held[1:] & same
        return found

    def decoding_at(self, instants: FloatArray) -> IntArray:
        """Return how many streams are between their first and last token at each instant."""
        begun = np.searchsorted(self.requests.firsts, instants, side="right")
        return begun - np.searchsorted(self.requests.lasts, instants, side="right")

    def covers(self, start: FloatArray, end: FloatArray) -> BoolArray:
        """Mark the windows of which all gaps are here."""
        if self.spans is None:
            return np.ones(len(start), dtype=np.bool_)
        span = np.maximum(np.searchsorted(self.spans[:, 0], start, side="right") - 1, 0)
        return np.asarray((start >= self.spans[span, 0]) & (end <= self.spans[span, 1]), dtype=np.bool_)

    def every(self, run: RunData) -> list[Callable[[], TokenGaps]]:
        """Return functions that each read a block of all the run's gaps; their `step_s` is the plain gap."""
        if self.spans is None:
            return [lambda: self]
        return [functools.partial(_block, self.requests, run, low, high) for low, high in blocks(run.chunks.starts)]

    def of_row(self, run: RunData, row: int) -> TokenGaps:
        """Read all gaps of the request in one row; their `step_s` is the plain gap."""
        return _block(self.requests, run, row, row + 1)


@dataclass(frozen=True, slots=True)
class TokenInstants:
    """When each request's tokens came and its prompt was evaluated; one entry per request, seconds, nan unknown."""

    first: FloatArray  # first token
    last: FloatArray  # last token
    free: FloatArray  # when a slot became free for it; −inf where none was needed
    started: FloatArray  # when its prefill began, at the earliest
    told: BoolArray  # whether `started` comes from the server's durations
    called: BoolArray  # whether its last piece holds many tokens, as a whole tool call does
    edge_s: float  # tokens of one batch arrive within this
    # sorted: the known first tokens, the known last tokens, and of prefills of which both are known their starts and ends
    firsts: FloatArray
    lasts: FloatArray
    starts: FloatArray
    ends: FloatArray
    # sorted: when requests that were given up without a token were sent, and when they were given up
    given_up_sends: FloatArray
    given_up_ends: FloatArray
    slot_limit: float  # the server's slots; inf where their limit is not known

    @classmethod
    def of(cls, run: RunData, slots: Slots, edge_s: float) -> TokenInstants:
        """Read the instants; tokens of one batch arrive within `edge_s`."""
        starts, counts = run.chunks.starts, run.chunks.counts
        rows, seen = np.flatnonzero(counts), counts > 0
        first, last = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
        first[rows] = run.made_at(rows, starts[rows])
        last[rows] = run.made_at(rows, starts[rows + 1] - 1)
        # An end token is counted in output_tokens but not sent: such a stream decodes for one more step.
        silent = run.one_of("finish_reason", "stop") & (run.column("output_tokens") > counts)
        last = np.where(silent & seen, np.maximum(last, run.column("end")), last)
        free = np.full(len(first), -np.inf)
        if slots.limit and slots.estimate is not None:
            free[seen] = freed_in_order(np.argsort(first[seen], kind="stable"), last[seen], slots.estimate)
        spent = run.column("prefill_s")
        told = np.isfinite(spent)
        # Without durations prefill is taken to begin as early as possible: when the request was sent and a slot was free.
        started = np.where(told, first - spent, np.minimum(np.maximum(run.column("reached"), free), first))
        known = np.isfinite(started) & np.isfinite(first)
        every = (first[seen], last[seen], started[known], first[known])
        firsts, lasts, begun, ended = (np.sort(values) for values in every)
        if np.array_equal(firsts, ended):
            ended = firsts  # one array, so that `_gaps_of` searches it once
        called = run.one_of("finish_reason", "tool_calls") & (run.column("output_tokens") > counts + CALL_TOKENS)
        given_up = run.one_of("outcome", Outcome.LEFT, Outcome.TIMEOUT) & ~seen & np.isfinite(run.column("reached"))
        sends, gone = (np.sort(run.column(name)[given_up]) for name in ("reached", "end"))
        most = slots.estimate if slots.limit and slots.estimate is not None else np.inf
        sorted_ones = (firsts, lasts, begun, ended, sends, gone)
        return cls(first, last, free, started, told, called, edge_s, *sorted_ones, most)

    def are_steps(self, row: IntArray, at: FloatArray, inside: BoolArray) -> BoolArray:
        """Mark, of the gaps inside streams, those that are no wait for a whole tool call."""
        return inside & ~(self.called[row[1:]] & (at[1:] >= self.last[row[1:]] - self.edge_s))


def read_gaps(run: RunData, slots: Slots) -> TokenGaps:
    """Return the gaps of a run; of a very long one those of stretches of it."""
    seen = excerpts.events(run)
    between = np.diff(seen.at)
    positive = between[seen.inside & (between > 0)]
    middle = float(np.median(positive)) if len(positive) else 0.0
    requests = TokenInstants.of(run, slots, min(EDGE_SHARE * middle, EDGE_MOST_S))
    inside = requests.are_steps(seen.row, seen.at, seen.inside)
    seconds = between[inside]
    found = _gaps_of(requests, seen.row, seen.at, inside)
    group = _number_merged(found.row, seconds, len(requests.first))
    size = np.bincount(group)
    shared = (np.bincount(group, weights=seconds) / size)[group] if len(group) else seconds
    # Tokens that came together share one gap, and so what happened in it: a prefill, or a stream that began or ended.
    odd = (found.streams == 0) | (np.diff(found.streams, prepend=0) != 0) & (np.diff(group, prepend=-1) == 0)
    spoilt = (np.bincount(group, weights=odd | found.held) > 0)[group] if len(group) else found.held
    return replace(
        found, step_s=shared, held=found.held | (spoilt & (size > 1)[group]), spans=seen.spans, said=seen.said
    )


def _block(requests: TokenInstants, run: RunData, low: int, high: int) -> TokenGaps:
    """Read all gaps of the requests in rows `low` to `high` − 1."""
    starts = run.chunks.starts
    row = np.repeat(np.arange(low, high), run.chunks.counts[low:high])
    at = run.made_at(row, np.arange(starts[low], starts[high]))
    return _gaps_of(requests, row, at, requests.are_steps(row, at, np.diff(row) == 0))


def _gaps_of(requests: TokenInstants, row: IntArray, at: FloatArray, inside: BoolArray) -> TokenGaps:
    """Describe the gaps between neighbouring tokens, of which `inside` marks those within one stream."""
    edge = requests.edge_s
    started = np.searchsorted(requests.firsts, at + edge, side="right")
    ended = np.searchsorted(requests.lasts, at + edge, side="right")
    before = np.searchsorted(requests.lasts, at - edge)
    done = started if requests.ends is requests.firsts else np.searchsorted(requests.ends, at + edge, side="right")
    opened = np.searchsorted(requests.starts, at - edge)
    left, right = at[:-1][inside], at[1:][inside]
    began = started[:-1][inside]
    through = began - before[1:][inside]
    unseen = through < requests.slot_limit
    unseen &= np.searchsorted(requests.given_up_sends, right) > np.searchsorted(requests.given_up_ends, left)
    at_left = began - ended[:-1][inside]
    joined = started[1:][inside] > began
    return TokenGaps(
        row=row[1:][inside],
        left=left,
        right=right,
        step_s=right - left,
        streams=np.where((through == at_left) & (through > 0) & ~unseen, through, 0),
        begun=at_left,
        held=joined | (opened[1:][inside] > done[:-1][inside]),
        requests=requests,
        spans=None,
        said=None,
    )


def _number_merged(row: IntArray, seconds: FloatArray, rows: int) -> IntArray:
    """Number the gaps; one that is next to zero gets the number of the gap before it."""
    total = np.bincount(row, weights=seconds, minlength=rows)
    count = np.bincount(row, minlength=rows)
    usual = (total / np.maximum(count, 1))[row]
    fresh = np.diff(row, prepend=-1) != 0
    return np.cumsum(fresh | (seconds > MERGED_SHARE * usual)) - 1


def share_out_of_step(run: RunData, gaps: TokenGaps) -> float | None:
    """Return the share of the pairs of streams that decoded together and have steps of their own; None where that is unknown."""
    shares = np.array(list(_pairs(run, gaps)), dtype=np.float64)
    told = (shares < OUT_OF_STEP) | (shares > IN_STEP)
    if told.sum() < max(FEWEST_PAIRS, 0.5 * len(shares)):
        return None
    return float((shares[told] < OUT_OF_STEP).mean())


def _pairs(run: RunData, gaps: TokenGaps) -> Iterator[float]:
    """Yield for pairs of streams which share of one's tokens came with a token of the other."""
    clean = gaps.clean & (gaps.streams > 1)
    usual = float(np.median(gaps.step_s[clean])) if clean.any() else 0.0
    if usual < SHORTEST_GAP_S:
        return
    first, last = gaps.requests.first, gaps.requests.last
    tokens = made_tokens(run)
    gathered = functools.cache(lambda row: _gathered(tokens(row), usual))
    order = np.argsort(gaps.row[clean], kind="stable")
    rights = gaps.right[clean][order]
    seen, starts, counts = np.unique(gaps.row[clean][order], return_index=True, return_counts=True)
    for place in evenly(len(seen), MOST_STREAMS):
        row, mine = seen[place], rights[starts[place] : starts[place] + counts[place]]
        if _gathered(mine, usual):
            continue
        beside = np.flatnonzero((first < last[row]) & (last > first[row]))
        beside = beside[beside != row]
        for other in beside[evenly(len(beside), MOST_BESIDE)]:
            together = mine[(mine > first[other]) & (mine < last[other])]
            if len(together) >= FEWEST_TOKENS and not gathered(int(other)):
                yield float((distance(together, tokens(int(other))) <= NEAR * usual).mean())


def _gathered(at: FloatArray, usual: float) -> bool:
    """Whether tokens of a stream came in twos, or all together: these are seen as steps all the same, or as none at all."""
    late, together = caught_up(at) if len(at) > 1 else (0.0, 1.0)
    return together > MOST_GATHERED and late <= MOST_LATE * usual
