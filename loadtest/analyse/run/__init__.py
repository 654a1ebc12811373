"""A run folder as arrays. What nearly everything that reads one needs can be had from here."""

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray, evenly, finite, grouped
from loadtest.analyse.run.levels import (
    LENGTH_KEYS,
    SERIES_KEYS,
    LevelData,
    Series,
    axis_of,
    believed,
    has_tokens,
    name_among,
    names_apart,
    series_of,
    series_with,
    shared_parts,
    told_apart,
    users_axis,
    with_most,
)
from loadtest.analyse.run.run_data import RunData

__all__ = [
    "LENGTH_KEYS",
    "SERIES_KEYS",
    "BoolArray",
    "FloatArray",
    "IntArray",
    "LevelData",
    "RunData",
    "Series",
    "axis_of",
    "believed",
    "evenly",
    "finite",
    "grouped",
    "has_tokens",
    "name_among",
    "names_apart",
    "series_of",
    "series_with",
    "shared_parts",
    "told_apart",
    "users_axis",
    "with_most",
]
