"""The request: which servers and models it goes to, by which API, and what it says beside the prompt.

Several servers and models stay one text each, in run.json too: URLs with blanks between, models with commas, each with a
weight where it has one ("a=3,b=1").
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.errors import ScenarioError, TargetError, refuse
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key, request_key
from loadtest.scenario.request_additions import (
    MOST_BODY,
    body_text,
    check_body,
    check_headers,
    check_keep_alive,
    check_path,
    query_parts,
)
from loadtest.scenario.values import Range, Text, short_repr
from loadtest.urls import BLANKS_AND_QUOTES, parse_url, without_secrets

MOST_TARGETS = 64  # combinations of a server and a model in one run
MOST_WEIGHT = 1000

_BETWEEN_URLS = re.compile(r"\s*,\s*(?=\w+://)|\s+")
_WEIGHTED = re.compile(r"(?P<name>.*\S)\s*=\s*(?P<weight>-?\d+(\.\d+)?)")


@dataclass(frozen=True, slots=True)
class ModelShare:
    """A model's name, None for the one that the server has, and its part of a server's users."""

    name: str | None
    weight: int = 1


def urls_in(text: str | None) -> tuple[str | None, ...]:
    """Return the URLs that a text names; (None,) where none is given. Blanks and quotes around the text or a URL go."""
    if text is None:
        return (None,)
    urls = (url.strip(BLANKS_AND_QUOTES) for url in _BETWEEN_URLS.split(text.strip(BLANKS_AND_QUOTES)))
    return tuple(url for url in urls if url) or (text,)


def models_in(text: str | None) -> tuple[ModelShare, ...]:
    """Return the models that a text names, with their weights; without a comma the text is one name, whatever it holds.

    Raises ScenarioError for a name given twice, a name that is missing, and a weight that is no whole number above 0.
    """
    if text is None or "," not in text:
        return (ModelShare(text),)
    found = []
    for entry in text.split(","):
        match = _WEIGHTED.fullmatch(entry.strip())
        name, weight = (match["name"], match["weight"]) if match else (entry.strip(), "1")
        refuse(not name, f"model = {short_repr(text)} lacks a name beside a comma; write a,b or a=3,b=1.")
        refuse(
            not weight.isdigit() or not 1 <= int(weight) <= MOST_WEIGHT,
            f"model: the weight of {name} must be a whole number from 1 to {MOST_WEIGHT}, not {short_repr(weight)}; "
            "write a=3,b=1.",
        )
        found.append(ModelShare(name, int(weight)))
    names = [one.name for one in found]
    refuse(
        twice := next((name for name in names if names.count(name) > 1), None),
        f"model names {twice} twice; give it once, with a weight where it has more users: {twice}=2.",
    )
    return tuple(found)


def even_weights(models_of_servers: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the weight of each model of each server, so that every server has as many users as any other."""
    totals = [sum(weights) for weights in models_of_servers]
    whole = math.lcm(*totals)
    weights = [weight * whole // total for own, total in zip(models_of_servers, totals, strict=True) for weight in own]
    common = math.gcd(*weights)
    return tuple(weight // common for weight in weights)


def rotation(weights: Sequence[int]) -> tuple[int, ...]:
    """Return whose turn it is, by index, over one round in which each has as many turns as its weight, spread evenly.

    User j and arrival j are the target's whose turn is the j-th, round after round.
    """
    credit = [0] * len(weights)
    turns = []
    for _ in range(sum(weights)):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(weights)
        turns.append(chosen)
    return tuple(turns)


APIS = ("auto", "ollama", "openai", "anthropic")
ENDPOINT_NAMES = ("chat", "generate", "completions", "responses", "messages", "embeddings")
ONE_API = {
    "responses": "openai",
    "messages": "anthropic",
}  # endpoints whose path is the same whatever else a server speaks
EMBEDDINGS = "embeddings"
MAX_TOKENS_KEYS = ("max_tokens", "max_completion_tokens")
THINK = ("on", "off", "low", "medium", "high", "max")
# What requests say beside the prompt where the user asks for it: options that a dialect may lack …
SAID_KEYS = ("temperature", "top_p", "top_k", "stop", "think", "keep_alive", "ignore_eos", "sampling_seed")
ADDED_KEYS = ("header", "body", "query", "path")  # … and what is added to any request


@dataclass(frozen=True, kw_only=True)
class RequestKeys:
    """Keys that decide where a request goes and what it says beside the prompt."""

    url: str | None = key(
        "Base URL of the server; default: OLLAMA_HOST, else OPENAI_BASE_URL, else the local Ollama. May be given again: users "
        "are then spread evenly over the servers, and arrivals at a rate take turns.",
        None,
        joined=" ",
        text=Text(
            8000, "give the server's URL, or leave it out to use OLLAMA_HOST, OPENAI_BASE_URL or the local Ollama"
        ),
        metavar="URL",
    )
    api: str = key(
        "API of the server: auto, ollama (native), openai or anthropic.",
        "auto",
        choices=APIS,
        locust=(ATTRIBUTE, OPTION),
    )
    endpoint: str = key(
        "chat, generate (Ollama), completions, responses (OpenAI), messages (Anthropic) or embeddings.",
        "chat",
        choices=ENDPOINT_NAMES,
        locust=(ATTRIBUTE, OPTION),
    )
    inputs_per_request: int = key(
        "Texts in each request for embeddings.", 1, bounds=Range(1, 10_000), locust=(ATTRIBUTE, OPTION)
    )
    model: str | None = key(
        "Model name; default: the one that is loaded, else the only one. Several share the users: a,b, or a=3,b=1 (three users "
        "of a to one of b).",
        None,
        joined=",",
        text=Text(1000, "give the model's name, or leave it out to use the one that is loaded"),
        locust=(ATTRIBUTE, OPTION),
        metavar="NAME",
    )
    num_ctx: int | None = key(
        "Context length that Ollama loads the model with, the same for the whole run; any other server must have as much.",
        None,
        unit="tokens",
        bounds=Range(1, 2**31 - 1, above_zero=True),
        locust=(ATTRIBUTE,),
    )
    temperature: float | None = key(
        "Sampling temperature; default: the server's.", None, bounds=Range(0, 100), locust=(ATTRIBUTE,)
    )
    max_tokens_key: str = key(
        "OpenAI field for the answer length: max_tokens or max_completion_tokens.",
        "max_tokens",
        choices=MAX_TOKENS_KEYS,
        locust=(ATTRIBUTE,),
    )
    # What is added to every request, and what is said by name; each dialect says how in its own file.
    header: Sequence[str] = request_key(
        "Header of every request, as 'Name: value'; ${NAME} in the value is filled in from the environment when it is "
        "sent, and never stored. May be given again.",
        [],
        repeat="'NAME: VALUE'",
        valid=check_headers,
    )
    body: str | None = request_key(
        "JSON laid over the body of every request, or @FILE with it; null takes a key out, as in "
        "'{\"stream_options\": null}'; ${NAME} in a text as in --header.",
        None,
        text=Text(MOST_BODY, "write a JSON object, or leave it out", lines=True),
        convert=body_text,
        metavar="JSON",
    )
    query: Sequence[str] = request_key(
        "Query of every measured request, as 'name=value'; ${NAME} as in --header. May be given again.",
        [],
        repeat="NAME=VALUE",
        valid=query_parts,
    )
    path: str | None = request_key(
        "Path that measured requests go to, below the URL, instead of the endpoint's own.",
        None,
        text=Text(4096, "write it like /v1/chat/completions, or leave it out"),
        metavar="PATH",
        valid=check_path,
    )
    top_p: float | None = request_key(
        "Sample from the likeliest tokens that together have this probability; default: the server's.",
        None,
        bounds=Range(0, 1),
    )
    top_k: int | None = request_key(
        "Sample from this many likeliest tokens; default: the server's.",
        None,
        bounds=Range(-1, 1_000_000),
    )
    stop: Sequence[str] = key(  # no attribute of Locust's users, who have a method of that name
        "Text that ends an answer. May be given again.",
        [],
        text=Text(1000, "give the text that ends an answer, or leave it out", lines=True, blank=True),
        table="request",
        repeat="TEXT",
        locust=(OPTION,),
    )
    think: str | None = request_key(
        "Whether the model thinks before it answers, or how hard; default: the model decides.",
        None,
        choices=THINK,
        convert=lambda given: ("off", "on")[given] if isinstance(given, bool) else given,
    )
    keep_alive: str | None = request_key(
        "How long Ollama keeps the model loaded after a request, like 10m; -1: for ever.",
        None,
        text=Text(100, "write a time like 10m, or leave it out"),
        metavar="TIME",
        valid=check_keep_alive,
    )
    ignore_eos: bool = request_key(
        "Ask for answers of full length: the server ignores the end that the model chooses (vLLM, llama.cpp).",
        default=False,
    )
    sampling_seed: int | None = request_key(
        "Seed of the server's sampling, the same in every request.",
        None,
        bounds=Range(-(2**31), 2**32 - 1),
    )

    @property
    def urls(self) -> tuple[str | None, ...]:
        """The servers' URLs; (None,) where none is given."""
        return urls_in(self.url)

    @property
    def models(self) -> tuple[ModelShare, ...]:
        """The models with their weights, as far as they are named."""
        return models_in(self.model)

    @property
    def requests_per_rarest_target(self) -> int:
        """How many requests a run sends for each one to the target that has the fewest users; 1 for one target."""
        weights = [one.weight for one in self.models]
        return len(self.urls) * -(-sum(weights) // min(weights))

    @property
    def several(self) -> bool:
        """Whether more than one server or model is named."""
        return len(self.urls) * len(self.models) > 1


def check_request(request: RequestKeys) -> None:
    """Raise ScenarioError for an endpoint that the API does not have, and for what a body may not say."""
    if request.body is not None:
        given = [one for one in SAID_KEYS if (value := getattr(request, one)) is not False and value not in (None, ())]
        check_body(request.body, given)
    api, endpoint = request.api, request.endpoint
    other = {("ollama", "completions"): "generate", ("openai", "generate"): "completions"}.get((api, endpoint))
    refuse(other is not None, f"api {api} has no endpoint {endpoint!r}; use chat or {other}.")
    refuse(
        api == "anthropic" and endpoint not in ("chat", "messages"),
        f"api anthropic has no endpoint {endpoint!r}; use messages, or another api.",
    )
    refuse(
        request.inputs_per_request > 1 and EMBEDDINGS not in (endpoint, *map(_endpoint_named, request.urls)),
        f"inputs_per_request = {request.inputs_per_request} is for embeddings, and a request to {endpoint} says one "
        "text; leave it out, or set endpoint to embeddings.",
    )
    if twice := next((url for url in request.urls if request.urls.count(url) > 1), None):
        raise ScenarioError(f"url names {without_secrets(twice)} twice; name each server once.")
    count = len(request.urls) * len(request.models)
    refuse(
        count > MOST_TARGETS, f"url and model make {count} pairs of a server and a model; name {MOST_TARGETS} at most."
    )


def _endpoint_named(url: str | None) -> str | None:
    """Return the endpoint that a URL ends in; None where it names none, or is no URL, which is said later."""
    try:
        return None if url is None else parse_url(url).asks[1]
    except TargetError:
        return None
