"""The limit of a server's slots in seconds: bursts of 2, 4, 8 and 16 requests, until one is passed over.

All requests of a burst are sent at once and ask for answers of one length. Where the server has a slot for each, all of
them begin before the first one ends. Where it has fewer, the others begin only when one ends: those at work before that
are all the slots there are. That takes no durations from the server and no batches, only first and last tokens.

A server that reads prompts one after another also begins requests late, and one that got a request late cannot begin it
early. So a burst tells only if, after the last was sent, nobody began for a long time before the first end: twice as long
as usually between two beginnings, or as an idle server takes to begin. A burst that shows a limit is repeated, and both
must show the same one.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loadtest.credentials import redacted
from loadtest.dialects import Dialect
from loadtest.dialects.answers.errors.server_errors import shorten
from loadtest.errors import ScenarioError, TargetError
from loadtest.measure.failure import failure_of
from loadtest.measure.request import Request
from loadtest.metrics import S_PER_NS, S_PER_US
from loadtest.records import TURNED_AWAY, Clock, Outcome, Record
from loadtest.scenario import EMBEDDINGS
from loadtest.targets.target import Target
from loadtest.text import counted, seconds, shown
from loadtest.wire import AsyncWire, now
from loadtest.workloads.workload import Workload

BURSTS = (2, 4, 8, 16)
PROMPT_TOKENS = 8
FEWEST_TOKENS, LONGEST_ANSWER = 16, 64  # of an answer
QUIET = 2  # times the usual time between two beginnings: so long nobody began before the first end
ALONE = 3  # requests to an idle server; the quickest to begin tells what a busy machine did not spoil
WITHOUT_TEXT = "the answer has no token"
MAY_PASS = (Outcome.OK, Outcome.CONNECT_ERROR, Outcome.TRUNCATED)  # of a request that brought no tokens: try again
MOST_REPEATS = 2  # of a burst that shows a limit, at most, until one shows the same


@dataclass(frozen=True, slots=True)
class BurstSeen:
    """What one burst shows: how many were at work before the first one ended, and whether the others were passed over."""

    sent: int
    at_work: int
    limit: int | None  # None: nobody was passed over, or the burst does not tell
    sentence: str
    tells: bool = True  # whether it shows that somebody was passed over, or that nobody was
    hopeless: bool = False  # of a burst that does not tell: whether one with longer answers would not tell either


@dataclass(frozen=True, slots=True)
class SlotProbe:
    """What bursts, or the server itself, say of the slots."""

    limit: int | None  # None: none was seen
    seen: int  # the most requests at work at once
    how: str  # one sentence
    witnesses: tuple[str, ...] = ()
    seconds: float = 0.0
    records: tuple[Record, ...] = field(default=(), repr=False)
    clock: Clock = field(default_factory=Clock.now)  # that the records' instants count from

    @property
    def tokens(self) -> int:
        return sum((record.prompt_tokens or 0) + (record.output_tokens or 0) for record in self.records)

    @property
    def cost(self) -> str:
        if not self.records:
            return "no request was sent"
        return f"{counted(len(self.records), 'request')}, {counted(self.tokens, 'token')}, {seconds(self.seconds)}"

    def to_dict(self) -> dict[str, Any]:
        """Return run.json's `slot_probe`."""
        return {
            "limit": self.limit,
            "seen": self.seen,
            "how": self.how,
            "witnesses": list(self.witnesses),
            "requests": len(self.records),
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }


def probe_slots(target: Target, workload: Workload) -> SlotProbe:
    """Find the limit of the slots; where the server says it no request is sent.

    Raises TargetError where the first request is not answered, ScenarioError where there are no tokens to watch.
    """
    if target.server.slots:
        return SlotProbe(target.server.slots, 0, f"The server says that it has {counted(target.server.slots, 'slot')}.")
    if workload.scenario.endpoint == EMBEDDINGS:
        raise ScenarioError("embeddings come without tokens to watch, so their slots cannot be probed.")
    return asyncio.run(_Probing(target, workload).run())


