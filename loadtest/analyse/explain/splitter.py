"""One request's time in parts, each with the requests that caused it; what no part accounts for is a part of its own.

The time from when a request was due to its first token is cut where one thing ends and the next begins: the client's lag,
connecting, the model load, the wait for a slot, and from there to the first token what the server worked on. In that
last stretch each moment goes to the prompts that were being read, by how fast each of them was read; moments in which none
was are a step of the streams that decoded, at most as long as such a step takes here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest import doubts
from loadtest.analyse.explain import time_parts
from loadtest.analyse.explain.lost_cache import lost_cache
from loadtest.analyse.explain.time_parts import LEAST_S, Cause, LostCache, Parts, TimePart
from loadtest.analyse.explain.timeline import (
    SLOWED,
    Timeline,
    WorkWindow,
    behind_until,
    cause_of,
    held_slots,
    moments,
    prompt_windows,
    shared_out,
    silent_windows,
    step_time,
)
from loadtest.analyse.run import FloatArray, IntArray, RunData
from loadtest.analyse.server.alternating_models import LONG_MODEL_LOAD_S
from loadtest.analyse.server.queue.slots import Slots
from loadtest.analyse.server.queue.waits import ADMISSION_ERROR_S, NEVER_SERVED
from loadtest.analyse.server.timing.steps import Steps
from loadtest.analyse.server.timing.token_gaps import TokenGaps
from loadtest.records import Outcome

SLOW_PROMPT = 1.25  # times what such a prompt takes, from which on the rest of its time has another cause
SCATTERS = 3.0  # … and times the scatter of the run's prompts: of many requests the slowest is asked about
LEAST_SLOWER_S = 0.02
FASTER = 0.1  # of a decode, by which its usual steps come to more than it took
LENGTHS_ALIKE = 0.5  # of a prompt's length: prompts that differ by less show how long it takes
FEWEST_ALIKE = 3
AT_SERVER = (time_parts.BEHIND, time_parts.PAUSE, time_parts.SLOT, time_parts.WAIT)
BIG_PROMPT = 2.0  # times the median prompt, from which on a prompt that was read during a slot wait is named


@dataclass(frozen=True, slots=True)
class Splitter:
    run: RunData
    slots: Slots
    steps: Steps
    gaps: TokenGaps
    timeline: Timeline
    pauses: tuple[WorkWindow, ...] = ()  # in which nothing was at work

    def split(self, row: int) -> Parts:
        timeline = self.timeline
        until = timeline.first[row] if math.isfinite(timeline.first[row]) else timeline.end[row]
        lost = lost_cache(self.run, self.timeline, row)
        parts = self._before(row)
        if self.run.requests["outcome"].to_numpy()[row] not in NEVER_SERVED:  # who refused it, and when, is not known
            parts += [*self._load(row), *self._at_server(row, float(until), lost)]
        total = float(until - timeline.sched[row])
        rest = total - sum(part.seconds for part in parts)
        length = float(timeline.last[row] - timeline.first[row])  # nan where no token came
        # The server had not got it, so it waited for none of its slots and in none of its pauses.
        if doubts.CONNECTION_WAIT in self.run.requests["doubts"].iloc[row]:
            waits = [part for part in parts if part.name in AT_SERVER]
            kept = rest + sum(part.seconds for part in waits)
            parts, rest = [part for part in parts if part not in waits], 0.0
            parts.append(TimePart(time_parts.CONNECTION_WAIT, kept))
        return Parts(total, (*parts, TimePart(time_parts.REST, rest)), length, self._decode(row), lost)

    def _at_server(self, row: int, until: float, lost: LostCache | None) -> Iterator[TimePart]:
        arrived, came = float(self.timeline.arrived[row]), behind_until(self.timeline, row)
        if came > arrived:
            yield TimePart(time_parts.BEHIND, self._busy(arrived, came))
        if (stood := until - arrived - self._busy(arrived, until)) >= LEAST_S:
            yield TimePart(time_parts.PAUSE, stood)
        won = max(arrived + float(np.nan_to_num(self._waited(row))), came)
        if won > came:
            yield self._slot_wait(row, came, won)
        yield from self._at_work(row, won, until, lost)

    def _busy(self, low: float, high: float) -> float:
        """Return how much of a time no pause took."""
        return high - low - sum(max(min(high, each.end) - max(low, each.start), 0.0) for each in self.pauses)

    def _cause(self, row: int, seconds: float, how: str) -> Cause:
        return cause_of(self.run, self.timeline, row, seconds, how)

    def _causes(self, found: dict[int, float], how: str) -> tuple[Cause, ...]:
        ordered = sorted(found.items(), key=lambda item: -item[1])
        return tuple(self._cause(row, spent, how) for row, spent in ordered if spent >= LEAST_S)

    def _before(self, row: int) -> list[TimePart]:
        """Return what passed before the request was sent on a connection that held: connecting, the client's own lag, a second send."""
        timeline = self.timeline
        late = float(timeline.send[row] - timeline.sched[row])
        if not math.isfinite(late):  # it was never sent
            refused = self.run.one_of("outcome", Outcome.CONNECT_ERROR)[row]
            spent = float(timeline.end[row] - timeline.sched[row])
            return [TimePart(time_parts.CONNECT if refused else time_parts.CLIENT, spent)]
        ready = self.run.column("connect")[row] - timeline.sched[row]
        fresh = bool(self.run.requests["new_conn"].to_numpy()[row]) and math.isfinite(ready)
        connecting = min(max(float(ready), 0.0), late) if fresh else 0.0
        found = [TimePart(time_parts.CONNECT, connecting)] if connecting >= LEAST_S else []
        found.append(TimePart(time_parts.CLIENT, late - (connecting if found else 0.0)))
        again = float(self.run.column("reached")[row] - timeline.send[row])
        return [*found, TimePart(time_parts.RESENT, again)] if again >= LEAST_S else found

    def _load(self, row: int) -> list[TimePart]:
        load, spent = (
            float(each[row]) for each in (self.run.column("load_s"), self.timeline.arrived - self.run.column("reached"))
        )
        if not (math.isfinite(load) and spent > 0):
            return []
        if min(load, spent) <= (long := LONG_MODEL_LOAD_S / self.run.speed):
            return [TimePart(time_parts.HANDLING, spent)]
        turn = "loaded_in_turn" in self.run.requests and bool(self.run.requests["loaded_in_turn"].to_numpy()[row])
        before = self.timeline.send < self.timeline.send[row]
        unfinished = self.timeline.arrived > self.timeline.arrived[row] - spent
        shared = np.flatnonzero((self.run.column("load_s") > long) & before & unfinished)
        first = [int(min(shared, key=lambda each: self.timeline.send[each]))] if len(shared) else []
        return [
            TimePart(
                time_parts.TURN if turn else time_parts.MODEL_LOAD,
                spent,
                tuple(self._cause(each, spent, time_parts.MODEL_LOAD) for each in first),
            )
        ]

    def _waited(self, row: int) -> float:
        """Return the slot wait; of a request without a token, how long all the slots were held from when it came."""
        waited = float(self.run.column("slot_wait_s")[row])
        if math.isfinite(waited) or not self.timeline.silent[row] or not self.slots.limit:
            return waited
        low, high = float(self.timeline.arrived[row]), float(self.timeline.end[row])
        free: list[tuple[float, float]] = []
        for left, right in self._unheld(held_slots(self.timeline, low, high, row), low, high):
            free = [*free[:-1], (free[-1][0], right)] if free and left <= free[-1][1] else [*free, (left, right)]
        # a shorter one is a handover, or a model load that is not known of a request without an answer
        return next((left - low for left, right in free if right - left > ADMISSION_ERROR_S), high - low)

    def _slot_wait(self, row: int, low: float, high: float) -> TimePart:
        """Return the wait for a slot, with those who held the slots; a moment that no known one held goes to silent ones."""
        timeline = self.timeline
        holders = held_slots(timeline, low, high, row)
        found = {each.row: self._busy(max(each.start, low), min(each.end, high)) for each in holders}
        causes = list(self._causes(found, time_parts.SLOT))
        free = self._unheld(holders, low, high)
        for each in silent_windows(timeline, low, high, row):
            held = sum(max(min(right, each.end) - max(left, each.start), 0.0) for left, right in free)
            if held >= LEAST_S and timeline.send[each.row] < timeline.send[row]:
                causes.append(self._cause(each.row, held, time_parts.SILENT))
        causes += self._read_meanwhile(row, low, high)
        inferred = not math.isfinite(self.run.column("queue_wait_s")[row])
        before = (timeline.arrived < low) & np.where(
            np.isfinite(timeline.first), timeline.won > low, timeline.silent & (timeline.end > low)
        )
        ordered = tuple(sorted(causes, key=lambda cause: -cause.seconds))
        return TimePart(time_parts.SLOT, self._busy(low, high), ordered, inferred, ahead=int(before.sum()))

    def _unheld(self, holders: Sequence[WorkWindow], low: float, high: float) -> list[tuple[float, float]]:
        """Return the pieces of a wait in which fewer requests are known to hold a slot than there are slots."""
        known = self.slots.estimate or 0
        return [(left, right) for left, right, held in moments(low, high, holders) if len(held) < known]

    def _read_meanwhile(self, row: int, low: float, high: float) -> list[Cause]:
        """Return the long prompts that were read while a request waited for a slot: they held up those who held one."""
        usual = float(np.nanmedian(self.timeline.tokens)) if np.isfinite(self.timeline.tokens).any() else math.inf
        every = prompt_windows(self.timeline, self.steps, self._near(row, low, high))
        long = [each for each in every if self.timeline.tokens[each.row] >= BIG_PROMPT * usual]
        found, _ = shared_out(low, high, [*long, *self.pauses])
        if not all(self.timeline.told[each.row] for each in long):  # how long each takes alone, and not when, is known
            alone = {each.row: self._busy(max(each.start, low), min(each.end, high)) for each in long}
            fitting = min(self._busy(low, high) / max(sum(alone.values()), 1e-9), 1.0)
            found = {other: spent * fitting for other, spent in alone.items()}
        return list(self._causes(found, time_parts.PROMPTS))

    def _near(self, row: int, low: float, high: float) -> IntArray:
        timeline = self.timeline
        near = (timeline.read_from < high) & (timeline.first > low)
        near[row] = False
        return np.flatnonzero(near)

    def _at_work(self, row: int, low: float, high: float, lost: LostCache | None) -> list[TimePart]:
        """Return what the server did between giving the request a slot and its first token."""
        timeline = self.timeline
        start = float(timeline.read_from[row])
        others = prompt_windows(timeline, self.steps, self._near(row, low, high))
        silent = self._silent_prompts(row, low, high)
        mine = (
            [WorkWindow(row, start, high, max(float(timeline.tokens[row]), 1.0) / (high - start))]
            if high > start
            else []
        )
        reading = [
            each._replace(worth=min(self._usual(each.row) / max(self._busy(each.start, each.end), 1e-9), 1.0))
            for each in (*others, *mine)
        ]
        until = start if math.isfinite(start) else high
        came, low = low, self._could_come(row, low, until, [*others, *self.pauses], silent)
        shares, free = shared_out(low, high, [*reading, *silent, *self.pauses], self._slow)
        slower = shares.pop(SLOWED, 0.0)
        if slower <= LEAST_SLOWER_S:
            slower, (shares, free) = 0.0, shared_out(low, high, [*others, *silent, *mine, *self.pauses])
        own = shares.pop(row, 0.0)
        if timeline.whole[row]:  # when its prompt was read is not known, but for how long, where the server says it
            own = min(float(np.nan_to_num(self.run.column("prefill_s")[row])), free)
            free -= own
        unseen = self._causes({each: shares.pop(each, 0.0) for each in {one.row for one in silent}}, time_parts.SILENT)
        caused = self._causes(shares, time_parts.PROMPTS)
        told = bool(timeline.told[row]) and all(timeline.told[cause.row] for cause in caused)
        parts = [TimePart(time_parts.PROMPTS, sum(shares.values()), caused, inferred=not told)] if caused else []
        parts += (
            [TimePart(time_parts.SILENT, sum(each.seconds for each in unseen), unseen, inferred=True)] if unseen else []
        )
        idle = [left for left, _, at_work in moments(low, until, [*others, *silent, *self.pauses]) if not at_work]
        parts += self._without_prompts(row, idle[0] if idle else until, free + self._busy(came, low))
        parts += self._own(row, own, lost)
        return [*parts, TimePart(time_parts.SLOW, slower)] if slower else parts

    def _could_come(
        self, row: int, low: float, until: float, others: Sequence[WorkWindow], silent: Sequence[WorkWindow]
    ) -> float:
        """Return from when on it may have been at the server, in a slot: not before the last step that began without it.

        A server takes in whoever holds a slot before its next step. What was at work before such a step held it up no more.
        """
        timeline, error = self.timeline, ADMISSION_ERROR_S
        if not math.isfinite(timeline.read_from[row]):
            return low
        if not timeline.told[row]:  # nor is it known when work on those that left was over
            error += (self._slow - 1) * float(timeline.first[row] - until)
            silent = [each._replace(end=until) for each in silent]
        for left, right, at_work in reversed(list(moments(low, until, [*others, *silent]))):
            step = 0.0 if at_work else self._step_at(left)[1]
            if not at_work and right - left > 2 * step + error:
                return right - step
        return low

    def _step_at(self, instant: float) -> tuple[int, float]:
        """Return how many streams decoded just behind an instant, and how long a step of theirs takes: 0 unknown."""
        decoding = self._in_slots(int(self.gaps.decoding_at(np.array([instant + 1e-9]))[0]))
        return decoding, float(np.nan_to_num(step_time(self.steps, decoding)))

    def _silent_prompts(self, row: int, low: float, high: float) -> list[WorkWindow]:
        """Return when prompts of requests that ended without a token may have been read: while they held a slot."""
        timeline, law = self.timeline, self.steps.prefill
        unheld = self._unheld([*held_slots(timeline, low, high, row), WorkWindow(row, low, high)], low, high)
        send = self.run.column("send")
        fastest = 1 / law.per_token_s if law is not None and law.per_token_s > 0 else 1.0
        found = []
        for each in silent_windows(timeline, low, high, row):
            # Where the limit is not known, one that came before this request may have held a slot that was never seen taken.
            before = not self.slots.limit and send[each.row] < send[row]
            pieces = [(low, high)] if before else unheld
            prompt = float(timeline.prompt[each.row])
            rate = min(prompt / (each.end - each.start), fastest) if math.isfinite(prompt) else fastest
            clipped = [(max(left, each.start), min(right, each.end)) for left, right in pieces]
            found += [WorkWindow(each.row, left, right, rate) for left, right in clipped if right - left >= LEAST_S]
        return found

    def _without_prompts(self, row: int, low: float, free: float) -> Iterator[TimePart]:
        """Yield what passed from `low` on while no prompt was read: the step in flight, and a wait that cannot be split."""
        if free < LEAST_S:
            return
        decoding, step = self._step_at(low)
        step = min(free, step)
        if step >= LEAST_S:
            yield TimePart(time_parts.STEP, step, streams=decoding)
        waited = self.run.column("queue_wait_s")[row]
        unsplit = math.isfinite(waited) and not math.isfinite(self.run.column("slot_wait_s")[row])
        if unsplit and (spent := min(free - step, float(waited))) >= LEAST_S:  # an answer that came whole took longer
            yield TimePart(time_parts.WAIT, spent)

    def _own(self, row: int, spent: float, lost: LostCache | None) -> Iterator[TimePart]:
        """Yield the reading of its own prompt: what the cache had lost, and the rest."""
        if spent <= 0:
            return
        tokens = self.timeline.tokens[row]
        inferred = not math.isfinite(self.run.column("prefill_s")[row])
        if lost is not None and tokens > 0:
            again = spent * min(lost.tokens / float(tokens), 1.0)
            yield TimePart(time_parts.REREAD, again, lost.since, inferred, tokens=lost.tokens)
            spent -= again
        own = int(tokens) - (lost.tokens if lost is not None else 0) if math.isfinite(tokens) else None
        beside = None if self.timeline.whole[row] else self._in_slots(max(self._beside(row), 0), besides=1)
        yield TimePart(time_parts.OWN, spent, (), inferred, tokens=own, streams=beside)

    def _beside(self, row: int) -> int:
        """Return how many others decoded when a request got its first token, which was made before it came."""
        made = np.fmin(self.timeline.first[row], self.gaps.requests.first[row])
        return int(self.gaps.decoding_at(np.array([made - 2 * self.gaps.requests.edge_s]))[0])

    @property
    def _slow(self) -> float:
        """Return how many times as long as usual reading prompts may take before something slows it down."""
        law = self.steps.prefill
        return max(SLOW_PROMPT, 1 + SCATTERS * law.jitter) if law is not None else SLOW_PROMPT

    def _in_slots(self, streams: int, besides: int = 0) -> int:
        """Return a number of streams that decode, by stamps that may be late, as no more than the slots allow for."""
        return min(streams, max((self.slots.estimate or 0) - besides, 0)) if self.slots.limit else streams

    def _usual(self, row: int) -> float:
        """Return what reading such a prompt takes in this run; inf where neither its law nor prompts alike show that."""
        timeline, law = self.timeline, self.steps.prefill
        tokens = float(timeline.tokens[row])
        spent = timeline.first - timeline.read_from
        alike = timeline.told & (np.abs(timeline.tokens - tokens) <= LENGTHS_ALIKE * tokens) & (spent > 0)
        alike[row] = False
        found = (
            [float(np.median(spent[alike] / timeline.tokens[alike])) * tokens] if alike.sum() >= FEWEST_ALIKE else []
        )
        others = timeline.told & np.isfinite(timeline.tokens)
        others[row] = False
        longest = np.sort(timeline.tokens[others])[-FEWEST_ALIKE:]
        if law is not None and len(longest) and tokens <= 1.5 * float(longest[0]):
            beside = float(self._beside(row))
            batches = 1 if law.n_batch is None else math.ceil(tokens / max(law.n_batch - beside, 1))
            shared = batches * step_time(self.steps, beside) if beside > 0 else 0.0
            cost = law.seconds(tokens) + (shared if math.isfinite(shared) else 0.0)
            least = step_time(self.steps, beside + 1)
            found.append(max(cost, least if math.isfinite(least) else 0.0))
        return max(found, default=math.inf)

    def earlier(self, row: int, most: int) -> list[Cause]:
        """Return the largest requests of the time in which, without a break, somebody has waited for a slot; some may be over."""
        timeline = self.timeline
        if not timeline.won[row] - timeline.arrived[row] > LEAST_S:
            return []
        queued = np.flatnonzero(
            (timeline.won - timeline.arrived > LEAST_S) & (timeline.arrived <= timeline.arrived[row])
        )
        begun = float(timeline.arrived[row])
        for each in queued[np.argsort(-timeline.won[queued], kind="stable")]:
            if timeline.won[each] < begun:
                break
            begun = min(begun, float(timeline.arrived[each]))
        gone = np.where(np.isfinite(timeline.freed), timeline.freed, timeline.end)
        rows = np.flatnonzero((gone > begun) & (timeline.send < timeline.send[row]))
        reading = np.nan_to_num(timeline.first - timeline.read_from)
        size = np.nan_to_num(gone - timeline.won) + max((self.slots.estimate or 1) - 1, 0) * reading
        largest = rows[np.argsort(-size[rows], kind="stable")][:most]
        return [self._cause(int(each), 0.0, time_parts.QUEUE) for each in largest]

    def _decode(self, row: int) -> tuple[TimePart, ...]:
        timeline = self.timeline
        total = float(timeline.last[row] - timeline.first[row])
        gaps = self.gaps.of_row(self.run, row)
        if not math.isfinite(total) or not len(gaps.left):
            return ()
        beside = np.where(gaps.streams > 0, gaps.streams, np.maximum(gaps.begun, 1))
        beside = np.minimum(beside, self._in_slots(int(beside.max())))
        usual = np.array([step_time(self.steps, float(each)) for each in beside])
        if not np.isfinite(usual).all():
            return (TimePart(time_parts.REST, total),)
        gap = np.array([self._busy(*each) for each in zip(gaps.left, gaps.right, strict=True)])
        stood = float((gaps.right - gaps.left - gap).sum())
        held = gaps.held & (gap > usual)
        alone = step_time(self.steps, 1.0) if any(each.streams == 1 for each in self.steps.times) else math.nan
        stalled = self._stalls(row, gaps.left[held], gaps.right[held], (gap - usual)[held])
        plain, left = float(usual.sum()), max(total - stalled.seconds - stood, 0.0)
        faster = plain - left > FASTER * total  # then the usual steps tell nothing of these
        parts = [TimePart(time_parts.STEPS, left if faster else plain, streams=int(beside.max()))]
        if not faster and math.isfinite(alone) and plain > alone * len(gap):
            parts = [
                TimePart(time_parts.STEPS, alone * len(gap)),
                TimePart(time_parts.SHARED, plain - alone * len(gap), streams=int(beside.max())),
            ]
        parts += [each for each in (stalled, TimePart(time_parts.PAUSE, stood)) if each.seconds >= LEAST_S]
        return (*parts, TimePart(time_parts.REST, total - sum(part.seconds for part in parts)))

    def _stalls(self, row: int, left: FloatArray, right: FloatArray, excess: FloatArray) -> TimePart:
        """Return what the gaps of a stream lost to prompts that were read in them."""
        found: dict[int, float] = {}
        inferred = False
        for low, high, lost in zip(left, right, excess, strict=True):
            windows = prompt_windows(self.timeline, self.steps, self._near(row, float(low), float(high)))
            shares, _ = shared_out(float(low), float(high), windows)
            total = sum(shares.values())
            for other, spent in shares.items():
                found[other] = found.get(other, 0.0) + float(lost) * spent / total
                inferred |= not bool(self.timeline.told[other])
        # Of gaps that scatter only the longer ones are here: a stream lost no more in all than its stall.
        share = min(float(self.run.column("stall_s")[row]) / max(sum(found.values()), 1e-9), 1.0)
        found = {other: spent * share for other, spent in found.items()}
        return TimePart(time_parts.STALL, sum(found.values()), self._causes(found, time_parts.PROMPTS), inferred)
