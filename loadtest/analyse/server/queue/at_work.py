"""When each request arrived, was worked on and left, as slots are inferred from it; and how many were so at an instant."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, RunData, evenly, finite
from loadtest.analyse.run.overlaps import Depth, open_within

TIE_S = 0.001  # scatter of arrivals of one batch: an end and a start this close are one slot changing hands
UNNOTICED_S = 0.005  # the batch loop has not noticed a request yet that came this shortly before a step began
HEADERS_ERROR_S = 0.020  # largest median difference of llama.cpp's headers from its timings (or one token gap)
MOSTLY_HELD_BACK = 0.5  # of the answers
TOLD_SHARE = 0.8  # of the answers must carry durations for the server to count as one that reports them
HELD_UP_S, HELD_UP_GAPS = 0.25, 5  # a last token that is later than both, s and token gaps, was held up on the way
FEWEST_TOKENS = 4  # of a stream while another one decoded
MOST_STREAMS, MOST_BESIDE = 60, 3  # looked at, evenly spread; of each those sent next
MOST_KEPT = 256  # streams whose tokens are kept at a time: each beside one asks for them, soon one after the other
IN_STEP = 0.8  # of a stream's tokens come with a token of another that decodes with it, where the two share steps
AT_ONCE = 0.1  # of a stream's mean gap: tokens closer together than this came in one read …
GATHERED = 0.1  # … and so late where so many of a stream did
MOSTLY_LATE = 0.9  # of the streams have their latest token no later than the delay that is taken
LEAST_HELD = 0.02  # of the time at work: a number of streams seen for less is a delayed token or two, not another slot


def headers_mark_start(run: RunData) -> bool:
    """Return whether the response headers show when a slot took the request up.

    llama.cpp's server sends headers at that moment, but a proxy before it may send them earlier or later. So the wait by
    headers is compared with TTFT − prompt time from the server's own timings, by the median over all requests.
    """
    timed = (run.column("llamacpp") == 1) & run.flag("ok")
    if timed.any() and mostly_held_back(run, timed):
        return False
    waited = np.maximum(run.column("ttft_s") - run.column("prefill_s"), 0.0)
    off = finite(np.abs(run.column("headers") - run.column("send") - waited)[timed])
    return bool(len(off)) and float(np.median(off)) <= max(HEADERS_ERROR_S, token_gap(run))


def mostly_held_back(run: RunData, rows: BoolArray | None = None) -> bool:
    """Whether a proxy held most answers back, so that their tokens came together."""
    held = run.column("made_before_s")[run.flag("ok") if rows is None else rows]
    return bool(len(held)) and float((held > 0).mean()) > MOSTLY_HELD_BACK


def token_gap(run: RunData) -> float:
    """Return the median over streams of (last − first token) / gaps, seconds; 2 ms where no stream had two tokens.

    The median of all gaps would not do: a server that sends its tokens in pairs has every second gap next to zero.
    """
    gaps = run.chunks.counts - 1
    spent = (run.column("last") - first_made(run))[gaps > 0] / gaps[gaps > 0]
    spent = spent[spent > 0]
    return float(np.median(spent)) if len(spent) else 2 * TIE_S


def before_queue(run: RunData) -> FloatArray:
    """Return how long each request was at the server before its queue: its model load, or what vLLM's own figures leave of TTFT."""
    until_first = first_made(run) - run.column("reached")
    before = np.maximum(until_first - run.column("prefill_s") - run.column("queued_s"), 0.0)
    return np.where(np.isfinite(before), before, run.column("load_s"))


def arrival(run: RunData, first: FloatArray) -> FloatArray:
    """Return when each request came to the queue: it was sent and its model loaded, at the latest at its `first` token or end.

    One without an answer says nothing of loading: it is taken to have come as soon as most do, for those sent together stay in order.
    """
    loading = before_queue(run)
    usual = float(np.nanmedian(loading)) if np.isfinite(loading).any() else 0.0
    loaded = run.column("reached") + np.where(np.isfinite(loading), loading, usual)
    return np.fmin(loaded, np.fmin(first, run.column("end")))


def first_made(run: RunData) -> FloatArray:
    """Return when the first token of each request was made: before it came, where the server says so or a proxy held it back."""
    known = run.delivery.usable
    late = np.where(known, 0.0, run.column("made_before_s"))
    late[known] = run.delivery.at(np.flatnonzero(known), run.chunks.starts[:-1][known])
    return run.column("first_token") - late


def _last(run: RunData, gap: float) -> FloatArray:
    """Return when the last token of each request was made: before it came, where the server stamps tokens or it was held up.

    A token was held up where it came long after the stream was over by the server's own duration. Its slot was another
    stream's by then.
    """
    last, known = run.column("last").copy(), run.delivery.usable
    last[known] -= run.delivery.at(np.flatnonzero(known), run.chunks.starts[1:][known] - 1)
    made = first_made(run) + run.column("decode_s")
    held_up = last - made > max(HELD_UP_S, HELD_UP_GAPS * gap)
    return np.where(held_up, made, last)


# -- how late tokens come ----------------------------------------------------------------------------------------------


def delayed_s(run: RunData, gap: float) -> float:
    """Return how late a token may come, seconds; 0 where tokens come one by one and to all streams together, as a server makes them.

    Elsewhere a token is late by as much as the tokens behind it catch up. For no stream goes faster than its mean pace or,
    where prompts hold it up, than its usual pace.
    """
    rows = np.flatnonzero(run.chunks.counts >= FEWEST_TOKENS)
    rows = rows[evenly(len(rows), MOST_STREAMS)]
    if not len(rows):
        return 0.0
    tokens = made_tokens(run)
    late, gathered = np.array([caught_up(tokens(int(row))) for row in rows]).T
    end, near = len(run.chunks.counts), min(3 * TIE_S, 0.3 * gap)
    shares = [share for row in rows for share in _together(tokens, int(row), end, near)]
    if float(np.median(gathered)) < GATHERED and (not shares or float(np.median(shares)) >= IN_STEP):
        return 0.0
    return float(np.quantile(late, MOSTLY_LATE))


