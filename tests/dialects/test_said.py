"""What is added to requests: options by name in each dialect's words, headers, query, path and body."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.made_servers import OPENAI_STREAM, made, refuse

from loadtest.dialects import dialect_for
from loadtest.dialects.answers.errors.refusals import with_advice
from loadtest.dialects.base import merged
from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.workloads.job import Job

Call = Callable[..., tuple[int, str, str]]
JOB = Job(id=0, level=0, seed=1, prompt="hi", input_tokens=None, output_tokens=7)


def said(kind: str, *, api: str = "openai", endpoint: str = "chat", **keys: Any) -> dict[str, Any]:
    """Return what a request says beside what every one says."""
    plain, asked = (
        orjson.loads(dialect_for(Scenario(api=api, endpoint=endpoint, **more), api=api, model="m", kind=kind).body(JOB))
        for more in ({}, keys)
    )
    for name in ("stream_options", "options"):
        if isinstance(plain.get(name), dict) and isinstance(asked.get(name), dict):
            asked[name] = {key: value for key, value in asked[name].items() if plain[name].get(key) != value}
    return {name: value for name, value in asked.items() if plain.get(name) != value and value != {}}


@pytest.mark.parametrize(
    ("keys", "sent"),
    [
        ({"temperature": 0.0}, {"options": {"temperature": 0.0}}),
        ({"top_p": 0.9, "top_k": 20}, {"options": {"top_p": 0.9, "top_k": 20}}),
        ({"stop": ["\n\n", "END"]}, {"options": {"stop": ["\n\n", "END"]}}),
        ({"sampling_seed": 0}, {"options": {"seed": 0}}),
        ({"think": "on"}, {"think": True}),
        ({"think": "off"}, {"think": False}),
        ({"think": "high"}, {"think": "high"}),
        ({"keep_alive": "10m"}, {"keep_alive": "10m"}),
        ({"keep_alive": "-1"}, {"keep_alive": -1}),
        ({"body": '{"options": {"min_p": 0.1}}', "temperature": 1.0}, {"options": {"min_p": 0.1, "temperature": 1.0}}),
    ],
)
@pytest.mark.parametrize("endpoint", ["chat", "generate"])
def test_ollamas_own_words(endpoint: str, keys: dict[str, Any], sent: dict[str, Any]) -> None:
    assert said("ollama", api="ollama", endpoint=endpoint, **keys) == sent


@pytest.mark.parametrize(
    ("kind", "keys", "sent"),
    [
        ("openai", {"temperature": 0.0, "top_p": 1.0}, {"temperature": 0.0, "top_p": 1.0}),
        ("vllm", {"top_k": 20}, {"top_k": 20}),
        ("openai", {"stop": "x"}, {"stop": ["x"]}),
        ("openai", {"sampling_seed": 3}, {"seed": 3}),
        ("vllm", {"ignore_eos": True}, {"ignore_eos": True}),
        ("llama.cpp", {"ignore_eos": True}, {"ignore_eos": True}),
        ("ollama", {"think": "off"}, {"reasoning_effort": "none"}),
        ("ollama", {"think": "low"}, {"reasoning_effort": "low"}),
        ("openai", {"think": "off"}, {"reasoning_effort": "none"}),
        ("vllm", {"think": "off"}, {"chat_template_kwargs": {"enable_thinking": False}}),
        ("llama.cpp", {"think": "on"}, {"chat_template_kwargs": {"enable_thinking": True}}),
        ("vllm", {"think": "high"}, {"reasoning_effort": "high"}),
        ("openai", {"body": '{"a": {"b": 1}}'}, {"a": {"b": 1}}),
        ("vllm", {"think": "on", "body": '{"chat_template_kwargs": {"x": 1}}'},
         {"chat_template_kwargs": {"enable_thinking": True, "x": 1}}),
    ],
)  # fmt: skip
def test_the_words_of_servers_with_openais_api(kind: str, keys: dict[str, Any], sent: dict[str, Any]) -> None:
    assert said(kind, **keys) == sent


@pytest.mark.parametrize(
    ("where", "keys", "flag"),
    [
        (("ollama", "chat", "ollama"), {"ignore_eos": True}, "--ignore-eos"),
        (("openai", "chat", "ollama"), {"ignore_eos": True}, "--ignore-eos"),
        (("openai", "chat", "openai"), {"ignore_eos": True}, "--ignore-eos"),
        (("openai", "chat", "ollama"), {"top_k": 3}, "--top-k"),
        (("openai", "chat", "vllm"), {"keep_alive": "5m"}, "--keep-alive"),
        (("openai", "completions", "vllm"), {"think": "off"}, "--think"),
        (("ollama", "chat", "ollama"), {"max_tokens_key": "max_completion_tokens"}, "--max-tokens-key"),
        (("openai", "responses", "openai"), {"max_tokens_key": "max_completion_tokens"}, "--max-tokens-key"),
    ],
)
def test_an_option_that_a_dialect_lacks_is_named(where: tuple[str, str, str], keys: dict[str, Any], flag: str) -> None:
    api, endpoint, kind = where
    with pytest.raises(ScenarioError, match=flag):
        dialect_for(Scenario(api=api, endpoint=endpoint, **keys), api=api, model="m", kind=kind)


@pytest.mark.parametrize(
    ("endpoint", "kind", "keys", "native"),
    [
        ("chat", "ollama", {"top_k": 3}, True),
        ("completions", "ollama", {"think": "off"}, False),  # it has no endpoint of that name
        ("embeddings", "ollama", {"keep_alive": "5m"}, True),
        ("embeddings", "ollama", {"top_p": 0.5}, False),  # Ollama's own API has none for it either
        ("chat", "ollama", {"ignore_eos": True}, False),
        ("responses", "ollama", {"top_k": 3}, False),  # --api ollama speaks it in the same way
        ("messages", "ollama", {"keep_alive": "5m"}, False),
        ("chat", "vllm", {"keep_alive": "5m"}, False),
    ],
)
def test_the_native_api_is_named_where_it_has_the_option(
    endpoint: str, kind: str, keys: dict[str, Any], native: bool
) -> None:
    scenario = Scenario(endpoint=endpoint, **keys)
    with pytest.raises(ScenarioError) as refused:
        dialect_for(scenario, api="openai", model="m", kind=kind)
    assert ("use --api ollama" in str(refused.value)) == native
    if native:
        dialect_for(scenario.replace(api="ollama"), api="ollama", model="m", kind=kind)


def test_a_refused_option_is_shown_by_the_name_that_servers_have_for_it() -> None:
    with pytest.raises(ScenarioError, match=r"""e\.g\. --body '{"seed":3}'"""):
        dialect_for(Scenario(endpoint="responses", sampling_seed=3), api="openai", model="m")


def test_null_takes_a_key_out() -> None:
    scenario = Scenario(body='{"stream_options": null, "user": "x"}')
    sent = orjson.loads(dialect_for(scenario, api="openai", model="m").body(JOB))
    assert "stream_options" not in sent
    assert (sent["user"], sent["max_tokens"], sent["messages"][0]["content"]) == ("x", 7, "hi")


@pytest.mark.parametrize(  # RFC 7396, appendix A, where both are objects
    ("base", "patch", "result"),
    [
        ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
        ('{"a":"b"}', '{"a":null}', "{}"),
        ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
        ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
        ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
        ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
        ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
        ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
        ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
    ],
)
def test_a_body_is_laid_over_by_the_rfc(base: str, patch: str, result: str) -> None:
    assert merged(json.loads(base), json.loads(patch)) == json.loads(result)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"header": "x"}, "written 'Name: value'"),
        ({"header": "na me: x"}, "written 'Name: value'"),
        ({"header": "X: a\r\nY: b"}, "holds a line end"),
        ({"header": "X: ä"}, "non-ASCII"),
        ({"header": ["A: 1", "a: 2"]}, "given twice"),
        ({"header": "X: ${A B}"}, "names no variable"),
        ({"header": "Content-Length: 1"}, "Content-Length cannot be set"),
        ({"header": "transfer-encoding: chunked"}, "transfer-encoding cannot be set"),
        ({"header": "Connection: close"}, "Connection cannot be set"),
        ({"body": "{"}, "body is not JSON"),
        ({"body": "[1]"}, "must be a JSON object"),
        ({"body": '{"model": "x"}'}, "set by --model"),
        ({"body": '{"messages": []}'}, "--prompt"),
        ({"body": '{"stream": false}'}, "body sets stream"),
        ({"body": '{"max_tokens": 1}'}, "--output-tokens"),
        ({"body": '{"options": {"num_ctx": 1}}'}, "--num-ctx"),
        ({"body": '{"options": null}'}, "options"),
        ({"body": "@nowhere.json"}, "cannot read the body file"),
        ({"query": "a b"}, "percent-encoded"),
        ({"path": "v1"}, "must begin with /"),
        ({"path": "/v1?a=1"}, "--query"),
        ({"keep_alive": "soon"}, "a time like 10m"),
        ({"think": "much"}, "think must be one of"),
        ({"top_p": 2}, "top_p must be at most 1"),
    ],
)
def test_what_cannot_be_sent_is_one_sentence(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError) as error:
        Scenario(**keys)
    assert words in str(error.value)


def test_keys_stand_in_their_table_and_a_body_may_be_a_table_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"a": 1}')
    (tmp_path / "s.toml").write_text(
        '[request]\nheader = ["X-A: 1", "X-B: ${B}"]\nquery = "a=1"\nstop = ["x"]\nbody = "@body.json"\n'
    )
    scenario = Scenario.load(tmp_path / "s.toml")
    assert scenario.header == ("X-A: 1", "X-B: ${B}")
    assert (scenario.query, scenario.stop, scenario.body) == (("a=1",), ("x",), '{"a":1}')
    (tmp_path / "t.toml").write_text("[request]\nbody = {chat_template_kwargs = {enable_thinking = false}}\n")
    assert Scenario.load(tmp_path / "t.toml").body == '{"chat_template_kwargs":{"enable_thinking":false}}'
    assert Scenario.from_dict(scenario.to_dict()) == scenario


@pytest.mark.parametrize(
    ("keys", "status", "words", "ends"),
    [
        ({}, 422, "body.stream_options: Extra inputs are not permitted",
         "; leave it out with --body '{\"stream_options\": null}'"),
        ({"body": '{"user":"x"}'}, 400, "unknown field `stream_options`, expected one of `model`",
         "; leave it out with --body '{\"user\": \"x\", \"stream_options\": null}'"),
        ({}, 400, "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         "; rename it with --max-tokens-key max_completion_tokens"),
        ({"max_tokens_key": "max_completion_tokens"}, 422, "Unrecognized key: max_completion_tokens",
         "; rename it with --max-tokens-key max_tokens"),
        ({"temperature": 0.3}, 400, "'temperature' does not support 0.3 with this model", "; leave out --temperature"),
        ({"temperature": 0.3}, 400, "`temperature` is deprecated for this model.", "; leave out --temperature"),
        ({"temperature": 0.3}, 400, "invalid temperature: only 1 is allowed for this model", "; leave out --temperature"),
        ({"top_p": 0.3}, 400, "`temperature` and `top_p` cannot both be specified for this model.", "; leave out --top-p"),
        ({"sampling_seed": 3}, 400, "seed is not a supported parameter", "; leave out --sampling-seed"),
        ({"think": "off"}, 400, "unknown parameter reasoning_effort", "; leave out --think"),
        ({"body": '{"top_a":1}'}, 422, "Extra inputs are not permitted: top_a", "; leave out --body"),
        ({"ignore_eos": True}, 422, "Unexpected keys in the request: {'ignore_eos'}", "; leave out --ignore-eos"),
        ({}, 400, "max_tokens is too large: 4096", ""),
        ({}, 400, "This model's maximum context length is 2048 tokens", ""),
        ({}, 500, "unknown field stream_options", ""),
        ({}, 422, "extra inputs are not permitted", ""),
    ],
)  # fmt: skip
def test_a_refused_field_names_the_way_around_it(keys: dict[str, Any], status: int, words: str, ends: str) -> None:
    dialect = dialect_for(Scenario(**keys), api="openai", model="m", kind="vllm" if "ignore_eos" in keys else "")
    assert with_advice(dialect, 7, status, words) == words + ends


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_SECRETS", "")  # put back afterwards, whatever a test has set


SHORT = ["--concurrency", "1", "--requests", "2", "--output-tokens", "2"]


def test_headers_query_and_path_reach_the_server(
    loadtest: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENANT", "acme-7431")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-this-one")
    routes = {"/v1/models": {"data": [{"id": "m"}]}, "/v9/talk?v=1&t=acme-7431": OPENAI_STREAM}
    given = shlex.split(
        "--header 'X-Tenant: ${TENANT}' --header 'authorization: Bearer own' --query v=1 --query 't=${TENANT}' "
        "--path /v9/talk"
    )
    out = tmp_path / "run"
    with made(routes) as server:
        code, _, err = loadtest("run", "--url", server.url, *SHORT, *given, "--out", out)
        assert code in (0, 3), err
        assert {headers["x-tenant"] for _, headers in server.seen} == {"acme-7431"}
        assert {headers["authorization"] for _, headers in server.seen} == {"Bearer own"}
        assert {path for path, _ in server.posted} == {"/v9/talk?v=1&t=acme-7431"}
    run = (out / "run.json").read_text()
    kept = json.loads(run)["scenario"]
    assert kept["header"] == ["X-Tenant: ${TENANT}", "authorization: ${LOADTEST_HEADER_AUTHORIZATION}"]
    assert kept["query"] == ["v=1", "t=${TENANT}"]
    assert "acme-7431" not in run
    assert "Bearer own" not in run
    assert {json.loads(line).get("outcome") for line in (out / "requests-0.jsonl").read_text().splitlines()[1:]} == {
        "ok"
    }


@pytest.mark.parametrize("command", [["run", "--url"], ["check"]])
def test_a_missing_variable_is_one_sentence_before_anything_is_sent(loadtest: Call, command: list[str]) -> None:
    with made({"/v1/models": {"data": [{"id": "m"}]}}) as server:
        code, _, err = loadtest(*command, server.url, "--header", "X-A: ${NO_SUCH_VARIABLE}")
        assert not server.seen
    assert code == 2
    assert err.strip() == (
        "loadtest: header X-A needs the environment variable NO_SUCH_VARIABLE, which is not set or empty; set it."
    )


def test_a_refused_field_is_said_when_a_run_begins(loadtest: Call, tmp_path: Path) -> None:
    refused = refuse(400, {"error": {"message": "Unrecognized request argument supplied: stream_options"}})
    with made({"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": refused}) as server:
        code, _, err = loadtest("run", "--url", server.url, *SHORT, "--out", tmp_path / "run")
    assert code == 2
    assert "--body '{\"stream_options\": null}'" in err


def test_two_runs_that_say_other_things_are_not_compared(loadtest: Call, tmp_path: Path) -> None:
    with made({"/v1/models": {"data": [{"id": "m"}]}, "/v1/chat/completions": OPENAI_STREAM}) as server:
        for name, more in (("a", []), ("b", ["--temperature", "0"]), ("c", ["--body", '{"top_k":1}'])):
            loadtest("run", "--url", server.url, *SHORT, *more, "--out", tmp_path / name)
        for other, key in (("b", "temperature (none → 0.0)"), ("c", 'body (none → {"top_k":1})')):
            code, out, _ = loadtest("compare", tmp_path / "a", tmp_path / other)
            assert code == 2
            assert f"Differs: {key}" in " ".join(out.split())
