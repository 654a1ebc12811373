"""What stands in for an analysis of which little is known: a sentence is given just what it needs to have seen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from loadtest.analyse.run.levels import LevelData, believed
from loadtest.analyse.run.run_data import RunData
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.summary import Analysis

LIMIT, NO_LIMIT = Slots(4, limit=True, method="seen"), Slots(8, limit=False, method="seen")


class Run(SimpleNamespace):
    """Stands in for a run of which little is known."""

    fact = RunData.fact
    machine = SimpleNamespace(server=None)

    def column(self, name: str) -> Any:
        return np.asarray(self.requests[name], dtype=np.float64)

    def flag(self, name: str) -> Any:
        return np.asarray(self.requests.get(name, [False] * len(self.column("status"))), dtype=np.bool_)


class Bare(SimpleNamespace):
    """Stands in for an analysis of which little is known."""

    known_slots, believed_slots = Analysis.known_slots, Analysis.believed_slots


def of(slots: Slots, *levels: LevelData, **more: Any) -> Any:
    """Stand in for an analysis with these slots, and of a valid level where none is given."""
    every = levels or (LevelData(index=0, label="8 streams", verdict="valid"),)
    steps = SimpleNamespace(apart=False, handover_s=0.0)
    bare = {
        "run": Run(facts={}, requests={"status": []}),
        "levels": every,
        "believed": believed(every),
        "steps": steps,
    }
    return Bare(slots=slots, **{**bare, **more})
