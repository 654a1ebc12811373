"""How many streams the server works on at once, and whether the load was enough to know that this is its limit.

A peak alone proves nothing: eight users with short answers may never decode together. What proves a limit is a request
passed over: a batching server takes whoever waits into its next batch, so a request that waits while whole steps go by
without anybody beginning or ending is kept out, and those at work meanwhile are all that the server has slots for. Where
the server tells no durations a request that waits may be in prefill; then only steps count that are as short as those
without anybody waiting, for a step that carries prompt tokens takes longer, or that come after more of them than any
prompt could be cut into.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from loadtest.analyse.run import excerpts
from loadtest.analyse.run.arrays import BoolArray, FloatArray
from loadtest.analyse.run.excerpts import ContentEvents
from loadtest.analyse.run.frames import Run
from loadtest.metrics import S_PER_US
from loadtest.text import counted

TIE_S = 0.001  # an end and a start this close are one slot changing hands: arrivals of one batch scatter that much
UNNOTICED_S = 0.005  # a request that comes this short before a step begins is not yet known to the batch loop
SETTLED_S = 0.020  # after an end: a slot freed by then is given away (seen on real servers: up to 16 ms)
HEADERS_ERROR_S = 0.020  # the median by which llama.cpp's headers and timings may differ, or one token gap
TOLD_SHARE = 0.8  # of the answers with durations, from which on a wait is the server's word
FEWEST_READINGS = 3.0  # of one number, to be a witness at all
LEAST_PRESSED_SHARE = 0.03  # of the steps with more in flight than slots, likewise
LEAST_HELD = 0.02  # of the time at work, at a number of streams: less is a delayed token or two, not another slot
LEAST_AGREEMENT = 0.75  # of the readings must say the same number
LONGEST_PLAIN_STEP = 1.4  # times the step without anybody waiting: a longer one carries prompt tokens
SMALLEST_SLICE = 32  # prompt tokens a step, at least, where a prompt is evaluated in slices


@dataclass(frozen=True, slots=True)
class Witness:
    """One way of telling the slots, and what it says."""

    name: str
    slots: int | None  # None: it does not name one number
    said: str  # with its figures


@dataclass(frozen=True, slots=True)
class Slots:
    """The estimate of the server's parallel slots."""

    estimate: int | None  # None: no stream ever decoded
    limit: bool  # True: the load exceeded it, so it is the server's limit; False: the server does at least this
    method: str
    witnesses: tuple[Witness, ...] = field(default=())

    @property
    def interval(self) -> tuple[int, int | None] | None:
        """The fewest and most slots that the run allows; open above where only a lower bound is known."""
        if self.estimate is None:
            return None
        return self.estimate, self.estimate if self.limit else None

    @property
    def agree(self) -> bool:
        """Whether no witness contradicts another: they name the limit, or there is none but the peak."""
        return self.limit or len(self.witnesses) <= 1

    def to_dict(self) -> dict[str, object]:
        """Return what summary.json holds; `ci` is open above ([n, null]) where only a lower bound is known."""
        ci = list(self.interval) if self.interval else None
        witnesses = {witness.name: witness.slots for witness in self.witnesses}
        return {
            "estimate": self.estimate,
            "ci": ci,
            "limit": self.limit,
            "method": self.method,
            "witnesses": witnesses,
            "agree": self.agree,
        }

    def __str__(self) -> str:
        if self.estimate is None:
            return "unknown"
        return str(self.estimate) if self.limit else f"at least {self.estimate}"


def peak_decoding(run: Run, rows: BoolArray) -> int:
    """Return the most streams of `rows` between their first and last token at one instant."""
    lives = RequestInstants.of(run, rows)
    seen = np.isfinite(lives.first)
    return int(Depth.of(lives.first[seen], lives.last[seen]).depth.max(initial=0))


