"""Whether a server took its durations or stamps by another clock than that by which its tokens came: then they tell nothing here."""

from __future__ import annotations

import numpy as np

from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.files.reading import Columns

FEWEST_ANSWERS = 5
FEWEST_PIECES, LEAST_SPAN_S = 8, 0.1  # of an answer that is looked at
STEP_NS = 100_000_000  # no way becomes so much longer or shorter for every token at once; clocks are set by more
CLOCK_BOUNDS = (0.6, 1.7)  # of the time over which an answer's tokens came, by the server's duration of its decoding


def distrust_durations(c: Columns, pieces: IntArray) -> None:
    """Take a model's durations for unknown where its server took them by another clock; `clock_factor` says by how much."""
    c["clock_factor"] = np.full(len(pieces), np.nan)
    for model, target in set(zip(c["model"].tolist(), c["target"].tolist(), strict=True)):
        mine = (c["model"] == model) & (c["target"] == target)
        singly = mine & c["ok"] & ~c["first_coalesced"] & ~c["held_back"] & (2 * c["reads"] > pieces)
        factor = clock_factor(c["decode_s"], c["e2e_s"] - c["ttft_s"], pieces, singly)
        if factor is not None:
            c["clock_factor"][mine] = factor
            for name in ("load_s", "prefill_s", "queue_wait_s", "decode_s", "queued_s"):
                c[name][mine] = np.nan
            c["llamacpp"][mine] = 0.0


def clock_factor(decode_s: FloatArray, span_s: FloatArray, pieces: IntArray, one_by_one: BoolArray) -> float | None:
    """Return how long decoding took by the server, as a share of the time over which tokens came; None where they agree.

    Looked at are answers whose tokens came `one_by_one`: a way that gathers tokens changes when they come.
    """
    known = one_by_one & (pieces >= FEWEST_PIECES) & (span_s >= LEAST_SPAN_S) & np.isfinite(decode_s)
    if known.sum() < FEWEST_ANSWERS:
        return None
    factor = float(np.median(decode_s[known] / span_s[known]))
    return None if CLOCK_BOUNDS[0] <= factor <= CLOCK_BOUNDS[1] else factor


def was_set(late: IntArray, sent: FloatArray, end: FloatArray) -> bool:
    """Whether a clock was set in mid-run: the least delays of all requests that were sent after some others' ends lie apart from theirs."""
    order = np.argsort(sent, kind="stable")
    late, sent, until = late[order], sent[order], np.maximum.accumulate(end[order])
    later = np.searchsorted(sent, until, side="right")
    known = np.flatnonzero((np.arange(len(late)) >= FEWEST_ANSWERS - 1) & (later <= len(late) - FEWEST_ANSWERS))
    for each in (late, -late):
        before, after = np.maximum.accumulate(each), np.minimum.accumulate(each[::-1])[::-1]
        if (after[later[known]] - before[known] > STEP_NS).any():
            return True
    return False
