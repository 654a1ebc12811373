"""Wire formats: a Dialect turns a Job into a request's body, and its decoder turns an answer's bytes into events. No I/O."""

from __future__ import annotations

from typing import Any

from loadtest.dialects.base import ContentEvents, Decoder, Dialect, End, Ending, EndMarks
from loadtest.dialects.embeddings import OllamaEmbed, OpenAIEmbeddings
from loadtest.dialects.messages import AnthropicMessages
from loadtest.dialects.ollama import OllamaChat, OllamaGenerate
from loadtest.dialects.openai import OpenAIChat, OpenAICompletions
from loadtest.dialects.responses import OpenAIResponses
from loadtest.metrics import ServerSaid
from loadtest.scenario import ONE_API, Scenario

__all__ = [
    "DIALECTS",
    "AnthropicMessages",
    "ContentEvents",
    "Decoder",
    "Dialect",
    "End",
    "EndMarks",
    "Ending",
    "OllamaChat",
    "OllamaEmbed",
    "OllamaGenerate",
    "OpenAIChat",
    "OpenAICompletions",
    "OpenAIEmbeddings",
    "OpenAIResponses",
    "dialect_for",
    "has_text",
    "said_by_server",
]


DIALECTS: dict[tuple[str, str], type[Dialect]] = {
    (dialect.api, dialect.endpoint): dialect
    for dialect in (
        OllamaChat,
        OllamaGenerate,
        OllamaEmbed,
        OpenAIChat,
        OpenAICompletions,
        OpenAIResponses,
        OpenAIEmbeddings,
        AnthropicMessages,
    )
}
COUNTERPARTS = {"generate": "completions", "completions": "generate"}  # the same request, by each API's name for it


def said_by_server(dialect: str | None, server: dict[str, Any]) -> ServerSaid:
    """Return what a record's `server` says of the server's durations, read by the record's dialect where it is known."""
    return (_named(dialect) or Dialect).server_said(server)


def has_text(dialect: object) -> bool:
    """Whether answers of the dialect of this name are text, which comes in pieces; embeddings are not."""
    known = _named(dialect)
    return "embed" not in str(dialect) if known is None else known.streams


def _named(name: object) -> type[Dialect] | None:
    return next((kind for kind in DIALECTS.values() if kind.name == name), None)


def dialect_for(scenario: Scenario, *, api: str, model: str, kind: str = "") -> Dialect:
    """Return the wire format that a scenario speaks, once the server's api, the model and the kind of server are known.

    Scenario refuses an endpoint that a named API lacks; with api "auto" the endpoint's counterpart is taken. An endpoint of
    one API alone, such as messages, is spoken by servers of the others too. Raises ScenarioError for an option that the
    format or this kind of server lacks.
    """
    endpoint = scenario.endpoint
    if endpoint in ONE_API:
        api = ONE_API[endpoint]
    elif api == "anthropic":
        endpoint = "messages"
    elif (api, endpoint) not in DIALECTS:
        endpoint = COUNTERPARTS[endpoint]
    dialect = DIALECTS[api, endpoint]
    native = DIALECTS.get(("ollama", endpoint)) if (kind, api) == ("ollama", "openai") else None
    return dialect.of(scenario, model, kind, native.says if native else ())
