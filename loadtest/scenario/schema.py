"""The scenario, the levels that its keys make, how it is read from a file, and what its keys must be together.

Every combination of concurrency (or rate, in an open loop), input length, output length and number of {words} is a level.
Levels run one after another.

Code that needs the keys of one part takes that part: a Scenario is a LoadKeys, a RequestKeys and so on.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any, Self

from loadtest.errors import ScenarioError
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key, keys_of
from loadtest.scenario.parts.connection import ConnectionKeys, check_connection
from loadtest.scenario.parts.data import DataKeys, check_data
from loadtest.scenario.parts.limits import LimitKeys
from loadtest.scenario.parts.load import OPEN_LOOP_S, LoadKeys, check_load
from loadtest.scenario.parts.prompts import DEFAULT_OUTPUT, PromptKeys, SessionKeys, check_prompts
from loadtest.scenario.parts.request import EMBEDDINGS, RequestKeys, check_request
from loadtest.scenario.price import Price, price_text
from loadtest.scenario.toml_tables import flat, laid_over, read_toml, renamed, with_paths_beside
from loadtest.scenario.values import MOST_REQUESTS, MOST_S, Text
from loadtest.text import counted, rated

MOST_LEVELS = 10_000  # levels of a scenario
NO_OUTPUT = "an answer of embeddings has no output tokens; leave output_tokens out."
NEEDS = {  # a key -> those of which it needs one
    "rate_to": ("rate",),
    "burstiness": ("rate",),
    "max_in_flight": ("rate", "trace"),
    "words": ("prompt", "prompt_file"),
    "data_column": ("data",),
    "data_once": ("data",),
    "prefixes": ("system_tokens",),
    "follow_up_tokens": ("turns",),
    "answers": ("turns", "data"),
    "cert_key": ("cert",),
    "no_proxy": ("proxy",),
}
EXCLUSIVE: tuple[
    tuple[tuple[str, ...], tuple[str, ...], str], ...
] = (  # no key of the first may stand beside one of the second, and why
    (("requests",), ("duration",), "each says when a level ends"),
    (("rate", "rate_to", "burstiness"), ("trace",), "a trace has its own instants"),
    (("max_rate",), ("rate", "trace"), "max_rate slows the users of a closed loop"),
    (("data_once",), ("trace", "duration"), "data_once says how many requests a level has"),
    (("prompt",), ("prompt_file", "data"), "each says what is asked"),
    (("prompt_file",), ("data",), "each says what is asked"),
    (("data",), ("follow_up_tokens", "inputs_per_request"), "the rows of the data say what is asked"),
    (("turns", "answers"), ("prompt", "prompt_file"), "a conversation begins with no prompt of yours"),
    (("turns", "answers"), ("trace", "unload", "data_once", "up_to_context"), "a turn is no request by itself"),
    (
        ("up_to_context",),
        ("prompt", "prompt_file", "data", "trace"),
        "up_to_context chooses the length of made-up prompts",
    ),
    (("system",), ("system_tokens",), "each is the system prompt"),
    (("insecure",), ("ca_file",), "one trusts any certificate, the other those of one authority"),
)
IDLE_BESIDE = {  # keys that change nothing where one of the others is given, and why
    "input_tokens": (
        ("prompt", "prompt_file", "data"),
        "they are lengths of made-up prompts, and a text has its own",
    ),
    "warm_cache": (("data",), "its rows are sent as they are, without a nonce"),
    "least_requests": (("requests", "trace"), "that says how many requests a level has"),
}
MOST_WARMUPS = 100_000  # of a level, whose warm-up requests are all made before it begins


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One load with one length of prompts and of answers: what is put on the server at once, and for how many requests."""

    index: int
    concurrency: int | None  # None in an open loop
    input_tokens: int | None = None  # None where a literal prompt decides
    output_tokens: int | None = None  # None where the model decides
    words: int | None = None  # what {words} in a literal prompt stands for
    requests: int  # in all, without warm-up; 0 where the duration decides
    before: int = 0  # requests of the levels before it
    rate: float | None = None  # requests/s, at the start where rate_to differs; None in a closed loop and with a trace
    rate_to: float | None = None  # requests/s at the end
    trace: str | None = None  # name of the file that is replayed
    input_lengths: str | None = None  # the distribution that prompt lengths are drawn from, where input_tokens is None
    output_lengths: str | None = None  # the same of answers
    system_tokens: int | None = None  # of the made-up system prompt in front of each prompt
    turns: str | None = None  # of made-up conversations: how many, a number or a distribution
    sessions: bool = False  # whether requests are turns of conversations
    thinks: bool = False  # whether users pause between requests
    inputs: int = 1  # texts in each request, input_tokens long each; more than one for embeddings alone

    @property
    def load(self) -> str:
        """Name the level's load: "8 streams", "8 people", "4 requests/s", "1 to 8 requests/s" or "trace day.csv".

        Under Locust users of both kinds of loop may run in one test: "8 streams beside 4 requests/s".
        """
        if self.trace is not None:
            return f"trace {self.trace}"
        if self.concurrency is None and self.rate is not None:
            what = "session" if self.sessions else "request"
            ramp = self.rate_to is not None
            return f"{self.rate:g} to {self.rate_to:g} {what}s/s" if ramp else rated(self.rate, what)
        if self.concurrency is None:
            return "an unknown load"
        beside = f" beside {rated(self.rate)}" if self.rate is not None else ""
        if self.of_people:
            return ("1 person" if self.concurrency == 1 else f"{self.concurrency} people") + beside
        return counted(self.concurrency, "stream") + beside

    @property
    def of_people(self) -> bool:
        """Whether its users are not all at the server at once, so that they are no streams."""
        return self.sessions or self.thinks

    @property
    def label(self) -> str:
        """Name the level as charts and tables do, e.g. "8 streams · 128 in · 64 out"."""
        parts = [self.load]
        if self.turns is not None:
            parts.append(f"{self.turns} turn{'s' * (self.turns != '1')}")
        if self.system_tokens is not None:
            parts.append(f"{self.system_tokens} shared")
        if (input_length := self.input_lengths or self.input_tokens) is not None:
            parts.append(f"{f'{self.inputs} × ' if self.inputs > 1 else ''}{input_length} in")
        if (output_length := self.output_lengths or self.output_tokens) is not None:
            parts.append(f"{output_length} out")
        if self.words is not None:
            parts.append(f"{self.words} words")
        return " · ".join(parts)