class _Probing:
    """Sends bursts, and keeps the record of every request."""

    def __init__(self, target: Target, workload: Workload) -> None:
        self._target = target
        self._dialect = full_length(target)
        self._workload = workload
        self._clock = Clock.now()
        self._records: list[Record] = []
        self._witnesses: list[str] = []
        self._begun = now()

    async def run(self) -> SlotProbe:
        """Send single requests to an idle server, then bursts until one is passed over."""
        async with AsyncWire.of(self._workload.scenario) as wire:
            alone: list[Record] = []
            for _ in range(1 + ALONE):  # the first one may load the model
                alone = [*alone[-ALONE + 1 :], *await self._send(wire, 1, FEWEST_TOKENS)]
                _accept(alone[-1], self._target)
            idle = min(map(_ttft, alone))
            most = 1
            for size in BURSTS:
                await wire.prepare(self._target.server.url, size)
                found = await self._telling_burst(wire, size, idle)
                most = max(most, found.at_work)
                if found.limit is not None:
                    agreed = await self._agreed(wire, found, idle)
                    many = "one request at a time" if found.limit == 1 else f"{found.limit} requests in parallel"
                    how = f"The server handles {many}; further requests wait."
                    doubt = f"The limit was not found: bursts of {size} do not agree on one."
                    return self._result(found.limit if agreed else None, most, how if agreed else doubt)
                if not found.tells or found.at_work < size:
                    return self._result(None, most, f"The limit was not found: {found.sentence}.")
        return self._result(None, most, f"No limit seen up to {counted(most, 'request')} at once.")

    def _result(self, limit: int | None, most: int, how: str) -> SlotProbe:
        took = (now() - self._begun) * S_PER_NS
        return SlotProbe(limit, most, how, tuple(self._witnesses), took, tuple(self._records), self._clock)

    async def _telling_burst(self, wire: AsyncWire, size: int, idle: float) -> BurstSeen:
        """Send a burst, and again with the longest answers where it does not tell."""
        found = BurstSeen(size, 0, None, "", tells=False)
        for tokens in (self._tokens(size, idle), LONGEST_ANSWER, LONGEST_ANSWER):
            found = seen_in(await self._send(wire, size, tokens), idle)
            self._witnesses.append(found.sentence)
            if found.tells or found.hopeless:
                break
        return found

    def _tokens(self, size: int, idle: float) -> int:
        """Return how long answers must be, so that all of a burst can begin well before the first one ends."""
        last = self._records[-1]
        gap = _decode_s(last) / max(len(last.chunks) - 1, 1)
        if gap <= 0:
            return LONGEST_ANSWER
        needed = math.ceil((QUIET + size) * idle / gap)
        return min(max(needed, FEWEST_TOKENS), LONGEST_ANSWER)

    async def _agreed(self, wire: AsyncWire, found: BurstSeen, idle: float) -> bool:
        """Repeat a burst that shows a limit; return whether another one shows the same."""
        for _ in range(MOST_REPEATS):
            again = seen_in(await self._send(wire, found.sent, LONGEST_ANSWER), idle)
            if again.limit == found.limit:
                self._witnesses.append(f"another {found.sent} requests sent together showed the same")
                return True
            self._witnesses.append(again.sentence)
        return False

    async def _send(self, wire: AsyncWire, size: int, tokens: int) -> list[Record]:
        """Send so many requests at once, and return their records; the next numbers give the texts."""
        first = len(self._records)
        made = [self._request(wire, first + i, tokens) for i in range(size)]
        sent = now()
        for request in made:
            request.t_sched = sent
        outcomes = await asyncio.gather(*(wire.fetch(request.order) for request in made), return_exceptions=True)
        records = []
        for request, end in zip(made, outcomes, strict=True):
            if isinstance(end, BaseException):
                request.failure = failure_of(end, (asyncio.CancelledError,))
            records.append(request.finish())
        self._records += records
        return records

    def _request(self, wire: AsyncWire, number: int, tokens: int) -> Request:
        job, _ = self._workload.fit_job(number + 1000, PROMPT_TOKENS)  # other texts than those that fit the tokens
        job = replace(job, id=number, level=-1, output_tokens=tokens)
        return Request(job, self._dialect, self._clock, 0, posts=self._target.posts, heartbeat=wire.heartbeat)


