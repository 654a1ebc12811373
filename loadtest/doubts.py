"""Reasons to doubt the figures of a level, and the limits past which they make it void.

The live line and the verdict of the report both take their doubts from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from loadtest.metrics import BUFFERED_PIECES
from loadtest.text import counted, percent, seconds

VALID, SUSPECT, VOID = "valid", "suspect", "void"

# Limits of the verdict (a level is void past these, suspect past half of them).
SCHEDULE_LAG_SHARE_OF_TTFT = 0.01  # of the median TTFT, at p99 …
SCHEDULE_LAG_FLOOR_S = 0.005  # … or this, whichever is larger
LATE_GAPS_SHARE = 0.01  # gaps between tokens that a late read of the client spoilt (late by more than a token gap)
STOOD_STILL_S = 1.0  # between two polls of one process: suspect, whatever its share …
STOOD_STILL_SHARE = 0.01  # … of the time of all the level's processes
COALESCED_FIRST_TOKENS_SHARE = 0.01  # suspect only
LOST_RECORDS_SHARE = 0.01  # of a run's records: suspect from the first on
CLIENT_CPU_SHARE = 0.9  # of one core; suspect only
LENGTH_SHARE = 0.1  # achieved output length off the asked one; suspect only
FEW_TOKENS = 16  # a prompt longer by no more than this has a chat template, not a wrong length
MANY_FAILED_SHARE = 0.1  # of the requests: from there on figures of the others are said to be of those
FAILED_SHARE = 0.5  # of the requests: from there on those that ended well do not stand for the load
NOT_UNDERSTOOD_SHARE = 0.01  # answers without any text that was understood, although the server counted tokens
EMPTY_SHARE = 0.01  # answers without any text; suspect, void from EMPTY_VOID_SHARE on
EMPTY_VOID_SHARE = 0.5
ENOUGH_FOR_P99 = 100  # requests: of fewer, p99 is the maximum
ENOUGH_LATE = 3  # late reads from which on a level may be void
FROM_CACHE = "a cache on the way answered in the server's place"
CONNECTION_WAIT = (  # what a record says of a request that waited for a place among the connections
    "the answer began only once an idle connection, which loadtest keeps, had been closed: the server or a gateway takes fewer "
    "connections than there are streams; raise that limit"
)


class Doubt(NamedTuple):
    """A reason to doubt figures, and how severe it is."""

    severity: str
    reason: str


def doubt_failed(failed: int, ended: int, how: str, *, allowed: float = 0.0, more: str = "") -> Iterator[Doubt]:
    """Doubt figures where `failed` of `ended` requests failed, as `how` lists; `allowed` is their share that is not doubted."""
    share = failed / ended if ended else 0.0
    said = f"{failed} of {ended} requests failed ({how})"
    if failed and share >= FAILED_SHARE:
        yield Doubt(VOID, f"{said}: half or more{more}")
    elif share > allowed:
        others = ": latencies and speeds are of the others" if share > MANY_FAILED_SHARE else ""
        yield Doubt(SUSPECT, f"{said}, above the allowed {percent(allowed)}{others}{more}")


def schedule_lag_limit(median_ttft_s: float) -> float:
    """Return the schedule lag at p99 past which a level is void: 1 % of median TTFT or 5 ms, the larger. Seconds."""
    return max(SCHEDULE_LAG_SHARE_OF_TTFT * median_ttft_s, SCHEDULE_LAG_FLOOR_S)


def doubt_schedule_lag(count: int, p50: float, p99: float, limit: float, *, of: str = "TTFT") -> Iterator[Doubt]:
    """Doubt requests that were sent late: `count` of them, with percentiles of schedule lag in seconds.

    `of` names the figure whose median the limit was made from: of answers without text E2E stands for TTFT.
    """
    few = count < ENOUGH_FOR_P99 and p50 <= limit
    alone = f"; of {counted(count, 'request')} that is nearly the longest, which alone makes no level void"
    yield from _graded(
        p99,
        limit,
        lambda word: (
            f"schedule lag p99 is {seconds(p99)}, {word} {_limit(limit)} (1 % of median {of} or 5 ms)"
            f"{alone if few and p99 > limit else ''}"
        ),
        few=few,
    )


def doubt_lag(reads: int, tokens: int, spoilt: int, gaps: int) -> Iterator[Doubt]:
    """Doubt a client whose late reads (by more than a token gap) spoilt gaps between tokens; void from three reads on."""
    if gaps and spoilt and (reads > 1 or spoilt / gaps > LATE_GAPS_SHARE):
        share, limit = spoilt / gaps, LATE_GAPS_SHARE
        yield from _graded(
            share,
            limit,
            lambda word: (
                f"the client read {counted(tokens, 'token')} more than one token gap late, which spoils {spoilt} of "
                f"{gaps} gaps between tokens ({percent(share)}), {word} {percent(limit)}"
            ),
            few=reads < ENOUGH_LATE,
        )


def doubt_late(late: int, arrivals: int) -> Iterator[Doubt]:
    """Doubt late reads in records of older versions, which do not count the gaps spoilt; a single read proves nothing."""
    if arrivals and late > 1:
        share, limit = late / arrivals, LATE_GAPS_SHARE
        yield from _graded(
            share,
            limit,
            lambda word: (
                f"the client was more than one token gap late for {late} of {arrivals} arrivals ({percent(share)}), "
                f"{word} {percent(limit)}"
            ),
            few=late < ENOUGH_LATE,
        )


def doubt_stood_still(gaps: Sequence[float], span: float, processes: int) -> Iterator[Doubt]:
    """Doubt a client that neither sent nor read for STOOD_STILL_S and more: requests that were not sent tell of nothing.

    `gaps` are those between polls, `span` is the level's length, both in seconds.
    """
    long = [gap for gap in gaps if gap >= STOOD_STILL_S]
    if long and span > 0:
        share, times = sum(long) / (span * processes), counted(len(long), "time")
        who, whose = "the client", "level's time"
        if processes > 1:
            who, whose = "a process of the client", f"time of the level's {processes} processes"
        limit = f", above the limit of {percent(STOOD_STILL_SHARE)}" if share > STOOD_STILL_SHARE else ""
        yield Doubt(
            VOID if limit else SUSPECT,
            f"{who} stood still for up to {seconds(max(long))} ({times}) and sent and read nothing then: {percent(share)} of "
            f"the {whose}{limit}",
        )


def doubt_send(p99: float, limit: float) -> Iterator[Doubt]:
    """Doubt t_send where passing the request to the kernel took longer than the limit of schedule lag. Seconds."""
    if p99 > limit:
        yield Doubt(
            SUSPECT,
            f"sending took {seconds(p99)} at p99, above the limit of {_limit(limit)}: t_send may be off by as much",
        )


def doubt_stamps(arrivals: int, stamped: int, lag_p99: float, limit: float) -> Iterator[Doubt]:
    """Doubt arrivals without kernel stamps: where the client lagged, the time of its read is not that of the arrival."""
    if stamped_by(arrivals, stamped) in ("user", "mixed"):
        yield from _graded(
            lag_p99,
            limit,
            lambda word: (
                f"arrivals carry no kernel stamps and client lag p99 is {seconds(lag_p99)}, {word} {_limit(limit)}"
            ),
        )


def doubt_coalesced(
    merged: int, requests: int, *, pieces: int = 0, reads: int = 0, held_back: int = 0, held_back_s: float = 0.0
) -> Iterator[Doubt]:
    """Doubt TTFT where the first token came in one read with a later token that the server made after it.

    Args:
        merged: of how many requests that holds.
        pieces: of all answers, which came in so many `reads`.
        held_back: requests whose pieces all came together, though the server wrote them over `held_back_s` in all, 0 where
            it does not say so.
    """
    if not requests:
        return
    cure = "(nginx: proxy_buffering off; HAProxy: option http-no-delay)"
    if 2 * held_back > requests:
        why = "and faster than models write them"
        if held_back_s:
            why = f"although the server says that it wrote them over {seconds(held_back_s / held_back)}"
        yield Doubt(
            SUSPECT,
            f"all tokens of an answer came together {why}, in {held_back} of {requests} requests: a proxy on the way {cure} or the "
            "server itself holds answers back until they are whole, so neither TTFT nor token gaps are the model's",
        )
    elif merged / requests > COALESCED_FIRST_TOKENS_SHARE:
        buffered = pieces >= BUFFERED_PIECES * reads > 0
        yield Doubt(
            SUSPECT,
            f"the first token came in one read with a later one in {merged} of {requests} requests "
            f"({percent(merged / requests)}): TTFT may be late, and the decode speed of a stream too high"
            + (
                f"; {pieces / reads:.0f} pieces of an answer came in one read on average, as behind a proxy that buffers "
                f"answers {cure}"
                if buffered
                else ""
            ),
        )


def stamped_by(arrivals: int, stamped: int) -> str:
    """Return what stamped the arrivals: "kernel", "user" (the time of the read), "mixed", or "none" without arrivals."""
    if arrivals == 0:
        return "none"
    # The first reads of a new process and the end of a stream have no kernel stamp.
    return "kernel" if stamped >= 0.99 * arrivals else "user" if stamped == 0 else "mixed"


def _limit(value: float) -> str:
    """Return a limit that follows from TTFT without zeros at its end: "5 ms", "15.9 ms"."""
    return seconds(float(f"{value:.3g}"), exact=True)


def _graded(value: float, limit: float, reason: Callable[[str], str], *, few: bool = False) -> Iterator[Doubt]:
    """Yield a doubt: void above the limit (suspect if `few`), suspect above half of it."""
    if value > limit:
        yield Doubt(SUSPECT if few else VOID, reason("above the limit of"))
    elif value > limit / 2:
        yield Doubt(SUSPECT, reason("above half the limit of"))
