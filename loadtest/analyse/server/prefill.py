"""What a prompt costs, from requests that were worked on alone, and what it costs the streams that run meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from loadtest.analyse.figures.intervals import t_quantile
from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.frames import Run
from loadtest.analyse.server.token_gaps import Decoding

Interval = tuple[float, float]
StepTime = Callable[[FloatArray], FloatArray]  # numbers of streams → seconds

SLICES = (512, 1024, 2048, 4096, 256, 128, None)  # prompt tokens a batch, the likeliest first; None: a prompt at once
NEAR_S = 0.001  # instants of prompts that began and ended together
FEWEST_PROMPTS = 3  # prompts
FEWEST_TO_SPLIT = 8  # prompts of unlike lengths, to tell the fixed part from the part a token
LEAST_LENGTH_RATIO = 2.0  # longest / shortest
ABOVE_LEAST = 1.02  # of a token's time: a prompt that takes no longer says nothing about its tokens
MOST_FITTED = 1500  # prompts fitted; more say nothing new
WIDEST_INTERVAL = 0.3  # width of the interval, of the speed: then TTFT of an idle server says more
LEAST_PREFILL_ERROR = 0.005  # a speed is never known better than this share
MOST_JITTER = 0.3
OUTLYING = 4.0  # robust standard deviations


@dataclass(frozen=True, slots=True)
class Prefill:
    """What a prompt costs: fixed_s + per_token_s · uncached prompt tokens; `n` prompts that overlapped no other."""

    per_token_s: float
    ci95: Interval
    fixed_s: float
    n: int
    method: str
    jitter: float = 0.0  # standard deviation of a prompt's time, as a share of it
    n_batch: int | None = 512  # prompt tokens that a batch takes; None: all that wait

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "per_token_s": self.per_token_s,
            "ci95": list(self.ci95),
            "fixed_s": self.fixed_s,
            "n": self.n,
            "method": self.method,
            "n_batch": self.n_batch,
        }


def uncached(run: Run) -> FloatArray:
    """Return the prompt tokens that had to be evaluated, one a request; nan unknown."""
    return np.asarray(run.column("prompt_tokens") - np.nan_to_num(run.column("cached_tokens")), dtype=np.float64)


def measure_prefill(run: Run, gaps: Decoding, step: StepTime | None) -> tuple[Prefill | None, str | None]:
    """Return the prefill speed, or the reason why it is not known.

    `step` gives the step time, which a prompt shares with the streams that decode meanwhile.
    """
    tokens = uncached(run)
    if gaps.told.any():
        found, reason = _from_durations(gaps, tokens, step)
        if found is not None and found.n < FEWEST_PROMPTS and step is not None:  # hidden below a token's time
            return _from_stalls(gaps, tokens, step) or found, None
        return found, reason
    found = _from_stalls(gaps, tokens, step) if step else None
    if found is None or found.ci95[1] - found.ci95[0] > WIDEST_INTERVAL * found.per_token_s:
        found = _from_idle(run, gaps, tokens, step) or found
    if found is not None:
        return found, None
    return None, "this server gives no durations, and no request found it idle: measure a level with one stream"


def _from_durations(gaps: Decoding, tokens: FloatArray, step: StepTime | None) -> tuple[Prefill | None, str | None]:
    """Take prompts' cost from the server's own durations, of those worked on alone or, where few were, together."""
    rows = np.flatnonzero(gaps.told & np.isfinite(gaps.first) & (tokens > 0) & (gaps.first > gaps.started))
    group = _prompt_groups(gaps, rows)
    alone = group.size == 1
    beside = gaps.decoding_at(group.start + gaps.edge_s).astype(np.float64)
    evaluated = np.add.reduceat(tokens[group.rows], group.head) if len(group.head) else np.zeros(0)
    n_batch = _slice_tokens(gaps, evaluated[alone], beside[alone], group.start[alone], group.end[alone])
    few = alone.sum() < FEWEST_TO_SPLIT
    taken = alone | (few & (evaluated <= (n_batch or math.inf) - beside))
    if taken.sum() < FEWEST_PROMPTS:
        return None, f"only {int(taken.sum())} prompts were prefilled while no other was: too few to tell the speed"
    evaluated, beside, size = evaluated[taken], beside[taken], group.size[taken].astype(np.float64)
    batches = np.ones(len(evaluated)) if n_batch is None else np.ceil(evaluated / np.maximum(n_batch - beside, 1))
    shared, least = np.zeros(len(evaluated)), np.zeros(len(evaluated))
    if step is not None:
        shared = np.where(beside > 0, batches * step(np.maximum(beside, 1.0)), 0.0)
        least = step(np.maximum(beside, 0.0) + size)
    method = f"prompts prefilled {'alone or together, no other meanwhile' if few else 'while no other was'}"
    spent = group.end[taken] - group.start[taken]
    return fit_prefill(evaluated, spent, shared, least, f"{method}, less the steps they shared", n_batch), None


class _PromptGroups(NamedTuple):
    """Prompts worked on together, and no other meanwhile; one entry a group, but for `rows`."""

    rows: IntArray  # of their requests, group by group
    head: IntArray  # where each group begins in `rows`
    size: IntArray
    start: FloatArray
    end: FloatArray


def _prompt_groups(gaps: Decoding, rows: IntArray) -> _PromptGroups:
    near = max(gaps.edge_s, NEAR_S)
    rows = rows[np.argsort(gaps.first[rows], kind="stable")]
    start, end = gaps.started[rows], gaps.first[rows]
    head = np.flatnonzero(np.diff(end, prepend=-np.inf) > near)
    if not len(head):
        return _PromptGroups(rows, head, head, start, end)
    size = np.diff(head, append=len(rows))
    first, last = np.minimum.reduceat(start, head), np.maximum.reduceat(start, head)
    ends = np.maximum.reduceat(end, head)
    opened = np.searchsorted(np.sort(start), ends - near, side="left")
    closed = np.searchsorted(end, first + near, side="right")
    whole = (opened - closed == size) & (last - first <= near)
    kept = np.repeat(whole, size)
    size = size[whole]
    return _PromptGroups(rows[kept], np.cumsum(size) - size, size, first[whole], ends[whole])


def _slice_tokens(
    gaps: Decoding, tokens: FloatArray, beside: FloatArray, start: FloatArray, end: FloatArray
) -> int | None:
    """Return how many prompt tokens a batch takes: running streams get a token after each slice of a long prompt."""
    long = (beside > 0) & (tokens > min(size for size in SLICES if size)) & gaps.covers(start, end)
    if not long.any():
        return SLICES[0]
    instants = np.sort(gaps.right)
    inside = np.searchsorted(instants, end[long] - gaps.edge_s) - np.searchsorted(instants, start[long] + gaps.edge_s)
    seen = inside / beside[long]  # tokens a running stream got meanwhile

    def off(size: int | None) -> float:
        expected = 0.0 if size is None else np.ceil(tokens[long] / np.maximum(size - beside[long], 1)) - 1
        return float(np.abs(seen - expected).mean())

    best = min(SLICES, key=off)
    return SLICES[0] if off(SLICES[0]) <= off(best) + 0.1 else best


def _from_stalls(gaps: Decoding, tokens: FloatArray, step: StepTime) -> Prefill | None:
    """Take prompts' cost from the gaps of running streams that whole prompts fell into."""
    seen = np.flatnonzero(np.isfinite(gaps.first) & np.isfinite(gaps.started) & (tokens > 0))
    if not len(seen) or not len(gaps.right):
        return None
    seen = seen[np.argsort(gaps.first[seen])]
    firsts, beside = gaps.first[seen], gaps.streams.astype(np.float64)
    before = np.searchsorted(firsts, gaps.left + gaps.edge_s, side="right")
    after = np.searchsorted(firsts, gaps.right + gaps.edge_s, side="right")
    joined = after - before
    at_work = np.searchsorted(np.sort(gaps.started[seen]), gaps.right - gaps.edge_s) - before
    sums = np.concatenate(([0.0], np.cumsum(tokens[seen])))
    evaluated = sums[after] - sums[before]
    # A prompt that may have begun before the batch that ended at `left` may have been in that one in part; it was not
    # where that batch had room for all of it.
    begun = np.minimum.accumulate(gaps.started[seen][::-1])[::-1][np.minimum(before, len(seen) - 1)]
    instants = np.sort(np.concatenate((gaps.right, firsts)))
    previous = np.searchsorted(instants, gaps.left - gaps.edge_s) - 1
    fresh = begun >= np.where(previous >= 0, instants[np.maximum(previous, 0)], -np.inf) - gaps.edge_s
    most = (SLICES[0] or math.inf) - beside
    just_before = sums[before] - sums[np.searchsorted(firsts, gaps.left - gaps.edge_s)]
    whole = fresh & (evaluated + just_before <= most)
    rows = np.flatnonzero((joined > 0) & (at_work <= joined) & (beside > 0) & whole)
    rows = rows[np.unique(before[rows], return_index=True)[1]]  # a step once, however many streams saw it
    if len(rows) < FEWEST_TO_SPLIT:
        return None
    method = "pauses of running streams that prompts fell into, less a step (the server gives no durations)"
    spent, beside = gaps.right[rows] - gaps.left[rows], beside[rows]
    return fit_prefill(evaluated[rows], spent, step(beside), step(beside + joined[rows]), method, SLICES[0])


