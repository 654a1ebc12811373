"""Whether samples of one address are of several servers, behind a gateway that spreads requests: counters show it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

# times that a counter falls and is soon where it was: a server that was restarted does neither twice
BACK_AND_FORTH = 2
SOON = 4  # samples


def mixed_counter(samples: Sequence[tuple[float, dict[str, Any]]]) -> str | None:
    """Return the name of a counter that goes back and forth in these samples; None where none does."""
    series: dict[str, list[float]] = {}
    for _, line in samples:
        for key, value in (line.get("values") or {}).items():
            if metric_name(key).endswith("_total"):
                series.setdefault(key, []).append(value)
    return next((metric_name(key) for key, values in series.items() if _times(values) >= BACK_AND_FORTH), None)


def metric_name(key: str) -> str:
    """Return the name of a metric without its labels."""
    return key.partition("{")[0]


def _times(values: Sequence[float]) -> int:
    """Return how often a value falls and is soon no less than before."""
    return sum(
        after < before and max(values[i + 1 : i + 1 + SOON]) >= before
        for i, (before, after) in enumerate(pairwise(values))
    )
