"""Rates of a level: the window between ramp-up and drain, each request's share in it, and the error of a rate.

rate = Σ (share of a request's tokens that arrived in the window) · (its tokens, prompt tokens, or 1) / window length
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtest.analyse.figures.intervals import FEWEST_ROUNDS, Sample, Spread
from loadtest.analyse.run import BoolArray, FloatArray, LevelData, RunData
from loadtest.analyse.run.event_times import blocks
from loadtest.analyse.run.overlaps import BusiestParts
from loadtest.metrics import S_PER_US
from loadtest.text import percent

SHORTEST_WINDOW = 0.2  # of the level: where the steady window is shorter, the whole level is used
FEWEST_OPEN = 20  # answers that an interval of an open loop needs
FEWEST_INDEPENDENT_ROUNDS = 4.0  # effective number of independent rounds that a closed loop's interval needs
FEWEST_INDEPENDENT_ANSWERS = 10.0  # effective number of independent answers that an open loop's interval needs
TOGETHER_SHARE = 0.05  # of a round: answers that end within it count as ending together
MOST_CUTS = 60  # into which a closed loop's window is cut, so that their differences give its error
NOTHING_ENDED = "no request of this level ended well"
UNANSWERED = 0.02  # of the requests that came in a window: where more were not answered in it, a report says so
# The drain is reported where it holds this share of a level's requests and moves the mean decode speed by this share.
DRAIN_SHARE, DRAIN_SHIFT = 0.1, 0.02


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a level that rates are taken over; seconds since the run's first t_sched."""

    start: float
    end: float
    steady: bool  # False: ramp-up and drain left too little between them, so this is the whole level

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def holds(self, instants: FloatArray) -> FloatArray:
        """Return 1.0 for every instant in (start, end], else 0.0."""
        return ((instants > self.start) & (instants <= self.end)).astype(np.float64)


def steady_window(send: FloatArray, end: FloatArray, first_measured: float, users: int | None = None) -> Window:
    """Return the part of a level between ramp-up and drain, from the send and end of all its requests, warm-ups included.

    A closed loop of `users` is steady once every user has sent a request and the first measured one was sent. It stays so
    until a user has nothing left to send: of N requests, until the (N − users + 1)-th end, because after each earlier end
    its user sent another request. The window is cut at its start to whole rounds (`users` ends each): users in step give
    no tokens while all of them prefill, so that part of a round has another rate than a whole one. An open loop is steady
    from its first end to the first end after its last send. A window that closed with that send would hold the wait for the
    last request and none of its work: of N requests N − 2 in N − 1 gaps. A window of less than a fifth of the level is
    replaced by the whole level.

    Args:
        first_measured: the first t_send that counts.
        users: of a closed loop; None for an open one.
    """
    whole = Window(first_measured, float(end.max()), steady=False)
    if users is None:
        after, last = end[end > first_measured], end[end > send.max()]
        found = Window(float(after.min()), float(last.min()), steady=True) if len(last) else whole
    elif len(send) <= users:
        return whole
    else:
        found = _rounds(np.sort(end), max(first_measured, float(np.sort(send)[users - 1])), users)
    return found if found.seconds > SHORTEST_WINDOW * whole.seconds else whole


def _rounds(ends: FloatArray, opens: float, users: int) -> Window:
    """Return the window of whole rounds that begins at `opens` or later; `ends` are sorted.

    Where users run in step their answers end together, and `opens` may lie just behind the first of these ends: the round
    that begins there is taken in as well.
    """
    last = len(ends) - users
    before = int(np.searchsorted(ends, opens, side="right"))
    inside = last + 1 - before
    part = inside % users if inside >= users else 0
    start = float(ends[before + part - 1]) if part else opens
    earlier = before - (users - part)
    if part and earlier > 0 and opens - ends[earlier - 1] < TOGETHER_SHARE * (ends[last] - opens) * users / inside:
        start = float(ends[earlier - 1])
    return Window(start, float(ends[last]), steady=True)


