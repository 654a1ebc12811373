"""Control planes out of public reports: lists of models of all makers, foreign servers, and what to do about first answers.

A name in brackets is the program, or the public report, that the shape is from.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from support.made_servers import Answer, made, refuse

from loadtest.errors import TargetError
from loadtest.targets.server.model_list import listed_models
from loadtest.targets.server.model_shape import input_embedding
from loadtest.targets.server.probe import Server, choose_model, probe, with_details

ROW = {"id": "m", "object": "model", "owned_by": "x"}
LISTED = {"object": "list", "data": [ROW]}
LISTS: dict[str, tuple[Any, list[str] | None]] = {
    "an id beside a name for people (OpenRouter)": (
        {"data": [{"id": "openai/gpt-4o", "name": "OpenAI: GPT-4o", "context_length": 128000}]},
        ["openai/gpt-4o"],
    ),
    "an id with a colon and a slash": (
        {"data": [{"id": "org/m:free"}, {"id": "models/m-1.5"}]},
        ["org/m:free", "models/m-1.5"],
    ),
    "a gateway's own id (Cloudflare)": (
        {"success": True, "result": [{"id": "f8703a00-ed54-4f98-bdc3-cd9a813286f3", "name": "@cf/meta/m"}]},
        ["@cf/meta/m"],
    ),
    "a place for an id (GitHub Models)": ([{"id": "azureml://registries/x/models/m/versions/2", "name": "m"}], ["m"]),
    "a number for an id (GPUStack)": ({"items": [{"id": 1, "name": "m"}], "pagination": {"total": 1}}, ["m"]),
    "a list within data": ({"success": True, "data": {"models": [{"id": "m"}]}}, ["m"]),
    "a list within result": ({"result": {"data": [{"id": "m"}], "total": 1}}, ["m"]),
    "twice a list (llama.cpp)": ({"models": [{"name": "m", "model": "m"}], "object": "list", "data": [ROW]}, ["m"]),
    "one model in the list's place": ({"object": "list", "data": {"id": "m", "object": "model"}}, ["m"]),
    "one model alone": (ROW, ["m"]),
    "models by name": ({"data": {"m": {"type": "chat"}, "n": None}}, ["m", "n"]),
    "none (Ollama)": ({"object": "list", "data": None}, []),
    "an empty object": ({"models": {}}, []),
    "keys (LM Studio)": ({"models": [{"type": "llm", "key": "m", "display_name": "M", "loaded_instances": []}]}, ["m"]),
    "modelId": ({"models": [{"modelId": "m"}]}, ["m"]),
    "Google's": ({"models": [{"name": "models/m", "displayName": "M"}]}, ["models/m"]),
    "an alias beside the id": ({"data": [{"id": "m", "name": "m-2409", "aliases": ["m-latest"]}]}, ["m"]),
    "an empty id": ({"data": [{"id": "", "name": "m"}]}, ["m"]),
    "no list, but counts": ({"data": {"total": 5, "page": 1}}, None),
    "no list, but a message": ({"data": {"message": "hello"}}, None),
    "no list, but an error within data": ({"data": {"error": {"message": "no"}}}, None),
    "no list, but a refusal (new-api)": ({"success": False, "message": "no token provided", "data": None}, None),
    "no list, but a refusal with an empty one": ({"success": False, "message": "Invalid token", "data": []}, None),
    "a word (KoboldCpp)": ({"result": "KoboldCpp", "version": "1.9"}, None),
    "an error with status 200 (lmstudio-ai/lmstudio-bug-tracker#2085)": (
        {"error": "Unexpected endpoint or method."},
        None,
    ),
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_models(name: str) -> None:
    body, names = LISTS[name]
    listed = listed_models(body)
    assert (None if listed is None else [row["name"] for row in listed]) == names


def look(routes: dict[str, Any], *, default: Any = None, api: str = "auto") -> Server:
    with made(routes, default=default) as server, httpx.Client(trust_env=False) as client:
        return probe(client, server.url, api=api)


def row(**more: Any) -> dict[str, Any]:
    return {"data": [{**ROW, **more}]}


CONTEXTS: dict[str, tuple[dict[str, Any], tuple[bool | None, int | None, int | None]]] = {
    "max_model_len (SGLang)": (row(max_model_len=4096), (None, 4096, None)),
    "context_length (mlx-lm, OpenRouter, Xinference)": (row(context_length=4096), (None, 4096, None)),
    "context_window (Groq)": (row(context_window=4096), (None, 4096, None)),
    "max_context_length (Mistral)": (row(max_context_length=4096), (None, None, 4096)),
    "contextLength": (row(contextLength=4096), (None, 4096, None)),
    "meta (ikawrakow/ik_llama.cpp#1622)": (row(meta={"n_ctx_train": 8192, "n_ctx": 4096}), (None, 4096, 8192)),
    "of its provider (OpenRouter)": (row(top_provider={"context_length": 4096}), (None, 4096, None)),
    "limits (caozhiyuan/copilot-api#43)": (
        row(capabilities={"limits": {"max_context_window_tokens": 4096}}),
        (None, 4096, None),
    ),
    "loaded (LM Studio)": (
        row(state="loaded", loaded_context_length=4096, max_context_length=8192),
        (True, 4096, 8192),
    ),
    "not loaded (LM Studio)": (row(state="not-loaded", max_context_length=8192), (False, None, 8192)),
    "not loaded, and what it would have": (row(status="unloaded", context_length=4096), (False, None, 4096)),
    "absurd": (row(context_length=-1, max_model_len=2**70), (None, None, None)),
    "words": (row(context_length="128k"), (None, None, None)),
    "nothing": (row(), (None, None, None)),
    "vLLM's": (row(owned_by="vllm", max_model_len=4096), (True, 4096, None)),
}


@pytest.mark.parametrize("name", CONTEXTS)
def test_what_a_row_says_of_its_context(name: str) -> None:
    listing, found = CONTEXTS[name]
    (model,) = look({"/v1/models": listing}).models
    assert (model.loaded, model.context, model.trained_context) == found


def test_a_router_of_llama_cpp_is_asked_for_the_model_that_is_loaded() -> None:
    """ggml-org/llama.cpp#18035: rows of a router say which model is loaded, and its /props have a context of none."""
    rows = [{**ROW, "id": name, "status": {"value": value}} for name, value in (("a", "unloaded"), ("b", "loaded"))]
    props = {"role": "router", "default_generation_settings": {"params": {}, "n_ctx": 0}}
    server = look({"/v1/models": {"data": rows}, "/props": props})
    assert server.kind == "llama.cpp"
    assert choose_model(server, None).name == "b"
    assert [model.loaded for model in server.models] == [False, True]


