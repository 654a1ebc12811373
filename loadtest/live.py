"""Live figures of the requests of one name, and whether to trust them: sums and histograms that can be merged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Self

from loadtest import doubts, metrics
from loadtest.doubts import SUSPECT, VALID, VOID, Doubt
from loadtest.histogram import Histogram
from loadtest.records import NO_FAILURES, Outcome, Record

REJECTED, ACCEPTED = "rejected", "accepted"  # outcomes beside those of records: the verdict of the test's own code
MEASURED = (
    "ttft_s",
    "ttft_sched_s",
    "itl_s",
    "tpot_s",
    "e2e_s",
    "stream_tokens_per_s",
    "queue_wait_s",
    "prefill_s",
    "lag_s",
    "schedule_lag_s",
)
WAITED_FOR = ("ttft_s", "ttft_sched_s")  # their percentiles count users who left as slower than all others


@dataclass(slots=True)
class Figures:
    """What is known of the requests of one name; figures of several processes can be added up.

    Figures come from measured requests that ended well, as in a report. Warm-up and cancelled requests are counted
    apart: they are neither requests nor failures here.
    """

    outcomes: Counter[str] = field(default_factory=Counter)  # of measured requests without the cancelled ones
    warmup: int = 0
    left_waiting: int = 0  # users who hung up before the first token
    cancelled: int = 0
    cancelled_warmup: int = 0  # cancelled warm-up requests, counted in `cancelled` too
    output_tokens: int = 0
    prompt_tokens: int = 0
    first_send: float = math.inf  # wall clock, s, because workers may run on several hosts
    last_end: float = -math.inf
    arrivals: int = 0
    stamped: int = 0
    late: int = 0
    late_uncounted: int = 0  # late reads of records that do not say what they spoiled
    late_spoiling: int = 0  # late reads of records with late tokens
    late_tokens: int = 0
    late_gaps: int = 0
    coalesced: int = 0
    pieces: int = 0  # of all answers
    reads: int = 0  # in which those pieces came
    held_back: int = 0  # answers whose pieces all came together, though the server wrote them over `held_back_s` in all
    held_back_s: float = 0.0
    textless: int = 0  # of all records, those whose answers have no text, as embeddings
    histograms: dict[str, Histogram] = field(default_factory=lambda: {name: Histogram() for name in MEASURED})

    @property
    def requests(self) -> int:
        return self.outcomes.total()

    @property
    def ok(self) -> int:
        return self.outcomes[Outcome.OK]

    @property
    def measured(self) -> int:
        """Requests that figures come from: complete answers, whatever the test's own code thought of them."""
        return self.histograms["lag_s"].count

    @property
    def failures(self) -> int:
        return self.requests - self.ok - self.left - self.outcomes[ACCEPTED]

    @property
    def left(self) -> int:
        return self.outcomes[Outcome.LEFT]

    @property
    def has_text(self) -> bool:
        """Whether any answer is text, or was meant to be."""
        return self.textless < self.requests + self.warmup + self.cancelled

    @property
    def output_tokens_per_s(self) -> float | None:
        """Output tokens per second of measured requests that ended well or whose user left, from the first send to the last end."""
        return self._a_second(self.output_tokens) if self.has_text else None

    def _a_second(self, count: int) -> float | None:
        span = self.last_end - self.first_send
        return count / span if span > 0 and math.isfinite(span) else None

    def add(self, record: Record, zero: float) -> None:
        """Count a request; `zero` is the wall time in seconds at which the record's t_* are 0."""
        if record.outcome == Outcome.CANCELLED:
            self.cancelled += 1
            self.cancelled_warmup += record.warmup
        elif record.warmup:
            self.warmup += 1
        else:
            self.outcomes[record.outcome] += 1
            if record.outcome in (Outcome.OK, Outcome.LEFT):
                sent = record.t_send if record.t_send is not None else record.t_sched
                self.first_send = min(self.first_send, zero + sent * metrics.S_PER_NS)
                self.last_end = max(self.last_end, zero + record.t_end * metrics.S_PER_NS)
            if record.outcome == Outcome.LEFT:
                self._leave(record)
            elif record.outcome == Outcome.OK:
                self._measure(record)

    def overrule(self, outcome: str, *, failed: bool) -> None:
        """Let the test's own code (catch_response) decide on a measured request that ended as `outcome`."""
        if failed != (outcome not in NO_FAILURES):
            self.outcomes[outcome] -= 1
            self.outcomes[REJECTED if failed else ACCEPTED] += 1

    def _measure(self, record: Record) -> None:
        for name, value in durations_of(record):
            self.histograms[name].add(value)
        self.histograms["itl_s"].add(*((after - before) * 1e-6 for before, after in pairwise(record.chunks)))
        self.output_tokens += record.output_tokens or 0
        self.prompt_tokens += record.prompt_tokens or 0
        self.arrivals += record.arrivals
        self.stamped += record.stamped
        self.late += record.late
        self.pieces += len(record.chunks)
        self.reads += record.reads
        first, since, held = record.t_first_token, record.t_send, False
        if record.chunks and first is not None and since is not None:
            span = (since + record.chunks[-1] * 1000 - first) * metrics.S_PER_NS
            decode_s = metrics.server_said(record.server or {}).decode_s
            ttft, lag = (first - since) * metrics.S_PER_NS, record.lag_us * metrics.S_PER_US
            held = metrics.held_back(len(record.chunks), record.sent_tokens, ttft, span, decode_s, lag)
        if held:
            self.held_back += 1
            self.held_back_s += 0.0 if math.isnan(decode_s) else decode_s
        else:  # the gaps of others are nobody's
            self.late_uncounted += record.late if record.late_tokens is None else 0
            self.late_spoiling += record.late if record.late_tokens else 0
            self.late_tokens += record.late_tokens or 0
            self.late_gaps += record.late_gaps or 0
        self.coalesced += record.first_coalesced and not metrics.made_together(record.server_us)

    def _leave(self, record: Record) -> None:
        """Count what came before a user hung up: its first token where there was one, and its tokens."""
        if record.t_send is None or record.t_first_token is None:
            self.left_waiting += 1
            return
        self.histograms["ttft_s"].add(metrics.ttft(record.t_first_token, record.t_send))
        self.histograms["ttft_sched_s"].add(metrics.ttft_sched(record.t_first_token, record.t_sched))
        self.histograms["itl_s"].add(*((after - before) * 1e-6 for before, after in pairwise(record.chunks)))
        self.output_tokens += record.output_tokens or 0

    def merge(self, other: Self) -> None:
        self.outcomes.update(other.outcomes)
        for name in _SUMMED:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.first_send = min(self.first_send, other.first_send)
        self.last_end = max(self.last_end, other.last_end)
        for name, histogram in other.histograms.items():
            self.histograms[name].merge(histogram)

    def to_json(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _SUMMED},
            "outcomes": {str(name): count for name, count in self.outcomes.items()},
            "span": [self.first_send, self.last_end] if math.isfinite(self.last_end) else None,
            "histograms": {name: histogram.to_json() for name, histogram in self.histograms.items()},
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        first, last = row["span"] or (math.inf, -math.inf)
        return cls(
            **{name: row.get(name, 0) for name in _SUMMED},
            outcomes=Counter(row["outcomes"]),
            first_send=first,
            last_end=last,
            histograms={name: Histogram.from_json(row["histograms"][name]) for name in MEASURED},
        )

    def percentile(self, name: str, share: float) -> float | None:
        """Return a percentile; None where there are too few values for it (p95 needs 20, p99 100), as in reports."""
        histogram = self.histograms[name]
        count = histogram.count
        if name in WAITED_FOR and self.left_waiting:  # whoever left would have waited longer than anybody who stayed
            count += self.left_waiting
            if not metrics.enough_for(share, count) or share * count > histogram.count:
                return None
            return histogram.percentile(share * count / histogram.count)
        return histogram.percentile(share) if metrics.enough_for(share, count) else None

    def doubts(self) -> Iterator[Doubt]:
        """Yield the reasons to doubt these figures, by the limits and in the words of a report: did the client keep up?"""
        if not self.measured:
            if self.requests:
                outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common() if count)
                yield Doubt(VOID, f"no request ended well ({outcomes})")
            return
        yield from self._doubt_failures()
        waited_for = "TTFT" if self.histograms["ttft_s"].count else "E2E"  # of embeddings
        limit = doubts.schedule_lag_limit(self.histograms[f"{waited_for.lower()}_s"].percentile(0.5) or 0.0)
        sent, handled = self.histograms["schedule_lag_s"], self.histograms["lag_s"]
        p50, p99 = (sent.percentile(share) or 0.0 for share in (0.5, 0.99))
        yield from doubts.doubt_schedule_lag(sent.count, p50, p99, limit, of=waited_for)
        if 2 * self.held_back <= self.measured:
            yield from doubts.doubt_late(self.late_uncounted, self.arrivals)
            gaps = self.histograms["itl_s"].count
            yield from doubts.doubt_lag(self.late_spoiling, self.late_tokens, self.late_gaps, gaps)
        yield from doubts.doubt_stamps(self.arrivals, self.stamped, handled.percentile(0.99) or 0.0, limit)
        yield from doubts.doubt_coalesced(
            self.coalesced,
            self.measured,
            pieces=self.pieces,
            reads=self.reads,
            held_back=self.held_back,
            held_back_s=self.held_back_s,
        )

    def _doubt_failures(self) -> Iterator[Doubt]:
        """Doubt figures beside which requests failed; what the test's own code thought of their answers changes no figure."""
        if mine := self.outcomes[Outcome.CLIENT_ERROR]:
            yield Doubt(VOID, f"loadtest itself failed over {mine} of {self.requests} requests")
        apart = (Outcome.OK, Outcome.LEFT, Outcome.CLIENT_ERROR, ACCEPTED, REJECTED)
        bad = {outcome: count for outcome, count in self.outcomes.most_common() if count and outcome not in apart}
        how = ", ".join(f"{count} {outcome}" for outcome, count in bad.items())
        yield from doubts.doubt_failed(sum(bad.values()), self.requests, how)

    def row(self, name: str, in_flight: tuple[int, int] = (0, 0)) -> dict[str, Any]:
        """Return the figures as one flat row of plain values: seconds and tokens a second, None where unknown.

        `in_flight` counts the streams of this name that are (decoding, waiting) now.
        """
        doubts = list(self.doubts())
        grades = {grade for grade, _ in doubts}
        verdict = VOID if VOID in grades else SUSPECT if grades else VALID if self.measured else None
        return {
            "name": name,
            "requests": self.requests,
            "failures": self.failures,
            "left": self.left,
            "left_waiting": self.left_waiting,
            "cancelled": self.cancelled,
            "cancelled_warmup": self.cancelled_warmup,
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
            "e2e_p50": self.percentile("e2e_s", 0.50),
            "e2e_p95": self.percentile("e2e_s", 0.95),
            "e2e_p99": self.percentile("e2e_s", 0.99),
            "requests_per_s": self._a_second(self.measured),
            "input_tokens_per_s": self._a_second(self.prompt_tokens) if self.prompt_tokens else None,
            "queue_wait_p50": self.percentile("queue_wait_s", 0.50),
            "queue_wait_p95": self.percentile("queue_wait_s", 0.95),
            "decoding": in_flight[0],
            "waiting": in_flight[1],
            "lag_p99": self.percentile("lag_s", 0.99),
            "verdict": verdict,
            "reasons": [sentence for _, sentence in doubts],
        }


