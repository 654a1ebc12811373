"""The OpenAI wire as vLLM, llama.cpp, transformers, Ollama's /v1 and others speak it: server-sent events of JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import orjson

from loadtest.dialects.answers.decoded import Decoded
from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.ends import OPENAI, row_of_line
from loadtest.dialects.answers.lines.framing import NO_SHAPE, shape_around
from loadtest.dialects.answers.rows.native_rows import AnyRows, NativeRows
from loadtest.dialects.answers.rows.ollama_rows import OllamaRows
from loadtest.dialects.answers.rows.openai_rows import OpenAIRows
from loadtest.dialects.base import Dialect, EndMarks, Said, field_named
from loadtest.dialects.messages import MessagesRows
from loadtest.dialects.responses import ResponsesRows
from loadtest.scenario import Scenario
from loadtest.workloads.job import Job

ENGINES = ("vllm", "llama.cpp")  # kinds of servers that take more than OpenAI's own fields, under the same names


def think(value: str, kind: str) -> dict[str, Any]:
    """Return how a server of this kind is told to think: on or off by its chat template, else an effort."""
    if kind in ENGINES and value in ("on", "off"):
        return {"chat_template_kwargs": {"enable_thinking": value == "on"}}
    return {"reasoning_effort": {"on": "medium", "off": "none"}.get(value, value)}


def _of_engines(name: str) -> Said:
    return lambda value, kind: {name: value} if kind in ENGINES else None


def _unless_ollama(name: str) -> Said:
    """Return a field that Ollama's /v1 passes over without a word."""
    return lambda value, kind: {name: value} if kind != "ollama" else None


@dataclass(frozen=True, slots=True)
class _OpenAIDialect(Dialect):
    """What both endpoints take.

    Ollama ignores max_completion_tokens (its answers then have no end); some OpenAI models refuse max_tokens.
    """

    api: ClassVar[str] = "openai"
    ends: ClassVar[EndMarks] = OPENAI
    says: ClassVar[Mapping[str, Said]] = {
        "temperature": field_named("temperature"),
        "top_p": field_named("top_p"),
        "top_k": _unless_ollama("top_k"),
        "stop": field_named("stop"),
        "sampling_seed": field_named("seed"),
        "ignore_eos": _of_engines("ignore_eos"),
    }
    max_tokens_key: str = "max_tokens"

    @classmethod
    def of(cls, scenario: Scenario, model: str) -> Self:
        return cls(model, max_tokens_key=scenario.max_tokens_key)

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:
        length = {} if output_tokens is None else {self.max_tokens_key: output_tokens}
        return {"stream": True, "stream_options": {"include_usage": True}, **length}

    def decoder(self) -> OpenAIDecoder:
        return OpenAIDecoder()


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

    def said(self, job: Job) -> dict[str, Any]:
        return {"prompt": job.prompt}


class _EventsOfMessages(MessagesRows):
    """Takes what certainly is of /v1/messages: gateways send pings and rows of type "message" in streams of their own."""

    def takes(self, row: dict[str, Any]) -> bool:
        kind = row.get("type")
        if isinstance(kind, str) and kind.startswith(("message_", "content_block_")):
            return True
        return row.get("role") == "assistant" and "stop_reason" in row


def events_of_others(answer: Decoded) -> AnyRows:
    """Return what takes the events of /v1/messages and /v1/responses, with which some gateways answer whatever was asked."""
    return AnyRows(_EventsOfMessages(answer), ResponsesRows(answer))


def _other_formats(answer: Decoded) -> AnyRows:
    return AnyRows(events_of_others(answer), OllamaRows(answer), NativeRows(answer))


class OpenAIDecoder(StreamDecoder):
    """Decodes what is asked for at /v1, an event stream as a rule."""

    __slots__ = ("_chunks", "_hidden", "_shape")

    def __init__(self) -> None:
        answer = Decoded()
        self._shape = NO_SHAPE
        self._hidden: set[int] | None = None  # where the events of the shape belong, if they are hidden
        self._chunks = OpenAIRows(answer)
        super().__init__(answer, self._chunks, other=_other_formats)

    def forget(self) -> None:
        self._shape = NO_SHAPE

    def feed(self, data: bytes) -> None:
        if self._answer.over:
            self._count_behind(self._lines.feed(data))
            return
        answer, texts, ends_at = self._answer, self.events.texts, self.events.ends
        (before, after), hidden = self._shape, self._hidden
        end, skip, least = answer.end, len(before), len(after)
        idle = not (self._held or answer.kind)
        lines = iter(self.lines(data))
        for line in lines:
            size = len(line)
            end += size + 1
            if size > 1:
                if line.startswith(before) and line.endswith(after):
                    try:
                        text = orjson.loads(line[skip : size - least])
                    except orjson.JSONDecodeError:
                        text = None
                    if text and type(text) is str:
                        if hidden:
                            hidden.add(len(texts))
                        texts.append(text)
                        ends_at.append(end)
                        continue
            elif idle and (not size or line == b"\r"):
                continue  # most blank lines end an event that was taken already
            answer.end = end
            if self.line(line) and (sides := shape_around(line, texts[-1])) is not None:
                self._shape = sides
                self._hidden = self.events.hidden if len(texts) - 1 in self.events.hidden else None
            (before, after), hidden = self._shape, self._hidden
            skip, least = len(before), len(after)
            idle = not (self._held or answer.kind)
            if answer.over:
                self._count_behind(lines)
                return
        answer.end = end

    def _count_behind(self, lines: Iterable[bytes]) -> None:
        """Take counts that came behind the end mark, as some gateways send them; text there is none of the answer's."""
        for line in lines:
            if b'"usage"' in line and (row := row_of_line(line)) is not None:
                self._chunks.count_behind(row)
