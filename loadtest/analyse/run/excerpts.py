"""The content events that step times and slots are read from: all of a run, or stretches of a very long one.

A stretch holds the events of all streams during some time, so that its batches are complete. Instants of requests (send,
first token, end) are always complete, so the number of streams decoding at an instant is exact in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.run_data import RunData

MOST_READ_EVENTS = 2_000_000  # content events; more of them give the same step times
EXCERPTS_A_LEVEL = 8  # per level, evenly spaced


@dataclass(frozen=True, slots=True)
class TimedEvents:
    """Content events in order of requests and time: when each was made, or came where the server does not say (RunData.made_at)."""

    row: IntArray
    place: IntArray  # in Run.chunks.flat
    at: FloatArray
    spans: FloatArray | None  # (start, end) of each stretch; None: these are all events of the run
    of: int  # number of events of the run

    @property
    def inside(self) -> BoolArray:
        """Mark the pairs of neighbours that follow one another in one stream."""
        return np.asarray((np.diff(self.row) == 0) & (np.diff(self.place) == 1), dtype=np.bool_)

    def gaps(self) -> tuple[FloatArray, FloatArray]:
        """Return the gaps between such neighbours, seconds, and when the later one of each was made."""
        inside = self.inside
        return np.diff(self.at)[inside], self.at[1:][inside]

    @property
    def said(self) -> str | None:
        """A clause that says which part of the run this is; None where it is all of it."""
        if self.spans is None:
            return None
        return f"read from {len(self.spans)} stretches of the run with {len(self.at)} of its {self.of} chunks"


def events(run: RunData, most: int = MOST_READ_EVENTS) -> TimedEvents:
    """Return all content events of a run, or about `most` of them from stretches of every level."""
    total = len(run.chunks.flat)
    if total <= most:
        row, place = run.chunks.owner, np.arange(total)
        return TimedEvents(row, place, run.made_at(row, place), None, total)
    send, end = run.column("send"), run.column("end")
    counts = run.chunks.counts
    levels = run.requests["level"].to_numpy()
    places, half = np.arange(EXCERPTS_A_LEVEL) + 0.5, most / total / 2
    spans = []
    for level in np.unique(levels[counts > 0]):
        mine = (levels == level) & (counts > 0)
        start, apart = send[mine].min(), (end[mine].max() - send[mine].min()) / EXCERPTS_A_LEVEL
        spans.append(start + np.stack((places - half, places + half), axis=1) * apart)
    edges = np.concatenate(spans)
    edges = edges[np.argsort(edges[:, 0], kind="stable")]
    parts = [_events_between(run, send, low, high) for low, high in edges]
    row, place, at = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.lexsort((place, row))
    order = order[np.diff(place[order], prepend=-1) > 0]  # an event in stretches of two levels only once
    return TimedEvents(row[order], place[order], at[order], edges, total)


def _events_between(run: RunData, send: FloatArray, low: float, high: float) -> tuple[IntArray, IntArray, FloatArray]:
    """Return row, place and instant of the events from `low` to `high`."""
    counts, starts = run.chunks.counts, run.chunks.starts
    rows = np.flatnonzero((counts > 0) & (send <= high) & (run.column("last") >= low))
    many = counts[rows]
    row = np.repeat(rows, many)
    place = np.arange(int(many.sum())) + np.repeat(starts[rows] - (np.cumsum(many) - many), many)
    at = run.made_at(row, place)
    keep = (at >= low) & (at <= high)
    return row[keep], place[keep], at[keep]
