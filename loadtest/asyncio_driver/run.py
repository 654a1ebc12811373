"""A whole run of the asyncio driver: make the targets ready, measure every level, leave a complete folder."""

from __future__ import annotations

import asyncio
import gc
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from asyncio_throttle.throttler import Throttler

from loadtest.asyncio_driver.driver import Driver
from loadtest.asyncio_driver.worker import Part, driver_of, loop_factory
from loadtest.asyncio_driver.workers import Child, Workers, spawned, workers_told
from loadtest.errors import LoadTestError, ScenarioError, StorageError, TargetError
from loadtest.measure.descriptors import room_for
from loadtest.measure.interruption import Stoppable, Stopping, nothing_recorded_without
from loadtest.measure.progress import LevelSpan, Progress
from loadtest.reach import located
from loadtest.records import Clock
from loadtest.run_folder import RunFolder, default_folder, utc_now
from loadtest.scenario import Level, Scenario
from loadtest.targets.prepare import prepare_targets
from loadtest.targets.run_facts import at_end, initial_facts, level_facts, sent_before
from loadtest.targets.server.control import control_client
from loadtest.targets.target import Target, ask_to_unload, loaded_facts
from loadtest.text import counted, seconds, shown
from loadtest.workloads.workload import Workload, check_files

UNLOAD_S = 60.0  # for a model to be gone; Ollama itself waits up to 5 s for the GPU's memory
UNLOAD_POLL_S = 0.05  # between two questions at the least

# Given the run folder, as far as it got, and the levels run so far: the level to run next, None at the end.
Choose = Callable[[Path, Sequence[Level]], Level | None]
# Given the run folder and the servers' URLs: what samples into the folder while it is entered.
Beside = Callable[[Path, Sequence[str]], AbstractContextManager[object]]
# Given the run folder before the first request of a level: keeps something in there, and returns what run.json says of it.
KeepIn = Callable[[Path], dict[str, Any]]
# Called when the target is ready, before the folder is made: finds out what is to be known beforehand.
Beforehand = Callable[[Target, Workload], KeepIn]


@dataclass(frozen=True, slots=True)
class Finished:
    """What `measure` leaves: the folder, and how the run ended."""

    folder: Path
    state: str  # "done", "interrupted" or "failed"
    failure: str | None = None  # why it could not keep all that it measured, one sentence