@dataclass(frozen=True, kw_only=True)
class Scenario(LimitKeys, SessionKeys, DataKeys, PromptKeys, LoadKeys, ConnectionKeys, RequestKeys):
    """Everything that decides what is sent; immutable, and written whole into run.json.

    The keys of all parts are in one namespace: option, TOML key, key of run.json and attribute are one name each. The last
    base comes first: a dataclass has the fields of its last base first.
    """

    name: str = key(
        "Name of the run: part of its folder's name and of every title.",
        "run",
        text=Text(200, "give the run a name, or leave it out"),
        metavar="NAME",
    )
    save_text: bool = key("Keep prompts and answers in the records.", default=False, locust=(ATTRIBUTE, OPTION))
    price_per_hour: str | None = key(
        "What the server costs an hour, e.g. 2.49EUR: the report says what a million output tokens cost at each level.",
        None,
        text=Text(100, "name a price like 2.49EUR, or leave it out"),
        valid=lambda text: Price.parse(text, "price_per_hour"),
        convert=price_text,
        locust=(OPTION,),
        metavar="PRICE",
    )
    price_per_kwh: str | None = key(
        "What a kWh costs, e.g. 0.30EUR: the report says what electricity a million output tokens take, where watts were "
        "sampled (monitors nvidia, dcgm, rapl).",
        None,
        text=Text(100, "name a price like 0.30EUR, or leave it out"),
        valid=lambda text: Price.parse(text, "price_per_kwh"),
        convert=price_text,
        locust=(OPTION,),
        metavar="PRICE",
    )

    where: InitVar[str] = "the scenario"  # where the values are from, for sentences on those of a wrong kind

    def __post_init__(self, where: str) -> None:
        for one in keys_of(type(self)):
            object.__setattr__(self, one.name, one.read(getattr(self, one.name), where))
        if self.open_loop:
            object.__setattr__(self, "concurrency", ())
            if self.rate and self.requests is None and self.duration is None and not self.data_once:
                object.__setattr__(self, "duration", OPEN_LOOP_S)
        if self.endpoint == EMBEDDINGS and self.output_tokens == tuple(DEFAULT_OUTPUT):
            object.__setattr__(self, "output_tokens", ())
        for check in _CHECKS:
            check(self)

    @classmethod
    def load(
        cls, file: str | os.PathLike[str], /, *, say: Callable[[str], object] | None = None, **overrides: Any
    ) -> Self:
        """Read a TOML file and lay `overrides` (those not None) over it; raise ScenarioError with one sentence.

        `say` is told, a sentence each, what the file has under a former name.
        """
        path = Path(file)
        where, here = str(path), "the command line"
        table = flat(renamed(read_toml(path), where, say), keys_of(cls), where, placed=True)
        table.setdefault("name", path.stem)
        given = {name: value for name, value in overrides.items() if value is not None}
        given = flat(renamed(given, here, say), keys_of(cls), here)
        check_idle(table, table, where)
        table = with_paths_beside(table, path.parent, given)
        whole, over = laid_over(table, given), f"{here}, laid over {where}"
        check_idle(given, whole, f"{over},")
        try:
            return cls.from_dict(whole, where=where)
        except ScenarioError as error:
            if not given or str(error).startswith(where):
                raise
            raise ScenarioError(f"{over}: {error}") from None

    @classmethod
    def from_dict(
        cls, table: dict[str, Any], *, where: str = "the scenario", say: Callable[[str], object] | None = None
    ) -> Self:
        """Build a Scenario from plain values, flat or in tables; `where` is named in errors.

        Raises ScenarioError for unknown keys and wrong types.
        """
        table = flat(renamed(table, where, say), keys_of(cls), where)
        if table.get("concurrency") and (table.get("rate") or table.get("trace")):
            raise ScenarioError(f"{where} has both concurrency (closed loop) and rate or trace (open loop); give one.")
        if table.get("endpoint") == EMBEDDINGS and table.get("output_tokens"):
            raise ScenarioError(NO_OUTPUT)
        return cls(**table, where=where)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, for run.json; `from_dict` takes them back."""
        return dataclasses.asdict(self)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with `changes`, checked like any other."""
        return dataclasses.replace(self, **changes)

    @property
    def sends_nothing_first(self) -> bool:
        """Whether no request is sent before the first level: where model loads are measured, and all texts are the user's own.

        The first load may then read the file from disk, where a model that was loaded to fit lengths leaves it in the page
        cache.
        """
        own_texts = self.literal or self.data is not None
        return self.unload and own_texts and self.system_tokens is None

    def axes(self) -> tuple[Sequence[Any], ...]:
        """Return the values that levels are made of: words, input lengths, output lengths, loads."""
        inputs = () if self.literal or self.data is not None else self.input_tokens
        return (
            self.words or (None,),
            inputs or (None,),
            self.output_tokens or (None,),
            self.concurrency or self.rate or (None,),
        )

    def levels(self) -> list[Level]:
        """Return the levels in the order they run: concurrency (or rate) changes fastest."""
        levels = [
            Level(
                index=index,
                concurrency=None if self.open_loop else load,
                rate=load if self.open_loop else None,
                rate_to=self.rate_to,
                trace=Path(self.trace).name if self.trace is not None else None,
                input_tokens=input_tokens if isinstance(input_tokens, int) else None,
                output_tokens=output_tokens if isinstance(output_tokens, int) else None,
                input_lengths=input_tokens if isinstance(input_tokens, str) else None,
                output_lengths=output_tokens if isinstance(output_tokens, str) else None,
                system_tokens=self.system_tokens,
                words=words,
                requests=self.requests_at(0 if self.open_loop else load),
                inputs=self.inputs_per_request,
                turns=None if self.turns is None else str(self.turns),
                sessions=self.has_sessions,
                thinks=bool(self.think_time),
            )
            for index, (words, input_tokens, output_tokens, load) in enumerate(itertools.product(*self.axes()))
        ]
        before = itertools.accumulate((level.requests for level in levels), initial=0)
        return [dataclasses.replace(level, before=sent) for level, sent in zip(levels, before, strict=False)]


