"""Several driver processes that share one plan: their parent starts them, keeps them in step and adds up what they say."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

from loadtest.asyncio_driver.driver import SCHEDULE_LEAD_NS, TICKS_PER_SAMPLE, Following
from loadtest.asyncio_driver.worker import (
    Begin,
    CountingBegan,
    Ended,
    GoOn,
    Hopeless,
    LevelOver,
    Message,
    Part,
    Word,
    receive_message,
    send_message,
)
from loadtest.errors import WorkerError
from loadtest.measure.progress import LevelSpan, Progress
from loadtest.scenario import Level
from loadtest.wire import now
from loadtest.workloads.schedule import PlanShare

DYING_S = 1.0  # how long a process may take to end after its socket closed

Child: TypeAlias = tuple[subprocess.Popen[bytes], socket.socket]  # a process, and our end of the line to it


class Phase(IntEnum):
    """How far a worker is with the level at hand."""

    PREPARING = 0
    READY = 1
    PASSED = 2
    ENDED = 3  # and its files are complete
    DIED = 4


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """One of the processes, as its parent sees it."""

    share: PlanShare
    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    phase: Phase = Phase.PREPARING
    progress: Progress | None = None
    warm: bool = False  # its users have ended their first sessions of the level at hand
    spans: dict[int, LevelSpan] = field(default_factory=dict)  # by level
    clock_steps: int = 0
    failure: str | None = None  # why it could not keep all that it measured
    died: dict[str, Any] | None = None  # run.json's: how it ended before its part of the plan did

    @property
    def at_work(self) -> bool:
        return self.phase < Phase.ENDED

    def note_idle(self) -> None:
        if self.progress is not None:
            self.progress = replace(self.progress, in_flight=0, decoding=0, eta=None)

    def lost(self, level: Level) -> str:
        """Say what of a level is missing without this worker."""
        if level.concurrency is None:
            return f"one request in every {self.share.of} is missing"
        mine = self.share.part(level.concurrency)
        if mine == 0:
            return "no stream of this level was its own; those of larger levels are missing"
        return f"its {mine} of {level.concurrency} streams {'are' if mine != 1 else 'is'} missing"


class Workers:
    """Runs levels in several processes at once, as Driver does in one.

    `say` is told of a worker's death. `on_progress` is given what all of them say together, four times a second.
    """

    def __init__(
        self,
        part: Part,
        processes: Sequence[WorkerProcess],
        *,
        say: Callable[[str], object],
        on_progress: Callable[[Progress], object],
    ) -> None:
        self._scenario = part.scenario
        self._anchor = part.clock.monotonic_ns
        self._workers = processes
        self._say = say
        self._on_progress = on_progress
        self._changed = asyncio.Event()
        self._level = self._scenario.levels()[0]
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self._tell(Word.STOP)

    @property
    def failure(self) -> str | None:
        reasons = [f"worker {one.share.worker}: {one.failure}" for one in self._workers if one.failure is not None]
        return " ".join(reasons) or None

    def facts(self) -> dict[str, Any]:
        return {
            "clock_steps": max(worker.clock_steps for worker in self._workers),
            "workers": [
                {
                    "worker": worker.share.worker,
                    "pid": worker.process.pid,
                    **({"died": worker.died} if worker.died is not None else {}),
                }
                for worker in self._workers
            ],
        }

    async def run(self, following: Following | None = None) -> list[LevelSpan]:
        """Run every level in order, as Driver.run; raise WorkerError when no process is left."""
        levels = self._scenario.levels()
        spans: list[LevelSpan] = []
        background = [asyncio.create_task(self._listen(worker)) for worker in self._workers]
        background.append(asyncio.create_task(self._show(0 if following else len(levels))))
        try:
            level: Level | None = levels[0]
            while level is not None and not self.stopped:
                self._level = level
                await self._all_at(Phase.READY)
                self._tell(Begin(now() + SCHEDULE_LEAD_NS))
                await self._all_at(Phase.PASSED)
                spans = self._spans()
                if self.stopped or not any(worker.at_work for worker in self._workers):
                    break
                if following is None:
                    level = next(iter(levels[level.index + 1 :]), None)
                else:
                    level = await following(spans)
                self._begin(level)
            await self._all_at(Phase.ENDED)
        finally:
            for task in background:
                task.cancel()
        if all(worker.died is not None for worker in self._workers):
            raise WorkerError("every worker has died; what they had recorded is kept.")
        return self._spans()

    def _begin(self, level: Level | None) -> None:
        for worker in self._workers:
            worker.progress, worker.warm = None, False
            if worker.at_work:
                worker.phase = Phase.PREPARING
        self._tell(GoOn(level))

    def _let_turns_count(self) -> None:
        """Tell all workers once the users of every one that is left have ended their first sessions."""
        if all(worker.warm for worker in self._workers if worker.at_work):
            self._tell(Word.WARM)

    def _tell(self, message: Message, *, but: WorkerProcess | None = None) -> None:
        for worker in self._workers:
            if worker.at_work and worker is not but:
                send_message(worker.writer, message)

    async def _all_at(self, phase: Phase) -> None:
        """Wait until every worker has come to this phase, or will not."""
        while any(worker.phase < phase for worker in self._workers):
            self._changed.clear()
            await self._changed.wait()

    async def _listen(self, worker: WorkerProcess) -> None:
        while (message := await receive_message(worker.reader)) is not None:
            match message:
                case Word.LEVEL_READY:
                    worker.phase = Phase.READY
                case LevelOver(span):
                    worker.phase = Phase.PASSED
                    worker.note_idle()
                    worker.spans[span.level.index] = span
                case CountingBegan() | Hopeless():
                    self._tell(message, but=worker)
                case Word.WARM:
                    worker.warm = True
                    self._let_turns_count()
                case Ended(spans, steps, failure):
                    worker.phase, worker.clock_steps, worker.failure = Phase.ENDED, steps, failure
                    if failure is not None and not self.stopped:
                        self.stop()
                    worker.spans |= {span.level.index: span for span in spans}
                case Progress():
                    worker.progress = message
            self._changed.set()
        if worker.at_work:
            await self._bury(worker)
            self._changed.set()

    async def _bury(self, worker: WorkerProcess) -> None:
        """Note that a worker has died; say so, and what its death costs."""
        at, time = now() - self._anchor, datetime.datetime.now(datetime.UTC)
        level = self._level.index
        first = level + (level in worker.spans)  # that lacks some of its part
        why = await asyncio.to_thread(_end_of, worker.process)
        worker.died = {"why": why, "level": first, "t": at, "time": time.isoformat(timespec="milliseconds")}
        worker.phase = Phase.DIED
        worker.note_idle()
        self._let_turns_count()
        left = any(one.phase is not Phase.DIED for one in self._workers)
        after = "the other workers go on" if left else "no other worker is left"
        self._say(
            f"worker {worker.share.worker} died ({why}): {worker.lost(self._level)} from {time:%H:%M:%S} UTC on; "
            f"{after}."
        )

    def _spans(self) -> list[LevelSpan]:
        """Return when each level ran: from its first worker's start to its last one's end."""
        levels = {index: span.level for worker in self._workers for index, span in worker.spans.items()}
        found = []
        for index, level in sorted(levels.items()):
            spans = [worker.spans[index] for worker in self._workers if index in worker.spans]
            given_up = next((span.given_up for span in spans if span.given_up is not None), None)
            started, ended = min(span.started_ns for span in spans), max(span.ended_ns for span in spans)
            found.append(LevelSpan(level, started, ended, given_up))
        return found

    async def _show(self, levels: int) -> None:
        while True:
            await asyncio.sleep(1 / TICKS_PER_SAMPLE)
            parts = [worker.progress for worker in self._workers if worker.progress is not None]
            silent = any(worker.progress is None and worker.phase < Phase.PASSED for worker in self._workers)
            if parts and not silent:
                self._on_progress(Progress.together(parts, levels=levels))


@contextmanager
def spawned(count: int) -> Iterator[list[Child]]:
    """Give so many processes that wait to be told what to do, none for one; whatever happens, none outlives the context."""
    children = [_spawn() for _ in range(count if count > 1 else 0)]
    try:
        yield children
    finally:
        for process, sock in children:
            process.kill()
            process.wait()
            sock.close()


def _spawn() -> Child:
    ours, theirs = socket.socketpair()
    root = str(Path(__file__).resolve().parent.parent.parent)
    places = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with theirs:
        # A session of its own: Ctrl-C at the terminal is for the parent, who tells its workers to end.
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                f"from loadtest.asyncio_driver.worker import run_worker; run_worker({theirs.fileno()})",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": places},
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
    return process, ours


@asynccontextmanager
async def workers_told(
    part: Part, children: Sequence[Child], *, say: Callable[[str], object], on_progress: Callable[[Progress], object]
) -> AsyncIterator[Workers]:
    """Tell each process its share of `part`; give them as one driver."""
    workers: list[WorkerProcess] = []
    try:
        for number, (process, sock) in enumerate(children):
            share = PlanShare(number, len(children))
            reader, writer = await asyncio.open_unix_connection(sock=sock)
            workers.append(WorkerProcess(share, process, reader, writer))
            send_message(writer, replace(part, share=share))
        yield Workers(part, workers, say=say, on_progress=on_progress)
    finally:
        for worker in workers:
            worker.writer.close()


def _end_of(process: subprocess.Popen[bytes]) -> str:
    """Wait for a process that is about to end, and say how it did."""
    try:
        code = process.wait(DYING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return "it fell silent"
    if code < 0:
        return f"killed by signal {-code}, {signal.Signals(-code).name}"
    return f"exit code {code}"