def full_length(target: Target) -> Dialect:
    """Return the wire format of the bursts: answers that the model ends early tell nothing, so vLLM and llama.cpp go on."""
    says = target.dialect.says.get("ignore_eos")
    asked = says(True, target.server.kind) if says else None
    return replace(target.dialect, options={**target.dialect.options, **(asked or {})})


def seen_in(records: Sequence[Record], idle: float) -> BurstSeen:
    """Return what the requests of one burst show; `idle` is the TTFT that a server at rest gives, seconds."""
    sent = len(records)
    answered = [record for record in records if record.outcome is Outcome.OK and record.t_first_token and record.chunks]
    if refused := [record for record in records if record.status in TURNED_AWAY]:
        return BurstSeen(
            sent,
            len(answered),
            None,
            f"{len(refused)} of {sent} sent together were turned away with status {refused[0].status}, and {len(answered)} answered",
            tells=False,
            hopeless=True,
        )
    if failed := [record for record in records if record not in answered]:
        why = failed[0].error or (WITHOUT_TEXT if failed[0].outcome is Outcome.OK else str(failed[0].outcome))
        told = f"{len(failed)} of {sent} failed ({shown(redacted(shorten(why)))})"
        return BurstSeen(sent, 0, None, told, tells=False, hopeless=any(one.outcome not in MAY_PASS for one in failed))
    begun = sorted((record.t_first_token or 0) * S_PER_NS for record in answered)
    first_end = min(map(_last, answered))
    early = [at for at in begun if at < first_end]
    at_work = len(early)
    shortest = min(map(_decode_s, answered))
    pauses = [later - one for one, later in itertools.pairwise(early)]
    sent_by = max((record.t_send or 0) * S_PER_NS for record in answered)
    quiet = first_end - max(early[-1], sent_by) if early else 0.0
    usual = max(idle, statistics.median(pauses) if pauses else 0.0)
    if at_work == sent:
        everyone = "both requests" if sent == 2 else f"all {counted(sent, 'request')}"
        together = f"{everyone} sent together got their first token before the first answer ended"
        return BurstSeen(sent, sent, None, together)
    if not at_work:
        told = f"of {sent} requests sent together, none is known to have begun before the first one ended"
        return BurstSeen(sent, 0, None, f"{told}: answers are too short to tell", tells=False)
    passed_over = _passed_over(sent, at_work)
    if quiet < QUIET * usual:
        return BurstSeen(
            sent,
            at_work,
            None,
            f"{passed_over}, but answers last {seconds(shortest)}, which is too short beside {seconds(usual)} that a "
            "request takes to begin",
            tells=False,
        )
    return BurstSeen(sent, at_work, at_work, f"{passed_over}, and so waited {seconds(quiet)} or more")


def _passed_over(sent: int, at_work: int) -> str:
    """Say that the others of a burst began only when one of those at work had ended."""
    one, others = at_work == 1, sent - at_work
    return (
        f"of {sent} requests sent together, {at_work} got {'its' if one else 'their'} first token; "
        f"the other{f' {others}' if others > 1 else ''} got none until "
        f"{'that answer' if one else 'the first of these answers'} ended"
    )


def _accept(record: Record, target: Target) -> None:
    if record.outcome is not Outcome.OK or not record.chunks:
        why = shown(redacted(shorten(record.error or WITHOUT_TEXT)))
        raise TargetError(f"{target.server.url} did not answer a request of the slot probe: {why}.")


def _ttft(record: Record) -> float:
    return ((record.t_first_token or 0) - (record.t_send or 0)) * S_PER_NS


def _last(record: Record) -> float:
    return (record.t_send or 0) * S_PER_NS + record.chunks[-1] * S_PER_US


def _decode_s(record: Record) -> float:
    return (record.chunks[-1] - record.chunks[0]) * S_PER_US
