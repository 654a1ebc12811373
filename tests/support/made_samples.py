"""Samples of made runs, as a monitor writes them."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.analyse.findings import machine_findings as machine
from loadtest.analyse.run import frames
from support import made_runs

MONOTONIC = 5_000_000_000  # of made_runs' anchor; its first request is scheduled then
S = 10**9


def add(
    run: Path,
    source: str,
    lines: Iterable[dict[str, Any]],
    *,
    name: str | None = None,
    host: str | None = None,
    monotonic_ns: int = MONOTONIC,
    wall_ns: int = made_runs.WALL,
    every: float = 0.1,
) -> None:
    """Write a samples file as a monitor does; `t` in the lines is in seconds since the file's anchor."""
    head = {
        "schema": 1,
        "source": source,
        "host": host or platform.node(),
        "monotonic_ns": monotonic_ns,
        "wall_ns": wall_ns,
        "every": every,
    }
    body = [head, *({**line, "t": round(line["t"] * S)} for line in lines)]
    (run / f"samples-{name or source}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in body))


def beats(path: Path, **values: Any) -> list[dict[str, Any]]:
    """Return these values every 0.1 s for as long as the run lasts; a callable gets the concurrency of the moment."""
    read = frames.load(path)
    spans = machine.load_periods(read)
    end = float(read.requests["end"].max())
    rows = []
    for t in np.arange(0.0, end + 0.1, 0.1):
        streams = next((span.name for span in reversed(spans) if span.parts[0][0] <= t), "1 stream")
        count = int(streams.split()[0])
        rows.append(
            {"t": float(t), **{key: value(count) if callable(value) else value for key, value in values.items()}}
        )
    return rows
