"""What the rules of the verdict look at: the requests of one level, selected by how they ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from loadtest import metrics
from loadtest.analyse.run.arrays import BoolArray, FloatArray, finite
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.levels import LevelData


@dataclass(frozen=True, slots=True)
class Evidence:
    """One level of a run."""

    run: RunData
    level: LevelData
    rows: BoolArray  # measured requests of the level
    good: BoolArray  # those that ended well
    requests: pd.DataFrame  # the good ones
    everyone: pd.DataFrame  # every request of the level, warm-up and failures included

    @classmethod
    def of(cls, run: RunData, level: LevelData) -> Evidence:
        index = level["index"]
        rows, good = run.measured(index), run.good(index)
        return cls(run, level, rows, good, run.requests[good], run.requests[run.requests["level"] == index])

    def values(self, name: str) -> FloatArray:
        """Return the known values of a column for the requests that ended well."""
        return finite(self.requests[name].to_numpy(dtype=np.float64))

    @property
    def lag_limit(self) -> float:
        first = self.values("ttft_s" if self.waited_for == "TTFT" else "e2e_s")
        return metrics.schedule_lag_limit(float(np.median(first)) if len(first) else 0.0)

    @property
    def waited_for(self) -> str:
        """What users wait for: "TTFT", or of answers without text, such as embeddings, "E2E"."""
        return "TTFT" if len(self.values("ttft_s")) or not len(self.values("e2e_s")) else "E2E"

    @property
    def measured(self) -> pd.DataFrame:
        """All measured requests of the level, however they ended."""
        return self.run.requests[self.rows]
