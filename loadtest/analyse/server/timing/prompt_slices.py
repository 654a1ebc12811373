"""How many prompt tokens a batch takes: by the tokens that running streams got meanwhile, and by prompts that ended together.

A running stream gets one token after each slice of a long prompt, so its tokens during the prefill count the slices. And of
prompts that got their first token from the same batch, all but one began in it, so that it took their tokens at least.
"""

from __future__ import annotations

import math

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.server.timing.token_gaps import TokenGaps

Slice = int | None  # None: any prompt whole
SLICES: tuple[Slice, ...] = (512, 2048, 1024, 4096, None, 256, 128)  # that are tried, the likeliest first
FEWEST_AGAINST = 3  # groups of prompts that no batch of a size can have ended, from which on it is ruled out
NEAR_S = 0.001  # prompts whose starts and ends are this close were evaluated together
SLICES_APART = 0.1  # slices of a prompt, by which another size must suit better than the likeliest


def possible_slices(gaps: TokenGaps, tokens: FloatArray) -> tuple[Slice, ...]:
    """Return the sizes that the prompts which ended together allow, the likeliest first; `tokens` were evaluated of each."""
    first, started = gaps.requests.first, gaps.requests.started
    rows = np.flatnonzero(np.isfinite(first) & (tokens > 0))
    rows = rows[np.argsort(first[rows], kind="stable")]
    heads = np.flatnonzero(np.diff(first[rows], prepend=-np.inf) > max(gaps.requests.edge_s, NEAR_S))
    if not len(heads):
        return SLICES
    all_of, longest = np.add.reduceat(tokens[rows], heads), np.maximum.reduceat(tokens[rows], heads)
    begun = np.where(gaps.requests.told, started, np.nan)[rows]  # nan spreads: then the starts of a group are not known
    together = np.maximum.reduceat(begun, heads) - np.minimum.reduceat(begun, heads) <= NEAR_S
    return tuple(size for size in SLICES if size is None or _ended(size, all_of, longest, together) < FEWEST_AGAINST)


def _ended(size: int, all_of: FloatArray, longest: FloatArray, together: BoolArray) -> int:
    """Return how many groups of prompts ended together that hold more than a batch of this size takes.

    One prompt of a group, the longest, may have begun in an earlier batch.
    """
    in_it = np.where(together & (longest <= size), all_of, all_of - longest)
    return int((in_it > size).sum())


def slice_tokens(
    gaps: TokenGaps,
    possible: tuple[Slice, ...],
    tokens: FloatArray,
    beside: FloatArray,
    start: FloatArray,
    end: FloatArray,
) -> Slice:
    """Return the size that suits the prompts which were evaluated alone best, while `beside` streams decoded."""
    long = (beside > 0) & (tokens > min(size for size in SLICES if size)) & gaps.covers(start, end)
    if not long.any():
        return possible[0]
    instants = np.sort(gaps.right)
    inside = np.searchsorted(instants, end[long] - gaps.requests.edge_s) - np.searchsorted(
        instants, start[long] + gaps.requests.edge_s
    )
    seen = inside / beside[long]  # tokens that each running stream got meanwhile

    def off(size: Slice) -> float:
        expected = 0.0 if size is None else np.ceil(tokens[long] / np.maximum(size - beside[long], 1)) - 1
        return float(np.abs(seen - expected).mean())

    best = min(possible, key=off)
    return possible[0] if off(possible[0]) <= off(best) + SLICES_APART else best


def room(size: Slice) -> float:
    """Return the size as a number."""
    return math.inf if size is None else float(size)
