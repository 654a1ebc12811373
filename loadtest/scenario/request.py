"""The request: which server it goes to, by which API, and what it says beside the prompt."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.errors import ScenarioError
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key
from loadtest.scenario.values import Range, Text

APIS = ("auto", "ollama", "openai", "anthropic")
ENDPOINT_NAMES = ("chat", "generate", "completions", "responses", "messages", "embeddings")
ONE_API = {
    "responses": "openai",
    "messages": "anthropic",
}  # endpoints whose path is the same whatever else a server speaks
EMBEDDINGS = "embeddings"
MAX_TOKENS_KEYS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, kw_only=True)
class RequestKeys:
    """Keys that decide where a request goes and what it says beside the prompt."""

    url: str | None = key(
        "Base URL of the server; default: OLLAMA_HOST, OPENAI_BASE_URL, or the local Ollama.",
        None,
        text=Text(
            8000, "give the server's URL, or leave it out to use OLLAMA_HOST, OPENAI_BASE_URL or the local Ollama"
        ),
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
        "Model name; default: the one that is loaded, else the only one.",
        None,
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


def check_request(request: RequestKeys) -> None:
    """Raise ScenarioError for an endpoint that the API does not have, and for inputs of one that takes no list of them."""
    api, endpoint = request.api, request.endpoint
    if (api, endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if api == "ollama" else "completions"
        raise ScenarioError(f"api {api} has no endpoint {endpoint!r}; use chat or {other}.")
    if api == "anthropic" and endpoint not in ("chat", "messages"):
        raise ScenarioError(f"api anthropic has no endpoint {endpoint!r}; use messages, or another api.")
    if request.inputs_per_request > 1 and endpoint != EMBEDDINGS:
        raise ScenarioError(
            f"inputs_per_request = {request.inputs_per_request} is for embeddings, and a request to {endpoint} says one "
            "text; leave it out, or set endpoint to embeddings."
        )
