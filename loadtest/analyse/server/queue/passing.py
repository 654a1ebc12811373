"""Waits that no batch explains: other streams got token after token, so many batches passed while a slot seemed free."""

from __future__ import annotations

import numpy as np

from loadtest.analyse.run.frames import RunData
from loadtest.metrics import S_PER_US

MOST_BATCHES = 8  # that may pass while a request is taken in
SLICE = 256  # prompt tokens of a batch at least: prompts that wait together take so many batches more
MOST_LOOKED_AT = 200  # of a level's waits, the longest


def passed_share(run: RunData, index: int) -> float:
    """Return the share of a level's batch wait for which more batches passed than a request is taken in with.

    A batch gives each stream that decodes one token, so the tokens of one other stream count the batches.
    """
    of_level = run.of_level(index)
    waits = np.nan_to_num(np.where(of_level, run.column("batch_wait_s"), 0.0))
    if not waits.sum() > 0:
        return 0.0
    rows = np.argsort(-waits)[: min(MOST_LOOKED_AT, int((waits > 0).sum()))]
    ends = run.column("first_token") - np.nan_to_num(run.column("prefill_s"))
    users = next(one.get("concurrency") for one in run.levels if one["index"] == index) or int(of_level.sum())
    prompts = np.nan_to_num(run.column("prompt_tokens")[of_level])
    most = MOST_BATCHES + users * float(prompts.max(initial=0.0)) / SLICE
    long = [row for row in rows if _batches(run, index, ends[row] - waits[row], ends[row]) > most]
    return float(waits[long].sum() / waits.sum())


def _batches(run: RunData, index: int, begin: float, end: float) -> int:
    """Return the most tokens that one stream of the level got between two instants."""
    beside = run.of_level(index) & (run.column("first_token") < end) & (run.column("end") > begin)
    most, send = 0, run.column("send")
    for row in np.flatnonzero(beside):
        at = send[row] + run.chunks.row(int(row)) * S_PER_US
        most = max(most, int(np.searchsorted(at, end) - np.searchsorted(at, begin)))
    return most
