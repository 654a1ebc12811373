"""The events of /v1/messages, and its answers that are no stream, as text and counts."""

from __future__ import annotations

from typing import Any

from loadtest.dialects.answers.decoded import Decoded, Rows, as_name
from loadtest.dialects.answers.ends import kind_of, reason_name
from loadtest.dialects.answers.errors import error_rows
from loadtest.dialects.answers.rows.counts import BEDROCK, MOST_TOKENS, known_number, reasoning_in
from loadtest.dialects.answers.rows.text_shapes import NO_TEXTS, Texts, texts_in, texts_in_message, tool_text
from loadtest.dialects.base import Note

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
_KINDS = ("message_", "content_block_", "ping")
_OTHER_NAMES = {  # that gateways leave as they were, and Bedrock's
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "inputTokenCount": "input_tokens",
    "outputTokenCount": "output_tokens",
}
_PROMPT = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")  # together they are the prompt


class MessagesRows(Rows):
    """Takes the events of a message, and a whole one, from servers that ignore `stream`."""

    __slots__ = ("_counts",)

    def __init__(self, answer: Decoded) -> None:
        super().__init__(answer)
        self._counts: dict[str, int] = {}

    def knows(self, row: dict[str, Any]) -> bool:
        kind = kind_of(row)
        return kind == "message" or kind.startswith(_KINDS) or (row.get("role") == "assistant" and "stop_reason" in row)

    def take(self, row: dict[str, Any]) -> bool:
        answer, kind = self._answer, kind_of(row)
        if not kind and self.knows(row):
            kind = "message"
        before = len(answer.events.texts)
        if kind == "message_start":
            answer.begin(row.get("message"))
        answer.add(_texts(row, kind, answer.note))
        answer.take_error(row, error_rows.error_in_row(row))
        if kind in ("message", "message_stop"):
            inner = row.get("message")
            row = row | inner if isinstance(inner, dict) else row
            answer.ending.model = as_name(row.get("model")) or answer.ending.model
            self._take_usage(row.get("usage") or row.get(BEDROCK), final=True)
            self._stopped(row)
            answer.marked = answer.over = True
        elif kind == "message_start" and isinstance(message := row.get("message"), dict):
            answer.ending.model = as_name(message.get("model"))
            self._take_usage(message.get("usage"), final=False)
        elif kind == "message_delta":
            piece = row.get("delta")
            delta: dict[str, Any] = piece if isinstance(piece, dict) else {}
            self._take_usage(row.get("usage") or delta.get("usage"), final=True)
            self._stopped(row | delta)
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
        names = (*_PROMPT, "output_tokens")
        found = {name: known_number(usage.get(name), name, self._answer.note, MOST_TOKENS) for name in names}
        is_void = not any(found[name] for name in _PROMPT) and any(self._counts.get(name) for name in _PROMPT)
        is_final = final and (bool(found["output_tokens"]) or not self._counts.get("output_tokens"))
        left_out = {*(_PROMPT if is_void else ()), *(() if is_final else ("output_tokens",))}
        self._counts |= {name: count for name, count in found.items() if count is not None and name not in left_out}
        server = self._answer.ending.server
        said = {key: value for key, value in usage.items() if value is not None and key not in left_out}
        server["usage"] = {**server.get("usage", {}), **said}

    def close(self) -> None:
        answer, ending, counts = self._answer, self._answer.ending, self._counts
        known = [counts[name] for name in _PROMPT if name in counts]
        # details in OpenAI's words (DashScope) come with OpenAI's counts, of which cached tokens are a part
        together = max if "prompt_tokens_details" in ending.server.get("usage", {}) else sum
        prompt = min(together(known), MOST_TOKENS) if known else None
        if ending.done and "output_tokens" in counts:
            reasoning = reasoning_in(ending.server.get("usage", {}), answer.note)
            answer.count(prompt, counts["output_tokens"], reasoning)
        else:
            ending.prompt_tokens = prompt or None
        if answer.marked:
            ending.hint = NO_STOP_REASON


_PIECES = ("text", "think", "input_json")


def _texts(row: dict[str, Any], kind: str, note: Note) -> Texts:
    """Return the text in one event: a piece of a block, what a block begins with, or the blocks of a whole message."""
    if kind == "content_block_delta" and isinstance(text := row.get("delta", row.get("text")), str | list):
        return texts_in(text)
    if kind == "content_block_delta" and isinstance(delta := row.get("delta"), dict):
        text = delta.get("text")
        if delta.get("type", "text_delta") == "text_delta" and type(text) is str:  # nearly always
            return text, ""
        if delta.get("type") in ("signature_delta", "citations_delta"):
            return NO_TEXTS
        return texts_in(delta) if str(delta.get("type")).startswith(_PIECES) else texts_in_message(delta, note)
    if kind == "content_block_start" and isinstance(block := row.get("content_block"), dict):
        return _texts_in_block(block)
    if kind == "message_start" and isinstance(row.get("message"), dict):
        row = row["message"]
    content = row.get("content") if kind in ("message", "message_start") else None
    if isinstance(content, str):
        return content, ""
    if isinstance(content, list):
        found = [_texts_in_block(block) for block in content if isinstance(block, dict)]
        return "".join(seen for seen, _ in found), "".join(hidden for _, hidden in found)
    return NO_TEXTS


def _texts_in_block(block: dict[str, Any]) -> Texts:
    if str(block.get("type")).endswith("tool_result"):
        return NO_TEXTS  # of a tool that the server ran: the model did not write it
    if block.get("name") and block.get("type") != "text":  # a call; its arguments are {} where they follow in pieces
        return "", tool_text([{"function": {"name": block["name"], "arguments": block.get("input")}}])
    return texts_in(block)
