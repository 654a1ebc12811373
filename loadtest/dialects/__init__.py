"""Wire formats: encode(job) gives a path and a body, decoders turn body bytes into events. No I/O."""

from __future__ import annotations

from loadtest.dialects.base import Decoder, Dialect, End, Ending, EndMarks, Events
from loadtest.dialects.ollama import OllamaChat, OllamaGenerate
from loadtest.dialects.openai import OpenAIChat, OpenAICompletions
from loadtest.scenario import Scenario

__all__ = [
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


def dialect_for(scenario: Scenario, *, api: str, model: str) -> Dialect:
    """Return the wire format that a scenario speaks, once api ("ollama" or "openai") and model are known.

    An endpoint that the API lacks cannot come here: Scenario refuses it where the API was named, and with "auto" the
    nearest one is taken (generate and completions are each other's counterpart).
    """
    chat = scenario.endpoint == "chat"
    if api == "ollama":
        return (OllamaChat if chat else OllamaGenerate)(
            model, num_ctx=scenario.num_ctx, temperature=scenario.temperature
        )
    return (OpenAIChat if chat else OpenAICompletions)(
        model, temperature=scenario.temperature, max_tokens_key=scenario.max_tokens_key
    )
