"""Credentials: whose goes where, how they are read, and what keeps them out of what is said."""

from __future__ import annotations

import base64
import dataclasses
import pickle
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.made_servers import OPENAI_STREAM, Made, made, refuse

from loadtest import credentials
from loadtest.dialects import dialect_for
from loadtest.dialects.answers.errors.server_errors import http_sentence, shorten
from loadtest.errors import ScenarioError
from loadtest.monitor import process
from loadtest.reach import located
from loadtest.scenario import Scenario
from loadtest.targets.server.probe import ServedModel, Server
from loadtest.targets.target import Target

Call = Callable[..., tuple[int, str, str]]

BOTH = {"OPENAI_API_KEY": "sk-openai-1234", "OLLAMA_API_KEY": "ollama-key-1234"}
SHORT = ["--concurrency", "1", "--requests", "2", "--output-tokens", "2", "--warmup", "0"]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(pair: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


def test_each_api_has_a_key_that_goes_first() -> None:
    url = "http://h:1"
    assert credentials.headers(url, "openai", BOTH) == bearer("sk-openai-1234")
    assert credentials.headers(url, "ollama", BOTH) == bearer("ollama-key-1234")
    assert credentials.headers(url, "ollama", {"OPENAI_API_KEY": "k"}) == bearer("k")
    assert credentials.headers(url, "openai", {"OLLAMA_API_KEY": "k", "OPENAI_API_KEY": " \r\n"}) == bearer("k")
    assert credentials.headers(url, "openai", {}) == {}


@pytest.mark.parametrize("around", ["{}\r", "{}\n", " {}\t", "\ufeff{}", "'{}'", '"{}"\r\n', "\r\n '{}' "])
def test_a_key_is_stripped_of_what_an_env_file_leaves(around: str) -> None:
    assert credentials.headers("http://h", "openai", {"OPENAI_API_KEY": around.format("sk-1")}) == bearer("sk-1")


@pytest.mark.parametrize(
    "key", ["sk-PLANTED\rx", "sk-PLANTED\nx", "sk PLANTED", "sk-PLANTED\0", "sk-PLANTED\u20ac", "\ud83dPLANTED"]
)
@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OLLAMA_API_KEY"])
def test_a_key_that_no_header_can_hold_is_named_and_not_shown(key: str, name: str) -> None:
    with pytest.raises(ScenarioError) as said:
        credentials.headers("http://h", "ollama", {name: key})
    assert name in str(said.value)
    assert "PLANTED" not in str(said.value)


def test_user_and_password_of_a_url_are_basic_auth_for_its_origin_alone() -> None:
    env: MutableMapping[str, str] = dict(BOTH)
    assert credentials.withhold("http://me:s%40cret@h:1/v1", env) == "http://h:1"
    assert credentials.withhold("http://plain:1", env) == "http://plain:1"
    assert credentials.headers("http://h:1", "openai", env) == basic("me:s@cret")
    assert credentials.headers("http://h:2", "openai", env) == bearer("sk-openai-1234")
    assert credentials.headers("https://h:1", "openai", env) == bearer("sk-openai-1234")
    assert credentials.basic_auth("http://exporter:9100/metrics", env) == {}
    credentials.withhold("http://new:one@h:1", env)
    assert credentials.headers("http://h:1", "openai", env) == basic("new:one")
    assert credentials.headers("http://g", "ollama", {"OLLAMA_HOST": "http://a:b@g"}) == basic("a:b")


def test_plain_http_with_a_key_is_said_where_it_leaves_the_machine() -> None:
    assert "plain http" in (credentials.in_the_clear("http://gpu-box:1", "ollama", BOTH) or "")
    for url in ("http://127.0.0.1:1", "http://localhost", "http://[::1]:1", "https://gpu-box"):
        assert credentials.in_the_clear(url, "ollama", BOTH) is None
    assert credentials.in_the_clear("http://gpu-box:1", "ollama", {}) is None


@pytest.mark.parametrize(
    "spelling",
    [
        "Bearer sk-Pl/nted&1234",
        "sk-Pl\\/nted&1234",
        "sk-Pl%2Fnted%261234",
        "sk-Pl/nted&amp;1234",
        "it ends: sk-Pl/nted",
        "in small letters: sk-pl/nted&1234",
    ],
)
def test_a_server_that_quotes_the_key_does_not_get_it_into_a_sentence(
    monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-Pl/nted&1234\r")
    for said in (
        http_sentence(500, orjson.dumps({"error": spelling})),
        shorten(spelling),
        http_sentence(500, spelling.encode()),
    ):
        assert "nted" not in said
        assert "<OPENAI_API_KEY>" in said
    assert "nted" not in shorten("x" * 290 + " sk-Pl/nted&1234", 300)  # the cut is inside the key


@pytest.mark.parametrize("key", ["ollama", "EMPTY", "x", "sk-no-key-required"])
def test_a_placeholder_is_no_secret(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert credentials.redacted(f"the {key} runner stopped") == f"the {key} runner stopped"
    assert credentials.scrubber()(f'{{"dialect":"{key}-chat"}}'.encode()) == f'{{"dialect":"{key}-chat"}}'.encode()


def test_neither_pickles_nor_messages_nor_arguments_hold_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-1234")
    scenario = located(Scenario(url="http://planted-user:planted-pass@h:1/v1/completions"))
    assert (scenario.url, scenario.api, scenario.endpoint) == ("http://h:1", "openai", "completions")
    server = Server("http://h:1", "openai", None, (ServedModel("m"),))
    target = Target(server, ServedModel("m"), dialect_for(scenario, api="openai", model="m"))
    assert target.headers["Authorization"] == basic("planted-user:planted-pass")["Authorization"]
    told = orjson.dumps([scenario.to_dict(), dataclasses.asdict(server)])  # what a Locust worker is sent
    for held in (pickle.dumps(target), pickle.dumps(scenario), told):
        assert b"planted" not in held
    (asked,) = process.parse_sources(["prometheus=http://planted-user:planted-pass@e:9/m:x"])
    assert str(asked) == "prometheus=http://e:9/m:x"
    assert credentials.basic_auth("http://e:9/m") == basic("planted-user:planted-pass")


def test_openai_takes_its_own_variable_first(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with made({"/v1/models": {"data": [{"id": "m"}]}}) as first, made({}, default=refuse(500)) as second:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{first.url}/v1")
        monkeypatch.setenv("OLLAMA_HOST", second.url)
        code, out, err = loadtest("check", "--api", "openai")
        assert (code, second.seen) == (0, []), err
        assert first.url in out
        assert loadtest("check")[0] == 2
        assert second.seen


def authorizations(server: Made) -> set[tuple[str, str | None]]:
    return {(path, headers.get("authorization")) for path, headers in server.seen}


def test_every_request_to_the_measured_origin_carries_them_and_none_to_another(
    loadtest: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-1234")
    page = (200, {"Content-Type": "text/plain"}, b"vllm:num_requests_running 1\n")
    routes: dict[str, Any] = {
        "/v1/models": {"data": [{"id": "m"}]},
        "/v1/chat/completions": OPENAI_STREAM,
        "/metrics": page,
    }
    with made(routes) as server, made({"/metrics": page}) as exporter:
        sources = f"vllm,prometheus={exporter.url}/metrics:vllm:num_requests_running"
        code, _, err = loadtest(
            "run",
            "--url",
            server.url,
            *SHORT,
            "--monitor",
            sources,
            "--monitor-every",
            "0.1",
            "--out",
            tmp_path / "run",
        )
    assert code in (0, 3), err
    paths = {path for path, _ in authorizations(server)}
    assert {"/v1/models", "/v1/chat/completions", "/metrics"} <= paths
    assert {key for _, key in authorizations(server)} == {"Bearer sk-planted-1234"}
    assert authorizations(exporter) == {("/metrics", None)}
