"""`loadtest check --try`: which requests it sends to servers that refuse some, and what it says to add to the command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.made_servers import CHAT, OPENAI_STREAM, Made, made, refuse

from loadtest.dialects import OpenAIChat
from loadtest.records import Outcome, Record
from loadtest.scenario import Scenario
from loadtest.targets.trials import Attempt, what_came

Call = Callable[..., tuple[int, str, str]]
Judge = Callable[[str, dict[str, Any]], Any]  # of path and body: an answer, None for a good one

WITHOUT_USAGE = (200, {"Content-Type": "text/event-stream"}, CHAT + b"data: [DONE]\n\n")


@contextlib.contextmanager
def judging(judge: Judge, *paths: str, routes: dict[str, Any] | None = None) -> Iterator[Made]:
    """Serve /v1/models and the paths, where each body is judged."""
    server: Made

    def answer(path: str) -> Callable[[dict[str, str]], Any]:
        return lambda _: judge(path, json.loads(server.posted[-1][1])) or OPENAI_STREAM

    listed = {"/v1/models": {"data": [{"id": "m"}]}}
    with made({**listed, **{path: answer(path) for path in paths}, **(routes or {})}) as server:
        yield server


def bodies(server: Made) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in server.posted]


CHATS = "/v1/chat/completions"


def test_what_works_at_once_needs_nothing(loadtest: Call) -> None:
    with judging(lambda *_: None, CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert len(server.posted) == 1
    assert "Trying requests for 24 tokens" in out
    assert "they may load the model, and cost tokens" in out
    assert "works      as asked: nothing has to be added" in out
    assert "counts     sent by the server (tokens in: 9, out: 2)" in out
    assert "timings    not sent: of what a request waits for, a report tells slot wait alone" in out
    assert bodies(server)[0]["stream_options"] == {"include_usage": True}


def test_embeddings_are_not_said_to_have_tokens(loadtest: Call, simulated_url: str) -> None:
    code, out, _ = loadtest("check", simulated_url, "--try", "--endpoint", "embeddings")
    assert code == 0
    assert "Trying requests, one after another" in out
    assert "24 tokens" not in out
    assert "counts     sent by the server (tokens in:" in out
    assert "timings    not read: of embeddings E2E is measured alone" in out


def test_a_plain_check_sends_no_prompt(loadtest: Call) -> None:
    with judging(lambda *_: None, CHATS) as server:
        assert loadtest("check", server.url)[0] == 0
    assert not server.posted


def no_unknown_fields(status: int) -> Judge:
    """A server that knows no stream_options, and names the field with statuses other than 400."""

    def judge(_: str, body: dict[str, Any]) -> Any:
        if "stream_options" not in body:
            return None
        if status == 501:
            return refuse(501, {"detail": "stream_options is not implemented"})
        if status == 422:
            said = [
                {"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted", "type": "extra_forbidden"}
            ]
            return refuse(422, {"detail": said})
        return refuse(400, {"error": {"message": "bad request"}})

    return judge


@pytest.mark.parametrize("status", [400, 422, 501])
def test_stream_options_are_left_out(loadtest: Call, status: int) -> None:
    with judging(no_unknown_fields(status), CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert len(server.posted) == 2
    assert """works      only with --body '{"stream_options":null}'""" in out
    assert f"""command    loadtest run --url {server.url} --body '{{"stream_options":null}}'""" in out


def test_fields_that_are_named_one_after_another_all_go(loadtest: Call) -> None:
    """OpenAI's newer models: another name of the length, no temperature; and here no stream_options."""

    def judge(_: str, body: dict[str, Any]) -> Any:
        said = {
            "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
            "'max_completion_tokens' instead.",
            "temperature": "Unsupported value: 'temperature' does not support 0.5 with this model.",
            "stream_options": "Unrecognized request argument supplied: stream_options",
        }
        return next((refuse(400, {"error": {"message": words}}) for name, words in said.items() if name in body), None)

    with judging(judge, CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try", "--temperature", "0.5", "--body", '{"user":"x"}')
    assert code == 0
    assert len(server.posted) == 4
    assert bodies(server)[-1].keys() == {"model", "messages", "stream", "max_completion_tokens", "user"}
    for words in (
        "without --temperature",
        "--max-tokens-key max_completion_tokens",
        '{"user":"x","stream_options":null}',
    ):
        assert words in out.partition("works      only ")[2].partition("\n")[0]
    assert "--temperature" not in out.partition("command    ")[2].partition("\n")[0]


def test_two_fields_that_are_not_named_go_together(loadtest: Call) -> None:
    def judge(_: str, body: dict[str, Any]) -> Any:
        return refuse(400, {"error": "bad"}) if {"stream_options", "max_tokens"} & body.keys() else None

    with judging(judge, CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert "max_completion_tokens" in bodies(server)[-1]
    assert "--max-tokens-key max_completion_tokens" in out
    assert '{"stream_options":null}' in out


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/chat/completions", "only with --path /chat/completions"),
        ("/openai/v1/chat/completions", "only with --path /openai/v1/chat/completions"),
        ("/v1/completions", "only with --endpoint completions"),
        ("/compat/chat/completions", "only with --path /compat/chat/completions"),
        ("/invocations", "only with --path /invocations"),
    ],
)
def test_another_path_or_endpoint_is_found(loadtest: Call, path: str, words: str) -> None:
    with judging(lambda *_: None, path) as server:
        code, out, _ = loadtest("check", server.url, "--try", "--model", "m")
    assert code == 0
    assert f"works      {words}" in out


