"""Durations that a server took by another clock than ours, or counts otherwise: nothing can be told from them."""

from __future__ import annotations

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray

FEWEST_ANSWERS = 5
FEWEST_PIECES, LEAST_SPAN_S = 8, 0.1  # of an answer that is looked at
BOUNDS = (0.6, 1.7)  # of the time over which an answer's tokens came, by the server's duration of its decoding


def clock_factor(decode_s: FloatArray, span_s: FloatArray, pieces: IntArray, one_by_one: BoolArray) -> float | None:
    """Return how long decoding took by the server, as a share of the time over which tokens came; None where they agree.

    Looked at are answers whose tokens came `one_by_one`: a way that gathers tokens changes when they come.
    """
    known = one_by_one & (pieces >= FEWEST_PIECES) & (span_s >= LEAST_SPAN_S) & np.isfinite(decode_s)
    if known.sum() < FEWEST_ANSWERS:
        return None
    factor = float(np.median(decode_s[known] / span_s[known]))
    return None if BOUNDS[0] <= factor <= BOUNDS[1] else factor