def _check_pairs(scenario: Scenario) -> None:
    given = {one.name for one in keys_of(type(scenario)) if getattr(scenario, one.name) != one.default}
    for some, others, why in EXCLUSIVE:
        first, second = (next((name for name in names if name in given), None) for names in (some, others))
        if first and second:
            raise ScenarioError(f"{first} and {second} exclude each other: {why}; give one.")
    for name, others in NEEDS.items():
        if name in given and given.isdisjoint(others):
            raise ScenarioError(f"{name} does nothing alone; add {' or '.join(others)}.")


def _check_together(scenario: Scenario) -> None:
    if not (scenario.literal or scenario.trace or scenario.data or scenario.input_tokens):
        raise ScenarioError("input_tokens is empty: name a prompt length, or give a prompt.")
    if scenario.up_to_context:
        if any(isinstance(one, str) for one in (*scenario.input_tokens, *scenario.output_tokens)):
            raise ScenarioError("up_to_context needs lengths that are numbers; leave out the distributions.")
        if not scenario.output_tokens and scenario.endpoint != EMBEDDINGS:
            raise ScenarioError("up_to_context must know how much of the context the answer takes; give output_tokens.")
    if scenario.endpoint == EMBEDDINGS and scenario.shares_prefix:
        raise ScenarioError("embeddings take no system prompt; leave out system and system_tokens.")
    if scenario.leave and scenario.endpoint == EMBEDDINGS:
        raise ScenarioError("an answer of embeddings has no middle to hang up in; leave out leave, or give patience.")
    if scenario.leave and not scenario.output_tokens and scenario.data is None and scenario.trace is None:
        raise ScenarioError("leave must know how long an answer is expected to be; give output_tokens.")
    if scenario.endpoint == EMBEDDINGS and scenario.output_tokens:
        raise ScenarioError(NO_OUTPUT)
    if scenario.unload and scenario.api == "openai":
        raise ScenarioError("unload works over Ollama's own API only; leave out --api or set it to ollama.")
    levels = math.prod(map(len, scenario.axes()))
    if levels > MOST_LEVELS:
        raise ScenarioError(f"the scenario has {levels} levels; name fewer values, for {MOST_LEVELS} at most.")
    _check_closed_loop_ends(scenario)
    for rate in scenario.rate:
        _check_rate_ends(scenario, rate)


