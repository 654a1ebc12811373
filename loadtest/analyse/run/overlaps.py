"""Intervals of time that overlap: how many are open at an instant or within a while, and what ended before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from loadtest.analyse.run.arrays import FloatArray, IntArray

MOST_PARTS = 1 << 20  # that a level is cut into: a day of answers in milliseconds would be a hundred million


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


def peaks_within(starts: FloatArray, ends: FloatArray, since: FloatArray, until: FloatArray) -> FloatArray:
    """Return the most intervals that are open at once in each time; unknown ones do not count."""
    known = np.isfinite(starts) & np.isfinite(ends)
    open_from = Depth.of(starts[known], ends[known])
    first, last = (np.searchsorted(open_from.times, at, side="right") for at in (since, until))
    depth = np.append(0.0, open_from.depth)  # before each of `times`, and from the last on
    return np.array([depth[low : high + 1].max() for low, high in zip(first, last, strict=True)], dtype=np.float64)


def peak_at_once(starts: FloatArray, ends: FloatArray) -> int:
    return int(Depth.of(starts, ends).depth.max(initial=0))


@dataclass(frozen=True, slots=True)
class BusiestParts:
    """The parts of a time in which most was open, in order: each begins after one of `edges` and holds the next one."""

    edges: FloatArray

    @classmethod
    def of(cls, starts: FloatArray, ends: FloatArray, part_s: float, parts: int) -> Self:
        """Return so many parts of the time, each of `part_s`, in which most intervals are open on average.

        The borders of the parts follow no start or end: parts that began or closed with those would hold too much or too little
        of what comes at a start or an end.
        """
        found = Depth.of(starts, ends)
        part_s = max(part_s, float(np.ptp(found.times)) / MOST_PARTS)
        borders = np.arange(found.times[0], found.times[-1] + part_s, part_s)
        spent = np.append(0.0, np.cumsum(found.depth[:-1] * np.diff(found.times)))
        taken = np.sort(np.argsort(-np.diff(np.interp(borders, found.times, spent)), kind="stable")[:parts])
        return cls(np.column_stack((borders[taken], borders[taken + 1])).ravel())

    @property
    def seconds(self) -> float:
        return float(np.diff(self.edges)[::2].sum())

    def holds(self, instants: FloatArray) -> FloatArray:
        """Return 1.0 for every instant in one of the parts, else 0.0."""
        return (np.searchsorted(self.edges, instants) % 2).astype(np.float64)

    def shares(self, starts: FloatArray, ends: FloatArray) -> FloatArray:
        """Return the share of each interval's time that lies in the parts."""
        inside = np.arange(len(self.edges) - 1) % 2 == 0
        before = np.append(0.0, np.cumsum(np.diff(self.edges) * inside))
        until, since = (np.interp(at, self.edges, before) for at in (ends, starts))
        return np.asarray((until - since) / np.maximum(ends - starts, 1e-9), dtype=np.float64)


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
