"""What server is this: its API, version, models, slots, context and hazards. `check` prints it, `run` relies on it.

What the user says (--api, --model) is believed. Otherwise two of three signs make a server an Ollama: its version, its
list of models, its greeting. One sign is not enough: other servers answer /api/version with a version of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

import httpx

from loadtest.errors import TargetError
from loadtest.targets.server.control import (
    NO_ANSWER,
    ControlAnswer,
    as_count,
    as_mapping,
    as_plain,
    as_positive,
    as_printable,
    as_text,
    ask,
)
from loadtest.targets.server.model_list import (
    MOST_PAGES,
    contexts,
    listed_models,
    next_page,
    purpose,
    says_loaded,
    slots_listed,
    with_more,
)
from loadtest.targets.server.model_shape import architecture_of, input_embedding
from loadtest.targets.server.unclear import nearer_one, refused_error, unclear_error
from loadtest.text import profile_at_speed, shown
from loadtest.urls import deployment_of, has_own_root

SIMULATED_HEADER = "loadtest-simulated"  # simulate/server.py sets it on every answer; a test compares the spellings
OLLAMA_GREETING = b"Ollama is running"
MOST_MODELS_NAMED = 30  # models in a sentence

# What servers say as the family of their models that answer at Ollama's paths, too, if only with whole answers
_NO_FAMILIES = frozenset(("koboldcpp", "lemonade", "llamacpp", "llama.cpp", "vllm"))
_ENDPOINTS = re.compile(r"((/chat)?/completions|/embeddings)$")
_OLLAMA_VERSION = re.compile(r"v?\d+\.\d+(\.\d+)?([-+.].*)?")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that the server offers, as far as the server says."""

    name: str  # as the server wants it; print it through text.shown
    loaded: bool | None = None
    context: int | None = None  # what the model is loaded with; None while it is not loaded
    trained_context: int | None = None
    size: int | None = None  # bytes in memory when loaded
    size_vram: int | None = None
    purpose: str | None = None  # the endpoint that it is for: "chat", "embeddings" or "other"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def called(self) -> str:
        """Its name for people. SGLang's router lists a model whose name its server does not tell as "unknown"."""
        return '"unknown", which is its name in the list' if self.name == "unknown" else shown(self.name)


@dataclass(frozen=True, slots=True)
class Server:
    """What answered at a URL."""

    url: str  # base without /v1 and without userinfo
    kind: str  # "ollama", "llama.cpp", "vllm" or "openai"
    version: str | None
    models: tuple[ServedModel, ...]
    slots: int | None = None  # only llama.cpp says it
    simulated: dict[str, Any] | None = None  # profile and speed, from the header
    unlisted: str | None = None  # what came instead of a list of models; None where `models` is that list
    cached: str | None = None  # the header by which a cache on the way answered in the server's place
    refusal: str | None = None  # how it refused to say its slots and context

    @property
    def native(self) -> str:
        """The API that this server speaks first: "ollama" or "openai"."""
        return "ollama" if self.kind == "ollama" else "openai"

    def api(self, asked: str) -> str:
        """Return the API to speak with it where a scenario asks for this one: its own for "auto"."""
        return self.native if asked == "auto" else asked

    @property
    def described(self) -> str:
        """The server's name and version, and whether it is simulated."""
        names = {"ollama": "Ollama", "llama.cpp": "llama.cpp", "vllm": "vLLM", "openai": "an OpenAI-compatible server"}
        text = names[self.kind] + (f" {self.version}" if self.version else "")
        if self.simulated:
            text += f" (simulated: {profile_at_speed(self.simulated)})"
        return text


