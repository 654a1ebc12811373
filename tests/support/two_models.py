"""Runs of several models or servers at once, made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loadtest.analyse.summary import Analysis, analyse
from loadtest.records import Record
from support.made_runs import MS, Made, grid, write

HERE, THERE = "http://127.0.0.1:11434", "http://10.0.0.2:8000"
FAST, SLOW = Made(gap_ms=10, slots=4), Made(gap_ms=40, slots=2, prefill_ms=120)
USERS = (2, 6)  # of each model: a level has twice as many streams
Change = Callable[[Record], dict[str, Any]]


def target(model: str, url: str = HERE, **more: Any) -> dict[str, Any]:
    return {"url": url, "api": "ollama", "dialect": "ollama-chat", "model": model, **more}


def mixed(
    *models: Made, names: tuple[str, ...] = ("made", "other"), change: Change = lambda _: {}
) -> tuple[list[dict[str, Any]], list[Record]]:
    """Play several models at the same time, each by users of its own; level i of one is level i of all."""
    levels, records = grid(models[0], USERS)[0], []
    begins = [0] * len(USERS)
    for index in range(1, len(USERS)):
        ends = [grid(made, USERS[:index])[0][-1]["ended_ns"] for made in models]
        begins[index] = max(ends) + 500 * MS
    for number, made in enumerate(models):
        own, truth = grid(made, USERS)
        for record in truth.records:
            shift = begins[record.level] - own[record.level]["started_ns"]
            moved = {key: value + shift for key, value in _instants(record).items()}
            named: dict[str, Any] = {"model": names[number], "target": number, "id": record.id * len(models) + number}
            changed = dataclasses.replace(record, **moved, **named, server_first=(record.server_first or 0) + shift)
            records.append(dataclasses.replace(changed, **change(changed)))
    for level in levels:
        mine = [record for record in records if record.level == level["index"]]
        level |= {
            "concurrency": level["concurrency"] * len(models),
            "requests": level["requests"] * len(models),
            "started_ns": begins[level["index"]],
            "ended_ns": max(record.t_end for record in mine),
            "input_tokens": None,
            "output_tokens": None,
        }
    return levels, sorted(records, key=lambda record: record.t_sched)


def _instants(record: Record) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(record) if field.name.startswith("t_"))
    return {name: value for name in names if (value := getattr(record, name)) is not None}


def two_models(path: Path, change: Change = lambda _: {}, **facts: Any) -> Analysis:
    levels, records = mixed(FAST, SLOW, change=change)
    return analyse(write(path, records, levels, **({"targets": [target("made"), target("other")]} | facts)))
