"""The simulated server at /v1/responses, /v1/messages and for embeddings: as a real Ollama's answers, and for real clients."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from support.simulated import PROFILE, Answer, raw, recorded, request, run, shape, take_apart

from loadtest.simulate.server import SimulatedServer

USER: Any = [{"role": "user", "content": "nonce 0 load test"}]


@pytest.fixture
def profile(tmp_path: Path) -> str:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(PROFILE))
    return str(path)


def rows(answer: Answer) -> list[Any]:
    """Return the objects of an answer; of named events each must be named as its data says."""
    text = answer.body.decode()
    if not text.startswith("event:"):
        return [json.loads(text)]
    found = re.findall(r"event: (\S+)\ndata: (.*)\n\n", text)
    assert "".join(f"event: {name}\ndata: {data}\n\n" for name, data in found) == text
    assert all(json.loads(data)["type"] == name for name, data in found)
    return [json.loads(data) for _, data in found]


@pytest.mark.parametrize(
    "name",
    [
        *("v1-responses", "v1-responses-one-token", "v1-responses-unknown-model"),
        *("v1-messages", "v1-messages-one-token", "v1-messages-not-streamed", "v1-messages-unknown-model"),
        *("embed", "v1-embeddings"),
    ],
)
def test_answers_have_the_shape_of_a_real_ollamas(profile: str, name: str) -> None:
    stream, real = recorded(name)
    body = stream["bodies"][0].replace('"mid"', '"tiny"')
    made = take_apart(run(profile, lambda server: raw(server, request(stream["method"], stream["path"], body))))
    assert made.status == real.status
    assert dict(made.headers)["Content-Type"] == dict(real.headers)["Content-Type"]
    assert [shape(row) for row in rows(made)] == [shape(row) for row in rows(real)]
    if len(real.chunks) > 2:
        assert len(made.chunks) == len(real.chunks)
    for key in ("type", "sequence_number", "object", "error"):
        assert [row.get(key) for row in rows(made)] == [row.get(key) for row in rows(real)]
    stops = [[row["delta"] for row in rows(one) if row.get("type") == "message_delta"] for one in (made, real)]
    assert stops[0] == stops[1]


def test_a_whole_response_says_what_the_real_one_says(profile: str) -> None:
    stream, real = recorded("v1-responses-not-streamed")
    body = stream["bodies"][0].replace('"mid"', '"tiny"')
    (made,), (twin,) = (
        rows(one)
        for one in (take_apart(run(profile, lambda server: raw(server, request("POST", "/v1/responses", body)))), real)
    )
    assert {key: shape(value) for key, value in made.items() if key not in ("output", "usage")} == {
        key: shape(value) for key, value in twin.items() if key not in ("output", "usage")
    }
    assert made["usage"]["output_tokens"] == 12


def test_inputs_are_read_side_by_side_as_far_as_slots_go(profile: str) -> None:
    """The engine reads each input as a prompt of its own, so one request of two takes both slots."""

    async def both(server: SimulatedServer) -> bytes:
        body = json.dumps({"model": "tiny", "input": ["word " * 200, "other " * 200]})
        return await raw(server, request("POST", "/api/embed", body))

    (row,) = rows(take_apart(run(profile, both, slots=2)))
    assert len(row["embeddings"]) == 2
    assert row["embeddings"][0] != row["embeddings"][1]
    assert row["prompt_eval_count"] >= 400


def test_an_embedding_depends_on_its_text_alone(profile: str) -> None:
    async def ask(server: SimulatedServer) -> Any:
        body = json.dumps({"model": "tiny", "input": ["a", "b", "a"]})
        return rows(take_apart(await raw(server, request("POST", "/v1/embeddings", body))))[0]["data"]

    first, second, third = run(profile, ask)
    assert first["embedding"] == third["embedding"] != second["embedding"]
    assert abs(sum(value * value for value in first["embedding"]) - 1) < 1e-6


def test_no_inputs_are_answered_as_by_ollama(profile: str) -> None:
    def asked(path: str) -> Answer:
        body = json.dumps({"model": "tiny", "input": []})
        return take_apart(run(profile, lambda server: raw(server, request("POST", path, body))))

    assert json.loads(asked("/api/embed").body) == {"model": "tiny", "embeddings": []}
    assert asked("/v1/embeddings").status.endswith("400 Bad Request")


# -- other people's clients ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(simulated_url: str) -> str:
    with ollama.Client(host=simulated_url) as client:
        return str(client.list().models[0].model)


def test_openais_client(simulated_url: str, model: str) -> None:
    with openai.OpenAI(base_url=f"{simulated_url}/v1", api_key="none", max_retries=0) as client:
        ask_as_openai(client, model)


def ask_as_openai(client: openai.OpenAI, model: str) -> None:
    chunks = list(client.chat.completions.create(model=model, messages=USER, max_tokens=5, stream=True))
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks if chunk.choices) == 5
    assert client.completions.create(model=model, prompt="hi", max_tokens=3).usage.completion_tokens == 3  # type: ignore[union-attr]
    events = list(client.responses.create(model=model, input="hi", max_output_tokens=5, stream=True))
    assert [event.type for event in events].count("response.output_text.delta") == 5
    last = events[-1]
    assert last.type == "response.completed"
    assert last.response.output_text == "".join(getattr(event, "delta", "") for event in events)
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 5
    whole = client.responses.create(model=model, input=USER, instructions="be short", max_output_tokens=4)
    assert (whole.status, bool(whole.output_text)) == ("completed", True)
    encodings: list[Any] = ["float", "base64"]
    for encoding in encodings:
        found = client.embeddings.create(model=model, input=["a", "b"], encoding_format=encoding)
        assert [one.index for one in found.data] == [0, 1]
    assert len(client.embeddings.create(model=model, input="a").data[0].embedding) == 256
    with pytest.raises(openai.NotFoundError, match="model 'nope' not found"):
        client.responses.create(model="nope", input="hi")


def test_anthropics_client(simulated_url: str, model: str) -> None:
    with anthropic.Anthropic(base_url=simulated_url, api_key="none", max_retries=0) as client:
        ask_as_anthropic(client, model)


def ask_as_anthropic(client: anthropic.Anthropic, model: str) -> None:
    asked: Any = {"model": model, "max_tokens": 5, "messages": USER, "system": "be short"}
    with client.messages.stream(**asked) as stream:
        texts = list(stream.text_stream)
        message = stream.get_final_message()
    assert len(texts) == 5
    assert message.content[0].text == "".join(texts)  # type: ignore[union-attr]
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)
    whole = client.messages.create(**asked)
    assert (whole.stop_reason, whole.usage.output_tokens) == ("max_tokens", 5)
    with pytest.raises(anthropic.NotFoundError, match="model 'nope' not found"):
        client.messages.create(**(asked | {"model": "nope"}))


def test_ollamas_client(simulated_url: str, model: str) -> None:
    with ollama.Client(host=simulated_url) as client:
        ask_as_ollama(client, model)


def ask_as_ollama(client: ollama.Client, model: str) -> None:
    chunks = list(client.chat(model=model, messages=USER, options={"num_predict": 5}, stream=True))
    assert sum(bool(chunk.message.content) for chunk in chunks) == 5
    assert client.generate(model=model, prompt="hi", options={"num_predict": 3}).eval_count == 3
    found = client.embed(model=model, input=["a", "b"])
    assert len(found.embeddings) == 2
    assert (found.prompt_eval_count or 0) >= 2
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found"):
        client.embed(model="nope", input="a")
