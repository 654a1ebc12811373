"""What a prompt costs: prefill time by prompt tokens, and how long it stalls the streams that decode meanwhile.

The model is spent = max(shared + fixed + per_token · tokens + context · pairs of tokens, least). `spent` is the time from the
start of the prefill to the first token, `shared` the steps of other streams that the prompt was evaluated beside, and
`least` one step: a short prompt takes no less. `spent` comes from the best source that the run has:

1. the server's own durations, of prompts that were evaluated while no other prompt was;
2. without durations, gaps of running streams that whole prompts fell into, less a step;
3. else TTFT of requests that found the server idle.

Where most answers come whole, only the server's durations of prompts that had it to themselves count.

How many prompt tokens a batch takes follows from the tokens that running streams got meanwhile, one after each slice of a long
prompt, and from prompts that got their first token from the same batch: all but one began in it, so it took their tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, IntArray, RunData
from loadtest.analyse.run.overlaps import open_within
from loadtest.analyse.server.queue.at_work import lone
from loadtest.analyse.server.timing.prefill_law import (
    FEWEST_PROMPTS,
    FEWEST_TO_SPLIT,
    HOLDS_FACTOR,
    LEAST_LENGTH_RATIO,
    Prefill,
    fit_prefill,
    pairs,
    tells_fixed,
)
from loadtest.analyse.server.timing.token_gaps import TokenGaps

StepTime = Callable[[FloatArray], FloatArray]  # numbers of streams → seconds

LONGEST = 0.5  # of the longest prompt: from there on prompts show whether longer ones slow down
WENT_ON = 20  # tokens of each of the other streams inside a gap, from which on they did not wait for a prompt
WIDEST_INTERVAL = 0.3  # of the speed: where the interval from stalls is wider, TTFT of an idle server is used
FAR_SLOWER = 2.0  # times a prompt token's time by pauses: where an idle server takes longer, the two do not agree
HOLDS = 0.2  # logarithm of the factor by which the law may miss the prompts that had the server to themselves
Slice = int | None  # None: any prompt whole
SLICES: tuple[Slice, ...] = (512, 2048, 1024, 4096, None, 256, 128)  # that are tried, the likeliest first
FEWEST_AGAINST = 3  # groups of prompts that no batch of a size can have ended, from which on it is ruled out
MOSTLY_WHOLE = 0.5  # of the answers
NEAR_S = 0.001  # prompts whose starts and ends are this close were evaluated together
SLICES_APART = 0.1  # slices of a prompt, by which another size must suit better than the likeliest


def measure_prefill(run: RunData, gaps: TokenGaps, step: StepTime | None) -> tuple[Prefill | None, str | None]:
    """Return the prefill speed, or the reason why it is unknown; `step` gives step times by number of streams."""
    whole = (run.flag("ok") & run.flag("whole")).sum() > MOSTLY_WHOLE * run.flag("ok").sum()
    found, reason = _of_whole(run) if whole else _prefill_of(run, gaps, step)
    if found is not None:
        found = replace(found, one_length=_one_length(run.uncached_tokens[run.flag("ok")]))
    if found is not None and run.prompts_as_asked:
        found = replace(found, method=f"{found.method}; prompts as long as asked for, since the server counts none")
    return found, reason


def _one_length(tokens: FloatArray) -> float | None:
    """Return the usual length of prompts that are too alike to tell what each takes besides its tokens; else None."""
    low, usual, high = np.nanquantile(tokens, (0.05, 0.5, 0.95)) if np.isfinite(tokens).any() else (0.0, 0.0, 0.0)
    return float(usual) if high < LEAST_LENGTH_RATIO * low else None


def _of_whole(run: RunData) -> tuple[Prefill | None, str | None]:
    """Take the cost from the server's durations of prompts that had it to themselves: when others were read is not known."""
    tokens, spent = run.uncached_tokens, run.column("prefill_s")
    rows = lone(run) & (tokens > 0) & (spent > 0)
    if rows.sum() < FEWEST_PROMPTS:
        return None, "most answers came whole, or nearly so: when their prompts had been read is not known"
    nothing = np.zeros(int(rows.sum()))
    method = "the server's durations of prompts with no other of this run at the server, as most answers came whole"
    looks = nothing if run.shares_prefix or run.has_turns else pairs(tokens[rows])
    return fit_prefill(tokens[rows], spent[rows], nothing, nothing, method, None, looks), None


