"""The request: which server it goes to, by which API, and what it says beside the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.errors import ScenarioError, TargetError
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
from loadtest.scenario.several_targets import MOST_TARGETS, ModelShare, models_in, urls_in
from loadtest.scenario.values import Range, Text
from loadtest.urls import parse_url, without_secrets

APIS = ("auto", "ollama", "openai", "anthropic")
ENDPOINT_NAMES = ("chat", "generate", "completions", "responses", "messages", "embeddings")
# endpoints whose path is the same whatever else a server speaks
ONE_API = {
    "responses": "openai",
    "messages": "anthropic",
}
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
        "Base URL of the server; default: OLLAMA_HOST, else OPENAI_BASE_URL (that first with --api openai), else the local "
        "Ollama. May be given again: the servers then share users and arrivals evenly.",
        None,
        joined=" ",
        text=Text(
            8000, "give the server's URL, or leave it out to use OLLAMA_HOST, OPENAI_BASE_URL or the local Ollama"
        ),
        metavar="URL",
    )
    api: str = key(
        "API of the server; ollama is Ollama's own.",
        "auto",
        choices=APIS,
        locust=(ATTRIBUTE, OPTION),
    )
    endpoint: str = key(
        "What is measured; generate is Ollama's, messages is Anthropic's.",
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
        "OpenAI's field for the length of an answer.",
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
        file="@",
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
        return models_in(self.model)

    @property
    def requests_per_rarest_target(self) -> int:
        """How many requests a run sends for each one to the target that has the fewest users; 1 for one target."""
        weights = [one.weight for one in self.models]
        return len(self.urls) * -(-sum(weights) // min(weights))

    @property
    def several(self) -> bool:
        return len(self.urls) * len(self.models) > 1


def check_request(request: RequestKeys) -> None:
    """Raise ScenarioError for an endpoint that the API does not have, and for what a body may not say."""
    if request.body is not None:
        given = [one for one in SAID_KEYS if (value := getattr(request, one)) is not False and value not in (None, ())]
        check_body(request.body, given)
    api, endpoint = request.api, request.endpoint
    other = {("ollama", "completions"): "generate", ("openai", "generate"): "completions"}.get((api, endpoint))
    if other is not None:
        raise ScenarioError(f"api {api} has no endpoint {endpoint!r}; use chat or {other}.")
    if api == "anthropic" and endpoint not in ("chat", "messages"):
        raise ScenarioError(f"api anthropic has no endpoint {endpoint!r}; use messages, or another api.")
    if request.inputs_per_request > 1 and EMBEDDINGS not in (endpoint, *map(_endpoint_named, request.urls)):
        raise ScenarioError(
            f"inputs_per_request = {request.inputs_per_request} is for embeddings, and a request to {endpoint} says one "
            "text; leave it out, or set endpoint to embeddings."
        )
    if twice := next((url for url in request.urls if request.urls.count(url) > 1), None):
        raise ScenarioError(f"url names {without_secrets(twice)} twice; name each server once.")
    count = len(request.urls) * len(request.models)
    if count > MOST_TARGETS:
        raise ScenarioError(f"url and model make {count} pairs of a server and a model; name {MOST_TARGETS} at most.")


def _endpoint_named(url: str | None) -> str | None:
    """Return the endpoint that a URL ends in; None where it names none, or is no URL, which is said later."""
    try:
        return None if url is None else parse_url(url).asks[1]
    except TargetError:
        return None
