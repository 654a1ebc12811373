"""The asyncio driver: N streams in a closed loop, level by level, every request a record."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import itertools
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import httpx
from asyncio_throttle.throttler import Throttler

from loadtest import metrics
from loadtest.measure.backlog import Backlog
from loadtest.measure.dialects.base import Dialect
from loadtest.measure.exchange import Exchange
from loadtest.measure.tokens import Counter
from loadtest.measure.wire import AsyncWire, now
from loadtest.measure.workload import Job, Workload
from loadtest.records import Outcome, Record, RecordWriter, SampleWriter
from loadtest.scenario import Level

TICKS_PER_SAMPLE = 4  # progress is shown four times a second, a sample written once
BACK_OFF_S = 0.25  # pause of a stream after a failure, so that a dead server is not hammered


@dataclass(frozen=True, slots=True)
class Progress:
    """What a person wants to see while a level runs."""

    level: Level
    levels: int  # 0 where it is not known how many there will be
    done: int
    failed: int
    planned: int  # 0 with a duration
    in_flight: int
    decoding: int
    ttft_p50: float | None  # s
    tokens_per_s: float
    elapsed: float  # s, in this level
    eta: float | None  # s, to the end of this level

    @property
    def waiting(self) -> int:
        """Requests without a content event yet."""
        return self.in_flight - self.decoding


@dataclass(slots=True)
class Tally:
    """What is known of a level while it runs."""

    level: Level
    planned: int
    started: int  # ns
    counted_from: int | None = None  # ns: release of the first request that is not warm-up
    done: int = 0
    failed: int = 0
    output_tokens: int = 0
    ttfts: deque[float] = field(default_factory=lambda: deque(maxlen=400))

    def add(self, record: Record) -> None:
        self.done += 1
        self.failed += record.outcome is not Outcome.OK
        self.output_tokens += record.output_tokens or 0
        if record.t_first_token is not None and not record.warmup:
            self.ttfts.append(metrics.ttft(record.t_first_token, record.t_send))


@dataclass(frozen=True, slots=True)
class Span:
    """When a level ran, ns since the run's anchor."""

    level: Level
    started_ns: int
    ended_ns: int


Following = Callable[[Sequence[Span]], Awaitable[Level | None]]  # from the levels run so far: the next, None at the end


@dataclass(frozen=True, slots=True)
class Ready:
    """A request built ahead of its release."""

    exchange: Exchange
    request: httpx.Request