def probe(client: httpx.Client, url: str, *, api: str = "auto", path: str | None = None) -> Server:
    """Find out what answers at `url`, a URL as base_url returns it; with an `api` given, the server need not say what it is.

    `path` is where requests go, if not to an endpoint's own path: models may be listed beside it.
    Raises TargetError where no connection is made, and for api "auto" where nothing says what the server is.
    """
    if has_own_root(url):  # an OpenAI API, whose models may have no list
        return _openai_server(client, url, ControlAnswer("/api/version"), ask(client, url, "/v1/models"))
    version = ask(client, url, "/api/version")
    version_text = as_printable(as_mapping(version.json()).get("version"))
    ours = _OLLAMA_VERSION.fullmatch(version_text or "") is not None
    if (ours or api == "ollama") and (server := _ollama(client, url, version, version_text, api)):
        return server
    listing = _listing(client, url, path)
    if version.failure == listing.failure == NO_ANSWER and api == "auto":
        raise TargetError(
            f"{url} answers neither GET /api/version nor GET {listing.path} in time; is it a model server, and awake?"
        )
    listed = listed_models(listing.json())
    may_be_one = not ours and (listed is None or any(row.get("owned_by") == "library" for row in listed))
    if may_be_one and api == "auto" and (server := _ollama(client, url, version, version_text, api)):
        return server
    if listed is None and api == "auto":
        raise unclear_error(client, url, version, listing)
    server = _openai_server(client, url, version, listing)
    if api == "ollama" and server.kind == "openai":
        unlisted = server.unlisted or f"GET /api/tags: {ask(client, url, '/api/tags').described}; GET /v1/models does"
        server = replace(server, kind="ollama", version=version_text, unlisted=unlisted)
    return server


def _listing(client: httpx.Client, url: str, path: str | None) -> ControlAnswer:
    """Ask for the models: at /v1/models; where nothing lists them there, beside a `path` of another root, or without /v1."""
    listing = ask(client, url, "/v1/models")
    beside = "" if path is None else _ENDPOINTS.sub("/models", path)
    if beside in ("", path):
        beside = "/models" if listing.status == 404 or listing.is_page else ""
    if not beside or listed_models(listing.json()) is not None:
        return listing
    other = ask(client, url, beside)
    return other if other.refused or listed_models(other.json()) is not None else listing


def _openai_server(client: httpx.Client, url: str, version: ControlAnswer, listing: ControlAnswer) -> Server:
    """Return the server as one that speaks OpenAI's API; `listing` answered the question for its models."""
    listed = _every_page(client, url, listing)
    path = f"…{listing.path.removeprefix('/v1')}" if has_own_root(url) else listing.path
    unlisted = None if listed is not None else f"GET {path}: {listing.described}"
    wrong = unlisted is not None and listing.status == 404 and deployment_of(url) is None
    if wrong and (nearer := nearer_one(client, url)) is not None:
        unlisted = f"{unlisted}; {nearer} lists models"
    props = ControlAnswer("/props") if listing.failure else ask(client, url, "/props")
    return replace(
        _openai(client, url, listed or [], props),
        simulated=_simulated_facts(version) or _simulated_facts(listing),
        unlisted=unlisted,
        cached=version.cached or listing.cached or props.cached,
        refusal=f"GET /props: {props.described}" if props.refused else None,
    )


def _every_page(client: httpx.Client, url: str, listing: ControlAnswer) -> list[dict[str, Any]] | None:
    """Return the models of a list and of the pages behind it; None where `listing` is no list."""
    listed, page = listed_models(listing.json()), listing
    known = {row["name"]: row for row in listed or []}
    for _ in range(MOST_PAGES):
        if (query := next_page(page.json(), page.header("link"))) is None:
            break
        page = ask(client, url, f"{listing.path}?{query}")
        before = len(known)
        known |= {row["name"]: row for row in listed_models(page.json()) or [] if row["name"] not in known}
        if len(known) == before:
            break
    return None if listed is None else list(known.values())


def _ollama(
    client: httpx.Client, url: str, version: ControlAnswer, version_text: str | None, api: str
) -> Server | None:
    """Return the server as an Ollama, None where too few signs say so; raise TargetError where it refuses our credentials."""
    tags = ask(client, url, "/api/tags")
    body = tags.json()
    listed = listed_models(body) if isinstance(body, dict) and body.get("models") is not None else None
    needed = 1 if api == "ollama" else 2
    signs = (_OLLAMA_VERSION.fullmatch(version_text or "") is not None) + (listed is not None)
    if signs < needed:
        greeting = ask(client, url, "/")
        signs += greeting.ok and OLLAMA_GREETING in greeting.body[:1000]
    if signs < needed or (api == "auto" and _has_other_program(listed)):
        return None
    if api == "auto" and tags.refused:
        raise refused_error(client, url, tags)
    unlisted = None if listed is not None else f"GET /api/tags: {tags.described}"
    simulated = _simulated_facts(version) or _simulated_facts(tags)
    models, cache = _ollama_models(client, url, listed or []), version.cached or tags.cached
    return Server(url, "ollama", version_text, models, None, simulated, unlisted, cache)


