"""The three kinds of NumPy array that everything here is made of, and what picks values, places or groups out of many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Key = TypeVar("Key")
Value = TypeVar("Value")


def finite(values: FloatArray) -> FloatArray:
    """Return the values that are known: neither nan nor infinite."""
    return values[np.isfinite(values)]


def evenly(count: int, most: int) -> IntArray:
    """Return the places of at most so many out of `count` entries, evenly apart from the first to the last."""
    return np.linspace(0, count - 1, min(count, most)).astype(np.int64)


def grouped(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, list[Value]]:
    """Return the values of each key; keys and values in the order in which they come."""
    found: dict[Key, list[Value]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found
