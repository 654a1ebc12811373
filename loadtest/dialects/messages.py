"""Anthropic's /v1/messages, as Anthropic, llama.cpp and Ollama speak it: an event stream of content blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from loadtest import credentials, metrics
from loadtest.dialects.answers.decoded import Decoded, as_name
from loadtest.dialects.answers.ends import end_said_by, event_named, reason_name, row_of_line
from loadtest.dialects.answers.errors import server_errors
from loadtest.dialects.answers.rows.counts import BEDROCK, MOST_TOKENS, known_number
from loadtest.dialects.answers.rows.named_events import NamedEventsDecoder, kind_of
from loadtest.dialects.answers.rows.text_shapes import NO_TEXTS, Texts, in_message, in_value, tool_text
from loadtest.dialects.base import Dialect, End, EndMarks, Said, field_named
from loadtest.dialects.content_parts import has_parts, image_in, said_by
from loadtest.metrics import ServerSaid
from loadtest.workloads.job import Job

VERSION = "2023-06-01"  # of the API; without it Anthropic refuses every request
MOST_OUTPUT = 4096  # tokens, asked for where no answer length is: the API wants one
THINKING: dict[
    str, dict[str, Any]
] = {  # the API knows no efforts, and wants room for thoughts within the answer's length
    "on": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "off": {"thinking": {"type": "disabled"}},
}
REASONS = {  # in the words of the other formats
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "stop",
    "refusal": "content_filter",
}
NO_STOP_REASON = "the server said message_stop without a stop_reason"
BEGUN_TWICE = "the answer begins a second time behind text: a gateway asked again, and its figures are of both"
_KINDS = ("message_", "content_block_", "ping")
_OTHER_NAMES = {  # that gateways leave as they were, and Bedrock's
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
}
_PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")  # together they are the prompt


def end_of(line: bytes) -> End | None:
    """Say what one line of an answer says of its end."""
    row = row_of_line(line)
    if row is not None:
        kind, delta = kind_of(row), row.get("delta")
        if kind == "message_stop":
            return End.MARK
        if kind == "message_delta" and isinstance(delta, dict) and reason_name(delta.get("stop_reason")):
            return End.FINISH
    return End.FINISH if event_named(line) == "message_stop" else end_said_by(line)  # its data may have no type


@dataclass(frozen=True, slots=True)
class AnthropicMessages(Dialect):
    """POST /v1/messages; the base URL is the one without /v1."""

    name: ClassVar[str] = "anthropic-messages"
    api: ClassVar[str] = "anthropic"
    endpoint: ClassVar[str] = "messages"
    path: ClassVar[str] = "/v1/messages"
    ends: ClassVar[EndMarks] = EndMarks((b"message_stop", b"stop_reason", b"DONE", b'_reason":"', b"error"), end_of)
    says: ClassVar[Mapping[str, Said]] = {
        "temperature": field_named("temperature"),
        "top_p": field_named("top_p"),
        "top_k": field_named("top_k"),
        "stop": field_named("stop_sequences"),
        "think": lambda value, _: THINKING.get(value),
    }

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:
        return {"max_tokens": output_tokens or MOST_OUTPUT, "stream": True}

    def said(self, job: Job) -> dict[str, Any]:
        if job.encoded is not None and not has_parts(job):
            said = {"messages": job.encoded.others}
            return said | ({"system": job.encoded.system} if job.encoded.system else {})
        system, messages = _system_apart(job.conversation)
        return {"messages": messages} | ({"system": system} if system else {})

    def decoder(self) -> NamedEventsDecoder:
        answer = Decoded()
        return NamedEventsDecoder(answer, MessagesRows(answer), (b"message_", b"content_block_", b"ping"))

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
            system.append("".join(in_value(message.get("content"))))
        else:
            others.append(said_by(message, _part))
    return "\n".join(system), others


def _part(part: Mapping[str, Any], _: str) -> Mapping[str, Any] | None:
    """Return a part of a message of chat completions as /v1/messages takes it; None for one that it may know, as text."""
    if (image := image_in(part)) is None:
        return None
    if image.inline is None:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    media_type, data = image.inline
    return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}


class MessagesRows:
    """Takes the events of a message, and a whole one, from servers that ignore `stream`."""

    __slots__ = ("_answer", "_counts", "_seen")

    def __init__(self, answer: Decoded) -> None:
        self._answer = answer
        self._counts: dict[str, int] = {}
        self._seen = False

    def takes(self, row: dict[str, Any]) -> bool:
        kind = kind_of(row)
        return kind == "message" or kind.startswith(_KINDS) or (row.get("role") == "assistant" and "stop_reason" in row)

    def take(self, row: dict[str, Any]) -> bool:
        answer, kind = self._answer, kind_of(row)
        if not kind and self.takes(row):
            kind = "message"
        self._seen = True
        before = len(answer.events.texts)
        odd: list[str] = []
        answer.add(_texts(row, kind, odd))
        answer.note(*odd)
        answer.take_error(row, server_errors.in_row(row))
        if kind == "message":
            answer.ending.model = as_name(row.get("model"))
            self._take_usage(row.get("usage"), final=True)
            self._stopped(row)
            answer.marked = answer.over = True
        elif kind == "message_start" and isinstance(message := row.get("message"), dict):
            answer.doubt(*[BEGUN_TWICE] * bool(before))
            answer.ending.model = as_name(message.get("model"))
            self._take_usage(message.get("usage"), final=False)
        elif kind == "message_delta":
            piece = row.get("delta")
            delta: dict[str, Any] = piece if isinstance(piece, dict) else {}
            self._take_usage(row.get("usage") or delta.get("usage"), final=True)
            self._stopped(row | delta)
        elif kind == "message_stop":
            inner = row.get("message")
            row = row | inner if isinstance(inner, dict) else row
            self._take_usage(row.get("usage") or row.get(BEDROCK), final=True)
            self._stopped(row)
            answer.marked = answer.over = True
        ending = answer.ending
        return kind == "content_block_delta" and len(answer.events.texts) == before + 1 and not ending.error

    def _stopped(self, said: dict[str, Any]) -> None:
        value = said.get("stop_reason")
        if (name := reason_name(value)) is not None:
            self._answer.finish(REASONS.get(name, name), value)

    def _take_usage(self, usage: Any, *, final: bool) -> None:
        """Take counts, each of which replaces an earlier one: message_start's of the prompt may be a guess (Ollama's is).

        Its count of the output is always one: nothing is written yet. A count of no tokens at all replaces none.
        """
        if not isinstance(usage, dict):
            return
        usage = {_OTHER_NAMES.get(name, name): count for name, count in usage.items()} | usage
        odd: list[str] = []
        names = (*_PROMPT, "output_tokens")
        found = {name: known_number(usage.get(name), name, odd, MOST_TOKENS) for name in names}
        is_void = not any(found[name] for name in _PROMPT) and any(self._counts.get(name) for name in _PROMPT)
        is_final = final and (bool(found["output_tokens"]) or not self._counts.get("output_tokens"))
        left_out = {*(_PROMPT if is_void else ()), *(() if is_final else ("output_tokens",))}
        self._counts |= {name: count for name, count in found.items() if count is not None and name not in left_out}
        server = self._answer.ending.server
        said = {key: value for key, value in usage.items() if value is not None and key not in left_out}
        server["usage"] = {**server.get("usage", {}), **said}
        self._answer.note(*odd)

    def close(self) -> None:
        answer, ending, counts = self._answer, self._answer.ending, self._counts
        if not self._seen:
            return
        known = [counts[name] for name in _PROMPT if name in counts]
        # details in OpenAI's words (DashScope) come with OpenAI's counts, of which cached tokens are a part
        together = max if "prompt_tokens_details" in ending.server.get("usage", {}) else sum
        prompt = min(together(known), MOST_TOKENS) if known else None
        if ending.done and "output_tokens" in counts:
            answer.count(prompt, counts["output_tokens"])
        else:
            ending.prompt_tokens = prompt or None
        if answer.marked:
            ending.hint = NO_STOP_REASON


def _texts(row: dict[str, Any], kind: str, odd: list[str]) -> Texts:
    """Return the text in one event: a piece of a block, what a block begins with, or the blocks of a whole message."""
    if kind == "content_block_delta" and isinstance(text := row.get("delta", row.get("text")), str | list):
        return in_value(text)
    if kind == "content_block_delta" and isinstance(delta := row.get("delta"), dict):
        text = delta.get("text")
        if delta.get("type", "text_delta") == "text_delta" and type(text) is str:  # nearly always
            return text, ""
        if delta.get("type") in ("signature_delta", "citations_delta"):
            return NO_TEXTS
        return in_value(delta) if str(delta.get("type")).startswith(_PIECES) else in_message(delta, odd)
    if kind == "content_block_start" and isinstance(block := row.get("content_block"), dict):
        return _in_block(block)
    if kind == "message_start" and isinstance(row.get("message"), dict):
        row = row["message"]
    content = row.get("content") if kind in ("message", "message_start") else None
    if isinstance(content, str):
        return content, ""
    if isinstance(content, list):
        found = [_in_block(block) for block in content if isinstance(block, dict)]
        return "".join(seen for seen, _ in found), "".join(hidden for _, hidden in found)
    return NO_TEXTS


_PIECES = ("text", "think", "input_json")


def _in_block(block: dict[str, Any]) -> Texts:
    if str(block.get("type")).endswith("tool_result"):
        return NO_TEXTS  # of a tool that the server ran: the model did not write it
    if block.get("name") and block.get("type") != "text":  # a call; its arguments are {} where they follow in pieces
        return "", tool_text([{"function": {"name": block["name"], "arguments": block.get("input")}}])
    return in_value(block)