@pytest.mark.parametrize("last", ["m1", None])  # None: databricks/unity-gateway#680
@pytest.mark.parametrize("query", ["", "?t=1"])
def test_every_page_of_a_list_is_asked_for(last: str | None, query: str) -> None:
    """experientiallabs/experiential#1055: a list of which the first page alone came."""
    first = {"data": [{"id": "m0"}, {"id": "m1"}], "has_more": True, "last_id": last}
    second = {"data": [{"id": "m2"}], "has_more": False}
    more = query.replace("?", "&")
    with (
        made({f"/v1/models{query}": first, f"/v1/models?after_id=m1{more}": second}) as server,
        httpx.Client(trust_env=False) as client,
    ):
        assert [model.name for model in probe(client, server.url + query).models] == ["m0", "m1", "m2"]


@pytest.mark.parametrize(("said", "asked"), [("nextPageToken", "pageToken"), ("next_page_token", "page_token")])
def test_a_list_is_asked_on_by_the_token_that_it_says(said: str, asked: str) -> None:
    first, second = ({"models": [{"name": name}]} for name in "ab")
    server = look({"/v1/models": {**first, said: "t"}, f"/v1/models?{asked}=t": second})
    assert [model.name for model in server.models] == ["a", "b"]


def test_a_list_that_says_more_for_ever_ends() -> None:
    page = {"data": [{"id": "m"}], "has_more": True, "last_id": "m"}
    assert len(look({"/v1/models": page, "/v1/models?after_id=m": page}).models) == 1


HTML = {"Content-Type": "text/html"}
TEXT = {"Content-Type": "text/plain"}


