"""A valid run of which one thing is spoilt, and what the verdict says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from loadtest.analyse.summary import analyse
from loadtest.records import Outcome, Record
from support.made_runs import Made, grid, write

Spoil = Callable[[Record], dict[str, Any]]


def judged(
    path: Path, spoil: Spoil, *, every: int = 1, made: Made | None = None, **facts: Any
) -> tuple[str, list[str]]:
    """Judge a run of 4 users, 32 requests, with `spoil` applied to each `every`-th measured request."""
    levels, truth = grid(made or Made(), (4,))
    records = [dataclasses.replace(r, **spoil(r)) if not r.warmup and r.id % every == 0 else r for r in truth.records]
    level = analyse(write(path, records, levels, **facts)).summary["levels"][0]
    return level["verdict"], level["reasons"]


def nothing(_: Record) -> dict[str, Any]:
    return {}


def without_answer(_: Record) -> dict[str, Any]:
    return {
        "outcome": Outcome.HTTP_ERROR,
        "t_first_token": None,
        "t_first_visible": None,
        "chunks": [],
        "server": None,
        "server_us": None,
        "server_first": None,
        "output_tokens": None,
    }


def stopped(records: Iterable[Record], at: int) -> list[Record]:
    """Return the records of requests as they stand when the run is stopped at an instant."""
    return [_cut(record, at) if record.t_end > at else record for record in records if (record.t_send or 0) < at]


def _cut(record: Record, at: int) -> Record:
    chunks = [chunk for chunk in record.chunks if (record.t_send or 0) + chunk * 1000 < at]
    unanswered: dict[str, Any] = {} if chunks else {**without_answer(record), "t_headers": None, "t_first_byte": None}
    return dataclasses.replace(record, **{**unanswered, "t_end": at, "outcome": Outcome.CANCELLED, "chunks": chunks})


def failed(error: str) -> Spoil:
    return lambda record: {**without_answer(record), "error": error}
