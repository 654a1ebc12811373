"""The OpenAI wire as vLLM, llama.cpp, transformers, Ollama's /v1 and others speak it: server-sent events of JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from loadtest.measure.dialects.base import Ending, EndMarks, Events
from loadtest.measure.dialects.faults import MID_LINE, repeated, sentence, shorten, undecodable
from loadtest.measure.dialects.framing import Lines, Mould, tool_text
from loadtest.measure.workload import Job

ENGINE_DIED = "the last chunk names no model and holds no text: the engine died (Ollama's /v1 loses the error itself)"
NO_FINISH = "the server said [DONE] without a finish_reason"


ENDS = EndMarks()


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
        return ENDS

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
        return ENDS

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


_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")


class OpenAIDecoder:
    """Decodes the event stream of chat and completions; also a whole JSON answer, from servers that ignore `stream`.

    A data line that is a JSON object by itself is taken at once, without waiting for the blank line after it, which
    may come in a later read; any other is held until that blank line, joined with its neighbours as the standard says.
    """

    __slots__ = (
        "_end",
        "_ending",
        "_first",
        "_held",
        "_kind",
        "_last",
        "_lines",
        "_marked",
        "_mould",
        "_stray",
        "_text",
        "events",
    )

    def __init__(self) -> None:
        self.events = Events()
        self._lines = Lines()
        self._mould = Mould()
        self._end = 0  # offset in the body behind the line at hand
        self._held: list[bytes] = []  # data lines of an event not yet whole
        self._stray: list[bytes] = []  # lines that are no event stream
        self._kind = b""  # the event's name, where it has one
        self._first: dict[str, Any] | None = None
        self._last: dict[str, Any] = {}
        self._text = False  # whether the last chunk held any
        self._marked = False  # [DONE] was seen
        self._ending = Ending()

    def feed(self, data: bytes) -> None:
        for line in self._lines.feed(data):
            self._end += len(line) + 1
            if self._held or self._kind:
                self._line(line)
            elif not line:
                pass  # most blank lines end an event that was taken already
            elif (text := self._mould.text_of(line)) is not None:
                self._text = True
                self.events.texts.append(text)
                self.events.ends.append(self._end)
            else:
                before = len(self.events)
                self._line(line)
                if len(self.events) == before + 1:
                    self._shape(line)

    def close(self) -> Ending:
        ending = self._ending
        rest = self._lines.rest()
        self._end += len(rest)
        if rest.startswith(_FIELDS):
            self._line(rest)
        elif rest and any(field.startswith(rest) for field in _FIELDS):
            ending.hint = MID_LINE
        elif rest.strip():
            self._stray.append(rest)
        if self._held and not self._end_event():
            ending.hint = MID_LINE
        if self._first is None and self._stray:
            self._whole(b"\n".join(self._stray))
        if ending.output_tokens is None:
            self._count_from_timings()
        ending.hint = None if ending.done else self._silence() or ending.hint
        return ending

    def _shape(self, line: bytes) -> None:
        """Shape the mould by a line with one event, if that is answer text and nothing else was said so far."""
        ending, last = self._ending, len(self.events) - 1
        if not (ending.done or ending.server or ending.error or last in self.events.hidden):
            self._mould.shape(line, self.events.texts[last])

    def _line(self, line: bytes) -> None:
        if line.endswith(b"\r"):
            line = line[:-1]
        if line.startswith(b"data:"):
            self._data(line[5:])
        elif not line:
            if self._held and not self._end_event():
                self._fail(undecodable(b"\n".join(self._held)))
            self._held.clear()
            self._kind = b""
        elif line.startswith(b"event:"):
            self._kind = line[6:].strip()
        elif line.startswith(b"\xef\xbb\xbf"):  # a byte order mark, allowed at the very start
            self._line(line[3:])
        elif not line.startswith(_FIELDS) and self._first is None:
            self._stray.append(line)

    def _data(self, data: bytes) -> None:
        if not self._held:
            try:
                row = orjson.loads(data)
            except orjson.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                self._row(row)
                return
            if data.strip() == b"[DONE]":
                self._marked = True
                return
        self._held.append(data)

    def _end_event(self) -> bool:
        """Decode the held data lines as one event; return whether that is possible."""
        data = b"\n".join(self._held)
        try:
            row = orjson.loads(data)
        except orjson.JSONDecodeError:
            return not data.strip()
        if isinstance(row, dict):
            self._row(row)
        return isinstance(row, dict)

    def _whole(self, body: bytes) -> None:
        """Take a body that is no event stream: a JSON answer or error, or somebody else's page."""
        try:
            row = orjson.loads(body)
        except orjson.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            self._row(row)
        elif body.lstrip().startswith(b"{"):
            self._ending.hint = MID_LINE
        else:
            begin = shorten(body[:200].decode(errors="replace"), 80)
            self._fail(f"the answer is not an event stream: it begins with {begin!r}")

    def _fail(self, why: str) -> None:
        if self._ending.error is None:  # the first one is the cause, the rest follow from it
            self._ending.error = why

    def _row(self, row: dict[str, Any]) -> None:
        if self._first is None:
            self._first = row
        self._last = row
        before = len(self.events)
        choices = row.get("choices")
        if choices and isinstance(choices, list):
            for choice in choices:
                if isinstance(choice, dict):
                    self._choice(choice)
        self._text = len(self.events) > before
        if usage := row.get("usage"):
            self._usage(usage)
        if isinstance(timings := row.get("timings"), dict):
            self._ending.server["timings"] = timings
        if error := row.get("error"):
            self._fail(sentence(error))
        elif self._kind == b"error" or row.get("object") == "error":
            self._fail(sentence(row))

    def _choice(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta")
        if delta is None:
            delta = choice.get("message")  # a whole answer, not streamed
        if isinstance(delta, dict):
            text = delta.get("content")
            if len(delta) > 1 or not text:
                self._unseen(delta)
        else:
            text = choice.get("text")
        if text and isinstance(text, str):
            self.events.add(text, self._end)
        reason = choice.get("finish_reason")
        if reason and isinstance(reason, str):
            self._ending.done = True
            self._ending.finish_reason = reason

    def _unseen(self, delta: dict[str, Any]) -> None:
        """Add what a user does not see as answer text: reasoning, under any of its names, and tool calls."""
        for key in ("reasoning_content", "reasoning", "thinking"):
            text = delta.get(key)
            if text and isinstance(text, str):
                self.events.add(text, self._end, hidden=True)
                break  # some servers send the same text under two names
        if calls := delta.get("tool_calls"):
            self.events.add(tool_text(calls), self._end, hidden=True)

    def _usage(self, usage: Any) -> None:
        """Keep the last usage that says anything: Ollama's completions carry a zero one on every chunk."""
        if not isinstance(usage, dict):
            return
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if prompt or output:
            self._ending.server["usage"] = usage
            self._ending.prompt_tokens = prompt if isinstance(prompt, int) else None
            self._ending.output_tokens = output if isinstance(output, int) else None

    def _count_from_timings(self) -> None:
        """Take llama.cpp's own counts where `usage` was not sent: predicted_n; prompt_n without the cached cache_n."""
        timings = self._ending.server.get("timings", {})
        if isinstance(predicted := timings.get("predicted_n"), int):
            self._ending.output_tokens = predicted
            prompt, cached = timings.get("prompt_n"), timings.get("cache_n", 0)
            if isinstance(prompt, int) and isinstance(cached, int):
                self._ending.prompt_tokens = prompt + cached

    def _silence(self) -> str | None:
        """Say why a stream may have ended without a finish_reason."""
        if self._first is not None and self._first.get("model") and self._last.get("model") == "" and not self._text:
            return ENGINE_DIED
        return repeated(self.events.texts) or (NO_FINISH if self._marked else None)
