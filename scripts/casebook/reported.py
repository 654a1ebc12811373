"""Rows of public reports: the streams that tests/dialects decodes, replayed, and what goes on around them."""

from __future__ import annotations

import re
from typing import Any

from book import rows
from support import (
    reported_breaks,
    reported_deltas,
    reported_endpoints,
    reported_ends,
    reported_kinds,
    reported_places,
    reported_servers,
    reported_shapes,
    reported_streams,
    reported_usages,
    reported_words,
)
from support.odd_answers import NAMED, OLLAMA, OPENAI, chunk, head, json, plain, streamed
from support.odd_server import Every, Script, Then, Wait
from support.odd_streams import Stream

BOTH = ("ollama-chat", "openai-chat")
SAID = "slot unavailable"
TEXT = "t0 t1 t2 "
KNOWN = {"output", "prompt"}


def replayed(stream: Stream) -> Script:
    """Return a stream as a server sends it, an event or a line at a time."""
    parts = re.findall(r".*?(?:\n\n|\n(?=\{)|\Z)", stream.body, re.DOTALL)
    return streamed(*(part.encode() for part in parts if part))


def must_be(stream: Stream) -> dict[str, Any]:
    """Return what a stream's record must have."""
    outcome = "ok" if stream.done else "truncated" if stream.error is None else "stream_error"
    must: dict[str, Any] = {"outcome": outcome, "text": stream.seen}
    if stream.done and stream.output is not None:
        must |= {"source": "server", "output": stream.output, "prompt": stream.prompt}
    for key, sentences in (("notes", stream.odd), ("doubts", stream.doubts)):
        if sentences:
            must[key] = ".*".join(map(re.escape, sentences))
    return must | ({"error": re.escape(stream.error)} if stream.error else {})


for kind, streams in (
    (
        "text",
        reported_streams.TEXTS
        | reported_deltas.TEXTS
        | reported_shapes.TEXTS
        | reported_kinds.TEXTS
        | reported_places.TEXTS
        | reported_servers.TEXTS,
    ),
    (
        "counts",
        reported_streams.COUNTED | reported_usages.COUNTED | reported_shapes.COUNTED | reported_kinds.COUNTED,
    ),
    ("frame", reported_ends.FRAMES | reported_breaks.FRAMES | reported_shapes.FRAMES | reported_kinds.FRAMES),
    (
        "end",
        reported_ends.ENDS | reported_breaks.ENDS | reported_words.ENDS | reported_kinds.ENDS | reported_places.ENDS,
    ),
    (
        "error",
        reported_ends.ERRORS
        | reported_breaks.ERRORS
        | reported_words.ERRORS
        | reported_kinds.ERRORS
        | reported_places.ERRORS
        | reported_servers.ERRORS,
    ),
    ("endpoint", reported_endpoints.ANSWERS | reported_words.ANSWERS),
):
    row = rows(f"reported {kind}")
    for name, stream in streams.items():
        row(
            f"reported {kind}: {name}",
            lambda w, n, stream=stream: replayed(stream),
            dialects=(stream.dialect.name,),
            **must_be(stream),
        )

row = rows("reported HTTP")
for label, error in (
    ("an envelope", b'{"code":500,"message":"%b"}' % SAID.encode()),
    ("a message of another name", b'{"choices":null,"error_message":"%b"}' % SAID.encode()),
    ("a text", b"error: %b" % SAID.encode()),
):
    for word, steps in (("silence", (Then.HOLD,)), ("pings", (Every(b"8\r\n: ping\n\n\r\n", 0.2),))):
        row(
            f"{label} with an error, then {word}",
            lambda w, n, error=error, steps=steps: streamed(*w.tokens(), w.raw(error), *steps, last=False),
            dialects=OPENAI,
            outcome="stream_error",
            error=SAID,
            text=TEXT,
            within=1.8 if word == "silence" else 2.8,
        )
        row(
            f"{label} with an error before any text, then {word}",
            lambda w, n, error=error, steps=steps: streamed(w.raw(error), *steps, last=False),
            dialects=OPENAI,
            outcome="stream_error",
            error=SAID,
            within=1.8 if word == "silence" else 2.8,
        )