def _prefill_of(run: RunData, gaps: TokenGaps, step: StepTime | None) -> tuple[Prefill | None, str | None]:
    tokens = run.uncached_tokens
    if len(tokens) and not np.isfinite(tokens).any():
        if run.shares_prefix:
            return None, "prompts share a prefix, and the server does not say how much of each it had cached"
        return None, "the server does not say how many tokens prompts have"
    if gaps.requests.told.any():
        alike = run.shares_prefix or run.has_turns  # then what a token looks back at is in the cache, too
        found, reason = _from_durations(gaps, tokens, step, grows=not alike)
        if found is not None and found.n < FEWEST_PROMPTS and step is not None:  # too short to take longer than a step
            return _from_stalls(gaps, tokens, step, found.n_batch) or found, None
        return found, reason
    size = possible_slices(gaps, tokens)[0]
    found = _from_stalls(gaps, tokens, step, size) if step else None
    idle = _from_idle(run, gaps, tokens, step, size)
    if found is None or found.ci95[1] - found.ci95[0] > WIDEST_INTERVAL * found.per_token_s:
        found = idle or found
    elif idle is not None and idle.per_token_s > FAR_SLOWER * (
        found.per_token_s + found.fixed_s / float(np.median(tokens[tokens > 0]))
    ):
        found = replace(found, holds=False)  # streams may have paused for the last slice of prompts alone
    if found is not None:
        return found, None
    shown = run.shows_prefill().all()
    why = ": measure a level with one stream" if shown else " or has a TTFT that may hold more than prefill"
    return None, f"this server gives no durations, and every request found others there{why}"


def _from_durations(
    gaps: TokenGaps, tokens: FloatArray, step: StepTime | None, *, grows: bool
) -> tuple[Prefill | None, str | None]:
    """Take the cost from the server's durations, of prompts evaluated alone or, where few were, of several together."""
    rows = np.flatnonzero(
        gaps.requests.told
        & np.isfinite(gaps.requests.first)
        & (tokens > 0)
        & (gaps.requests.first > gaps.requests.started)
    )
    every = rows
    rows, head, size, start, end = _prompt_groups(gaps, rows)
    alone = size == 1
    beside = gaps.decoding_at(start + gaps.requests.edge_s).astype(np.float64)
    evaluated, looks = (
        np.add.reduceat(each[rows], head) if len(head) else np.zeros(0) for each in (tokens, pairs(tokens))
    )
    possible = possible_slices(gaps, tokens)
    n_batch = slice_tokens(gaps, possible, evaluated[alone], beside[alone], start[alone], end[alone])
    few = alone.sum() < FEWEST_TO_SPLIT
    taken = alone | (few & (evaluated <= room(n_batch) - beside))
    if taken.sum() < FEWEST_PROMPTS:
        return None, f"too few prompts were prefilled while no other was ({int(taken.sum())}) to tell the speed"
    evaluated, beside, together = evaluated[taken], beside[taken], size[taken].astype(np.float64)
    looks = looks[taken] if grows else np.zeros(len(evaluated))
    batches = np.ones(len(evaluated)) if n_batch is None else np.ceil(evaluated / np.maximum(n_batch - beside, 1))
    shared, least = np.zeros(len(evaluated)), np.zeros(len(evaluated))
    if step is not None:
        shared = np.where(beside > 0, batches * step(np.maximum(beside, 1.0)), 0.0)
        least = step(np.maximum(beside, 0.0) + together)
    method = f"prompts prefilled {'alone or together, no other of this run meanwhile' if few else 'while no other of this run was'}"
    spent = end[taken] - start[taken]
    fit = partial(fit_prefill, evaluated, spent, shared, least, f"{method}, less the steps they shared", n_batch)
    found = fit(looks)
    # Beside others a prompt takes no less: what the longest of all took shows that short ones only seemed to slow down.
    longest = every[tokens[every] >= LONGEST * tokens[every].max()]
    took = gaps.requests.first[longest] - gaps.requests.started[longest]
    if found.context_s and float(np.median(found.seconds(tokens[longest]) / took)) > HOLDS_FACTOR:
        found = fit()
    # Where streams have a clock each, prompts share no steps, and too much is taken from the others.
    unshared = beside == 0
    if unshared.sum() < FEWEST_PROMPTS:
        return replace(found, holds=None if found.holds else False), None
    cost = found.fixed_s + found.bare_s * evaluated + found.context_s * looks
    off = np.log(spent / np.maximum(cost, least))[unshared]
    return replace(found, holds=bool(found.holds and abs(float(np.median(off))) <= HOLDS)), None


