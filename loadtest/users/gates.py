"""Gates: whether a Locust run passes, from undiluted figures; they set the exit code, and say what they saw.

Locust exits with 1 at the first failed request. Where gates are given, they decide instead: 0 when all pass, 1 when one
fails. Wrong use, a crash or an exception in a task keeps the code that Locust or others gave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from locust import log
from locust.env import Environment

from loadtest.errors import ScenarioError
from loadtest.streams import Figures
from loadtest.users.figures import board
from loadtest.users.options import Settings


@dataclass(frozen=True, slots=True)
class Gate:
    """One gate, judged."""

    option: str  # with its limit
    passed: bool
    saw: str

    def __str__(self) -> str:
        return f"gate {self.option}: {'passed' if self.passed else 'FAILED'}, {self.saw}"


def judge(settings: Settings, total: Figures) -> Iterator[Gate]:
    """Yield the gates that were asked for, judged by the figures of all requests; what is unknown fails."""
    ratio, limit, least = settings.max_failure_ratio, settings.max_ttft_p95, settings.min_tokens_per_s
    if ratio is not None:
        share = total.failures / total.requests if total.requests else None
        saw = "no request was measured"
        if share is not None:
            saw = f"{total.failures} of {total.requests} requests failed ({share:.3g})"
        yield Gate(f"--max-failure-ratio {ratio:g}", share is not None and share <= ratio, saw)
    if limit is not None:
        p95 = total.histograms["ttft_s"].percentile(0.95)
        saw = "no request ended well" if p95 is None else f"TTFT p95 of {total.measured} requests is {p95:.3g} s"
        yield Gate(f"--max-ttft-p95 {limit:g}", p95 is not None and p95 <= limit, saw)
    if least is not None:
        p50 = total.histograms["stream_tokens_per_s"].percentile(0.5)
        saw = "no decode speed was seen" if p50 is None else f"a stream's tokens/s p50 is {p50:.3g}"
        yield Gate(f"--min-tokens-per-s {least:g}", p50 is not None and p50 >= least, saw)


def apply(environment: Environment) -> list[Gate]:
    """Judge the run that `board` holds, set the exit code accordingly, and return the gates."""
    try:
        gates = list(judge(Settings.of(environment.parsed_options), board.total()))
    except ScenarioError:  # the test was refused for it, and the user told
        return []
    if gates and not all(gate.passed for gate in gates):
        environment.process_exit_code = environment.process_exit_code or 1
    elif gates and environment.process_exit_code is None and not _broken(environment):
        environment.process_exit_code = 0
    return gates


def _broken(environment: Environment) -> Any:
    """Whether more went wrong than requests: a crash, or an exception in a task."""
    return log.unhandled_greenlet_exception or (environment.runner is not None and environment.runner.exceptions)