for data in (b"data: %b", b'data: {"message":"%b"}'):
    row(
        f"an event named error before any text, {data.decode()!r}, then silence",
        lambda w, n, data=data: streamed(b"event: error\n" + data % SAID.encode() + b"\n\n", Then.HOLD, last=False),
        dialects=("openai-chat", "openai-responses"),
        outcome="stream_error",
        error=SAID,
        within=1.8,
    )
row(
    "an error in comments, then silence",
    lambda w: streamed(*w.tokens(), b"event: error\n: %b\n\n" % SAID.encode(), Then.HOLD, last=False),
    dialects=OPENAI,
    outcome="stream_error",
    error=SAID,
    within=1.2,
)
for mark in (b"DONE", b'"DONE"', b"[[DONE]]", b"[done]"):
    row(
        f"the mark {mark.decode()}, then open",
        lambda w, n, mark=mark: streamed(*w.tokens(), w.done(), w.raw(mark), Then.HOLD, last=False),
        dialects=OPENAI,
        outcome="ok",
        text=TEXT,
        within=0.9,
    )
row(
    "counts 20 ms behind the mark, then open",
    lambda w: streamed(
        *w.tokens(),
        w.finish(),
        w.mark,
        Wait(0.02),
        w.usage({"prompt_tokens": 20, "completion_tokens": 3}),
        Then.HOLD,
        last=False,
    ),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
    source="server",
    output=3,
    prompt=20,
    within=0.9,
)
row(
    "objects that no newline parts",
    lambda w: streamed(*(step for part in w.whole() for step in (part.strip(), Wait(0.02)))),
    dialects=OLLAMA,
    outcome="ok",
    text=TEXT,
    output=3,
    chunks=3,
    reads=3,
)
row(
    "done:true with every piece, 0.2 s apart",
    lambda w: streamed(
        *(step for part in w.tokens() for step in (part.replace(b'"done":false', b'"done":true'), Wait(0.2))), w.end()
    ),
    dialects=OLLAMA,
    outcome="ok",
    text=TEXT,
    output=3,
    chunks=3,
)
row(
    "a response that only lives on after a token (Rapid-MLX)",
    lambda w: streamed(
        w.token("a"),
        Every(chunk(w.line({"type": "response.in_progress", "response": {"status": "in_progress"}})), 0.2),
        last=False,
    ),
    dialects=NAMED[:1],
    outcome="timeout",
    error="idle|still",
    within=3.5,
)
row(
    "an error as plain words, then signs of life (EricLBuehler/mistral.rs#1874)",
    lambda w: streamed(
        w.token("a"),
        b"data: the model was unloaded in mid-answer\n\n",
        Every(chunk(b":keep-alive-text\n\n"), 0.2),
        last=False,
    ),
    dialects=OPENAI,
    outcome="stream_error",
    error="was unloaded",
    within=1.9,
)
row(
    "a queue's status again and again, then well",
    lambda w: streamed(*(w.raw(b'{"status":"queued","message":"waiting"}'), Wait(0.05)) * 3, *w.whole()),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
    output=3,
    chunks=3,
)
row(
    "events without a type, open at their end",
    lambda w: streamed(*(re.sub(rb'"type":"[^"]*",?', b"", part) for part in w.whole()), Then.HOLD, last=False),
    dialects=NAMED,
    outcome="ok",
    text=TEXT,
    output=3,
    within=1.9,
)
row(
    "an envelope around each event, open at its end",
    lambda w: streamed(
        *(re.sub(rb"(data: )(.*)", rb'\1{"code":0,"data":\2}', part) for part in (*w.tokens(), w.done())),
        Then.HOLD,
        last=False,
    ),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
    output=3,
    within=1.9,
)
row(
    "the last rows run together, open at their end",
    lambda w: streamed(*w.tokens()[:-1], w.tokens()[-1].strip() + w.done(), Then.HOLD, last=False),
    dialects=OLLAMA,
    outcome="ok",
    text=TEXT,
    output=3,
    within=0.9,
)
SILENT = {  # ends of which no line has a mark's words: the decoder finds them in a silence
    "finishReason": {"finishReason": "STOP"},
    "is_end": {"is_end": True},
    "stop_reason": {"stop_reason": "end_turn"},
}
for label, said in SILENT.items():
    row(
        f"ended by {label}, open",
        lambda w, n, said=said: streamed(
            *w.tokens(), w.line({"id": "x", "choices": [{"index": 0, "delta": {}, **said}]}), Then.HOLD, last=False
        ),
        dialects=OPENAI,
        outcome="ok",
        text=TEXT,
        within=2.9,
    )
