"""One driver process: its wire, its files and its driver; several keep step, as their parent tells them.

Parent and worker talk over a socket pair in pickles, each behind its length. A worker ends when its parent does.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from loadtest.asyncio_driver.driver import Driver, InStep
from loadtest.measure.interruption import SIGNALS
from loadtest.measure.progress import LevelSpan, Progress
from loadtest.records import Clock
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level, Scenario
from loadtest.targets.prepare import ReadyTarget
from loadtest.wire import AsyncWire, kernel_stamping, now
from loadtest.workloads.schedule import PlanShare


@dataclass(frozen=True, slots=True)
class Part:
    """What a driver process does: its share of what is sent to all targets, and the anchor that all processes count from."""

    folder: RunFolder
    clock: Clock
    targets: tuple[ReadyTarget, ...]
    share: PlanShare = field(default_factory=PlanShare)

    @property
    def scenario(self) -> Scenario:
        return self.targets[0].workload.scenario


class Word(Enum):
    """What a worker and its parent say to each other, with what comes with it."""

    PART = auto()  # the parent, first of all: the Part
    LEVEL_READY = auto()  # a worker: the level is prepared
    BEGIN = auto()  # the parent's answer: when all begin, monotonic ns
    COUNTING_BEGAN = auto()  # both ways: when a worker's first counted request was released, monotonic ns
    WARM = auto()  # a worker: its users have ended their first sessions; the parent to all: all users have
    PROGRESS = auto()  # a worker: its Progress
    HOPELESS = auto()  # both ways: why a worker gave the level up, and the others do so as well
    LEVEL_OVER = auto()  # a worker: the LevelSpan of its part of a level
    GO_ON = auto()  # the parent's answer: the next Level, None where there is none
    STOP = auto()  # the parent: end now, keep what has ended
    ENDED = auto()  # a worker's last word, when its files are complete: its spans, clock steps and failure


def send_message(writer: asyncio.StreamWriter, word: Word, value: object = None) -> None:
    """Send without waiting; a message to a process that is gone is dropped."""
    body = pickle.dumps((word, value), protocol=5)
    if not writer.is_closing():
        writer.write(len(body).to_bytes(4, "big") + body)


async def receive_message(reader: asyncio.StreamReader) -> tuple[Word | None, Any]:
    """Return the next word and what comes with it, twice None when the other side is gone."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        word, value = pickle.loads(await reader.readexactly(size))  # noqa: S301 - our own process wrote it
    except (asyncio.IncompleteReadError, ConnectionError):
        return None, None
    return word, value


@asynccontextmanager
async def driver_of(
    part: Part,
    on_progress: Callable[[Progress], object],
    *,
    before_each: Callable[[], Awaitable[None]] | None = None,
    in_step: InStep | None = None,
) -> AsyncIterator[Driver]:
    """Give the driver of a part, with its wire and its files open."""
    scenario, share, folder = part.scenario, part.share, part.folder
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(AsyncWire.of(scenario))
        stack.enter_context(kernel_stamping())
        records = stack.enter_context(closing(folder.record_writer(part.clock, worker=str(share.worker))))
        source = "driver" if share.of == 1 else f"driver-{share.worker}"
        samples = stack.enter_context(closing(folder.sample_writer(part.clock, source=source)))
        yield Driver(
            targets=part.targets,
            wire=wire,
            records=records,
            samples=samples,
            on_progress=on_progress,
            before_each=before_each,
            share=share,
            in_step=in_step,
        )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def run_worker(fd: int) -> None:
    """Be a worker; `fd` is its end of the socket pair over which the parent talks to it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # signals are for the parent, who tells its workers what to do
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve_parent(socket.socket(fileno=fd)))


async def _serve_parent(sock: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    word, part = await receive_message(reader)
    if word is not Word.PART:
        return  # the parent is gone already
    parent = _Parent(writer)
    in_step = InStep(
        agree=parent.agree,
        counting_began=lambda t: send_message(writer, Word.COUNTING_BEGAN, t),
        hopeless=lambda why: send_message(writer, Word.HOPELESS, why),
        warm=lambda: send_message(writer, Word.WARM),
    )
    async with driver_of(
        part, lambda progress: send_message(writer, Word.PROGRESS, progress), in_step=in_step
    ) as driver:
        listening = asyncio.create_task(parent.listen(reader, driver))
        try:
            spans = await driver.run(parent.following)
        finally:
            listening.cancel()
    send_message(writer, Word.ENDED, (spans, driver.facts()["clock_steps"], driver.failure))
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


class _Parent:
    """Passes the driver's questions to the parent, and stops the driver when told to or when the parent is gone."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._orders: asyncio.Queue[tuple[Word, Any]] = asyncio.Queue()

    async def listen(self, reader: asyncio.StreamReader, driver: Driver) -> None:
        while True:
            match await receive_message(reader):
                case Word.COUNTING_BEGAN, at:
                    driver.counted_elsewhere(at)
                case Word.HOPELESS, why:
                    driver.give_up(why)
                case Word.WARM, _:
                    driver.all_warm()
                case (Word.BEGIN | Word.GO_ON) as word, value:
                    self._orders.put_nowait((word, value))
                case _:
                    driver.stop()
                    self._orders.put_nowait((Word.STOP, None))
                    return

    async def agree(self) -> int:
        """Say that the level is prepared; return when it begins, at once where it will not."""
        send_message(self._writer, Word.LEVEL_READY)
        word, at = await self._orders.get()
        return at if word is Word.BEGIN else now()

    async def following(self, spans: Sequence[LevelSpan]) -> Level | None:
        """Say that the level is over; return the next one."""
        send_message(self._writer, Word.LEVEL_OVER, spans[-1])
        word, level = await self._orders.get()
        return level if word is Word.GO_ON else None
