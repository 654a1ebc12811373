"""Answers of /v1/responses and /v1/messages byte for byte as Ollama writes them: named events, a chunk of HTTP each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import orjson

from loadtest.simulate.api.answer_formats import AnswerFormat
from loadtest.simulate.api.request_bodies import GenerationRequest
from loadtest.simulate.model.stream import Stream

SORTED = orjson.OPT_SORT_KEYS  # as Go writes a map


class ResponsesFormat(AnswerFormat):
    """/v1/responses."""

    def __init__(self, request: GenerationRequest, rng: random.Random) -> None:
        super().__init__(request, rng)
        self._id, self._item = f"resp_{rng.randrange(999_999)}", f"msg_{rng.randrange(999_999)}"
        self._number = 0
        self._texts: list[bytes] = []
        self._began = 0
        self._before = b'{"content_index":0,"delta":'
        self._after = b',"item_id":"%b","logprobs":[],"output_index":0,"sequence_number":' % self._item.encode()

    def token(self, text: bytes, wall_ns: int) -> bytes:
        begin = b"" if self._texts else self._start(wall_ns)
        self._texts.append(text[1:-1])
        kind = b"response.output_text.delta"
        number, self._number = self._number, self._number + 1
        line = b'event: %b\ndata: %b%b%b%d,"type":"%b"}\n\n'
        return begin + line % (kind, self._before, text, self._after, number, kind)

    def end(self, stream: Stream, wall_ns: int, _total_ns: int) -> bytes:
        begin = b"" if self._texts else self._start(wall_ns)
        text = orjson.loads(b'"%b"' % b"".join(self._texts))
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        part = {"annotations": [], "logprobs": [], "text": text, "type": "output_text"}
        item = self._message([part], "completed")
        response = self._response(wall_ns, "completed", [item], _usage(stream))
        return begin + b"".join(
            (
                self._event("response.output_text.done", {**place, "logprobs": [], "text": text}),
                self._event("response.content_part.done", {**place, "part": part}),
                self._event("response.output_item.done", {"item": item, "output_index": 0}),
                self._event("response.completed", {"response": response}),
            )
        )

    def whole(self, text: str, streams: Sequence[Stream], wall_ns: int, _total_ns: int) -> bytes:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        self._began = wall_ns // 1_000_000_000
        item = self._message([part], "completed")
        return orjson.dumps(self._response(wall_ns, "completed", [item], _usage(streams[0]))) + b"\n"

    def _start(self, wall_ns: int) -> bytes:
        self._began = wall_ns // 1_000_000_000
        empty = {"annotations": [], "logprobs": [], "text": "", "type": "output_text"}
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        response = self._response(wall_ns, "in_progress", [], None)
        return b"".join(
            (
                self._event("response.created", {"response": response}),
                self._event("response.in_progress", {"response": response}),
                self._event(
                    "response.output_item.added", {"item": self._message([], "in_progress"), "output_index": 0}
                ),
                self._event("response.content_part.added", {**place, "part": empty}),
            )
        )

    def _event(self, kind: str, fields: dict[str, Any]) -> bytes:
        row = orjson.dumps({**fields, "type": kind, "sequence_number": self._number}, option=SORTED)
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), row)

    def _message(self, parts: list[dict[str, Any]], status: str) -> dict[str, Any]:
        return {"content": parts, "id": self._item, "role": "assistant", "status": status, "type": "message"}

    def _response(
        self, wall_ns: int, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None
    ) -> dict[str, Any]:
        absent = (
            *("error", "incomplete_details", "instructions", "max_tool_calls", "previous_response_id"),
            *("prompt_cache_key", "reasoning", "safety_identifier"),
        )
        return {
            **dict.fromkeys(absent),
            "background": False,
            "completed_at": wall_ns // 1_000_000_000 if status == "completed" else None,
            "created_at": self._began,
            "frequency_penalty": 0,
            "id": self._id,
            "max_output_tokens": self._request.asked,
            "metadata": {},
            "model": self._request.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "presence_penalty": 0,
            "service_tier": "default",
            "status": status,
            "store": False,
            "temperature": 1,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_logprobs": 0,
            "top_p": 1,
            "truncation": "disabled",
            "usage": usage,
        }


def _usage(stream: Stream) -> dict[str, Any]:
    return {
        "input_tokens": stream.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": stream.tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": stream.prompt_tokens + stream.tokens,
    }


class MessagesFormat(AnswerFormat):
    """/v1/messages."""

    _BEFORE = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":'

    def __init__(self, request: GenerationRequest, rng: random.Random) -> None:
        super().__init__(request, rng)
        self._id = f"msg_{rng.getrandbits(96):024x}"
        self._begun = False

    def token(self, text: bytes, wall_ns: int) -> bytes:
        del wall_ns
        return b"".join((self._start(), self._BEFORE, text, b"}}\n\n"))

    def end(self, stream: Stream, _wall_ns: int, _total_ns: int) -> bytes:
        usage = {"input_tokens": stream.prompt_tokens, "output_tokens": stream.tokens}
        return self._start() + b"".join(
            _event(row)
            for row in (
                {"type": "content_block_stop", "index": 0},
                {"type": "message_delta", "delta": {"stop_reason": _stop_reason(stream)}, "usage": usage},
                {"type": "message_stop"},
            )
        )

    def whole(self, text: str, streams: Sequence[Stream], _wall_ns: int, _total_ns: int) -> bytes:
        stream = streams[0]
        usage = {"input_tokens": stream.prompt_tokens, "output_tokens": stream.tokens}
        answer = {"content": [{"type": "text", "text": text}], "stop_reason": _stop_reason(stream), "usage": usage}
        return orjson.dumps({**self._head(), **answer}) + b"\n"

    def _start(self) -> bytes:
        """Return what comes before the first token, with a guess of the prompt's tokens, as Ollama makes it."""
        if self._begun:
            return b""
        self._begun = True
        guess = {"input_tokens": max(len(self._request.opening) // 4, 1), "output_tokens": 0}
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        message = {**self._head(), "content": [], "usage": guess}
        return _event({"type": "message_start", "message": message}) + _event(block)

    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._request.model}


def _event(row: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (row["type"].encode(), orjson.dumps(row))


def _stop_reason(stream: Stream) -> str:
    return "max_tokens" if stream.reason == "length" else "end_turn"
