"""The recorded streams of tests/streams, replayed through the real wire and decoder into Records."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

from loadtest.dialects import (
    AnthropicMessages,
    Dialect,
    OllamaChat,
    OllamaEmbed,
    OllamaGenerate,
    OpenAIChat,
    OpenAICompletions,
    OpenAIEmbeddings,
    OpenAIResponses,
)
from loadtest.measure.request import Request
from loadtest.records import Clock, Record
from loadtest.workloads.job import Job
from support.places import STREAMS
from support.received import feed

EOF = "!EOF"
ANCHOR = Clock(monotonic_ns=1_000_000, wall_ns=0)  # not zero, so that a forgotten subtraction shows
MS = 1_000_000  # ns
T_SEND = 5_000_000
DONE = b'{"done":true,"done_reason":"stop"}\n'  # the end mark of Ollama's chat

DIALECTS: dict[str, Dialect] = {
    "/api/chat": OllamaChat("tiny"),
    "/api/generate": OllamaGenerate("tiny"),
    "/v1/chat/completions": OpenAIChat("tiny"),
    "/v1/completions": OpenAICompletions("tiny"),
    "/v1/responses": OpenAIResponses("tiny"),
    "/v1/messages": AnthropicMessages("tiny"),
    "/v1/embeddings": OpenAIEmbeddings("tiny"),
    "/api/embed": OllamaEmbed("tiny"),
}

Reads = list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Stream:
    """One connection as it was recorded; times in ns on the tests' monotonic clock."""

    name: str
    path: str
    answers: int
    reads: Reads
    t_eof: int

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.path]


@cache
def load(name: str) -> Stream:
    raw: dict[str, Any] = json.loads((STREAMS / f"{name}.json").read_text())
    timed = [(T_SEND + int(t) * 1000, data) for t, data in raw["reads"]]
    assert timed[-1][1] == EOF
    reads = [(t, data.encode("latin-1")) for t, data in timed[:-1]]
    return Stream(name, raw["path"], len(raw["bodies"]), reads, timed[-1][0])


def line(text: str) -> bytes:
    """Return a row of Ollama's chat with this text."""
    return b'{"message":{"role":"assistant","content":"%s"},"done":false}\n' % text.encode()


def at(*bodies: tuple[float, bytes]) -> Reads:
    """Return body pieces at ms after the request was sent."""
    return [(T_SEND + int(ms * MS), body) for ms, body in bodies]


def job() -> Job:
    return Job(id=3, level=1, seed=42, prompt="nonce 0 load test", input_tokens=16, output_tokens=12)


def request(dialect: Dialect, **how: Any) -> Request:
    """Return one that was due 1 ms before it was sent."""
    made = Request(job(), dialect, ANCHOR, T_SEND - 1_000_000, **how)
    made.received.t_send = T_SEND
    return made


def replay(dialect: Dialect, reads: Reads, t_eof: int | None, **how: Any) -> tuple[Record, Reads]:
    """Return the Record of the first answer in these reads, and the reads left over."""
    made = request(dialect, **how)
    left = feed(made.received, reads, t_eof)
    return made.finish(), left


def records(stream: Stream, **how: Any) -> list[Record]:
    """Return a Record per answer of a recorded connection."""
    out, reads = [], stream.reads
    for _ in range(stream.answers):
        record, reads = replay(stream.dialect, reads, stream.t_eof, **how)
        out.append(record)
    return out


def framed(bodies: Reads, *, status: str = "200 OK") -> Reads:
    """Return reads that carry these body pieces as a chunked answer, the end right behind the last one."""
    head = f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    out: Reads = []
    for i, (t, body) in enumerate(bodies):
        data = b"%x\r\n%s\r\n" % (len(body), body)
        out.append((t, (b"" if i else head) + data + (b"0\r\n\r\n" if i == len(bodies) - 1 else b"")))
    return out
