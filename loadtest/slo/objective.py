"""One objective: which statistic of which figure, its limit, and the figure's value in a level of summary.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.metrics import PERCENTILES, Interval, needed, wilson_interval
from loadtest.records import Outcome
from loadtest.text import percent, seconds

DURATION_FIGURES = {  # name in --slo -> (key of summary.json, in words)
    "ttft": ("ttft_s", "TTFT"),
    "ttft_sched": ("ttft_sched_s", "TTFT from t_sched"),
    "itl": ("itl_s", "ITL"),
    "tpot": ("tpot_s", "TPOT"),
    "e2e": ("e2e_s", "E2E"),
    "queue_wait": ("queue_wait_s", "queue wait"),
    "slot_wait": ("slot_wait_s", "slot wait"),
}
SPEED_FIGURES = {
    "tokens_per_s": ("stream_tokens_per_s", "tokens/s a stream"),
    "e2e_tokens_per_s": ("e2e_tokens_per_s", "E2E tokens/s"),
}
TOTAL_FIGURES = {  # one number for a level, so without a statistic
    "output_tokens_per_s": ("output_tokens_per_s", "output tokens/s"),
    "requests_per_s": ("requests_per_s", "requests/s"),
}
ERRORS = "errors"  # share of the requests sent that failed, also without a statistic
OF_ANY_ANSWER = ("e2e_s", "requests_per_s", ERRORS)  # embeddings, which have no tokens, have these as well
STATISTICS = ("mean", *PERCENTILES)
FEWEST_FOR_MEAN = 5  # requests for a mean or a median
MOST_FOR_ERRORS = 100  # requests that even the smallest share of errors asks for: as many as p99
FLOAT_ERROR = 1e-9  # as a share


@dataclass(frozen=True, slots=True)
class Objective:
    """One thing asked of a server: that a statistic of a figure is on the right side of a limit."""

    name: str  # as written in --slo, e.g. "ttft_p95"
    figure: str  # key of summary.json, e.g. "ttft_s"
    statistic: str  # "mean", "p5", …; "mean" for a level's one number
    limit: float  # s, or per second
    at_most: bool  # False: at least
    words: str  # e.g. "TTFT p95"

    def __str__(self) -> str:
        return f"{self.words} {'≤' if self.at_most else '≥'} {self.quantity(self.limit)}"

    @property
    def tail(self) -> float:
        """The share of values beyond the statistic, on its shorter side: 0.05 for p95 and p5, 0.5 for a mean."""
        share = PERCENTILES.get(self.statistic, 0.5)
        return min(share, 1 - share)

    @property
    def a_request(self) -> bool:
        """Whether a single request can meet or miss it; totals and the share of errors belong to all requests together."""
        return self.figure not in TOTAL_FIGURES and self.figure != ERRORS

    @property
    def of_tokens(self) -> bool:
        """Whether only answers with tokens have the figure."""
        return self.figure not in OF_ANY_ANSWER

    @property
    def requests(self) -> int:
        """How many requests a level needs for the objective to be judged; a share of errors: to be judged well."""
        if self.figure == ERRORS:
            return min(math.ceil(1 / self.limit - 1e-9), MOST_FOR_ERRORS) if self.limit else MOST_FOR_ERRORS
        return max(needed(PERCENTILES.get(self.statistic, 0.5)), FEWEST_FOR_MEAN)

    @property
    def bound(self) -> float:
        """The limit, and so little beyond it as floats make of instants in whole nanoseconds: 52 ms may be 0.052000000000000005."""
        return self.limit * (1 + FLOAT_ERROR if self.at_most else 1 - FLOAT_ERROR)

    def met(self, value: float) -> bool:
        """Whether `value` is on the right side of the limit; an unknown value (nan) is not."""
        return value <= self.bound if self.at_most else value >= self.bound

    def value(self, figures: Mapping[str, Any]) -> float:
        """Return the objective's figure from a level of summary.json; nan where it is unknown."""
        if self.figure == ERRORS:
            failed, sent = failed_and_sent(figures)
            return failed / sent if sent else math.nan
        found = figures.get(self.figure)
        if isinstance(found, Mapping):
            found = found.get(self.statistic)
        return math.nan if found is None else float(found)

    def interval(self, level: Mapping[str, Any]) -> Interval | None:
        """Return the 95 % interval of the objective's figure in a level of summary.json, None where there is none."""
        if self.figure == ERRORS:
            return wilson_interval(*failed_and_sent(level))
        found = level.get(self.figure)
        key = f"ci95_{self.statistic}"
        bounds = found.get(key) if isinstance(found, Mapping) else level.get(f"{self.figure}_ci95")
        return None if bounds is None else (float(bounds[0]), float(bounds[1]))

    def quantity(self, value: float) -> str:
        """Return a value of the objective's figure with its unit, for people."""
        if math.isnan(value):
            return "unknown"
        if math.isinf(value):
            return "no answer"
        if self.figure == ERRORS:
            return percent(value)
        if not self.figure.endswith("per_s"):
            return seconds(value, exact=value == self.limit)
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def failed_and_sent(level: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many requests of a level failed, and how many were sent: cancelled ones are neither, left ones were sent."""
    outcomes: Mapping[str, int] = level.get("outcomes") or {}
    sent = sum(count for name, count in outcomes.items() if name != Outcome.CANCELLED)
    return sent - outcomes.get(Outcome.OK, 0) - outcomes.get(Outcome.LEFT, 0), sent
