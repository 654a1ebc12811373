"""Lists of models in every shape that servers give them, and what a row says: the model's name, its context, whether it is loaded.

What servers of the OpenAI API say of their models beside that list is read here, too.

Shapes seen: {"data": [{"id"}]}, {"models": [{"name"}]}, the list alone, names as texts, {"models": {name: {…}}}, one list
within another object ({"result": {"data": […]}}), one model alone, and null for no models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from loadtest import credentials
from loadtest.dialects.answers.errors.error_rows import error_in_envelope
from loadtest.dialects.answers.errors.error_words import one_spelling
from loadtest.targets.server.control import LONGEST_TEXT, as_items, as_mapping, as_positive, as_text, ask

MOST_PAGES = 20  # of one list
_LISTS = ("data", "models", "items", "result", "results", "list", "model_list", "available_models")
_NAMES = ("id", "name", "model", "model_name", "model_id", "modelId", "key")
# Ids that are a gateway's own: the model goes by its name there.
_OWN_ID = re.compile(r"^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$|://|^sha256:", re.IGNORECASE)
_STATES = dict.fromkeys(("loaded", "ready", "running"), True) | dict.fromkeys(
    ("unloaded", "not-loaded", "not_loaded", "loading", "starting", "sleeping", "stopping", "stopped", "downloading"),
    False,
)
# What a model has, and what it could have at most, as `plain` spells names; the first that is there counts.
_CONTEXTS = (
    *("loadedcontextlength", "maxmodellen", "nctx", "contextlength", "contextwindow", "contextsize"),
    *(
        "maxcontextwindow",
        "maxcontextwindowtokens",
        "contextwindowtokens",
        "maxcontexttokens",
        "maxseqlen",
        "maxtotaltokens",
    ),
)
_TRAINED = ("nctxtrain", "maxcontextlength", "maxpositionembeddings")
# Objects in a row in which contexts are said, too.
_PLACES = ("meta", "top_provider", "limits", "capabilities", "config", "details", "parameters")
_SLOTS = ("parallel", "maxbatchsize")
_PAGES = ("pagination", "links", "meta", "paging")  # objects in which a list says what page of it this is
# What names the next page, and by which parameter it is asked for.
_NEXT_TOKENS = (("nextPageToken", "pageToken"), ("next_page_token", "page_token"))
_PAGE_COUNTS = ("totalpages", "totalpage", "pages", "pagecount", "lastpage")
_LINK_TO_NEXT = re.compile(r"""<([^>]*)>\s*(?:;[^,<]*)?;\s*rel=["']?next\b""", re.IGNORECASE)
# Where servers say more of their models: of all (LM Studio), or of the loaded ones alone (llama-swap, TabbyAPI, TGI,
# text-generation-webui, LocalAI). What counts is the answer's shape, and that it names models of the list.
OF_ALL = ("/api/v1/models", "/api/v0/models")
OF_LOADED = ("/running", "/v1/model", "/info", "/v1/internal/model/info", "/system")
_LISTS_OF_LOADED = ("running", "loaded_models")
# Where a row says what its model is for (LM Studio, Xinference, LiteLLM, GPUStack, Together, llama.cpp, Ollama), and in which words.
_PURPOSES = ("type", "model_type", "mode", "task", "categories", "capabilities")
_TALKS = ("llm", "vlm", "chat", "complet", "text-gen", "text_gen", "text-to-text", "language")
_NO_TALK = ("rerank", "image", "audio", "speech", "tts", "stt", "transcri", "moderat")

Row = dict[str, Any]


def listed_models(body: Any) -> list[dict[str, Any]] | None:
    """Return the models that a body lists, each with `name`; None where the body is not a list of models."""
    if (rows := _rows(body, depth=2)) is None:
        return None
    named = {row["name"]: row for row in reversed(list(_with_names(rows)))}
    return list(reversed(named.values()))


def _rows(body: Any, depth: int) -> list[Any] | None:
    if isinstance(body, list):
        return body
    if not isinstance(body, dict):
        return None
    found = [body[key] for key in _LISTS if key in body]
    if (listed := next((one for one in found if isinstance(one, list)), None)) is not None:
        return listed if listed or error_in_envelope(body) is None else None
    for one in found if depth else ():
        if isinstance(one, dict) and (rows := _in_object(one, depth - 1)) is not None:
            return rows
    if body.get("object") == "model" and _is_row(body):
        return [body]
    is_none = found and all(one is None for one in found) and error_in_envelope(body) is None
    return [] if is_none else None


def _in_object(value: dict[str, Any], depth: int) -> list[Any] | None:
    """Return the rows of an object that stands in a list's place: one model, a list further inside, or models by name."""
    if _is_row(value):
        return [value]
    if (rows := _rows(value, depth)) is not None:
        return rows
    if "error" not in value and all(isinstance(row, dict | None) for row in value.values()):
        return [{**as_mapping(row), "name": name, "id": name} for name, row in value.items()]
    return None


def _is_row(value: dict[str, Any]) -> bool:
    return any(isinstance(value.get(key), str) for key in ("id", "name", "model"))


def _with_names(listed: list[Any]) -> Iterator[dict[str, Any]]:
    hide = credentials.redactor()
    for row in listed:
        if not isinstance(row, dict):
            row = {"id": row}  # noqa: PLW2901 - the name alone
        if (name := _name_of(row)) is not None and name.strip() and len(name) <= LONGEST_TEXT:
            yield {**row, "name": hide(name)}


