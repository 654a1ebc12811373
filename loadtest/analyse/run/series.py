"""Levels of a run that belong on one line of a chart: they differ only in concurrency, or only in rate."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.run import offered_load
from loadtest.text import rated


@dataclass(frozen=True, slots=True)
class Series:
    """Levels that differ only in concurrency (in an open loop: only in rate), in ascending order of it."""

    label: str  # what they share, e.g. "128 in · 64 out"; may be empty
    levels: tuple[dict[str, Any], ...]  # of summary.json


def series_of(levels: Iterable[dict[str, Any]]) -> list[Series]:
    """Group levels of summary.json by model and server, prompt length, answer length, words and kind of load."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for level in levels:
        own_rate = None if offered_load.is_open(level) else level["rate"]
        who = (level.get("model"), level.get("url"))
        key = (
            level["words"],
            level["input_tokens"],
            level["output_tokens"],
            level.get("input_lengths"),
            level.get("output_lengths"),
            level.get("system_tokens"),
            own_rate,
            offered_load.is_open(level),
            who,
        )
        groups.setdefault(key, []).append(level)
    found = []
    for (words, asked_in, asked_out, drawn_in, drawn_out, shared, rate, _, _), group in groups.items():
        parts = (
            (shared, "{} shared"),
            (drawn_in or asked_in, "{} in"),
            (drawn_out or asked_out, "{} out"),
            (words, "{} words"),
        )
        label = " · ".join(form.format(value) for value, form in parts if value is not None)
        if rate is not None:
            label = " · ".join(filter(None, (label, rated(rate))))
        found.append(Series(label, tuple(sorted(group, key=offered_load.amount))))
    return found