def estimate_slots(run: Run) -> Slots:
    """Estimate the server's slots: the most streams at work, and those at work while requests were passed over.

    At work is a stream from its prefill on where the server says how long that took, else from its first token. The peak
    is a lower bound; a limit is named where the other witnesses agree on a number not below it, else the doubt is said.
    """
    lives = RequestInstants.of(run)
    doing = "in prefill or decoding" if lives.told else "decoding"
    peak = lives.peak()
    if peak == 0:
        return Slots(None, limit=False, method="no stream was seen decoding")
    most = Witness("peak", peak, f"at most {counted(peak, 'request')} {doing} at the same time")
    asked = int(lives.in_flight.depth.max(initial=0))
    if asked <= peak:
        return Slots(peak, limit=False, method=f"{most.said}; never more were in flight than that", witnesses=(most,))
    events = excerpts.events(run)
    passed = _passed_over(run, lives, events)
    full = _full_batches(lives, events) if lives.told else None
    found = tuple(witness for witness in (most, passed, full) if witness is not None)
    method = "; ".join((*(witness.said for witness in found), *filter(None, [events.said])))
    if len(found) == 1:
        return Slots(peak, limit=False, method=f"{method}; no request was seen waiting for a slot", witnesses=found)
    named = found[1].slots
    others = {witness.slots for witness in found[2:] if witness.slots is not None}
    if named is not None and named >= peak and others <= {named}:  # the peak is only a lower bound
        return Slots(named, limit=True, method=method, witnesses=found)
    least = min(witness.slots for witness in found if witness.slots is not None)
    return Slots(least, limit=False, method=f"{method}; these disagree too much to name a limit", witnesses=found)


def headers_mark_start(run: Run) -> bool:
    """Return whether headers leave when a slot starts, as llama.cpp's do, and nothing on the way sends them otherwise.

    Its timings tell: where TTFT less prompt time says otherwise for half of the requests (a proxy), headers are no mark.
    """
    timed = run.column("llamacpp") == 1
    off = np.abs(run.column("queue_wait_s") - np.maximum(run.column("ttft_s") - run.column("prefill_s"), 0.0))[timed]
    off = off[np.isfinite(off)]
    return bool(len(off)) and float(np.median(off)) <= max(HEADERS_ERROR_S, token_gap(run))


def token_gap(run: Run) -> float:
    """Return the median stream's time a token, seconds; 2 ms where no stream had two.

    Not the median gap: a server that sends its tokens by twos has as many gaps next to nothing.
    """
    gaps = run.chunks.counts - 1
    spent = (run.column("last") - run.column("first_token"))[gaps > 0] / gaps[gaps > 0]
    spent = spent[spent > 0]
    return float(np.median(spent)) if len(spent) else 2 * TIE_S


