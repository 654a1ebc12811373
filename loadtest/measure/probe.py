"""What server is this: its wire, version, models, slots, context and hazards. `check` prints it, `run` goes by it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from loadtest.errors import TargetError

SIMULATED_HEADER = "loadtest-simulated"  # set on every answer by simulate/server.py; a test holds both to one spelling
OLLAMA_PORT = 11434


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the server offers, as far as the server says."""

    name: str
    loaded: bool | None = None
    context: int | None = None  # what it is loaded with, else None
    trained_context: int | None = None
    size: int | None = None  # bytes in memory when loaded
    size_vram: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Server:
    """What answered at a URL."""

    url: str  # base without /v1
    kind: str  # "ollama", "llama.cpp", "vllm" or "openai"
    version: str | None
    models: tuple[Model, ...]
    slots: int | None = None  # only where the server says so (llama.cpp)
    simulated: dict[str, Any] | None = None  # profile and speed, from the header

    @property
    def native(self) -> str:
        """The API that this server speaks first: "ollama" or "openai"."""
        return "ollama" if self.kind == "ollama" else "openai"

    @property
    def described(self) -> str:
        """Name the server with its version, and say so where it is simulated."""
        names = {"ollama": "Ollama", "llama.cpp": "llama.cpp", "vllm": "vLLM", "openai": "an OpenAI-compatible server"}
        text = names[self.kind] + (f" {self.version}" if self.version else "")
        if self.simulated:
            text += f" (simulated: profile {self.simulated['profile']} at {self.simulated['speed']:g}× speed)"
        return text


def default_url(env: Mapping[str, str] = os.environ) -> str:
    """Return the server that the environment names: OLLAMA_HOST, OPENAI_BASE_URL, else the local Ollama."""
    return env.get("OLLAMA_HOST") or env.get("OPENAI_BASE_URL") or f"http://127.0.0.1:{OLLAMA_PORT}"


