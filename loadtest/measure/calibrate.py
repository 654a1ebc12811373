"""How much this client machine can measure: which levels to try, and how each compares with what the server really did.

Streams of a known speed are doubled until a level's figures are untrue; then the gap is halved. A level that fails is
measured once more before it counts as failed, since one hiccup of the machine is no limit. Pure: nothing is sent here.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from loadtest import metrics
from loadtest.measure.search import Search, TriedLevel
from loadtest.records import Clock, Outcome, Record
from loadtest.text import counted, seconds
from loadtest.workloads.source import nonce_of

FIRST = 50  # streams of the first level
CALIBRATION_PRECISION = 8  # the answer is good to one part in so many
LATE_STEPS = 0.5  # of a step: a server that is this late begins to run the steps together


@dataclass(frozen=True, slots=True)
class Served:
    """What the truth log says of one request: instants on the wall clock in ns, and how late the server was."""

    arrived: int
    first_written: int  # the write of the first token had returned
    late_mean_s: float

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self | None:
        """Read a line of the truth log; None where the request got no token."""
        wall = row["wall_ns"]
        if "first_token" not in wall:
            return None
        return cls(wall["arrived"], wall["first_token"], row["late_mean_us"] / 1e6)


def by_nonce(rows: Iterable[Mapping[str, Any]]) -> dict[str, Served]:
    """Return what was served, by the nonce that its prompt begins with."""
    found = {row["prompt"].partition("]")[0] + "]": Served.from_json(row) for row in rows if row["prompt"]}
    return {nonce: served for nonce, served in found.items() if served is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """One level against the truth; seconds, sizes of errors without their sign. None where nothing was to be compared."""

    streams: int
    requests: int  # compared
    lost: int  # ended otherwise than well, or unknown to the server
    chunks_per_s: int  # content events in the busiest second
    gap_s: float | None = None  # the server's median gap between two tokens of a stream
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    late_s: float = 0.0  # how far behind its schedule the server wrote: median over requests of a request's mean

    @property
    def true(self) -> bool:
        """Whether every figure is within the limits of metrics.TRUE_WITHIN_S and TRUE_WITHIN_SHARE."""
        in_time = self.ttft_p50_s, self.ttft_p99_s, self.itl_p99_s
        if self.lost or self.gap_s is None or self.itl_p50_s is None or None in in_time:
            return False
        worst = max(each or 0.0 for each in in_time)
        return worst <= metrics.TRUE_WITHIN_S and self.itl_p50_s <= metrics.TRUE_WITHIN_SHARE * self.gap_s


def errors_against(
    streams: int, records: Iterable[Record], clock: Clock, served: Mapping[str, Served], *, warm: int = 0
) -> Errors:
    """Compare a level's records with what was served. `clock` is the anchor of their instants.

    Gaps are compared one by one with those between the server's own `created_at`. The true TTFT of a request lies
    between its arrival at the server and, at the least, the first token's created_at, at most the return of its write:
    inside these the error is zero. Where a driver marks no warm-ups, the first `warm` records sent are left out.
    """
    ordered = sorted((record for record in records if record.t_send is not None), key=lambda record: record.t_send or 0)
    ttft: list[float] = []
    itl: list[float] = []
    gaps: list[int] = []
    late: list[float] = []
    lost = 0
    for place, record in enumerate(ordered):
        if record.warmup or place < warm or record.outcome is Outcome.CANCELLED:
            continue
        truth = served.get(nonce_of(record.seed))
        theirs = record.server_us
        if record.outcome is not Outcome.OK or truth is None or theirs is None or len(theirs) != len(record.chunks):
            lost += 1
            continue
        ttft.append(_ttft_error(record, truth))
        late.append(truth.late_mean_s)
        true = [after - before for before, after in pairwise(theirs)]
        seen = (after - before for before, after in pairwise(record.chunks))
        itl += [abs(ours - gap) / 1e6 for ours, gap in zip(seen, true, strict=True)]
        gaps += true
    return Errors(
        streams=streams,
        requests=len(ttft),
        lost=lost,
        chunks_per_s=most_chunks_per_s(ordered, clock),
        gap_s=statistics.median(gaps) / 1e6 if gaps else None,
        ttft_p50_s=error_percentile(ttft, 50),
        ttft_p99_s=error_percentile(ttft, 99),
        itl_p50_s=error_percentile(itl, 50),
        itl_p99_s=error_percentile(itl, 99),
        late_s=error_percentile(late, 50) or 0.0,
    )


def _ttft_error(record: Record, truth: Served) -> float:
    assert record.t_first_token is not None
    assert record.t_send is not None
    ours = record.t_first_token - record.t_send
    least = (record.server_first or truth.first_written) - truth.arrived
    return max(least - ours, ours - (truth.first_written - truth.arrived), 0) / 1e9


def most_chunks_per_s(records: Iterable[Record], clock: Clock) -> int:
    """Return how many content events of these records arrived in the busiest second, warm-ups and cancelled included."""
    width = round(metrics.BIN_S * 1e9)
    bins: Counter[int] = Counter()
    for record in records:
        if record.t_send is not None:
            sent = clock.monotonic_ns + record.t_send
            bins.update((sent + 1000 * chunk) // width for chunk in record.chunks)
    return metrics.busiest_second([bins[at] for at in range(min(bins), max(bins) + 1)]) if bins else 0


def error_percentile(values: Sequence[float], percent: int) -> float | None:
    """Return a percentile, interpolated between neighbours in rank; None of nothing."""
    if len(values) < 2:
        return values[0] if values else None
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


@dataclass(frozen=True, slots=True)
class CheckedLevel:
    """A level that was measured, and whether the server kept to its schedule in it."""

    errors: Errors
    on_time: bool

    @property
    def met(self) -> bool:
        """Whether the client measured truthfully what was meant to be measured."""
        return self.errors.true and self.on_time

    @property
    def sentence(self) -> str:
        e = self.errors
        if e.ttft_p50_s is None or e.itl_p50_s is None:
            return f"{counted(e.streams, 'stream')}: no request could be compared"
        shown = (
            f"{counted(e.streams, 'stream')}, {e.chunks_per_s} tokens/s: TTFT off by {seconds(e.ttft_p50_s)} at p50, "
            f"{seconds(e.ttft_p99_s)} at p99; ITL by {seconds(e.itl_p50_s)} and {seconds(e.itl_p99_s)}"
        )
        lost = f"; {e.lost} requests lost" if e.lost else ""
        if not self.on_time:
            return f"{shown}{lost}; the server is the limit, {seconds(e.late_s)} behind its schedule"
        return f"{shown}{lost}: {'true' if self.met else 'not true'}"


def checked(errors: Errors, *, step_s: float, together: bool) -> CheckedLevel:
    """Say whether the server kept to its schedule of one token a stream each `step_s`.

    Errors count from what it did, not from its schedule: where they are small it may be late until it runs steps
    together. Where they are not, one that is late is the limit, for tokens sent in heaps are harder to measure than
    those that were meant; unless all are due `together`: then the last one always waits for the others' writes.
    """
    limit = LATE_STEPS * step_s if together or errors.true else metrics.TRUE_WITHIN_S
    return CheckedLevel(errors, errors.late_s <= limit)


def next_streams(tried: Sequence[CheckedLevel], most: int) -> int | None:
    """Return how many streams to measure after the levels tried, in the order tried; None when the search is over.

    A level that failed once is unclear: the search then has it measured again.
    """
    search = Search(least=0, a_stream=0, most=most, start=FIRST, precision=CALIBRATION_PRECISION)
    levels: list[TriedLevel] = []
    for one in tried:
        streams = one.errors.streams
        again = any(level.concurrency == streams for level in levels)
        met = True if one.met else False if again else None
        levels.append(TriedLevel(streams, one.errors.requests, met, one.sentence, leans=one.met))
    following = search.next_level(levels)
    return None if following is None else following.concurrency


@dataclass(frozen=True, slots=True)
class ClientLimit:
    """What a search knows: the most streams measured truthfully, and the fewest that were not."""

    best: CheckedLevel | None
    failed: CheckedLevel | None

    @classmethod
    def of(cls, tried: Sequence[CheckedLevel]) -> Self:
        """Sum up the levels tried; one that was true once is true, and nothing above a failed one counts.

        Of several measurements that failed the last one says why.
        """
        good = {one.errors.streams for one in tried if one.met}
        bad = (one for one in reversed(tried) if one.errors.streams not in good)
        failed = min(bad, key=lambda one: one.errors.streams, default=None)
        below = [one for one in tried if one.met and (failed is None or one.errors.streams < failed.errors.streams)]
        return cls(max(below, key=lambda one: one.errors.streams, default=None), failed)

    @property
    def limit(self) -> str:
        """Say what ended the search: "client", "server", or "asked" where as many streams as asked for were true."""
        if self.failed is None:
            return "asked"
        return "client" if self.failed.on_time else "server"

    def sentence(self, tokens_per_s: float) -> str:
        """Say how many streams of so many tokens a second this client measures."""
        if self.best is None:
            who = "the server is late itself" if self.limit == "server" else "this client is late"
            return f"not even one stream × {tokens_per_s:g} tokens/s is true: {who}; is the machine busy?"
        streams = self.best.errors.streams
        least = "" if self.limit == "client" else "at least "
        claim = f"this client measures {least}{counted(streams, 'stream')} × {tokens_per_s:g} tokens/s"
        if self.failed is None:
            return f"{claim}; more were not tried"
        failed = self.failed.errors.streams
        busy = " (so few: is the machine busy?)" if failed <= FIRST else ""
        if self.limit == "server":
            return f"{claim}; at {failed} the server is the limit{busy}"
        return f"{claim}; at {failed} its figures are off by more than 1 ms or 1 %{busy}"
