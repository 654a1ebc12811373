"""The asyncio driver: streams in a closed loop or requests by a schedule, level by level, every request a record."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from loadtest import metrics
from loadtest.asyncio_driver.session_plan import AHEAD, PlannedSession, SessionPlan, Stock, TurnCount
from loadtest.measure.backlog import AsyncioBacklog
from loadtest.measure.failure import FailedInARow, Failure
from loadtest.measure.ledger import Ledger
from loadtest.measure.pacing import Alarm, Permits, back_off
from loadtest.measure.progress import LevelSpan, Progress, Tally
from loadtest.measure.request import Request
from loadtest.measure.request_maker import RequestMaker
from loadtest.records import NOT_SENT, Outcome, Record
from loadtest.run_folder import RecordWriter, SampleWriter
from loadtest.scenario import Level, rotation
from loadtest.targets.prepare import ReadyTarget
from loadtest.wire import AsyncWire, now
from loadtest.workloads.schedule import PlanShare, schedule_of, think_time

TICKS_PER_SAMPLE = 4  # progress is shown four times a second, a sample written once
# Opened before an open loop begins. A server with a thread a connection (llama.cpp's) has few of them, and an idle
# connection holds one: requests on further connections then wait for seconds, though slots are free.
CONNECTIONS = 4
SCHEDULE_LEAD_NS = 20_000_000  # from the end of the warm-up to the first instant of a schedule


# given the levels run so far, returns the next one; None at the end
Following = Callable[[Sequence[LevelSpan]], Awaitable[Level | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class InStep:
    """How one of several processes keeps step with the others."""

    agree: Callable[[], Awaitable[int]]  # once a level is prepared: when all of them begin it, monotonic ns
    counting_began: Callable[[int], object]  # told when this process's first counted request was released
    hopeless: Callable[[str], object]  # told why this process gave the level up
    warm: Callable[[], object]  # told when this process's users have ended their first sessions


class Driver:
    """Runs levels against one or several targets; owns the streams, nothing else.

    `on_progress` is called four times a second on the loop, so it must be quick. `before_each` is awaited before each
    request is released; a stream is free to send only then. `share` is this process's part of the plan, where several take
    part `in_step`.
    """

    def __init__(
        self,
        *,
        targets: Sequence[ReadyTarget],
        wire: AsyncWire,
        records: RecordWriter,
        samples: SampleWriter,
        on_progress: Callable[[Progress], object],
        before_each: Callable[[], Awaitable[None]] | None = None,
        share: PlanShare | None = None,
        in_step: InStep | None = None,
    ) -> None:
        workloads = [one.workload for one in targets]
        self._scenario = workloads[0].scenario
        self._plan = SessionPlan(workloads, rotation([one.weight for one in targets]), share or PlanShare())
        self._textless = not any(one.target.dialect.streams for one in targets)
        self._urls = [one.target.server.url for one in targets]
        self._wire = wire
        self._clock = records.clock
        self._on_progress = on_progress
        self._before_each = before_each
        self._share = self._plan.share
        self._in_step = in_step
        self._backlog = AsyncioBacklog()
        self._ledger = Ledger(
            self._backlog,
            records=records,
            samples=samples,
            stops=(asyncio.CancelledError,),
            on_record=[self._recorded],
            on_broken=lambda _: self.stop(),
        )
        numbers = itertools.count(self._share.worker, self._share.of)  # in the whole plan
        self._makers = [
            RequestMaker(
                one.workload.scenario,
                one.target.dialect,
                one.target.posts,
                one.workload.counter,
                clock=self._clock,
                heartbeat=wire.heartbeat,
                numbers=numbers,
                target=index,
            )
            for index, one in enumerate(targets)
        ]
        self._streams: list[asyncio.Task[None]] = []
        self._turns: TurnCount | None = None  # of a level of conversations in a closed loop
        self._tally: Tally | None = None
        most = self._scenario.stop_after_errors
        self._failed = FailedInARow({} if most is None else dict.fromkeys(range(len(targets)), most))
        self._alarm = Alarm()
        rate = self._scenario.max_rate
        self._permits = None if rate is None else Permits(rate, self._share, self._clock.monotonic_ns)
        self.stopped = False

    @property
    def failure(self) -> str | None:
        """Why this process could not keep all that it measured, one sentence."""
        return self._ledger.failure

    def facts(self) -> dict[str, Any]:
        """Return what run.json says of this process at the end."""
        return {"clock_steps": len(self._wire.heartbeat.wall.steps)}

    def stop(self) -> None:
        """End the run now: what is in flight becomes `cancelled`, what has ended is kept."""
        self.stopped = True
        for stream in self._streams:
            stream.cancel()

    def give_up(self, why: str) -> None:
        """End the level at hand, which is hopeless: what is in flight becomes `cancelled`, the next level goes on."""
        if self._tally is not None and self._tally.given_up is None:
            self._tally.given_up = why
            for stream in self._streams:
                stream.cancel()

    async def run(self, following: Following | None = None) -> list[LevelSpan]:
        """Run every level in order and return when each ran; levels that a stop left out are missing.

        With `following` only the scenario's first level comes from it; each further one is what `following` says, asked
        when nothing is in flight.
        """
        spans: list[LevelSpan] = []
        levels = self._scenario.levels()
        level: Level | None = levels[0]
        gc.disable()  # a full collection in mid-level is a pause of 10-30 ms; one between levels costs nobody anything
        watching = asyncio.create_task(self._watch(0 if following else len(levels)))
        try:
            while level is not None and not self.stopped:
                spans.append(await self._run_level(level))
                if following is None:
                    level = next(iter(levels[len(spans) :]), None)
                elif not self.stopped:
                    self._tally = None  # what is worked out between levels is no level's CPU
                    level = await following(spans)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            gc.enable()
        return spans

    async def _run_level(self, level: Level) -> LevelSpan:
        anchor = self._clock.monotonic_ns
        loop = self._open_loop(level) if level.concurrency is None else self._closed_loop(level, level.concurrency)
        started, results = await loop
        ended = now()
        self._streams, self._turns = [], None
        self._backlog.flush()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        given_up = self._tally.given_up if self._tally is not None else None
        return LevelSpan(level, started - anchor, ended - anchor, given_up)

    async def _closed_loop(self, level: Level, users: int) -> tuple[int, list[BaseException | None]]:
        """Let this process's users each send as soon as they are free; return when they began, and how they ended."""
        plan, own, mine = self._plan, self._plan.users(users), self._plan.targets(users)
        warmups, sessions = plan.of_level(level, users)
        stocks = {target: self._stock(sessions[target], max(64, 2 * mine.count(target))) for target in sessions}
        await self._prepare(mine)
        counted = sum(plan.mine(i, users) for i in range(level.requests))
        started = now()
        if self._in_step is not None:
            started = await self._in_step.agree()
            with Alarm() as alarm:
                await alarm.until(started)
        self._tally = Tally(level, counted + warmups if counted else 0, started, textless=self._textless)
        if self._scenario.has_sessions:
            on_warm = self.all_warm if self._in_step is None else self._in_step.warm
            self._turns = TurnCount(own, self._scenario.warmup, counted if level.requests else None, on_warm)
        begins = [started + after for after in plan.joins(users)]
        with Alarm(self._backlog) as self._alarm:
            streams = zip(own, mine, begins, strict=True)
            return started, await self._all(
                self._stream(user, stocks[target], begin) for user, target, begin in streams
            )

    def all_warm(self) -> None:
        """Let turns count from now on: every process's users have ended their first sessions."""
        if self._turns is not None:
            self._turns.counts = True

    async def _open_loop(self, level: Level) -> tuple[int, list[BaseException | None]]:
        """Warm up with one request after the other, then send each when it is due, whoever still waits."""
        whole = schedule_of(self._scenario, level, self._plan.workloads[0].trace)
        schedule = self._share.pick(whole)
        warmups = list(self._plan.warm_arrivals(level))
        stock = self._stock(self._plan.arrivals(level, len(whole)), AHEAD)
        first = range(min(len(schedule), self._limit or CONNECTIONS))
        await self._prepare([self._plan.target_of(self._share.worker + i * self._share.of) for i in first])
        started = now()
        planned = len(warmups) + len(schedule)
        tally = self._tally = Tally(level, planned, started, schedule=schedule, textless=self._textless)
        with Alarm() as self._alarm:
            results = await self._all([self._stream(None, self._stock(iter(warmups), 0), started)])
            if not self.stopped:
                begin = now() + SCHEDULE_LEAD_NS if self._in_step is None else await self._in_step.agree()
                results += await self._all([self._release(tally, begin, schedule, stock)])
        return started, results

    @property
    def _limit(self) -> int | None:
        limit = self._scenario.max_in_flight
        return None if limit is None else self._share.part(limit)

    async def _prepare(self, targets: Iterable[int]) -> None:
        """Open a connection for each of these, so that no burst has to; a server that is gone shows in the records."""
        connections = Counter(self._urls[target] for target in targets)
        await self._all([self._wire.prepare(url, count) for url, count in connections.items()])
        gc.collect()

    async def _all(self, streams: Iterable[Coroutine[Any, Any, None]]) -> list[BaseException | None]:
        """Run them as tasks, which stop() ends."""
        self._streams = [asyncio.create_task(stream) for stream in streams]
        return await asyncio.gather(*self._streams, return_exceptions=True)

    def _stock(self, sessions: Iterator[PlannedSession], count: int) -> Stock:
        return Stock(self._makers, sessions, count, self._ledger)

    async def _stream(self, user: int | None, stock: Stock, begin: int) -> None:
        """Be one user from `begin` on: send, wait for the whole answer, think, send again.

        t_sched is when the user was free, not when this task woke up: a late loop shows as schedule lag.
        """
        failures, turns = 0, self._turns
        free = now() if turns is None else begin
        if free > now():
            await self._alarm.until(free)
        request: Request | None = None
        begins = turns is None and self._permits is None  # beside others, not one after another
        while not self.stopped:
            request = request or stock.take()
            if request is None or self._time_is_up():
                return
            if self._permits is not None:
                free = max(free, await self._permits.take())
            if self._before_each is not None:
                await self._before_each()
                free = max(free, now())
            if turns is not None and not turns.take(request):
                return
            if not request.job.warmup:
                self._note_counted(free)
                if self._time_is_up():
                    return
            request.t_sched, request.user = free, user
            request.order.in_burst = begins
            begins = False
            await self._send(request)
            failures = failures + 1 if request.plainly_failed else 0
            over = request.received.t_over
            request = self._makers[request.target].following(request)
            if turns is not None and user is not None and request is None:
                turns.session_ended(user)
            request = request or stock.take()
            if request is None or (turns is not None and turns.over):
                return  # nothing left to send: no pause before the end
            free = await self._pause(request, over, failures)

    async def _release(self, tally: Tally, start: int, schedule: Sequence[int], stock: Stock) -> None:
        """Begin every session of a schedule at its instant after `start`, then wait for the last answer.

        A request that cannot leave in time leaves late, with its instant in the record: no later one is put off.
        """
        limit = self._limit
        tally.counted_from = start
        try:
            with Alarm() as alarm:
                async with asyncio.TaskGroup() as answers:
                    for offset in schedule:
                        self._backlog.due = start + offset
                        await alarm.until(start + offset)
                        request = stock.take()
                        assert request is not None, "each instant of a schedule has a session"
                        request.t_sched = start + offset
                        tally.released += 1
                        if limit is None or self._ledger.in_flight < limit:
                            answers.create_task(self._converse(request))
                        else:
                            tally.shed += 1
                            whose = "" if self._share.of == 1 else f" of worker {self._share.worker}"
                            why = f"{NOT_SENT}: {limit} requests{whose} were in flight (--max-in-flight)"
                            request.failure = Failure(Outcome.CANCELLED, why)
                            self._backlog.add(partial(self._ledger.record, request))
                    self._backlog.due = None  # only answers are awaited now
        finally:
            self._backlog.due = None

    async def _converse(self, first: Request) -> None:
        """Send the turns of one session, each as soon as the answer before it is there."""
        request: Request | None = first
        while request is not None:
            await self._send(request)
            over = request.received.t_over
            request = self._makers[request.target].following(request)
            if request is not None:
                request.t_sched = await self._pause(request, over, failures=0)

    async def _pause(self, request: Request, over: int | None, failures: int) -> int:
        """Wait until the user of `request` has thought since the answer before was `over`; return when it is due.

        After failures on the wire, one right after the other, the wait grows: a dead server is not hammered.
        """
        pause = think_time(self._scenario, request.job) + back_off(failures)
        due = (over or now()) + int(pause * metrics.NS_PER_S)
        if pause:
            await self._alarm.until(due)
        return due

    def _note_counted(self, t: int) -> None:
        """Note that a counted request is released at `t`: a level by duration lasts from its first one on."""
        if self._tally is not None and self._tally.count_from(t) and self._in_step is not None:
            self._in_step.counting_began(t)

    def counted_elsewhere(self, t: int) -> None:
        """Take another process's first counted request: a level by duration lasts from the first one of all on."""
        if self._tally is not None:
            self._tally.count_from(t)

    def _time_is_up(self) -> bool:
        """Whether a level by duration has had its time: requests built ahead are then left unsent."""
        return self._tally is not None and self._tally.over(now(), self._scenario.duration)

    async def _send(self, request: Request) -> None:
        """Send one request and wait for the end of its answer, however it ends; the record follows in a quiet moment."""
        ledger = self._ledger
        ledger.begin(request)
        try:
            await self._wire.fetch(request.order)
        except BaseException as error:
            ledger.end(request, error)
            if not isinstance(error, Exception):
                raise
        else:
            ledger.end(request)
        finally:
            self._backlog.add(partial(ledger.record, request))

    def _recorded(self, _: str, record: Record) -> None:
        """Count a record, and give the level up where too many in a row were failures."""
        if self._tally is None:
            return
        self._tally.add(record)
        if (why := self._failed.hopeless(record)) is not None:
            self.give_up(why)
            if self._in_step is not None:
                self._in_step.hopeless(why)

    async def _watch(self, levels: int) -> None:
        """Show progress four times a second, and write what the driver sees of itself once a second."""
        tick = 0
        while True:
            await asyncio.sleep(1 / TICKS_PER_SAMPLE)
            if self._tally is None:
                tick = 0
                self._ledger.skip_cpu()
                self._wire.heartbeat.take()
                continue
            progress = self._tally.progress(
                now(),
                levels=levels,
                in_flight=self._ledger.in_flight,
                decoding=self._ledger.decoding,
                duration=self._scenario.duration,
            )
            with suppress(OSError):  # whoever looked on may be gone; the run goes on
                self._on_progress(progress)
            tick += 1
            if tick % TICKS_PER_SAMPLE == 0:
                self._ledger.sample(self._tally.level.index, self._wire.heartbeat.take())