def _from_idle(run: Run, gaps: Decoding, tokens: FloatArray, step: StepTime | None) -> Prefill | None:
    """Take prompts' cost from TTFT of requests, or groups of them sent together, that found the server idle."""
    send = run.column("send")
    told = run.column("unsent_tokens") == 0  # else TTFT holds the time of reasoning that was not sent
    seen = np.flatnonzero(np.isfinite(gaps.first) & np.isfinite(send) & (tokens > 0) & told)
    if len(seen) < FEWEST_PROMPTS:
        return None
    seen = seen[np.argsort(gaps.first[seen], kind="stable")]
    firsts = gaps.first[seen]
    starts = np.flatnonzero(np.diff(firsts, prepend=-np.inf) > max(gaps.edge_s, 1e-4))
    sizes = np.diff(starts, append=len(seen))
    sent = np.minimum.reduceat(send[seen], starts)
    evaluated = np.add.reduceat(tokens[seen], starts)
    done = np.searchsorted(np.sort(gaps.last[seen]), sent, side="right")
    earlier = np.searchsorted(np.sort(send[seen]), sent, side="left")
    by_then = np.searchsorted(np.sort(send[seen]), firsts[starts], side="left")
    idle = (earlier == done) & (by_then - earlier == sizes) & (evaluated <= (SLICES[0] or math.inf))
    idle |= (earlier == done) & (by_then - earlier == 1) & (sizes == 1)
    if idle.sum() < FEWEST_PROMPTS:
        return None
    spent = firsts[starts][idle] - sent[idle]
    nothing = np.zeros(len(spent))
    least = nothing if step is None else step(sizes[idle].astype(np.float64))
    method = "TTFT of requests that found the server idle (it gives no durations)"
    found = fit_prefill(evaluated[idle], spent, nothing, least, method, SLICES[0])
    return replace(found, fixed_s=0.0)  # that part is handling: once, not once a prompt


