"""What is measured: a server, one of its models, one wire format; settled, tried and described before the clock.

All of it is synchronous: nothing is being measured yet, and both drivers use it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest import __version__, credentials
from loadtest.dialects import Dialect, dialect_for
from loadtest.dialects.server_errors import shorten
from loadtest.errors import ScenarioError, TargetError
from loadtest.measure import capacity_file
from loadtest.measure.request import Request
from loadtest.records import Clock, Outcome, Record
from loadtest.scenario import Level, Scenario
from loadtest.target.context import check_lengths, left_out, lengths_within, not_granted
from loadtest.target.control import LONGEST_S, ask, count, mapping, plain, rows
from loadtest.target.probe import Model, Server, choose_model, describe, probe
from loadtest.text import shown
from loadtest.urls import base_url, default_url, parse
from loadtest.wire import Posts, SyncWire, Timeouts, now
from loadtest.workloads.job import Job
from loadtest.workloads.tokens import Counter, TokenFit, load_counter, uncut
from loadtest.workloads.workload import FIT_SHORT, Workload

_SIZES = ("size", "size_vram", "context_length")  # the numbers of /api/ps that are read again
SHORTEST_CONTEXT = 1024  # tokens: no server is known to cut prompts to fewer


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured: a server, one of its models, one wire format."""

    server: Server
    model: Model
    dialect: Dialect

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries besides its body; credentials come from this process's environment."""
        auth = self.dialect.auth(self.server.url)
        return {"Accept-Encoding": "identity", "Content-Type": "application/json", **auth}

    @property
    def facts(self) -> dict[str, Any]:
        """Name server, model and wire for run.json."""
        api, dialect = self.dialect.api, self.dialect.name
        return {"url": self.server.url, "api": api, "dialect": dialect, "model": self.model.name}

    @property
    def listed(self) -> dict[str, Any]:
        """Return the same with what the server is: an entry of run.json's `targets`."""
        server = self.server
        about = {"kind": server.kind, "version": server.version, "simulated": server.simulated}
        return {**self.facts, "server": about}

    @property
    def described(self) -> str:
        """Name server, model and wire in one line."""
        return f"{self.server.url}: {self.server.described}, model {shown(self.model.name)}, {self.dialect.name}"


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return whom to trust over https: the file's authorities, else those of SSL_CERT_FILE, else the known ones."""
    path = ca_file or os.environ.get("SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=path) if path else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        raise ScenarioError(f"cannot read certificates from {path}: {error}; give a PEM file.") from None


def control_client(context: ssl.SSLContext, connect_timeout: float | None = None) -> httpx.Client:
    """Return a client for control-plane questions; `connect_timeout` in seconds."""
    limits = httpx.Timeout(LONGEST_S, connect=min(connect_timeout or LONGEST_S, LONGEST_S))
    return httpx.Client(timeout=limits, trust_env=False, verify=context)


def timeouts_of(scenario: Scenario) -> Timeouts:
    """Return the limits that the scenario sets for a stream."""
    return Timeouts(
        connect=scenario.connect_timeout,
        first_token=scenario.first_token_timeout,
        idle=scenario.idle_timeout,
        total=scenario.total_timeout,
    )


def located(scenario: Scenario) -> Scenario:
    """Return the scenario with what its URL says made its own: the base, an API and an endpoint, no user:pass.

    The user:pass is kept in the environment, where children find it: call this before they start. Raises TargetError for
    what is no URL, ScenarioError where the URL's endpoint contradicts api or endpoint.
    """
    given = scenario.url if scenario.url is not None else default_url(api=scenario.api)
    address = parse(given)
    if address.userinfo:
        credentials.keep(address.base, address.userinfo)
    api, endpoint = address.asks
    changes: dict[str, Any] = {} if scenario.url is None else {"url": address.base}
    if api is not None and endpoint is not None:
        if scenario.api not in ("auto", api) or scenario.endpoint not in ("chat", endpoint):
            raise ScenarioError(
                f"the URL ends in {address.endpoint}, which is the {api} API's {endpoint}, but --api {scenario.api} "
                f"--endpoint {scenario.endpoint} was asked for; give the base URL {address.base}."
            )
        changes |= {"api": api, "endpoint": endpoint}
    return scenario.replace(**changes) if changes else scenario


def settle(client: httpx.Client, scenario: Scenario, say: Callable[[str], object]) -> tuple[Target, Workload]:
    """Find the scenario's server and model, load the model, and fit the prompts' lengths to the server's own counts.

    The workload's scenario is the one to run: with the lengths that fit the context where it asks for up_to_context,
    without warm-up where it measures loads (then nothing is sent here, and nothing loaded). Raises TargetError or
    ScenarioError, one sentence each; nothing is left behind.
    """
    scenario = located(scenario)
    target = find_target(client, scenario)
    say(target.described)
    if warning := credentials.in_the_clear(target.server.url, target.dialect.api):
        say(warning)
    counter = load_counter(target.model.name, fetch=target.server.simulated is None)
    if not counter.exact:
        say(f"Prompt tokens: {counter.source}; the server's own counts correct it.")
    if scenario.up_to_context:
        scenario, target = fit_to_context(client, scenario, target, counter, say)
    if scenario.unload:
        scenario = scenario.replace(warmup=0)  # a warm-up would be one more load
    workload = Workload(scenario, counter)
    check_lengths(workload.scenario, target.model, workload.trace)
    # Where loads are measured nothing may load before the first one: it would find the file in the page cache.
    fit = TokenFit()
    if not scenario.unload:
        fit, target = calibrate(client, target, workload)
        if sentence := not_granted(scenario, target.model):
            say(sentence)
    else:
        target = reread(client, target)
    check_lengths(workload.scenario, target.model, workload.trace, loaded=not scenario.unload)
    return target, workload.fitted(fit)


def find_target(client: httpx.Client, scenario: Scenario) -> Target:
    """Probe the scenario's server and settle model and dialect; raise TargetError where that is not possible."""
    url = base_url(default_url(api=scenario.api) if scenario.url is None else scenario.url)
    server = probe(client, url, api=scenario.api)
    api = server.native if scenario.api == "auto" else scenario.api
    if api == "ollama" and server.kind != "ollama":
        raise TargetError(f"{server.url} is no Ollama (it is {server.described}); use --api openai.")
    endpoint = scenario.endpoint
    if (api, endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if api == "ollama" else "completions"
        raise ScenarioError(
            f"{server.url} speaks the {api} API, which has no {endpoint!r}; use --endpoint chat or {other}."
        )
    if scenario.unload and api != "ollama":
        raise TargetError(f"{server.url} is no Ollama (it is {server.described}); only an Ollama unloads when asked.")
    if api == "openai" and scenario.num_ctx is not None:
        raise ScenarioError("num_ctx cannot be set over the OpenAI API; use --api ollama or set it on the server.")
    model = describe(client, server, choose_model(server, scenario.model))
    dialect = dialect_for(scenario, api=api, model=model.name)
    return Target(server, model, dialect)


def reread(client: httpx.Client, target: Target) -> Target:
    """Return the target with what the server says of the model once it is loaded: its context and its size."""
    server = probe(client, target.server.url, api=target.dialect.api)
    if server.kind != target.server.kind:
        return target  # its control plane failed this once: what it said before stands
    model = describe(client, server, choose_model(server, target.model.name))
    return Target(server, model, target.dialect)


def fit_to_context(
    client: httpx.Client, scenario: Scenario, target: Target, counter: Counter, say: Callable[[str], object]
) -> tuple[Scenario, Target]:
    """Return the scenario with the prompt lengths that fit the model's context, and the target as it is once loaded.

    A short request is sent first, for a server knows the context of a loaded model only, and ours may load it with
    another than it had. Raises TargetError where the server does not say the context, ScenarioError where no prompt fits.
    """
    seed = (scenario.seed or 0) + 1  # another text than the token fit's: a cached prompt may be counted short
    job, _ = Workload(scenario.replace(seed=seed), counter).fit_jobs()[0]
    with _stream_wire(target, scenario) as (wire, posts):
        first_answer(wire, posts, target, job)
    target = reread(client, target)
    context = target.model.context or scenario.num_ctx
    if context is None:
        raise TargetError(
            f"{target.server.url} does not say the context of {shown(target.model.name)}; leave up_to_context away and name "
            "lengths that fit with --input-tokens."
        )
    fitted = lengths_within(context, scenario.input_tokens, max(scenario.output_tokens))
    if not fitted:
        raise ScenarioError(
            f"{shown(target.model.name)} has a context of {context} tokens, which {max(scenario.output_tokens)} output tokens "
            "leave no room in for a prompt; ask for fewer with --output-tokens or set --num-ctx."
        )
    if sentence := left_out(shown(target.model.name), context, scenario.input_tokens, fitted):
        say(sentence)
    return scenario.replace(input_tokens=fitted), target


def ask_to_unload(client: httpx.Client, target: Target) -> None:
    """Ask Ollama to drop the model now; it is gone once loaded_facts is None. Raises TargetError where it refuses."""
    url, name = f"{target.server.url}/api/generate", shown(target.model.name)
    answer = ask(client, target.server.url, "/api/generate", {"model": target.model.name, "keep_alive": 0})
    if answer.failure is not None:
        raise TargetError(f"{url} does not answer when asked to unload {name}: {answer.failure}.")
    if not answer.ok:
        raise TargetError(f"{url} does not unload {name}: it answers with {answer.said}; is it an Ollama?")


def calibrate(client: httpx.Client, target: Target, workload: Workload) -> tuple[TokenFit, Target]:
    """Send the jobs of the token fit one by one and fit our counts to the server's; return the fit, and the target once loaded.

    The first one loads the model and proves that it answers: raises TargetError when it does not. A later one that
    fails is left out. Where the context cut the long ones, half as long a one is sent, until it is whole.
    """
    points: list[tuple[int, int]] = []
    jobs = workload.fit_jobs()
    longest = max(ours for _, ours in jobs)
    with _stream_wire(target, workload.scenario) as (wire, posts):

        def measure(job: Job, ours: int) -> None:
            try:
                points.append((ours, first_answer(wire, posts, target, job)))
            except TargetError:
                if not points:
                    raise

        for job, ours in jobs:
            measure(job, ours)
        target = reread(client, target)
        context = target.model.context
        if context is None and max(server for _, server in points) >= SHORTEST_CONTEXT:
            measure(*workload.fit_job(len(jobs), longest // 2))  # a third length shows whether the longest was cut
        number = len(jobs) + 1
        while longest > 2 * FIT_SHORT and max((ours for ours, _ in uncut(points, context)), default=0) < longest:
            longest //= 2
            if all(ours != longest for ours, _ in points):
                measure(*workload.fit_job(number, longest))
                number += 1
    return TokenFit.fit(points, context), target


@contextmanager
def _stream_wire(target: Target, scenario: Scenario) -> Iterator[tuple[SyncWire, Posts]]:
    with SyncWire(timeouts=timeouts_of(scenario), verify=trust(scenario.ca_file)) as wire:
        yield wire, Posts(target.server.url, target.headers)


def first_answer(wire: SyncWire, posts: Posts, target: Target, job: Job) -> int:
    """Send one short request and return the server's prompt_tokens, 0 where it says none; TargetError if it fails."""
    request = Request(job, target.dialect, Clock.now(), now(), posts=posts)
    try:
        wire.fetch(request.order)
    except httpx.HTTPError as error:
        raise TargetError(f"{target.server.url}{target.dialect.path} does not answer: {shorten(str(error))}.") from None
    record = request.finish()
    _accept(record, target)
    return record.prompt_tokens or 0


def _accept(record: Record, target: Target) -> None:
    """Raise TargetError unless the request of the token fit was answered."""
    if record.outcome is Outcome.OK or (record.outcome is Outcome.TRUNCATED and record.chunks):
        return
    where = f"{target.server.url} (model {shown(target.model.name)}, {target.dialect.name})"
    if record.status in (401, 403):
        raise TargetError(
            f"{where} refuses us with status {record.status} ({record.error}); set "
            f"{credentials.KEYS[target.dialect.api][0]} to a key that it accepts."
        )
    failed = record.status is not None and not 200 <= record.status < 300
    status = f"HTTP {record.status}: " if failed and f"HTTP {record.status}" not in (record.error or "") else ""
    raise TargetError(f"{where} does not answer a first request: {status}{record.error or record.outcome}.")


def run_facts(
    scenario: Scenario, target: Target, counter: Counter, fit: TokenFit, *, driver: str, loop: str
) -> dict[str, Any]:
    """Return what run.json says from the start; `driver` and `loop` are who measures."""
    server, model = target.server, target.model
    granted = (
        None if scenario.unload else model.context
    )  # what a model loaded for others has says nothing of the next load
    context = granted or scenario.num_ctx or model.context
    asked = {"context_asked": scenario.num_ctx} if scenario.num_ctx is not None else {}
    return {
        "name": scenario.name,
        "driver": driver,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "scenario": scenario.to_dict(),
        "target": {**target.facts, "model": shown(model.name)},
        "targets": [target.listed],
        "server": {
            "kind": server.kind,
            "version": server.version,
            "context": context,
            **asked,
            "slots_said": server.slots,
            "simulated": server.simulated,
            "facts": {"trained_context": model.trained_context, "details": model.details},
        },
        "tokens": {"counter": counter.source, "overhead": fit.overhead, "ratio": fit.ratio},
        "levels": [level_facts(level) for level in scenario.levels()],
        "client": {
            "host": platform.node(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "loop": loop,
        },
        "versions": {
            "loadtest": __version__,
            "httpx": httpx.__version__,
            **_versions("httptools", "uvloop", "tiktoken"),
        },
        **({"calibration": known} if (known := capacity_file.applying(driver)) else {}),
        "comparability": {
            "dialect": target.dialect.name,
            "model": shown(model.name),
            "quantization": model.details.get("quantization_level"),
            "context": context,
            "server": f"{server.kind} {server.version}",
            "simulated": server.simulated,
            "warm_cache": scenario.warm_cache,
            "unload": scenario.unload or None,
            "arrivals": scenario.arrival_pattern,
            "prompt": "literal" if scenario.prompt or scenario.prompt_file else "made up",
        },
    }


def loaded_facts(client: httpx.Client, target: Target) -> dict[str, Any] | None:
    """Return what Ollama says of the loaded model (/api/ps), None where it says nothing (any more)."""
    if target.server.kind != "ollama":
        return None
    try:
        listed = rows(ask(client, target.server.url, "/api/ps").json()) or []
    except TargetError:
        return None  # gone by now: the records say how it ended
    found = next((row for row in listed if row["name"] == target.model.name), None)
    if found is None:
        return None
    facts = {**mapping(plain(found)), **{key: count(found.get(key)) for key in _SIZES}}
    return {key: value for key, value in facts.items() if value is not None}


def level_facts(level: Level) -> dict[str, Any]:
    return {
        "index": level.index,
        "label": level.label,
        "concurrency": level.concurrency,
        "rate": level.rate,
        "rate_to": level.rate_to,
        "trace": level.trace,
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
