"""By which factors prompts took longer or shorter than their law says: what predictions draw from."""

from __future__ import annotations

import numpy as np

from loadtest.analyse.run.arrays import FloatArray

FEWEST = 8  # prompts that show how such times scatter
FARTHEST = 1.1  # a prompt's time as a share of what the model says, as a logarithm: a third to three times
MOST_FACTORS = 400  # that are kept, evenly by rank


def observed_factors(off: FloatArray) -> tuple[float, ...]:
    """Return spent / model of prompts, given as logarithms; () where they are few.

    What a normal distribution with their spread leaves out is the slow ones, which make p95.
    """
    if len(off) < FEWEST:
        return ()
    kept = np.sort(np.clip(off, -FARTHEST, FARTHEST))
    ranks = np.linspace(0, len(kept) - 1, min(MOST_FACTORS, len(kept))).round().astype(np.int64)
    return tuple(float(value) for value in np.exp(kept[ranks]))
