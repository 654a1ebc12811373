"""When each request of a run waited, had its prompt read and held a slot: what an explanation shares out time by.

Where the server reports durations, a prompt was read from the start of its prefill to the first token. Of a server without
durations it is taken to have been read just before its first token, for as long as the run's law of prompts says; that is
inferred, and done only where the run shows that prompts hold up other streams.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from loadtest.analyse.explain.time_parts import Cause
from loadtest.analyse.run import BoolArray, FloatArray, IntArray, RunData
from loadtest.analyse.server.queue.at_work import arrival
from loadtest.analyse.server.queue.waits import ADMISSION_ERROR_S, NEVER_SERVED, left_slot
from loadtest.analyse.server.timing.pauses import find_pauses
from loadtest.analyse.server.timing.step_law import mean_step
from loadtest.analyse.server.timing.steps import Steps, prompts_hold_up
from loadtest.records import Outcome

SLOWED, PAUSED = -1, -2  # in place of a row: nobody's
ALL_OF_IT = 1e12  # tokens/s: a pause leaves nothing to others


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The instants of every request of a run, seconds on its axis; nan unknown."""

    ids: IntArray
    level: IntArray
    sched: FloatArray
    send: FloatArray
    arrived: FloatArray  # sent, and the model loaded
    won: FloatArray  # had a slot
    read_from: FloatArray  # its prompt was being read
    first: FloatArray
    last: FloatArray
    freed: FloatArray  # gave its slot back
    end: FloatArray
    tokens: FloatArray  # uncached prompt tokens
    prompt: FloatArray  # prompt tokens, or those asked for where no answer said how many
    told: BoolArray  # the server's durations say when its prompt was read
    whole: BoolArray  # its first token came long after it was made, with others: when its prompt was read is not known
    silent: BoolArray  # was at the server and ended without a token: cancelled, timed out or cut off

    @classmethod
    def of(cls, run: RunData, steps: Steps) -> Self:
        send, first, end = run.column("send"), run.column("first_token"), run.column("end")
        arrived = arrival(run, first)
        won = arrived + np.nan_to_num(run.column("slot_wait_s"))
        spent = run.column("prefill_s")
        whole = run.flag("whole") | (run.column("made_before_s") > 0)
        told = np.isfinite(spent) & np.isfinite(first) & ~whole
        tokens = run.uncached_tokens
        guessed = np.full(len(send), np.nan)
        if steps.prefill is not None:
            guessed = np.maximum(won, first - np.maximum(steps.prefill.seconds(tokens), 1e-6))
            guessed[whole] = np.nan
        prompt = run.column("prompt_tokens")
        return cls(
            ids=run.requests["id"].to_numpy(dtype=np.int64),
            level=run.requests["level"].to_numpy(dtype=np.int64),
            sched=run.column("sched"),
            send=send,
            arrived=arrived,
            won=np.minimum(won, np.fmin(first, end)),
            read_from=np.where(told, np.clip(first - spent, arrived, first), guessed),
            first=first,
            last=run.column("last"),
            freed=left_slot(run),
            end=end,
            tokens=tokens,
            prompt=np.where(np.isfinite(prompt), prompt, run.column("asked_input")),
            told=told,
            whole=whole,
            silent=np.isfinite(send) & ~np.isfinite(first) & ~run.one_of("outcome", Outcome.OK, *NEVER_SERVED),
        )


class WorkWindow(NamedTuple):
    """The request in `row` is at work from `start` to `end`; where windows overlap each gets time by its rate."""

    row: int
    start: float
    end: float
    rate: float = 1.0
    worth: float = 1.0  # the share of the time that such work takes where nothing slows it down


def moments(low: float, high: float, windows: Iterable[WorkWindow]) -> Iterator[tuple[float, float, list[WorkWindow]]]:
    """Yield the pieces of the time from `low` to `high` in which no window opens or closes, each with those that are open."""
    inside = [each for each in windows if each.start < high and each.end > low]
    edges = {low, high, *(min(max(at, low), high) for each in inside for at in (each.start, each.end))}
    for left, right in itertools.pairwise(sorted(edges)) if high > low else ():
        yield left, right, [each for each in inside if each.start <= left and each.end >= right]


