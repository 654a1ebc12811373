"""Cached prompt tokens of a server that does not count them, from how long its prefills took.

What a token costs comes from prompts that are known to be cold, the first turns of made-up conversations: t = a + b·n +
c·n·(context before them, n/2 on average), plus the steps that streams beside them took. c shows only where long and
short prompts were read. A later turn that took t had all but n tokens cached. Where t is near that of the whole prompt,
or of what its conversation had not brought before, it is taken to be just that: on a busy machine times of equal
prompts differ by half, and those two by seven times.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from loadtest.analyse.figures.intervals import robust_deviation
from loadtest.analyse.run import BoolArray, FloatArray, RunData
from loadtest.analyse.run.overlaps import open_within
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.timing.steps import Steps, step_table
from loadtest.analyse.server.timing.token_gaps import TokenGaps, read_gaps
from loadtest.simulate.model.timing import StepLaw
from loadtest.text import percent

FEWEST_COLD = 6  # prompts that nothing was cached of, for a line through their times
LEAST_RATIO = 1.3  # longest / shortest cold prompt, below which no line is fitted
LONG_RATIO = 3.0  # longest / shortest cold prompt, from which on c is fitted too
WIDEST_SCATTER = 0.35  # of cold prompts about their line, beyond which nothing is told from a time
# the scatter is never taken to be less: short prefills scatter more than the long ones of first turns
LEAST_SCATTER = 0.15
SNAP = 2.5  # times the scatter, within which a time counts as that of the whole prompt, or of its new part alone
SCATTERS_APART = 2.0  # times the scatter, by which a prompt's times with and without its history cached must differ
VISIBLE = 1.1  # times a step: a shorter prefill is hidden behind the step, and shows nothing
REFINEMENTS = 5  # in which later turns that found their history refine the line: they are the shortest prefills
# A further term stays in the line only where it lowers the loss by so large an F: a few prompts of up to 800 tokens bend it by
# chance, and that counts at 3000.
EARNED = 6.0
# Whether answers are read again: by so many prefills, and where one way misses them by so many times as much as the other.
# Where that does not tell, turns are not judged whose prompts are the last answer for more than this share.
FEWEST_TELLING, BETTER, MOST_UNKNOWN = 6, 1.25, 0.1
# Times the longest first turn: of longer prompts a time between that of the whole prompt and of its new part tells nothing.
FAR_HISTORY = 3.0
OUTLYING_SCATTERS = 4.0  # times the scatter, beyond which a cold prompt is left out of the line
NOT_MADE_UP = (
    "the server does not say how much it had cached, and only made-up conversations, which begin with a text of their own, "
    "show it by their times"
)


@dataclass(frozen=True, slots=True)
class ColdLine:
    """Seconds that n prompt tokens take behind k cached ones: a + b·n + c·n·(k + n/2)."""

    a: float
    b: float
    c: float
    scatter: float  # standard deviation of a prompt's time, as a share of it

    def seconds(self, read: FloatArray, prompt: FloatArray) -> FloatArray:
        """Return the time of `read` tokens at the end of prompts of so many."""
        return self.a + self.b * read + self.c * read * (prompt - read / 2)


def infer_cached(
    run: RunData, slots: Slots, steps: Steps, history: FloatArray, answered: FloatArray
) -> tuple[FloatArray | None, str]:
    """Return each request's cached prompt tokens, nan: not judged; or None and why nothing can be told."""
    asked = run.scenario
    if not asked.get("turns") or asked.get("data") or asked.get("warm_cache") or run.shares_prefix:
        return None, NOT_MADE_UP
    alone, spent, streams = _prefills_alone(run, read_gaps(run, slots), slots)
    prompt, turn = run.column("prompt_tokens"), np.nan_to_num(run.column("turn"))
    n_batch = steps.prefill.n_batch if steps.prefill else 512
    law = StepLaw(table=step_table(steps.times, steps.slope_s, neighbours=False)) if steps.times else None

    def shared(read: FloatArray, streams: FloatArray) -> FloatArray:
        """Return what the streams beside prompts took, of which so many tokens were read: a step for each batch."""
        batches = 1.0 if n_batch is None else np.ceil(read / np.maximum(n_batch - streams, 1))
        return np.where(streams > 0, batches * _steps_of(law, streams), 0.0)

    known = alone & (prompt > 0) & ((streams == 0) | (law is not None))
    least = np.where(known, _steps_of(law, streams + 1), 0.0)
    cold = known & (turn == 0)
    taken = spent - shared(prompt, streams)
    line, reason = fit_cold(prompt[cold], taken[cold])
    if line is None:
        return None, reason
    rows = known & (turn > 0) & np.isfinite(history)
    seen = rows & (spent > VISIBLE * least)  # a shorter prefill is hidden behind a step, and tells no more
    ways = [(held, *_refined(line, cold, seen, taken, prompt, held)) for held in (history, history - answered)]
    again = _read_again(*(off for _, _, off in ways))
    history, line, _ = ways[1 if again else 0]
    cached = np.where(turn == 0, np.where(np.isfinite(prompt), 0.0, np.nan), np.nan)

    def time_of(read: FloatArray) -> FloatArray:
        whole = line.seconds(read, prompt[rows]) + shared(read, streams[rows])
        return np.asarray(np.maximum(whole, least[rows]), dtype=np.float64)

    cached[rows] = _cached(spent[rows], prompt[rows], history[rows], time_of, line.scatter)
    far = prompt > FAR_HISTORY * prompt[cold].max()  # where the line was never seen
    cached[rows & far & (cached > 0) & (cached < history)] = np.nan
    if again is None:  # then a turn that found its history may have read as much more
        cached[rows & (cached > 0) & (answered > MOST_UNKNOWN * prompt)] = np.nan
    return cached, (
        f"inferred from the time of {int(rows.sum())} prefills that no other prompt shared, at {line.b * 1e3:.2g} ms a token as "
        f"{int(cold.sum())} first turns took"
    )