def lone(run: Run) -> BoolArray:
    """Mark the requests that had the server to themselves from being sent to their first token."""
    send, end = run.column("send"), run.column("end")
    sent = np.isfinite(send) & np.isfinite(end)
    until = run.column("first_token")
    before = np.searchsorted(np.sort(send[sent]), until, side="left")
    over = np.searchsorted(np.sort(end[sent]), send, side="right")
    return np.asarray(sent & (before - over == 1), dtype=np.bool_)


def fit_prefill(
    tokens: FloatArray, spent: FloatArray, shared: FloatArray, least: FloatArray, method: str, n_batch: int | None
) -> Prefill:
    """Fit spent = max(shared + fixed_s + per_token_s · tokens, least), whose error is a share of it; seconds.

    `shared` is what the streams beside took, `least` the step time with the prompt's stream: a short prompt costs no
    less. The fixed part is kept only where prompts of unlike lengths show it for certain.
    """
    if len(tokens) > MOST_FITTED:
        keep = np.linspace(0, len(tokens) - 1, MOST_FITTED).astype(np.int64)
        tokens, spent, shared, least = tokens[keep], spent[keep], shared[keep], least[keep]
    most = 2 * float(np.max(spent / tokens))

    def best(fixed: float) -> tuple[float, float]:
        low, high = most * 1e-4, most
        slope = loss = 0.0
        for _ in range(4):  # a grid, narrowed round its best: the loss has flat parts, where prompts are hidden
            grid = np.geomspace(low, high, 60)
            off = _log_ratio(spent, np.maximum(shared + fixed + grid[:, None] * tokens, least))
            losses = np.minimum(np.abs(off), OUTLYING * np.median(np.abs(off), axis=1, keepdims=True) + 1e-3) ** 2
            index = int(np.argmin(losses.sum(axis=1)))
            slope, loss = float(grid[index]), float(losses[index].sum())
            low, high = grid[max(index - 1, 0)], grid[min(index + 1, 59)]
        return slope, loss

    slope, loss = best(0.0)
    fixed = 0.0
    n = len(tokens)
    if n >= FEWEST_TO_SPLIT and tokens.max() >= LEAST_LENGTH_RATIO * tokens.min():
        usual = float(np.median(spent - shared))
        tries = [float(share * usual) for share in (0.02, 0.04, 0.06, *np.linspace(0.1, 0.8, 15))]
        index = int(np.argmin([best(value)[1] for value in tries]))
        around = tries[max(index - 1, 0)], tries[min(index + 1, len(tries) - 1)]
        tries = [float(value) for value in np.linspace(*around, 9)]
        losses = [best(value)[1] for value in tries]
        index = int(np.argmin(losses))
        # Worth it only far beyond chance: an F of 20 on one more parameter.
        if loss - losses[index] > 20 * losses[index] / max(n - 2, 1):
            fixed = tries[index]
            slope, _ = best(fixed)
    off = _log_ratio(spent, np.maximum(shared + fixed + slope * tokens, least))
    spread = 1.4826 * float(np.median(np.abs(off - np.median(off))))
    tells = shared + fixed + slope * tokens > least * ABOVE_LEAST
    if tells.sum() < FEWEST_PROMPTS:
        bound = float(np.median((least - shared) / tokens))
        slope = bound / 2
        told = "no prompt took longer than a token: taken as half of what that allows"
        return Prefill(
            slope, (0.0, bound), 0.0, int(tells.sum()), told, jitter=min(spread, MOST_JITTER), n_batch=n_batch
        )
    weight = (slope * tokens / spent)[tells]
    error = max(spread, 1e-4) / math.sqrt(float((weight**2).sum())) * slope
    error = math.hypot(error * (2.0 if fixed else 1.0), LEAST_PREFILL_ERROR * slope)
    half = t_quantile(int(tells.sum()) - 1) * error
    ci95 = (max(slope - half, 0.0), slope + half)
    return Prefill(slope, ci95, fixed, int(tells.sum()), method, jitter=min(spread, MOST_JITTER), n_batch=n_batch)


