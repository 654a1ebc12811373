"""OpenAI's /v1/responses, as OpenAI, llama.cpp and Ollama speak it: an event stream that ends in the whole response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.ends import LAST_OF_RESPONSES, end_said_by
from loadtest.dialects.answers.rows.responses_rows import ResponsesRows
from loadtest.dialects.base import SAMPLING, Dialect, EndMarks, Said
from loadtest.dialects.content_parts import has_parts, image_in, with_parts_as
from loadtest.workloads.job import Job


@dataclass(frozen=True, slots=True)
class OpenAIResponses(Dialect):
    """POST /v1/responses; the base URL is the one without /v1."""

    name: ClassVar[str] = "openai-responses"
    api: ClassVar[str] = "openai"
    endpoint: ClassVar[str] = "responses"
    path: ClassVar[str] = "/v1/responses"
    ends: ClassVar[EndMarks] = EndMarks(
        (*map(str.encode, LAST_OF_RESPONSES), b"DONE", b'_reason":"', b'_reason": "', b"error"), end_said_by
    )
    says: ClassVar[Mapping[str, Said]] = {
        **SAMPLING,
        "think": lambda value, _: {"reasoning": {"effort": {"on": "medium", "off": "none"}.get(value, value)}},
    }

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:
        return {"stream": True} | ({} if output_tokens is None else {"max_output_tokens": output_tokens})

    def said(self, job: Job) -> dict[str, Any]:
        if not has_parts(job):
            return {"input": self.messages(job)}
        if job.encoded is None and job.messages is None:
            return {"input": job.prompt}
        return {"input": [with_parts_as(message, _part) for message in job.conversation]}

    def decoder(self) -> StreamDecoder:
        return StreamDecoder(ResponsesRows, (b"response.",))


def _part(part: Mapping[str, Any], role: str) -> Mapping[str, Any] | None:
    """Return a part of a message of chat completions as /v1/responses takes it; None for one that it may know."""
    if (image := image_in(part)) is not None:
        return {"type": "input_image", "image_url": image.url, "detail": image.detail}
    if part.get("type") != "text":
        return None
    return {**part, "type": "output_text", "annotations": []} if role == "assistant" else {**part, "type": "input_text"}