def page(status: int, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    return status, HTML if headers is None else headers, body


KEY, GONE, LATER = "A key may be missing: set OPENAI_API_KEY", "no server behind it", "It answers no questions now"
PACKED = b"\x28\xb5\x2f\xfd" + bytes(range(128, 160))  # by zstd, of which httpx knows nothing
NOWHERE = "Nothing of a model server is at this path"
FIRST: dict[str, tuple[Any, list[str], list[str]]] = {  # a default answer, what must be said, what must not
    "404 everywhere": (refuse(404), [NOWHERE], ["key"]),
    "404 of Go's": (page(404, b"404 page not found\n", TEXT), ["status 404 (404 page not found)", NOWHERE], ["key"]),
    "404 of Express": (
        page(404, b"<!DOCTYPE html><title>Error</title><pre>Cannot GET /v1/models</pre>"),
        ["'Cannot GET /v1/models'", NOWHERE],
        ["key"],
    ),
    "404 that asks for a key": (refuse(404, {"error": "no such path, or no API key"}), [KEY], []),
    "405": (refuse(405), ["--api openai --model NAME"], ["key may"]),
    "501": (refuse(501), ["--api openai --model NAME"], ["key may"]),
    "400 that asks for a key (LiteLLM)": (refuse(400, {"error": {"message": "No api key passed in."}}), [KEY], []),
    "400 for something else": (refuse(400, {"message": "bad tenant"}), ["status 400 (bad tenant)"], ["key may"]),
    "500 without a word": (refuse(500), [KEY, "the server behind it does not: see its log"], []),
    "200 with an error (LM Studio)": (
        {"error": "Unexpected endpoint or method. (GET /v1/models)"},
        ["GET /v1/models: an error (Unexpected endpoint or method. (GET /v1/models))"],
        ["key may"],
    ),
    "200 that asks for a key": ({"detail": "Not authenticated"}, ["an error (Not authenticated)", KEY], []),
    "200 with a code": ({"code": 401, "msg": "Unauthorized"}, ["an error (Unauthorized)", KEY], []),
    "200 with a page": (
        page(200, b"<!doctype html><title>Open WebUI</title>"),
        ["a web page, titled 'Open WebUI'"],
        ["key may"],
    ),
    "200 with a page where people log in": (
        page(200, b"<html><title>Sign in</title></html>"),
        ["titled 'Sign in'", KEY],
        [],
    ),
    "502 without a body": (page(502, b""), [GONE], ["key"]),
    "503 of Envoy": (page(503, b"no healthy upstream", TEXT), ["status 503 (no healthy upstream)", GONE], ["key"]),
    "503 of a load balancer": (
        page(503, b"<html><head><title>503 Service Temporarily Unavailable</title></head>"),
        [GONE],
        ["key"],
    ),
    "503 while loading (llama.cpp, canonical/inference-snaps#234)": (
        refuse(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
        ["status 503 (Loading model)", LATER],
        ["key", "gateway"],
    ),
    "504": (page(504, b"Gateway Timeout", TEXT), [GONE], ["key"]),
    "521 of Cloudflare": (page(521, b"error code: 521", TEXT), ["status 521 (error code: 521)", GONE], ["key"]),
    "530 of Cloudflare": (page(530, b"<html><title>Cloudflare Tunnel error</title>"), [GONE], ["key"]),
    "429": (refuse(429, {"error": "slow down"}), ["status 429 (slow down)", LATER], ["key"]),
    "529": (refuse(529, {"error": "Overloaded"}), [LATER], ["key"]),
    "407": (refuse(407), ["--proxy http://USER:PASSWORD@HOST:PORT"], ["key"]),
    "429 that says when to ask again": (
        refuse(429, {"error": "slow down"}, Retry_After="7"),
        ["status 429 (slow down (retry after 7 s))", LATER],
        ["key"],
    ),
    "503 in an answer that is compressed": (
        page(503, PACKED, {**HTML, "Content-Encoding": "zstd"}),
        ["status 503 (an answer that the server compressed (zstd))", GONE],
        ["without saying so"],
    ),
    "200 in an answer that is compressed": (
        page(200, PACKED, {"Content-Encoding": "zstd"}),
        ["GET /v1/models: an answer that the server compressed (zstd)"],
        ["key may", "without saying so"],
    ),
    "a redirect to the same host by https": (
        refuse(301, Location="https://example.org/v1/models"),
        ["Redirects are not followed: give https://example.org."],
        [],
    ),
    "a redirect of a path alone": (
        refuse(307, Location="/llm/v1/models"),
        ["Redirects are not followed: give http://127.0.0.1", "/llm."],
        [],
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_what_to_do_fits_the_first_answer(name: str) -> None:
    default, said, unsaid = FIRST[name]
    with pytest.raises(TargetError) as error:
        look({}, default=default)
    for words in said:
        assert words in str(error.value)
    for words in unsaid:
        assert words not in str(error.value)


@pytest.mark.parametrize("status", [400, 500])
def test_a_key_that_was_sent_may_be_a_wrong_one(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    with pytest.raises(TargetError, match="The key in OPENAI_API_KEY may be a wrong one") as error:
        look(
            {}, default=refuse(status, {"error": {"message": "No connected db."}})
        )  # LiteLLM's proxy without a database
    assert "sk-planted" not in str(error.value)


TAGS = {"models": [{"name": "m:latest", "model": "m:latest"}]}
SERVERS: dict[str, tuple[dict[str, Any], str]] = {
    "Ollama": ({"/api/version": {"version": "0.24.0"}, "/api/tags": TAGS}, "ollama"),
    "llama.cpp, which has /api/tags": (
        {"/api/tags": TAGS | LISTED, "/v1/models": TAGS | LISTED, "/props": {"total_slots": 4}},
        "llama.cpp",
    ),
    "Open WebUI's own version, a list beside it": (
        {"/api/version": {"version": "0.6.26"}, "/v1/models": LISTED},
        "openai",
    ),
    "LM Studio": ({"/v1/models": LISTED, "/api/v0/models": LISTED}, "openai"),
    "Lemonade": ({"/v1/models": row(recipe="llamacpp", checkpoint="x"), "/version": {"version": "9.1.4"}}, "openai"),
    "GPUStack": ({"/v1/models": row(categories=["llm"])}, "openai"),
    "llamafile, LocalAI": ({"/v1/models": LISTED, "/version": {"version": "v2.23.0"}}, "openai"),
    "a proxy of Ollama's without /api/version": ({"/api/tags": TAGS, "/": (200, TEXT, b"Ollama is running")}, "ollama"),
}


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("elsewhere", ["404", "200 with an error", "a page"])
def test_which_server_it_is_whatever_it_answers_elsewhere(name: str, elsewhere: str) -> None:
    routes, kind = SERVERS[name]
    default = {
        "404": refuse(404),
        "200 with an error": {"error": "Unexpected endpoint or method."},
        "a page": page(200, b"<!doctype html><title>Web UI</title>"),
    }[elsewhere]
    assert look(routes, default=default).kind == kind


def test_an_answer_that_is_no_utf8_is_read_as_far_as_it_can_be() -> None:
    body = json.dumps(LISTED).encode().replace(b'"x"', b'"\xff"')
    assert [model.name for model in look({"/v1/models": (200, {"Content-Type": "application/json"}, body)}).models] == [
        "m"
    ]


def test_what_reads_images_for_a_model_is_not_the_model() -> None:
    """The first context and the last number of layers counted, whosever they were."""
    info = {
        "clip.text.context_length": 77,
        "general.architecture": "llama",
        "general.parameter_count": 8_000_000_000,
        "llama.block_count": 32,
        "llama.context_length": 8192,
        "vision.block_count": 24,
    }
    tensors = [{"name": name, "type": "Q4_K", "shape": [4096, 32]} for name in ("token_embd.weight", "output.weight")]
    shown = {"model_info": info, "tensors": tensors}
    routes = {"/api/version": {"version": "0.24.0"}, "/api/tags": TAGS, "/api/show": shown}
    with made(routes) as server, httpx.Client(trust_env=False) as client:
        found = probe(client, server.url)
        model = with_details(client, found, found.models[0])
    assert model.trained_context == 8192
    assert model.details["architecture"] == {"block_count": 32, "parameter_count": 8_000_000_000}
    assert model.details["input_embedding"] == {"type": "Q4_K", "values": 131_072, "shared": False}


@pytest.mark.parametrize("shape", [[10**12] * 3, [4096, 0], [4096, "32"], [], None])
def test_an_embedding_of_no_possible_size_is_unknown(shape: object) -> None:
    """Its size has to fit run.json, whose numbers have 64 bits."""
    assert input_embedding([{"name": "token_embd.weight", "type": "Q4_K", "shape": shape}]) is None
