"""How good a prediction was: each figure's error, whether its band held it, and the Winkler score."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.analyse.whatif.model.bands import Figures
from loadtest.analyse.whatif.model.self_check import as_measured
from loadtest.analyse.whatif.predictions.prediction_file import Case
from loadtest.analyse.whatif.predictions.textbook import SCORED
from loadtest.metrics import PERCENTILES, Interval, enough_for

ALPHA = 0.05  # bands are for 95 %
FIGURE_NAMES = {
    "ttft_s.p50": "TTFT p50",
    "ttft_s.p95": "TTFT p95",
    "stream_tokens_per_s.p50": "tokens/s a stream",
    "output_tokens_per_s.mean": "output tokens/s",
    "requests_per_s.mean": "requests/s",
    "e2e_s.p50": "E2E p50",
    "e2e_s.p95": "E2E p95",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredFigure:
    """One figure as said and as measured; shares are of the measured value."""

    load: str
    case: str
    figure: str  # "name.statistic"
    said: float
    band: Interval
    measured: float
    interval: Interval | None  # 95 % of the measured figure, where it has one
    others: dict[str, float] = field(default_factory=dict)  # error of each textbook model

    @property
    def error(self) -> float:
        """The signed error: +0.1 is 10 % too much."""
        return self.said / self.measured - 1

    @property
    def inside(self) -> bool:
        return self.band[0] <= self.measured <= self.band[1]

    @property
    def winkler(self) -> float:
        """The Winkler score as a share of the measured value; see winkler_score."""
        return winkler_score(self.band, self.measured) / self.measured

    def to_dict(self) -> dict[str, Any]:
        return {
            "load": self.load,
            "case": self.case,
            "figure": self.figure,
            "predicted": self.said,
            "band": list(self.band),
            "measured": self.measured,
            "measured_ci95": self.interval and list(self.interval),
            "error": self.error,
            "inside": self.inside,
            "winkler": self.winkler,
            "textbook_errors": self.others,
        }


def winkler_score(band: Interval, value: float) -> float:
    """Return the width of a band, and 2/α times the distance by which the value lies outside of it: less is better.

    R. L. Winkler, 1972; T. Gneiting and A. E. Raftery, 2007, eq. 43: no band is better on average than the true quantiles.
    """
    low, high = band
    return high - low + 2 / ALPHA * (max(low - value, 0.0) + max(value - high, 0.0))


def score_case(load: str, case: Case, textbook: Mapping[str, Figures], level: Mapping[str, Any]) -> list[ScoredFigure]:
    """Return the score of every figure of a case that a level of summary.json shows with enough requests."""
    seen = as_measured(level, None)
    return [
        ScoredFigure(
            load=load,
            case=case.name,
            figure=figure,
            said=case.figures[figure],
            band=case.bands[figure],
            measured=measured,
            interval=seen.bands.get(figure),
            others={model: said[figure] / measured - 1 for model, said in textbook.items() if figure in said},
        )
        for figure in SCORED
        if figure in case.figures
        and (measured := seen.figures[figure]) > 0
        and enough_for(PERCENTILES.get(figure.rpartition(".")[2], 0.5), seen.requests)
    ]


def median_error(figures: Sequence[ScoredFigure], model: str | None = None) -> float | None:
    """Return the median of the absolute errors, ours or a textbook model's; None where there is none."""
    errors = [each.error if model is None else each.others.get(model, math.nan) for each in figures]
    errors = [error for error in errors if not math.isnan(error)]
    return statistics.median(map(abs, errors)) if errors else None