def _refined(
    line: ColdLine, cold: BoolArray, seen: BoolArray, taken: FloatArray, prompt: FloatArray, held: FloatArray
) -> tuple[ColdLine, FloatArray]:
    """Return the line fitted to first turns and to later turns that found what they `held`, and by how much it misses the latter.

    The misses are absolute logarithms.
    """
    kept, read = np.zeros(len(cold), dtype=np.bool_), prompt
    for _ in range(REFINEMENTS):
        kept = seen & _found_history(line, taken, prompt, held)
        read = np.where(kept, np.maximum(prompt - held, 1.0), prompt)
        finer = _line(read[cold | kept], taken[cold | kept], prompt[cold | kept])
        off = np.abs(np.log(taken[cold] / finer.seconds(prompt[cold], prompt[cold])))
        if not np.nanmedian(off) <= max(line.scatter, LEAST_SCATTER):  # it no longer holds for what is known to be cold
            break
        line = finer
    with np.errstate(divide="ignore", invalid="ignore"):
        return line, np.abs(np.log(taken[kept] / line.seconds(read, prompt)[kept]))


def _read_again(plain: FloatArray, more: FloatArray) -> bool | None:
    """Return whether turns that found their history read the last answer again, which comes back as other tokens.

    That is so where times are given back better that way. None where they are too few, or given back alike.
    """
    if min(len(plain), len(more)) < FEWEST_TELLING:
        return None
    off, less = float(np.nanmedian(plain)), float(np.nanmedian(more))
    return None if max(off, less) <= BETTER * min(off, less) else less < off


def _found_history(line: ColdLine, taken: FloatArray, prompt: FloatArray, history: FloatArray) -> BoolArray:
    """Mark the times that are nearer to that of the new tokens than to that of the whole prompt."""
    with np.errstate(divide="ignore", invalid="ignore"):
        new = np.log(taken / line.seconds(np.maximum(prompt - history, 1.0), prompt))
        whole = np.log(taken / line.seconds(prompt, prompt))
    return np.abs(new) < np.abs(whole)


def _cached(
    spent: FloatArray,
    prompt: FloatArray,
    history: FloatArray,
    time_of: Callable[[FloatArray], FloatArray],
    scatter: float,
) -> FloatArray:
    """Return how many prompt tokens were cached by the time that a prefill took; nan where that cannot be told."""
    low, high = np.ones(len(prompt)), prompt.copy()
    for _ in range(24):
        middle = (low + high) / 2
        above = time_of(middle) > spent
        high, low = np.where(above, middle, high), np.where(above, low, middle)
    between = (low + high) / 2
    new = np.maximum(prompt - history, 1.0)
    scatter = max(scatter, LEAST_SCATTER)
    if_kept, if_cold = np.log(spent / time_of(new)), np.log(spent / time_of(prompt))
    read = np.where(np.abs(if_kept) < np.abs(if_cold), new, prompt)
    neither = np.minimum(np.abs(if_kept), np.abs(if_cold)) > SNAP * scatter
    inside = (if_kept > 0) & (if_cold < 0)
    read = np.where(neither & inside, between, read)
    told = if_kept - if_cold >= SCATTERS_APART * scatter  # a short history shows too little to tell by
    return np.where(told, np.clip(prompt - read, 0.0, np.maximum(history, 0.0)), np.nan)