def test_a_page_that_answers_any_path_is_no_reason_to_leave_fields_out(loadtest: Call) -> None:
    page = (200, {"Content-Type": "text/html"}, b"<!doctype html><title>Sign in</title>")
    with judging(lambda path, _: page if path == CHATS else None, CHATS, "/api/chat/completions") as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert "works      only with --path /api/chat/completions" in out
    assert len(server.posted) == 3


def test_nothing_works(loadtest: Call) -> None:
    with judging(lambda *_: refuse(500, {"error": "out of order"}), CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 1
    assert "out of order" in out
    assert out.endswith("works      nothing that was tried\n")
    sent = [json.dumps([path, json.loads(body)], sort_keys=True) for path, body in server.posted]
    assert len(set(sent)) == len(sent), "one request was sent twice"
    assert len(sent) <= 24


def test_below_a_root_of_its_own_no_request_is_sent_twice(loadtest: Call) -> None:
    with made({}) as server:
        code, out, _ = loadtest("check", f"{server.url}/v3", "--try", "--model", "m")
    assert code == 1
    assert " 1. POST …/chat/completions (openai-chat): HTTP 404" in out
    sent = [(path, json.dumps(json.loads(body), sort_keys=True)) for path, body in server.posted]
    assert len(set(sent)) == len(sent)


@pytest.mark.parametrize(
    ("status", "path", "words"),
    [
        (400, "/v1/embeddings", "--endpoint embeddings\n"),
        (404, "/v1/embeddings", "--endpoint embeddings\n"),
        (404, "/embeddings", "--endpoint embeddings and --path /embeddings\n"),
    ],
)
def test_a_model_that_only_embeds_is_found(loadtest: Call, status: int, path: str, words: str) -> None:
    found = {"data": [{"embedding": [1.0], "index": 0}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    said = {400: {"error": {"message": "this model does not support chat"}}, 404: {"detail": "Not Found"}}
    with judging(lambda *_: refuse(status, said[status]), CHATS, routes={path: found}) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert f"works      only with {words}" in out


def test_embeddings_beside_no_v1_are_found_with_their_models(loadtest: Call) -> None:
    found = {"data": [{"embedding": [1.0], "index": 0}]}
    routes = {"/v1/models": refuse(404), "/models": {"data": [{"id": "m"}]}, "/embeddings": found}
    with made(routes) as server:
        code, out, _ = loadtest("check", f"{server.url}/embeddings", "--try")
        asked, _, _ = loadtest("check", server.url, "--try", "--endpoint", "embeddings", "--model", "m")
    assert (code, asked) == (0, 0)
    assert "models     m" in out
    assert "works      as asked" in out
    assert "counts     not sent, or not to be used" in out


@pytest.mark.parametrize("status", [308, 401, 403, 429])
def test_a_key_that_is_refused_is_not_tried_again(loadtest: Call, status: int) -> None:
    with judging(lambda *_: refuse(status, {"error": "no"}), CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 1
    assert len(server.posted) == 1
    assert ("OPENAI_API_KEY" in out.splitlines()[-1]) == (status in (401, 403))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "model 'x' not found"),
        (500, "could not load model - all backends returned error: 25 errors occurred"),  # mudler/LocalAI#1127
        (400, "/chat/completions: Invalid model name passed in model=x. Call `/v1/models` to view available models"),
        (400, "[address=127.0.0.1:41873, pid=12] Model not found in the model list, uid: x"),
        (400, "x is not a valid model ID"),
        (400, "Model not exist."),
        (404, "The model `x` does not exist or you do not have access to it."),
        (400, "The provided model identifier is invalid."),
        (503, "No available channel for model x under group default"),
    ],
)
def test_a_model_that_the_server_lacks_is_not_asked_for_in_other_ways(loadtest: Call, status: int, words: str) -> None:
    with judging(lambda *_: refuse(status, {"error": {"message": words}}), CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try", "--model", "x")
    assert code == 1
    assert len(server.posted) == 1
    assert "works      nothing that was tried: name a model that the server has with --model" in " ".join(
        out.split("\n")
    )


@pytest.mark.parametrize("status", [408, 502, 503, 504, 524, 529])
def test_a_server_that_is_not_ready_is_not_asked_in_other_ways(loadtest: Call, status: int) -> None:
    with judging(lambda *_: refuse(status, {"error": {"message": "Loading model"}}), CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert (code, len(server.posted)) == (1, 1)
    assert "Loading model" in out


def test_a_path_that_is_not_known_may_be_said_with_status_200(loadtest: Call) -> None:
    """lmstudio-ai/lmstudio-bug-tracker#618: the path is at fault, and no field is left out."""
    nowhere = {"error": f"Unexpected endpoint or method. (POST {CHATS})"}
    with judging(lambda path, _: nowhere if path == CHATS else None, CHATS, "/api/chat/completions") as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert "works      only with --path /api/chat/completions" in out
    assert [path for path, _ in server.posted] == [CHATS, "/chat/completions", "/api/chat/completions"]


def test_a_model_that_completes_alone_is_found(loadtest: Call) -> None:
    words = "This is not a chat model and thus not supported in the v1/chat/completions endpoint."
    with judging(
        lambda path, _: refuse(404, {"error": {"message": words}}) if path == CHATS else None, CHATS, "/v1/completions"
    ) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert "works      only with --endpoint completions" in out


@pytest.mark.parametrize(
    "words",
    [
        "Either x-portkey-config or x-portkey-provider header is required",
        "Missing required header: x-portkey-config",
        "the request must include the header 'x-portkey-config'",
    ],
)
def test_a_header_that_a_gateway_misses_is_named_and_nothing_else_is_tried(loadtest: Call, words: str) -> None:
    with judging(lambda *_: refuse(400, {"message": words}), CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 1
    assert len(server.posted) == 1
    assert "give it with --header 'x-portkey-config: …'" in out


def test_a_server_without_a_list_of_models_is_tried_where_a_model_is_named(loadtest: Call) -> None:
    with judging(lambda *_: None, CHATS, routes={"/v1/models": refuse(405)}) as server:
        assert loadtest("check", server.url, "--try")[0] == 2
        code, out, _ = loadtest("check", server.url, "--try", "--model", "x")
    assert code == 0
    assert "only with --api openai" in out
    assert f"command    loadtest run --url {server.url} --api openai --model x" in out


def test_what_was_asked_for_stays_in_the_command(loadtest: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADTEST_SECRETS", "")
    given = ["--header", "X-Key: PLANTED7431", "--top-p", "0.5", "--stop", "a", "--stop", "b", "--body", '{"u": "é"}']
    with judging(no_unknown_fields(422), CHATS) as server:
        _, out, err = loadtest("check", f"{server.url}{CHATS}", "--try", *given)
    assert 'works      only with --body \'{"u":"é","stream_options":null}\'\n' in out
    command = f"command    loadtest run --url {server.url} --api openai --header 'X-Key: …' --body "
    assert command + '\'{"u":"é","stream_options":null}\' --top-p 0.5 --stop a --stop b\n' in out
    assert "PLANTED7431" not in out + err


def test_the_command_that_it_names_runs(loadtest: Call, tmp_path: Any) -> None:
    import shlex

    with judging(no_unknown_fields(400), CHATS) as server:
        _, out, _ = loadtest("check", server.url, "--try")
        line = next(line for line in out.splitlines() if line.startswith("command"))
        short = ["--concurrency", "1", "--requests", "2", "--output-tokens", "2", "--out", tmp_path / "run"]
        code, _, err = loadtest(*shlex.split(line)[2:], *short)
    assert code in (0, 3), err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "done"


def test_answers_that_come_at_once_are_said(loadtest: Call) -> None:
    pieces = b"".join(
        b"data: " + json.dumps({"choices": [{"delta": {"content": f"w{i} "}, "index": 0}]}).encode() + b"\n\n"
        for i in range(12)
    )
    whole = (200, {"Content-Type": "text/event-stream"}, pieces + CHAT + b"data: [DONE]\n\n")
    with judging(lambda *_: whole, CHATS) as server:
        code, out, _ = loadtest("check", server.url, "--try")
    assert code == 0
    assert "arrival    all 14 pieces at once" in out
    assert "proxy_buffering off" in out


@pytest.mark.parametrize(
    ("tokens", "source", "words"),
    [
        (24, "server", "24 tokens in 12 pieces"),
        (13, "server", "tokens come one by one"),
        (5, "server", "reads: pieces come one by one"),
        (12, "chunks", "reads: pieces come one by one"),
    ],
)
def test_pieces_are_called_tokens_only_where_the_server_counts_them_so(tokens: int, source: str, words: str) -> None:
    chunks = [1000 * i for i in range(12)]
    known: dict[str, Any] = {
        "id": 0,
        "level": 0,
        "seed": 0,
        "dialect": "openai-chat",
        "model": "m",
        "outcome": Outcome.OK,
    }
    record = Record(**known, t_sched=0, t_end=0, chunks=chunks, reads=12, output_tokens=tokens, token_source=source)
    said = dict(what_came(Attempt(Scenario(), OpenAIChat("m"), record)))
    assert words in said["arrival"]


@pytest.mark.parametrize(("finish", "said"), [("stop", True), ("length", False)])
def test_an_answer_that_is_longer_than_asked_for_shows_that_the_server_takes_no_length(
    loadtest: Call, finish: str, *, said: bool
) -> None:
    body = CHAT.replace(b'"length"', b'"%b"' % finish.encode()).replace(b'_tokens": 2', b'_tokens": 27')
    with judging(lambda *_: (*OPENAI_STREAM[:2], body + b"data: [DONE]\n\n"), CHATS) as server:
        _, out, _ = loadtest("check", server.url, "--try")
    words = "length     27 tokens came where 24 were asked for: the server may take no length by this name; --max-tokens-key has"
    assert (words in out) == said