def _has_other_program(listed: list[dict[str, Any]] | None) -> bool:
    """Whether the models of a list are another program's than Ollama's, by their family."""
    families = {as_text(as_mapping(row.get("details")).get("family")) for row in listed or ()}
    return bool(families) and families <= _NO_FAMILIES


def _ollama_models(client: httpx.Client, url: str, listed: list[dict[str, Any]]) -> tuple[ServedModel, ...]:
    running_rows = listed_models(ask(client, url, "/api/ps").json())
    running = {row["name"].removesuffix(":latest"): row for row in running_rows or []}
    models = []
    for row in listed:
        name = row["name"].removesuffix(":latest")
        live = running.get(name, {})
        size = as_positive(row.get("size"))
        models.append(
            ServedModel(
                row["name"],
                # unknown of another machine's model, and where nothing says what is running
                loaded=None if running_rows is None or row.get("remote_host") else name in running,
                context=as_positive(live.get("context_length")),
                size=as_positive(live.get("size")),
                size_vram=as_count(live.get("size_vram")),
                purpose=purpose(row),
                details={**_model_details(row.get("details")), **({"file_size": size} if size else {})},
            )
        )
    return tuple(models)


def _openai(client: httpx.Client, url: str, listed: list[dict[str, Any]], props: ControlAnswer) -> Server:
    """Tell servers of the OpenAI API apart, each kind by something that only this kind says."""
    facts = as_mapping(props.json())
    owners = {as_text(row.get("owned_by")) for row in listed}
    if "llamacpp" in owners or "total_slots" in facts or "default_generation_settings" in facts:
        return _llama_cpp(client, url, listed, facts)
    vllm = "vllm" in owners
    rows, slots = (listed, None) if vllm or has_own_root(url) else with_more(client, url, listed)
    models = tuple(_served(row, loaded_unsaid=vllm or None) for row in rows)
    version = as_printable(as_mapping(ask(client, url, "/version").json()).get("version")) if vllm else None
    return Server(url, "vllm" if vllm else "openai", version, models, slots)


def _llama_cpp(client: httpx.Client, url: str, listed: list[dict[str, Any]], props: dict[str, Any]) -> Server:
    """Return llama.cpp's server: of one model, or a router, whose /props and /slots are asked for the loaded model."""
    version, of_model = as_printable(props.get("build_info")), ""
    routes = any(says_loaded(row) is not None for row in listed)
    if routes and len(running := [row["name"] for row in listed if says_loaded(row)]) == 1:
        of_model = f"?model={quote(running[0], safe='')}"
        props = as_mapping(ask(client, url, f"/props{of_model}").json())
    slots = as_positive(props.get("total_slots"))
    context = as_positive(as_mapping(props.get("default_generation_settings")).get("n_ctx"))
    if (slots is None or context is None) and bool(of_model) == routes:
        counted, size = slots_listed(ask(client, url, f"/slots{of_model}").json())
        slots, context = slots or counted, context or size
    awake = props.get("is_sleeping") is not True
    models = tuple(_served(row, loaded_unsaid=awake, context=context) for row in listed)
    return Server(url, "llama.cpp", version, models, slots)


def _served(row: dict[str, Any], *, loaded_unsaid: bool | None, context: int | None = None) -> ServedModel:
    """Return the model of a row of a list: what the row does not say of its loading and its context is taken from elsewhere."""
    is_loaded = says_loaded(row)
    has, could = contexts(row)
    return ServedModel(
        row["name"],
        loaded_unsaid if is_loaded is None else is_loaded,
        context if is_loaded is not False and context else has,
        could,
        purpose=purpose(row),
    )


