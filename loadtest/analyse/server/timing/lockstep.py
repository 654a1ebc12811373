"""Whether streams that decode at the same time get their tokens at the same moments, as those of one batch do.

A server with continuous batching gives every stream a token at the end of each step. Where two servers stand behind one
URL, each has steps of its own: a stream is in step with some of the others and not with the rest. Then the time between two
tokens is a step of some of the streams, and no figure by the number of all streams describes a server.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loadtest.analyse.run.arrays import FloatArray, evenly
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.timing.token_gaps import TokenGaps
from loadtest.metrics import S_PER_US

NEAR = 0.1  # of the usual gap: tokens closer together than this are of one step
SHORTEST_GAP_S = 0.005  # below it, arrivals scatter too much to tell steps apart
MOST_STREAMS, MOST_BESIDE = 200, 12  # looked at, evenly spread; of each those beside it
FEWEST_TOKENS = 4  # of a stream while another one decoded
# share of a stream's tokens that come with another's: below the first the two share no steps, above the second they do
OUT_OF_STEP, IN_STEP = 0.5, 0.8
LEAST_APART = 0.2  # of the pairs, out of step, from which on streams are not of one batch
FEWEST_PAIRS = 8
MOST_GATHERED = 0.1  # of a stream's tokens may come with the one before


def share_out_of_step(run: RunData, gaps: TokenGaps) -> float | None:
    """Return the share of the pairs of streams that decoded together and have steps of their own; None where that is unknown."""
    shares = np.array(list(_pairs(run, gaps)), dtype=np.float64)
    told = (shares < OUT_OF_STEP) | (shares > IN_STEP)
    if told.sum() < max(FEWEST_PAIRS, 0.5 * len(shares)):
        return None
    return float((shares[told] < OUT_OF_STEP).mean())


def _pairs(run: RunData, gaps: TokenGaps) -> Iterator[float]:
    """Yield for pairs of streams which share of one's tokens came with a token of the other."""
    clean = gaps.clean & (gaps.streams > 1)
    usual = float(np.median(gaps.step_s[clean])) if clean.any() else 0.0
    if usual < SHORTEST_GAP_S:
        return
    first, last = gaps.requests.first, gaps.requests.last
    order = np.argsort(gaps.row[clean], kind="stable")
    rights = gaps.right[clean][order]
    seen, starts, counts = np.unique(gaps.row[clean][order], return_index=True, return_counts=True)
    for place in evenly(len(seen), MOST_STREAMS):
        row, mine = seen[place], rights[starts[place] : starts[place] + counts[place]]
        if _gathered(mine, usual):
            continue
        beside = np.flatnonzero((first < last[row]) & (last > first[row]))
        beside = beside[beside != row]
        for other in beside[evenly(len(beside), MOST_BESIDE)]:
            together = mine[(mine > first[other]) & (mine < last[other])]
            theirs = _tokens(run, int(other))
            if len(together) >= FEWEST_TOKENS and not _gathered(theirs, usual):
                yield float((_distance(together, theirs) <= NEAR * usual).mean())


def _gathered(at: FloatArray, usual: float) -> bool:
    """Whether tokens of a stream came together: then they came at other moments than they were made."""
    return bool((np.diff(at) < NEAR * usual).mean() > MOST_GATHERED) if len(at) > 1 else True


def _tokens(run: RunData, row: int) -> FloatArray:
    places = np.arange(run.chunks.starts[row], run.chunks.starts[row + 1])
    at = run.column("send")[row] + run.chunks.flat[places] * S_PER_US
    return np.asarray(at - run.delivery.at(np.full(len(places), row), places), dtype=np.float64)


def _distance(at: FloatArray, others: FloatArray) -> FloatArray:
    """Return how far each instant is from the nearest of the others, which are sorted."""
    right = np.searchsorted(others, at).clip(1, len(others) - 1)
    return np.asarray(np.minimum(np.abs(at - others[right - 1]), np.abs(others[right] - at)), dtype=np.float64)
