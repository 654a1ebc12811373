"""Streaming figures of the requests of one name, and whether to believe them: sums and histograms, all of which merge."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from loadtest import metrics
from loadtest.metrics import Histogram
from loadtest.records import Outcome, Record

VALID, SUSPECT, VOID = "valid", "suspect", "void"
REJECTED, ACCEPTED = "rejected", "accepted"  # outcomes beside those of records: what the test's own code said
ENOUGH_FOR_P99 = 100  # requests; as in loadtest.analyse.verdict, which this agrees with
ENOUGH_LATE = 3  # late arrivals
HISTOGRAMS = (
    "ttft_s",
    "itl_s",
    "tpot_s",
    "stream_tokens_per_s",
    "queue_wait_s",
    "lag_s",
    "schedule_lag_s",
)
_COUNTS = ("warmup", "cancelled", "output_tokens", "arrivals", "stamped", "late", "coalesced")


@dataclass(slots=True)
class Figures:
    """What is known of the requests of one name; everything in it adds up.

    Figures come from measured requests that ended well, as in a report. Warm-up and cancelled requests are counted,
    and neither is a request here nor a failure.
    """

    outcomes: Counter[str] = field(default_factory=Counter)  # of measured requests, cancelled ones left out
    warmup: int = 0
    cancelled: int = 0
    output_tokens: int = 0
    first_send: float = math.inf  # wall clock, s: workers may live on several hosts
    last_end: float = -math.inf
    arrivals: int = 0
    stamped: int = 0
    late: int = 0
    coalesced: int = 0
    histograms: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in HISTOGRAMS})

    @property
    def requests(self) -> int:
        return self.outcomes.total()

    @property
    def ok(self) -> int:
        return self.outcomes[Outcome.OK]

    @property
    def measured(self) -> int:
        """Requests that figures come from: answers that came whole, whatever the test's own code thought of them."""
        return self.histograms["lag_s"].count

    @property
    def failures(self) -> int:
        return self.requests - self.ok - self.outcomes[ACCEPTED]

    @property
    def output_tokens_per_s(self) -> float | None:
        """Output tokens of all measured requests that ended well, from the first one's send to the last one's end."""
        span = self.last_end - self.first_send
        return self.output_tokens / span if span > 0 and math.isfinite(span) else None

    def add(self, record: Record, zero: float) -> None:
        """Count a request; `zero` is the wall time in seconds that its t_* count from."""
        if record.outcome == Outcome.CANCELLED:
            self.cancelled += 1
        elif record.warmup:
            self.warmup += 1
        else:
            self.outcomes[record.outcome] += 1
            if record.outcome == Outcome.OK:
                self._measure(record, zero)

    def overrule(self, outcome: str, *, failed: bool) -> None:
        """Take the word of the test's own code (catch_response) on a measured request that ended as `outcome`."""
        if failed != (outcome != Outcome.OK):
            self.outcomes[outcome] -= 1
            self.outcomes[REJECTED if failed else ACCEPTED] += 1

    def _measure(self, record: Record, zero: float) -> None:
        for name, value in durations(record):
            self.histograms[name].add(value)
        self.histograms["itl_s"].add(*((after - before) * 1e-6 for before, after in pairwise(record.chunks)))
        self.output_tokens += record.output_tokens or 0
        sent = record.t_send if record.t_send is not None else record.t_sched
        self.first_send = min(self.first_send, zero + sent * metrics.NS)
        self.last_end = max(self.last_end, zero + record.t_end * metrics.NS)
        self.arrivals += record.arrivals
        self.stamped += record.stamped
        self.late += record.late
        self.coalesced += record.first_coalesced and not _sent_together(record.server_us)

    def merge(self, other: Figures) -> None:
        self.outcomes.update(other.outcomes)
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_send = min(self.first_send, other.first_send)
        self.last_end = max(self.last_end, other.last_end)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _COUNTS},
            "outcomes": {str(name): count for name, count in self.outcomes.items()},
            "span": [self.first_send, self.last_end] if self.measured else None,
            "histograms": {name: histogram.to_json() for name, histogram in self.histograms.items()},
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        first, last = row["span"] or (math.inf, -math.inf)
        return cls(
            **{name: row[name] for name in _COUNTS},
            outcomes=Counter(row["outcomes"]),
            first_send=first,
            last_end=last,
            histograms={name: Histogram.from_json(row["histograms"][name]) for name in HISTOGRAMS},
        )

    def percentile(self, name: str, share: float) -> float | None:
        """Return a percentile, None where there are too few values for it (p95 wants 20, p99 100), as in reports."""
        histogram = self.histograms[name]
        enough = share == 0.5 or histogram.count * (1 - share) >= 1 - 1e-9
        return histogram.percentile(share) if enough else None

    def doubts(self) -> Iterator[tuple[str, str]]:
        """Yield (void or suspect, reason): whether the client kept up, by the limits in loadtest.metrics."""
        if not self.measured:
            if self.requests:
                yield VOID, "no request ended well"
            return
        limit = metrics.schedule_lag_limit(self.histograms["ttft_s"].percentile(0.5) or 0.0)
        sent, handled = self.histograms["schedule_lag_s"], self.histograms["lag_s"]
        # Of few requests p99 is the worst one: it alone makes them suspect, never void.
        few = sent.count < ENOUGH_FOR_P99 and (sent.percentile(0.5) or 0.0) <= limit
        p99 = sent.percentile(0.99) or 0.0
        yield from _graded(f"schedule lag p99 is {_ms(p99)}", p99, limit, _ms, few=few)
        if self.late > 1:  # one late arrival proves nothing, whatever its share
            share, few = self.late / self.arrivals, self.late < ENOUGH_LATE
            said = f"the client was more than one token gap late for {_percent(share)} of arrivals"
            yield from _graded(said, share, metrics.LATE_ARRIVALS_SHARE, _percent, few=few)
        if self.stamped < 0.99 * self.arrivals:
            p99 = handled.percentile(0.99) or 0.0
            yield from _graded(f"arrivals carry no kernel stamps and client lag p99 is {_ms(p99)}", p99, limit, _ms)
        merged = self.coalesced / self.measured
        if merged > metrics.COALESCED_FIRST_TOKENS_SHARE:
            yield SUSPECT, f"the first token shared its read with a later one in {_percent(merged)} of requests"

    def row(self, name: str) -> dict[str, Any]:
        """Return the figures as one flat row of plain values: seconds and tokens a second, None where unknown."""
        doubts = list(self.doubts())
        grades = {grade for grade, _ in doubts}
        verdict = VOID if VOID in grades else SUSPECT if grades else VALID if self.measured else None
        return {
            "name": name,
            "requests": self.requests,
            "failures": self.failures,
            "cancelled": self.cancelled,
            "warmup": self.warmup,
            "ttft_p50": self.percentile("ttft_s", 0.50),
            "ttft_p95": self.percentile("ttft_s", 0.95),
            "ttft_p99": self.percentile("ttft_s", 0.99),
            "itl_p50": self.percentile("itl_s", 0.50),
            "itl_p99": self.percentile("itl_s", 0.99),
            "tpot_p50": self.percentile("tpot_s", 0.50),
            "stream_tokens_per_s_p50": self.percentile("stream_tokens_per_s", 0.50),
            "output_tokens": self.output_tokens,
            "output_tokens_per_s": self.output_tokens_per_s,
            "queue_wait_p50": self.percentile("queue_wait_s", 0.50),
            "queue_wait_p95": self.percentile("queue_wait_s", 0.95),
            "decoding": None,
            "waiting": None,
            "lag_p99": self.percentile("lag_s", 0.99),
            "verdict": verdict,
            "reasons": [sentence for _, sentence in doubts],
        }


