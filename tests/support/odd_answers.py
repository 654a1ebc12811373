"""What a server may send: the parts of an answer in each wire format that streams, and the HTTP around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from support.odd_server import Paths, Request, Script, Step, Wait

OLLAMA, OPENAI = ("ollama-chat", "ollama-generate"), ("openai-chat", "openai-completions")
NAMED = ("openai-responses", "anthropic-messages")  # streams of named events
CLASSIC = OLLAMA + OPENAI
DIALECTS = CLASSIC + NAMED
CHATS = ("ollama-chat", "openai-chat")
MODEL = "m"
STAMP = "2026-01-01T00:00:00.%09dZ"
LAST = b"0\r\n\r\n"
MARK = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Wire:
    """One wire format, as a server speaks it."""

    dialect: str

    @property
    def api(self) -> str:
        return self.dialect.partition("-")[0]

    @property
    def endpoint(self) -> str:
        return self.dialect.partition("-")[2]

    @property
    def is_ollama(self) -> bool:
        return self.api == "ollama"

    @property
    def path(self) -> str:
        """Where its requests go."""
        return {
            "ollama-chat": "/api/chat",
            "ollama-generate": "/api/generate",
            "openai-chat": "/v1/chat/completions",
            "openai-completions": "/v1/completions",
            "openai-responses": "/v1/responses",
            "anthropic-messages": "/v1/messages",
        }[self.dialect]

    @property
    def is_named(self) -> bool:
        return self.dialect in NAMED

    def line(self, row: Any) -> bytes:
        """Frame one event: a line of JSON, or a server-sent event."""
        name = (
            b"event: %b\n" % row["type"].encode() if self.is_named and isinstance(row, dict) and "type" in row else b""
        )
        return name + self.raw(row if isinstance(row, bytes) else orjson.dumps(row))

    def raw(self, text: bytes) -> bytes:
        return text + b"\n" if self.is_ollama else b"data: " + text + b"\n\n"

    def row(self, content: Any, *, at: int = 0, **beside: Any) -> dict[str, Any]:
        """Return one event with this content; `beside` lies in the message, the delta, the choice or the row."""
        if self.is_ollama:
            head = {"model": MODEL, "created_at": STAMP % (at or 1), "done": False}
            if self.endpoint == "chat":
                return {**head, "message": {"role": "assistant", "content": content, **beside}}
            return {**head, "response": content, **beside}
        if self.endpoint == "responses":
            place = {"item_id": "x", "output_index": 0, "content_index": 0, "sequence_number": at}
            return {"type": "response.output_text.delta", **place, "delta": content, **beside}
        if self.endpoint == "messages":
            delta = {"type": "text_delta", "text": content, **beside}
            return {"type": "content_block_delta", "index": 0, "delta": delta}
        head = {"id": "x", "created": 1, "model": MODEL}
        if self.endpoint == "chat":
            choice = {"index": 0, "delta": {"content": content, **beside}, "finish_reason": None}
            return {**head, "object": "chat.completion.chunk", "choices": [choice]}
        choice = {"index": 0, "text": content, "finish_reason": None, **beside}
        return {**head, "object": "text_completion", "choices": [choice]}

    def token(self, content: Any, *, at: int = 0, **beside: Any) -> bytes:
        return self.line(self.row(content, at=at, **beside))

    def tokens(self, count: int = 3) -> list[bytes]:
        """Return events with the text "t0 t1 t2 …"."""
        return [self.token(f"t{i} ", at=i + 1) for i in range(count)]

    def done(self, *, reason: str | None = "stop", output: Any = 3, prompt: Any = 20, **beside: Any) -> bytes:
        """Return what closes a good answer, but for the mark: durations, counts, the reason."""
        if self.is_named:
            return self._named_done(reason, {"input_tokens": prompt, "output_tokens": output, **beside})
        if not self.is_ollama:
            usage = {"prompt_tokens": prompt, "completion_tokens": output}
            if type(output) is int and type(prompt) is int and 0 <= output < 2**60:
                usage["total_tokens"] = prompt + output
            return self.finish(reason) + self.usage({**usage, **beside})
        row = self.row("", at=9)
        row |= {
            "done": True,
            "total_duration": 9_000_000,
            "load_duration": 1_000_000,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": 2_000_000,
            "eval_count": output,
            "eval_duration": 3_000_000,
            **({"done_reason": reason} if reason is not None else {}),
        }
        row |= beside
        return self.line({key: value for key, value in row.items() if value is not ...})

    def _named_done(self, reason: str | None, usage: dict[str, Any]) -> bytes:
        usage = {key: value for key, value in usage.items() if value is not ...}
        if self.endpoint == "messages":
            said = {"stop": "end_turn", "length": "max_tokens"}.get(reason or "", reason)
            return self.line({"type": "message_delta", "delta": {"stop_reason": said}, "usage": usage})
        status = {"stop": "completed", None: None}.get(reason, "incomplete")
        details = {"reason": "max_output_tokens" if reason == "length" else reason} if status == "incomplete" else None
        response = {"object": "response", "status": status, "incomplete_details": details, "usage": usage}
        return self.line({"type": f"response.{status or 'completed'}", "response": response})

    def finish(self, reason: str | None = "stop", **beside: Any) -> bytes:
        """OpenAI only: the chunk with the finish_reason."""
        row = self.row("")
        row["choices"][0] |= {"finish_reason": reason}
        if self.endpoint == "chat":
            row["choices"][0]["delta"] = {}
        return self.line({**row, **beside})

    def usage(self, usage: Any, **beside: Any) -> bytes:
        """OpenAI only: the chunk with the counts."""
        return self.line({"id": "x", "model": MODEL, "choices": [], "usage": usage, **beside})

    @property
    def mark(self) -> bytes:
        """What says that nothing follows; Ollama's is the line with done:true itself, a response's the whole response."""
        if self.endpoint == "messages":
            return self.line({"type": "message_stop"})
        return b"" if self.is_ollama or self.endpoint == "responses" else MARK

    def end(self, **how: Any) -> bytes:
        return self.done(**how) + self.mark

    def whole(self, count: int = 3, **how: Any) -> list[bytes]:
        """Return the parts of a good answer."""
        return [*self.tokens(count), self.end(output=how.pop("output", count), **how)]

    def good(self, count: int = 3) -> Script:
        """Return a good answer, its parts 5 ms apart: what comes all at once has no figures worth the name."""
        return streamed(*[step for part in self.whole(count) for step in (part, Wait(0.005))][:-1])

    def error_row(self, message: str = "the engine fell over") -> dict[str, Any]:
        """Return an error as this server would send it inside a stream."""
        if self.endpoint == "responses":
            return {"type": "error", "code": "server_error", "message": message, "param": None}
        error = {"message": message, "code": 500}
        if self.endpoint == "messages":
            return {"type": "error", "error": {"type": "api_error", **error}}
        return {"error": message} if self.is_ollama else {"error": error}


WIRES = {dialect: Wire(dialect) for dialect in DIALECTS}


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body) if body else b""


def head(*headers: bytes, status: bytes = b"200 OK", chunked: bool = True) -> bytes:
    lines = [b"HTTP/1.1 " + status, *headers]
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    return b"\r\n".join(lines) + b"\r\n\r\n"


def streamed(*parts: Step, status: bytes = b"200 OK", headers: Sequence[bytes] = (), last: bool = True) -> list[Step]:
    """Return a chunked answer with a chunk of each part that is bytes; `last`: the framing's end too."""
    kind = () if any(line.lower().startswith(b"content-type") for line in headers) else (b"Content-Type: text/plain",)
    body = [chunk(part) if isinstance(part, bytes) else part for part in parts]
    return [head(*kind, *headers, status=status), *body, *([LAST] if last else [])]


