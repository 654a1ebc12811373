"""What `loadtest check --try` makes of refusals out of public reports: no model, no key, no credit, or another way to ask.

A name in brackets is the program that the words are from.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.made_servers import OPENAI_STREAM, Made, made, refuse

from loadtest import credentials

Call = Callable[..., tuple[int, str, str]]

LISTED = {"data": [{"id": "m"}]}
CHAT = "/v1/chat/completions"
DEPLOYMENT = "/openai/deployments/d"
VERSION = "?api-version=2024-10-21"
NO_MODEL = "name a model that the server has with --model"


def said(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}


def trying(loadtest: Call, routes: dict[str, Any], suffix: str = "", *options: str) -> tuple[str, int]:
    """Return what is said after no request was answered, and how many were sent."""
    with made({"/v1/models": LISTED, **routes}) as server:
        code, out, err = loadtest("check", server.url + suffix, "--try", *options)
    assert code == 1, err
    return " ".join(out.partition("works ")[2].split()), len(server.posted)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, said("The API deployment for this resource does not exist. If you created it just now, please wait.")),
        (404, {"message": "The given endpoint does not exist, please retry after checking the specified model"}),
        (400, said("The requested model 'm' is not supported by any provider you have enabled.")),  # HF's router
        (400, said("The model `m` has been decommissioned and is no longer supported.")),  # Groq
        (400, said("Unable to access non-serverless model m. Please visit https://example.org")),  # Together
        (404, [said("models/m is not found for API version v1main, or is not supported for generateContent.")]),
        (404, said("No models loaded. Please load a model in the developer page.")),  # LM Studio
        (404, said("No endpoints found for m.")),  # OpenRouter
        (404, {"status": 404, "title": "Not Found", "detail": "Function 'abc': Not found for account 'x'"}),  # NVIDIA
        (401, said("team not allowed to access model. This team can only access models=['a'].")),  # LiteLLM
        (403, said("key not allowed to access model. This key can only access models=['a'].")),
        (503, said("当前分组 default 下对于模型 m 无可用渠道")),  # One API
        (400, said("模型不存在，请检查模型代码。")),  # Zhipu
        (404, {"error": "404 Client Error. Repository Not Found for url: https://example.org/api/models/m"}),  # MLX
        (404, said("model_not_found")),
        (404, {"error": {"message": "", "code": "model_not_found"}}),
        (400, {"object": "error", "message": "Only a&&b allowed now, your model m", "code": 40301}),  # FastChat
    ],
)
def test_a_model_that_is_not_there_is_not_asked_for_again(loadtest: Call, status: int, body: Any) -> None:
    words, sent = trying(loadtest, {CHAT: refuse(status, body)})
    assert (NO_MODEL in words, sent) == (True, 1), words


@pytest.mark.parametrize(
    "words",
    [
        "Endpoint not found",
        "The endpoint /v1/chat/completions does not exist",
        "API endpoint not found: POST /v1/chat/completions",
        "This model is not supported in the v1/chat/completions endpoint",
    ],
)
def test_words_of_a_path_or_of_a_field_are_none_of_a_model(loadtest: Call, words: str) -> None:
    answer, sent = trying(loadtest, {CHAT: refuse(404, said(words))})
    assert NO_MODEL not in answer
    assert sent > 10


@pytest.mark.parametrize(
    ("status", "env", "options", "words"),
    [
        (401, {}, (), "a key may be missing; set OPENAI_API_KEY or OLLAMA_API_KEY, or give a header"),
        (401, {"OPENAI_API_KEY": "sk-planted1"}, (), "the key in OPENAI_API_KEY may be a wrong one"),
        (403, {"MY_KEY": "sk-planted1"}, ("--key-env", "MY_KEY"), "the key in MY_KEY may be a wrong one"),
        (402, {}, (), "the server wants it to be paid for"),
        (413, {}, (), "takes no request of this size"),
    ],
)
def test_what_may_be_missing(
    loadtest: Call,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    env: dict[str, str],
    options: tuple[str, ...],
    words: str,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(credentials.FURTHER, "")
    answer, sent = trying(loadtest, {CHAT: refuse(status, said("no"))}, "", *options)
    assert (words in answer, sent) == (True, 1), answer


def test_azures_key_and_its_version(loadtest: Call) -> None:
    path = f"{DEPLOYMENT}/chat/completions"
    refused, sent = trying(loadtest, {f"{path}{VERSION}": refuse(401, said("Access denied"))}, DEPLOYMENT + VERSION)
    assert ("set AZURE_OPENAI_API_KEY or OPENAI_API_KEY" in refused, sent) == (True, 1), refused
    nowhere, _ = trying(loadtest, {path: refuse(404, said("Resource not found"))}, DEPLOYMENT)
    assert "Azure wants its version in the URL, such as ?api-version=2024-10-21" in nowhere


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--endpoint", "messages", "--think", "high"], "give --think on or off, or leave it out."),
        (
            ["--endpoint", "completions", "--think", "off"],
            '--body \'{"chat_template_kwargs":{"enable_thinking":false}}\'',
        ),
        (
            ["--endpoint", "embeddings", "--temperature", "0"],
            "--temperature is unknown at /v1/embeddings: leave it out.",
        ),
        (["--endpoint", "messages", "--sampling-seed", "1"], "--body '{\"seed\":1}'"),
        (["--num-ctx", "4096"], "num_ctx cannot be set through the OpenAI API"),
    ],
)
def test_an_option_that_cannot_be_said_is_refused_with_what_can(loadtest: Call, options: list[str], words: str) -> None:
    with made({"/v1/models": LISTED}) as server:
        code, _, err = loadtest("check", server.url, "--try", *options)
    assert (code, words in err, server.posted) == (2, True, []), err


def test_an_ollama_is_not_sent_what_it_passes_over(loadtest: Call) -> None:
    with made({"/api/version": {"version": "0.9.0"}, "/api/tags": {"models": [{"name": "m"}]}}) as server:
        code, _, err = loadtest("check", server.url, "--try", "--api", "openai", "--top-k", "20")
    assert (code, "leave it out, use --api ollama." in err) == (2, True), err


def test_a_url_with_a_path_too_many(loadtest: Call) -> None:
    """LM Studio lists models at /api/v1, and takes requests at /v1."""
    nowhere = {"error": "Unexpected endpoint or method."}
    with made({"/api/v1/models": LISTED}, default=nowhere) as server:
        code, out, _ = loadtest("check", f"{server.url}/api/v1/models", "--try")
    words = f"the server has no such path below {server.url}/api; see whether its URL is {server.url}"
    assert (code, words in " ".join(out.split())) == (1, True), out


@pytest.mark.parametrize(
    ("options", "words", "needs"),
    [
        (["--think", "off"], "`reasoning_effort` must be one of `low`, `medium`, or `high`", "without --think"),
        (
            ["--temperature", "0.5", "--top-p", "0.9"],
            "`temperature` and `top_p` cannot both be specified for this model. Please use only one.",
            "without --temperature",
        ),
        (["--body", '{"cache_salt":"a"}'], "cache_salt: Extra inputs are not permitted", "without --body"),
    ],
)
def test_a_field_that_is_named_goes_first(loadtest: Call, options: list[str], words: str, needs: str) -> None:
    server: Made
    fields = {"reasoning_effort", "temperature", "cache_salt"}

    def judge(_: dict[str, str]) -> Any:
        asked = json.loads(server.posted[-1][1])
        return refuse(400, said(words)) if fields & asked.keys() else OPENAI_STREAM

    with made({"/v1/models": LISTED, CHAT: judge}) as server:
        code, out, _ = loadtest("check", server.url, "--try", *options)
    assert (code, f"works      only {needs}\n" in out, len(server.posted)) == (0, True, 2), out
