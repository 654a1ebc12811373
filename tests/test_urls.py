"""Addresses as people write them: what Ollama's own parser takes, whole endpoints, and nothing dropped in silence."""

from __future__ import annotations

import pytest

from loadtest.errors import TargetError
from loadtest.urls import base_url, default_url, parse_url, without_secrets


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("example.com:1234", "http://example.com:1234"),
        ("[::1]", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]:1337", "http://[::1]:1337"),
        ("::", "http://127.0.0.1:11434"),
        ("[::]:1", "http://127.0.0.1:1"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("\"'::1'\"", "http://[::1]:11434"),
        ("'http://h:1'", "http://h:1"),
        (' " 1.2.3.4 " ', "http://1.2.3.4:11434"),
        ("\ufeffhttp://h:1\r\n", "http://h:1"),
        ("http://::1", "http://[::1]"),
        ("HTTP://Host:1/", "http://host:1"),
        ("https://example.com/ollama", "https://example.com/ollama"),
        ("gpu-box/ollama/", "http://gpu-box:11434/ollama"),
        ("ollama.com", "https://ollama.com"),
        ("http://gpu_box:1", "http://gpu_box:1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api"),
        ("http://h/p;q=1/v1", "http://h/p;q=1"),
        ("http://h/a@b", "http://h/a@b"),
    ],
)
def test_a_server_as_ollama_and_people_write_it(given: str, url: str) -> None:
    assert base_url(given) == url
    assert base_url(url) == url


@pytest.mark.parametrize(
    ("given", "url", "asks"),
    [
        ("http://h:1/v1/chat/completions", "http://h:1", ("openai", "chat")),
        ("https://h/llm/v1/completions/", "https://h/llm", ("openai", "completions")),
        ("h:1/api/chat", "http://h:1", ("ollama", "chat")),
        ("http://h:1/api/generate", "http://h:1", ("ollama", "generate")),
        ("http://h:1/v1/responses", "http://h:1", ("openai", "responses")),
        ("https://h/anthropic/v1/messages", "https://h/anthropic", ("anthropic", "messages")),
        ("http://h:1/v1/embeddings", "http://h:1", ("openai", "embeddings")),
        ("h:1/api/embed", "http://h:1", ("ollama", "embeddings")),
        ("http://h:1/v1/models", "http://h:1", (None, None)),
        ("http://h:1/api/tags", "http://h:1", (None, None)),
        ("http://h:1/v1", "http://h:1", (None, None)),
    ],
)
def test_a_whole_endpoint_says_what_is_measured(given: str, url: str, asks: tuple[str | None, str | None]) -> None:
    assert parse_url(given).base == url
    assert parse_url(given).asks == asks


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "empty"),
        ("''", "empty"),
        (" ", "empty"),
        ("http://h/v1/rerank", "/v1/chat/completions"),
        ("http://h/api/embeddings", "/api/embed"),
        ("http://h/v1?api-version=1", "query"),
        ("http://h/?", "query"),
        ("http://h/#top", "fragment"),
        ("http://h/paas/v4", "at another path than /v1"),
        ("http://h/v1/v1", "at another path than /v1"),
        ("http://h/openai/deployments/x", "at another path than /v1"),
        ("http://h/chat/completions", "at another path than /v1"),
        ("http://h:0", "port"),
        ("http://h:x", "port"),
        ("http://h:66000", "port"),
        ("ftp://h", "not a URL"),
        ("http://", "not a URL"),
        ("http://[::1]x", "not a URL"),
        ("http://a b", "not a URL"),
        ("http://a\nb", "not a URL"),
        ("http://h\\x", "not a URL"),
        ("http://h\ud83d", "not a URL"),
        ("http://\u2100h", "not a URL"),
        ("http://h*x", "not a URL"),
        ("http://a..b", "not a URL"),
    ],
)
def test_what_is_no_address_or_would_be_dropped_is_one_sentence(given: str, words: str) -> None:
    with pytest.raises(TargetError, match=words) as said:
        base_url(given)
    str(said.value).encode()  # can be printed, whatever was given
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "given",
    [
        "http://us3r:p4ss@h:99999",
        "http://us3r:p4/ss@h",
        "http://us3r:p4#ss@h:1",
        "http://us3r:p4?ss@h:1",
        "us3r:p4ss@a b",
        "http://us3r:p4ss@h/v1/rerank",
        "http://h/?key=p4ss",
        "http://h/#p4ss",
        "http://us3r:p4ss@",
    ],
)
def test_no_sentence_quotes_a_password(given: str) -> None:
    with pytest.raises(TargetError) as said:
        base_url(given)
    for secret in ("us3r", "p4", "ss@"):
        assert secret not in str(said.value)


def test_userinfo_is_no_part_of_the_base() -> None:
    address = parse_url("https://me:s%40cret@h:1/x/v1/chat/completions")
    assert (address.base, address.userinfo) == ("https://h:1/x", "me:s%40cret")
    assert without_secrets("http://me:x@h/p?key=1") == "http://h/p?…"


def test_the_environment_names_the_server_by_the_api_that_is_spoken() -> None:
    both = {"OPENAI_BASE_URL": "http://a/v1", "OLLAMA_HOST": "b"}
    assert default_url({}) == "http://127.0.0.1:11434"
    assert default_url(both) == "b"
    assert default_url(both, api="openai") == "http://a/v1"
    assert default_url({"OLLAMA_HOST": " '' ", "OPENAI_BASE_URL": "http://a/v1"}) == "http://a/v1"
    assert default_url({"OLLAMA_HOST": "b"}, api="openai") == "b"
