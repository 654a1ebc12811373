"""What a run shows of a server that has no steps: how soon each stream's next token comes, and what prompts take beside it.

Such servers are emulators, gateways that spread requests over machines, and servers that give each request a worker. How
long a stream waits for its next token depends on how many requests are at work, and not on when the others get theirs.
"""

from __future__ import annotations

import numpy as np

from loadtest.analyse.run import excerpts
from loadtest.analyse.run.arrays import FloatArray
from loadtest.analyse.run.frames import RunData
from loadtest.analyse.server.at_work import Depth, RequestInstants
from loadtest.analyse.server.kept_out import at_work_while_waiting, unwaited_ttft
from loadtest.analyse.server.step_law import FEWEST_STEPS, StepTimes, growth_per_stream
from loadtest.analyse.server.steps import step_table, step_times
from loadtest.metrics import S_PER_US
from loadtest.simulate.model.timing import BESIDE, StepLaw, Timing

MOST_JITTER = 0.5  # of a prompt's time, as a share of it
KV_AGREES = 0.75  # of the time in which requests waited, that a budget of tokens must explain


def own_clocks(run: RunData) -> tuple[Timing, tuple[StepTimes, ...]] | None:
    """Return the timing of such a server, and the time to the next token by requests at work; None where these were too few."""
    requests = RequestInstants.of(run)
    peak = requests.peak()
    if not peak:
        return None
    ttft = unwaited_ttft(run, requests, peak)
    seen = np.isfinite(requests.first) & np.isfinite(ttft.seconds)
    begun = np.clip(requests.first - ttft.seconds, requests.arrived, requests.first)[seen]
    work = Depth.of(begun, np.maximum(requests.last[seen], begun))
    events = excerpts.events(run)
    right = events.at[1:][events.inside]
    gaps = np.asarray(np.diff(run.chunks.flat[events.place])[events.inside] * S_PER_US, dtype=np.float64)
    known = np.isfinite(right) & (gaps >= 0)
    right, gaps = right[known], gaps[known]
    beside = work.at(right - gaps / 2)
    times = tuple(
        step_times(int(number), gaps[beside == number], right[beside == number])
        for number in np.unique(beside)
        if number > 0 and (beside == number).sum() >= FEWEST_STEPS * number
    )
    if not times:
        return None
    middle = float(np.median(ttft.seconds[seen]))
    timing = Timing(
        step=StepLaw(table=step_table(times, growth_per_stream(times), neighbours=False)),
        prefill_s=ttft.per_token_s,
        prompt_s=ttft.fixed_s,
        prompt_jitter=min(0.5 * 1.48 * ttft.scatter_s / max(middle, 1e-9), MOST_JITTER),
        prefill_way=BESIDE,
        own_clocks=True,
        beside_s=ttft.beside_s,
        handling_s=0.0,
        handover_s=0.0,
    )
    return timing, times


def kv_budget(run: RunData) -> int | None:
    """Return how many tokens the requests at work may hold together; None where their number, not that, keeps others out.

    While a request waits, those at work hold no more than the budget; with the one that waits they would hold more.
    """
    requests = RequestInstants.of(run)
    peak = requests.peak()
    if not peak:
        return None
    kept = np.isfinite(run.column("send"))
    tokens = (run.column("prompt_tokens") + run.column("output_tokens"))[kept]
    begun = requests.begun if requests.told else requests.first - unwaited_ttft(run, requests, peak).seconds
    begun = np.clip(begun, requests.arrived, requests.first)
    known = np.isfinite(begun) & np.isfinite(tokens) & np.isfinite(requests.last)
    begun, gone, arrived, tokens = (
        begun[known],
        np.maximum(requests.last, begun)[known],
        requests.arrived[known],
        tokens[known],
    )
    found = at_work_while_waiting(run, requests, peak) if not requests.told else None
    if len(begun) < 2 * FEWEST_STEPS or (found is not None and found[0] is not None):
        return None
    held, full, seconds = _held_while_waiting(begun, gone, arrived, tokens)
    if not len(held):
        return None
    total = float(seconds.sum())
    tries = np.unique(np.concatenate((held, full)))
    tries = tries[np.linspace(0, len(tries) - 1, min(len(tries), 400)).astype(np.int64)]
    agrees = [float(seconds[(held <= each) & (full > each)].sum()) / total for each in tries]
    best = max(agrees)
    within = tries[np.array(agrees) >= best - 0.01]
    return int(np.median(within)) if best >= KV_AGREES else None


def _held_while_waiting(
    begun: FloatArray, gone: FloatArray, arrived: FloatArray, tokens: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return the tokens held in each part of time in which somebody waited, with the first who waits, and its length."""
    times = np.unique(np.concatenate((begun, gone, arrived)))
    middle = (times[1:] + times[:-1]) / 2
    held, full, seconds = [], [], []
    for at, length in zip(middle, np.diff(times), strict=True):
        waiting = (arrived <= at) & (begun > at)
        if waiting.any():
            here = float(tokens[(begun <= at) & (gone > at)].sum())
            held.append(here)
            full.append(here + float(tokens[waiting][np.argmin(begun[waiting])]))
            seconds.append(float(length))
    return np.array(held), np.array(full), np.array(seconds)
