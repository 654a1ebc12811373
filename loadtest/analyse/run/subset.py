"""Some of a run's requests as a run of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np

from loadtest.analyse.run.arrays import BoolArray
from loadtest.analyse.run.event_times import Delays, EventGaps
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.run.ragged import Ragged


def only_rows(run: RunData, rows: BoolArray) -> RunData:
    """Return the run with these of its requests alone."""
    chunks, server_chunks, late = _of(run.chunks, rows), _of(run.server_chunks, rows), run.delivery
    return dataclasses.replace(
        run,
        requests=run.requests[rows].reset_index(drop=True),
        chunks=chunks,
        server_chunks=server_chunks,
        itl=EventGaps(chunks),
        server_itl=EventGaps(server_chunks),
        delivery=Delays(chunks, server_chunks, late.usable[rows], late.ahead[rows], late.least[rows]),
    )


def without_levels(run: RunData, levels: Collection[int]) -> RunData:
    """Return the run without levels of these numbers, as if they had not been measured."""
    rows = ~np.asarray(run.requests["level"].isin(list(levels)), dtype=np.bool_)
    kept = [level for level in run.levels if level["index"] not in levels]
    return dataclasses.replace(only_rows(run, rows), levels=kept)


def _of(ragged: Ragged, rows: BoolArray) -> Ragged:
    return Ragged.flattened(ragged.flat[np.repeat(rows, ragged.counts)], ragged.counts[rows])
