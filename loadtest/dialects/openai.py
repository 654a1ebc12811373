"""The OpenAI wire as vLLM, llama.cpp, transformers, Ollama's /v1 and others speak it: server-sent events of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.ends import OPENAI
from loadtest.dialects.answers.rows.openai_rows import OpenAIRows
from loadtest.dialects.base import SAMPLING, Dialect, EndMarks, Said, field_named
from loadtest.workloads.job import Job

ENGINES = ("vllm", "llama.cpp")  # kinds of servers that take more than OpenAI's own fields, under the same names


def think(value: str, kind: str) -> dict[str, Any]:
    """Return how a server of this kind is told to think: on or off by its chat template, else an effort."""
    if kind in ENGINES and value in ("on", "off"):
        return {"chat_template_kwargs": {"enable_thinking": value == "on"}}
    return {"reasoning_effort": {"on": "medium", "off": "none"}.get(value, value)}


@dataclass(frozen=True, slots=True)
class _OpenAIDialect(Dialect):
    """What both endpoints take.

    Ollama ignores max_completion_tokens (its answers then have no end); some OpenAI models refuse max_tokens.
    """

    api: ClassVar[str] = "openai"
    ends: ClassVar[EndMarks] = OPENAI
    says: ClassVar[Mapping[str, Said]] = {
        **SAMPLING,
        # Ollama's /v1 passes over it without a word
        "top_k": lambda value, kind: {"top_k": value} if kind != "ollama" else None,
        "stop": field_named("stop"),
        "sampling_seed": field_named("seed"),
        "ignore_eos": lambda value, kind: {"ignore_eos": value} if kind in ENGINES else None,
    }
    max_tokens_key: str = "max_tokens"

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:
        length = {} if output_tokens is None else {self.max_tokens_key: output_tokens}
        return {"stream": True, "stream_options": {"include_usage": True}, **length}

    def decoder(self) -> StreamDecoder:
        return StreamDecoder(OpenAIRows)


@dataclass(frozen=True, slots=True)
class OpenAIChat(_OpenAIDialect):
    """POST /v1/chat/completions; the base URL is the one without /v1."""

    name: ClassVar[str] = "openai-chat"
    endpoint: ClassVar[str] = "chat"
    path: ClassVar[str] = "/v1/chat/completions"
    says: ClassVar[Mapping[str, Said]] = {**_OpenAIDialect.says, "think": think}

    def said(self, job: Job) -> dict[str, Any]:
        return {"messages": self.messages(job)}


@dataclass(frozen=True, slots=True)
class OpenAICompletions(_OpenAIDialect):
    """POST /v1/completions."""

    name: ClassVar[str] = "openai-completions"
    endpoint: ClassVar[str] = "completions"
    path: ClassVar[str] = "/v1/completions"