@dataclass(frozen=True, slots=True)
class RequestInstants:
    """The instants of the requests that were sent, seconds; nan where one is unknown or never came."""

    arrived: FloatArray  # sent, and the model loaded
    started: FloatArray  # prefill began, by the server's word
    first: FloatArray
    last: FloatArray  # last token, drawn in by the tie tolerance
    gone: FloatArray  # the same, or the end of a request without any token
    gap: float  # token_gap
    told: bool  # whether the server said of nearly every answer when work on it began

    @classmethod
    def of(cls, run: Run, rows: BoolArray | None = None) -> RequestInstants:
        """Read the instants of `rows`, of all requests without."""
        send, first, end = run.column("send"), run.column("first_token"), run.column("end")
        arrived = np.fmin(send + np.nan_to_num(run.column("load_s")), np.fmin(first, end))
        started = first - run.column("prefill_s")
        if headers_mark_start(run):
            started = run.column("headers")
        started = np.clip(started, arrived, first)
        gap = token_gap(run)
        last = np.maximum(run.column("last") - min(TIE_S, gap / 2), first + 1e-9)
        gone = np.where(np.isfinite(last), last, end)
        keep = np.isfinite(send) & (rows if rows is not None else True)
        seen = keep & np.isfinite(first)
        told = bool(seen.any()) and float(np.isfinite(started[seen]).mean()) >= TOLD_SHARE
        arrived, started, first, last, gone = (values[keep] for values in (arrived, started, first, last, gone))
        return cls(arrived, started, first, last, gone, gap, told)

    @property
    def in_flight(self) -> Depth:
        """Requests between arrival and end."""
        return Depth.of(self.arrived, np.maximum(self.gone, self.arrived))

    @property
    def slack(self) -> float:
        """Within this much of each other two arrivals belong to one batch, seconds."""
        return min(3 * TIE_S, 0.3 * self.gap)

    @property
    def handover(self) -> float:
        """How long a request must have been there before a step begins to count as passed over by it, seconds."""
        return min(UNNOTICED_S, self.gap / 2)

    @property
    def begun(self) -> FloatArray:
        """When work on each request was seen to begin: its prefill where the server tells, else its first token."""
        return np.where(np.isfinite(self.started), self.started, self.first) if self.told else self.first

    def peak(self) -> int:
        """Return the most streams at work at once, an overlap that is next to nothing of the run left out."""
        seen = np.isfinite(self.first)
        if not seen.any():
            return 0
        late = np.minimum(self.begun + self.slack, self.first)
        early = np.maximum(self.last - self.slack, late + 1e-9)  # a last token delayed is no second slot
        work = Depth.of(late[seen], early[seen])
        levels, held = np.unique(work.depth, return_inverse=True)
        spent = np.bincount(held, weights=np.diff(work.times, append=work.times[-1:]), minlength=len(levels))
        spent[levels == 0] = 0.0
        at_least = np.cumsum(spent[::-1])[::-1]
        return int(levels[at_least >= LEAST_HELD * at_least[0]].max())


@dataclass(frozen=True, slots=True)
class Depth:
    """How many intervals are open from each of `times` on."""

    times: FloatArray
    depth: FloatArray

    @classmethod
    def of(cls, starts: FloatArray, ends: FloatArray) -> Depth:
        """Count intervals; an end comes before a start at the same instant."""
        times = np.concatenate((starts, ends))
        change = np.concatenate((np.ones(len(starts)), -np.ones(len(ends))))
        order = np.lexsort((change, times))
        return cls(times[order], np.cumsum(change[order]))

    def at(self, instants: FloatArray) -> FloatArray:
        """Return the depth at `instants`; zero before the first."""
        if not len(self.times):
            return np.zeros(len(instants))
        index = np.searchsorted(self.times, instants, side="right") - 1
        return np.where(index >= 0, self.depth[np.maximum(index, 0)], 0.0)


@dataclass(frozen=True, slots=True)
class _ObservedSteps:
    """Every gap between two tokens of a stream: one step of the batch loop, as that stream saw it."""

    seconds: FloatArray
    at_work: FloatArray  # streams
    weight: FloatArray  # 1 / streams decoding: all of them see the same step
    asked: FloatArray  # requests in flight
    passed: BoolArray  # somebody waited from before it to after it, nobody began or ended
    free: BoolArray  # the same, but nobody waited
    settled: BoolArray  # nobody ended shortly before
    since: FloatArray  # seconds from the last first token, or from when nobody waited, to the step's beginning


def _passed_over(run: Run, lives: RequestInstants, events: ContentEvents) -> Witness | None:
    """Return the number at work while steps passed waiting requests over; None where too few did."""
    steps = _observed_steps(run, lives, events)
    counted = steps.passed if lives.told else steps.passed & (_without_prompt(steps) | _beyond_prefill(run, steps))
    readings = _Readings(steps.at_work, steps.weight, steps.asked, counted, steps.settled)
    return _witness("passed_over", readings, "steps that passed a waiting request over")


@dataclass(frozen=True, slots=True)
class _Readings:
    """Steps or batches, and which of them tell the slots."""

    slots: FloatArray  # streams at work
    weight: FloatArray
    asked: FloatArray  # requests in flight
    tell: BoolArray
    settled: BoolArray  # no end within SETTLED_S before it


