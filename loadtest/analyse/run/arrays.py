"""The three kinds of NumPy array that everything here is made of, and a few places out of one."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def evenly(count: int, most: int) -> IntArray:
    """Return the places of at most so many out of `count` entries, evenly apart from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)