@dataclass(frozen=True, slots=True)
class Flow:
    """A level's window, and the share of each request of the run that lies in it."""

    window: Window
    users: int | None  # of a closed loop
    rows: BoolArray  # requests that count; of a steady window warm-ups and failed ones too
    shares: FloatArray  # of each request's output tokens that arrived in the window; 0 for other levels' requests

    def per_second(self, weights: FloatArray, rows: BoolArray) -> float:
        """Return Σ share · weight / seconds over the requests marked in `rows`; an unknown weight counts as 0."""
        return float((self.shares[rows] * np.nan_to_num(weights[rows])).sum()) / self.window.seconds


def flow(run: RunData, level: dict[str, Any]) -> Flow | None:
    """Return a level's window and shares; None where no measured request was sent and ended, or the window is empty.

    The tokens of an answer are taken to be spread evenly over its chunks; a request without tokens counts at its end. In a
    steady window warm-ups and failed requests load the server as well, so they count too.
    """
    index, users = level["index"], level.get("concurrency")
    send, end = run.column("send"), run.column("end")
    everyone = run.of_level(index) & np.isfinite(send) & np.isfinite(end)
    measured = run.measured(index) & everyone
    if not measured.any():
        return None
    window = steady_window(send[everyone], end[everyone], float(send[measured].min()), users)
    if window.seconds <= 0:
        return None
    rows = everyone if window.steady else measured
    return Flow(window, users, rows, window_shares(run, rows, window))


def window_shares(run: RunData, rows: BoolArray, window: Window | BusiestParts) -> FloatArray:
    """Return the share of each request's chunks that arrived in the window; 0 for requests not marked in `rows`."""
    send, counts = run.column("send"), run.chunks.counts
    found = np.where(rows & (counts == 0), window.holds(run.column("end")), 0.0)
    chunked = rows & (counts > 0)
    for low, high in blocks(run.chunks.starts, chunked):
        mine = np.flatnonzero(chunked[low:high]) + low
        events = run.chunks.flat[run.chunks.starts[low] : run.chunks.starts[high]]
        if len(mine) < high - low:
            events = events[np.repeat(chunked[low:high], counts[low:high])]
        many = counts[mine]
        inside = window.holds(np.repeat(send[mine], many) + events * S_PER_US)
        found[mine] = np.add.reduceat(inside, np.cumsum(many) - many) / many
    return found


@dataclass(frozen=True, slots=True)
class Throughput:
    """A rate, with a 95 % interval from how much the rounds or answers of its window differ."""

    per_second: float
    # None: too few requests or such uneven ones that it reaches zero, or the window is the whole level
    ci95: list[float] | None


def weighted_rate(run: RunData, found: Flow, weights: FloatArray, *, growing: bool = False) -> Throughput | None:
    """Return the rate of requests that ended well or were left, each counted by its weight; None where no weight is known."""
    good = _counted(run, found, weights)
    if not good.any():
        return None
    rate = found.per_second(weights, good)
    spread = spread_of(run, found, weights, growing=growing) if rate > 0 else None
    ends = [rate * (1 + off) for off in spread.around(0.0)] if spread else [0.0]
    return Throughput(rate, ends if ends[0] > 0 else None)


def _counted(run: RunData, found: Flow, weights: FloatArray) -> BoolArray:
    """Mark the requests that ended well or were left, and whose weight is known."""
    return found.rows & (run.flag("ok") | run.flag("left")) & np.isfinite(weights)


