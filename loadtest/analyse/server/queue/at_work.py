"""When each request arrived, was worked on and left, as slots are inferred from it; and how many were so at an instant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, finite
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.overlaps import Depth, open_within

TIE_S = 0.001  # scatter of arrivals of one batch: an end and a start this close are one slot changing hands
UNNOTICED_S = 0.005  # the batch loop has not noticed a request yet that came this shortly before a step began
HEADERS_ERROR_S = 0.020  # largest median difference of llama.cpp's headers from its timings (or one token gap)
MOSTLY_HELD_BACK = 0.5  # of the answers
TOLD_SHARE = 0.8  # of the answers must carry durations for the server to count as one that reports them
HELD_UP_S, HELD_UP_GAPS = (
    0.25,
    5,
)  # seconds, and token gaps: a last token that is later than both was held up on the way
GATHERED = 3  # tokens in a read, on average, of most answers: then a proxy gathers them
LEAST_HELD = 0.02  # of the time at work: a number of streams seen for less is a delayed token or two, not another slot


def headers_mark_start(run: RunData) -> bool:
    """Return whether the response headers show when a slot took the request up.

    llama.cpp's server sends headers at that moment, but a proxy before it may send them earlier or later. So the wait by
    headers is compared with TTFT − prompt time from the server's own timings, by the median over all requests.
    """
    timed = (run.column("llamacpp") == 1) & run.flag("ok")
    if timed.any() and held_back(run, timed):
        return False
    waited = np.maximum(run.column("ttft_s") - run.column("prefill_s"), 0.0)
    off = finite(np.abs(run.column("queue_wait_s") - waited)[timed])
    return bool(len(off)) and float(np.median(off)) <= max(HEADERS_ERROR_S, token_gap(run))


def held_back(run: RunData, rows: BoolArray | None = None) -> bool:
    """Whether a proxy held most answers back, so that their tokens came together."""
    held = run.column("held_back_s")[run.flag("ok") if rows is None else rows]
    return bool(len(held)) and float((held > 0).mean()) > MOSTLY_HELD_BACK


def token_gap(run: RunData) -> float:
    """Return the median over streams of (last − first token) / gaps, seconds; 2 ms where no stream had two tokens.

    The median of all gaps would not do: a server that sends its tokens in pairs has every second gap next to zero.
    """
    gaps = run.chunks.counts - 1
    spent = (run.column("last") - first_made(run))[gaps > 0] / gaps[gaps > 0]
    spent = spent[spent > 0]
    return float(np.median(spent)) if len(spent) else 2 * TIE_S


def first_made(run: RunData) -> FloatArray:
    """Return when the first token of each request was made: before it came, where a proxy held the answer back."""
    return run.column("first_token") - run.column("held_back_s")


def _last(run: RunData, gap: float) -> FloatArray:
    """Return when the last token of each request was made: earlier than it came, where the way held it up for long.

    By the server's own duration a stream was over then; its slot was another one's while its tokens were on the way.
    """
    last = run.column("last")
    made = first_made(run) + run.column("decode_s")
    held_up = last - made > max(HELD_UP_S, HELD_UP_GAPS * gap)
    return np.where(held_up, made, last)


def _gathered_s(run: RunData) -> float:
    """Return the time over which a proxy gathers tokens, by which a last token may be late; 0 where it sends them on."""
    counts, reads = run.chunks.counts, np.asarray(run.requests["reads"], dtype=np.float64)
    gathered = (reads > 0) & (counts >= GATHERED * reads)
    several = gathered & (reads > 1)
    if not several.any() or gathered.mean() <= MOSTLY_HELD_BACK:
        return 0.0
    span = run.column("last") - run.column("first_token")
    return float(np.median(span[several] / (reads[several] - 1)))


@dataclass(frozen=True, slots=True)
class RequestInstants:
    """The instants of every request that was sent, seconds; nan where one is unknown or never came."""

    arrived: FloatArray  # when it was sent, or the model was loaded if that was later
    started: FloatArray  # when its prefill began, by what the server reported
    first: FloatArray
    last: FloatArray  # last token, made earlier by the scatter of arrivals
    gone: FloatArray  # `last`, or the end of a request without a token
    gap: float  # token_gap
    told: bool  # whether the server reported for nearly every answer when work on it began

    @classmethod
    def of(cls, run: RunData, rows: BoolArray | None = None) -> RequestInstants:
        """Read the instants of the requests marked in `rows`, or of all."""
        send, first, end = run.column("send"), first_made(run), run.column("end")
        arrived = np.fmin(send + np.nan_to_num(run.column("load_s")), np.fmin(first, end))
        started = first - run.column("prefill_s")
        if headers_mark_start(run):
            started = run.column("headers")
        started = np.clip(started, arrived, first)
        gap = token_gap(run)
        last = np.maximum(_last(run, gap) - max(min(TIE_S, gap / 2), _gathered_s(run)), first + 1e-9)
        gone = np.where(np.isfinite(last), last, end)
        keep = np.isfinite(send) & (rows if rows is not None else True)
        seen = keep & np.isfinite(first)
        told = bool(seen.any()) and float(np.isfinite(started[seen]).mean()) >= TOLD_SHARE
        arrived, started, first, last, gone = (values[keep] for values in (arrived, started, first, last, gone))
        return cls(arrived, started, first, last, gone, gap, told)

    @property
    def in_flight(self) -> Depth:
        """How many requests were between arrival and end."""
        return Depth.of(self.arrived, np.maximum(self.gone, self.arrived))

    @property
    def slack(self) -> float:
        """Arrivals closer together than this belong to one batch, seconds."""
        return min(3 * TIE_S, 0.3 * self.gap)

    @property
    def unnoticed_s(self) -> float:
        """How long before a step a request must have arrived to count as passed over by it, seconds."""
        return min(UNNOTICED_S, self.gap / 2)

    @property
    def begun(self) -> FloatArray:
        """When work on each request was seen to begin: its prefill where the server reports durations, else its first token."""
        return np.where(np.isfinite(self.started), self.started, self.first) if self.told else self.first

    def peak(self) -> int:
        """Return the most streams at work at once; a number held for less than 2 % of the time at work does not count."""
        seen = np.isfinite(self.first)
        if not seen.any():
            return 0
        late = np.minimum(self.begun + self.slack, self.first)
        early = np.maximum(self.last - self.slack, late + 1e-9)  # a last token delayed is no second slot
        work = Depth.of(late[seen], early[seen])
        levels, held = np.unique(work.depth, return_inverse=True)
        spent = np.bincount(held, weights=np.diff(work.times, append=work.times[-1:]), minlength=len(levels))
        spent[levels == 0] = 0.0
        at_least = np.cumsum(spent[::-1])[::-1]
        return int(levels[at_least >= LEAST_HELD * at_least[0]].max())


def lone(run: RunData) -> BoolArray:
    """Mark the requests that were alone in flight from their send to their first token."""
    send = run.column("send")
    in_flight = open_within(send, run.column("end"), send, run.column("first_token"))
    return np.asarray(np.isfinite(send) & (in_flight == 1), dtype=np.bool_)