def _name_of(row: dict[str, Any]) -> str | None:
    """Return the name by which requests ask for a model: its id, beside which many servers have a name for people."""
    ours = isinstance(row.get("id"), str) and not _OWN_ID.search(row["id"])
    names = [row.get(key) for key in _NAMES[1:]]
    tags = as_items(row.get("tags"))[:1]
    candidates = [row.get("id"), *names] if ours else [*names, *tags, row.get("id")]
    return next((name for one in candidates if (name := as_text(one))), None)


def next_page(body: Any, link: str | None = None) -> str | None:
    """Return the query that asks for the page behind a body that lists models; None where it is the last.

    `link` is the answer's Link header. Of a URL to the next page its query alone is taken: another host is never asked.
    """
    listed = _rows(body, depth=2)
    if not listed:
        return None
    if (found := _LINK_TO_NEXT.search(link or "")) is not None:
        return urlsplit(found[1]).query or None
    fields = as_mapping(body)
    if fields.get("has_more") is True:
        last = as_text(fields.get("last_id")) or as_text(as_mapping(listed[-1]).get("id"))
        return None if last is None else f"after_id={quote(last, safe='')}"
    for name, asked in _NEXT_TOKENS:
        if (token := as_text(fields.get(name))) is not None:
            return f"{asked}={quote(token, safe='')}"
    parts = (fields, *(as_mapping(fields.get(place)) for place in _PAGES))
    if (url := next((url for part in parts if (url := as_text(part.get("next")))), None)) is not None:
        return urlsplit(url).query or None
    return next((query for part in parts if (query := _by_number(one_spelling(part)))), None)


def _by_number(fields: dict[str, Any]) -> str | None:
    """Return the query for the next page of numbered ones, where an object says which this is, and how many there are."""
    page, pages = as_positive(fields.get("page")), _first_of(fields, _PAGE_COUNTS)
    return None if page is None or pages is None or page >= pages else f"page={page + 1}"


def says_loaded(row: dict[str, Any]) -> bool | None:
    """Return whether a row says that its model is loaded; None where it does not say."""
    is_loaded = row.get("loaded")
    if isinstance(is_loaded, bool):
        return is_loaded
    for state in (row.get("status"), row.get("state")):
        word = as_mapping(state).get("value", state)
        if isinstance(word, str) and word.lower() in _STATES:
            return _STATES[word.lower()]
    return bool(as_items(row["loaded_instances"])) if isinstance(row.get("loaded_instances"), list) else None


def purpose(row: Row) -> str | None:
    """Return what a row says its model is for: "chat", "embeddings" or "other"; None where it does not say."""
    said = (row.get(key) for key in _PURPOSES)
    words = " ".join(word.lower() for one in said for word in (as_items(one) or [one]) if isinstance(word, str))
    if any(part in words for part in _TALKS):
        return "chat"
    return "embeddings" if "embed" in words else "other" if any(part in words for part in _NO_TALK) else None


def instances(row: dict[str, Any]) -> list[dict[str, Any]]:
    return [as_mapping(one) for one in as_items(row.get("loaded_instances"))]


def slots_of(row: dict[str, Any]) -> int | None:
    """Return how many requests a row says that its one loaded instance handles in parallel."""
    configs = [as_mapping(one.get("config")) for one in instances(row)]
    parts = [one_spelling(part) for part in (*configs, as_mapping(row.get("parameters")))]
    return (
        _first_of({key: value for part in parts for key, value in part.items()}, _SLOTS) if len(configs) < 2 else None
    )


def contexts(row: dict[str, Any]) -> tuple[int | None, int | None]:
    """Return the context that a row says its model has, and the largest that it could have, in tokens."""
    fields: dict[str, Any] = {}
    for part in (*(as_mapping(row.get(place)) for place in reversed(_PLACES)), row):
        fields |= one_spelling(as_mapping(part.get("limits"))) | one_spelling(part)
    for one in instances(row):
        fields |= one_spelling(as_mapping(one.get("config")))
    has, could = (_first_of(fields, names) for names in (_CONTEXTS, _TRAINED))
    return (None, has or could) if says_loaded(row) is False else (has, could)


def _first_of(fields: dict[str, Any], names: tuple[str, ...]) -> int | None:
    return next((count for name in names if (count := as_positive(_number(fields.get(name))))), None)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12 else value


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
    """Return the models of an answer that say something of their loading or context: some servers give one list at any path."""
    if not loaded_alone:
        return [row for row in listed_models(body) or [] if _says(row)]
    fields = as_mapping(body)
    alone = [] if {"data", "models"} & fields.keys() else [fields]
    return (
        listed_models(next((fields[key] for key in _LISTS_OF_LOADED if isinstance(fields.get(key), list)), alone)) or []
    )


def _names(row: Row) -> Iterator[str]:
    yield row["name"]
    for one in instances(row):
        if (name := as_text(one.get("id"))) is not None:
            yield name


def _joined(row: Row, found: dict[str, Row], loaded_alone: bool) -> Row:
    more = found.get(row["name"])
    if more is None:
        return {**row, "loaded": False} if loaded_alone else row
    is_loaded = says_loaded(more)
    known = True if is_loaded is None and loaded_alone else is_loaded
    return {**row, **more, "name": row["name"], "loaded": known}


def _says(row: Row) -> bool:
    return says_loaded(row) is not None or contexts(row) != (None, None)


def _slots(found: dict[str, Row]) -> int | None:
    """Return the slots of the one loaded model; of several they do not add up."""
    slots = {id(row): slots_of(row) for row in found.values() if says_loaded(row) is not False}
    return next(iter(slots.values())) if len(slots) == 1 else None
