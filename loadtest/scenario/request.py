"""The request: which server it goes to, by which API, and what it says beside the prompt."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.errors import ScenarioError
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key
from loadtest.scenario.several import MOST_TARGETS, ModelShare, models_in, urls_in
from loadtest.scenario.values import Range, Text
from loadtest.urls import without_secrets

APIS = ("auto", "ollama", "openai")
ENDPOINT_NAMES = ("chat", "generate", "completions")
MAX_TOKENS_KEYS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, kw_only=True)
class RequestKeys:
    """Keys that decide where a request goes and what it says beside the prompt."""

    url: str | None = key(
        "Base URL of the server; given again, users are spread evenly over the servers, and arrivals take turns; default: "
        "OLLAMA_HOST, OPENAI_BASE_URL, or the local Ollama.",
        None,
        joined=" ",
        text=Text(
            8000, "give the server's URL, or leave it out to use OLLAMA_HOST, OPENAI_BASE_URL or the local Ollama"
        ),
    )
    api: str = key(
        "API of the server: auto, ollama (native) or openai.", "auto", choices=APIS, locust=(ATTRIBUTE, OPTION)
    )
    endpoint: str = key(
        "chat, generate (Ollama) or completions (OpenAI).", "chat", choices=ENDPOINT_NAMES, locust=(OPTION,)
    )
    model: str | None = key(
        "Model name, or several that users share: a,b or a=3,b=1 (three users of a to one of b); default: the one that is "
        "loaded, else the only one.",
        None,
        joined=",",
        text=Text(1000, "give the model's name, or leave it out to use the one that is loaded"),
        locust=(ATTRIBUTE, OPTION),
    )
    num_ctx: int | None = key(
        "Ollama context length, the same for the whole run (a change reloads the model).",
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
    ca_file: str | None = key(
        "PEM file of the authority to trust over https; default: SSL_CERT_FILE, else the known ones.",
        None,
        text=Text(4096, "name a PEM file, or leave it out"),
        locust=(ATTRIBUTE,),
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
    def several(self) -> bool:
        """Whether more than one server or model is named."""
        return len(self.urls) * len(self.models) > 1


def check_request(request: RequestKeys) -> None:
    """Raise ScenarioError for an endpoint that the API does not have, and for servers or models that make no list."""
    twice = next((url for url in request.urls if request.urls.count(url) > 1), None)
    if twice is not None:
        raise ScenarioError(f"url names {without_secrets(twice)} twice; name each server once.")
    if (count := len(request.urls) * len(request.models)) > MOST_TARGETS:
        raise ScenarioError(f"url and model make {count} pairs of a server and a model; name {MOST_TARGETS} at most.")
    if (request.api, request.endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if request.api == "ollama" else "completions"
        raise ScenarioError(f"api {request.api} has no endpoint {request.endpoint!r}; use chat or {other}.")
