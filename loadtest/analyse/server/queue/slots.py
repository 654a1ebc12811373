"""The server's parallel slots, inferred from a run, and whether the load was high enough to show their limit.

The most streams seen at work at once is only a lower bound: eight users with short answers may never decode together. The
limit shows where a request is passed over. A server with continuous batching takes every waiting request into its next
step if it has a free slot. If a request was there before a step began, still waits after the step, and no stream began or
ended in between, then no slot was free, and the streams at work during that step are all the slots there are.

A server that reports no durations (no prompt_eval_duration, no timings) does not show when a request stops waiting and
its prefill begins. A step that evaluates prompt tokens takes longer than one that only decodes. So of such a server a step
counts only if it is at most 1.4 times as long as the steps with nobody waiting, or if more steps have passed since the
last first token than the longest prompt has slices. A server whose streams have a clock each has no such steps: there the
requests at work while others wait name the limit (kept_out.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from loadtest.analyse.run import BoolArray, FloatArray, RunData, excerpts, finite
from loadtest.analyse.run.excerpts import TimedEvents
from loadtest.analyse.run.overlaps import Depth, count_within, last_before, latest_end, peak_at_once
from loadtest.analyse.server.queue.at_work import RequestInstants, mostly_held_back
from loadtest.analyse.server.queue.kept_out import (
    UnwaitedTtft,
    at_work_while_waiting,
    idle_while_waiting,
    prompts_read_while_full,
)
from loadtest.analyse.server.queue.token_budget import budget_instead_of
from loadtest.text import counted, percent

REFILLED_S = 0.020  # after a stream ended its slot has a new owner by then (on real servers it took up to 16 ms)
# of a step, at most REFILLED_S: by so much a busy server starts a prompt later that had a slot during the step
SEEN_LATE = 0.3
FEWEST_AGREEING = 3.0  # that must name one number of slots
LEAST_PRESSED_SHARE = 0.03  # of the steps with more requests in flight than that number, which must name it
LEAST_AGREEMENT = 0.75  # of the readings, which must name the same number
MOST_IDLE = 0.25  # of the time with requests waiting may pass with nobody at work, where slots keep them out
LONGEST_PLAIN_STEP = 1.4  # times the usual step with nobody waiting: a longer one evaluates prompt tokens
NOT_SEEN = "its limit was not seen"
CAME_WHOLE = "answers came whole, so it is not known how many were at work at once"
FEWEST_TOKENS = 4  # of the median answer, for the steps alone to name a limit where the server reports no durations
SMALLEST_SLICE = 32  # prompt tokens that a step evaluates at least, where prompts are cut into slices


@dataclass(frozen=True, slots=True)
class Witness:
    """One way to infer the slots, and its result."""

    name: str
    slots: int | None  # None: its readings do not agree on a number
    said: str  # the result in words, with its figures


@dataclass(frozen=True, slots=True)
class Slots:
    estimate: int | None  # None: no stream was seen decoding
    limit: bool  # True: requests were kept out, so this is the server's limit; False: a lower bound
    method: str
    witnesses: tuple[Witness, ...] = field(default=())
    unknown: str = NOT_SEEN  # why no limit is named, as the end of a sentence

    @property
    def number(self) -> int | None:
        """How many there are; None where no more than a lower bound is known."""
        return self.estimate if self.limit else None

    @property
    def agree(self) -> bool:
        """Whether the witnesses agree: they name one limit, or there is no witness but the peak."""
        return self.limit or len(self.witnesses) <= 1

    def to_dict(self) -> dict[str, object]:
        """Return what summary.json holds; `ci` is [n, null] where only a lower bound is known."""
        return {
            "estimate": self.estimate,
            "ci": None if self.estimate is None else [self.estimate, self.number],
            "limit": self.limit,
            "method": self.method,
            "witnesses": {witness.name: witness.slots for witness in self.witnesses},
            "agree": self.agree,
        }

    def __str__(self) -> str:
        if self.estimate is None:
            return "unknown"
        return str(self.estimate) if self.limit else f"at least {self.estimate}"


def known_slots(run: RunData, found: Slots) -> Slots:
    """Return the slots as the run shows them, else as the server says, else as a probe before the run found them."""
    if found.limit:
        return replace(found, method=f"the run shows them: {found.method}")
    least = found.estimate or 0
    said = run.fact("server", "slots_said")
    if said and said >= least:
        return Slots(int(said), limit=True, method="the server says so")
    limit, seen = run.fact("slot_probe", "limit"), run.fact("slot_probe", "seen") or 0
    how = f"bursts before the run showed {'them' if limit else f'{seen} at work at once'}"
    if limit and limit >= least:
        return Slots(int(limit), limit=True, method=how)
    return Slots(int(seen), limit=False, method=how) if not limit and seen > least else found


def peak_decoding(run: RunData, rows: BoolArray) -> int:
    """Return the most requests of `rows` that were between their first and last token at one instant."""
    requests = RequestInstants.of(run, rows)
    seen = np.isfinite(requests.first)
    return peak_at_once(requests.first[seen], requests.last[seen])


def estimate_slots(run: RunData) -> Slots:
    """Estimate the server's slots from witnesses: the peak, steps that passed a request over, and full batches.

    A stream is at work from the start of its prefill, or from its first token where the server reports no durations. The
    peak is a lower bound. The other witnesses name the limit if they agree on a number that is not below the peak; else
    the smallest number is returned as a lower bound, and `method` says that the witnesses disagree. Of a server that
    reports no durations, the requests at work while others wait are a witness in place of the batches.
    """
    requests = RequestInstants.of(run)
    doing = "in prefill or decoding" if requests.mostly_told else "decoding"
    peak = requests.peak()
    if peak == 0:
        return Slots(None, limit=False, method="no stream was seen decoding")
    most = Witness("peak", peak, f"at most {counted(peak, 'request')} {doing} at the same time")
    in_flight = int(requests.in_flight.depth.max(initial=0))
    whole = requests.mostly_told and mostly_held_back(run)
    if whole and 1 < in_flight <= peak:  # what was at work one after another may have been let go together
        return Slots(1, limit=False, method=CAME_WHOLE, witnesses=(most,), unknown=CAME_WHOLE)
    if in_flight <= peak:
        return Slots(peak, limit=False, method=f"{most.said}; never more were in flight than that", witnesses=(most,))
    events, ttft = excerpts.events(run), UnwaitedTtft.of(run, requests, peak)
    passed = _passed_over(run, requests, events)
    if requests.mostly_told:
        # of whole answers a cluster of arrivals is an answer, and no batch
        full = _full_batches(requests, events, near=requests.slack if whole else REFILLED_S)
        full = None if full is not None and full.slots != peak and whole else full
    else:
        passed, full = _without_durations(run, requests, ttft, passed, peak)
    found = tuple(witness for witness in (most, passed, full) if witness is not None)
    method = "; ".join((*(witness.said for witness in found), *filter(None, [events.said])))
    others = f"up to {in_flight} were in flight, and what held up the others is not known"
    no_limit = Slots(peak, limit=False, method=method, witnesses=found, unknown=others)
    if len(found) == 1:
        more = f"{method}; up to {in_flight} were in flight, and what the others waited for was not seen"
        return replace(no_limit, method=more)
    named = found[1].slots
    also = {witness.slots for witness in found[2:] if witness.slots is not None}
    if named is None or named < peak or not also <= {named}:  # the peak is only a lower bound
        least = min(witness.slots for witness in found if witness.slots is not None)
        no_limit, named = replace(no_limit, estimate=least), None
        why = "these disagree too much to name a limit"
    if instead := budget_instead_of(run, requests, ttft, named):
        tokens, explained = instead
        why = f"but a budget of {tokens} tokens of prompts and answers explains {percent(explained)} of the waiting"
        room = (
            f"others wait for room for about {tokens} tokens of prompts and answers, not for one of a number of slots"
        )
        return replace(no_limit, method=f"{method}; {why}, so no number is the limit", unknown=room)
    if named is None:
        return replace(no_limit, method=f"{method}; {why}")
    if (idle := idle_while_waiting(requests, ttft, named)) > MOST_IDLE:
        nobody = f"nobody was at work in {percent(idle)} of the time in which requests waited"
        return replace(no_limit, method=f"{method}; but {nobody}, so no slot held them back")
    return Slots(named, limit=True, method=method, witnesses=found)


def _without_durations(
    run: RunData, requests: RequestInstants, ttft: UnwaitedTtft, passed: Witness | None, peak: int
) -> tuple[Witness | None, Witness | None]:
    """Return the witnesses that count of a server without durations: the steps, and the requests at work while others waited.

    Where prefill goes on unseen, steps seem to pass requests over: what they say then disagrees, or is below the peak.
    Where prompts slow each other down, work seems to begin late: fewer requests than there are slots are then at work.
    The steps alone count only where streams decode together for long, and no prompt was read while all slots were held.
    """
    found = at_work_while_waiting(requests, ttft, peak)
    kept = None if found is None or (found[0] or 0) < peak else Witness("kept_out", *found)
    if passed is None or (kept is not None and (passed.slots or 0) < peak):
        return None, kept
    if kept is not None and (kept.slots or 0) >= (passed.slots or 0):
        return passed, kept
    counts = run.chunks.counts[run.chunks.counts > 0]
    unseen = np.median(counts) < FEWEST_TOKENS or prompts_read_while_full(requests, ttft, passed.slots)
    return (None if unseen else passed), None


@dataclass(frozen=True, slots=True)
class _ObservedSteps:
    """One entry per gap between two tokens of a stream: a step of the batch loop as that stream saw it."""

    seconds: FloatArray
    at_work: FloatArray  # streams at work in the middle of it
    weight: FloatArray  # 1 / streams decoding, for each of them sees the same step
    in_flight: FloatArray  # requests in flight in the middle of it
    passed: BoolArray  # a request waited from before it until after it, and no stream began or ended
    free: BoolArray  # no request waited, and no stream began or ended
    refilled: BoolArray  # no stream ended within REFILLED_S before it
    since: FloatArray  # seconds since the last first token, or since nobody waited, whichever was later


def _passed_over(run: RunData, requests: RequestInstants, events: TimedEvents) -> Witness | None:
    """Return how many streams were at work in the steps that passed a request over; None where there are too few."""
    steps = _observed_steps(requests, events)
    tell = (
        steps.passed if requests.mostly_told else steps.passed & (_without_prompt(steps) | _beyond_prefill(run, steps))
    )
    readings = _Readings(steps.at_work, steps.weight, steps.in_flight, tell, steps.refilled)
    return _witness("passed_over", readings, "steps")


@dataclass(frozen=True, slots=True)
class _Readings:
    """Steps or batches, and which of them show the slots."""

    slots: FloatArray  # streams at work
    weight: FloatArray
    in_flight: FloatArray  # requests in flight
    tell: BoolArray  # a request was kept out: all slots were taken
    refilled: BoolArray  # no stream ended within REFILLED_S before it


def _witness(name: str, readings: _Readings, what: str) -> Witness | None:
    """Return what those readings agree on that no stream ended just before, or all readings where these are too few.

    Just after a stream ended its slot may be empty for several fast steps, which then show one stream too few.
    """
    sure = replace(readings, tell=readings.tell & readings.refilled)
    return _mostly_said(name, sure, what) or _mostly_said(name, readings, what)


def _mostly_said(name: str, readings: _Readings, what: str) -> Witness | None:
    """Return the number of slots that most readings name; None where these are few, or rare while the load was higher.

    A server that stumbles once passes a request over as well, but a server without a free slot does so all the time.
    """
    told, weight = readings.slots[readings.tell], readings.weight[readings.tell]
    values = np.unique(told)
    totals = np.array([weight[told == value].sum() for value in values])
    if not len(values):
        return None
    best, total = int(np.argmax(totals)), float(totals.sum())
    pressed = float(readings.weight[readings.in_flight > values[best]].sum())
    if totals[best] < max(FEWEST_AGREEING, LEAST_PRESSED_SHARE * pressed):
        return None
    share = float(totals[best]) / total
    at_work = f"{counted(int(values[best]), 'request')} {'was' if values[best] == 1 else 'were'} at work"
    said = f"while another one waited, {at_work} in {percent(share)} of {total:.0f} {what}"
    return Witness(name, int(values[best]) if share >= LEAST_AGREEMENT else None, said)


def _observed_steps(requests: RequestInstants, events: TimedEvents) -> _ObservedSteps:
    seconds, right = events.gaps()
    # tokens that came in one read have gaps near zero between them
    real = (seconds > 0.05 * requests.gap) & np.isfinite(right)
    seconds, right = seconds[real], right[real]
    left, middle = right - seconds, right - seconds / 2
    slack = requests.slack
    seen = np.isfinite(requests.first)
    begun, last = requests.begun, requests.last
    decoding = Depth.of(requests.first[seen], last[seen]).at(middle)
    at_work = Depth.of(begun[seen], np.maximum(last, begun)[seen]).at(middle) if requests.mostly_told else decoding
    quiet = (count_within(last[seen], left - slack, right - slack) == 0) & (
        count_within(begun[seen], left + requests.edge, right + _seen_late(seconds, slack)) == 0
    )
    # A request for which a reporting server gave no durations may be in prefill unseen: steps beside one do not count.
    unsure = ~np.isfinite(requests.started) if requests.mostly_told else np.zeros(len(seen), dtype=np.bool_)
    until = np.where(seen, begun, requests.gone)
    if (unsure & seen).any():
        quiet &= Depth.of(requests.arrived[unsure & seen], until[unsure & seen]).at(middle) == 0
    ready = requests.arrived[~unsure] + requests.unnoticed_s
    waiting_until = latest_end(ready, until[~unsure], left)
    anybody = latest_end(requests.arrived, until, right)
    waited_from = Depth.of(requests.arrived, until).busy_from
    return _ObservedSteps(
        seconds=seconds,
        at_work=at_work,
        weight=1 / np.maximum(decoding, 1),
        in_flight=requests.in_flight.at(middle),
        passed=quiet & (waiting_until > right + slack),
        refilled=left - last_before(last[seen], left) > REFILLED_S,
        free=quiet & ~(anybody > left),
        since=left - np.maximum(last_before(requests.first[seen], left), last_before(waited_from, left)),
    )


def _seen_late(seconds: FloatArray, slack: float, most: float = REFILLED_S) -> FloatArray:
    """Return how soon after steps of this length a request may begin that held a slot during them, unseen."""
    return np.maximum(slack, np.minimum(most, SEEN_LATE * seconds))


def _without_prompt(steps: _ObservedSteps) -> BoolArray:
    """Mark the steps at most 1.4 times as long as the median step with nobody waiting at the same number of streams."""
    depths = np.unique(steps.at_work[steps.free & (steps.at_work > 0)])
    if not len(depths):
        return np.zeros(len(steps.seconds), dtype=np.bool_)
    usual = [float(np.median(steps.seconds[steps.free & (steps.at_work == depth)])) for depth in depths]
    expected = np.interp(steps.at_work, depths, usual)
    more = steps.at_work > depths[-1]
    if len(depths) > 1:
        slope = max((usual[-1] - usual[-2]) / (depths[-1] - depths[-2]), 0.0)
        expected = np.where(more, usual[-1] + slope * (steps.at_work - depths[-1]), expected)
    else:  # one number of streams was seen: between a constant step time and one proportional to the streams
        expected = np.where(more, usual[-1] * np.sqrt(steps.at_work / depths[-1]), expected)
    return steps.seconds < LONGEST_PLAIN_STEP * expected


def _beyond_prefill(run: RunData, steps: _ObservedSteps) -> BoolArray:
    """Mark the steps so long after the last first token that even the longest prompt, cut into slices, was evaluated."""
    prompts = run.column("prompt_tokens")
    if not np.isfinite(prompts).any():
        return np.zeros(len(steps.seconds), dtype=np.bool_)
    slices = float(np.nanmax(prompts)) / SMALLEST_SLICE + 2
    return steps.since > slices * steps.seconds


def _full_batches(requests: RequestInstants, events: TimedEvents, near: float) -> Witness | None:
    """Return the slots held at the end of a batch that left out a request which had come before the batch began.

    A batch is seen as a cluster of token arrivals. This needs no gaps between tokens, so it also reads answers of one or
    two tokens, but it needs the server's durations. A slot that is given away during a batch shows as taken only when the
    batch ends, so streams that begin at that moment count as holding a slot. So does who gave it to them at that moment: where
    answers of several tokens show who is at work, no more than the peak of those are counted.
    """
    instants = np.sort(finite(events.at))
    slack = requests.slack
    fresh = np.diff(instants, prepend=-np.inf) > slack
    opens, closes = instants[fresh], instants[np.append(fresh[1:], True)[: len(instants)]]
    if len(opens) < 2:
        return None
    known, seen = np.isfinite(requests.started), np.isfinite(requests.first)
    begun, last = requests.begun[seen], requests.last[seen]
    held = np.searchsorted(np.sort(begun), closes + slack) - np.searchsorted(np.sort(last), opens - slack)
    if np.median(last - requests.first[seen]) > slack:
        held = np.minimum(
            held, requests.peak(0.0)
        )  # of short answers all slots may be seen at work for an instant alone
    ready = requests.arrived[known] + requests.unnoticed_s
    before = np.append(-np.inf, opens[:-1])
    waited = latest_end(ready, requests.started[known], before) > closes + slack
    waited &= count_within(begun, closes + slack, closes + _seen_late(closes - before, slack, near)) == 0
    unsure = seen & ~known
    if unsure.any():
        waited &= Depth.of(requests.arrived[unsure], requests.first[unsure]).at(opens) == 0
    refilled = opens - last_before(last, opens - slack) > REFILLED_S
    in_flight = requests.in_flight.at(opens - slack)
    readings = _Readings(held.astype(np.float64), np.ones(len(held)), in_flight, waited, refilled)
    return _witness("full_batches", readings, "batches")
