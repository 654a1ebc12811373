"""Gates: whether a Locust run passes. They set the exit code, and say which figures they saw.

By itself Locust exits with 1 when any request failed. Where gates are given, they decide instead: 0 when all pass, 1 when
one fails or cannot be judged. After wrong use, a crash or an exception in a task the exit code stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from locust import log
from locust.env import Environment

from loadtest import metrics
from loadtest.errors import ScenarioError
from loadtest.live import ACCEPTED, Figures
from loadtest.text import seconds
from loadtest.users.options import Settings
from loadtest.users.results.live_figures import board


@dataclass(frozen=True, slots=True)
class Gate:
    """The outcome of one gate."""

    option: str  # with its limit, e.g. "--max-ttft-p95 2"
    passed: bool
    saw: str
    judged: bool = True

    def __str__(self) -> str:
        word = ("passed" if self.passed else "FAILED") if self.judged else "NOT JUDGED"
        return f"gate {self.option}: {word}, {self.saw}"


def judge_gates(settings: Settings, total: Figures) -> Iterator[Gate]:
    """Yield the outcome of each gate that was asked for, over all requests sent; an unknown figure does not pass."""
    ratio, limit, least = settings.max_failure_ratio, settings.max_ttft_p95, settings.min_tokens_per_s
    if ratio is not None:
        share = total.failures / total.requests if total.requests else None
        saw = "no request was measured"
        if share is not None:
            saw = f"{total.failures} of {total.requests} requests failed ({share:.3g})"
        passed = share is not None and share <= ratio
        yield Gate(f"--max-failure-ratio {ratio:g}", passed, saw, judged=share is not None)
    if limit is not None:
        yield _ttft_gate(f"--max-ttft-p95 {limit:g}", limit, total)
    if least is not None:
        yield _speed_gate(f"--min-tokens-per-s {least:g}", least, total)


def _ttft_gate(option: str, limit: float, total: Figures) -> Gate:
    """Judge TTFT p95 over all requests; one that failed, or never got a token, counts as slower than any limit."""
    known = total.histograms["ttft_s"]
    lost = total.failures + total.measured + total.left - known.count
    requests = total.requests - total.outcomes[ACCEPTED]
    how = "failed, left or without a token" if total.left_waiting else "failed or without a token"
    among = f" with {lost} of {requests} requests {how}" if lost else f" of {requests} requests"
    if lost > 0.05 * requests:
        return Gate(option, passed=False, saw=f"TTFT p95{among} falls on one of those")
    if not metrics.enough_for(0.95, requests):
        return Gate(option, passed=False, saw=f"TTFT p95 needs 20 requests, and {requests} were measured", judged=False)
    p95 = known.percentile(min(0.95 * requests / (requests - lost), 1.0))
    assert p95 is not None
    return Gate(option, p95 <= limit, f"TTFT p95{among} is {seconds(p95)}")


def _speed_gate(option: str, least: float, total: Figures) -> Gate:
    """Judge the median stream's tokens/s over all requests; one that failed counts as 0."""
    known, lost = total.histograms["stream_tokens_per_s"], total.failures
    requests = known.count + lost
    among = f" with {lost} of {requests} requests failed" if lost else ""
    if not known.count and not lost:
        return Gate(option, passed=False, saw="no decode speed was seen", judged=False)
    if lost > 0.5 * requests:
        return Gate(option, passed=False, saw=f"a stream's tokens/s p50{among} is 0")
    p50 = known.percentile((0.5 * requests - lost) / known.count)
    assert p50 is not None
    return Gate(option, p50 >= least, f"a stream's tokens/s p50{among} is {p50:.3g}")


def apply_gates(environment: Environment) -> list[Gate]:
    """Judge the figures on `board`, set the exit code accordingly, and return the gates."""
    try:
        gates = list(judge_gates(Settings.of(environment.parsed_options), board.total()))
    except ScenarioError:  # the test was refused because of it, and the user was told
        return []
    if gates and not all(gate.passed for gate in gates):
        environment.process_exit_code = environment.process_exit_code or 1
    elif gates and environment.process_exit_code is None:
        crashed = log.unhandled_greenlet_exception or (environment.runner is not None and environment.runner.exceptions)
        environment.process_exit_code = None if crashed else 0
    return gates