for label in ("1", '"true"', '"True"'):
    for word, steps in (("open", (Then.HOLD,)), ("pings", (Every(b"1\r\n\n\r\n", 0.2),)), ("reset", (Then.RST,))):
        row(
            f"done is {label}, then {word}",
            lambda w, n, label=label, steps=steps: streamed(
                *w.tokens(), w.end().replace(b'"done":true', b'"done":' + label.encode()), *steps, last=False
            ),
            dialects=OLLAMA,
            outcome="ok",
            text=TEXT,
            output=3,
            within=3.5,
        )
for label, share in (("µs", 1e-3), ("ms", 1e-6), ("another answer, out of a cache", 30)):
    row(
        f"durations of {label}",
        lambda w, n, share=share: streamed(
            *(step for part in w.tokens() for step in (part, Wait(0.1))),
            w.end(prompt_eval_duration=int(1e8 * share), eval_duration=int(3e8 * share)),
        ),
        dialects=OLLAMA,
        outcome="ok",
        output=3,
        doubts="durations are",
    )
for label, headers in (
    ("no length", ()),
    ("chunks", (b"Transfer-Encoding: chunked",)),
    ("a length", (b"Content-Length: 9",)),
):
    row(
        f"an error's status and {label}, no body, open",
        lambda w, n, headers=headers: [head(*headers, status=b"503 Busy", chunked=False), Then.HOLD],
        dialects=BOTH,
        outcome="http_error",
        error="HTTP 503",
        within=1.9,
    )
row(
    "a body behind a length of nothing",
    lambda w: [head(b"Content-Length: 0", chunked=False), Wait(0.02), *w.whole(), Then.FIN],
    dialects=BOTH,
    outcome="truncated",
    error="empty",
    text="",
)
for name, code, body, more, expected in (
    (
        "an error in an event",
        b"400 Bad Request",
        b'event: error\ndata: {"error":{"message":"%b"}}\n\n',
        (),
        rf"^{SAID}$",
    ),
    ("an error behind a byte order mark", b"500 Internal", b'\xef\xbb\xbf{"error":{"message":"%b"}}', (), rf"^{SAID}$"),
    ("an error in XML", b"403 Forbidden", b"<Error><Message>%b</Message></Error>", (), rf"^HTTP 403: '{SAID}'$"),
    ("a wait in minutes", b"429 Slow", b'{"error":"%b"}', (b"Retry-After: 2m30s",), "after 150 s"),
    ("a wait said twice", b"429 Slow", b'{"error":"%b"}', (b"Retry-After: 9", b"Retry-After: 9"), "after 9 s"),
):
    row(
        f"{name}, with its status",
        lambda w, n, code=code, body=body, more=more: plain(body % SAID.encode(), *more, status=code),
        dialects=BOTH,
        outcome="http_error",
        error=expected,
    )
row(
    "a status without content",
    lambda w: [b"HTTP/1.1 204 No Content\r\n\r\n"],
    dialects=BOTH,
    outcome="truncated",
    error="empty",
    text="",
)
row(
    "an error with status 206",
    lambda w: json({"error": {"message": SAID}}, status=b"206 Partial Content"),
    dialects=BOTH,
    outcome="stream_error",
    error=SAID,
)
