"""The OpenAI wire as vLLM, llama.cpp, transformers, Ollama's /v1 and others speak it: server-sent events of JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from loadtest.dialects import ends, server_errors
from loadtest.dialects.base import EndMarks
from loadtest.dialects.counts import MOST_TOKENS, Usage, kept, number
from loadtest.dialects.decoding import Decoded, Rows, StreamDecoder
from loadtest.dialects.framing import NO_MOULD, mould
from loadtest.dialects.text_shapes import in_message, in_value
from loadtest.workloads.synthetic import Job

ENGINE_DIED = "the last chunk names no model and holds no text: the engine died (Ollama's /v1 loses the error itself)"
NO_FINISH = "the server said [DONE] without a finish_reason"


@dataclass(frozen=True, slots=True)
class OpenAIChat:
    """POST /v1/chat/completions; the base URL is the one without /v1.

    Ollama ignores max_completion_tokens (answers without end); some OpenAI models refuse max_tokens.
    """

    model: str
    temperature: float | None = None
    max_tokens_key: str = "max_tokens"

    @property
    def name(self) -> str:
        return "openai-chat"

    @property
    def ends(self) -> EndMarks:
        return ends.OPENAI

    def encode(self, job: Job) -> tuple[str, bytes]:
        head = {"model": self.model, "messages": [{"role": "user", "content": job.prompt}]}
        return "/v1/chat/completions", orjson.dumps(head | _options(job, self.max_tokens_key, self.temperature))

    def decoder(self) -> OpenAIDecoder:
        return OpenAIDecoder()


@dataclass(frozen=True, slots=True)
class OpenAICompletions:
    """POST /v1/completions; the options are those of OpenAIChat."""

    model: str
    temperature: float | None = None
    max_tokens_key: str = "max_tokens"

    @property
    def name(self) -> str:
        return "openai-completions"

    @property
    def ends(self) -> EndMarks:
        return ends.OPENAI

    def encode(self, job: Job) -> tuple[str, bytes]:
        head = {"model": self.model, "prompt": job.prompt}
        return "/v1/completions", orjson.dumps(head | _options(job, self.max_tokens_key, self.temperature))

    def decoder(self) -> OpenAIDecoder:
        return OpenAIDecoder()


def _options(job: Job, max_tokens_key: str, temperature: float | None) -> dict[str, Any]:
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
    if job.output_tokens is not None:
        options[max_tokens_key] = job.output_tokens
    if temperature is not None:
        options["temperature"] = temperature
    return options


class OpenAIRows:
    """Takes the chunks of chat and completions, and a whole answer, from servers that ignore `stream`."""

    __slots__ = ("_answer", "_before", "_first", "_index", "_last", "_usage")

    def __init__(self, answer: Decoded) -> None:
        self._answer = answer
        self._first: dict[str, Any] | None = None
        self._last: dict[str, Any] = {}
        self._index: int | str | None = None  # of the last choice
        self._usage = Usage()
        self._before = 0  # events before the last chunk that was like none before

    def takes(self, row: dict[str, Any]) -> bool:
        if isinstance(row.get("choices"), list | dict):
            return True
        kind = row.get("object")
        return isinstance(kind, str) and kind.startswith(("chat.completion", "text_completion"))

    def take(self, row: dict[str, Any]) -> bool:
        if self._first is None:
            self._first = row
        self._last = row
        events = self._answer.events
        self._before = before = len(events.texts)
        alike = True
        choices = row.get("choices")
        if isinstance(choices, dict):
            choices = [choices]
        if choices and isinstance(choices, list):
            for position, choice in enumerate(choices):
                if isinstance(choice, dict):
                    alike = self._choice(choice, position) and alike
        self._numbers(row)
        if (said := server_errors.in_row(row)) is not None:
            self._answer.fail(said)
        elif self._answer.kind == b"error":
            self._answer.fail(server_errors.sentence(row))
        ending = self._answer.ending
        return alike and len(events.texts) == before + 1 and not (ending.done or ending.server or ending.error)

    def _choice(self, choice: dict[str, Any], position: int) -> bool:
        """Take one choice; return whether it is a piece of a stream."""
        answer = self._answer
        index = choice.get("index", position)
        if index != self._index and isinstance(index, int | str):
            if self._index is not None:
                answer.doubt("the answer has more than one choice, and one was asked for: all are counted")
            self._index = index
        odd: list[str] = []
        delta = choice.get("delta")
        piece = delta is not None
        if delta is None:
            delta = choice.get("message")  # a whole answer, not streamed
        if isinstance(delta, dict):
            texts = in_message(delta, odd)
        else:
            texts = in_value(choice.get("text") if delta is None else delta)
            piece = True
        if not piece and len(answer.events) > 1 and texts[0] and texts[0] == answer.events.answer:
            answer.note("the last chunk repeats the whole answer: counted once")
        else:
            answer.add(texts)
        if odd:
            answer.note(*odd)
        self._finish(choice)
        return piece

    def _finish(self, choice: dict[str, Any]) -> None:
        answer, value = self._answer, choice.get("finish_reason")
        if error := choice.get("error"):
            answer.fail(server_errors.sentence(error))
        if usage := choice.get("usage"):
            self._take_usage(usage)
        if value is None or (name := ends.reason(value)) is None:
            return
        answer.finish(name, value)

    def _numbers(self, row: dict[str, Any]) -> None:
        """Take usage from wherever it is sent: the row, or an object of the row's, such as x_groq; and timings."""
        if usage := row.get("usage"):
            self._take_usage(usage)
        for name, value in row.items():
            if type(value) is dict and name != "usage" and (usage := value.get("usage")):
                self._take_usage(usage)
        if isinstance(timings := row.get("timings"), dict):
            self._answer.ending.server["timings"] = timings

    def _take_usage(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            return
        odd: list[str] = []
        doubts: list[str] = []
        if self._usage.take(usage, odd, doubts):
            self._answer.ending.server["usage"] = usage
        if odd or doubts:
            self._answer.note(*odd)
            self._answer.doubt(*doubts)

    def close(self) -> None:
        answer, ending = self._answer, self._answer.ending
        if self._first is None:
            return
        odd: list[str] = []
        doubts: list[str] = []
        for name, said in ending.server.items():
            if isinstance(said, dict):
                ending.server[name] = kept(said, name, odd)
        if self._usage.output is not None:
            output = self._usage.settle(odd, doubts)
            answer.count(self._usage.prompt, output, self._usage.reasoning)
        elif not self._count_from_timings() and self._usage.prompt:
            ending.prompt_tokens = self._usage.prompt
        answer.note(*odd)
        answer.doubt(*doubts)
        if not ending.done:
            ending.hint = self._silence() or ending.hint

    def _count_from_timings(self) -> bool:
        """Take llama.cpp's own counts where `usage` was not sent: predicted_n; prompt_n without the cached cache_n."""
        timings = self._answer.ending.server.get("timings", {})
        odd: list[str] = []
        predicted, prompt, cached = (
            number(timings.get(name), name, odd, MOST_TOKENS) for name in ("predicted_n", "prompt_n", "cache_n")
        )
        self._answer.note(*odd)
        if predicted is None:
            return False
        self._answer.count(None if prompt is None else prompt + (cached or 0), predicted)
        return True

    def _silence(self) -> str | None:
        """Say why a stream may have ended without a finish_reason."""
        first, last = self._first or {}, self._last
        if first.get("model") and last.get("model") == "" and len(self._answer.events) == self._before:
            return ENGINE_DIED
        return server_errors.repeated(self._answer.events.texts) or (NO_FINISH if self._answer.marked else None)


class OpenAIDecoder(StreamDecoder):
    """Decodes what is asked for at /v1, an event stream as a rule."""

    __slots__ = ("_hidden", "_mould")

    def __init__(self) -> None:
        answer = Decoded()
        self._mould = NO_MOULD
        self._hidden: set[int] | None = None  # where the events of the mould belong, if they are hidden
        super().__init__(answer, OpenAIRows(answer))

    def other(self) -> Rows:
        from loadtest.dialects.ollama import OllamaRows  # each reads the other's rows

        return OllamaRows(self._answer, chat=True)

    def forget(self) -> None:
        self._mould = NO_MOULD

    def feed(self, data: bytes) -> None:
        answer, texts, ends_at = self._answer, self.events.texts, self.events.ends
        (before, after), hidden = self._mould, self._hidden
        end, skip, least = answer.end, len(before), len(after)
        idle = not (self._held or answer.kind)
        for line in self.lines(data):
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
            if self.line(line) and (sides := mould(line, texts[-1])) is not None:
                self._mould = sides
                self._hidden = self.events.hidden if len(texts) - 1 in self.events.hidden else None
            (before, after), hidden = self._mould, self._hidden
            skip, least = len(before), len(after)
            idle = not (self._held or answer.kind)
            if answer.over:
                return
        answer.end = end