def _together(tokens: Callable[[int], FloatArray], row: int, end: int, near: float) -> Iterator[float]:
    """Yield which share of a stream's tokens came with one of each stream that decoded beside it."""
    mine = tokens(row)
    for other in range(row + 1, min(row + 1 + MOST_BESIDE, end)):
        theirs = tokens(other)
        if len(theirs) >= FEWEST_TOKENS:
            both = mine[(mine > theirs[0]) & (mine < theirs[-1])]
            if len(both) >= FEWEST_TOKENS:
                yield float((distance(both, theirs) <= near).mean())


def caught_up(at: FloatArray) -> tuple[float, float]:
    """Return by how much a stream's latest token was late, and the share of its tokens that came with the one before."""
    gaps = np.diff(at)
    mean = float(gaps.mean())
    apart = gaps > AT_ONCE * mean
    pace = min(mean, float(np.median(gaps[apart]))) if apart.any() else mean
    ahead = at - pace * np.arange(len(at))
    return float((ahead - np.minimum.accumulate(ahead[::-1])[::-1]).max()), float((~apart).mean())


def made_tokens(run: RunData) -> Callable[[int], FloatArray]:
    """Return a function of a request's row that tells when the server made its tokens, or when they came."""

    @functools.lru_cache(MOST_KEPT)
    def tokens_of(row: int) -> FloatArray:
        places = np.arange(run.chunks.starts[row], run.chunks.starts[row + 1])
        return run.made_at(np.full(len(places), row), places)

    return tokens_of


def distance(at: FloatArray, others: FloatArray) -> FloatArray:
    """Return how far each instant is from the nearest of the others, which are sorted."""
    right = np.searchsorted(others, at).clip(1, len(others) - 1)
    return np.asarray(np.minimum(np.abs(at - others[right - 1]), np.abs(others[right] - at)), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class RequestInstants:
    """The instants of every request that was sent, seconds; nan where one is unknown or never came."""

    arrived: FloatArray  # when it was sent, or the model was loaded if that was later
    started: FloatArray  # when its prefill began, by what the server reported
    first: FloatArray
    last: FloatArray  # last token, made earlier by the scatter of arrivals
    gone: FloatArray  # `last`, or the end of a request without a token
    gap: float  # token_gap
    delayed_s: float  # how late a token may come
    mostly_told: bool  # whether the server reported for nearly every answer when work on it began

    @classmethod
    def of(cls, run: RunData, rows: BoolArray | None = None) -> RequestInstants:
        """Read the instants of the requests marked in `rows`, or of all."""
        send, first, end = run.column("send"), first_made(run), run.column("end")
        arrived = arrival(run, first)
        started = first - run.column("prefill_s")
        if headers_mark_start(run):
            started = run.column("headers")
        started = np.clip(started, arrived, first)
        gap = token_gap(run)
        late = delayed_s(run, gap)
        last = np.maximum(_last(run, gap) - max(min(TIE_S, gap / 2), late), first + 1e-9)
        gone = np.where(np.isfinite(last), last, end)
        keep = np.isfinite(send) & (rows if rows is not None else True)
        seen = keep & np.isfinite(first)
        mostly_told = bool(seen.any()) and float(np.isfinite(started[seen]).mean()) >= TOLD_SHARE
        arrived, started, first, last, gone = (values[keep] for values in (arrived, started, first, last, gone))
        return cls(arrived, started, first, last, gone, gap, late, mostly_told)

    @property
    def in_flight(self) -> Depth:
        """How many requests were between arrival and end."""
        return Depth.of(self.arrived, np.maximum(self.gone, self.arrived))

    @property
    def edge(self) -> float:
        """Arrivals closer together than this belong to one batch, seconds."""
        return min(3 * TIE_S, 0.3 * self.gap)

    @property
    def slack(self) -> float:
        """How far from the begin and end of a stream it is known to be at work, or not to be."""
        return max(self.edge, self.delayed_s)

    @property
    def unnoticed_s(self) -> float:
        """How long before a step a request must have arrived to count as passed over by it, seconds."""
        return min(UNNOTICED_S, self.gap / 2)

    @property
    def begun(self) -> FloatArray:
        """When work on each request was seen to begin: its prefill where the server reports durations, else its first token."""
        return np.where(np.isfinite(self.started), self.started, self.first) if self.mostly_told else self.first

    def peak(self, least: float = LEAST_HELD) -> int:
        """Return the most streams at work at once; a number held for less than this share of the time at work does not count."""
        seen = np.isfinite(self.first)
        if not seen.any():
            return 0
        late = np.minimum(self.begun + self.edge, self.first)
        early = np.maximum(self.last - self.edge, late + 1e-9)  # a last token delayed is no second slot
        work = Depth.of(late[seen], early[seen])
        levels, held = np.unique(work.depth, return_inverse=True)
        spent = np.bincount(held, weights=np.diff(work.times, append=work.times[-1:]), minlength=len(levels))
        spent[levels == 0] = 0.0
        at_least = np.cumsum(spent[::-1])[::-1]
        return int(levels[at_least >= least * at_least[0]].max())


def lone(run: RunData) -> BoolArray:
    """Mark the requests that were alone in flight from their send to their first token."""
    send = run.column("send")
    in_flight = open_within(send, run.column("end"), send, run.column("first_token"))
    return np.asarray(np.isfinite(send) & (in_flight == 1), dtype=np.bool_)