def _prompt_groups(gaps: TokenGaps, rows: IntArray) -> tuple[IntArray, IntArray, IntArray, FloatArray, FloatArray]:
    """Return the rows of prompts that were evaluated together and beside no other, group after group; and of each group
    the place of its first request there, its size, start and end.
    """
    near = max(gaps.requests.edge_s, NEAR_S)
    rows = rows[np.argsort(gaps.requests.first[rows], kind="stable")]
    start, end = gaps.requests.started[rows], gaps.requests.first[rows]
    head = np.flatnonzero(np.diff(end, prepend=-np.inf) > near)
    if not len(head):
        return rows, head, head, start, end
    size = np.diff(head, append=len(rows))
    first, last = np.minimum.reduceat(start, head), np.maximum.reduceat(start, head)
    ends = np.maximum.reduceat(end, head)
    whole = (open_within(start, end, first + near, ends - near) == size) & (last - first <= near)
    kept = np.repeat(whole, size)
    size = size[whole]
    return rows[kept], np.cumsum(size) - size, size, first[whole], ends[whole]


def _from_stalls(gaps: TokenGaps, tokens: FloatArray, step: StepTime, n_batch: Slice) -> Prefill | None:
    """Take the cost from gaps of running streams that whole prompts fell into."""
    seen = np.flatnonzero(np.isfinite(gaps.requests.first) & np.isfinite(gaps.requests.started) & (tokens > 0))
    if not len(seen) or not len(gaps.right) or gaps.gathered:
        return None
    seen = seen[np.argsort(gaps.requests.first[seen])]
    firsts, beside = gaps.requests.first[seen], gaps.streams.astype(np.float64)
    before = np.searchsorted(firsts, gaps.left + gaps.requests.edge_s, side="right")
    after = np.searchsorted(firsts, gaps.right + gaps.requests.edge_s, side="right")
    joined = after - before
    at_work = np.searchsorted(np.sort(gaps.requests.started[seen]), gaps.right - gaps.requests.edge_s) - before
    sums = np.concatenate(([0.0], np.cumsum(tokens[seen])))
    evaluated = sums[after] - sums[before]
    # A prompt that may have begun before the batch that ended at `left` may have been evaluated in part by that batch. Such
    # prompts do not count, except where that batch had room for the whole prompt.
    begun = np.minimum.accumulate(gaps.requests.started[seen][::-1])[::-1][np.minimum(before, len(seen) - 1)]
    instants = np.sort(np.concatenate((gaps.right, firsts)))
    previous = np.searchsorted(instants, gaps.left - gaps.requests.edge_s) - 1
    fresh = begun >= np.where(previous >= 0, instants[np.maximum(previous, 0)], -np.inf) - gaps.requests.edge_s
    just_before = sums[before] - sums[np.searchsorted(firsts, gaps.left - gaps.requests.edge_s)]
    whole = fresh & (evaluated + just_before <= room(n_batch) - beside)
    rows = np.flatnonzero((joined > 0) & (at_work <= joined) & (beside > 0) & whole)
    rows = rows[np.unique(before[rows], return_index=True)[1]]  # each step once, however many streams saw it
    if len(rows) < FEWEST_TO_SPLIT:
        return None
    why = "the server gives no durations"
    if gaps.requests.told.any():
        why = "by its durations too few took longer than a step"
    method = f"pauses of running streams that prompts fell into, less a step ({why})"
    spent, beside = gaps.right[rows] - gaps.left[rows], beside[rows]
    return fit_prefill(evaluated[rows], spent, step(beside), step(beside + joined[rows]), method, n_batch)


