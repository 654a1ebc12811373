"""A whole run of the asyncio driver: settle the target, measure every level, leave a complete folder."""

from __future__ import annotations

import asyncio
import datetime
import secrets
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from loadtest.measure.driver import Driver, Progress, Span
from loadtest.measure.target import (
    Target,
    control_client,
    level_facts,
    loaded_facts,
    run_facts,
    settle,
    timeouts_of,
    trust,
)
from loadtest.measure.wire import AsyncWire, keeper
from loadtest.measure.workload import Workload
from loadtest.records import Clock, RunFolder
from loadtest.scenario import Level, Scenario

# Given the run folder, as far as it got, and the levels run so far: the level to run next, None at the end.
Choose = Callable[[Path, Sequence[Level]], Level | None]
# Given the run folder and the server's URL: what samples into the folder while it is entered.
Beside = Callable[[Path, str], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Finished:
    """What `measure` leaves: the folder, and whether it was interrupted."""

    folder: Path
    state: str  # "done" or "interrupted"


def default_folder(name: str) -> Path:
    """Return runs/<time>-<name>, below the working directory."""
    safe = "".join(char if char.isalnum() or char in "-_." else "-" for char in name)
    return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{safe}"


def measure(
    scenario: Scenario,
    out: Path | None,
    *,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
    choose: Choose | None = None,
    beside: Beside | None = None,
) -> Finished:
    """Run `scenario` into `out` (default: default_folder) and return where it lies.

    With `choose` the scenario gives the first level alone; each further one is what `choose` says. It is called in a
    thread, between levels, when nothing is in flight. `beside` is entered while the levels run.

    Everything that can be wrong with the request is found before the folder is made: raises TargetError,
    ScenarioError or RunFolderError and leaves nothing behind.
    """
    path = out or default_folder(scenario.name)
    RunFolder.check_free(path)
    if scenario.seed is None:
        scenario = scenario.replace(seed=secrets.randbelow(2**31))
    with control_client(trust(scenario.ca_file)) as control:
        target, workload = settle(control, scenario, say)
        loop = loop_factory().__module__.partition(".")[0]
        facts = run_facts(scenario, target, workload.counter, workload.calibration, driver="asyncio", loop=loop)
        folder = RunFolder.create(path)
        folder.write_run({**facts, "state": "running"})
        ended: dict[str, Any] = {"state": "failed"}
        try:
            monitor = beside(path, target.server.url) if beside else nullcontext()
            with monitor, asyncio.Runner(loop_factory=loop_factory()) as runner:
                choosing = _Choosing(folder, facts, choose) if choose else None
                ended = runner.run(_drive(folder, workload, target, on_progress, choosing))
        finally:
            ended |= {
                "ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
                "server_at_end": loaded_facts(control, target),
            }
            folder.write_run({**facts, **ended})
    return Finished(path, ended["state"])


@dataclass(frozen=True, slots=True)
class _Choosing:
    """Asks for the next level; run.json names the levels so far, for the folder is read meanwhile."""

    folder: RunFolder
    facts: dict[str, Any]
    choose: Choose

    async def __call__(self, spans: Sequence[Span]) -> Level | None:
        self.folder.write_run({**self.facts, "state": "running", "levels": [_span_facts(span) for span in spans]})
        return await asyncio.to_thread(self.choose, self.folder.path, [span.level for span in spans])


async def _drive(
    folder: RunFolder,
    workload: Workload,
    target: Target,
    on_progress: Callable[[Progress], None],
    choosing: _Choosing | None,
) -> dict[str, Any]:
    """Run the levels and return what run.json says of their end: state, when each level ran, steps of the wall clock."""
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(_wire(workload.scenario))
        stack.enter_context(keeper())
        client = httpx.AsyncClient(transport=wire, timeout=None, headers=target.headers)
        await stack.enter_async_context(client)
        clock = Clock.now()
        records = folder.record_writer(clock)
        stack.callback(records.close)
        samples = folder.sample_writer(clock, source="driver")
        stack.callback(samples.close)
        driver = Driver(
            workload=workload,
            dialect=target.dialect,
            counter=workload.counter,
            client=client,
            wire=wire,
            url=target.server.url,
            records=records,
            samples=samples,
            on_progress=on_progress,
        )
        with _stopping(driver):
            spans = await driver.run(choosing)
        return {
            "state": "interrupted" if driver.stopped else "done",
            "levels": [_span_facts(span) for span in spans],
            "clock_steps": len(wire.wall.steps),
        }


def _wire(scenario: Scenario) -> AsyncWire:
    return AsyncWire(timeouts=timeouts_of(scenario), verify=trust(scenario.ca_file))


def _span_facts(span: Span) -> dict[str, Any]:
    return {**level_facts(span.level), "started_ns": span.started_ns, "ended_ns": span.ended_ns}


class _stopping:  # noqa: N801 - reads as a word in `with`
    """While inside, SIGINT and SIGTERM stop the driver; a second one ends the process the usual way."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _stop(self) -> None:
        self._restore()
        self._driver.stop()

    def _restore(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


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