def base_url(text: str) -> str:
    """Return `text` as scheme://host:port/prefix, the way the ecosystem writes servers.

    Takes what OLLAMA_HOST takes ("host", "host:port", "0.0.0.0", ":11435") and what OPENAI_BASE_URL takes (a trailing
    /v1 is dropped, for every path here carries its own). Raises TargetError for anything else.
    """
    given = text.strip()
    bare = "://" not in given
    parts = urlsplit(f"http://{given}" if bare else given)
    try:
        port = parts.port
    except ValueError:
        raise TargetError(f"{text!r} is not a URL: its port is no number between 1 and 65535.") from None
    if parts.scheme not in ("http", "https") or (not parts.hostname and port is None) or " " in given:
        raise TargetError(f"{text!r} is not a URL of a server; write it like http://127.0.0.1:{OLLAMA_PORT}.")
    host = parts.hostname or "127.0.0.1"
    if host in ("0.0.0.0", "::"):  # a listening address: a client cannot connect to it everywhere
        host = "127.0.0.1"
    if ":" in host:
        host = f"[{host}]"
    if port is None and bare:
        port = OLLAMA_PORT
    path = parts.path.rstrip("/").removesuffix("/v1")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def credentials(env: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the Authorization header for OPENAI_API_KEY, empty without one. Never recorded."""
    key = env.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def probe(client: httpx.Client, url: str) -> Server:
    """Find out what answers at `url` (as base_url gives it); raise TargetError with what to do when nothing usable does."""
    version = _get(client, url, "/api/version")
    simulated = _simulated(version)
    if (said := _json(version)) is not None and isinstance(said.get("version"), str):
        return Server(url, "ollama", said["version"], _ollama_models(client, url), None, simulated)
    listing = _get(client, url, "/v1/models", credentials())
    _refuse(listing, url)
    body = _json(listing)
    if body is None or not isinstance(body.get("data"), list):
        raise TargetError(
            f"{url} is no model server: {_what(listing)}. Give the base URL of an Ollama or OpenAI server."
        )
    names = [row for row in body["data"] if isinstance(row, dict) and isinstance(row.get("id"), str)]
    if (props := _json(_get(client, url, "/props"))) is not None and "total_slots" in props:
        settings = props.get("default_generation_settings") or {}
        context = settings.get("n_ctx")
        models = tuple(Model(row["id"], loaded=True, context=context) for row in names)
        return Server(url, "llama.cpp", props.get("build_info"), models, props["total_slots"], simulated)
    models = tuple(Model(row["id"], loaded=True, context=row.get("max_model_len")) for row in names)
    if any(row.get("owned_by") == "vllm" for row in names):
        said = _json(_get(client, url, "/version")) or {}
        return Server(url, "vllm", said.get("version"), models, None, simulated)
    return Server(url, "openai", None, models, None, simulated)


def choose_model(server: Server, asked: str | None) -> Model:
    """Return the model asked for, else the loaded one, else the only one; TargetError names the ones present."""
    names = [model.name for model in server.models]
    present = ", ".join(names) or "none"
    if asked is not None:
        for model in server.models:
            if model.name in (asked, f"{asked}:latest"):
                return model
        if server.kind in ("openai", "llama.cpp"):  # gateways route names they do not list; llama.cpp ignores them
            return Model(asked)
        how = f" or fetch it with `ollama pull {asked}`" if server.kind == "ollama" else ""
        raise TargetError(f"{server.url} has no model {asked!r}; it has: {present}. Choose one with --model{how}.")
    loaded = [model for model in server.models if model.loaded]
    if len(loaded) == 1:
        return loaded[0]
    if len(server.models) == 1:
        return server.models[0]
    if not server.models:
        raise TargetError(f"{server.url} has no model yet; fetch one (`ollama pull NAME`) or name one with --model.")
    raise TargetError(f"{server.url} has several models; choose one with --model: {present}.")


def describe(client: httpx.Client, server: Server, model: Model) -> Model:
    """Return `model` with what /api/show adds (Ollama): trained context, parameters, quantisation."""
    if server.kind != "ollama":
        return model
    try:
        shown = _json(client.post(f"{server.url}/api/show", json={"model": model.name}))
    except httpx.HTTPError:
        return model
    if shown is None:
        return model
    info = shown.get("model_info") or {}
    trained = next((value for key, value in info.items() if key.endswith(".context_length")), None)
    return Model(
        model.name,
        loaded=model.loaded,
        context=model.context,
        trained_context=trained,
        size=model.size,
        size_vram=model.size_vram,
        details={**model.details, **(shown.get("details") or {}), "architecture": _architecture(info)},
    )


def _architecture(info: dict[str, Any]) -> dict[str, Any]:
    """Return what the sizes of weights and KV cache follow from, under GGUF's names without the family's prefix."""
    names = (
        "block_count",
        "embedding_length",
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.value_length",
        "attention.sliding_window",
        "attention.kv_lora_rank",
        "feed_forward_length",
        "vocab_size",
        "parameter_count",
    )
    return {name: value for key, value in info.items() if (name := key.partition(".")[2]) in names}


def _ollama_models(client: httpx.Client, url: str) -> tuple[Model, ...]:
    tags = _get(client, url, "/api/tags")
    _refuse(tags, url)
    running = {row["name"]: row for row in (_json(_get(client, url, "/api/ps")) or {}).get("models") or []}
    models = []
    for row in (_json(tags) or {}).get("models") or []:
        live = running.get(row["name"], {})
        models.append(
            Model(
                row["name"],
                loaded=row["name"] in running,
                context=live.get("context_length"),
                size=live.get("size"),
                size_vram=live.get("size_vram"),
                details={**(row.get("details") or {}), **({"file_size": row["size"]} if row.get("size") else {})},
            )
        )
    return tuple(models)


def _get(client: httpx.Client, url: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    try:
        return client.get(f"{url}{path}", headers=headers)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        if "CERTIFICATE" in str(error):
            raise TargetError(f"{url} has a certificate that is not trusted here: {error}; see --ca-file.") from None
        raise TargetError(f"cannot reach {url}: {error}. Is the server running, and the URL right?") from None
    except httpx.HTTPError as error:
        raise TargetError(f"{url} does not answer {path} like a model server: {error}.") from None


def _refuse(response: httpx.Response, url: str) -> None:
    if response.status_code in (401, 403):
        raise TargetError(
            f"{url} refuses us with status {response.status_code} ({response.reason_phrase}); "
            "set OPENAI_API_KEY to a key that it accepts."
        )


def _json(response: httpx.Response) -> dict[str, Any] | None:
    if response.status_code != 200:
        return None
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def _what(response: httpx.Response) -> str:
    kind = response.headers.get("content-type", "").partition(";")[0]
    if response.status_code != 200:
        there = f" to {response.headers['location']}" if "location" in response.headers else ""
        return f"it answers /v1/models with status {response.status_code}{there}"
    return f"it answers /v1/models with {'a web page' if kind == 'text/html' else kind or 'something that is not JSON'}"


def _simulated(response: httpx.Response) -> dict[str, Any] | None:
    """Read "profile=NAME; speed=N" of the simulated server's header."""
    said = response.headers.get(SIMULATED_HEADER)
    if said is None:
        return None
    pairs = dict(part.strip().partition("=")[::2] for part in said.split(";"))
    return {"profile": pairs.get("profile", "unknown"), "speed": float(pairs.get("speed", "1"))}


def hazards(server: Server, model: Model | None, *, num_ctx: int | None = None) -> list[str]:
    """Return what may spoil a measurement of this server, a sentence each with what to do about it."""
    found = []
    if server.kind == "ollama":
        found.append(
            "Ollama does not say how many requests it runs at once (OLLAMA_NUM_PARALLEL; 1 unless set since 0.10): "
            "run past it and read the slots line of the report."
        )
        found.append(
            "Native and /v1 requests, or two values of num_ctx, reload the model each time they change: "
            "let nothing else use this server while you measure."
        )
    if model is None:
        return found
    if server.kind == "ollama" and not model.loaded:
        found.append(
            f"{model.name} is not loaded: the first request waits for the load; `run` warms it up before it counts."
        )
    if model.size and model.size_vram is not None and 0 <= model.size_vram < model.size:
        share = 100 * (model.size - model.size_vram) / model.size
        found.append(f"{share:.0f} % of {model.name} is in host memory, not on a GPU: it decodes at the host's speed.")
    if num_ctx is None and server.kind == "ollama" and model.context is None:
        found.append("The context length is the server's default; fix it with --num-ctx so that runs can be compared.")
    return found