def _from_idle(
    run: RunData, gaps: TokenGaps, tokens: FloatArray, step: StepTime | None, n_batch: Slice
) -> Prefill | None:
    """Take the cost from TTFT of requests, or of groups sent together, that found the server idle."""
    send = run.column("reached")
    seen = np.flatnonzero(np.isfinite(gaps.requests.first) & np.isfinite(send) & (tokens > 0) & run.shows_prefill())
    if len(seen) < FEWEST_PROMPTS:
        return None
    seen = seen[np.argsort(gaps.requests.first[seen], kind="stable")]
    firsts = gaps.requests.first[seen]
    starts = np.flatnonzero(np.diff(firsts, prepend=-np.inf) > max(gaps.requests.edge_s, 1e-4))
    sizes = np.diff(starts, append=len(seen))
    sent = np.minimum.reduceat(send[seen], starts)
    evaluated = np.add.reduceat(tokens[seen], starts)
    done = np.searchsorted(np.sort(gaps.requests.last[seen]), sent, side="right")
    earlier = np.searchsorted(np.sort(send[seen]), sent, side="left")
    by_then = np.searchsorted(np.sort(send[seen]), firsts[starts], side="left")
    idle = (earlier == done) & (by_then - earlier == sizes) & (evaluated <= room(n_batch))
    idle |= (earlier == done) & (by_then - earlier == 1) & (sizes == 1)
    if idle.sum() < FEWEST_PROMPTS:
        return None
    spent = firsts[starts][idle] - sent[idle]
    nothing = np.zeros(len(spent))
    least = nothing if step is None else step(sizes[idle].astype(np.float64))
    method = "TTFT of requests that found no other of this run at the server (it gives no durations)"
    found = fit_prefill(evaluated[idle], spent, nothing, least, method, n_batch)
    # Where no fixed part was told, what it takes besides its tokens is in the speed; else that is handling, which steps.py measures.
    told = found.fixed_s > 0 and tells_fixed(evaluated[idle & (sizes == 1)])
    return replace(found, fixed_s=0.0, least=found.least or not told)


def stalls(run: RunData, gaps: TokenGaps, step: StepTime | None) -> tuple[FloatArray, float | None, str | None]:
    """Return each request's stall (nan unknown), and the stall per prompt token of others or why that is unknown.

    A stall is the sum over a request's gaps, while another's prompt was evaluated and beside those, of gap − step time of as
    many streams. Not single gaps but the sum is bounded by zero: where gaps scatter, only the shorter half would be cut. A
    prompt holds up all streams alike: one that stood still while the others went on was preempted (vLLM), not stalled.
    """
    rows = len(gaps.requests.first)
    if step is None:
        return np.full(rows, np.nan), None, "no step time is known to hold pauses against"
    work_before = _work_before(gaps, run.uncached_tokens)
    most = int(np.isfinite(gaps.requests.first).sum())  # no more streams than this can have decoded at once
    instants, edge_s = np.sort(gaps.right), gaps.requests.edge_s

    def read(made: Callable[[], TokenGaps]) -> tuple[slice, FloatArray, float, float]:
        block = made()
        beside = np.maximum(block.streams, block.begun)
        times = step(np.maximum(np.arange(min(int(beside.max(initial=0)), most) + 1, dtype=np.float64), 1.0))
        inside = np.searchsorted(instants, block.right - edge_s) - np.searchsorted(instants, block.left + edge_s)
        stalled = block.around_held & (inside <= WENT_ON * beside)
        excess = np.where(stalled, block.right - block.left - times[np.maximum(beside, 0)], 0.0)
        low = int(block.row[0]) if len(block.row) else 0
        summed = np.asarray(np.bincount(block.row - low, weights=excess), dtype=np.float64)
        worked = work_before(block.right[block.held]) - work_before(block.left[block.held])
        return slice(low, low + len(summed)), summed, float(worked.sum()), float(excess.sum())

    stall, total, lost = np.zeros(rows), 0.0, 0.0
    with ThreadPoolExecutor(2) as pool:  # NumPy works on arrays without Python's lock
        for mine, summed, worked, excess in pool.map(read, gaps.every(run)):
            stall[mine] += summed
            total += worked
            lost += excess
    stall = np.where(run.chunks.counts > 1, np.maximum(stall, 0.0), np.nan)
    if total <= 0:
        return stall, None, "no stream ran while another's prompt was in work"
    return stall, max(lost / total, 0.0), None


def _work_before(gaps: TokenGaps, tokens: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Return the prompt tokens evaluated before an instant, as a function of it: those of a prompt go evenly over its prefill."""
    known = np.isfinite(gaps.requests.first) & np.isfinite(gaps.requests.started) & (tokens > 0)
    start, end = gaps.requests.started[known], gaps.requests.first[known]
    if not len(end):
        return lambda at: np.zeros(len(at))
    if not gaps.requests.told.any():  # when the prefill began is unknown; it ended with the first token
        start = end
    start = np.minimum(start, end - gaps.requests.edge_s)
    slope = tokens[known] / (end - start)
    times = np.concatenate((start, end))
    order = np.argsort(times, kind="stable")
    times, rate = times[order], np.cumsum(np.concatenate((slope, -slope))[order])
    done = np.concatenate(([0.0], np.cumsum(rate[:-1] * np.diff(times))))
    # read half an edge later, so that a first token lies inside the gap that it ends
    return lambda at: np.interp(at + 0.5 * gaps.requests.edge_s, times, done)


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
