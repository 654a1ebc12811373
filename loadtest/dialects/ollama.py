"""Ollama's native API: one JSON object a line, each with the server's own stamp."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import orjson

from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.ends import OLLAMA
from loadtest.dialects.answers.rows.ollama_rows import OllamaRows
from loadtest.dialects.base import Dialect, EndMarks, Said
from loadtest.dialects.content_parts import has_parts, image_in
from loadtest.workloads.job import Job


def _option(name: str) -> Said:
    return lambda value, _: {"options": {name: value}}


def _keep_alive(value: str, _: str) -> dict[str, Any]:
    """Return the time as Ollama takes it: a text with its unit, a number without one (seconds)."""
    return {"keep_alive": int(value) if value.lstrip("-").isdigit() else value}


CALLS = b'"tool_calls":['  # in JSON only where a message calls a tool
_OPTIONS = ("temperature", "top_p", "top_k", "stop")  # whose names are the scenario's, OpenAI's and Ollama's
# keys of OpenAI's bodies that are keys of Ollama's options
_SAMPLING = (*_OPTIONS, "min_p", "seed", "presence_penalty", "frequency_penalty", "repeat_penalty")


@dataclass(frozen=True, slots=True)
class _OllamaDialect(Dialect):
    """What both endpoints take; what is not set stays the server's or the Modelfile's.

    num_ctx must stay the same for a whole run, and no /v1 traffic may mix in: every change reloads the model.
    """

    api: ClassVar[str] = "ollama"
    ends: ClassVar[EndMarks] = OLLAMA
    says: ClassVar[Mapping[str, Said]] = {
        **{name: _option(name) for name in _OPTIONS},
        "sampling_seed": _option("seed"),
        "think": lambda value, _: {"think": {"on": True, "off": False}.get(value, value)},
        "keep_alive": _keep_alive,
    }
    num_ctx: int | None = None

    def of_row(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a row says, with its sampling in `options`: beside them, where OpenAI has it, Ollama would ignore it."""
        said = {key: value for key, value in row.items() if key in _SAMPLING}
        if not said or not isinstance(row.get("options", {}), dict):
            return row
        rest = {key: value for key, value in row.items() if key not in _SAMPLING}
        return {**rest, "options": {**said, **row.get("options", {})}}

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:
        chosen = {"num_predict": output_tokens, "num_ctx": self.num_ctx}
        options = {key: value for key, value in chosen.items() if value is not None}
        return {"stream": True} | ({"options": options} if options else {})

    def decoder(self) -> StreamDecoder:
        return StreamDecoder(partial(OllamaRows, chat=self.endpoint == "chat"))


@dataclass(frozen=True, slots=True)
class OllamaChat(_OllamaDialect):
    """POST /api/chat. Preferred: the last line of /api/generate repeats every token id, and comes late for that reason."""

    name: ClassVar[str] = "ollama-chat"
    endpoint: ClassVar[str] = "chat"
    path: ClassVar[str] = "/api/chat"

    def said(self, job: Job) -> dict[str, Any]:
        if job.encoded is not None and not has_parts(job) and CALLS not in job.encoded.body:
            return {"messages": self.messages(job)}
        return {"messages": [_with_read_calls(_with_plain_content(message)) for message in job.conversation]}


def _with_plain_content(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message as /api/chat takes it: content parts, as OpenAI has them, become a text and images.

    One with another part, such as an image at a URL, stays as it is, and the server says what it thinks of that.
    """
    parts = message.get("content")
    if not isinstance(parts, list):
        return message
    texts, images = [], []
    for part in parts:
        image = image_in(part) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif image is not None and image.inline is not None:
            images.append(image.inline[1])
        else:
            return message
    return {**message, "content": "".join(texts), **({"images": images} if images else {})}


def _with_read_calls(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a message as /api/chat takes it: the arguments of its calls of tools are objects, and JSON in a text with OpenAI."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_read_call(call) for call in calls]} if isinstance(calls, list) else message


def _read_call(call: Any) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = orjson.loads(function["arguments"] or "{}")
    except orjson.JSONDecodeError:
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call


@dataclass(frozen=True, slots=True)
class OllamaGenerate(_OllamaDialect):
    """POST /api/generate."""

    name: ClassVar[str] = "ollama-generate"
    endpoint: ClassVar[str] = "generate"
    path: ClassVar[str] = "/api/generate"
