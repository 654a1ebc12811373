"""What a scenario's keys must be together; each mistake is one sentence that names the key and says what to do."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from loadtest.errors import ScenarioError
from loadtest.scenario.values import MOST_REQUESTS, MOST_S, check_text, said

if TYPE_CHECKING:
    from loadtest.scenario.schema import Scenario

APIS = ("auto", "ollama", "openai")
ENDPOINTS = ("chat", "generate", "completions")
ARRIVALS = ("poisson", "constant", "gamma")
MAX_TOKENS_KEYS = ("max_tokens", "max_completion_tokens")
MOST_LEVELS = 10_000
MOST_WARMUPS = 100_000  # of a level: they are all made before it begins

_TEXTS = {  # key -> (most bytes, what to do where it is empty)
    "name": (200, "give the run a name, or leave it away"),
    "url": (
        8000,
        "give the server's URL, or leave it away: then it is OLLAMA_HOST, OPENAI_BASE_URL or the local Ollama",
    ),
    "model": (1000, "give the model's name, or leave it away: then it is the one that is loaded"),
    "prompt_file": (4096, "name a text file, or leave it away"),
    "trace": (4096, "name a file of arrivals, or leave it away"),
    "ca_file": (4096, "name a PEM file, or leave it away"),
}


def check(scenario: Scenario) -> None:
    """Raise ScenarioError, naming the key, for the first value that makes no sense."""
    for spec in dataclasses.fields(scenario):
        value, bounds = getattr(scenario, spec.name), spec.metadata["bounds"]
        if bounds is not None and value is not None:
            for one in value if isinstance(value, tuple) else (value,):
                bounds.check(spec.name, one)
        if isinstance(value, tuple) and len(set(value)) != len(value):
            raise ScenarioError(f"{spec.name} names a value twice: {_listed(value)}.")
    for key, (most, empty) in _TEXTS.items():
        if (text := getattr(scenario, key)) is not None:
            check_text(key, text, most=most, empty=empty)
    if scenario.prompt is not None:
        if not scenario.prompt.strip():
            raise ScenarioError("the prompt is empty.")
        check_text("prompt", scenario.prompt, most=64 << 20, empty="", lines=True)
    if not scenario.concurrency and not scenario.open_loop:
        raise ScenarioError("concurrency is empty: name at least one number of streams.")
    if not (scenario.input_tokens or scenario.trace or scenario.prompt is not None or scenario.prompt_file is not None):
        raise ScenarioError("input_tokens is empty: name a prompt length, or give a prompt.")
    _check_choices(scenario)
    _check_modes(scenario)
    _check_workers(scenario)
    _check_open_loop(scenario)
    _check_size(scenario)


def _listed(values: tuple[Any, ...]) -> str:
    shown = [f"{value:g}" if isinstance(value, float) else str(value) for value in values[:20]]
    return ", ".join([*shown, "…"] if len(values) > 20 else shown)


def _check_size(scenario: Scenario) -> None:
    """Raise ScenarioError for a plan that no machine could hold, or that would not end."""
    grid = [
        scenario.concurrency or scenario.rate or (None,),
        scenario.words or (None,),
        scenario.output_tokens or (None,),
    ]
    if scenario.prompt is None and scenario.prompt_file is None:
        grid.append(scenario.input_tokens or (None,))
    if (levels := math.prod(map(len, grid))) > MOST_LEVELS:
        raise ScenarioError(f"the scenario has {levels} levels; name fewer values, for {MOST_LEVELS} at most.")
    streams = max(scenario.concurrency, default=1)
    if streams * scenario.warmup > MOST_WARMUPS:
        raise ScenarioError(
            f"warmup = {scenario.warmup} makes {streams * scenario.warmup} warm-up requests at {streams} streams; ask for "
            f"{max(MOST_WARMUPS // streams, 1)} or fewer."
        )
    if scenario.duration is None and scenario.requests is None and not scenario.open_loop:
        requests = scenario.requests_per_stream * streams
        if requests > MOST_REQUESTS:
            raise ScenarioError(
                f"requests_per_stream = {scenario.requests_per_stream} makes {requests} requests at {streams} streams; ask "
                f"for {max(MOST_REQUESTS // streams, 1)} or fewer, or give duration."
            )
    for rate in scenario.rate:
        mean = rate if scenario.rate_to is None else (rate + scenario.rate_to) / 2
        if scenario.duration is not None and mean * scenario.duration > MOST_REQUESTS:
            raise ScenarioError(
                f"rate = {rate:g} for {scenario.duration:g} s makes {mean * scenario.duration:.0f} requests; ask for a "
                f"duration of {MOST_REQUESTS / mean:.0f} s or less."
            )
        for key in ("requests", "least_requests"):
            requests = getattr(scenario, key) or 0
            if requests / mean > MOST_S:
                raise ScenarioError(
                    f"{key} = {requests} at rate = {rate:g} would take {requests / mean / 86400:.0f} days; ask for fewer "
                    "requests or a higher rate."
                )


def _check_modes(scenario: Scenario) -> None:
    """Raise ScenarioError where up_to_context or unload meets a key that it makes no sense with."""
    if scenario.up_to_context:
        if scenario.prompt is not None or scenario.prompt_file is not None or scenario.trace is not None:
            raise ScenarioError(
                "up_to_context chooses the length of made-up prompts; leave prompt, prompt_file and trace away."
            )
        if not scenario.output_tokens:
            raise ScenarioError("up_to_context must know how much of the context the answer takes; give output_tokens.")
    if scenario.unload:
        if scenario.concurrency != (1,):
            raise ScenarioError(
                "unload measures one load at a time; set concurrency = 1, and requests to how many loads."
            )
        if scenario.api == "openai":
            raise ScenarioError("unload works over Ollama's own API only; leave --api away or set it to ollama.")


def _check_workers(scenario: Scenario) -> None:
    """Raise ScenarioError for a number of processes that cannot share the load."""
    workers, most = scenario.workers, scenario.max_in_flight
    if most is not None and 0 < most < workers:
        raise ScenarioError(
            f"max_in_flight = {most} cannot be shared by {workers} workers; ask for {most} workers or fewer."
        )


def _check_open_loop(scenario: Scenario) -> None:
    """Raise ScenarioError for keys that an open loop cannot have, and for those that only it can."""
    if scenario.rate and scenario.trace is not None:
        raise ScenarioError("rate and trace exclude each other; a trace has its own instants.")
    if not scenario.rate:
        for key in ("rate_to", "burstiness"):
            if getattr(scenario, key) is not None:
                raise ScenarioError(f"{key} shapes an open loop at a rate, and there is none; add rate.")
        if scenario.arrivals != "poisson":
            raise ScenarioError(f"arrivals = {scenario.arrivals} needs a rate; add rate, e.g. rate = [4].")
    if not scenario.open_loop:
        if scenario.max_in_flight is not None:
            raise ScenarioError(
                "max_in_flight limits an open loop; add rate or trace (concurrency is a limit by itself)."
            )
        return
    if (scenario.arrivals == "gamma") != (scenario.burstiness is not None):
        raise ScenarioError("gamma arrivals and burstiness go together; give both, e.g. burstiness = 0.5, or neither.")
    for key in ("max_rate", "think_time"):
        if getattr(scenario, key):
            raise ScenarioError(f"{key} slows the streams of a closed loop; leave it away in an open loop.")


def _check_choices(scenario: Scenario) -> None:
    for key, choices in (
        ("api", APIS),
        ("endpoint", ENDPOINTS),
        ("arrivals", ARRIVALS),
        ("max_tokens_key", MAX_TOKENS_KEYS),
    ):
        if getattr(scenario, key) not in choices:
            raise ScenarioError(f"{key} must be one of {', '.join(choices)}, not {said(getattr(scenario, key))}.")
    if (scenario.api, scenario.endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if scenario.api == "ollama" else "completions"
        raise ScenarioError(f"api {scenario.api} has no endpoint {scenario.endpoint!r}; use chat or {other}.")
    if scenario.prompt is not None and scenario.prompt_file is not None:
        raise ScenarioError("prompt and prompt_file exclude each other; give one.")
    if scenario.requests is not None and scenario.duration is not None:
        raise ScenarioError("requests and duration exclude each other; give one.")
    if scenario.words and scenario.prompt is None and scenario.prompt_file is None:
        raise ScenarioError("words fills {words} in a prompt, and there is none; give prompt or prompt_file.")
    if scenario.words and scenario.prompt is not None and "{words}" not in scenario.prompt:
        raise ScenarioError(f"words is given, but the prompt has no {{words}} in it: {said(scenario.prompt)}.")
    if not scenario.words and scenario.prompt is not None and "{words}" in scenario.prompt:
        raise ScenarioError("the prompt has {words} in it; say which with words, e.g. words = [25, 100].")
    if scenario.requests is not None and scenario.requests < max(scenario.concurrency, default=0):
        streams = max(scenario.concurrency)
        raise ScenarioError(
            f"requests = {scenario.requests} cannot keep {streams} streams busy; ask for {streams} or more."
        )
