"""Wire formats: what is sent, and how a server's stamps are read."""

from __future__ import annotations

import json

import orjson
import pytest

from loadtest.dialects import (
    Dialect,
    OllamaChat,
    OllamaGenerate,
    OpenAIChat,
    OpenAICompletions,
    dialect_for,
)
from loadtest.dialects.answers.rows.ollama_rows import nanoseconds
from loadtest.scenario import Scenario
from loadtest.workloads.job import Job

JOB = Job(id=0, level=0, seed=1, prompt="say “hi”", input_tokens=None, output_tokens=64)
OPEN_END = Job(id=0, level=0, seed=1, prompt="hi", input_tokens=None, output_tokens=None)
CHAT, GENERATE, V1, COMPLETIONS = OllamaChat("m"), OllamaGenerate("m"), OpenAIChat("m"), OpenAICompletions("m")


# ---------------------------------------------------------------- what is sent


def test_ollama_bodies() -> None:
    assert _sent(dialect_for(Scenario(num_ctx=4096, temperature=0.0), api="ollama", model="llama3.1:70b"), JOB) == (
        "/api/chat",
        {
            "model": "llama3.1:70b",
            "messages": [{"role": "user", "content": "say “hi”"}],
            "stream": True,
            "options": {"num_predict": 64, "num_ctx": 4096, "temperature": 0.0},
        },
    )
    assert _sent(GENERATE, JOB) == (
        "/api/generate",
        {"model": "m", "prompt": "say “hi”", "stream": True, "options": {"num_predict": 64}},
    )
    assert "options" not in _sent(CHAT, OPEN_END)[1]


def test_openai_bodies() -> None:
    common = {"stream": True, "stream_options": {"include_usage": True}}
    assert _sent(V1, JOB) == (
        "/v1/chat/completions",
        {"model": "m", "messages": [{"role": "user", "content": "say “hi”"}], "max_tokens": 64, **common},
    )
    renamed = Scenario(endpoint="completions", temperature=0.5, max_tokens_key="max_completion_tokens")
    assert _sent(dialect_for(renamed, api="openai", model="m"), JOB) == (
        "/v1/completions",
        {"model": "m", "prompt": "say “hi”", "max_completion_tokens": 64, "temperature": 0.5, **common},
    )
    assert not {"max_tokens", "temperature"} & set(_sent(V1, OPEN_END)[1])


def _sent(dialect: Dialect, job: Job) -> tuple[str, dict[str, object]]:
    return dialect.posted_to, orjson.loads(dialect.body(job))


@pytest.mark.parametrize(
    ("api", "endpoint", "name"),
    [
        ("ollama", "chat", "ollama-chat"),
        ("ollama", "generate", "ollama-generate"),
        ("openai", "chat", "openai-chat"),
        ("openai", "completions", "openai-completions"),
    ],
)
def test_the_wire_format_of_a_scenario(api: str, endpoint: str, name: str) -> None:
    scenario = Scenario(api=api, endpoint=endpoint, temperature=0.3, num_ctx=2048, max_tokens_key="max_tokens")
    dialect = dialect_for(scenario, api=api, model="m")
    assert (dialect.name, dialect.model) == (name, "m")
    sent = json.dumps(_sent(dialect, JOB)[1])
    assert '"temperature": 0.3' in sent
    assert ("2048" in sent) == (api == "ollama")


# ---------------------------------------------------------------- the server's stamps


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-11-20T18:31:38.324313861Z", 1795199498_324313861),
        ("2026-11-20T18:31:38.3243138Z", 1795199498_324313800),
        ("2026-11-20T18:31:38.3Z", 1795199498_300000000),
        ("2026-11-20T18:31:38Z", 1795199498_000000000),
        ("2026-11-20T20:31:38.000000001+02:00", 1795199498_000000001),
        ("2026-11-20T13:01:38-05:30", 1795199498_000000000),
        ("2026-11-20T18:31:38.1234567891Z", 1795199498_123456789),
        ("1969-12-31T23:59:59.5Z", -500_000_000),
        ("2026-11-20T18:31:38.Z", None),
        ("2026-11-20T18:31:38.12x4Z", None),
        ("2026-11-20T18:61:38.1Z", None),
        ("2026-11-20", None),
        ("Z", None),
        ("", None),
        (None, None),
        (1795199498, None),
        (["Z"], None),
    ],
)
def test_server_stamps(stamp: object, expected: int | None) -> None:
    assert nanoseconds(stamp) == expected
