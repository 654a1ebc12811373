"""What servers say of their models beside their list: which are loaded, contexts, slots; and servers of which one question fails.

A name in brackets is the program that the shape is from.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.made_servers import OPENAI_STREAM, made, refuse

from loadtest.errors import TargetError
from loadtest.targets.server.model_list import OF_ALL, with_more
from loadtest.targets.server.probe import Server, choose_model, probe

Call = Callable[..., tuple[int, str, str]]
Said = tuple[bool | None, int | None, int | None]  # of a model: loaded, its context, its trained one


def listed(*names: str, owner: str = "x", **more: Any) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": owner, **more} for name in names]}


def instance(name: str, context: int, **config: Any) -> dict[str, Any]:
    return {"id": name, "config": {"context_length": context, **config}}


def of_lm_studio(*instances: dict[str, Any]) -> dict[str, Any]:
    models = [
        {"type": "llm", "key": "a", "loaded_instances": [*instances], "max_context_length": 8192},
        {"type": "embedding", "key": "b", "loaded_instances": [], "max_context_length": 2048},
    ]
    return {"/v1/models": listed("a", "b"), "/api/v1/models": {"models": models}}


def router(*states: str) -> dict[str, Any]:
    rows = [
        {"id": f"m{i}", "object": "model", "owned_by": "llamacpp", "status": {"value": state}}
        for i, state in enumerate(states)
    ]
    return {"/v1/models": {"data": rows}, "/props": {"role": "router", "default_generation_settings": {"n_ctx": 0}}}


LM_STUDIO_0 = [
    {"id": "a", "type": "llm", "state": "loaded", "max_context_length": 8192, "loaded_context_length": 4096},
    {"id": "b", "type": "embeddings", "state": "not-loaded", "max_context_length": 2048},
]
PROPS = {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4, "build_info": "b9"}
SLOTS = [{"id": i, "n_ctx": 2048, "is_processing": False} for i in range(3)]
OF_LLAMA_CPP = listed("m", owner="llamacpp")
NO_SLOTS = refuse(501, {"error": {"code": 501, "message": "This server does not support slots endpoint."}})
SERVERS: dict[str, tuple[dict[str, Any], str, dict[str, Said], int | None]] = {
    "one instance (LM Studio's /api/v1)": (
        of_lm_studio(instance("a", 4096, parallel=4)),
        "openai",
        {"a": (True, 4096, 8192), "b": (False, None, 2048)},
        4,
    ),
    "two instances of one": (
        of_lm_studio(instance("a", 4096, parallel=4), instance("a:2", 4096, parallel=4)),
        "openai",
        {"a": (True, 4096, 8192), "b": (False, None, 2048)},
        None,
    ),
    "a list of instances (LM Studio)": (
        {**of_lm_studio(instance("mine", 4096)), "/v1/models": listed("mine")},
        "openai",
        {"mine": (True, 4096, 8192)},
        None,
    ),
    "states (LM Studio's /api/v0)": (
        {"/v1/models": listed("a", "b"), "/api/v0/models": {"data": LM_STUDIO_0}},
        "openai",
        {"a": (True, 4096, 8192), "b": (False, None, 2048)},
        None,
    ),
    "those that run (llama-swap)": (
        {"/v1/models": listed("a", "b"), "/running": {"running": [{"model": "b", "state": "ready"}]}},
        "openai",
        {"a": (False, None, None), "b": (True, None, None)},
        None,
    ),
    "one that starts (llama-swap)": (
        {"/v1/models": listed("a", "b"), "/running": {"running": [{"model": "b", "state": "starting"}]}},
        "openai",
        {"a": (False, None, None), "b": (False, None, None)},
        None,
    ),
    "none runs (llama-swap)": (
        {"/v1/models": listed("a", "b"), "/running": {"running": []}},
        "openai",
        {"a": (None, None, None), "b": (None, None, None)},
        None,
    ),
    "the model at hand (TabbyAPI)": (
        {
            "/v1/models": listed("a", "b"),
            "/v1/model": {"id": "a", "object": "model", "parameters": {"max_seq_len": 4096, "max_batch_size": 6}},
        },
        "openai",
        {"a": (True, 4096, None), "b": (False, None, None)},
        6,
    ),
    "facts of the one model (TGI)": (
        {
            "/v1/models": listed("a"),
            "/info": {"model_id": "a", "max_total_tokens": 2048, "max_concurrent_requests": 128},
        },
        "openai",
        {"a": (True, 2048, None)},
        None,
    ),
    "its name alone (text-generation-webui)": (
        {"/v1/models": listed("a", "b"), "/v1/internal/model/info": {"model_name": "b", "lora_names": []}},
        "openai",
        {"a": (False, None, None), "b": (True, None, None)},
        None,
    ),
    "those that are loaded (LocalAI)": (
        {"/v1/models": listed("a", "b"), "/system": {"backends": ["x"], "loaded_models": [{"id": "b"}]}},
        "openai",
        {"a": (False, None, None), "b": (True, None, None)},
        None,
    ),
    "a digest beside names (Docker)": (
        {"/models": [{"id": "sha256:abc", "tags": ["ai/m:latest"], "config": {}}]},
        "openai",
        {"ai/m:latest": (None, None, None)},
        None,
    ),
    "digits (Predibase)": (
        {"/v1/models": listed("a", context_length="4096")},
        "openai",
        {"a": (None, 4096, None)},
        None,
    ),
    "a model of another machine (Ollama's cloud)": (
        {
            "/api/version": {"version": "0.12.0"},
            "/api/tags": {"models": [{"name": "m:cloud", "remote_model": "m", "remote_host": "https://example.org"}]},
        },
        "ollama",
        {"m:cloud": (None, None, None)},
        None,
    ),
    "one list at every path": (
        {
            path: listed("a", "b")
            for path in ("/v1/models", "/api/v1/models", "/api/v0/models", "/running", "/info", "/system")
        },
        "openai",
        {"a": (None, None, None), "b": (None, None, None)},
        None,
    ),
    "facts of another model": (
        {"/v1/models": listed("a", "b"), "/info": {"name": "my gateway", "version": "1"}},
        "openai",
        {"a": (None, None, None), "b": (None, None, None)},
        None,
    ),
    "props closed, slots open (llama.cpp)": (
        {"/v1/models": OF_LLAMA_CPP, "/props": refuse(401), "/slots": SLOTS},
        "llama.cpp",
        {"m": (True, 2048, None)},
        3,
    ),
    "neither props nor slots (llama.cpp)": (
        {"/v1/models": OF_LLAMA_CPP, "/props": refuse(501), "/slots": NO_SLOTS},
        "llama.cpp",
        {"m": (True, None, None)},
        None,
    ),
    "asleep (llama.cpp)": (
        {"/v1/models": OF_LLAMA_CPP, "/props": {**PROPS, "is_sleeping": True}},
        "llama.cpp",
        {"m": (False, 4096, None)},
        4,
    ),
    "a router that is asked for its loaded model (llama.cpp)": (
        {**router("unloaded", "loaded"), "/props?model=m1": PROPS},
        "llama.cpp",
        {"m0": (False, None, None), "m1": (True, 4096, None)},
        4,
    ),
    "a router whose models load and sleep (llama.cpp)": (
        router("loading", "sleeping"),
        "llama.cpp",
        {"m0": (False, None, None), "m1": (False, None, None)},
        None,
    ),
    "an Ollama whose version is closed": (
        {
            "/api/version": refuse(403),
            "/api/tags": {"models": [{"name": "m"}]},
            "/": (200, {}, b"Ollama is running"),
            "/v1/models": listed("m", owner="library"),
        },
        "ollama",
        {"m": (None, None, None)},
        None,
    ),
    "models beside a page (Open WebUI)": (
        {"/v1/models": (200, {"Content-Type": "text/html"}, b"<!doctype html>x"), "/models": listed("m")},
        "openai",
        {"m": (None, None, None)},
        None,
    ),
}


def look(routes: dict[str, Any], **how: Any) -> Server:
    with made(routes) as server, httpx.Client(trust_env=False, **how) as client:
        return probe(client, server.url)


@pytest.mark.parametrize("name", SERVERS)
def test_what_a_server_says_of_its_models(name: str) -> None:
    routes, kind, models, slots = SERVERS[name]
    server = look(routes)
    assert (server.kind, server.slots) == (kind, slots)
    assert {one.name: (one.loaded, one.context, one.trained_context) for one in server.models} == models


@pytest.mark.parametrize("path", ["/api/version", "/props", "/running", "/api/v1/models"])
def test_a_question_that_is_never_answered_leaves_the_others(path: str) -> None:
    over = threading.Event()

    def hang(_: dict[str, str]) -> Any:
        over.wait(10)
        return refuse(500)

    with made({"/v1/models": listed("a"), path: hang}) as server:
        with httpx.Client(trust_env=False, timeout=0.5) as client:
            found = probe(client, server.url)
        over.set()
    assert [model.name for model in found.models] == ["a"]


def test_a_server_that_answers_nothing_is_said() -> None:
    over = threading.Event()

    def hang(_: dict[str, str]) -> Any:
        over.wait(10)
        return refuse(500)

    with made({}, default=hang) as server:
        with (
            httpx.Client(trust_env=False, timeout=0.5) as client,
            pytest.raises(TargetError, match="answers neither GET /api/version nor GET /v1/models in time"),
        ):
            probe(client, server.url)
        over.set()


def test_the_model_of_that_very_name_is_taken() -> None:
    assert choose_model(look({"/v1/models": listed("m:latest", "m")}), "m").name == "m"
    assert choose_model(look({"/v1/models": listed("m:latest")}), "m").name == "m:latest"
    ollama = look({"/api/version": {"version": "0.12.0"}, "/api/tags": {"models": [{"name": "Llama3:8B"}]}})
    assert choose_model(ollama, "llama3:8b").name == "Llama3:8B"
    assert choose_model(look({"/v1/models": listed("Qwen")}), "qwen").name == "qwen"


def test_a_name_that_llama_cpp_ignores_has_its_models_context() -> None:
    model = choose_model(look({"/v1/models": OF_LLAMA_CPP, "/props": PROPS}), "gpt-4")
    assert (model.name, model.loaded, model.context) == ("gpt-4", True, 4096)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("qwen", "does not list qwen; perhaps Org/Qwen is meant: the name is sent as it is."),
        ("x", "does not list x: the name is sent as it is."),
        ("Org/Qwen", None),
    ],
)
def test_a_name_that_is_not_listed_is_said(loadtest: Call, tmp_path: Path, asked: str, said: str | None) -> None:
    with made({"/v1/models": listed("Org/Qwen", "y"), "/v1/chat/completions": OPENAI_STREAM}) as server:
        code, out, _ = loadtest("check", server.url, "--model", asked)
        short = ["--concurrency", "1", "--requests", "1", "--warmup", "0", "--no-report", "--out", tmp_path / "run"]
        _, _, err = loadtest("run", server.url, "--model", asked, "--prompt", "hi", *short)
    assert code == 0
    for text in (out, err):  # of a server that passes over the name, a run would not show it otherwise
        assert said in " ".join(text.split()) if said else "does not list" not in text


PURPOSES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what rows say of the model a, and of the model b
    "types (LM Studio)": ({"type": "llm"}, {"type": "embeddings"}),
    "types, the other loaded (LM Studio)": ({"type": "vlm", "loaded": False}, {"type": "embeddings", "loaded": True}),
    "types (Xinference)": ({"model_type": "LLM"}, {"model_type": "embedding"}),
    "modes (LiteLLM)": ({"mode": "chat"}, {"mode": "embedding"}),
    "categories (GPUStack)": ({"categories": ["llm"]}, {"categories": ["embedding"]}),
    "capabilities (llama.cpp)": ({"capabilities": ["completion"]}, {"capabilities": ["embedding"]}),
    "tasks": ({"task": "image-text-to-text"}, {"task": "text-embedding"}),
}


@pytest.mark.parametrize("name", PURPOSES)
def test_a_model_that_is_for_another_endpoint_is_not_chosen(name: str) -> None:
    rows = [{"id": model, **said} for model, said in zip("ab", PURPOSES[name], strict=True)]
    server = look({"/v1/models": {"data": rows}})
    assert (choose_model(server, None).name, choose_model(server, None, "embeddings").name) == ("a", "b")
    assert choose_model(server, "b").name == "b"
    alone = look({"/v1/models": {"data": [{"id": "c", "type": "rerank"}, rows[0]]}})
    assert choose_model(alone, None, "responses").name == "a"
    assert choose_model(look({"/v1/models": {"data": rows[1:]}}), None).name == "b"  # whatever it says of itself


def test_of_thousands_of_models_the_first_ones_are_named(loadtest: Call) -> None:
    with made({"/v1/models": listed(*(f"m{i}" for i in range(10_000)))}) as server:
        code, out, _ = loadtest("check", server.url)
    assert code == 0
    assert "m29 and 9970 more" in " ".join(out.split())
    assert "m30" not in out


def test_a_list_that_only_others_may_read_asks_for_a_key(loadtest: Call) -> None:
    with made({"/api/models": refuse(401, {"detail": "Not authenticated"})}) as server:  # Open WebUI
        code, _, err = loadtest("check", f"{server.url}/api")
    assert (code, "refuses us with status 401 (Not authenticated): set OPENAI_API_KEY" in err) == (2, True), err


@pytest.mark.parametrize(
    ("below", "above"),
    [("/health", ""), ("/V1", ""), ("/v1,", ""), ("/api", ""), ("/v1/chat", "/v1"), ("/a/b/c/d/e/docs", "")],
)
def test_a_url_below_a_servers_is_answered_with_the_servers(loadtest: Call, below: str, above: str) -> None:
    with made({"/v1/models": listed("m")}) as server:
        code, _, err = loadtest("check", server.url + below)
        words = (
            f"{server.url}{below} does not say that it is a model server, and {server.url}{above} does: give that URL."
        )
    assert (code, words in err) == (2, True), err


@pytest.mark.parametrize(("below", "above"), [("/v1/v1", "/v1"), ("/v1/v1/chat/completions", "/v1"), ("/v2", "")])
def test_a_path_that_ends_in_a_version_and_lists_nothing_is_told_who_does(
    loadtest: Call, below: str, above: str
) -> None:
    with made({"/v1/models": listed("m")}) as server:
        code, out, err = loadtest("check", server.url + below)
    assert (code, f"; {server.url}{above} lists models)" in " ".join(out.split())) == (0, True), err


def test_a_key_with_the_word_bearer_is_said(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "Bearer sk-planted")
    with made({"/v1/models": listed("m")}) as server:
        code, _, err = loadtest("check", server.url)
    assert (code, "OPENAI_API_KEY holds the word Bearer before the key" in err, "planted" in err) == (2, True, False), (
        err
    )


def test_after_a_question_that_fails_no_more_are_asked() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        raise httpx.ReadTimeout("it hangs", request=request)

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        assert with_more(client, "http://127.0.0.1:9", [{"name": "a"}]) == ([{"name": "a"}], None)
    assert asked == [OF_ALL[0]]
