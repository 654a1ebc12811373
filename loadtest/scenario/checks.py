"""The parts of a scenario put together, and what keys of several parts must be together.

Each mistake is one sentence that names the key and says what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.errors import ScenarioError, refuse
from loadtest.scenario.parts.connection import ConnectionKeys
from loadtest.scenario.parts.data import DataKeys
from loadtest.scenario.parts.limits import LimitKeys
from loadtest.scenario.parts.load import LoadKeys
from loadtest.scenario.parts.prompts import PromptKeys, SessionKeys
from loadtest.scenario.parts.request import EMBEDDINGS, RequestKeys
from loadtest.scenario.values import MOST_REQUESTS, MOST_S

MOST_GRID = 10_000  # levels of a scenario
NO_OUTPUT = "an answer of embeddings has no output tokens; leave output_tokens out."
MOST_WARMUPS = 100_000  # of a level, whose warm-up requests are all made before it begins


@dataclass(frozen=True, kw_only=True)
class ScenarioParts(LimitKeys, SessionKeys, DataKeys, PromptKeys, LoadKeys, ConnectionKeys, RequestKeys):
    """The keys of all parts, in one namespace: option, TOML key, key of run.json and attribute are one name each.

    The last base comes first: a dataclass has the fields of its last base first.
    """

    def grid(self) -> tuple[Sequence[Any], ...]:
        """Return the values that levels are made of: words, input lengths, output lengths, loads."""
        inputs = () if self.literal or self.data is not None else self.input_tokens
        return (
            self.words or (None,),
            inputs or (None,),
            self.output_tokens or (None,),
            self.concurrency or self.rate or (None,),
        )


def check_together(scenario: ScenarioParts) -> None:
    """Raise ScenarioError where keys of several parts make no sense together."""
    made_up = not (scenario.literal or scenario.trace or scenario.data)
    refuse(
        scenario.data is not None and scenario.literal, "data and prompt (or prompt_file) exclude each other; give one."
    )
    refuse(
        scenario.data_once and (scenario.trace is not None or scenario.duration is not None),
        "data_once says how many requests a level has; leave out trace and duration.",
    )
    refuse(made_up and not scenario.input_tokens, "input_tokens is empty: name a prompt length, or give a prompt.")
    if scenario.up_to_context:
        refuse(
            not made_up,
            "up_to_context chooses the length of made-up prompts; leave out prompt, prompt_file, data and trace.",
        )
        refuse(
            any(isinstance(one, str) for one in (*scenario.input_tokens, *scenario.output_tokens)),
            "up_to_context needs lengths that are numbers; leave out the distributions.",
        )
        refuse(
            not scenario.output_tokens and scenario.endpoint != EMBEDDINGS,
            "up_to_context must know how much of the context the answer takes; give output_tokens.",
        )
    refuse(
        scenario.endpoint == EMBEDDINGS and scenario.shares_prefix,
        "embeddings take no system prompt; leave out system and system_tokens.",
    )
    refuse(
        scenario.data is not None and scenario.inputs_per_request > 1,
        "data has one text a request; leave out inputs_per_request.",
    )
    refuse(
        scenario.leave and scenario.endpoint == EMBEDDINGS,
        "an answer of embeddings has no middle to hang up in; leave out leave, or give patience.",
    )
    refuse(
        scenario.leave and not scenario.output_tokens and scenario.data is None and scenario.trace is None,
        "leave must know how long an answer is expected to be; give output_tokens.",
    )
    refuse(scenario.endpoint == EMBEDDINGS and scenario.output_tokens, NO_OUTPUT)
    refuse(
        scenario.unload and scenario.api == "openai",
        "unload works over Ollama's own API only; leave out --api or set it to ollama.",
    )
    levels = math.prod(map(len, scenario.grid()))
    refuse(levels > MOST_GRID, f"the scenario has {levels} levels; name fewer values, for {MOST_GRID} at most.")
    _check_closed_loop_ends(scenario)
    for rate in scenario.rate:
        _check_rate_ends(scenario, rate)


def check_sessions(scenario: ScenarioParts) -> None:
    """Raise ScenarioError for conversations that cannot be held."""
    if scenario.turns is None:
        for name, stray in (("answers", scenario.data is None), ("follow_up_tokens", True)):
            refuse(
                stray and getattr(scenario, name) is not None,
                f"{name} shapes conversations, and there are none; add turns, e.g. turns = 4.",
            )
    if not scenario.has_sessions:
        refuse(
            scenario.open_loop and scenario.think_time,
            "think_time slows the streams of a closed loop; leave it out in an open loop.",
        )
        return
    refuse(
        scenario.endpoint in ("generate", "completions", EMBEDDINGS),
        f"a conversation is made of messages, and {scenario.endpoint} takes none; use chat, responses or messages, or "
        "leave out turns and answers.",
    )
    refuse(
        scenario.literal,
        "turns makes up conversations, which begin with no prompt of yours; leave out prompt, or turns.",
    )
    for name in ("trace", "unload", "data_once", "up_to_context"):
        refuse(
            getattr(scenario, name),
            f"{name} is for requests by themselves, not for turns of conversations; leave out one.",
        )
    refuse(
        scenario.data is not None and scenario.follow_up_tokens is not None,
        "follow_up_tokens is for made-up turns, and the data has its own; leave it out.",
    )


def check_lengths_used(given: Mapping[str, Any], whole: Mapping[str, Any], where: str) -> None:
    """Raise ScenarioError where lengths of made-up prompts are given to a scenario that sends texts of their own length."""
    texts = next((name for name in ("prompt", "prompt_file", "data") if whole.get(name) is not None), None)
    refuse(
        texts is not None and given.get("input_tokens") is not None,
        f"{where} has input_tokens beside {texts}: they are lengths of made-up prompts, and a text has its own; leave "
        f"out input_tokens or {texts}.",
    )


def _check_closed_loop_ends(scenario: ScenarioParts) -> None:
    """Raise ScenarioError for more requests than a machine can hold."""
    streams = max(scenario.concurrency, default=1)
    refuse(
        streams * scenario.warmup > MOST_WARMUPS,
        f"warmup = {scenario.warmup} makes {streams * scenario.warmup} warm-up requests at {streams} streams; ask for "
        f"{max(MOST_WARMUPS // streams, 1)} or fewer.",
    )
    if scenario.duration is None and scenario.requests is None and not scenario.open_loop:
        requests = scenario.requests_per_stream * streams
        refuse(
            requests > MOST_REQUESTS,
            f"requests_per_stream = {scenario.requests_per_stream} makes {requests} requests at {streams} streams; ask "
            f"for {max(MOST_REQUESTS // streams, 1)} or fewer, or give duration.",
        )


def _check_rate_ends(scenario: ScenarioParts, rate: float) -> None:
    """Raise ScenarioError for a level at a rate that would not end, or that no machine could hold."""
    mean = rate if scenario.rate_to is None else (rate + scenario.rate_to) / 2
    if scenario.duration is not None and mean * scenario.duration > MOST_REQUESTS:
        raise ScenarioError(
            f"rate = {rate:g} for {scenario.duration:g} s makes {mean * scenario.duration:.0f} requests; ask for a "
            f"duration of {MOST_REQUESTS / mean:.0f} s or less."
        )
    for name in ("requests", "least_requests"):
        requests = getattr(scenario, name) or 0
        refuse(
            requests / mean > MOST_S,
            f"{name} = {requests} at rate = {rate:g} would take {requests / mean / 86400:.0f} days; ask for fewer "
            "requests or a higher rate.",
        )
