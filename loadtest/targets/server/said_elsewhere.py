"""What servers of the OpenAI API say of their models beside /v1/models: which are loaded, their context, how many slots.

Each path is some server's own (LM Studio, llama-swap, TabbyAPI, TGI, text-generation-webui, LocalAI); what counts is the shape of the
answer, and that it names models of the list.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from loadtest.targets.server.control import as_items, as_mapping, as_positive, as_text, ask
from loadtest.targets.server.model_list import contexts, instances, listed_models, loaded, slots_of

Row = dict[str, Any]
OF_ALL = ("/api/v1/models", "/api/v0/models")  # of LM Studio
OF_LOADED = ("/running", "/v1/model", "/info", "/v1/internal/model/info", "/system")  # which name the loaded ones alone
_LISTS = ("running", "loaded_models")


def with_more(client: httpx.Client, url: str, rows: list[Row]) -> tuple[list[Row], int | None]:
    """Return a list's rows with what the server says of them elsewhere, and its slots, None where it does not say them.

    Nothing is asked where the list itself says which models are loaded, or with what context.
    """
    if not rows or any(map(_says, rows)):
        return rows, None
    for path in (*OF_ALL, *OF_LOADED):
        answer = ask(client, url, path)
        if answer.failure is not None:
            break  # another question may hang as long
        found = {name: row for row in _models_in(answer.json(), path in OF_LOADED) for name in _names(row)}
        if any(row["name"] in found for row in rows):
            return [_joined(row, found, path in OF_LOADED) for row in rows], _slots(found)
    return rows, None


def slots_listed(body: Any) -> tuple[int | None, int | None]:
    """Return how many slots llama.cpp's /slots lists, and the context of each; None for what it does not say."""
    slots = [as_mapping(slot) for slot in as_items(body)]
    sizes = {as_positive(slot.get("n_ctx")) for slot in slots}
    return len(slots) or None, sizes.pop() if len(sizes) == 1 else None


def _models_in(body: Any, loaded_alone: bool) -> list[Row]:
    """Return the models of an answer; none of a list that a server gives at any path."""
    if not loaded_alone:
        return [row for row in listed_models(body) or [] if _says(row)]
    said = as_mapping(body)
    alone = [] if {"data", "models"} & said.keys() else [said]
    return listed_models(next((said[key] for key in _LISTS if isinstance(said.get(key), list)), alone)) or []


def _names(row: Row) -> Iterator[str]:
    yield row["name"]
    for one in instances(row):
        if (name := as_text(one.get("id"))) is not None:
            yield name


def _joined(row: Row, found: dict[str, Row], loaded_alone: bool) -> Row:
    more = found.get(row["name"])
    if more is None:
        return {**row, "loaded": False} if loaded_alone else row
    is_loaded = loaded(more)
    known = True if is_loaded is None and loaded_alone else is_loaded
    return {**row, **more, "name": row["name"], "loaded": known}


def _says(row: Row) -> bool:
    return loaded(row) is not None or contexts(row) != (None, None)


def _slots(found: dict[str, Row]) -> int | None:
    """Return the slots of the one loaded model; of several they do not add up."""
    said = {id(row): slots_of(row) for row in found.values() if loaded(row) is not False}
    return next(iter(said.values())) if len(said) == 1 else None