def plain(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> list[Step]:
    """Return an answer with Content-Length."""
    return [head(b"Content-Length: %d" % len(body), *headers, status=status, chunked=False) + body]


def json(row: Any, *headers: bytes, status: bytes = b"200 OK") -> list[Step]:
    body = row if isinstance(row, bytes) else orjson.dumps(row)
    return plain(body, b"Content-Type: application/json", *headers, status=status)


OLLAMA_ROW = {"name": MODEL, "model": MODEL, "size": 1000, "details": {"parameter_size": "1B"}}
OLLAMA_CONTROL: Paths = {
    "/": plain(b"Ollama is running"),
    "/api/version": json({"version": "0.24.0"}),
    "/api/tags": json({"models": [OLLAMA_ROW]}),
    "/api/ps": json({"models": [{**OLLAMA_ROW, "context_length": 4096, "size_vram": 1000}]}),
    "/api/show": json({"details": {}, "model_info": {"x.context_length": 8192}}),
    "/v1/models": json({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "library"}]}),
}
OPENAI_CONTROL: Paths = {
    "/v1/models": json({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "me"}]}),
}


def control(wire: Wire) -> Paths:
    """Return the control answers of a plain server of this format."""
    return OLLAMA_CONTROL if wire.is_ollama else OPENAI_CONTROL


def is_trial(request: Request) -> bool:
    """Whether a request is one of those that are sent before the clock, which ask for one token."""
    return request.most_tokens == 1


def good_answers(wire: Wire, count: int = 3) -> Paths:
    """Return a whole well-behaved server of this format."""
    answer = wire.good(count)
    return {**control(wire), wire.path: lambda request: wire.good(1) if is_trial(request) else answer}
