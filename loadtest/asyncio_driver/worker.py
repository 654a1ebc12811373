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
from typing import TypeAlias

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
    """What a worker and its parent say in one word."""

    LEVEL_READY = auto()  # a worker: the level is prepared
    WARM = auto()  # a worker: its users have ended their first sessions; the parent to all: all users have
    STOP = auto()  # the parent: end now, keep what has ended


@dataclass(frozen=True, slots=True)
class Begin:
    """The parent's answer to LEVEL_READY: when all begin, monotonic ns."""

    at: int


@dataclass(frozen=True, slots=True)
class CountingBegan:
    """Both ways: when a worker's first counted request was released, monotonic ns."""

    at: int


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Both ways: a worker gave the level up, and the others do so as well."""

    why: str


@dataclass(frozen=True, slots=True)
class LevelOver:
    """A worker to its parent: its part of a level is over."""

    span: LevelSpan


@dataclass(frozen=True, slots=True)
class GoOn:
    """The parent's answer to LevelOver: the next level, None where there is none."""

    level: Level | None


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's last word, when its files are complete."""

    spans: Sequence[LevelSpan]
    clock_steps: int
    failure: str | None = None  # why it could not keep all that it measured


Message: TypeAlias = Part | Word | Begin | CountingBegan | Hopeless | LevelOver | GoOn | Ended | Progress


def send_message(writer: asyncio.StreamWriter, message: Message) -> None:
    """Send without waiting; a message to a process that is gone is dropped."""
    body = pickle.dumps(message, protocol=5)
    if not writer.is_closing():
        writer.write(len(body).to_bytes(4, "big") + body)


async def receive_message(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message, None when the other side is gone."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        message: Message = pickle.loads(await reader.readexactly(size))  # noqa: S301 - our own process wrote it
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


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
        simulated = next(filter(None, (one.target.server.simulated for one in part.targets)), None)
        writer = folder.record_writer(part.clock, worker=str(share.worker), simulated=simulated)
        records = stack.enter_context(closing(writer))
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
    part = await receive_message(reader)
    if not isinstance(part, Part):
        return  # the parent is gone already
    parent = _Parent(writer)
    in_step = InStep(
        agree=parent.agree,
        counting_began=lambda t: send_message(writer, CountingBegan(t)),
        hopeless=lambda why: send_message(writer, Hopeless(why)),
        warm=lambda: send_message(writer, Word.WARM),
    )
    async with driver_of(part, lambda progress: send_message(writer, progress), in_step=in_step) as driver:
        listening = asyncio.create_task(parent.listen(reader, driver))
        try:
            spans = await driver.run(parent.following)
        finally:
            listening.cancel()
    send_message(writer, Ended(spans, driver.facts()["clock_steps"], driver.failure))
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


class _Parent:
    """Passes the driver's questions to the parent, and stops the driver when told to or when the parent is gone."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._orders: asyncio.Queue[Begin | GoOn | Word] = asyncio.Queue()

    async def listen(self, reader: asyncio.StreamReader, driver: Driver) -> None:
        while True:
            message = await receive_message(reader)
            if isinstance(message, CountingBegan):
                driver.counted_elsewhere(message.at)
            elif isinstance(message, Hopeless):
                driver.give_up(message.why)
            elif message is Word.WARM:
                driver.all_warm()
            elif isinstance(message, Begin | GoOn):
                self._orders.put_nowait(message)
            else:
                driver.stop()
                self._orders.put_nowait(Word.STOP)
                return

    async def agree(self) -> int:
        """Say that the level is prepared; return when it begins, at once where it will not."""
        send_message(self._writer, Word.LEVEL_READY)
        order = await self._orders.get()
        return order.at if isinstance(order, Begin) else now()

    async def following(self, spans: Sequence[LevelSpan]) -> Level | None:
        """Say that the level is over; return the next one."""
        send_message(self._writer, LevelOver(spans[-1]))
        order = await self._orders.get()
        return order.level if isinstance(order, GoOn) else None