def spread_of(run: RunData, found: Flow, weights: FloatArray, *, growing: bool = False) -> Spread | None:
    """Return the error of a rate as a share of it; None with too few rounds or answers.

    A queue evens out when answers end. Over a level an open loop's rate differs as much as what was sent, unless the queue is
    `growing`: then the server alone decides.
    """
    if not found.window.steady:
        return None
    good = _counted(run, found, weights)
    if found.users is None:
        ended = good & (found.window.holds(run.column("end")) > 0)
        by_end, by_send = (rate_spread(run.column(name)[ended], weights[ended]) for name in ("end", "send"))
        wider = by_end and by_send and by_send.error > by_end.error and not growing
        return by_send if wider else by_end
    edges = round_edges(run.column("end")[found.rows], found.window, found.users)
    first, last = (run.column(name)[good] for name in ("first_token", "end"))
    return rounds_spread(first, last, weights[good], edges)


def round_edges(ends: FloatArray, window: Window, users: int) -> FloatArray:
    """Return the borders of a closed loop's rounds, every n-th of many: each `users`-th end in the window is one."""
    every = np.sort(ends[(ends > window.start) & (ends <= window.end)])[users - 1 :: users]
    apart = -(-len(every) // MOST_CUTS) or 1
    return np.concatenate(([window.start], every[apart - 1 :: apart]))


def rounds_spread(first: FloatArray, last: FloatArray, amounts: FloatArray, edges: FloatArray) -> Spread | None:
    """Return the error of a closed loop's rate as a share of it, from how much its rounds differ.

    A request's amount is spread evenly from its first to its last token, and each round counts what fell into it. Single
    requests as the unit would make the error of a queue of mixed lengths twice too large, because a long answer delays
    others by what it gives itself. None with fewer than five whole rounds, or fewer than four independent ones.
    """
    if len(edges) - 1 < FEWEST_ROUNDS:
        return None
    begin = np.where(np.isfinite(first), first, last)
    lasting = np.maximum(last - begin, 1e-9)
    given = np.array([float((amounts * np.clip((at - begin) / lasting, 0.0, 1.0)).sum()) for at in edges])
    return _ratio_spread(np.diff(given), np.diff(edges), FEWEST_INDEPENDENT_ROUNDS)


def rate_spread(ends: FloatArray, amounts: FloatArray) -> Spread | None:
    """Return the error of an open loop's rate as a share of it, from what each request gave and the time since the end before.

    None with fewer than 20 answers, or fewer than ten independent ones.
    """
    if len(ends) < FEWEST_OPEN:
        return None
    order = np.argsort(ends, kind="stable")
    return _ratio_spread(amounts[order][1:], np.diff(ends[order]), FEWEST_INDEPENDENT_ANSWERS)


def _ratio_spread(counted: FloatArray, spent: FloatArray, fewest: float) -> Spread | None:
    """Return the error of Σ counted / Σ spent as a share of it; None with fewer independent parts than `fewest`."""
    if counted.sum() <= 0 or spent.sum() <= 0:
        return None
    sample = Sample.of(counted - counted.sum() / spent.sum() * spent)
    spread = sample.mean()
    return replace(spread, error=spread.error / float(counted.mean())) if sample.effective >= fewest else None


def level_rates(run: RunData, found: Flow | None, good: BoolArray, *, growing: bool = False) -> dict[str, Any]:
    """Return a level's rates and window as summary.json holds them; `good` marks measured requests that ended well."""
    names = ("output_tokens_per_s", "input_tokens_per_s", "requests_per_s")
    if found is None or not good.any():
        return {"window": None} | dict.fromkeys(names) | {f"{name}_reason": NOTHING_ENDED for name in names}
    figures: dict[str, Any] = {}
    answers = np.where(run.requests["ok"], 1.0, np.nan)
    for name, weights in zip(names, (delivered(run), worked_off(run), answers), strict=True):
        rate = weighted_rate(run, found, weights, growing=growing)
        figures[name], figures[f"{name}_ci95"] = (rate.per_second, rate.ci95) if rate else (None, None)
    window = found.window
    over = "steady window" if window.steady else "whole level"
    return {
        "window": {
            "start": window.start,
            "end": window.end,
            "throughput_over": over,
            **_drain(run, window, good),
            **_unanswered(run, found),
        },
        **figures,
    }


def delivered(run: RunData) -> FloatArray:
    """Return the output tokens of each request; of one that was left those that arrived, for servers count at the end alone.

    A piece counts as many tokens as the pieces of this run's other answers hold.
    """
    tokens, pieces = run.column("output_tokens"), run.chunks.counts.astype(np.float64)
    ok, left = run.flag("ok"), run.flag("left")
    counted = left & run.one_of("token_source", "chunks")
    known = ok & (pieces > 0) & np.isfinite(tokens)
    if not counted.any() or not known.any():
        return tokens
    return np.where(counted, pieces * float(tokens[known].sum() / pieces[known].sum()), tokens)


def worked_off(run: RunData) -> FloatArray:
    """Return the prompt tokens of each request; of one that was left in mid-answer the length asked for."""
    prompts = run.column("prompt_tokens")
    seen = run.flag("left") & np.isfinite(run.column("first_token"))
    return np.where(seen & np.isnan(prompts), run.column("asked_input"), prompts)


def _drain(run: RunData, window: Window, good: BoolArray) -> dict[str, Any]:
    """Return how many requests ended after the window, and the share by which they moved the mean decode speed.

    Latencies are of all measured requests, those in the drain included: leaving them out would leave out long answers.
    """
    late = good & (run.column("end") > window.end) if window.steady else np.zeros(len(good), dtype=np.bool_)
    speed = run.column("stream_tokens_per_s")
    every, rest = (speed[rows & np.isfinite(speed)] for rows in (good, good & ~late))
    shift = float(every.mean() / rest.mean() - 1) if late.any() and len(rest) else None
    return {"drain_requests": int(late.sum()), "drain_speed_shift": shift}


def _unanswered(run: RunData, found: Flow) -> dict[str, float]:
    """Return, of an open loop, the share of what came in its window that was answered later; what came before it counts against that."""
    if found.users is not None or not found.window.steady:
        return {}
    came = float(found.window.holds(run.column("send")[found.rows]).sum())
    return {"unanswered_share": 1 - float(found.shares[found.rows].sum()) / came} if came else {}


def understated(levels: Sequence[LevelData]) -> str | None:
    """Say at which rate the requests in flight at a level's end make its rates low by most; None where they hardly do.

    Where a queue grows, the server answers no more than that.
    """
    low = [
        (level["window"].get("unanswered_share", 0.0), level)
        for level in levels
        if level.get("window") and not level.queue_grew
    ]
    share, level = max(low, key=lambda each: each[0], default=(0.0, None))
    if level is None or share < UNANSWERED:
        return None
    return (
        f"Rates at {level.load} may be {percent(share)} low: the level began with an idle server, and {percent(share)} of the requests that "
        "came in its window were not answered in it. More requests make it a smaller part."
    )


def drained(levels: Sequence[dict[str, Any]]) -> str | None:
    """Say of which level the end, where the load ran out, moves the decode speed most; None where no end moves it by much."""
    shifted = [(level, level["window"]) for level in levels if level.get("window")]
    told = [
        (level, window["drain_requests"], window["drain_speed_shift"])
        for level, window in shifted
        if abs(window.get("drain_speed_shift") or 0.0) >= DRAIN_SHIFT
        and window["drain_requests"] >= DRAIN_SHARE * level["requests"]
    ]
    if not told:
        return None
    level, count, shift = max(told, key=lambda each: abs(each[2]))
    last, them = ("The last", "it") if count == 1 else (f"The last {count}", "them")
    return (
        f"{last} of {level['requests']} requests at {level['label']} ended while the load ran out; with {them} the mean decode "
        f"speed is {percent(abs(shift))} {'higher' if shift > 0 else 'lower'}. Rates leave the end of a level out. More requests make it "
        "a smaller part."
    )
