"""Answers byte for byte as Ollama writes them, the keys in its order: NDJSON for its own API, SSE for /v1, JSON for embeddings."""

from __future__ import annotations

import base64
import functools
import math
import random
import struct
import time
import zlib
from collections.abc import Sequence
from typing import Any

import orjson

from loadtest.simulate.api.request_bodies import GenerationRequest
from loadtest.simulate.model.stream import Stream

DIMENSIONS = 256  # of an embedding
KILLED_SENTENCE = "an error was encountered while running the model: unexpected EOF"


def created_at(wall_ns: int) -> bytes:
    """Return UTC as Go writes RFC3339Nano: up to nine decimals, trailing zeros cut."""
    second, fraction = divmod(wall_ns, 1_000_000_000)
    decimals = f".{fraction:09d}".rstrip("0") if fraction else ""
    return f"{_second_text(second)}{decimals}Z".encode()


@functools.lru_cache(maxsize=1)
def _second_text(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class AnswerFormat:
    """Makes one answer's bytes: `token` for each token with text, then `end`; or `whole` where it is not streamed.

    An answer is one stream's; one of embeddings has a stream for each input. The texts given to `token` are JSON-encoded
    already, to save time.
    """

    content_type = "text/event-stream"
    content_type_whole = "application/json"

    def __init__(self, request: GenerationRequest, _rng: random.Random) -> None:
        self._request = request

    def token(self, text: bytes, wall_ns: int, /) -> bytes:
        raise NotImplementedError

    def end(self, stream: Stream, wall_ns: int, total_ns: int, /) -> bytes:
        raise NotImplementedError

    def whole(self, text: str, streams: Sequence[Stream], wall_ns: int, total_ns: int, /) -> bytes:
        raise NotImplementedError

    def broken(self) -> bytes:
        """Return what a stream says whose engine died: nothing in most formats, where it just ends."""
        return b""


class OllamaFormat(AnswerFormat):
    """/api/chat and /api/generate."""

    content_type = "application/x-ndjson"
    content_type_whole = "application/json; charset=utf-8"

    def __init__(self, request: GenerationRequest, rng: random.Random) -> None:
        super().__init__(request, rng)
        self._chat = request.endpoint == "chat"
        self._start = b'{"model":%s,"created_at":"' % orjson.dumps(request.model)
        opening, closing = (b'"message":{"role":"assistant","content":', b"}") if self._chat else (b'"response":', b"")
        self._middle = b'",' + opening
        self._closing = closing
        self._rest = closing + b',"done":false}\n'

    def token(self, text: bytes, wall_ns: int) -> bytes:
        return b"".join((self._start, created_at(wall_ns), self._middle, text, self._rest))

    def end(self, stream: Stream, wall_ns: int, total_ns: int) -> bytes:
        return self._final(b'""', stream, wall_ns, total_ns) + b"\n"

    def whole(self, text: str, streams: Sequence[Stream], wall_ns: int, total_ns: int) -> bytes:
        return self._final(orjson.dumps(text), streams[0], wall_ns, total_ns)

    def broken(self) -> bytes:
        return orjson.dumps({"error": KILLED_SENTENCE}) + b"\n"

    def _final(self, text: bytes, stream: Stream, wall_ns: int, total_ns: int) -> bytes:
        start = b"".join((self._start, created_at(wall_ns), self._middle, text, self._closing))
        tail: dict[str, Any] = {"done": True, "done_reason": stream.reason}
        if stream.reason not in ("load", "unload"):
            if self._request.context:
                tail["context"] = _token_ids(self._request, stream)
            durations = {
                "total_duration": total_ns,
                "load_duration": stream.load_ns,
                "prompt_eval_count": stream.prompt_tokens,
                "prompt_eval_duration": stream.prefill_ns,
                "eval_count": stream.tokens,
                "eval_duration": stream.decode_ns,
            }
            tail |= {name: value for name, value in durations.items() if value}  # Go leaves zeros out
        return start + b"," + orjson.dumps(tail)[1:]


class OpenAIFormat(AnswerFormat):
    """/v1/chat/completions and /v1/completions as Ollama 0.24 writes them; `created` is whole seconds, ids not unique."""

    def __init__(self, request: GenerationRequest, rng: random.Random) -> None:
        super().__init__(request, rng)
        self._chat = request.endpoint == "v1-chat"
        self._id = f"{'chatcmpl' if self._chat else 'cmpl'}-{rng.randrange(999)}"
        self._second = 0
        self._before, self._after = b"", b""

    def token(self, text: bytes, wall_ns: int) -> bytes:
        second = wall_ns // 1_000_000_000
        if second != self._second:  # within a second only the text differs
            self._second = second
            event = orjson.dumps(self._event("\0", None, second))
            self._before, self._after = event.split(b'"\\u0000"')
        return b"".join((b"data: ", self._before, text, self._after, b"\n\n"))

    def end(self, stream: Stream, wall_ns: int, _total_ns: int) -> bytes:
        """Return the finish chunk, the usage chunk where asked for, and [DONE]."""
        second = wall_ns // 1_000_000_000
        events = [self._event("", stream.reason, second)]
        if self._request.usage:
            events.append(self._frame([], second, streamed=True) | {"usage": _usage(stream)})
        return b"".join(b"data: %s\n\n" % orjson.dumps(event) for event in events) + b"data: [DONE]\n\n"

    def whole(self, text: str, streams: Sequence[Stream], wall_ns: int, _total_ns: int) -> bytes:
        stream = streams[0]
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}}
        if not self._chat:
            choice = {"text": text, "index": 0}
        answer = self._frame([choice | {"finish_reason": stream.reason}], wall_ns // 1_000_000_000, streamed=False)
        return orjson.dumps(answer | {"usage": _usage(stream)}) + b"\n"

    def broken(self) -> bytes:
        """Return what /v1 sends when the engine has died: an empty chunk without a model, and not a word of the error."""
        event = self._event("", None, time.time_ns() // 1_000_000_000)
        event["model"] = ""
        return b"data: %s\n\n" % orjson.dumps(event)

    def _event(self, text: str, reason: str | None, second: int) -> dict[str, Any]:
        if self._chat:
            choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": reason}
            return self._frame([choice], second, streamed=True)
        event = self._frame([{"text": text, "index": 0, "finish_reason": reason}], second, streamed=True)
        if self._request.usage:  # a zero usage on every chunk but the last
            event["usage"] = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        return event

    def _frame(self, choices: list[dict[str, Any]], second: int, *, streamed: bool) -> dict[str, Any]:
        kind = "text_completion" if not self._chat else "chat.completion.chunk" if streamed else "chat.completion"
        head = {"id": self._id, "object": kind, "created": second}
        body, model = {"choices": choices}, {"model": self._request.model, "system_fingerprint": "fp_ollama"}
        return head | model | body if self._chat else head | body | model


class EmbeddingsFormat(AnswerFormat):
    """/api/embed and /v1/embeddings: nothing of them comes before the whole."""

    def __init__(self, request: GenerationRequest, rng: random.Random) -> None:
        super().__init__(request, rng)
        if request.endpoint == "embed":
            self.content_type_whole = "application/json; charset=utf-8"

    def whole(self, _text: str, streams: Sequence[Stream], _wall_ns: int, total_ns: int) -> bytes:
        tokens = sum(stream.prompt_tokens for stream in streams)
        vectors = [vector(one) for one in self._request.inputs]
        if self._request.endpoint == "embed":
            answer: dict[str, Any] = {"model": self._request.model, "embeddings": vectors}
            if vectors:
                loading = max(stream.load_ns for stream in streams)
                answer |= {"total_duration": total_ns, "load_duration": loading, "prompt_eval_count": tokens}
            return orjson.dumps(answer)
        data = [
            {"object": "embedding", "embedding": _packed(one) if self._request.packed else one, "index": i}
            for i, one in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data, "model": self._request.model, "usage": usage}) + b"\n"


@functools.lru_cache(maxsize=256)
def vector(text: str) -> tuple[float, ...]:
    """Return the made-up embedding of a text, of length one."""
    rng = random.Random(text)
    values = [rng.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = math.sqrt(sum(value * value for value in values))
    return tuple(round(value / length, 9) for value in values)


def _packed(values: Sequence[float]) -> str:
    """Return a vector as OpenAI's own client asks for it: floats of 32 bits in base64."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


def _usage(stream: Stream) -> dict[str, Any]:
    """Return the counts; the cached ones as llama.cpp's server says them, which Ollama 0.24 leaves out."""
    counts: dict[str, Any] = {
        "prompt_tokens": stream.prompt_tokens,
        "completion_tokens": stream.tokens,
        "total_tokens": stream.prompt_tokens + stream.tokens,
    }
    return counts | {"prompt_tokens_details": {"cached_tokens": stream.cached}} if stream.cached else counts


def _token_ids(request: GenerationRequest, stream: Stream) -> list[int]:
    """Return as many made-up token ids as prompt and answer have tokens; the same text always gives the same ids."""
    prompt = [zlib.crc32(piece.encode()) % 128_000 for piece in request.prompt[-stream.prompt_tokens :]]
    return prompt + [(7919 * index) % 128_000 for index in range(stream.tokens)]