def _witness(name: str, readings: _Readings, what: str) -> Witness | None:
    """Return what the settled readings say, and all of them where those are too few: where steps are fast, a slot that
    changes hands is empty for several of them.
    """
    settled = replace(readings, tell=readings.tell & readings.settled)
    return _mostly_said(name, settled, what) or _mostly_said(name, readings, what)


def _mostly_said(name: str, readings: _Readings, what: str) -> Witness | None:
    """Return what readings of the slots mostly say; None where they are too few, or a rarity while more were asked for.

    A server that stumbles once passes somebody over as well; one without a slot to give does so all the time.
    """
    told, weight = readings.slots[readings.tell], readings.weight[readings.tell]
    values = np.unique(told)
    totals = np.array([weight[told == value].sum() for value in values])
    if not len(values):
        return None
    best, total = int(np.argmax(totals)), float(totals.sum())
    pressed = float(readings.weight[readings.asked > values[best]].sum())
    if totals[best] < max(FEWEST_READINGS, LEAST_PRESSED_SHARE * pressed):
        return None
    share = float(totals[best]) / total
    said = f"{values[best]:.0f} in {share * 100:.0f} % of {total:.0f} {what}"
    return Witness(name, int(values[best]) if share >= LEAST_AGREEMENT else None, said)


def _observed_steps(run: Run, lives: RequestInstants, events: ContentEvents) -> _ObservedSteps:
    inside = events.inside
    right = events.at[1:][inside]
    seconds = np.asarray(np.diff(run.chunks.flat[events.place])[inside] * S_PER_US, dtype=np.float64)
    real = (seconds > 0.05 * lives.gap) & np.isfinite(right)  # of tokens in one read, one gap is the step
    seconds, right = seconds[real], right[real]
    left, middle = right - seconds, right - seconds / 2
    slack = lives.slack
    seen = np.isfinite(lives.first)
    begun, last = lives.begun, lives.last
    decoding = Depth.of(lives.first[seen], last[seen]).at(middle)
    at_work = Depth.of(begun[seen], np.maximum(last, begun)[seen]).at(middle) if lives.told else decoding
    quiet = (_within(last[seen], left - slack, right - slack) == 0) & (
        _within(begun[seen], left + slack, right + slack) == 0
    )
    # Of whom a telling server did not say when work began, it may be in prefill: no witness while such a one is there.
    unsure = ~np.isfinite(lives.started) if lives.told else np.zeros(len(seen), dtype=np.bool_)
    until = np.where(seen, begun, lives.gone)
    if (unsure & seen).any():
        quiet &= Depth.of(lives.arrived[unsure & seen], until[unsure & seen]).at(middle) == 0
    ready = lives.arrived[~unsure] + lives.handover
    waiting_until = _latest_end(ready, until[~unsure], left)
    anybody = _latest_end(lives.arrived, until, right)
    return _ObservedSteps(
        seconds=seconds,
        at_work=at_work,
        weight=1 / np.maximum(decoding, 1),
        asked=lives.in_flight.at(middle),
        passed=quiet & (waiting_until > right + slack),
        settled=left - _previous(last[seen], left) > SETTLED_S,
        free=quiet & ~(anybody > left),
        since=left - np.maximum(_previous(lives.first[seen], left), _previous(_calm(lives.arrived, until), left)),
    )


def _without_prompt(steps: _ObservedSteps) -> BoolArray:
    """Mark steps no longer than those without anybody waiting at the same number of streams."""
    depths, usual = _usual_step_s(steps)
    if not len(depths):
        return np.zeros(len(steps.seconds), dtype=np.bool_)
    expected = np.interp(steps.at_work, depths, usual)
    more = steps.at_work > depths[-1]
    if len(depths) > 1:
        slope = max((usual[-1] - usual[-2]) / (depths[-1] - depths[-2]), 0.0)
        expected = np.where(more, usual[-1] + slope * (steps.at_work - depths[-1]), expected)
    else:  # between a step that costs the same for any number and one that is paid for each stream
        expected = np.where(more, usual[-1] * np.sqrt(steps.at_work / depths[-1]), expected)
    return np.asarray(steps.seconds < LONGEST_PLAIN_STEP * expected, dtype=np.bool_)


