"""/v1/responses, /v1/messages and embeddings: what is sent, and answers that no recording in tests/streams has."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from support.jobs import first_job
from support.odd_streams import lines_looked_at

from loadtest.dialects import (
    AnthropicMessages,
    Dialect,
    OllamaChat,
    OllamaEmbed,
    OpenAIEmbeddings,
    OpenAIResponses,
    dialect_for,
    said_by_server,
)
from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.errors import ScenarioError
from loadtest.reach import located
from loadtest.scenario import Level, Scenario
from loadtest.workloads.job import Job
from loadtest.workloads.tokens import TokenFit, load_counter
from loadtest.workloads.workload import Workload

RESPONSES, MESSAGES = OpenAIResponses("m"), AnthropicMessages("m")
JOB = Job(id=1, level=0, seed=1, prompt="hi", input_tokens=8, output_tokens=64)
TALK = ({"role": "system", "content": "be short"}, {"role": "user", "content": "hi"})


def sent(dialect: Dialect, job: Job = JOB) -> tuple[str, dict[str, Any]]:
    return dialect.path, orjson.loads(dialect.body(job))


def test_what_is_sent() -> None:
    talk = Job(1, 0, 1, "hi", None, None, messages=TALK)
    asked = {"model": "m", "stream": True}
    assert sent(RESPONSES) == ("/v1/responses", asked | {"input": "hi", "max_output_tokens": 64})
    assert sent(RESPONSES, talk)[1] == asked | {"input": list(TALK)}
    user = [{"role": "user", "content": "hi"}]
    assert sent(MESSAGES) == ("/v1/messages", asked | {"messages": user, "max_tokens": 64})
    assert sent(MESSAGES, talk)[1] == asked | {"system": "be short", "messages": user, "max_tokens": 4096}
    for one in ("responses", "messages"):
        warm = dialect_for(Scenario(endpoint=one, temperature=0.5), api="openai", model="m")
        assert sent(warm)[1]["temperature"] == 0.5
    assert sent(OpenAIEmbeddings("m")) == ("/v1/embeddings", {"model": "m", "input": ["hi"]})
    two = Job(1, 0, 1, "a", 8, None, inputs=("a", "b"))
    assert sent(OllamaEmbed("m", num_ctx=9), two) == (
        "/api/embed",
        {"model": "m", "input": ["a", "b"], "options": {"num_ctx": 9}},
    )


@pytest.mark.parametrize(
    ("api", "endpoint", "name"),
    [
        ("openai", "responses", "openai-responses"),
        ("ollama", "responses", "openai-responses"),
        ("openai", "messages", "anthropic-messages"),
        ("ollama", "messages", "anthropic-messages"),
        ("anthropic", "messages", "anthropic-messages"),
        ("anthropic", "chat", "anthropic-messages"),
        ("openai", "embeddings", "openai-embeddings"),
        ("ollama", "embeddings", "ollama-embeddings"),
    ],
)
def test_the_wire_format_of_an_endpoint(api: str, endpoint: str, name: str) -> None:
    assert dialect_for(Scenario(api=api, endpoint=endpoint), api=api, model="m").name == name


def test_the_key_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "OLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    version = {"anthropic-version": "2023-06-01"}
    assert MESSAGES.auth("http://h") == version
    monkeypatch.setenv("OPENAI_API_KEY", "sk-open")
    assert MESSAGES.auth("http://h") == version | {"Authorization": "Bearer sk-open"}
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant")
    assert MESSAGES.auth("http://h") == version | {"x-api-key": "sk-ant"}
    assert "sk-ant" not in str(RESPONSES.auth("http://h"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"endpoint": "embeddings", "output_tokens": [64]}, "no output tokens"),
        ({"endpoint": "embeddings", "output_tokens": [9]}, "no output tokens"),
        ({"endpoint": "chat", "inputs_per_request": 2}, "is for embeddings"),
        ({"api": "anthropic", "endpoint": "embeddings"}, "no endpoint 'embeddings'"),
        ({"url": "http://h/v1/embeddings", "output_tokens": [9]}, "no output tokens"),
        ({"url": "http://h/v1/embeddings", "api": "ollama"}, "contradict|asked for"),
    ],
)
def test_what_makes_no_sense_together_is_one_sentence(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ScenarioError, match=words) as said:
        located(Scenario.from_dict(given))
    assert str(said.value).count(". ") == 0


def test_embeddings_have_no_output_and_several_inputs() -> None:
    scenario = Scenario(endpoint="embeddings", inputs_per_request=3, input_tokens=[20], seed=5)
    assert scenario.output_tokens == ()
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    (level,) = scenario.replace(concurrency=[2]).levels()
    assert level.label == "2 streams · 3 × 20 in"
    workload = Workload(scenario, load_counter("m", fetch=False), TokenFit())
    job, again = (first_job(workload, level, 4) for _ in range(2))
    assert job == again
    assert len(set(job.inputs)) == 3
    assert job.inputs[0] == job.prompt
    assert (job.input_tokens, job.output_tokens) == (60, None)
    assert workload.fit_jobs()[0][0].inputs == ()
    warm = first_job(Workload(scenario.replace(warm_cache=True), load_counter("m", fetch=False), TokenFit()), level, 4)
    assert len(set(warm.inputs)) == 1


def test_a_url_of_an_endpoint_says_the_api_unless_it_was_said() -> None:
    found = located(Scenario(url="http://h/v1/messages"))
    assert (found.url, found.api, found.endpoint) == ("http://h", "anthropic", "messages")
    assert located(Scenario(url="http://h/v1/messages", api="openai")).api == "openai"


# ---------------------------------------------------------------- answers


def events(*rows: dict[str, Any] | str) -> str:
    """Frame rows as named events; a text stays as it is."""
    return "".join(
        row if isinstance(row, str) else f"event: {row.get('type')}\ndata: {json.dumps(row)}\n\n" for row in rows
    )


def piece(text: str, kind: str = "response.output_text.delta") -> dict[str, Any]:
    return {"type": kind, "delta": text, "sequence_number": 3}


def last(status: str = "completed", **more: Any) -> dict[str, Any]:
    return {"type": f"response.{status}", "response": {"object": "response", "status": status, **more}}


def block(text: str, kind: str = "text_delta", key: str = "text") -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, key: text}}


def stopped(reason: str | None = "end_turn", **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}


STOP = {"type": "message_stop"}
START = {"type": "message_start", "message": {"type": "message", "usage": {"input_tokens": 7, "output_tokens": 1}}}
USAGE = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9, "output_tokens_details": {"reasoning_tokens": 0}}


@dataclass(frozen=True, slots=True)
class Case:
    dialect: Dialect
    body: str
    seen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    finish: str | None = None
    done: bool = True
    counts: tuple[int | None, int | None] = (None, None)
    error: str = ""
    hint: str = ""


CASES = {
    "responses": Case(
        RESPONSES, events(piece("a"), piece("b"), last(usage=USAGE)), ["a", "b"], finish="stop", counts=(7, 2)
    ),
    "incomplete": Case(
        RESPONSES,
        events(piece("a"), last("incomplete", incomplete_details={"reason": "max_output_tokens"})),
        ["a"],
        finish="length",
    ),
    "filtered": Case(
        RESPONSES,
        events(piece("a"), last("incomplete", incomplete_details={"reason": "content_filter"})),
        ["a"],
        finish="content_filter",
    ),
    "failed": Case(
        RESPONSES,
        events(piece("a"), last("failed", error={"code": "server_error", "message": "fell over"})),
        ["a"],
        done=False,
        error="fell over",
    ),
    "failed without a word": Case(
        RESPONSES, events(piece("a"), last("failed")), ["a"], done=False, finish="failed", error="failed"
    ),
    "error event": Case(
        RESPONSES,
        events(piece("a"), {"type": "error", "code": "x", "message": "no room", "param": None}),
        ["a"],
        done=False,
        error="no room",
    ),
    "reasoning, a tool and a refusal": Case(
        RESPONSES,
        events(
            piece("r", "response.reasoning_summary_text.delta"),
            piece("s", "response.reasoning_text.delta"),
            {"type": "response.output_item.added", "item": {"type": "function_call", "name": "f", "arguments": ""}},
            piece("{}", "response.function_call_arguments.delta"),
            piece("AAAA", "response.audio.delta"),
            piece("no", "response.refusal.delta"),
            last(),
        ),
        ["no"],
        ["r", "s", "f", "{}"],
        finish="stop",
    ),
    "no pieces": Case(
        RESPONSES,
        events(
            last(
                output=[
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]},
                    {"type": "message", "content": [{"type": "output_text", "text": "a"}]},
                ]
            )
        ),
        ["a"],
        ["r"],
        finish="stop",
    ),
    "no end": Case(RESPONSES, events(piece("a")), ["a"], done=False),
    "done alone": Case(RESPONSES, events(piece("a"), "data: [DONE]\n\n"), ["a"], done=False, hint="without a status"),
    "chat instead": Case(
        RESPONSES,
        'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n',
        ["a"],
        finish="stop",
    ),
    "messages": Case(
        MESSAGES,
        events(START, {"type": "ping"}, block("a"), block("b"), stopped(output_tokens=2), STOP),
        ["a", "b"],
        finish="stop",
        counts=(7, 2),
    ),
    "cached": Case(
        MESSAGES,
        events(START, block("a"), stopped("max_tokens", output_tokens=1, cache_read_input_tokens=16), STOP),
        ["a"],
        finish="length",
        counts=(23, 1),
    ),
    "thinking and a tool": Case(
        MESSAGES,
        events(
            {"type": "content_block_start", "content_block": {"type": "thinking", "thinking": "", "signature": ""}},
            block("t", "thinking_delta", "thinking"),
            block("AAAA", "signature_delta", "signature"),
            {"type": "content_block_start", "content_block": {"type": "tool_use", "id": "x", "name": "f", "input": {}}},
            block('{"x"', "input_json_delta", "partial_json"),
            stopped("tool_use"),
            STOP,
        ),
        [],
        ["t", "f", '{"x"'],
        finish="tool_calls",
    ),
    "refused": Case(MESSAGES, events(block("a"), stopped("refusal"), STOP), ["a"], finish="content_filter"),
    "overloaded": Case(
        MESSAGES,
        events(block("a"), {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        ["a"],
        done=False,
        error="Overloaded",
    ),
    "no stop_reason": Case(MESSAGES, events(block("a"), STOP), ["a"], done=False, hint="without a stop_reason"),
    "cut": Case(MESSAGES, events(START, block("a")), ["a"], done=False, counts=(7, None)),
    "behind the end": Case(MESSAGES, events(block("a"), stopped(), STOP, block("b")), ["a"], finish="stop"),
    "embedding": Case(
        OpenAIEmbeddings("m"),
        '{\n "object": "list",\n "data": [{"embedding": [0.1]}],\n "usage": {"prompt_tokens": 7, "total_tokens": 7}\n}\n',
        counts=(7, None),
    ),
    "no embedding": Case(OllamaEmbed("m"), '{"embeddings":[]}', done=False, error="holds no embedding"),
    "an error for embeddings": Case(OllamaEmbed("m"), '{"error":"no"}', done=False, error="no"),
    "half an embedding": Case(OllamaEmbed("m"), '{"embeddings":[[0.1,', done=False, hint="middle of a line"),
}


def test_an_event_of_several_lines_that_ends_in_its_middle() -> None:
    """What follows the end is not part of the answer, in the same event neither."""
    for dialect, end in (
        (OllamaEmbed("m"), '{"embeddings":[[1]]}'),
        (RESPONSES, json.dumps(last())),
        (MESSAGES, '{"type":"message_stop"}'),
    ):
        decoder = dialect.decoder()
        decoder.feed(f"data: [\ndata: {end}\ndata: {{}}\n\n".encode())
        assert decoder.close().error


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [0, 1, 7])
def test_an_answer(name: str, step: int) -> None:
    case = CASES[name]
    decoder, body = case.dialect.decoder(), case.body.encode()
    for start in range(0, len(body), step or len(body)):
        decoder.feed(body[start : start + (step or len(body))])
    ending, found = decoder.close(), decoder.events
    assert [text for i, text in enumerate(found.texts) if i not in found.hidden] == case.seen
    assert [text for i, text in enumerate(found.texts) if i in found.hidden] == case.unseen
    assert (ending.finish_reason, ending.done) == (case.finish, case.done)
    assert (ending.prompt_tokens, ending.output_tokens) == case.counts
    assert case.error in (ending.error or "")
    assert case.hint in (ending.hint or "")
    assert bool(ending.error) == bool(case.error)


def test_which_server_cached_how_much() -> None:
    for name, usage in (
        ("openai-responses", {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}}),
        ("anthropic-messages", {"input_tokens": 5, "cache_read_input_tokens": 4}),
    ):
        assert said_by_server(name, {"usage": usage}).cached_tokens == 4


@pytest.mark.parametrize(
    "row",
    [
        '{{"type":"response.output_text.delta","sequence_number":{},"delta":"{}"}}',
        '{{"sequence_number":{},"delta":"{}","type":"response.output_text.delta"}}',
        '{{"type":"response.output_text.delta","delta":"{1}","logprobs":[],"sequence_number":{0}}}',
        '{{"type":"response.output_text.delta","sequence_number":{0},"delta":"{1}","logprobs":[],"obfuscation":"a{1}{0}Z"}}',
    ],
)
def test_a_numbered_chunk_is_parsed_once(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that differ in text, number and padding alone are not parsed as JSON, and neither are their names."""
    decoder = RESPONSES.decoder()
    parsed = lines_looked_at(monkeypatch, StreamDecoder)
    for number in range(5, 105):
        decoder.feed(f"event: response.output_text.delta\ndata: {row.format(number, f't{number}')}\n\n".encode())
    assert decoder.events.texts == [f"t{number}" for number in range(5, 105)]
    assert len(parsed) == 2


def test_other_formats_keep_their_counterparts() -> None:
    assert isinstance(dialect_for(Scenario(), api="ollama", model="m"), OllamaChat)
    assert (
        Level(index=0, concurrency=1, input_tokens=8, output_tokens=None, words=None, requests=1).label
        == "1 stream · 8 in"
    )
