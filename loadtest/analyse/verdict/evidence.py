"""What the rules of the verdict look at: the requests of one level, by how they ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from loadtest import metrics
from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import Run


@dataclass(frozen=True, slots=True)
class Evidence:
    """One level of a run."""

    run: Run
    level: dict[str, Any]
    rows: BoolArray  # measured requests of the level
    good: BoolArray  # those that ended well
    requests: pd.DataFrame  # the good ones
    everyone: pd.DataFrame  # every request of the level, warm-up and failures included

    @classmethod
    def of(cls, run: Run, level: dict[str, Any]) -> Evidence:
        index = level["index"]
        rows, good = run.measured(index), run.good(index)
        return cls(run, level, rows, good, run.requests[good], run.requests[run.requests["level"] == index])

    def values(self, name: str) -> FloatArray:
        """Return the known values of a column, of the good requests."""
        values: FloatArray = self.requests[name].to_numpy(dtype=np.float64)
        return values[np.isfinite(values)]

    @property
    def scenario(self) -> dict[str, Any]:
        return self.run.facts.get("scenario") or {}

    @property
    def lag_limit(self) -> float:
        ttft = self.values("ttft_s")
        return metrics.schedule_lag_limit(float(np.median(ttft)) if len(ttft) else 0.0)

    @property
    def measured(self) -> pd.DataFrame:
        """The measured requests of the level, whatever became of them."""
        return self.run.requests[self.rows]
