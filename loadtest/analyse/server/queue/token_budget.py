"""Whether tokens and not a number limit what a server works on at once: the prompts and answers that it may hold.

While somebody waits, those at work hold no more than the budget, and with the one that waits longest they would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.queue.at_work import RequestInstants
from loadtest.analyse.server.queue.kept_out import at_work_while_waiting, unwaited_ttft

KV_AGREES = 0.75  # of the time in which requests waited, that a budget of tokens must explain
FEWEST_REQUESTS = 16  # whose work and tokens are known
LEAST_SPREAD = 0.03  # of the tokens of a request: with less, a budget is a number
MOST_PARTS = 1500  # of time that are looked at
MOST_LOOKED_AT = 20_000  # requests of a run, the first ones
CLEARLY = 0.03  # of the time: by so much more must a budget explain than a number does


@dataclass(frozen=True, slots=True)
class _WaitedTime:
    """Parts of time in which somebody waited."""

    number: FloatArray  # requests at work
    tokens: FloatArray  # that these hold in the end
    full: FloatArray  # likewise, with the one that waits longest
    seconds: FloatArray

    def best_budget(self) -> tuple[int, float]:
        """Return the budget that explains most of the time, and how much of it."""
        total = float(self.seconds.sum())
        tries = np.unique(np.concatenate((self.tokens, self.full)))
        tries = tries[np.linspace(0, len(tries) - 1, min(len(tries), 400)).astype(np.int64)]
        agrees = [float(self.seconds[(self.tokens <= each) & (self.full > each)].sum()) / total for each in tries]
        best = max(agrees)
        return int(np.median(tries[np.array(agrees) >= best - 0.01])), best


def kv_budget(run: RunData) -> int | None:
    """Return how many tokens the requests at work may hold, where that and not their number keeps others out; else None."""
    requests = RequestInstants.of(run)
    peak = requests.peak()
    if not peak:
        return None
    found = at_work_while_waiting(run, requests, peak) if not requests.told else None
    budget = budget_instead_of(run, requests, peak, found[0] if found is not None else None)
    return budget[0] if budget is not None else None


def budget_instead_of(
    run: RunData, requests: RequestInstants, peak: int, number: int | None
) -> tuple[int, float] | None:
    """Return the budget that explains the waiting clearly better than `number` at work does, if any, and how much."""
    held = _held_while_waiting(run, requests, peak)
    if held is None:
        return None
    budget, agrees = held.best_budget()
    by_number = 0.0 if number is None else float(held.seconds[held.number == number].sum() / held.seconds.sum())
    return (budget, agrees) if agrees >= max(KV_AGREES, by_number + CLEARLY) else None


def _held_while_waiting(run: RunData, requests: RequestInstants, peak: int) -> _WaitedTime | None:
    """Return what was held while somebody waited; None where nobody did, or requests are few or hold alike."""
    kept = np.isfinite(run.column("send"))
    tokens = (run.column("prompt_tokens") + run.column("output_tokens"))[kept]
    begun = requests.begun if requests.told else requests.first - unwaited_ttft(run, requests, peak).seconds
    begun = np.clip(begun, requests.arrived, requests.first)
    known = np.isfinite(begun) & np.isfinite(tokens) & np.isfinite(requests.last)
    begun, last, arrived, tokens = (
        each[known][:MOST_LOOKED_AT] for each in (begun, requests.last, requests.arrived, tokens)
    )
    gone = np.maximum(last, begun)
    if len(begun) < FEWEST_REQUESTS or tokens.std() < LEAST_SPREAD * tokens.mean():
        return None
    times = np.unique(np.concatenate((begun, gone, arrived)))
    places = np.linspace(0, len(times) - 2, min(MOST_PARTS, len(times) - 1)).astype(np.int64)
    rows = []
    for at, length in zip((times[1:] + times[:-1])[places] / 2, np.diff(times)[places], strict=True):
        waiting = (arrived <= at) & (begun > at)
        if waiting.any():
            working = (begun <= at) & (gone > at)
            here = float(tokens[working].sum())
            following = float(tokens[waiting][np.argmin(begun[waiting])])
            rows.append((float(working.sum()), here, here + following, float(length)))
    if not rows:
        return None
    return _WaitedTime(*np.array(rows).T)
