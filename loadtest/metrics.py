"""Every formula in one place: durations from a Record's instants, and the limits of a verdict.

Instants are nanoseconds, results seconds. A function of instants and durations takes scalars or NumPy arrays alike (it
only computes), so the live line, the frames and the Locust users cannot disagree; what a server said is read a request
at a time. Definitions are those of vLLM's `bench serve` where it has one; the formula stands in the docstring and in
FORMULAS, from which reports print it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from loadtest.text import counted, percent, seconds

NS_PER_S = 1_000_000_000
S_PER_NS = 1e-9
S_PER_US = 1e-6

FORMULAS: dict[str, str] = {
    "ttft_s": "t_first_token − t_send",
    "ttft_sched_s": "t_first_token − t_sched",
    "itl_s": "gaps between consecutive content events, all requests pooled",
    "tpot_s": "(E2E − TTFT) / (output tokens − 1), one per request",
    "e2e_s": "t_last_content − t_send",
    "e2e_sched_s": "t_last_content − t_sched",
    "stream_tokens_per_s": "1 / TPOT: the decode speed that a user sees",
    "e2e_tokens_per_s": "output tokens / E2E: the older convention, waiting included",
    "queue_wait_s": "Ollama: TTFT − load − prompt eval; llama.cpp: t_headers − t_send",
    "slot_wait_s": "the part of queue wait while all slots are taken",
    "batch_wait_s": "the rest of queue wait: a slot is free, the batch in flight must end first",
    "load_s": "Ollama: load_duration",
    "prefill_s": "Ollama: prompt_eval_duration; llama.cpp: timings.prompt_ms",
    "prefill_tokens_per_s": "uncached prompt tokens / prefill (TTFT where no prefill is said), of prompts alone on the server",
    "stall_s": "what a decode lost to others' prompts: its gaps above the step time, while prompts were worked on",
    "delivery_delay_s": "arrival − created_at, less its smallest value in the run",
    "server_itl_s": "gaps between consecutive created_at",
    "schedule_lag_s": "t_send − t_sched",
    "lag_s": "client lag: max(handling − kernel stamp, longest gap between polls of the loop)",
}


def ttft(t_first_token: Any, t_send: Any) -> Any:
    """Time to first token: t_first_token − t_send. Seconds."""
    return (t_first_token - t_send) * S_PER_NS


def ttft_sched(t_first_token: Any, t_sched: Any) -> Any:
    """Time to first token from the intended instant: t_first_token − t_sched. Seconds."""
    return (t_first_token - t_sched) * S_PER_NS


def e2e(t_last_content: Any, t_send: Any) -> Any:
    """End-to-end latency: t_last_content − t_send (vLLM's E2EL). Seconds."""
    return (t_last_content - t_send) * S_PER_NS


def tpot(e2e_s: Any, ttft_s: Any, output_tokens: Any) -> Any:
    """Time per output token: (E2E − TTFT) / (output_tokens − 1). Seconds; pass nan for output_tokens ≤ 1."""
    return (e2e_s - ttft_s) / (output_tokens - 1)


def stream_tokens_per_s(tpot_s: Any) -> Any:
    """Decode speed that a user sees: 1 / TPOT. Tokens per second."""
    return 1 / tpot_s


def e2e_tokens_per_s(output_tokens: Any, e2e_s: Any) -> Any:
    """Output tokens / E2E, waiting included: the convention of older tables. Tokens per second."""
    return output_tokens / e2e_s


def schedule_lag(t_send: Any, t_sched: Any) -> Any:
    """How late a request left: t_send − t_sched. Seconds."""
    return (t_send - t_sched) * S_PER_NS


def queue_wait_ollama(ttft_s: Any, load_s: Any, prefill_s: Any) -> Any:
    """Wait before the server worked on the prompt, from Ollama's own durations: TTFT − load − prompt_eval. Seconds.

    May come out a little below zero (rounding, scheduling); readers clamp at 0. Held against a real Ollama it is right
    within 10-20 ms on a busy one-core server. The native API only: /v1 carries no durations.
    """
    return ttft_s - load_s - prefill_s


def queue_wait_llamacpp(t_headers: Any, t_send: Any) -> Any:
    """Wait for a slot of llama.cpp's server, which sends headers when the slot starts: t_headers − t_send. Seconds."""
    return (t_headers - t_send) * S_PER_NS


def server_decode_tokens_per_s(eval_count: Any, eval_duration_ns: Any) -> Any:
    """Decode rate on the server's clock: (eval_count − 1) / eval_duration, for eval_duration spans n − 1 intervals."""
    return (eval_count - 1) / (eval_duration_ns * S_PER_NS)


class ServerSaid(NamedTuple):
    """What a server said of its work on one request; nan for what it does not say."""

    load_s: float
    prefill_s: float
    cached_tokens: float
    starts_with_headers: bool  # llama.cpp: headers leave when the slot starts


def server_said(server: dict[str, Any]) -> ServerSaid:
    """Read a record's `server`. A duration that was not sent is unknown: Ollama's own servers always send load and
    prompt_eval, and what stands before other machines may send total_duration alone.
    """
    timings = server.get("timings")
    usage = server.get("usage")
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    cached = _said_number(details.get("cached_tokens")) if isinstance(details, dict) else math.nan
    if isinstance(timings, dict):
        reused = _said_number(timings.get("cache_n"))
        return ServerSaid(
            math.nan, _said_number(timings.get("prompt_ms")) / 1e3, cached if math.isnan(reused) else reused, True
        )
    load, prefill = (_said_number(server.get(name)) * S_PER_NS for name in ("load_duration", "prompt_eval_duration"))
    return ServerSaid(load, prefill, cached, False)


def _said_number(said: Any) -> float:
    """Return what a server sent as a number, nan where that is none or negative."""
    known = isinstance(said, int | float) and not isinstance(said, bool) and 0 <= said < math.inf
    return float(said) if known else math.nan


def queue_wait(t_send: float, t_headers: float, t_first_token: float, said: ServerSaid) -> float:
    """Return one request's wait before the server worked on its prompt, at least 0; nan where that is unknown.

    Instants that there were not are nan. Formulas: queue_wait_llamacpp, queue_wait_ollama. Seconds.
    """
    if said.starts_with_headers:
        wait = queue_wait_llamacpp(t_headers, t_send)
    else:
        wait = queue_wait_ollama(ttft(t_first_token, t_send), said.load_s, said.prefill_s)
    return math.nan if math.isnan(wait) else max(float(wait), 0.0)


def made_together(server_us: Sequence[int] | None) -> bool:
    """Whether the server itself made the first two tokens within a millisecond, as real Ollama does at times."""
    return server_us is not None and len(server_us) > 1 and server_us[1] - server_us[0] < 1000


def enough_for(share: float, count: int) -> bool:
    """Whether so many values tell a percentile: p5 and p95 want 20, p99 100, the median one."""
    return count > 0 and (share == 0.5 or count * min(share, 1 - share) >= 1 - 1e-9)


def needed(share: float) -> int:
    """Return how many values a percentile takes at least."""
    return 1 if share == 0.5 else math.ceil(1 / min(share, 1 - share) - 1e-9)


# Limits of the verdict (a level is void past these, suspect past half of them).
SCHEDULE_LAG_SHARE_OF_TTFT = 0.01  # of the median TTFT, at p99 …
SCHEDULE_LAG_FLOOR_S = 0.005  # … or this, whichever is larger
LATE_GAPS_SHARE = 0.01  # gaps between tokens beside one that client lag of more than a token gap made late
STOOD_STILL_S = 1.0  # between two polls of one process: suspect, whatever its share …
STOOD_STILL_SHARE = 0.01  # … of the time of all the level's processes
COALESCED_FIRST_TOKENS_SHARE = 0.01  # suspect only
LOST_RECORDS_SHARE = 0.01  # of a run's records: suspect from the first on
CLIENT_CPU_SHARE = 0.9  # of one core; suspect only
LENGTH_SHARE = 0.1  # achieved output length off the asked one; suspect only
FAILED_SHARE = 0.5  # of the requests, from which on those that ended well say nothing of the load that was offered
UNREAD_SHARE = 0.01  # answers whose tokens the server counted, and of which no text was understood
EMPTY_SHARE = 0.01  # answers without any text; suspect, void from EMPTY_VOID_SHARE on
EMPTY_VOID_SHARE = 0.5


def schedule_lag_limit(median_ttft_s: float) -> float:
    """Return the schedule lag at p99 past which a level is void: 1 % of median TTFT or 5 ms, the larger. Seconds."""
    return max(SCHEDULE_LAG_SHARE_OF_TTFT * median_ttft_s, SCHEDULE_LAG_FLOOR_S)


# What `loadtest calibrate` calls a true figure; errors are against what the server itself says that it did.
TRUE_WITHIN_S = 0.001  # errors of TTFT at p50 and p99, of ITL at p99
TRUE_WITHIN_SHARE = 0.01  # of the true median gap: error of ITL at p50
BIN_S = 0.01  # content events are counted in bins of this length for the busiest second


def busiest_second(bins: Sequence[int]) -> int:
    """Return the most content events in any second, from their counts in consecutive bins of BIN_S seconds."""
    width = round(1 / BIN_S)
    total = most = sum(bins[:width])
    for left, entered in zip(bins, bins[width:], strict=False):
        total += entered - left
        most = max(most, total)
    return int(most)


ENOUGH_FOR_P99 = 100  # requests: of fewer, p99 is the maximum
ENOUGH_LATE = 3  # late reads that void a level

VALID, SUSPECT, VOID = "valid", "suspect", "void"


class Doubt(NamedTuple):
    """One reason to doubt figures."""

    severity: str
    reason: str


def doubt_schedule_lag(count: int, p50: float, p99: float, limit: float) -> Iterator[Doubt]:
    """Doubt requests that left late: their number and schedule lag in seconds, `limit` of schedule_lag_limit."""
    # Of few requests p99 is the worst one: it alone makes a level suspect, never void.
    yield from _graded(
        p99,
        limit,
        lambda word: f"schedule lag p99 is {seconds(p99)}, {word} {_limit(limit)} (1 % of median TTFT or 5 ms)",
        few=count < ENOUGH_FOR_P99 and p50 <= limit,
    )


def doubt_lag(reads: int, tokens: int, spoilt: int, gaps: int) -> Iterator[Doubt]:
    """Doubt a client whose lag spoilt gaps between tokens, by `reads` of more than a token gap's lag; void from three on."""
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
    """Doubt late reads of records that do not say what these spoilt; one proves nothing, whatever its share."""
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
    """Doubt t_send where handing the request to the kernel took longer than schedule_lag_limit. Seconds."""
    if p99 > limit:
        yield Doubt(
            SUSPECT,
            f"sending took {seconds(p99)} at p99, above the limit of {_limit(limit)}: t_send may be off by as much",
        )


def doubt_stamps(arrivals: int, stamped: int, lag_p99: float, limit: float) -> Iterator[Doubt]:
    """Doubt arrivals without kernel stamps whose lag is above schedule_lag_limit: the time of a late read is wrong."""
    if stamped_by(arrivals, stamped) in ("user", "mixed"):
        yield from _graded(
            lag_p99,
            limit,
            lambda word: (
                f"arrivals carry no kernel stamps and client lag p99 is {seconds(lag_p99)}, {word} {_limit(limit)}"
            ),
        )


def doubt_coalesced(merged: int, requests: int) -> Iterator[Doubt]:
    """Doubt TTFT where first tokens shared their read with a later one that the server did not make with it."""
    if requests and merged / requests > COALESCED_FIRST_TOKENS_SHARE:
        yield Doubt(
            SUSPECT,
            f"the first token came in one read with a later one in {merged} of {requests} requests "
            f"({percent(merged / requests)}): TTFT may be late",
        )


def stamped_by(arrivals: int, stamped: int) -> str:
    """Return who stamped the arrivals: "kernel", "user" (the time of the read), "mixed", or "none" without any."""
    if arrivals == 0:
        return "none"
    # A new process misses the stamps of its first reads, and the end of a stream has none.
    return "kernel" if stamped >= 0.99 * arrivals else "user" if stamped == 0 else "mixed"


def _limit(value: float) -> str:
    """Return a limit that follows from TTFT without zeros at its end: "5 ms", "15.9 ms"."""
    return seconds(float(f"{value:.3g}"), exact=True)


def _graded(value: float, limit: float, reason: Callable[[str], str], *, few: bool = False) -> Iterator[Doubt]:
    """Yield void past the limit, suspect past half of it; never void on few samples."""
    if value > limit:
        yield Doubt(SUSPECT if few else VOID, reason("above the limit of"))
    elif value > limit / 2:
        yield Doubt(SUSPECT, reason("above half the limit of"))


# Figures that several processes measure together: percentiles do not add up, bucket counts do.


class Histogram:
    """A distribution that merges: counts in log-linear buckets, as HdrHistogram has them (hdrhistogram.org).

    Every power of two is cut into 128 buckets of equal width, so that a bucket is at most 1/128 of its value wide and a
    percentile is off by at most half of that, 0.4 %, whatever the scale. Count, sum, least and largest value are exact.
    Values are floats of any unit, zero or more; what is not finite is unknown and left out, below zero counts as zero.
    """

    __slots__ = ("_buckets", "_zeros", "count", "max", "min", "sum")

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self._zeros = 0  # zero has no logarithm: gaps between events of one read
        self.count = 0
        self.sum = 0.0
        self.min = math.inf
        self.max = -math.inf

    @classmethod
    def of(cls, values: Iterable[float]) -> Self:
        histogram = cls()
        histogram.add(*values)
        return histogram

    def add(self, *values: float) -> None:
        buckets, known = self._buckets, [max(value, 0.0) for value in values if math.isfinite(value)]
        if not known:
            return
        for value in known:
            if value:
                mantissa, exponent = math.frexp(value)  # value = mantissa · 2^exponent, mantissa from 0.5 to 1
                index = (exponent << 7) + int(mantissa * 256) - 128
                buckets[index] = buckets.get(index, 0) + 1
            else:
                self._zeros += 1
        self.count += len(known)
        self.sum += math.fsum(known)
        self.min = min(self.min, *known)
        self.max = max(self.max, *known)

    def merge(self, other: Histogram) -> None:
        """Add all that `other` holds; the same as if every value had been added here."""
        for index, count in other._buckets.items():
            self._buckets[index] = self._buckets.get(index, 0) + count
        self._zeros += other._zeros
        self.count += other.count
        self.sum += other.sum
        self.min = min(self.min, other.min)
        self.max = max(self.max, other.max)

    @property
    def mean(self) -> float | None:
        return self.sum / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """Return the value below which `share` (0 to 1) of all values lie, None of nothing.

        Interpolated between neighbours in rank as numpy.quantile does, so that it equals the exact percentile of the
        same values to within half a bucket.
        """
        if not self.count:
            return None
        rank = share * (self.count - 1)
        below = math.floor(rank)
        low, high = self._at(below), self._at(min(below + 1, self.count - 1))
        return low + (rank - below) * (high - low)

    def _at(self, rank: int) -> float:
        """Return the value of a rank (0 is the least): the middle of its bucket, the ends exact."""
        if rank == 0 or rank == self.count - 1:
            return self.min if rank == 0 else self.max
        seen = self._zeros
        if rank < seen:
            return 0.0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if rank < seen:
                return min(max(_middle(index), self.min), self.max)
        raise AssertionError("counts and buckets disagree")

    def at_most(self, bounds: Sequence[float]) -> list[int]:
        """Return how many values are at or below each of `bounds`, which ascend from 0 or more.

        A value within half a bucket (0.4 %) of a bound may count on its other side.
        """
        counts, seen = [], self._zeros
        rest = sorted(self._buckets, reverse=True)
        for bound in bounds:
            while rest and min(_middle(rest[-1]), self.max) <= bound:
                seen += self._buckets[rest.pop()]
            counts.append(seen)
        return counts

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON: only buckets that hold something, the whole of it a few hundred bytes."""
        if not self.count:
            return {}
        return {
            "buckets": {str(index): count for index, count in self._buckets.items()},
            "zeros": self._zeros,
            "sum": self.sum,
            "min": self.min,
            "max": self.max,
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        histogram = cls()
        if row:
            histogram._buckets = {int(index): count for index, count in row["buckets"].items()}
            histogram._zeros = row["zeros"]
            histogram.count = histogram._zeros + sum(histogram._buckets.values())
            histogram.sum, histogram.min, histogram.max = row["sum"], row["min"], row["max"]
        return histogram


def _middle(index: int) -> float:
    """Return the middle of a Histogram's bucket."""
    return math.ldexp((index & 127) + 128.5, (index >> 7) - 8)