def _check_sessions(scenario: Scenario) -> None:
    if scenario.open_loop and scenario.think_time and not scenario.has_sessions:
        raise ScenarioError("think_time slows the users of a closed loop; leave it out in an open loop.")
    if scenario.has_sessions and scenario.endpoint in ("generate", "completions", EMBEDDINGS):
        raise ScenarioError(
            f"a conversation is made of messages, and {scenario.endpoint} takes none; use chat, responses or messages, or "
            "leave out turns and answers."
        )


def check_idle(given: Mapping[str, Any], whole: Mapping[str, Any], where: str) -> None:
    """Raise ScenarioError for a key that is given to a scenario in which another one leaves it nothing to say."""
    if given.get("arrivals") and not whole.get("rate"):
        raise ScenarioError(f"arrivals = {given['arrivals']} needs a rate; add rate, e.g. rate = [4].")
    for name, (others, why) in IDLE_BESIDE.items():
        other = next((one for one in others if whole.get(one)), None)
        if other is not None and given.get(name):
            raise ScenarioError(f"{where} has {name} beside {other}: {why}; leave out {name} or {other}.")


def _check_closed_loop_ends(scenario: Scenario) -> None:
    """Raise ScenarioError for more requests than a machine can hold."""
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


def _check_rate_ends(scenario: Scenario, rate: float) -> None:
    """Raise ScenarioError for a level at a rate that would not end, or that no machine could hold."""
    mean = rate if scenario.rate_to is None else (rate + scenario.rate_to) / 2
    if scenario.duration is not None and mean * scenario.duration > MOST_REQUESTS:
        raise ScenarioError(
            f"rate = {rate:g} for {scenario.duration:g} s makes {mean * scenario.duration:.0f} requests; ask for a "
            f"duration of {MOST_REQUESTS / mean:.0f} s or less."
        )
    for name in ("requests", "least_requests"):
        requests = getattr(scenario, name) or 0
        if requests / mean > MOST_S:
            raise ScenarioError(
                f"{name} = {requests} at rate = {rate:g} would take {requests / mean / 86400:.0f} days; ask for fewer "
                "requests or a higher rate."
            )


_CHECKS: tuple[Callable[[Any], None], ...] = (
    _check_pairs,
    check_load,
    check_prompts,
    check_data,
    check_request,
    check_connection,
    _check_sessions,
    _check_together,
)
