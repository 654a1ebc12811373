"""Wire formats: a Dialect turns a Job into a request's body, and its decoder turns an answer's bytes into events. No I/O."""

from __future__ import annotations

from loadtest.dialects.base import Decoder, Dialect, End, Ending, EndMarks, Events
from loadtest.dialects.ollama import OllamaChat, OllamaGenerate
from loadtest.dialects.openai import OpenAIChat, OpenAICompletions
from loadtest.scenario import Scenario

__all__ = [
    "DIALECTS",
    "Decoder",
    "Dialect",
    "End",
    "EndMarks",
    "Ending",
    "Events",
    "OllamaChat",
    "OllamaGenerate",
    "OpenAIChat",
    "OpenAICompletions",
    "dialect_for",
]


DIALECTS: dict[tuple[str, str], type[Dialect]] = {
    (dialect.api, dialect.endpoint): dialect for dialect in (OllamaChat, OllamaGenerate, OpenAIChat, OpenAICompletions)
}
COUNTERPARTS = {"generate": "completions", "completions": "generate"}  # the same request, by each API's name for it


def dialect_for(scenario: Scenario, *, api: str, model: str) -> Dialect:
    """Return the wire format that a scenario speaks, once api ("ollama" or "openai") and model are known.

    Scenario refuses an endpoint that a named API lacks; with api "auto" the endpoint's counterpart is taken.
    """
    endpoint = scenario.endpoint
    if (api, endpoint) not in DIALECTS:
        endpoint = COUNTERPARTS[endpoint]
    return DIALECTS[api, endpoint].of(scenario, model)
