"""The model that an Ollama has loaded: what Ollama says of it, and how to have it dropped."""

from __future__ import annotations

from typing import Any

import httpx

from loadtest.errors import TargetError
from loadtest.targets.server.control import as_count, as_mapping, as_plain, ask
from loadtest.targets.server.model_list import listed_models
from loadtest.targets.target import Target
from loadtest.text import shown

_COUNTS_OF_PS = ("size", "size_vram", "context_length")  # of /api/ps: as_plain would keep any value of them


def loaded_facts(client: httpx.Client, target: Target) -> dict[str, Any] | None:
    """Return what Ollama's /api/ps says of the loaded model; None where the model is not loaded."""
    if target.server.kind != "ollama":
        return None
    try:
        listed = listed_models(ask(client, target.server.url, "/api/ps").json()) or []
    except TargetError:
        return None  # the server is gone: the records say how it ended
    found = next((row for row in listed if row["name"] == target.model.name), None)
    if found is None:
        return None
    facts = {**as_mapping(as_plain(found)), **{key: as_count(found.get(key)) for key in _COUNTS_OF_PS}}
    return {key: value for key, value in facts.items() if value is not None}


def ask_to_unload(client: httpx.Client, target: Target) -> None:
    """Ask Ollama to drop the model now; it is gone once loaded_facts returns None. Raises TargetError if Ollama refuses."""
    url, name = f"{target.server.url}/api/generate", shown(target.model.name)
    answer = ask(client, target.server.url, "/api/generate", {"model": target.model.name, "keep_alive": 0})
    if answer.failure is not None:
        raise TargetError(f"{url} does not answer when asked to unload {name}: {answer.failure}.")
    if not answer.ok:
        raise TargetError(f"{url} does not unload {name}: it answers with {answer.said}; is it an Ollama?")
