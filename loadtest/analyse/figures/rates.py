"""What a level did a second: the window between ramp and drain, each request's share of it, and how sure a rate is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.analyse.figures.intervals import FEWEST_ROUNDS, Sample, Spread
from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.frames import Run, blocks
from loadtest.metrics import S_PER_US
from loadtest.text import percent

SHORTEST_WINDOW = 0.2  # of the level: a shorter steady window says less than the whole level
FEWEST_OPEN = 20  # answers of an open loop that an interval takes
FEWEST_INDEPENDENT_ROUNDS = 4.0  # independent answers' worth that a closed loop's interval takes
FEWEST_INDEPENDENT_ANSWERS = 10.0
IN_STEP = 0.05  # of a round: answers that end within it end together
MOST_PARTS = 60  # of a closed loop's window
DRAIN_SHARE = 0.1  # of a level's requests that end in the drain …
DRAIN_SHIFT = 0.02  # … and move the mean decode speed by so much: said


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a level that rates are taken over; seconds since the run's first t_sched."""

    start: float
    end: float
    steady: bool  # False: ramp and drain left nothing between them, so this is the whole level

    @property
    def seconds(self) -> float:
        return self.end - self.start

    def holds(self, instants: FloatArray) -> FloatArray:
        """Return 1.0 for every instant inside (start, end], else 0.0."""
        return ((instants > self.start) & (instants <= self.end)).astype(np.float64)


def steady_window(send: FloatArray, end: FloatArray, first_measured: float, users: int | None = None) -> Window:
    """Return the level between ramp and drain, by `send` and `end` of all its requests, warm-up included.

    A closed loop of `users` is steady from its first measured request, or from the instant at which every user has
    sent one, until the first user has nothing left to send: of N requests that is the (N − users + 1)-th end, for every
    earlier end let its user send once more. From one round on it holds whole rounds, the last ones: users that run in step
    give no tokens while they all prefill, so part of a round has a rate of its own. An open loop (no `users`) is steady from its first answer to its last send.
    Where that is less than a fifth of the level, or nobody sent twice, it is the whole level.

    Args:
        first_measured: the first t_send that counts.
    """
    whole = Window(first_measured, float(end.max()), steady=False)
    if users is None:
        after = end[end > first_measured]
        found = Window(float(after.min()), float(send.max()), steady=True) if len(after) else whole
    elif len(send) <= users:
        return whole
    else:
        found = _rounds(np.sort(end), max(first_measured, float(np.sort(send)[users - 1])), users)
    return found if found.seconds > SHORTEST_WINDOW * whole.seconds else whole


def _rounds(ends: FloatArray, opens: float, users: int) -> Window:
    """Return the window from `opens` on, less the part of a round that it would begin with; `ends` are sorted.

    Where a whole round more begins just before `opens` (users in step, whose answers end together) it is taken in.
    """
    last = len(ends) - users
    before = int(np.searchsorted(ends, opens, side="right"))
    inside = last + 1 - before
    part = inside % users if inside >= users else 0
    start = float(ends[before + part - 1]) if part else opens
    earlier = before - (users - part)
    if part and earlier > 0 and opens - ends[earlier - 1] < IN_STEP * (ends[last] - opens) * users / inside:
        start = float(ends[earlier - 1])
    return Window(start, float(ends[last]), steady=True)


@dataclass(frozen=True, slots=True)
class Flow:
    """A level's window, and which share of each request of the run belongs to it."""

    window: Window
    users: int | None  # of a closed loop
    rows: BoolArray  # requests that count: of a steady window warm-up and failed ones too
    shares: FloatArray  # of a request's output tokens that arrived inside; 0 for other levels' requests

    def per_second(self, weights: FloatArray, rows: BoolArray) -> float:
        """Return Σ share × weight of the requests marked in `rows`, a second; unknown weights count for nothing."""
        return float((self.shares[rows] * np.nan_to_num(weights[rows])).sum()) / self.window.seconds


def flow(run: Run, level: dict[str, Any]) -> Flow | None:
    """Return a level's window and shares; None where no request of it was sent and ended, or it has no length.

    A request counts by the share of its output tokens that arrived inside the window (an answer's tokens are spread
    evenly over its chunks), one without tokens at its end. In a steady window streams still on their warm-up answer load
    the server as well, so they count too.
    """
    index, users = level["index"], level.get("concurrency")
    send, end = run.column("send"), run.column("end")
    everyone = np.asarray(run.requests["level"] == index, dtype=np.bool_) & np.isfinite(send) & np.isfinite(end)
    measured = run.measured(index) & everyone
    if not measured.any():
        return None
    window = steady_window(
        send[everyone], end[everyone], float(send[measured].min()), int(users) if users is not None else None
    )
    if window.seconds <= 0:
        return None
    rows = everyone if window.steady else measured
    return Flow(window, int(users) if users is not None else None, rows, shares(run, rows, window))


def shares(run: Run, rows: BoolArray, window: Window) -> FloatArray:
    """Return which share of each request's chunks arrived inside the window; 0 where `rows` does not mark it."""
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
    """Something a second in a window, with a 95 % interval from how much its rounds or answers differ."""

    per_second: float
    ci95: list[float] | None  # None: too few requests, or ramp and drain are part of the window


def throughput(run: Run, found: Flow, weights: FloatArray) -> Throughput | None:
    """Return what requests that ended well gave a second, each of them its `weights`; None where none is known."""
    good = found.rows & np.asarray(run.requests["ok"], dtype=np.bool_) & np.isfinite(weights)
    if not good.any():
        return None
    rate = found.per_second(weights, good)
    if rate <= 0:
        return Throughput(rate, None)
    spread = spread_of(run, found, weights)
    return Throughput(rate, [max(rate * (1 + off), 0.0) for off in spread.around(0.0)] if spread else None)