def shared_out(
    low: float, high: float, windows: Sequence[WorkWindow], slow: float = math.inf
) -> tuple[dict[int, float], float]:
    """Share the time from `low` to `high` out among the windows open at each moment; the second value is what nobody has.

    Where the windows of a moment are worth less than 1/`slow` of it, the rest of it goes to SLOWED; what a pause has, nowhere.
    """
    found: dict[int, float] = {}
    free = 0.0
    for left, right, at_work in moments(low, high, windows):
        total, worth = sum(each.rate for each in at_work), sum(each.worth for each in at_work)
        free += 0.0 if total > 0 else right - left
        theirs = (right - left) * (worth if worth * slow < 1 else 1.0)
        for each in at_work:
            if total > 0 and each.row != PAUSED:
                found[each.row] = found.get(each.row, 0.0) + theirs * each.rate / total
        if total > 0 and theirs < right - left:
            found[SLOWED] = found.get(SLOWED, 0.0) + right - left - theirs
    return found, free


def prompt_windows(timeline: Timeline, steps: Steps, rows: IntArray) -> list[WorkWindow]:
    """Return when the prompts of these rows were read, where reading one holds up the others; a rate is its tokens a second."""
    hold_up = prompts_hold_up(steps)
    if hold_up is False:
        return []
    reading, tokens = timeline.first[rows] - timeline.read_from[rows], timeline.tokens[rows]
    shown = (reading > 0) & (tokens > 0) & (timeline.told[rows] | (hold_up is not None))
    return [
        WorkWindow(int(row), float(timeline.read_from[row]), float(timeline.first[row]), float(rate))
        for row, rate in zip(rows[shown], tokens[shown] / reading[shown], strict=True)
    ]


def pause_windows(run: RunData, steps: Steps) -> tuple[WorkWindow, ...]:
    """Return the times without a token that no request of the run explains."""
    found = find_pauses(run, steps.prefill)
    return tuple(WorkWindow(PAUSED, each.begin, each.begin + each.seconds, ALL_OF_IT) for each in found)


def cause_of(run: RunData, timeline: Timeline, row: int, seconds: float, how: str) -> Cause:
    """Return a request as the cause of so much of another one's time."""
    made = run.column("output_tokens")[row]
    return Cause(
        row=row,
        id=int(timeline.ids[row]),
        seconds=seconds,
        tokens=int(timeline.prompt[row]) if math.isfinite(timeline.prompt[row]) else None,
        how=how,
        held_s=float(np.nan_to_num(timeline.freed[row] - timeline.won[row])),
        output=int(made) if math.isfinite(made) and run.requests["ok"].to_numpy()[row] else None,
        over=float(timeline.end[row]),
    )


def behind_until(timeline: Timeline, row: int) -> float:
    """Return when the last request was taken in that came after this one and was surely taken in before it.

    Servers take requests in as they come: until then this one had not reached it, or was passed over. Where the server does not
    say when it read a prompt, only one that was through by then counts, and is no shorter: a short one may overtake a long one.
    """
    came, begun = timeline.arrived[row] + ADMISSION_ERROR_S, timeline.read_from[row] - ADMISSION_ERROR_S
    told = timeline.told & timeline.told[row]
    later = (timeline.send > came) & (np.where(told, timeline.read_from, timeline.first) < begun)
    later &= told | (timeline.tokens >= timeline.tokens[row])
    taken = np.where(np.isfinite(timeline.read_from), timeline.read_from, timeline.send)
    return float(np.max(taken[later], initial=timeline.arrived[row]))


def step_time(steps: Steps, streams: float) -> float:
    """Return the mean step time with so many streams; nan where no step was seen."""
    if not steps.times or streams < 1:
        return math.nan
    return float(mean_step(steps.times, steps.slope_s, np.array([streams], dtype=np.float64))[0])


def held_slots(timeline: Timeline, low: float, high: float, row: int) -> list[WorkWindow]:
    """Return who held a slot between two instants, of the requests whose tokens show it."""
    rows = np.flatnonzero(np.isfinite(timeline.first) & (timeline.won < high) & (timeline.freed > low))
    return [
        WorkWindow(int(each), float(timeline.won[each]), float(timeline.freed[each])) for each in rows if each != row
    ]


def silent_windows(timeline: Timeline, low: float, high: float, row: int) -> list[WorkWindow]:
    """Return who was at the server between two instants and never gave a token."""
    rows = np.flatnonzero(timeline.silent & (timeline.arrived < high) & (timeline.freed > low))
    return [
        WorkWindow(int(each), float(timeline.arrived[each]), float(timeline.freed[each]))
        for each in rows
        if each != row
    ]
