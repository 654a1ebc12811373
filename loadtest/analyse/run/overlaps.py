"""Intervals of time that overlap: how many are open at an instant or within a while, and what ended before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from loadtest.analyse.run.arrays import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Depth:
    """A step function of time: `depth` intervals are open from each of `times` on, and none before the first."""

    times: FloatArray
    depth: FloatArray

    @classmethod
    def of(cls, starts: FloatArray, ends: FloatArray) -> Self:
        """Count the open intervals; one that ends where another starts does not overlap it."""
        times = np.concatenate((starts, ends))
        steps = np.concatenate((np.ones(len(starts)), -np.ones(len(ends))))
        order = np.lexsort((steps, times))
        return cls(times[order], np.cumsum(steps[order]))

    def at(self, instants: FloatArray) -> FloatArray:
        """Return the depth at `instants`; zero before the first."""
        return np.append(0.0, self.depth)[np.searchsorted(self.times, instants, side="right")]

    @property
    def idle_from(self) -> FloatArray:
        """The instants from which on none is open."""
        return np.asarray(self.times[self.depth == 0], dtype=np.float64)

    @property
    def busy_from(self) -> FloatArray:
        """The instants at which one opened while no other was open."""
        opened = (self.depth == 1) & (np.diff(self.depth, prepend=0) > 0)
        return np.asarray(self.times[opened], dtype=np.float64)


def time_of_all(*depths: Depth) -> float:
    """Return for how long each of these has an interval open."""
    times = np.unique(np.concatenate([one.times for one in depths]))
    open_in_all = np.all([one.at(times) > 0 for one in depths], axis=0)
    return float(np.diff(times, append=times[-1:])[open_in_all].sum())


def open_within(starts: FloatArray, ends: FloatArray, since: FloatArray, until: FloatArray) -> IntArray:
    """Count the intervals that began before `until` and had not ended by `since`, both one a row; unknown ones do not count."""
    known = np.isfinite(starts) & np.isfinite(ends)
    begun = np.searchsorted(np.sort(starts[known]), until, side="left")
    return begun - np.searchsorted(np.sort(ends[known]), since, side="right")


def peak_at_once(starts: FloatArray, ends: FloatArray) -> int:
    return int(Depth.of(starts, ends).depth.max(initial=0))


def busiest_pace(starts: FloatArray, ends: FloatArray, amounts: FloatArray) -> float:
    """Return how much is done a second while most intervals are open, each amount spread evenly over its own interval.

    Three mean intervals' time is looked at: a shorter one shows what chance brought together.
    """
    paces, times = amounts / np.maximum(ends - starts, 1e-9), np.concatenate((starts, ends))
    order = np.argsort(times, kind="stable")
    done, depth = (np.cumsum(np.concatenate((each, -each))[order])[:-1] for each in (paces, np.ones(len(paces))))
    busiest = np.lexsort((-done, -depth))
    until = np.minimum(np.cumsum(np.diff(times[order])[busiest]), 3 * float((ends - starts).mean()))
    return float((done[busiest] * np.diff(until, prepend=0.0)).sum() / until[-1])


def count_within(instants: FloatArray, left: FloatArray, right: FloatArray) -> IntArray:
    """Count the instants in [left, right)."""
    ordered = np.sort(instants)
    return np.searchsorted(ordered, right) - np.searchsorted(ordered, left)


def last_before(instants: FloatArray, at: FloatArray) -> FloatArray:
    """Return the latest of `instants` at or before each of `at`; −inf where there is none."""
    ordered = np.append(-np.inf, np.sort(instants))
    return ordered[np.searchsorted(ordered, at, side="right") - 1]


def freed_in_order(order: IntArray, ends: FloatArray, places: int) -> FloatArray:
    """Return when one of so many places became free for each interval, where they are taken in this `order`.

    The k-th end frees a place for the (k + places)-th in order, whoever held it; −inf for the first ones, which found one free.
    """
    freed = np.full(len(order), -np.inf)
    freed[order[places:]] = np.sort(ends)[: max(len(order) - places, 0)]
    return freed


def latest_end(starts: FloatArray, ends: FloatArray, instants: FloatArray) -> FloatArray:
    """Return the latest end among the intervals that had begun by each instant; −inf where none had."""
    order = np.argsort(starts, kind="stable")
    latest = np.append(-np.inf, np.maximum.accumulate(ends[order]))
    return latest[np.searchsorted(starts[order], instants, side="right")]
