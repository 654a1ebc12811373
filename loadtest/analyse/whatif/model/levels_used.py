"""Which levels of a run a prediction rests on: those of one length, at most numbers of users or rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.levels import LevelData, series_of
from loadtest.errors import PredictionError

OPTIONAL_KEYS = (
    "rate",
    "input_tokens",
    "output_tokens",
    "words",
)  # that a level of run.json may lack, where they are None


@dataclass(frozen=True, slots=True)
class ClosedLoopSeries:
    """Levels of a closed loop that differ only in concurrency."""

    label: str  # e.g. "128 in · 64 out"
    levels: tuple[int, ...]
    concurrencies: tuple[int, ...]  # ascending


def longest_series(run: RunData) -> ClosedLoopSeries | None:
    """Return the closed-loop levels of the lengths that were measured at most concurrencies; of equals the last."""
    closed = [LevelData(dict.fromkeys(OPTIONAL_KEYS) | level) for level in run.levels if level.get("concurrency")]
    found = [
        ClosedLoopSeries(
            each.label,
            tuple(level["index"] for level in each.levels),
            tuple(sorted({int(level["concurrency"]) for level in each.levels})),
        )
        for each in series_of(level for level in closed if level["rate"] is None)
    ]
    return max(reversed(found), key=lambda each: len(each.concurrencies), default=None)


def levels_used(run: RunData, levels: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the levels of summary.json that a prediction rests on: of one length, at most numbers of users or rates."""
    series = longest_series(run)
    if series is not None:
        return [level for level in levels if level["index"] in series.levels]
    steady = [level for level in levels if level["rate"] and level.get("rate_to") is None and not level.get("trace")]
    lengths = [(level["input_tokens"], level["output_tokens"], level["words"]) for level in steady]
    if not lengths:
        raise PredictionError(
            f"{run.path} has neither a level of a closed loop nor one at a constant rate; measure with --concurrency 1,2,4."
        )
    most = max(dict.fromkeys(lengths), key=lengths.count)
    return [level for level, each in zip(steady, lengths, strict=True) if each == most]
