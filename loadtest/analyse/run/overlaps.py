"""Intervals of time that overlap: how many are open at an instant or within a while, and what ended before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Depth:
    """A step function of time: `depth` intervals are open from each of `times` on."""

    times: FloatArray
    depth: FloatArray

    @classmethod
    def of(cls, starts: FloatArray, ends: FloatArray) -> Depth:
        """Count the open intervals; one that ends where another starts does not overlap it."""
        times = np.concatenate((starts, ends))
        steps = np.concatenate((np.ones(len(starts)), -np.ones(len(ends))))
        order = np.lexsort((steps, times))
        return cls(times[order], np.cumsum(steps[order]))

    def at(self, instants: FloatArray) -> FloatArray:
        """Return the depth at `instants`; zero before the first."""
        if not len(self.times):
            return np.zeros(len(instants))
        index = np.searchsorted(self.times, instants, side="right") - 1
        return np.where(index >= 0, self.depth[np.maximum(index, 0)], 0.0)


def open_within(starts: FloatArray, ends: FloatArray, since: FloatArray, until: FloatArray) -> IntArray:
    """Count the intervals that began before `until` and had not ended by `since`, both one a row; unknown ones do not count."""
    known = np.isfinite(starts) & np.isfinite(ends)
    begun = np.searchsorted(np.sort(starts[known]), until, side="left")
    return np.asarray(begun - np.searchsorted(np.sort(ends[known]), since, side="right"), dtype=np.int64)


def peak_at_once(starts: FloatArray, ends: FloatArray) -> int:
    """Return the most intervals open at once."""
    return int(Depth.of(starts, ends).depth.max(initial=0))


def count_within(instants: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """Count the instants in [left, right)."""
    ordered = np.sort(instants)
    return np.asarray(np.searchsorted(ordered, right) - np.searchsorted(ordered, left), dtype=np.float64)


def last_before(instants: FloatArray, at: FloatArray) -> FloatArray:
    """Return the latest of `instants` at or before each of `at`; −inf where there is none."""
    ordered = np.concatenate(([-np.inf], np.sort(instants)))
    return np.asarray(ordered[np.searchsorted(ordered, at, side="right") - 1], dtype=np.float64)


def freed_in_order(order: IntArray, ends: FloatArray, places: int) -> FloatArray:
    """Return when one of so many places became free for each interval, where they are taken in this `order`.

    The k-th end frees a place for the (k + places)-th in order, whoever held it; −inf for the first ones, which found one free.
    """
    freed = np.full(len(order), -np.inf)
    freed[order[places:]] = np.sort(ends)[: max(len(order) - places, 0)]
    return freed


def calm_starts(starts: FloatArray, ends: FloatArray) -> FloatArray:
    """Return the starts of the intervals that began while no other was open."""
    open_now = Depth.of(starts, ends)
    opened: BoolArray = (open_now.depth == 1) & (np.diff(open_now.depth, prepend=0) > 0)
    return np.asarray(open_now.times[opened], dtype=np.float64)


def latest_end(starts: FloatArray, ends: FloatArray, instants: FloatArray) -> FloatArray:
    """Return the latest end among the intervals that had begun by each instant; −inf where none had."""
    if not len(starts):
        return np.full(len(instants), -np.inf)
    order = np.argsort(starts, kind="stable")
    latest = np.maximum.accumulate(ends[order])
    index = np.searchsorted(starts[order], instants, side="right") - 1
    return np.where(index >= 0, latest[np.maximum(index, 0)], -np.inf)
