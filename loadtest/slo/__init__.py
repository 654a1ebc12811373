"""Service level objectives: what `--slo` asks of a server, and whether figures meet it.

    ttft_p95=2,tokens_per_s_p5=10      TTFT p95 at most 2 s, and 95 % of the streams at 10 tokens/s or faster
    ttft_p95=2,errors=0.01             TTFT p95 at most 2 s, and at most one request in a hundred failed

A duration or a share meets its objective at or below the limit, a speed at or above it. The figures come from the levels
of summary.json or from a prediction, which use the same names. A failed request misses every objective
(loadtest.analyse.figures.objectives).
"""

from loadtest.slo.judged import (
    Judged,
    all_met,
    judge_by_figures,
    judge_objectives,
    judged_before,
    least_requests,
)
from loadtest.slo.objective import ERRORS, Objective, failed_and_sent
from loadtest.slo.option import parse_objectives

__all__ = [
    "ERRORS",
    "Judged",
    "Objective",
    "all_met",
    "failed_and_sent",
    "judge_by_figures",
    "judge_objectives",
    "judged_before",
    "least_requests",
    "parse_objectives",
]
