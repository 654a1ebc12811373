"""Every formula in one place: durations from a Record's instants, and the limits of a verdict.

Instants are nanoseconds, results seconds. Each function takes scalars or NumPy arrays alike (it only computes), so the
live line, the frames and the Locust users cannot disagree. Definitions are those of vLLM's `bench serve` where it has
one; the formula stands in the docstring and in FORMULAS, from which reports print it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Self

NS = 1e-9

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
    "delivery_delay_s": "arrival − created_at, less its smallest value in the run",
    "server_itl_s": "gaps between consecutive created_at",
    "schedule_lag_s": "t_send − t_sched",
    "lag_s": "client lag: max(handling − kernel stamp, longest gap between polls of the loop)",
}


def ttft(t_first_token: Any, t_send: Any) -> Any:
    """Time to first token: t_first_token − t_send. Seconds."""
    return (t_first_token - t_send) * NS


def ttft_sched(t_first_token: Any, t_sched: Any) -> Any:
    """Time to first token from the intended instant: t_first_token − t_sched. Seconds."""
    return (t_first_token - t_sched) * NS


def e2e(t_last_content: Any, t_send: Any) -> Any:
    """End-to-end latency: t_last_content − t_send (vLLM's E2EL). Seconds."""
    return (t_last_content - t_send) * NS


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
    return (t_send - t_sched) * NS


def queue_wait_ollama(ttft_s: Any, load_s: Any, prefill_s: Any) -> Any:
    """Wait before the server worked on the prompt, from Ollama's own durations: TTFT − load − prompt_eval. Seconds.

    May come out a little below zero (rounding, scheduling); readers clamp at 0. Held against a real Ollama it is right
    within 10-20 ms on a busy one-core server. The native API only: /v1 carries no durations.
    """
    return ttft_s - load_s - prefill_s


def queue_wait_llamacpp(t_headers: Any, t_send: Any) -> Any:
    """Wait for a slot of llama.cpp's server, which sends headers when the slot starts: t_headers − t_send. Seconds."""
    return (t_headers - t_send) * NS


def server_decode_tokens_per_s(eval_count: Any, eval_duration_ns: Any) -> Any:
    """Decode rate on the server's clock: (eval_count − 1) / eval_duration, for eval_duration spans n − 1 intervals."""
    return (eval_count - 1) / (eval_duration_ns * NS)


# Limits of the verdict (a level is void past these, suspect past half of them).
SCHEDULE_LAG_SHARE_OF_TTFT = 0.01  # of the median TTFT, at p99 …
SCHEDULE_LAG_FLOOR_S = 0.005  # … or this, whichever is larger
LATE_ARRIVALS_SHARE = 0.01  # arrivals with client lag above one token gap
COALESCED_FIRST_TOKENS_SHARE = 0.01  # suspect only
CLIENT_CPU_SHARE = 0.9  # of one core; suspect only
LENGTH_SHARE = 0.1  # achieved output length off the asked one; suspect only


def schedule_lag_limit(median_ttft_s: float) -> float:
    """Return the schedule lag at p99 past which a level is void: 1 % of median TTFT or 5 ms, the larger. Seconds."""
    return max(SCHEDULE_LAG_SHARE_OF_TTFT * median_ttft_s, SCHEDULE_LAG_FLOOR_S)


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
                exponent, part = index >> 7, index & 127
                return min(max(math.ldexp(part + 128.5, exponent - 8), self.min), self.max)
        raise AssertionError("counts and buckets disagree")

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
