"""Where a logarithmic axis of durations has its labels: at round values, as many as stand clear of each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.ticker import Locator

# What is labelled of each decade, the most first.
ROUND = ((1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0), (1.0, 2.0, 5.0), (1.0, 3.0), (1.0,))


class RoundDurations(Locator):
    """Labels an axis at the finest round steps of which no two are nearer than `apart`, a share of the axis' length."""

    def __init__(self, apart: float) -> None:
        self.apart = apart

    def __call__(self) -> Any:
        """Return the ticks of the axis as it is now."""
        return self.tick_values(*self.axis.get_view_interval()) if self.axis is not None else []

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the ticks between two values."""
        low, high = sorted((vmin, vmax))
        if not 0 < low < high:
            return []
        least = self.apart * math.log10(high / low)
        every = [_between(low, high, mantissas) for mantissas in ROUND]
        clear = [ticks for ticks in every if len(ticks) > 1 and _nearest(ticks) >= least]
        return clear[0] if clear else _thinned(next((ticks for ticks in reversed(every) if ticks), []), least)


def _between(low: float, high: float, mantissas: Sequence[float]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for decade in decades for mantissa in mantissas if low <= (tick := mantissa * 10.0**decade) <= high]


def _nearest(ticks: Sequence[float]) -> float:
    """Return the smallest distance of two neighbours, in decades."""
    return min(math.log10(after / before) for before, after in pairwise(ticks))


def _thinned(ticks: Sequence[float], least: float) -> list[float]:
    """Return those ticks that are far enough from the one before that is kept."""
    kept: list[float] = []
    for tick in ticks:
        if not kept or math.log10(tick / kept[-1]) >= least:
            kept.append(tick)
    return kept
