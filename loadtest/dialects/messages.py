"""Anthropic's /v1/messages, as Anthropic, llama.cpp and Ollama speak it: an event stream of content blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from loadtest import credentials, metrics
from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.ends import end_said_by
from loadtest.dialects.answers.rows.messages_rows import MessagesRows
from loadtest.dialects.answers.rows.text_shapes import texts_in
from loadtest.dialects.base import SAMPLING, Dialect, EndMarks, Said, field_named
from loadtest.dialects.content_parts import has_parts, image_in, with_parts_as
from loadtest.metrics import ServerSaid
from loadtest.workloads.job import Job

VERSION = "2023-06-01"  # of the API; without it Anthropic refuses every request
MOST_OUTPUT = 4096  # tokens, asked for where no answer length is: the API wants one
# The API knows no efforts, and wants room for thoughts within the answer's length.
THINKING: dict[str, dict[str, Any]] = {
    "on": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "off": {"thinking": {"type": "disabled"}},
}


@dataclass(frozen=True, slots=True)
class AnthropicMessages(Dialect):
    """POST /v1/messages; the base URL is the one without /v1."""

    name: ClassVar[str] = "anthropic-messages"
    api: ClassVar[str] = "anthropic"
    endpoint: ClassVar[str] = "messages"
    path: ClassVar[str] = "/v1/messages"
    ends: ClassVar[EndMarks] = EndMarks(
        (b"message_stop", b"stop_reason", b"DONE", b'_reason":"', b"error"), end_said_by
    )
    says: ClassVar[Mapping[str, Said]] = {
        **SAMPLING,
        "top_k": field_named("top_k"),
        "stop": field_named("stop_sequences"),
        "think": lambda value, _: THINKING.get(value),
    }

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:
        return {"max_tokens": output_tokens or MOST_OUTPUT, "stream": True}

    def said(self, job: Job) -> dict[str, Any]:
        messages: Any
        if job.encoded is not None and not has_parts(job):
            system, messages = job.encoded.system, job.encoded.others
        else:
            system, messages = _system_apart(job.conversation)
        return {"messages": messages} | ({"system": system} if system else {})

    def decoder(self) -> StreamDecoder:
        return StreamDecoder(MessagesRows, (b"message_", b"content_block_", b"ping"))

    def auth(self, url: str) -> dict[str, str]:
        if (key := credentials.read_key(self.key_env or "ANTHROPIC_API_KEY")) is None:
            return {"anthropic-version": VERSION, **credentials.headers(url, self.api, key_env=self.key_env)}
        return {"anthropic-version": VERSION, **credentials.basic_auth(url), "x-api-key": key}

    @staticmethod
    def server_said(server: dict[str, Any]) -> ServerSaid:
        usage = server.get("usage")
        if isinstance(usage, dict) and "cache_read_input_tokens" in usage:
            cached = {"cached_tokens": usage["cache_read_input_tokens"]}
            server = {**server, "usage": {**usage, "prompt_tokens_details": cached}}
        return metrics.server_said(server)


def _system_apart(conversation: Sequence[Mapping[str, Any]]) -> tuple[str, list[Mapping[str, Any]]]:
    """Return the text of system messages, for which the API has a field of its own, and the other messages."""
    system, others = [], []
    for message in conversation:
        if message.get("role") in ("system", "developer"):
            system.append("".join(texts_in(message.get("content"))))
        else:
            others.append(with_parts_as(message, _part))
    return "\n".join(system), others


def _part(part: Mapping[str, Any], _: str) -> Mapping[str, Any] | None:
    """Return a part of a message of chat completions as /v1/messages takes it; None for one that it may know, as text."""
    if (image := image_in(part)) is None:
        return None
    if image.inline is None:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    media_type, data = image.inline
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