def spread_of(run: Run, found: Flow, weights: FloatArray) -> Spread | None:
    """Return how far a rate may be off, as a share of it; None with too few rounds or answers."""
    good = found.rows & np.asarray(run.requests["ok"], dtype=np.bool_) & np.isfinite(weights)
    if not found.window.steady:
        return None
    if found.users is None:
        ended = good & (found.window.holds(run.column("end")) > 0)
        return rate_spread(run.column("end")[ended], weights[ended])
    edges = round_edges(run.column("end")[found.rows], found.window, found.users)
    first, last = (run.column(name)[good] for name in ("first_token", "end"))
    return rounds_spread(first, last, weights[good], edges)


def round_edges(ends: FloatArray, window: Window, users: int) -> FloatArray:
    """Return the instants between a closed loop's whole rounds, by the ends of its requests; of many rounds every n-th."""
    inside = np.sort(ends[(ends > window.start) & (ends <= window.end)])
    every = inside[users - 1 :: users]
    apart = -(-len(every) // MOST_PARTS) or 1
    return np.concatenate(([window.start], every[apart - 1 :: apart]))


def rounds_spread(first: FloatArray, last: FloatArray, amounts: FloatArray, edges: FloatArray) -> Spread | None:
    """Return how far a closed loop's rate may be off, as a share of it, by how much its rounds differ.

    What a request gave is spread evenly from its first token to its last. By requests instead of rounds a queue of mixed
    lengths would seem to know its rate only half as well. None with fewer than five whole rounds, or too few independent.
    """
    if len(edges) - 1 < FEWEST_ROUNDS:
        return None
    begin = np.where(np.isfinite(first), first, last)
    lasting = np.maximum(last - begin, 1e-9)
    given = np.array([float((amounts * np.clip((at - begin) / lasting, 0.0, 1.0)).sum()) for at in edges])
    counted, spent = np.diff(given), np.diff(edges)
    if counted.sum() <= 0 or spent.sum() <= 0:
        return None
    sample = Sample.of(counted - counted.sum() / spent.sum() * spent)
    return sample.mean().scaled(1 / float(counted.mean())) if sample.effective >= FEWEST_INDEPENDENT_ROUNDS else None


def rate_spread(ends: FloatArray, amounts: FloatArray) -> Spread | None:
    """Return how far an open loop's rate may be off, as a share of it, by the ends of its requests and what each gave.

    A request's time is what passed since the end before. None with fewer than 20 answers or too few independent ones.
    """
    order = np.argsort(ends, kind="stable")
    spent, counted = np.diff(ends[order]), amounts[order][1:]
    if len(spent) < FEWEST_OPEN - 1 or spent.sum() <= 0 or counted.sum() <= 0:
        return None
    sample = Sample.of(counted - counted.sum() / spent.sum() * spent)
    return sample.mean().scaled(1 / float(counted.mean())) if sample.effective >= FEWEST_INDEPENDENT_ANSWERS else None


def summed_up(run: Run, found: Flow | None, good: BoolArray) -> dict[str, Any]:
    """Return a level's rates and its window as summary.json holds them; `good`: measured requests that ended well."""
    names = ("output_tokens_per_s", "input_tokens_per_s", "requests_per_s")
    if found is None or not good.any():
        reason = "no request of this level ended well"
        return {"window": None} | dict.fromkeys(names) | {f"{name}_reason": reason for name in names}
    tokens, prompts = run.column("output_tokens"), run.column("prompt_tokens")
    figures: dict[str, Any] = {}
    for name, weights in zip(names, (tokens, prompts, np.ones(len(tokens))), strict=True):
        rate = throughput(run, found, weights)
        figures[name] = rate.per_second if rate else None
        figures[f"{name}_ci95"] = rate.ci95 if rate else None
    window = found.window
    over = "steady window" if window.steady else "whole level"
    return {
        "window": {"start": window.start, "end": window.end, "throughput_over": over, **_drain(run, window, good)},
        **figures,
    }


def _drain(run: Run, window: Window, good: BoolArray) -> dict[str, Any]:
    """Return how many requests ended after the window, and by which share that moved the mean decode speed.

    Latencies are of all measured requests: leaving out what ends late would leave out long answers.
    """
    late = good & (run.column("end") > window.end) if window.steady else np.zeros(len(good), dtype=np.bool_)
    speed = run.column("stream_tokens_per_s")
    every, rest = (speed[rows & np.isfinite(speed)] for rows in (good, good & ~late))
    shift = float(every.mean() / rest.mean() - 1) if late.any() and len(rest) else None
    return {"drain_requests": int(late.sum()), "drain_speed_shift": shift}


def drained(levels: Sequence[dict[str, Any]]) -> list[str]:
    """Say of each level whose latencies hold much of its drain how many requests that are, and what they change."""
    said = []
    for level in levels:
        window = level.get("window") or {}
        count, shift = window.get("drain_requests") or 0, window.get("drain_speed_shift")
        if shift is None or count < DRAIN_SHARE * level["requests"] or abs(shift) < DRAIN_SHIFT:
            continue
        said.append(
            f"{level['label']}: {count} of {level['requests']} requests ended while the level drained, with fewer streams "
            f"at work: latencies hold them (the mean decode speed is {percent(abs(shift))} "
            f"{'higher' if shift > 0 else 'lower'} for it), rates do not. More requests a stream make that part smaller."
        )
    return said
