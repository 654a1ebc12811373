"""A run's figures as Prometheus metrics, named by its conventions.

Histograms are classic ones, which every Prometheus can evaluate by `histogram_quantile`. Their bounds are the Renard series
R10, a factor of about 1.25 apart: a quantile is exact to one bucket, and round limits such as 0.5 s and 2 s are bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from loadtest.live import Figures
from loadtest.metrics import FORMULAS
from loadtest.records import Outcome
from loadtest.text import profile_at_speed
from loadtest.urls import userinfo_apart

_R10 = ("1", "1.25", "1.6", "2", "2.5", "3.15", "4", "5", "6.3", "8")


def bounds(low: int, high: int) -> tuple[float, ...]:
    """Return bucket bounds from 10^low to 10^high, ten a decade."""
    return *(float(f"{step}e{power}") for power in range(low, high) for step in _R10), float(f"1e{high}")


REQUEST_BOUNDS = bounds(-3, 3)
TOKEN_BOUNDS = bounds(-4, 2)
SPEED_BOUNDS = bounds(-1, 4)

# Figure -> (metric name, description, bounds of its buckets).
HISTOGRAM_METRICS: dict[str, tuple[str, str, Sequence[float]]] = {
    "ttft_s": ("loadtest_ttft_seconds", "Time to first token", REQUEST_BOUNDS),
    "ttft_sched_s": ("loadtest_ttft_sched_seconds", "Time to first token from the intended instant", REQUEST_BOUNDS),
    "itl_s": ("loadtest_itl_seconds", "Inter-token latency", TOKEN_BOUNDS),
    "tpot_s": ("loadtest_tpot_seconds", "Time per output token", TOKEN_BOUNDS),
    "e2e_s": ("loadtest_e2e_seconds", "End-to-end latency", REQUEST_BOUNDS),
    "queue_wait_s": ("loadtest_queue_wait_seconds", "Queue wait, where the server reports it", REQUEST_BOUNDS),
    "prefill_s": ("loadtest_prefill_seconds", "Prefill, where the server reports it", REQUEST_BOUNDS),
    "stream_tokens_per_s": ("loadtest_stream_tokens_per_second", "Tokens a second of a stream", SPEED_BOUNDS),
}


@dataclass(frozen=True, slots=True)
class ClientState:
    """What the client's processes last said of themselves."""

    decoding: int
    waiting: int
    loop_gap_s: float | None  # the longest of all processes in about a second
    cpu_cores: float | None  # of all processes together


@dataclass(frozen=True, slots=True)
class RunState:
    run: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)  # run.json; empty while there is none
    figures: Mapping[str, Figures] = field(default_factory=dict)  # by the value of the label `name`
    client: ClientState | None = None  # None: nothing is measured now


def families(seen: RunState) -> Iterator[Metric]:
    """Yield a family for each metric, without warm-up requests; durations come from successful requests."""
    if seen.facts:
        labels = _info(seen)
        info = GaugeMetricFamily("loadtest_run_info", "The run that the other metrics belong to.", labels=list(labels))
        info.add_metric(list(labels.values()), 1)
        yield info
    for figure, (name, words, limits) in HISTOGRAM_METRICS.items():
        histograms = HistogramMetricFamily(name, f"{words}: {FORMULAS[figure]}.", labels=["name"])
        for label, figures in seen.figures.items():
            histogram = figures.histograms[figure]
            counted = zip(map(floatToGoString, limits), histogram.at_most(limits), strict=True)
            histograms.add_metric([label], [*counted, ("+Inf", histogram.count)], histogram.sum)
        yield histograms
    yield from _counters(seen.figures)
    yield from _gauges(seen.client)


def _info(seen: RunState) -> dict[str, str]:
    target, simulated = seen.facts.get("target") or {}, (seen.facts.get("server") or {}).get("simulated")
    return {
        "run": seen.run,
        "model": str(target.get("model") or ""),
        "url": userinfo_apart(str(target.get("url") or ""))[0],
        "dialect": str(target.get("dialect") or ""),
        "driver": str(seen.facts.get("driver") or ""),
        "simulated": profile_at_speed(simulated).removeprefix("profile ") if simulated else "",
    }


def _counters(seen: Mapping[str, Figures]) -> Iterator[Metric]:
    requests = CounterMetricFamily("loadtest_requests", "Requests that ended, by outcome.", labels=["name", "outcome"])
    for label, figures in seen.items():
        cancelled = figures.cancelled - figures.cancelled_warmup
        ended = {Outcome.OK: 0, **figures.outcomes, Outcome.CANCELLED: cancelled}
        for outcome, count in ended.items():
            if count or outcome == Outcome.OK:
                requests.add_metric([label, str(outcome)], count)
    yield requests
    for name, words, key in (
        ("loadtest_output_tokens", "Output tokens, counted when their request ends well.", "output_tokens"),
        ("loadtest_prompt_tokens", "Prompt tokens, counted when their request ends well.", "prompt_tokens"),
        ("loadtest_client_late_reads", "Reads for which the client was later than one token gap.", "late"),
    ):
        tokens = CounterMetricFamily(name, words, labels=["name"])
        for label, figures in seen.items():
            tokens.add_metric([label], getattr(figures, key))
        yield tokens


def _gauges(client: ClientState | None) -> Iterator[Metric]:
    """Yield the present values; an unknown one is left out, for a zero would be false."""
    if client is None:
        return
    for name, words, value in (
        ("loadtest_streams_decoding", "Streams that are receiving tokens.", client.decoding),
        ("loadtest_streams_waiting", "Streams that wait for their first token.", client.waiting),
        ("loadtest_streams_in_flight", "Streams decoding or waiting.", client.decoding + client.waiting),
        ("loadtest_client_loop_gap_seconds", "Longest gap between two polls of the client's loop.", client.loop_gap_s),
        ("loadtest_client_cpu_cores", "CPU that the client's processes use, in cores.", client.cpu_cores),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, words, value=value)