def measure(
    scenario: Scenario,
    out: Path | None,
    *,
    on_progress: Callable[[Progress], object],
    say: Callable[[str], None],
    choose: Choose | None = None,
    beside: Beside | None = None,
    beforehand: Beforehand | None = None,
    stopping: Callable[[Stoppable], Stopping] = Stopping,
) -> Finished:
    """Run `scenario` into `out` (default: default_folder) and return where it lies.

    With `choose` the scenario gives the first level alone; `choose`, called in a thread between levels, gives each further
    one. `beside` is entered while the levels run. `stopping` gets the driver and returns how the run can be ended early.
    Raises TargetError, ScenarioError or RunFolderError before the folder is made, and leaves nothing behind.
    """
    scenario = located(scenario)  # before children start: what it puts into the environment is for them, too
    path = out or default_folder(scenario.name)
    RunFolder.check_free(path)
    seeded = scenario.seed is not None
    scenario = _checked(scenario, say, searching=choose is not None)
    with (
        nothing_recorded_without(path),
        control_client(scenario) as control,
        spawned(scenario.workers) as children,
    ):
        scenario, ready = prepare_targets(control, scenario, say)
        targets = [one.target for one in ready]
        keep_in = beforehand(targets[0], ready[0].workload) if beforehand is not None else lambda _: {}
        facts = initial_facts(scenario, ready, driver="asyncio", loop=loop_factory().__module__.partition(".")[0])
        facts |= {} if seeded else {"seed_drawn": True}
        if seeded and (earlier := sent_before(path, facts)):
            facts["sent_before"] = earlier.name
            say(
                f"{earlier} sent prompts of this seed to this model before: what a prefix cache still holds of them is not read "
                "again, and TTFT is then that of a warm cache. Without a seed the prompts are new."
            )
        folder = RunFolder.create(path)
        facts |= keep_in(path)
        folder.write_run({**facts, "state": "running"})
        urls = list(dict.fromkeys(target.server.url for target in targets))
        with (
            _closed_in_the_end(folder, facts, control, targets),
            beside(path, urls) if beside else nullcontext(),
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            doing = _drive(
                Part(folder, Clock.now(), ready),
                children,
                facts,
                on_progress=on_progress,
                say=say,
                choose=choose,
                before_each=partial(_unload, control, targets[0]) if scenario.unload else None,
                stopping=stopping,
            )
            runner.run(doing)
    gc.collect()  # what 1000 streams leave in circles is 30 MB, and who analyses next needs them
    return Finished(path, facts["state"], facts.get("failure"))


@contextmanager
def _closed_in_the_end(
    folder: RunFolder, facts: dict[str, Any], control: httpx.Client, targets: Sequence[Target]
) -> Iterator[None]:
    """Keep in run.json how the run ended, whatever happens inside and whatever signal comes meanwhile."""
    facts["state"] = "failed"
    try:
        yield
    except StorageError as error:
        facts |= {"state": "failed", "failure": f"{error}."}
    except (KeyboardInterrupt, asyncio.CancelledError):  # the second signal
        facts["state"] = "interrupted"
    except LoadTestError as error:
        facts |= {"state": "failed", "failure": str(error)}
        raise
    except Exception as error:
        facts |= {"state": "failed", "failure": f"loadtest itself failed ({type(error).__name__}: {error})."}
        raise
    finally:
        facts["ended"] = utc_now()
        try:
            loaded = [loaded_facts(control, target) if facts["state"] == "done" else None for target in targets]
            facts |= at_end(facts["targets"], loaded)
        except KeyboardInterrupt:
            facts["state"] = "interrupted"
        try:
            folder.write_run(facts)
        except StorageError as error:
            facts |= {"state": "failed", "failure": facts.get("failure") or f"{error}."}


def _checked(scenario: Scenario, say: Callable[[str], None], *, searching: bool) -> Scenario:
    """Return the scenario with a seed; raise ScenarioError where its files or this machine cannot run it."""
    if not searching and (idle := _idle(scenario)):
        say(idle)
    for note in check_files(scenario):
        say(note)
    most = scenario.max_in_flight if scenario.open_loop else max(scenario.concurrency, default=None)
    room_for(None if most is None else -(-most // scenario.workers))
    return scenario if scenario.seed is not None else scenario.replace(seed=secrets.randbelow(2**31))


async def _chosen(
    folder: RunFolder, facts: dict[str, Any], driver: Driver | Workers, choose: Choose, spans: Sequence[LevelSpan]
) -> Level | None:
    """Ask for the next level; run.json names the levels so far, since the folder is read meanwhile."""
    levels = [_span_facts(span) for span in spans]
    running = {**facts, **driver.facts(), "state": "running"}
    folder.write_run({**running, "levels": levels})
    following = await asyncio.to_thread(choose, folder.path, [span.level for span in spans])
    if following is not None:
        folder.write_run({**running, "levels": [*levels, level_facts(following)]})
    return following


async def _unload(control: httpx.Client, target: Target) -> None:
    """Have the model unloaded, and wait until it is gone; in threads, so that Ctrl-C does not wait for the server."""
    await asyncio.to_thread(ask_to_unload, control, target)
    deadline = time.monotonic() + UNLOAD_S
    polls = Throttler(rate_limit=1, period=UNLOAD_POLL_S)
    while True:
        await polls.acquire()
        if not await asyncio.to_thread(loaded_facts, control, target):
            return
        if time.monotonic() > deadline:
            raise TargetError(
                f"{target.server.url} still has {shown(target.model.name)} loaded {seconds(UNLOAD_S, exact=True)} after it was "
                "asked to unload it; does somebody else use it?"
            )


async def _drive(
    part: Part,
    children: Sequence[Child],
    facts: dict[str, Any],
    *,
    on_progress: Callable[[Progress], object],
    say: Callable[[str], None],
    choose: Choose | None,
    before_each: Callable[[], Awaitable[None]] | None,
    stopping: Callable[[Stoppable], Stopping],
) -> None:
    """Run the levels, by `children` where there are any; what run.json says of the end is put into `facts`."""
    folder = part.folder
    opening: AbstractAsyncContextManager[Driver | Workers] = driver_of(part, on_progress, before_each=before_each)
    if children:
        opening = workers_told(part, children, say=say, on_progress=on_progress)
    async with opening as driver:
        folder.write_run({**facts, **driver.facts(), "state": "running"})
        following = partial(_chosen, folder, facts, driver, choose) if choose else None
        try:
            with stopping(driver):
                spans = await driver.run(following)
        finally:
            facts.update(driver.facts())
        facts.update(state="interrupted" if driver.stopped else "done", levels=[_span_facts(span) for span in spans])
        if driver.failure is not None:
            facts.update(state="failed", failure=driver.failure)


def _idle(scenario: Scenario) -> str | None:
    """Say that some levels have fewer streams than workers; raise ScenarioError where all levels do."""
    workers = scenario.workers
    least, most = min(scenario.concurrency, default=workers), max(scenario.concurrency, default=workers)
    if most < workers:
        raise ScenarioError(
            f"{counted(most, 'stream')} cannot be shared by {workers} workers; ask for {most} or fewer."
            if most > 1
            else "one stream cannot be shared by several workers; leave workers away, or ask for more streams."
        )
    return (
        f"{counted(least, 'stream')} keep{'s' if least == 1 else ''} {least} of {workers} workers busy."
        if least < workers
        else None
    )


def _span_facts(span: LevelSpan) -> dict[str, Any]:
    stopped = {"stopped": span.given_up} if span.given_up is not None else {}
    return {**level_facts(span.level), "started_ns": span.started_ns, "ended_ns": span.ended_ns, **stopped}
