"""Addresses as people write them: what Ollama's own parser takes, whole endpoints, and nothing dropped in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadtest.cli.options.scenario_options import file_and_url
from loadtest.credentials import redacted
from loadtest.errors import ScenarioError, TargetError
from loadtest.scenario.request_additions import check_path
from loadtest.urls import base_url, default_url, endpoint_url, loopback, parse_url, with_keys, without_secrets
from loadtest.wire import Posts, Received


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://h:1/./v1", "http://h:1"),
        ("http://h:1/x/../llm/./v1/", "http://h:1/llm"),
        ("http://h:1/..", "http://h:1"),
        ("http://gate:1/https://api.example/a/../v1", "http://gate:1/https://api.example"),
        ("http://xn--bcher-kva.example:1", "http://xn--bcher-kva.example:1"),
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
        ("<http://h:1/v1>", "http://h:1"),
        ("`http://h:1`", "http://h:1"),
        ("\u201chttp://h:1/v1\u201d", "http://h:1"),
        ("\u2018h:1\u2019", "http://h:1"),
        ("http://h:1\u200b", "http://h:1"),
        ("\xa0http://h:1", "http://h:1"),
        ("http://[fe80::1%eth0]:1", "http://[fe80::1%eth0]:1"),  # nushell/nushell#9065
        ("http://[fe80::1%25eth0]:1/v1", "http://[fe80::1%eth0]:1"),  # usebruno/bruno#5797
        ("http://[fe80::1%2537]", "http://[fe80::1%37]"),  # psf/requests#5775
        ("fe80::1%eth0", "http://[fe80::1%eth0]:11434"),
        ("http://h//v1", "http://h"),
        ("http://h/v1//", "http://h"),
        ("http://h//llm//v1/", "http://h/llm"),
        ("http://127.0.0.1:51650//", "http://127.0.0.1:51650"),  # archestra-ai/archestra#99
        ("http://proxy/https://api.example.org/v1", "http://proxy/https://api.example.org"),
        ("http://h:/v1", "http://h"),
        ("h:", "http://h:11434"),
        ("http://h:080/v1", "http://h:80"),
        ("http://h.:1/v1", "http://h.:1"),
        ("http://\uff11\uff12\uff17.0.0.1:1", "http://127.0.0.1:1"),
        ("http://b\xfccher.example:1", "http://b\xfccher.example:1"),
        ("http://g/v1-openai", "http://g/v1-openai"),  # GPUStack
        ("https://x/v1/projects/P/endpoints/openapi", "https://x/v1/projects/P/endpoints/openapi"),  # Vertex
        ("https://x/serving-endpoints", "https://x/serving-endpoints"),  # Databricks
        ("http://gpu_box:1", "http://gpu_box:1"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api"),
        ("http://h/p;q=1/v1", "http://h/p;q=1"),
        ("http://h/a@b", "http://h/a@b"),
        ("http://h/?", "http://h"),
        ("http://h/v1?api-version=1", "http://h?api-version=1"),
        ("http://h/v1/?a=1&b=", "http://h?a=1&b="),
        ("https://h/paas/v4/", "https://h/paas/v4"),
        ("https://h/v3/chat/completions", "https://h/v3"),
        ("http://h/v1/v1", "http://h/v1/v1"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai"),
        ("https://x/openai/deployments/D?api-version=1", "https://x/openai/deployments/D?api-version=1"),
        ("https://x/openai/deployments/D/chat/completions?a=1", "https://x/openai/deployments/D?a=1"),
        ("https://x/openai/v1/", "https://x/openai"),
        ("unix:/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock", "unix:/run/x.sock"),
        ("unix:/run/x.sock:/llm/v1", "unix:/run/x.sock:/llm"),
        ("unix:/run/v3", "unix:/run/v3"),
        ("unix:1234", "http://unix:1234"),
        ("http+unix://%2Frun%2FX.sock/v1/chat/completions", "unix:/run/X.sock"),
        ("http+unix://%2Frun%2Fa%20b.sock", "unix:/run/a%20b.sock"),
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
        ("https://h/chat/completions", "https://h", ("openai", "chat")),
        ("https://h/v1/a/b/openai/chat/completions/", "https://h/v1/a/b/openai", ("openai", "chat")),
        ("http://h:3000/api/chat/completions", "http://h:3000/api", ("openai", "chat")),
        ("https://h/inference/completions?k=1", "https://h/inference?k=1", ("openai", "completions")),
        ("https://h/serving-endpoints/M/invocations", "https://h/serving-endpoints/M", ("openai", "chat")),
        ("http://h:7997/embeddings", "http://h:7997", ("openai", "embeddings")),
        ("unix:/run/x.sock:/llm/chat/completions", "unix:/run/x.sock:/llm", ("openai", "chat")),
        ("http://h//v1//chat/completions//", "http://h", ("openai", "chat")),
        ("<http://h/v1/messages?beta=true>", "http://h?beta=true", ("anthropic", "messages")),
        ("http://g/v1-openai/chat/completions", "http://g/v1-openai", ("openai", "chat")),
    ],
)
def test_a_whole_endpoint_says_what_is_measured(given: str, url: str, asks: tuple[str | None, str | None]) -> None:
    assert parse_url(given).base == url
    assert parse_url(given).asks == asks
    assert parse_url(parse_url(given).whole) == parse_url(given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("http://h:1;http://b:2", "its port is not a number between 1 and 65535"),
        ("http://xn--a.example:1", "'xn--a.example' is not a host name."),
        ("", "empty"),
        ("''", "empty"),
        (" ", "empty"),
        ("http://h/v1/rerank", "/v1/chat/completions"),
        ("http://h/api/embeddings", "/api/embed"),
        ("http://h/#top", "fragment"),
        ("http://http://h:1", "once, with the host behind it"),
        ("http:/h:1", "once, with the host behind it"),
        ("http://us:1234?pa@h", "%40"),
        ("unix:///", "names no socket"),
        ("unix:x.sock", "names no socket"),
        ("http+unix://tmp/x.sock", "names no socket"),
        ("unix:/tmp/a b", "%20"),
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
        ("http://.", "not a host name"),
        ("http://" + "a" * 64, "not a host name"),
        ("http://256.1.1.1", "not a host name"),
        ("http://" + "a" * 50 + ".example" * 30, "not a host name"),
        ("http://[::1", "brackets"),
        ("http://[::1:80", "brackets"),
        ("[[::1]]", "brackets"),
        ("::1]:80", "brackets"),
        ("::1:11434", r"stands in brackets, like \[::1\]:11434"),
        ("http://::1:11434", "stands in brackets"),
        ("http://127.0.0.1:11434:11434", "its port is not a number"),
        ("http://h:0", "between 1 and 65535"),
        ("http://\u2603.net", "not a host name"),
        ("<>", "empty"),
        ("http://h/v1/?#", "fragment"),
        ("http:h", "once, with the host behind it"),
        ("http://us:p/a@h:1", "a password has %2F for a / and %23 for a #"),
        ("http://us:p#a@h:1", "a password has %2F for a / and %23 for a #"),
    ],
)
def test_what_is_no_address_or_would_be_dropped_is_one_sentence(given: str, words: str) -> None:
    with pytest.raises(TargetError, match=words) as said:
        base_url(given)
    str(said.value).encode()  # can be printed, whatever was given
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("given", "path", "asked", "socket"),
    [
        ("http://h", "/v1/chat/completions", "http://h/v1/chat/completions", None),
        ("http://h/llm?t=1", "/api/chat", "http://h/llm/api/chat?t=1", None),
        ("https://h/v3", "/v1/chat/completions", "https://h/v3/chat/completions", None),
        ("https://h/v3", "/v1/models", "https://h/v3/models", None),
        ("https://h/v2/v1", "/v1/models", "https://h/v2/v1/models", None),
        ("https://h/v1/A/G/compat", "/v1/models", "https://h/v1/A/G/compat/models", None),  # Cloudflare's gateway
        (
            "https://x/openai/deployments/D?api-version=2024-10-21",
            "/v1/chat/completions",
            "https://x/openai/deployments/D/chat/completions?api-version=2024-10-21",
            None,
        ),
        ("unix:/run/x.sock", "/v1/models", "http://localhost/v1/models", "/run/x.sock"),
        ("unix:/run/a%20b:/llm?t=1", "/api/chat", "http://localhost/llm/api/chat?t=1", "/run/a b"),
        ("unix:/run/v3", "/v1/models", "http://localhost/v1/models", "/run/v3"),
        ("unix:/run/x:/v3", "/v1/models", "http://localhost/v3/models", "/run/x"),
    ],
)
def test_where_an_endpoint_lies(given: str, path: str, asked: str, socket: str | None) -> None:
    url = endpoint_url(base_url(given), path)
    assert with_keys(url) == (asked, socket)
    if path.endswith("completions"):
        assert parse_url(url).base == base_url(given)


def test_a_request_names_its_server_without_the_zone_of_an_address() -> None:
    order = Posts("http://[fe80::1%eth0]:1").order("/v1/chat/completions", b"", Received())
    assert b"\r\nHost: [fe80::1]:1\r\n" in order.payload
    assert order.origin.host == "fe80::1%eth0"


@pytest.mark.parametrize("url", ["http://localhost.:1", "http://a.localhost.:1", "http://localhost"])
def test_a_name_of_this_machine_may_end_in_a_dot(url: str) -> None:
    assert loopback(base_url(url))
    assert not loopback("http://notlocalhost:1")


def test_keys_in_a_query_are_kept_apart() -> None:
    address = parse_url("https://h/llm/v1?api-version=2&api-key=S3CRET%2B1&max_tokens=3&code=x")
    assert "S3CRET" not in address.whole
    assert address.base.count("$LOADTEST_URL_KEY_") == 2
    assert "api-version=2" in address.base
    assert "max_tokens=3" in address.base
    assert parse_url(address.whole).base == address.base
    assert parse_url(address.whole).keys == ()
    url = endpoint_url(address.base, "/v1/models")
    assert with_keys(url, dict(address.keys)).url.endswith(
        "/llm/v1/models?api-version=2&api-key=S3CRET%2B1&max_tokens=3&code=x"
    )
    with pytest.raises(TargetError, match="LOADTEST_URL_KEY_"):
        with_keys(url, {})


KEYS_IN_PATHS = [
    "/sk-abcdef0123456789abcdef/v1",
    "/k/sk-or-v1-0a1b2c3d4e5f6a7b/v1",
    "/token/s3cr3t-42/v1",
    "/api-key/12345678/v1",
    "/v2/aB3dE5gH7jK9mN1pQ3sT5vW7/v1",
    "/openai/AIzaSyA0123456789abcdefghijklmnopqrst/v1",
    "/keys/hf_a1b2c3d4e5f6g7h8i9",
]
OPEN_PATHS = [
    "/openai/deployments/gpt-4o",
    "/v1/0123456789abcdef0123456789abcdef/gateway/compat",
    "/serving-endpoints/Llama-3.1-8B-Instruct",
    "/v1/projects/my-project-12345/locations/us-central1/endpoints/openapi",
    "/sk-learn/v1",
    "/api/token/usage",
    "/task-management-2024-01",
    "/deployments/MetaLlama31InstructTurbo",
    "/v2/vllm-abc123def456/openai",
    "/Meta-Llama-3.1-405B-Instruct-Turbo",
    "/keys/list",
]


@pytest.mark.parametrize("path", KEYS_IN_PATHS)
def test_a_key_in_a_path_is_kept_apart(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = f"https://h{path}"
    address = parse_url(given)
    ((name, key),) = address.keys
    assert key not in address.whole + without_secrets(given)
    assert (parse_url(address.whole).base, parse_url(address.whole).keys) == (address.base, ())
    assert with_keys(address.base, dict(address.keys)).url == given.removesuffix("/v1")
    monkeypatch.setenv(name, key)
    assert key not in redacted(f"no such key {key}")
    with pytest.raises(ScenarioError, match="looks like a key"):
        check_path(f"{path}/chat")


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_ordinary_paths_are_shown(path: str) -> None:
    assert parse_url(f"https://h{path}").keys == ()
    assert without_secrets(f"https://h{path}") == f"https://h{path}"


SECRETS = (
    "access_token accessToken apiToken authToken apikey clientSecret jwt bearer authorization passwd session sessionId sig "
    "X-Amz-Signature X-Amz-Credential id_token appkey ocp-apim-subscription-key"
)
OPEN = "max_tokens maxTokens api-version monkey tokenizer encode mode model author compass"


def test_which_names_of_a_query_name_a_key() -> None:
    hidden = {name for name in f"{SECRETS} {OPEN}".split() if parse_url(f"https://h?{name}=S3CRET").keys}
    assert hidden == set(SECRETS.split())


@pytest.mark.parametrize(
    "given",
    [
        "http://us3r:p4ss@h:99999",
        "http://us3r:p4/ss@h",
        "http://us3r:p4#ss@h:1",
        "http://us3r:p4?ss@h:1",
        "us3r:p4ss@a b",
        "http://us3r:p4ss@h/v1/rerank",
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


@pytest.mark.parametrize("way", ["unix:/tmp/none.sock", "http+unix:/tmp/none.sock", "UNIX:///tmp/none.sock:/llm"])
def test_a_socket_is_a_server_without_an_option_before_it_too(way: str) -> None:
    assert file_and_url([way, "demo.toml"], None) == (Path("demo.toml"), way)
