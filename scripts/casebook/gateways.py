"""Rows on what gateways and less known servers send: counts that are none, text in other places, frames in frames."""

from __future__ import annotations

from typing import Any

from book import rows
from support.odd_answers import OLLAMA, OPENAI, Wire, chunk, head, json, plain, streamed
from support.odd_server import Every, Script, Then, Wait

CHAT = ("openai-chat",)
NATIVE = ("ollama-chat",)
MESSAGES = ("anthropic-messages",)
TEXT = "t0 t1 t2 "
LIVES = "".join(f"w{i} " for i in range(40))
SOON = 1.2


def apart(*parts: bytes) -> Script:
    """Send parts 10 ms apart, so that no level is suspect for tokens that came together."""
    return streamed(*(step for part in parts for step in (part, Wait(0.01))))


def counted(wire: Wire, i: int, output: int, prompt: int = 20) -> bytes:
    return wire.line({**wire.row(f"t{i} "), "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


row = rows("counts of gateways")
row(
    "counts of single chunks",
    lambda w: apart(*(counted(w, i, 1, 0) for i in range(3)), w.finish(), w.mark),
    dialects=OPENAI,
    outcome="ok",
    source="chunks",
    output=3,
    level=("suspect", "void"),
    reasons="do not grow",
)
row(
    "counts before the text alone",
    lambda w: apart(w.usage({"prompt_tokens": 20, "completion_tokens": 1}), *w.tokens(), w.finish(), w.mark),
    dialects=OPENAI,
    outcome="ok",
    source="chunks",
    output=3,
    prompt=20,
)
row(
    "one token for forty words",
    lambda w: apart(*(w.token(f"word{i:03} ", at=i + 1) for i in range(40)), w.end(output=1)),
    outcome="ok",
    source="chunks",
    output=40,
    level=("suspect", "void"),
    reasons="fewer tokens",
)
for name, values in (
    ("milliseconds", {"eval_count": 3, "eval_duration": 60, "prompt_eval_duration": 35}),
    ("constants", dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 1)),
    ("zeros", dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 0)),
    ("longer than their whole", {"load_duration": 4 * 10**9, "total_duration": 10**9}),
):

    def slow(wire: Wire, n: int, values: dict[str, Any] = values) -> Script:
        return apart(*wire.tokens(), wire.end(**values))

    row(
        f"durations are {name}",
        slow,
        dialects=NATIVE,
        outcome="ok",
        output=3,
        queue_wait="unknown",
        load="unknown",
        prefill="unknown",
        level=("suspect", "void"),
        reasons="durations",
    )