def _beyond_prefill(run: Run, steps: _ObservedSteps) -> BoolArray:
    """Mark steps that come later after a first token than the longest prompt has slices: it is not prefill that lasts."""
    prompts = run.column("prompt_tokens")
    if not np.isfinite(prompts).any():
        return np.zeros(len(steps.seconds), dtype=np.bool_)
    slices = float(np.nanmax(prompts)) / SMALLEST_SLICE + 2
    return np.asarray(steps.since > slices * steps.seconds, dtype=np.bool_)


def _usual_step_s(steps: _ObservedSteps) -> tuple[FloatArray, FloatArray]:
    """Return the numbers of streams at which steps without anybody waiting were seen, and their median durations."""
    depths = np.unique(steps.at_work[steps.free])
    usual = [float(np.median(steps.seconds[steps.free & (steps.at_work == depth)])) for depth in depths]
    return depths, np.array(usual)


def _full_batches(lives: RequestInstants, events: ContentEvents) -> Witness | None:
    """Return the slots held whenever a batch ended and somebody who came before it began was still not let in.

    Needs no token gaps, so that it also reads answers of one or two tokens; but needs the server's durations. A slot
    given away during a batch is seen to be taken when the batch ends, which is why those that begin then count as well.
    """
    instants = np.sort(events.at)
    instants = instants[np.isfinite(instants)]
    slack = lives.slack
    fresh = np.diff(instants, prepend=-np.inf) > slack
    opens, closes = instants[fresh], instants[np.append(fresh[1:], True)[: len(instants)]]
    if len(opens) < 2:
        return None
    known = np.isfinite(lives.started)
    begun, last, arrived = lives.begun[np.isfinite(lives.first)], lives.last[np.isfinite(lives.last)], lives.arrived
    held = np.searchsorted(np.sort(begun), closes + slack) - np.searchsorted(np.sort(last), opens - slack)
    ready = arrived[known] + lives.handover
    waited = _latest_end(ready, lives.started[known], np.append(-np.inf, opens[:-1])) > closes + slack
    unsure = ~known & np.isfinite(lives.first)
    if unsure.any():
        waited &= Depth.of(arrived[unsure], lives.first[unsure]).at(opens) == 0
    settled = opens - _previous(last, opens - slack) > SETTLED_S
    asked = lives.in_flight.at(opens - slack)
    readings = _Readings(held.astype(np.float64), np.ones(len(held)), asked, waited, settled)
    return _witness("full_batches", readings, "batches that left a request waiting")


def _within(instants: FloatArray, left: FloatArray, right: FloatArray) -> FloatArray:
    """Count the instants in [left, right)."""
    ordered = np.sort(instants)
    return np.asarray(np.searchsorted(ordered, right) - np.searchsorted(ordered, left), dtype=np.float64)


def _previous(instants: FloatArray, at: FloatArray) -> FloatArray:
    """Return the last of `instants` up to each of `at`; −inf where there is none."""
    ordered = np.concatenate(([-np.inf], np.sort(instants)))
    return np.asarray(ordered[np.searchsorted(ordered, at, side="right") - 1], dtype=np.float64)


def _calm(starts: FloatArray, ends: FloatArray) -> FloatArray:
    """Return the starts of intervals that came while none was open."""
    open_now = Depth.of(starts, ends)
    opened: BoolArray = (open_now.depth == 1) & (np.diff(open_now.depth, prepend=0) > 0)
    return np.asarray(open_now.times[opened], dtype=np.float64)


def _latest_end(starts: FloatArray, ends: FloatArray, instants: FloatArray) -> FloatArray:
    """Return, of the intervals begun by each instant, the latest end; −inf where none has."""
    if not len(starts):
        return np.full(len(instants), -np.inf)
    order = np.argsort(starts, kind="stable")
    latest = np.maximum.accumulate(ends[order])
    index = np.searchsorted(starts[order], instants, side="right") - 1
    return np.where(index >= 0, latest[np.maximum(index, 0)], -np.inf)
