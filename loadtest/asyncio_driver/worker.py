"""One driver process: its wire, its files and its driver; beside others it keeps step with them, told by their parent.

Parent and worker talk over a socket pair in pickles, each behind its length. A worker ends when its parent does.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from loadtest.asyncio_driver.driver import Driver, InStep
from loadtest.measure.interruption import SIGNALS
from loadtest.measure.progress import Progress, Span
from loadtest.measure.schedule import Share
from loadtest.records import Clock
from loadtest.run_folder import RunFolder
from loadtest.scenario import Level
from loadtest.target.connect import timeouts_of, trust
from loadtest.target.target import Target
from loadtest.wire import AsyncWire, Posts, keeper, now
from loadtest.workloads.synthetic import Workload


@dataclass(frozen=True, slots=True)
class Part:
    """What a driver process does: its share of a workload, and the anchor that all of them count from."""

    folder: Path
    clock: Clock
    workload: Workload
    target: Target
    share: Share = field(default_factory=Share)


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker to its parent: the level is prepared."""


@dataclass(frozen=True, slots=True)
class Go:
    """The answer to it: when all begin, monotonic ns."""

    at: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Either way: a worker's first counted request was released, monotonic ns."""

    at: int


@dataclass(frozen=True, slots=True)
class Hopeless:
    """Either way: a worker gave the level up, and so do the others."""

    why: str


@dataclass(frozen=True, slots=True)
class Passed:
    """A worker to its parent: its part of a level is over."""

    span: Span


@dataclass(frozen=True, slots=True)
class Next:
    """The answer to it; None: there is no other level."""

    level: Level | None


@dataclass(frozen=True, slots=True)
class Stop:
    """A parent to its worker: end now, keep what has ended."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker's last word, when its files are complete."""

    spans: Sequence[Span]
    clock_steps: int
    failure: str | None = None  # why it could not keep all that it measured


Message: TypeAlias = Part | Ready | Go | Counted | Hopeless | Passed | Next | Stop | Ended | Progress


def send(writer: asyncio.StreamWriter, message: Message) -> None:
    """Send without waiting; a message to one that is gone is dropped."""
    body = pickle.dumps(message, protocol=5)
    if not writer.is_closing():
        writer.write(len(body).to_bytes(4, "big") + body)


async def receive(reader: asyncio.StreamReader) -> Message | None:
    """Return the next message, None when the other side is gone."""
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        message: Message = pickle.loads(await reader.readexactly(size))  # noqa: S301 - our own process wrote it
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return message


@asynccontextmanager
async def opened(
    part: Part,
    on_progress: Callable[[Progress], None],
    *,
    before_each: Callable[[], Awaitable[None]] | None = None,
    in_step: InStep | None = None,
) -> AsyncIterator[Driver]:
    """Give the driver of a part, with its wire and its files open."""
    scenario, url, share = part.workload.scenario, part.target.server.url, part.share
    folder = RunFolder(part.folder)
    async with AsyncExitStack() as stack:
        wire = AsyncWire(timeouts=timeouts_of(scenario), verify=trust(scenario.ca_file))
        await stack.enter_async_context(wire)
        stack.enter_context(keeper())
        records = folder.record_writer(part.clock, worker=str(share.worker))
        stack.callback(records.close)
        source = "driver" if share.of == 1 else f"driver-{share.worker}"
        samples = folder.sample_writer(part.clock, source=source)
        stack.callback(samples.close)
        yield Driver(
            workload=part.workload,
            dialect=part.target.dialect,
            counter=part.workload.counter,
            wire=wire,
            posts=Posts(url, part.target.headers),
            url=url,
            records=records,
            samples=samples,
            on_progress=on_progress,
            before_each=before_each,
            share=share,
            in_step=in_step,
        )


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return uvloop's loop where it is installed, else asyncio's own."""
    if sys.platform != "win32":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
            return factory
    return asyncio.new_event_loop


def serve(fd: int) -> None:
    """Be a worker, whose end of the socket pair is `fd`: what is asked for comes over it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # they are the parent's, who says what to do
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(socket.socket(fileno=fd)))


async def _serve(sock: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    part = await receive(reader)
    if not isinstance(part, Part):
        return  # the parent is gone already
    obeying = _Obeying(writer)
    in_step = InStep(
        agree=obeying.agree,
        counted=lambda t: send(writer, Counted(t)),
        hopeless=lambda why: send(writer, Hopeless(why)),
    )
    async with opened(part, lambda progress: send(writer, progress), in_step=in_step) as driver:
        listening = asyncio.create_task(obeying.listen(reader, driver))
        try:
            spans = await driver.run(obeying.following)
        finally:
            listening.cancel()
    send(writer, Ended(spans, driver.facts()["clock_steps"], driver.failure))
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


class _Obeying:
    """Asks the parent where the driver asks, and stops it when told to, or when the parent is gone."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._orders: asyncio.Queue[Go | Next | Stop] = asyncio.Queue()

    async def listen(self, reader: asyncio.StreamReader, driver: Driver) -> None:
        while True:
            message = await receive(reader)
            if isinstance(message, Counted):
                driver.counted_elsewhere(message.at)
            elif isinstance(message, Hopeless):
                driver.give_up(message.why)
            elif isinstance(message, Go | Next):
                self._orders.put_nowait(message)
            else:
                driver.stop()
                self._orders.put_nowait(Stop())
                return

    async def agree(self) -> int:
        """Say that the level is prepared; return when it begins, at once where it will not."""
        send(self._writer, Ready())
        order = await self._orders.get()
        return order.at if isinstance(order, Go) else now()

    async def following(self, spans: Sequence[Span]) -> Level | None:
        """Say that the level is over; return the next one."""
        send(self._writer, Passed(spans[-1]))
        order = await self._orders.get()
        return order.level if isinstance(order, Next) else None