def _prefills_alone(run: RunData, gaps: TokenGaps, slots: Slots) -> tuple[BoolArray, FloatArray, FloatArray]:
    """Mark the prefills that no other prompt shared, and return what each took, and beside how many streams.

    They lasted as the server's durations say, else from send to first token. Without durations a request also must not have
    waited for a slot: then it found fewer streams at work than there are slots, or none.
    """
    requests, edge, first = gaps.requests, gaps.requests.edge_s, gaps.requests.first
    told = bool(requests.told.any())
    start = requests.started if told else run.column("send")
    spent = first - start
    known = np.isfinite(spent) & (spent > 0) & (requests.told | (not told))
    others = open_within(start, first, start + edge, first - edge)
    beside = gaps.decoding_at(np.where(known, start + edge, 0.0)).astype(np.float64)
    alone = known & (others <= 1)
    if not told:
        alone &= beside < (slots.number or 1)
    return alone, spent, beside


def fit_cold(tokens: FloatArray, seconds: FloatArray) -> tuple[ColdLine | None, str]:
    """Fit the time of cold prompts; or None, and why it cannot be told."""
    good = np.isfinite(seconds) & (seconds > 0)
    tokens, seconds = tokens[good], seconds[good]
    if len(tokens) < FEWEST_COLD:
        return None, (
            f"the server does not say how much it had cached, and too few first turns ({len(tokens)}) were prefilled by "
            "themselves to tell it from times"
        )
    if tokens.max() < LEAST_RATIO * tokens.min():
        return None, (
            "the server does not say how much it had cached, and first turns are all of one length, which tells no time a "
            "token: give --input-tokens a distribution"
        )
    line = _line(tokens, seconds, tokens)
    if line.scatter > WIDEST_SCATTER or line.b <= 0:
        return None, (
            "the server does not say how much it had cached, and first turns of one length took times that differ by "
            f"{percent(line.scatter)}, too much to tell it from times"
        )
    return line, ""


def _line(read: FloatArray, seconds: FloatArray, prompt: FloatArray) -> ColdLine:
    """Fit a, b and c, none of them negative, by the least squares of relative errors; outlying times are left out."""
    good = (seconds > 0) & np.isfinite(seconds)
    read, seconds, prompt = read[good], seconds[good], prompt[good]
    line = _fitted(read, seconds, prompt)
    off = np.abs(np.log(seconds / line.seconds(read, prompt)))
    kept = off <= OUTLYING_SCATTERS * max(1.4826 * float(np.median(off)), LEAST_SCATTER / 2)
    return _fitted(read[kept], seconds[kept], prompt[kept])


def _fitted(read: FloatArray, seconds: FloatArray, prompt: FloatArray) -> ColdLine:
    columns = {"a": np.ones(len(read)), "b": read, "c": read * (prompt - read / 2)}
    sets: list[tuple[str, ...]] = [("b",), ("a", "b")]
    if read.max() >= LONG_RATIO * read.min():
        sets += [("b", "c"), ("a", "b", "c")]
    best, least = {"b": float(np.median(seconds / read))}, math.inf
    for names in sets:
        matrix = np.stack([columns[name] for name in names], axis=1) / seconds[:, None]
        values, *_ = np.linalg.lstsq(matrix, np.ones(len(read)), rcond=None)
        loss = float(((matrix @ values - 1) ** 2).sum())
        if (values >= 0).all() and loss * (1 + EARNED / max(len(read) - len(names), 1)) < least:
            best, least = dict(zip(names, map(float, values), strict=True)), loss
    line = ColdLine(best.get("a", 0.0), best["b"], best.get("c", 0.0), 0.0)
    return replace(line, scatter=robust_deviation(np.log(seconds / line.seconds(read, prompt))))


def _steps_of(law: StepLaw | None, streams: FloatArray) -> FloatArray:
    if law is None:
        return np.zeros(len(streams))
    means = {int(each): float(np.mean(law.values(int(each)))) for each in np.unique(streams[np.isfinite(streams)])}
    return np.array([means.get(int(each), 0.0) if np.isfinite(each) else 0.0 for each in streams], dtype=np.float64)