_SUMMED = tuple(each.name for each in fields(Figures) if each.default == 0)


def durations_of(record: Record) -> Iterator[tuple[str, float]]:
    """Yield a request's durations by name, in seconds, and its speed in tokens a second."""
    yield "lag_s", record.lag_us * 1e-6
    said = metrics.server_said(record.server or {})
    if not math.isnan(said.prefill_s):
        yield "prefill_s", said.prefill_s
    if record.t_send is None:
        return
    yield "schedule_lag_s", metrics.schedule_lag(record.t_send, record.t_sched, record.connect_us)
    if record.t_first_token is None:
        if record.outcome is Outcome.OK and record.output_tokens is None:  # an answer without text, as of embeddings
            yield "e2e_s", metrics.e2e(record.t_end, record.t_send)
        return
    ttft = metrics.ttft(record.t_first_token, record.t_send)
    yield "ttft_s", ttft
    yield "ttft_sched_s", metrics.ttft_sched(record.t_first_token, record.t_sched)
    headers = math.nan if record.t_headers is None else record.t_headers
    reached = record.t_send if record.resent is None else record.resent  # the server cannot have had it before
    wait = metrics.queue_wait(reached, headers, record.t_first_token, said)
    pieces, span = len(record.chunks), record.chunks[-1] * metrics.S_PER_US - ttft if record.chunks else math.nan
    lag = record.lag_us * metrics.S_PER_US
    at_once = metrics.held_back(pieces, record.sent_tokens, ttft, span, said.decode_s, lag)
    if record.first_coalesced or at_once or pieces < metrics.HELD_BACK_PIECES:
        early = metrics.made_before_s(pieces, record.sent_tokens, span, said.decode_s)
        if early and math.isnan(said.queue_s):
            since = metrics.ttft(record.t_first_token, reached)
            wait = max(since - early - said.prefill_s - (0.0 if said.starts_with_headers else said.load_s), 0.0)
    if not math.isnan(wait):
        yield "queue_wait_s", wait
    if not record.chunks:
        return
    e2e = metrics.e2e(record.t_send + record.chunks[-1] * 1000, record.t_send)
    yield "e2e_s", e2e
    if record.sent_tokens > 1:
        tpot = metrics.tpot(e2e, ttft, record.sent_tokens)
        if tpot > 0 and not at_once and not metrics.shows_no_decoding(pieces, record.reads, tpot, ttft):
            yield "tpot_s", tpot
            yield "stream_tokens_per_s", metrics.stream_tokens_per_s(tpot)
