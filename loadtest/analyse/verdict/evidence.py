"""What the rules of the verdict look at: the requests of one level, selected by how they ended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from loadtest import doubts
from loadtest.analyse.run import FloatArray, LevelData, RunData, finite


@dataclass(frozen=True, slots=True)
class Evidence:
    run: RunData
    level: LevelData
    requests: pd.DataFrame  # measured ones that ended well
    measured: pd.DataFrame  # all measured ones, however they ended
    everyone: pd.DataFrame  # warm-ups too

    @classmethod
    def of(cls, run: RunData, level: LevelData) -> Evidence:
        rows = (select(level["index"]) for select in (run.good, run.measured, run.of_level))
        return cls(run, level, *(run.requests[marked] for marked in rows))

    def values(self, name: str) -> FloatArray:
        """Return the known values of a column for the requests that ended well."""
        return finite(self.requests[name].to_numpy(dtype=np.float64))

    @property
    def lag_limit(self) -> float:
        first = self.values("ttft_s" if self.waited_for == "TTFT" else "e2e_s")
        return doubts.schedule_lag_limit(float(np.median(first)) if len(first) else 0.0)

    @property
    def waited_for(self) -> str:
        """What users wait for: "TTFT", or of answers without text, such as embeddings, "E2E"."""
        return "TTFT" if len(self.values("ttft_s")) or not len(self.values("e2e_s")) else "E2E"
