"""Which server is this: several witnesses for an Ollama, none for what the user says, a sentence for what is unclear."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.made_servers import OPENAI_STREAM, made, refuse
from support.odd_server import Then, odd_server

from loadtest.errors import TargetError
from loadtest.records import Outcome
from loadtest.run_folder import RunFolder
from loadtest.targets.server.probe import Server, choose_model, probe
from loadtest.wire.receiving import parser

Call = Callable[..., tuple[int, str, str]]

LLAMA_SWAP = {"version": "165", "commit": "abc", "build_date": "2025"}
LISTED = {"object": "list", "data": [{"id": "m", "object": "model"}]}
TAGS = {"models": [{"name": "a:latest", "model": "a:latest", "details": {}}]}
OTHERS = {  # KoboldCpp's
    "/api/version": {"version": "0.7.0"},
    "/api/tags": {"models": [{"name": "koboldcpp", "model": "a", "details": {"family": "koboldcpp"}}]},
    "/v1/models": {"data": [{"id": "a", "owned_by": "koboldcpp"}]},
}
GREETING = (200, {"Content-Type": "text/plain"}, b"Ollama is running")
SHORT = ["--concurrency", "1", "--requests", "2", "--output-tokens", "2", "--warmup", "0"]


def look(routes: dict[str, Any], api: str = "auto", default: Any = None) -> Server:
    with made(routes, default=default) as server, httpx.Client(trust_env=False) as client:
        return probe(client, server.url, api=api)


@pytest.mark.parametrize(
    ("routes", "kind", "version"),
    [
        ({"/api/version": {"version": "0.24.0"}, "/api/tags": TAGS}, "ollama", "0.24.0"),
        (OTHERS, "openai", None),
        ({"/api/version": {"version": "0.33.0-rc2"}, "/": GREETING}, None, None),
        ({"/api/version": refuse(404), "/api/tags": TAGS, "/": GREETING}, "ollama", None),
        ({"/api/version": LLAMA_SWAP, "/v1/models": LISTED}, "openai", None),
        ({"/api/version": {"version": "1.2.3"}, "/v1/models": LISTED}, "openai", None),
        ({"/models": LISTED}, "openai", None),  # Infinity
        (
            {"/v1/models": LISTED, "/props": {"total_slots": 4, "default_generation_settings": {"n_ctx": 9}}},
            "llama.cpp",
            None,
        ),
        ({"/v1/models": {"data": [{"id": "m", "owned_by": "vllm"}]}, "/version": {"version": "0.9"}}, "vllm", "0.9"),
    ],
)
def test_an_ollama_takes_more_than_a_version(routes: dict[str, Any], kind: str | None, version: str | None) -> None:
    found = look(routes)
    assert found.kind == kind or (kind is None and found.kind == "ollama")
    if kind is not None:
        assert found.version == version
    assert found.unlisted is None or kind is None


@pytest.mark.parametrize(
    "listing",
    [
        {"data": [{"id": "x"}]},
        {"models": [{"name": "x"}]},
        {"models": [{"model": "x"}]},
        {"models": ["x"]},
        {"models": {"x": {}}},
        {"data": ["x", {"id": "x"}, None, 1.5, {}]},
        [{"id": "x"}],
        ["x"],
    ],
)
def test_a_list_of_models_in_any_shape(listing: object) -> None:
    assert [model.name for model in look({"/v1/models": listing}).models] == ["x"]


def test_a_pattern_in_a_gateways_list_is_no_model() -> None:
    both = look({"/v1/models": {"data": [{"id": "openai/*"}, {"id": "mine"}]}})
    assert choose_model(both, None).name == "mine"
    assert choose_model(both, "openai/any").name == "openai/any"
    alone = look({"/v1/models": {"data": [{"id": "*"}]}})
    with pytest.raises(TargetError, match=r"lists patterns of names, no model: \*\. Name one with --model"):
        choose_model(alone, None)
    assert choose_model(alone, "any").name == "any"


def test_ids_that_are_numbers_are_names_and_names_may_be_missing_in_tags() -> None:
    assert [model.name for model in look({"/v1/models": {"data": [{"id": 7}]}}).models] == ["7"]
    tags = {"models": [{"model": "x", "size": 5}]}
    ps = {"models": [{"model": "x", "context_length": 4096}]}
    found = look({"/api/version": {"version": "0.6.0"}, "/api/tags": tags, "/api/ps": ps})
    assert [(model.name, model.loaded, model.context) for model in found.models] == [("x", True, 4096)]


def test_a_model_is_not_unloaded_where_that_is_not_said() -> None:
    ollama = {"/api/version": {"version": "0.24.0"}, "/api/tags": TAGS}
    of_others = {"models": [{"name": "a"}]}  # who leave out a name's :latest
    for ps, loaded in ((refuse(500), None), ({"models": None}, False), (of_others, True)):
        assert [model.loaded for model in look({**ollama, "/api/ps": ps}).models] == [loaded]


@pytest.mark.parametrize("status", [204, 301, 401, 403, 404, 405, 429, 500, 501, 502])
def test_what_the_user_says_needs_no_witness(loadtest: Call, tmp_path: Path, status: int) -> None:
    with made({"/v1/chat/completions": OPENAI_STREAM}, default=refuse(status)) as server:
        code, _, err = loadtest(
            "run", "--url", server.url, "--api", "openai", "--model", "x", *SHORT, "--out", tmp_path / "run"
        )
    assert code in (0, 3), err
    folder = RunFolder.open(tmp_path / "run")
    assert {record.outcome for record in folder.records()} == {Outcome.OK}
    assert folder.read_run()["server"]["kind"] == "openai"


def test_check_says_what_was_not_answered_and_that_unknown_is_not_unloaded(loadtest: Call) -> None:
    with made({}, default=refuse(405)) as server:
        code, out, err = loadtest("check", server.url, "--api", "openai", "--model", "x")
        assert code == 0, err
        assert "does not list its models (GET /v1/models: status 405" in out
        code, _, err = loadtest("run", "--url", server.url, "--api", "openai")
        assert code == 2
        assert "name one with --model" in err
    with made({"/v1/models": LISTED}) as server:
        code, out, _ = loadtest("check", "--url", server.url)
    assert "context    unknown, because the server does not say" in out
    assert "not loaded" not in out


def test_an_ollama_that_shows_its_api_alone_is_measured_by_word_of_the_user() -> None:
    found = look({}, api="ollama")
    assert (found.kind, found.unlisted is not None) == ("ollama", True)
    assert choose_model(found, "x").name == "x"
    props = {"/v1/models": LISTED, "/props": {"total_slots": 1}}
    assert look(props, api="ollama").kind == "llama.cpp"  # find_target says so


@pytest.mark.parametrize(
    ("routes", "default", "words"),
    [
        (
            {},
            refuse(500, {"error": {"message": "Authentication Error, No api key passed in."}}),
            "A key may be missing",
        ),
        ({}, refuse(405), "--api openai --model NAME"),
        ({}, refuse(307, Location="/v2/"), "status 307 to /v2/"),
        (
            {},
            refuse(308, Location="https://x/"),
            "Redirects are not followed: give the URL of the server that they lead to.",
        ),
        (
            {},
            refuse(302, Location="http://["),
            "Redirects are not followed: give the URL of the server that they lead to.",
        ),
        (
            {},
            refuse(302, Location="https://sso.example.org/oauth2/start?rd=/v1/models"),
            "To be let in, name the variable that holds a key with --key-env",
        ),
        (
            {"/v1/models": refuse(301, Location="https://gpu.example.org/llm/v1/models")},
            refuse(301),
            "Redirects are not followed: give https://gpu.example.org/llm.",
        ),
        ({}, refuse(401), "OPENAI_API_KEY"),
        ({}, refuse(401, {"message": "Missing required header: api-key"}), "with --header 'api-key: ${VARIABLE}'"),
        ({"/api/version": {"version": "0.6.0"}, "/": GREETING, "/api/tags": refuse(401)}, None, "OLLAMA_API_KEY"),
        ({"/api/version": {"version": "0.9.0"}, "/api/tags": refuse(403)}, None, "refuses us with status 403"),
        ({"/api/version": {"version": "0.6.5"}}, None, "GET /api/version: version 0.6.5, which many servers have"),
        (
            {},
            refuse(400, {"message": "Either x-portkey-config or x-portkey-provider header is required"}),
            "It asks for a header: give it with --header 'x-portkey-config: …'.",
        ),
        ({}, refuse(502), "A gateway answers there, and no server behind it"),
        (
            {},
            (503, {"Content-Type": "text/html"}, b"<html><h1>503 x"),
            "A gateway answers there, and no server behind it",
        ),
        ({}, refuse(404), "Nothing of a model server is at this path: the URL may lack a prefix"),
        (
            {},
            refuse(503, {"error": "loading"}),
            "status 503 (loading)). It answers no questions now: wait until its model",
        ),
        ({}, (200, {"Content-Type": "text/html"}, b"<p>hi"), "a web page"),
        ({}, {"hello": 1}, "JSON of another shape"),
        ({}, (200, {"Content-Type": "application/json"}, b""), "GET /v1/models: an empty answer"),
        ({}, (200, {"Content-Encoding": "gzip"}, b"no gzip"), "no answer that can be read"),
    ],
)
def test_an_unclear_server_is_said_with_what_to_do(routes: dict[str, Any], default: Any, words: str) -> None:
    with pytest.raises(TargetError) as said:
        look(routes, default=default)
    assert words in str(said.value)


def test_a_port_that_speaks_http2_alone_is_said(loadtest: Call, tmp_path: Path) -> None:
    settings = b"\0\0\6\4\0\0\0\0\0\0\3\0\0\0\x64"
    with odd_server(otherwise=lambda _: [settings, Then.FIN]) as server:
        code, _, err = loadtest("check", server.url)
        assert (code, "speaks HTTP/2, and loadtest speaks HTTP/1.1" in err) == (2, True), err
        with odd_server({"PRI *": [settings, Then.FIN]}) as both:  # as HAProxy, which takes both
            code, _, err = loadtest("check", both.url)
            assert (code, "status 404" in err, "HTTP/2" in err) == (2, True, False), err
        code, _, err = loadtest("run", server.url, "--api", "openai", "--model", "m", "--out", tmp_path / "run")
    assert (code, "the answer is not valid HTTP/1.1: it is HTTP/2" in err) == (2, True), err


def test_questions_that_a_cache_answers_are_said(loadtest: Call) -> None:
    listing = (200, {"Content-Type": "application/json", "Age": "7"}, json.dumps(LISTED).encode())
    with made({"/v1/models": listing}) as server:
        code, out, _ = loadtest("check", server.url)
    assert code == 0
    assert "A cache on the way answers questions in the server's place (Age: 7)" in out


def test_an_answer_without_end_is_read_up_to_a_limit(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "BODY_LIMIT", 1 << 20)
    endless = (200, {"Content-Type": "application/json"}, b" " * (2 << 20))
    with made({}, default=endless) as server:
        code, _, err = loadtest("check", server.url)
    assert (code, "longer than 1 MiB" in err) == (2, True), err


@pytest.mark.parametrize("option", ["--url", "--model"])
def test_an_empty_name_is_one_sentence(loadtest: Call, tmp_path: Path, option: str) -> None:
    with made({"/v1/models": LISTED}) as server:
        url = [] if option == "--url" else ["--url", server.url]
        code, _, err = loadtest("run", *url, option, "", "--out", tmp_path / "run")
    assert code == 2
    assert "empty" in err
    assert "Traceback" not in err


def test_with_a_key_a_gateway_is_measured(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(headers: dict[str, str]) -> Any:
        return LISTED if headers.get("authorization") == "Bearer sk-0123456789" else refuse(500, {"error": "no key"})

    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789\r")
    with made({"/v1/models": guarded}) as server:
        code, out, err = loadtest("check", server.url)
    assert code == 0, err
    assert "model      m" in out


def test_props_of_llama_cpp_are_asked_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(headers: dict[str, str]) -> Any:
        return {"total_slots": 4} if headers.get("authorization") == "Bearer sk-0123456789" else refuse(401)

    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    assert look({"/v1/models": LISTED, "/props": guarded}).slots == 4


def test_another_program_is_an_ollama_by_word_of_the_user() -> None:
    assert look(OTHERS, api="ollama").kind == "ollama"


def test_slots_and_context_that_a_server_refuses_to_say(loadtest: Call) -> None:
    with made({"/v1/models": LISTED, "/props": refuse(401, {"error": "no key"})}) as server:
        code, out, err = loadtest("check", server.url)
    assert code == 0, err
    said = " ".join(out.split())
    assert "context unknown, because the server refuses to say it" in said
    assert "slots this server refuses to say them (GET /props: status 401 (no key)); --slots looks for them" in said


def test_names_that_steer_a_terminal_are_shown_and_sent_as_they_are(loadtest: Call, tmp_path: Path) -> None:
    name = "a\x1b]0;x\x07\u202eb"
    listed = {"data": [{"id": name}, {"id": "other\x1b[2J"}]}
    with made({"/v1/models": listed, "/v1/chat/completions": OPENAI_STREAM}) as server:
        code, out, err = loadtest("check", server.url, "--model", name)
        told = [loadtest("run", "--url", server.url, "--out", tmp_path / "a")]
    alone = {"data": listed["data"][:1]}
    with made({"/v1/models": alone, "/v1/chat/completions": OPENAI_STREAM}) as server:
        told.append(loadtest("run", "--url", server.url, *SHORT, "--out", tmp_path / "run"))
    assert code == 0, err
    assert "a\\x1b]0;x\\x07\\u202eb" in out
    for text in (out, err, *(text for _, *both in told for text in both)):
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert RunFolder.open(tmp_path / "run").read_run()["target"]["model"] == "a\\x1b]0;x\\x07\\u202eb"
    assert {json.loads(body)["model"] for path, body in server.posted if path == "/v1/chat/completions"} == {name}


@pytest.mark.parametrize(
    ("path", "options", "words"),
    [
        ("/v1/chat/completions", [], None),
        ("/v1/completions", ["--api", "ollama"], "the URL ends in /v1/completions"),
        ("/api/chat", ["--api", "openai"], "the URL ends in /api/chat"),
        ("/v1/rerank", [], "/v1/chat/completions"),
    ],
)
def test_a_whole_endpoint_is_understood_or_answered(
    loadtest: Call, tmp_path: Path, path: str, options: list[str], words: str | None
) -> None:
    with made({"/v1/chat/completions": OPENAI_STREAM}) as server:
        code, _, err = loadtest(
            "run", "--url", server.url + path, "--model", "m", *options, *SHORT, "--out", tmp_path / "run"
        )
    assert code == (2 if words else 2 if options else code)
    if words:
        assert words in err
        assert not (tmp_path / "run").exists()
    else:
        assert code in (0, 3), err


def test_a_whole_address_of_another_root_is_measured_as_it_is(loadtest: Call, tmp_path: Path) -> None:
    routes = {"/compat/models": LISTED, "/compat/chat/completions": OPENAI_STREAM}
    with made(routes) as server:
        address = f"{server.url}/compat/chat/completions"
        code, _, err = loadtest("run", address, *SHORT, "--out", tmp_path / "run")
        checked, out, _ = loadtest("check", address)
    assert code in (0, 3), err
    assert {path for path, _ in server.posted} == {"/compat/chat/completions"}
    assert RunFolder.open(tmp_path / "run").read_run()["target"]["model"] == "m"
    assert checked == 0
    assert "models     m" in out


def test_connection_options_hold_wherever_something_connects(loadtest: Call, tmp_path: Path) -> None:
    missing = tmp_path / "no.pem"
    for command in (
        ["check", "http://127.0.0.1:9", "--ca-file", missing],
        ["memory", "--url", "http://127.0.0.1:9", "--ca-file", missing],
        ["run", "--url", "http://127.0.0.1:9", "--ca-file", missing],
    ):
        code, _, err = loadtest(*command)
        assert code == 2
        assert "cannot read certificates" in err


def test_a_cloud_model_of_an_ollama_asks_to_sign_in_and_for_no_key(loadtest: Call) -> None:
    refused = refuse(401, {"error": "unauthorized", "signin_url": "https://ollama.com/connect?name=x&key=y"})
    with made({"/api/version": {"version": "0.24.0"}, "/api/tags": TAGS, "/api/chat": refused}) as server:
        _, _, ran = loadtest("run", "--url", server.url, *SHORT)
        _, tried, _ = loadtest("check", "--try", server.url)
    for said in (ran, tried):
        assert "sign its machine in with `ollama signin`" in said
        assert "API_KEY" not in said