row(
    "messages: one token before the text, none behind it",
    lambda w: apart(
        w.line({"type": "message_start", "message": {"usage": {"input_tokens": 20, "output_tokens": 1}}}),
        *w.tokens(),
        w.line({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        w.mark,
    ),
    dialects=MESSAGES,
    outcome="ok",
    source="chunks",
    output=3,
    prompt=20,
)
row(
    "an answer of forty tokens in one piece",
    lambda w: plain(w.token(LIVES) + w.end(output=40)),
    outcome="ok",
    output=40,
    chunks=1,
    level=("suspect", "void"),
    reasons="one piece",
)
row(
    "an answer that is no stream",
    lambda w: json(
        {
            "id": "x",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": LIVES}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 40},
        }
    ),
    dialects=CHAT,
    outcome="ok",
    text=LIVES,
    output=40,
    level=("suspect", "void"),
    reasons="one piece",
)

row = rows("who answered")
for header in (b"X-Cache: HIT", b"Age: 31", b"X-Varnish: 32770 3"):
    row(
        f"out of a cache: {header.decode()}",
        lambda w, n, header=header: streamed(*(s for part in w.whole() for s in (part, Wait(0.01))), headers=[header]),
        outcome="ok",
        text=TEXT,
        doubts="a cache on the way answered",
        level=("suspect", "void"),
        reasons="a cache on the way answered",
    )
row(
    "of two models in turn",
    lambda w, n: apart(*(part.replace(b'"model":"m"', b'"model":"m%d"' % (n % 2)) for part in w.whole())),
    dialects=CHAT,
    outcome="ok",
    level=("suspect", "void"),
    reasons="answers name 2 models",
)

row = rows("frames of gateways")
row(
    "comments framed as data",
    lambda w: streamed(*(part for one in w.tokens() for part in (b"data: : PROCESSING\n\n", one)), w.end()),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
    odd=None,
)
row(
    "events framed twice",
    lambda w: streamed(*(b"data: " + part.replace(b"\n\ndata:", b"\n\ndata: data:") for part in w.whole())),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
)
row(
    "chunks framed twice",
    lambda w: streamed(*(chunk(part) for part in w.whole()), chunk(b"") or b"0\r\n\r\n"),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
)
row(
    "a list of rows in an event",
    lambda w: streamed(w.raw(b"[" + b",".join(part[6:].strip() for part in w.tokens()) + b"]"), w.end()),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
)
row(
    "an error of nothing with every piece",
    lambda w: streamed(
        *(w.line({**w.row(f"t{i} "), "error": {"message": "", "type": "", "code": None}}) for i in range(3)), w.end()
    ),
    dialects=(*OLLAMA, *OPENAI),
    outcome="ok",
    text=TEXT,
)
for coding in (b"none", b"utf-8", b"gzip"):
    row(
        f"says that its coding is {coding.decode()}, and it is plain",
        lambda w, n, coding=coding: streamed(*w.whole(), headers=[b"Content-Encoding: " + coding]),
        outcome="ok",
        text=TEXT,
        output=3,
    )

row = rows("signs of life")
PING = chunk(b'event: ping\ndata: {"type":"ping"}\n\n')
row(
    "pings with data after a token",
    lambda w: streamed(w.token("a"), Every(PING, 0.2), last=False),
    dialects=(*OPENAI, *MESSAGES),
    outcome="timeout",
    error="idle|still",
    within=3.5,
)
row(
    "empty pieces after a token",
    lambda w: streamed(w.token("a"), Every(chunk(w.token("")), 0.2), last=False),
    outcome="timeout",
    error="idle|still",
    within=3.5,
)
row(
    "pings with data after a finish_reason",
    lambda w: streamed(*w.tokens(), w.done(), Every(PING, 0.2), last=False),
    dialects=(*OPENAI, *MESSAGES),
    outcome="ok",
    text=TEXT,
    within=1.9,
)
row(
    "cut in text behind a finish_reason",
    lambda w: streamed(w.token("a"), w.finish(), w.token("b"), Then.RST, last=False),
    dialects=OPENAI,
    outcome="truncated",
    text="ab",
)
for how in (Then.RST, Then.FIN):
    row(
        f"cut behind an item, by {how.name}",
        lambda w, n, how=how: streamed(
            *w.tokens(), w.line({"type": "response.output_item.done", "item": {"type": "message"}}), how, last=False
        ),
        dialects=("openai-responses",),
        outcome="truncated",
        error="inside the (body|answer)|reset",
        text=TEXT,
    )
row(
    "no framing, closed in mid-text",
    lambda w: [head(b"Connection: close", chunked=False), *w.tokens(), Then.FIN],
    outcome="truncated",
    text=TEXT,
)

row = rows("HTTP of gateways")
BOTH = ("ollama-chat", "openai-chat")


def http(name: str, head_lines: bytes, body: Any, **must: Any) -> None:
    """Add an answer whose head is these lines and whose body `body` makes of a good one's parts."""
    row(
        name,
        lambda w, n: [head_lines + b"\r\n\r\n", *body(w.whole())],
        **{"dialects": BOTH, "outcome": "ok", "text": TEXT, "output": 3, **must},
    )


def chunked(parts: list[bytes], *, end: bytes = b"0\r\n\r\n") -> Script:
    return [*(chunk(part) for part in parts), end]


HEAD = b"HTTP/1.1 200 OK\r\n"
http("HTTP/1.0 and chunks", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked", chunked)
http("chunked said twice", HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", chunked, kept=True)
http("chunks and an empty length", HEAD + b"Transfer-Encoding: chunked\r\nContent-Length:", chunked)
http(
    "line feeds alone between chunks",
    HEAD + b"Transfer-Encoding: chunked",
    lambda parts: [*(b"%x\n%b\n" % (len(part), part) for part in parts), b"0\n\n"],
)
http(
    "sizes of chunks with zeros and blanks",
    HEAD + b"Transfer-Encoding: chunked",
    lambda parts: [*(b"000%X \r\n%b\r\n" % (len(part), part) for part in parts), b"000\r\n\r\n"],
)
http(
    "no line behind the last chunk",
    HEAD + b"Transfer-Encoding: chunked",
    lambda parts: [*chunked(parts, end=b"0\r\n"), Then.FIN],
)
http("many interim answers", b"HTTP/1.1 102 Processing\r\n\r\n" * 20 + HEAD + b"Transfer-Encoding: chunked", chunked)
http("a folded header", HEAD + b"X-Odd: a\r\n b\r\nTransfer-Encoding:\r\n chunked", chunked)
http("line breaks before the status", b"\r\n\r\n" + HEAD + b"Transfer-Encoding: chunked", chunked)
http("a lower case version and no reason", b"http/1.1 200\r\nTransfer-Encoding: chunked", chunked)
http(
    "a length that is too short",
    HEAD + b"Content-Length: 40",
    lambda parts: [b"".join(parts)],
    outcome="truncated",
    text=("", "t0 "),
    output=(0, 1),
)
http(
    "two lengths",
    HEAD + b"Content-Length: 5\r\nContent-Length: 6",
    lambda parts: [b"".join(parts)],
    outcome=("stream_error", "truncated"),
    error="two lengths",
    text=("", None),
    output=(None, 0),
)
row(
    "an error of TLS where HTTP is due",
    lambda w: [b"\x15\x03\x01\x00\x02\x02\x46", Wait(0.02), Then.FIN],
    dialects=BOTH,
    outcome=("truncated", "stream_error"),
    error="speaks https",
)
row(
    "a request timeout for an idle connection",
    lambda w, n: [*w.good(), b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n", Then.FIN],
    dialects=BOTH,
    outcome="ok",
    text=TEXT,
    kept=False,
)
row(
    "Retry-After as an instant",
    lambda w: plain(
        b"",
        b"Date: Wed, 21 Oct 2026 07:28:00 GMT",
        b"Retry-After: Wed, 21 Oct 2026 07:28:30 GMT",
        status=b"503 Service Unavailable",
    ),
    dialects=BOTH,
    outcome="http_error",
    error="after 30 s",
)
row(
    "an error in two names",
    lambda w: json({"statusCode": 400, "error": "Bad Request", "message": "body/model"}, status=b"400 Bad Request"),
    dialects=BOTH,
    outcome="http_error",
    error="Bad Request: body/model",
)
row(
    "an error of many lines between events",
    lambda w: streamed(*w.tokens(), b'{\n  "error": {\n    "code": 429,\n    "message": "quota is used up"\n  }\n}\n'),
    dialects=OPENAI,
    outcome="stream_error",
    error="quota is used up",
    text=TEXT,
)
