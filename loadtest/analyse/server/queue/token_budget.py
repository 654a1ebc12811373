"""How many tokens the requests at work may hold, where that and not their number keeps others out: a budget of the KV cache.

Those at work hold no more tokens of prompts and answers than the budget, and with the one that waits longest they would.
"""

from __future__ import annotations

import numpy as np

from loadtest.analyse.run import FloatArray, RunData, evenly
from loadtest.analyse.server.queue.at_work import RequestInstants
from loadtest.analyse.server.queue.kept_out import UnwaitedTtft, at_work_while_waiting

KV_AGREES = 0.75  # of the time in which requests waited, that a budget of tokens must explain
FEWEST_REQUESTS = 16  # whose work and tokens are known
LEAST_SPREAD = 0.03  # of the tokens of a request: with less, a budget is a number
MOST_PARTS, MOST_BUDGETS = 1500, 400  # of time, and budgets, that are tried
MOST_LOOKED_AT = 20_000  # requests of a run, the first ones
CLEARLY = 0.03  # of the time: by so much more must a budget explain than a number does


def kv_budget(run: RunData) -> int | None:
    """Return how many tokens the requests at work may hold, where that and not their number keeps others out; else None."""
    requests = RequestInstants.of(run)
    peak = requests.peak()
    if not peak:
        return None
    ttft = UnwaitedTtft.of(run, requests, peak)
    found = at_work_while_waiting(requests, ttft, peak) if not requests.mostly_told else None
    budget = budget_instead_of(run, requests, ttft, found[0] if found is not None else None)
    return budget[0] if budget is not None else None


def budget_instead_of(
    run: RunData, requests: RequestInstants, ttft: UnwaitedTtft, number: int | None
) -> tuple[int, float] | None:
    """Return the budget that explains the waiting clearly better than `number` at work does, if any, and how much."""
    held = _held_while_waiting(run, requests, ttft)
    if held is None:
        return None
    working, tokens, with_next, seconds = held
    total = float(seconds.sum())
    tries = np.unique(np.concatenate((tokens, with_next)))
    tries = tries[evenly(len(tries), MOST_BUDGETS)]
    agrees = np.array([seconds[(tokens <= each) & (with_next > each)].sum() / total for each in tries])
    by_number = 0.0 if number is None else float(seconds[working == number].sum()) / total
    best = float(agrees.max())
    if best < max(KV_AGREES, by_number + CLEARLY):
        return None
    return int(np.median(tries[agrees >= best - 0.01])), best


def _held_while_waiting(run: RunData, requests: RequestInstants, ttft: UnwaitedTtft) -> FloatArray | None:
    """Return rows over parts of time in which somebody waited; None where nobody did, or requests are few or hold alike.

    The rows: requests at work, the tokens that these hold in the end, the same with the one that waits longest, seconds.
    """
    tokens = (run.column("prompt_tokens") + run.column("output_tokens"))[np.isfinite(run.column("send"))]
    begun = np.clip(requests.begun, requests.arrived, requests.first) if requests.mostly_told else ttft.begun(requests)
    known = np.isfinite(begun) & np.isfinite(tokens) & np.isfinite(requests.last)
    begun, last, arrived, tokens = (
        each[known][:MOST_LOOKED_AT] for each in (begun, requests.last, requests.arrived, tokens)
    )
    gone = np.maximum(last, begun)
    if len(begun) < FEWEST_REQUESTS or tokens.std() < LEAST_SPREAD * tokens.mean():
        return None
    times = np.unique(np.concatenate((begun, gone, arrived)))
    places = evenly(len(times) - 1, MOST_PARTS)
    rows = []
    for at, length in zip((times[1:] + times[:-1])[places] / 2, np.diff(times)[places], strict=True):
        waiting = (arrived <= at) & (begun > at)
        if waiting.any():
            working = (begun <= at) & (gone > at)
            here = float(tokens[working].sum())
            following = float(tokens[waiting][np.argmin(begun[waiting])])
            rows.append((float(working.sum()), here, here + following, float(length)))
    return np.array(rows).T if rows else None