def choose_model(server: Server, asked: str | None, endpoint: str = "chat") -> ServedModel:
    """Return the model asked for, else the loaded one, else the only one; a TargetError names the models present.

    Where none is asked for, those that are for another endpoint do not count.
    """
    present = models_named([shown(model.name) for model in server.models]) or "none"
    if asked is not None:
        if not asked.strip():
            raise TargetError(f"the model's name is empty; {server.url} has: {present}. Choose one with --model.")
        called = [model for model in server.models if _is_called(model, asked)]
        if not called and server.kind == "ollama":  # Ollama takes names in any case
            called = [
                model for model in server.models if model.name.lower() in (asked.lower(), f"{asked.lower()}:latest")
            ]
        if called:
            return next((model for model in called if model.name == asked), called[0])
        if server.kind == "llama.cpp" and len(server.models) == 1:  # it ignores the name
            return replace(server.models[0], name=asked)
        if server.unlisted or server.kind in ("openai", "llama.cpp"):  # gateways route names that they do not list
            return ServedModel(asked)
        name = shown(asked)
        how = f" or fetch it with `ollama pull {name}`" if server.kind == "ollama" else ""
        raise TargetError(f"{server.url} has no model {name!r}; it has: {present}. Choose one with --model{how}.")
    if (deployment := deployment_of(server.url)) is not None:
        return ServedModel(deployment)
    # "openai/*" stands for names that a gateway routes.
    named = [model for model in server.models if "*" not in model.name]
    wanted = (None, "embeddings" if endpoint == "embeddings" else "chat")
    named = [model for model in named if model.purpose in wanted] or named
    loaded = [model for model in named if model.loaded]
    if len(loaded) == 1:
        return loaded[0]
    if len(named) == 1:
        return named[0]
    if server.unlisted:
        raise TargetError(f"{server.url} does not list its models ({server.unlisted}); name one with --model.")
    if not server.models:
        if server.kind == "ollama":
            raise TargetError(
                f"{server.url} has no model yet; fetch one (`ollama pull NAME`) or name one with --model."
            )
        raise TargetError(f"{server.url} lists no model, which need not mean that it has none; name one with --model.")
    if not named:
        raise TargetError(f"{server.url} lists patterns of names, no model: {present}. Name one with --model.")
    raise TargetError(f"{server.url} has several models; choose one with --model: {present}.")


def lists_model(server: Server, name: str) -> bool:
    return any(_is_called(model, name) for model in server.models)


def _is_called(model: ServedModel, name: str) -> bool:
    return model.name in (name, f"{name}:latest")


def models_named(names: Sequence[str]) -> str:
    """Return names in a row, the first ones of many; "" for none."""
    more = f" and {len(names) - MOST_MODELS_NAMED} more" if len(names) > MOST_MODELS_NAMED else ""
    return ", ".join(names[:MOST_MODELS_NAMED]) + more


def with_details(client: httpx.Client, server: Server, model: ServedModel) -> ServedModel:
    """Return `model` with what Ollama's /api/show adds: trained context, parameters, quantisation."""
    if server.kind != "ollama":
        return model
    try:
        facts = as_mapping(ask(client, server.url, "/api/show", {"model": model.name}).json())
    except TargetError:
        return model
    if not facts:
        return model
    info = {as_text(key) or "": value for key, value in as_mapping(facts.get("model_info")).items()}
    # beside the family may stand what reads images for it
    if (family := as_text(info.get("general.architecture"))) is not None:
        own = {key: value for key, value in info.items() if key.startswith((f"{family}.", "general."))}
        info = own if any(key.startswith(f"{family}.") for key in own) else info
    trained = next((as_positive(value) for key, value in info.items() if key.endswith(".context_length")), None)
    details = {**model.details, **_model_details(facts.get("details")), "architecture": architecture_of(info)}
    if (embedding := input_embedding(facts.get("tensors"))) is not None:
        details["input_embedding"] = embedding
    return replace(model, trained_context=trained, details=details)


def _model_details(details: Any) -> dict[str, Any]:
    """Return a model's details; what should be a text is made one."""
    found = {key: value for key, value in as_mapping(as_plain(details)).items() if value is not None}
    for key in ("parameter_size", "quantization_level", "family", "format", "parent_model"):
        if key in found and (value := as_text(found.pop(key))) is not None:
            found[key] = value
    return found


def _simulated_facts(answer: ControlAnswer) -> dict[str, Any] | None:
    """Read "profile=NAME; speed=N" of the simulated server's header."""
    header = answer.header(SIMULATED_HEADER)
    if header is None:
        return None
    pairs = dict(part.strip().partition("=")[::2] for part in header.split(";"))
    try:
        speed = float(pairs.get("speed", "1"))
    except ValueError:
        speed = 1.0
    return {"profile": as_printable(pairs.get("profile")) or "unknown", "speed": speed if 0 < speed < math.inf else 1.0}