class Driver:
    """Runs levels against one server; owns the streams, nothing else.

    `client` must use `wire` as its transport. `on_progress` is called four times a second on the loop, so it must be
    quick.
    """

    def __init__(
        self,
        *,
        workload: Workload,
        dialect: Dialect,
        counter: Counter,
        client: httpx.AsyncClient,
        wire: AsyncWire,
        url: str,
        records: RecordWriter,
        samples: SampleWriter,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._scenario = workload.scenario
        self._workload = workload
        self._dialect = dialect
        self._counter = counter
        self._client = client
        self._wire = wire
        self._url = url
        self._records = records
        self._samples = samples
        self._on_progress = on_progress
        self._backlog = Backlog()
        self._active: set[Exchange] = set()
        self._next_id = 0
        self._streams: list[asyncio.Task[None]] = []
        self._tally: Tally | None = None
        self._permits: asyncio.Queue[None] | None = None
        self.stopped = False

    def stop(self) -> None:
        """End the run now: what is in flight becomes `cancelled`, what has ended is kept."""
        self.stopped = True
        for stream in self._streams:
            stream.cancel()

    async def run(self, following: Following | None = None) -> list[Span]:
        """Run every level in order and return when each ran; levels that a stop left out are missing.

        With `following` only the scenario's first level comes from it; each further one is what `following` says, asked
        when nothing is in flight.
        """
        spans: list[Span] = []
        levels = self._scenario.levels()
        level: Level | None = levels[0]
        gc.disable()  # a full collection in mid-level is a pause of 10-30 ms; one between levels costs nobody anything
        background = [asyncio.create_task(self._watch(0 if following else len(levels)))]
        if self._scenario.max_rate is not None:
            self._permits = asyncio.Queue(maxsize=1)
            background.append(asyncio.create_task(_issue(self._permits, self._scenario.max_rate)))
        try:
            while level is not None and not self.stopped:
                spans.append(await self._run_level(level))
                if following is None:
                    level = next(iter(levels[len(spans) :]), None)
                elif not self.stopped:
                    self._tally = None  # what is worked out between levels is no level's CPU
                    level = await following(spans)
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            gc.enable()
        return spans

    async def _run_level(self, level: Level) -> Span:
        warmups = level.concurrency * self._scenario.warmup
        source = self._plan(level, warmups)
        ahead = deque(self._take(source, max(64, 2 * level.concurrency)))
        self._streams = [asyncio.create_task(self._wire.prepare(self._url, level.concurrency))]  # stop() ends it too
        await asyncio.gather(*self._streams, return_exceptions=True)  # a server that is gone shows in the records
        gc.collect()
        anchor = self._records.clock.monotonic_ns
        planned = warmups + level.requests if level.requests else 0
        started = now()
        self._tally = Tally(level, planned, started)
        self._streams = [asyncio.create_task(self._stream(ahead, source)) for _ in range(level.concurrency)]
        results = await asyncio.gather(*self._streams, return_exceptions=True)
        ended = now()
        self._streams = []
        self._backlog.flush()
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result
        return Span(level, started - anchor, ended - anchor)

    def _plan(self, level: Level, warmups: int) -> Iterator[Job]:
        """Yield the level's jobs: a warm-up for each stream, then the counted ones until number or time is up."""
        for i in range(warmups):
            yield self._numbered(self._workload.job(level, i, warmup=True))
        if self._scenario.duration is None:
            for i in range(level.requests):
                yield self._numbered(self._workload.job(level, i))
            return
        for i in itertools.count():  # until _over
            yield self._numbered(self._workload.job(level, i))

    def _numbered(self, job: Job) -> Job:
        """Give the job its ordinal in the whole plan."""
        self._next_id += 1
        return dataclasses.replace(job, id=self._next_id - 1)

    def _take(self, source: Iterator[Job], count: int) -> Iterator[Ready]:
        for _, job in zip(range(count), source, strict=False):
            yield self._build(job)

    def _build(self, job: Job) -> Ready:
        exchange = Exchange(job, self._dialect, self._records.clock, now())  # t_sched is set at release
        path, body = self._dialect.encode(job)
        request = self._client.build_request(
            "POST",
            f"{self._url}{path}",
            content=body,
            extensions={"arrivals": exchange.arrivals},
        )
        return Ready(exchange, request)

    async def _stream(self, ahead: deque[Ready], source: Iterator[Job]) -> None:
        """One user: send, wait for the whole answer, think, send again.

        t_sched is when the user was free, not when this task woke up: a late loop shows as schedule lag.
        """
        failures = 0
        free = now()
        while not self.stopped:
            if not ahead:
                ahead.extend(self._take(source, 1))
            if not ahead or self._over():
                return
            ready = ahead.popleft()
            if self._permits is not None:
                await self._permits.get()
                free = max(free, now())
            if not ready.exchange.job.warmup:
                self._count_from(free)
                if self._over():
                    return
            ready.exchange.t_sched = free
            failures = failures + 1 if await self._exchange(ready) is not None else 0
            self._backlog.add(lambda: ahead.extend(self._take(source, 1)))
            if not ahead and self._scenario.duration is None:
                continue  # nothing left to send: no pause before the end
            pause = self._scenario.think_time + min(BACK_OFF_S * failures, 1.0)
            free = (ready.exchange.arrivals.t_end or now()) + int(pause * 1e9)
            if pause:
                await asyncio.sleep((free - now()) * metrics.NS)

    def _count_from(self, t: int) -> None:
        """A level by duration lasts from its first counted request on: its warm-up is not part of it."""
        if self._tally is not None and self._tally.counted_from is None:
            self._tally.counted_from = t

    def _over(self) -> bool:
        """Whether a level by duration has had its time: requests built ahead are then left unsent."""
        if self._scenario.duration is None or self._tally is None or self._tally.counted_from is None:
            return False
        return now() >= self._tally.counted_from + int(self._scenario.duration * 1e9)

    async def _exchange(self, ready: Ready) -> Outcome | None:
        """Send one request and see its answer to the end; return why it failed on the wire, None when it did not."""
        exchange = ready.exchange
        self._active.add(exchange)
        outcome: Outcome | None = None
        error: str | None = None
        self._backlog.released(now())
        try:
            response = await self._client.send(ready.request, stream=True)
            try:
                await response.extensions["answer"].finish()
            finally:
                await response.aclose()
                response.stream = httpx.ByteStream(b"")  # httpx ties the two in a circle that only a collector frees
            if exchange.arrivals.status != 200:
                return Outcome.HTTP_ERROR
        except asyncio.CancelledError:
            outcome, error = Outcome.CANCELLED, "stopped by us"
            raise
        except (httpx.ConnectError, httpx.ConnectTimeout) as failure:
            outcome, error = Outcome.CONNECT_ERROR, str(failure)
        except httpx.TimeoutException as failure:
            outcome, error = Outcome.TIMEOUT, str(failure)
        except httpx.TransportError as failure:
            outcome, error = Outcome.TRUNCATED, str(failure)
        finally:
            self._active.discard(exchange)
            self._backlog.add(partial(self._finish, exchange, outcome, error))
        return outcome

    def _finish(self, exchange: Exchange, outcome: Outcome | None, error: str | None) -> None:
        """Turn an ended exchange into its one record, on disk; the answer decides where the driver knows no outcome."""
        record = exchange.record(
            exchange.arrivals.reads(self._wire.wall, self._wire.lag),
            outcome=outcome,
            error=error,
            count=self._counter.count if self._counter.exact else None,
            save_text=self._scenario.save_text,
        )
        self._records.write(record)
        if self._tally is not None:
            self._tally.add(record)

    async def _watch(self, levels: int) -> None:
        """Show progress four times a second, and write what the driver sees of itself once a second."""
        tick = 0
        cpu, at = time.process_time_ns(), now()
        anchor = self._samples.clock.monotonic_ns
        while True:
            await asyncio.sleep(1 / TICKS_PER_SAMPLE)
            if self._tally is None:
                tick, cpu, at = 0, time.process_time_ns(), now()
                self._wire.heartbeat.take()
                continue
            decoding = sum(exchange.decoding for exchange in self._active)
            self._on_progress(self._progress(self._tally, levels, decoding))
            tick += 1
            if tick % TICKS_PER_SAMPLE == 0:
                cpu_now, t = time.process_time_ns(), now()
                sample = {
                    "t": t - anchor,
                    "level": self._tally.level.index,
                    "in_flight": len(self._active),
                    "decoding": decoding,
                    "waiting": len(self._active) - decoding,
                    "loop_gap_us": self._wire.heartbeat.take() // 1000,
                    "cpu": round((cpu_now - cpu) / (t - at), 4),
                }
                cpu, at = cpu_now, t
                self._samples.write(sample)

    def _progress(self, tally: Tally, levels: int, decoding: int) -> Progress:
        elapsed = (now() - tally.started) * metrics.NS
        eta: float | None = None
        if self._scenario.duration is not None:
            counted = (now() - (tally.counted_from or now())) * metrics.NS
            eta = max(0.0, self._scenario.duration - counted)
        elif tally.done:
            eta = elapsed / tally.done * (tally.planned - tally.done)
        return Progress(
            level=tally.level,
            levels=levels,
            done=tally.done,
            failed=tally.failed,
            planned=tally.planned,
            in_flight=len(self._active),
            decoding=decoding,
            ttft_p50=statistics.median(tally.ttfts) if tally.ttfts else None,
            tokens_per_s=tally.output_tokens / elapsed,
            elapsed=elapsed,
            eta=eta,
        )


async def _issue(permits: asyncio.Queue[None], rate: float) -> None:
    """Hand out one permit every 1/rate seconds.

    asyncio-throttle releases a whole period's budget at once and rounds rates below one up, and every waiter polls; so
    one task asks it for one permit per 1/rate, and the streams wait on the queue.
    """
    throttler = Throttler(rate_limit=1, period=1 / rate, retry_interval=min(0.01, 1 / (4 * rate)))
    while True:
        await throttler.acquire()
        await permits.put(None)
