"""Levels of a run that belong on one line of a chart: they differ only in concurrency, or only in rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.run import offered_load
from loadtest.text import rated

# what the levels of a series share, beside their kind of load
SERIES_KEYS = (
    "model",
    "url",
    "words",
    "input_tokens",
    "output_tokens",
    "input_lengths",
    "output_lengths",
    "system_tokens",
)


@dataclass(frozen=True, slots=True)
class Series:
    """Levels that differ only in concurrency (in an open loop: only in rate), in ascending order of it."""

    label: str  # what they share, e.g. "128 in · 64 out"; may be empty
    levels: tuple[dict[str, Any], ...]  # of summary.json


def series_of(levels: Iterable[dict[str, Any]]) -> list[Series]:
    """Group levels of summary.json by model and server, prompt length, answer length, words and kind of load."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for level in levels:
        open_loop = offered_load.is_open(level)
        key = (open_loop, None if open_loop else level["rate"], *(level.get(name) for name in SERIES_KEYS))
        groups.setdefault(key, []).append(level)
    return [
        Series(_shared_label(group[0], rate), tuple(sorted(group, key=offered_load.amount)))
        for (_, rate, *_), group in groups.items()
    ]


def _shared_label(level: dict[str, Any], rate: float | None) -> str:
    parts = (
        ("{} shared", level.get("system_tokens")),
        ("{} in", level.get("input_lengths") or level["input_tokens"]),
        ("{} out", level.get("output_lengths") or level["output_tokens"]),
        ("{} words", level["words"]),
        ("{}", None if rate is None else rated(rate)),
    )
    return " · ".join(form.format(value) for form, value in parts if value is not None)