def _log_ratio(spent: FloatArray, model: FloatArray) -> FloatArray:
    return np.asarray(np.log(spent / np.maximum(model, 1e-9)), dtype=np.float64)


def stalls(run: Run, gaps: Decoding, step: StepTime | None) -> tuple[FloatArray, float | None, str | None]:
    """Return each request's stall (nan unknown), the stall a prompt token of others' costs a stream, or why not.

    A request's stall is what its gaps took above the step time of as many streams while others' prompts were in work.
    All gaps are read for it, in blocks where they are very many.
    """
    rows = len(gaps.first)
    if step is None:
        return np.full(rows, np.nan), None, "no step time is known to hold pauses against"
    work = _Work.of(gaps, uncached(run))
    most = int(np.isfinite(gaps.first).sum())  # streams at once, surely

    def read(made: Callable[[], Decoding]) -> tuple[slice, FloatArray, float, float]:
        block = made()
        beside = np.maximum(block.streams, block.begun)
        times = step(np.maximum(np.arange(min(int(beside.max(initial=0)), most) + 1, dtype=np.float64), 1.0))
        excess = np.where(block.held, block.right - block.left - times[np.maximum(beside, 0)], 0.0)
        low = int(block.row[0]) if len(block.row) else 0
        summed = np.asarray(np.bincount(block.row - low, weights=np.maximum(excess, 0.0)), dtype=np.float64)
        worked = work.between(block.left[block.held], block.right[block.held])
        return slice(low, low + len(summed)), summed, float(worked.sum()), float(excess[block.held].sum())

    stall, total, lost = np.zeros(rows), 0.0, 0.0
    with ThreadPoolExecutor(2) as pool:  # NumPy works on arrays without Python's lock
        for mine, summed, worked, excess in pool.map(read, gaps.every(run)):
            stall[mine] += summed
            total += worked
            lost += excess
    stall = np.where(run.chunks.counts > 1, stall, np.nan)
    if total <= 0:
        return stall, None, "no stream ran while another's prompt was in work"
    return stall, max(lost / total, 0.0), None


@dataclass(frozen=True, slots=True)
class _Work:
    """Prompt tokens worked on up to an instant, each prompt spread evenly over its work."""

    at: FloatArray
    done: FloatArray
    shift: float

    @classmethod
    def of(cls, gaps: Decoding, tokens: FloatArray) -> _Work:
        known = np.isfinite(gaps.first) & np.isfinite(gaps.started) & (tokens > 0)
        start, end = gaps.started[known], gaps.first[known]
        if not gaps.told.any():  # the work may be any part of the window; it ends with the first token
            start = end
        start = np.minimum(start, end - gaps.edge_s)
        slope = tokens[known] / (end - start)
        at = np.concatenate((start, end))
        order = np.argsort(at, kind="stable")
        at = at[order]
        rate = np.cumsum(np.concatenate((slope, -slope))[order])
        done = np.concatenate(([0.0], np.cumsum(rate[:-1] * np.diff(at)))) if len(at) else at
        return cls(at, done, 0.5 * gaps.edge_s)  # half an edge later: first tokens end the gap that they come with

    def between(self, left: FloatArray, right: FloatArray) -> FloatArray:
        """Return the tokens worked on in each span."""
        if not len(self.at):
            return np.zeros(len(left))
        return np.asarray(
            np.interp(right + self.shift, self.at, self.done) - np.interp(left + self.shift, self.at, self.done)
        )