def _graded(
    said: str, value: float, limit: float, unit: Callable[[float], str], *, few: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield void past the limit (suspect where there are too few samples for that), suspect past half of it."""
    if value > limit:
        yield SUSPECT if few else VOID, f"{said}, above the limit of {unit(limit)}"
    elif value > limit / 2:
        yield SUSPECT, f"{said}, above half the limit of {unit(limit)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def durations(record: Record) -> Iterator[tuple[str, float]]:
    """Yield the durations that a request has one of, by name, in seconds (or tokens a second)."""
    yield "lag_s", record.lag_us * 1e-6
    if record.t_send is None:
        return
    yield "schedule_lag_s", metrics.schedule_lag(record.t_send, record.t_sched)
    if record.t_first_token is None:
        return
    ttft = metrics.ttft(record.t_first_token, record.t_send)
    yield "ttft_s", ttft
    wait = queue_wait(record, ttft)
    if wait is not None:
        yield "queue_wait_s", max(wait, 0.0)
    if record.chunks and (record.output_tokens or 0) > 1:
        last = record.t_send + record.chunks[-1] * 1000
        tpot = metrics.tpot(metrics.e2e(last, record.t_send), ttft, record.output_tokens)
        if tpot > 0:  # else all tokens came in one chunk: no decode speed was seen
            yield "tpot_s", tpot
            yield "stream_tokens_per_s", metrics.stream_tokens_per_s(tpot)


def queue_wait(record: Record, ttft: float) -> float | None:
    """Return the wait before the server worked on the prompt, None where the server does not say enough."""
    said = record.server or {}
    if isinstance(said.get("timings"), dict):
        wait = None if record.t_headers is None else metrics.queue_wait_llamacpp(record.t_headers, record.t_send)
    elif said.get("total_duration") is None:
        return None
    else:  # Ollama leaves out durations that are zero
        load, prefill = (said.get(name) or 0 for name in ("load_duration", "prompt_eval_duration"))
        wait = metrics.queue_wait_ollama(ttft, load * metrics.NS, prefill * metrics.NS)
    return wait


def _sent_together(server_us: list[int] | None) -> bool:
    """Whether the server itself made the first two tokens within a millisecond, as real Ollama does at times."""
    return server_us is not None and len(server_us) > 1 and server_us[1] - server_us[0] < 1000
