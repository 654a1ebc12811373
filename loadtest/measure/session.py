"""A whole run: look at the server, align token counts, measure every level, leave a complete folder."""

from __future__ import annotations

import asyncio
import datetime
import importlib.metadata
import os
import platform
import secrets
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson

from loadtest import __version__
from loadtest.errors import ScenarioError, TargetError
from loadtest.measure.dialects import Dialect, dialect_for
from loadtest.measure.driver import Driver, Progress, Span
from loadtest.measure.exchange import Exchange
from loadtest.measure.probe import Model, Server, base_url, choose_model, credentials, default_url, describe, probe
from loadtest.measure.tokens import Calibration, Counter, load_counter
from loadtest.measure.wire import AsyncWire, Timeouts, keeper, now
from loadtest.measure.workload import Job, Workload
from loadtest.records import Clock, Outcome, Record, RunFolder
from loadtest.scenario import Level, Scenario

CONTROL_TIMEOUT_S = 20.0  # for control-plane answers; streams have the scenario's own limits


@dataclass(frozen=True, slots=True)
class Finished:
    """What `measure` leaves: the folder, and whether it was interrupted."""

    folder: Path
    state: str  # "done" or "interrupted"


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured: a server, one of its models, one wire format."""

    server: Server
    model: Model
    dialect: Dialect


def default_folder(name: str) -> Path:
    """Return runs/<time>-<name>, below the working directory."""
    safe = "".join(char if char.isalnum() or char in "-_." else "-" for char in name)
    return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{safe}"


async def measure(
    scenario: Scenario,
    out: Path | None,
    *,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
) -> Finished:
    """Run `scenario` into `out` (default: default_folder) and return where it lies.

    Everything that can be wrong with the request is found before the folder is made: raises TargetError,
    ScenarioError or RunFolderError and leaves nothing behind.
    """
    path = out or default_folder(scenario.name)
    RunFolder.check_free(path)
    if scenario.seed is None:
        scenario = scenario.replace(seed=secrets.randbelow(2**31))
    timeouts = Timeouts(
        connect=scenario.connect_timeout,
        first_byte=scenario.first_byte_timeout,
        idle=scenario.idle_timeout,
        total=scenario.total_timeout,
    )
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(httpx.AsyncClient(timeout=CONTROL_TIMEOUT_S, trust_env=False))
        target = await find_target(control, scenario)
        say(f"{target.server.url}: {_named(target.server)}, model {target.model.name}, {target.dialect.name}")
        wire = await stack.enter_async_context(AsyncWire(timeouts=timeouts))
        stack.enter_context(keeper())
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                transport=wire,
                timeout=None,
                headers={"Accept-Encoding": "identity", **_auth(target)},
            )
        )
        counter = load_counter(target.model.name, fetch=target.server.simulated is None)
        if not counter.exact:
            say(f"Tokens of prompts are counted by {counter.source}; the server's own counts correct it.")
        workload = Workload(scenario, counter)
        check_lengths(scenario, target.model)
        calibration = await calibrate(client, wire, target, workload)
        workload = workload.calibrated(calibration)
        target = await reread(control, target)
        check_lengths(scenario, target.model)
        folder = RunFolder.create(path)
        clock = Clock.now()
        facts = _facts(scenario, target, counter, calibration)
        folder.write_run({**facts, "state": "running"})
        records = folder.record_writer(clock)
        samples = folder.sample_writer(clock, source="driver")
        stack.callback(records.close)
        stack.callback(samples.close)
        driver = Driver(
            scenario=scenario,
            workload=workload,
            dialect=target.dialect,
            counter=counter,
            client=client,
            wire=wire,
            url=target.server.url,
            records=records,
            samples=samples,
            on_progress=on_progress,
        )
        state = "failed"
        spans: list[Span] = []
        try:
            with _stopping(driver):
                spans = await driver.run()
            state = "interrupted" if driver.stopped else "done"
        finally:
            ended = await _ended_facts(control, target, spans, wire)
            folder.write_run({**facts, **ended, "state": state})
        return Finished(path, state)


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


async def find_target(client: httpx.AsyncClient, scenario: Scenario) -> Target:
    """Probe the scenario's server and settle model and dialect; raise TargetError where that is not possible."""
    server = await probe(client, base_url(scenario.url or default_url()))
    api = server.native if scenario.api == "auto" else scenario.api
    if api == "ollama" and server.kind != "ollama":
        raise TargetError(f"{server.url} is no Ollama (it is {_named(server)}); use --api openai.")
    endpoint = scenario.endpoint
    if (api, endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if api == "ollama" else "completions"
        raise ScenarioError(
            f"{server.url} speaks the {api} API, which has no {endpoint!r}; use --endpoint chat or {other}."
        )
    if api == "openai" and scenario.num_ctx is not None:
        raise ScenarioError("num_ctx cannot be set over the OpenAI API; use --api ollama or set it on the server.")
    model = await describe(client, server, choose_model(server, scenario.model))
    dialect = dialect_for(scenario, api=api, model=model.name)
    return Target(server, model, dialect)


async def reread(client: httpx.AsyncClient, target: Target) -> Target:
    """Return the target with what the server says of the model once it is loaded: its context and its size."""
    server = await probe(client, target.server.url)
    model = await describe(client, server, choose_model(server, target.model.name))
    return Target(server, model, target.dialect)


async def calibrate(client: httpx.AsyncClient, wire: AsyncWire, target: Target, workload: Workload) -> Calibration:
    """Send the calibration jobs one by one and fit our counts to the server's.

    The first one loads the model and proves that it answers: raises TargetError when it does not. A later one that
    fails is left out.
    """
    points: list[tuple[int, int]] = []
    for number, (job, ours) in enumerate(workload.calibration_jobs()):
        try:
            points.append((ours, await first_answer(client, wire, target, job)))
        except TargetError:
            if number == 0:
                raise
    return Calibration.fit(points)


async def first_answer(client: httpx.AsyncClient, wire: AsyncWire, target: Target, job: Job) -> int:
    """Send one short request and return the server's prompt_tokens, 0 where it says none; TargetError if it fails."""
    exchange = Exchange(job, target.dialect, Clock.now(), now())
    path, body = target.dialect.encode(job)
    request = client.build_request(
        "POST",
        f"{target.server.url}{path}",
        content=body,
        headers={"Content-Type": "application/json"},
        extensions={"arrivals": exchange.arrivals},
    )
    try:
        response = await client.send(request, stream=True)
        await response.extensions["answer"].finish()
        await response.aclose()
    except httpx.HTTPError as error:
        raise TargetError(f"{target.server.url}{path} does not answer: {error}.") from None
    record = exchange.record(exchange.arrivals.reads(wire.wall, wire.lag))
    _accept(record, target)
    return record.prompt_tokens or 0


def _accept(record: Record, target: Target) -> None:
    """Raise TargetError unless the calibration request was answered."""
    if record.outcome is Outcome.OK or (record.outcome is Outcome.TRUNCATED and record.chunks):
        return
    where = f"{target.server.url} (model {target.model.name}, {target.dialect.name})"
    if record.status in (401, 403):
        raise TargetError(
            f"{where} refuses us with status {record.status}; set OPENAI_API_KEY to a key that it accepts."
        )
    raise TargetError(f"{where} does not answer a first request: {record.error or record.outcome}.")


def check_lengths(scenario: Scenario, model: Model) -> None:
    """Raise ScenarioError when a level cannot fit the model's context: Ollama would cut its prompt without a word.

    Asked twice: before anything is sent, by what the model was trained for, and once it is loaded, by what it got.
    """
    context = scenario.num_ctx or model.context or model.trained_context
    if context is None:
        return
    for level in scenario.levels():
        wanted = (level.input_tokens or 0) + (level.output_tokens or 0)
        if wanted > context:
            raise ScenarioError(
                f"{level.label} needs {wanted} tokens, but {model.name} has a context of {context}; "
                f"ask for less{' or set --num-ctx' if (model.trained_context or 0) >= wanted else ''}."
            )


def _auth(target: Target) -> dict[str, str]:
    return credentials() if target.dialect.name.startswith("openai") else {}


def _named(server: Server) -> str:
    names = {"ollama": "Ollama", "llama.cpp": "llama.cpp", "vllm": "vLLM", "openai": "an OpenAI-compatible server"}
    text = names[server.kind] + (f" {server.version}" if server.version else "")
    if server.simulated:
        text += f" (simulated: profile {server.simulated['profile']} at {server.simulated['speed']:g}× speed)"
    return text


def _facts(scenario: Scenario, target: Target, counter: Counter, calibration: Calibration) -> dict[str, Any]:
    """Return what run.json says from the start."""
    server, model = target.server, target.model
    context = scenario.num_ctx or model.context
    return {
        "name": scenario.name,
        "driver": "asyncio",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "scenario": scenario.to_dict(),
        "target": {
            "url": server.url,
            "api": target.dialect.name.partition("-")[0],
            "dialect": target.dialect.name,
            "model": model.name,
        },
        "server": {
            "kind": server.kind,
            "version": server.version,
            "context": context,
            "slots_said": server.slots,
            "simulated": server.simulated,
            "facts": {"trained_context": model.trained_context, "details": model.details},
        },
        "tokens": {"counter": counter.source, "overhead": calibration.overhead, "ratio": calibration.ratio},
        "levels": [_level_facts(level) for level in scenario.levels()],
        "client": {
            "host": platform.node(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "loop": type(asyncio.get_running_loop()).__module__.partition(".")[0],
        },
        "versions": {
            "loadtest": __version__,
            "httpx": httpx.__version__,
            **_versions("httptools", "uvloop", "tiktoken"),
        },
        "comparability": {
            "dialect": target.dialect.name,
            "model": model.name,
            "quantization": model.details.get("quantization_level"),
            "context": context,
            "server": f"{server.kind} {server.version}",
            "simulated": server.simulated,
            "warm_cache": scenario.warm_cache,
            "prompt": "literal" if scenario.prompt or scenario.prompt_file else "made up",
        },
    }


async def _ended_facts(client: httpx.AsyncClient, target: Target, spans: list[Span], wire: AsyncWire) -> dict[str, Any]:
    """Return what is known only at the end: when each level ran, the context the model was loaded with, clock steps."""
    facts: dict[str, Any] = {"ended": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")}
    times = {span.level.index: {"started_ns": span.started_ns, "ended_ns": span.ended_ns} for span in spans}
    facts["levels"] = [{**_level_facts(span.level), **times[span.level.index]} for span in spans]
    facts["clock_steps"] = len(wire.wall.steps)
    if target.server.kind == "ollama":
        try:
            loaded = orjson.loads((await client.get(f"{target.server.url}/api/ps")).content).get("models") or []
            facts["server_at_end"] = next((row for row in loaded if row.get("name") == target.model.name), None)
        except (httpx.HTTPError, orjson.JSONDecodeError):
            facts["server_at_end"] = None  # gone by now: the records say how it ended
    return facts


def _level_facts(level: Level) -> dict[str, Any]:
    return {
        "index": level.index,
        "label": level.label,
        "concurrency": level.concurrency,
        "rate": None,
        "input_tokens": level.input_tokens,
        "output_tokens": level.output_tokens,
        "words": level.words,
        "requests": level.requests or None,
    }


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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
