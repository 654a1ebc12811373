"""Samples of made runs whose watts are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.analyse.run import frames

IDLE_W = 60.0
WATTS = {1: 150.0, 4: 250.0, 8: 300.0}
Reading = Callable[[float, float], dict[str, Any]]  # of watts and joules so far: what a sample holds


def read(path: Path, reading: Reading, *, every: float = 0.1, before: float = 10.0) -> list[dict[str, Any]]:
    """Return a sample every so often: idle before the first request, then by the streams of the moment."""
    run = frames.load(path)
    begins = [
        (float(run.requests.loc[run.requests["level"] == level["index"], "send"].min()), level["concurrency"])
        for level in run.levels
    ]
    joules, rows = 1000.0, []
    for t in np.arange(-before, float(run.requests["end"].max()) + every, every):
        streams = next((users for begin, users in reversed(begins) if begin <= t + 1e-9), None)
        watts = WATTS.get(streams, 300.0) if streams else IDLE_W
        rows.append({"t": float(t), **reading(watts, joules)})
        joules += watts * every
    return rows


def by_watts(watts: float, _: float) -> dict[str, Any]:
    return {"gpus": [{"gpu": 0, "power": watts}]}
