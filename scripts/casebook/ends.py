"""Rows on how an answer ends: end marks, what comes after them, and reasons to finish."""

from __future__ import annotations

import re

from book import rows
from support.odd_answers import LAST, NAMED, OLLAMA, OPENAI, chunk, head, plain, streamed
from support.odd_server import Every, Then, Wait

TEXT = "t0 t1 t2 "
SOON = 1.2  # seconds: far below each limit that a hang would run into, far above what a busy machine adds

row = rows("whole answers")
row("plain good answer", lambda w: w.good(), outcome="ok", text=TEXT, output=3, prompt=20, kept=True, odd=None)
row(
    "open after the end",
    lambda w: streamed(*w.whole(), Then.HOLD, last=False),
    outcome="ok",
    within=SOON,
    kept=False,
    notes="did not close",
)
row(
    "pings after the end",
    lambda w: streamed(*w.whole(), Every(chunk(b"\n" if w.is_ollama else b": ping\n\n"), 0.2), last=False),
    outcome="ok",
    text=TEXT,
    within=SOON,
    kept=False,
)
row("reset after the end", lambda w: streamed(*w.whole(), Then.RST, last=False), outcome="ok", text=TEXT)
row(
    "reset 20 ms after the end",
    lambda w: streamed(*w.whole(), Wait(0.02), Then.RST, last=False),
    outcome="ok",
    text=TEXT,
)
row("closed after the end", lambda w: streamed(*w.whole(), Then.FIN, last=False), outcome="ok", text=TEXT)
row("last chunk 10 ms late", lambda w: streamed(*w.whole(), Wait(0.01)), outcome="ok", text=TEXT, kept=True)
row(
    "last chunk 900 ms late",
    lambda w: streamed(*w.whole(), Wait(0.9)),
    outcome="ok",
    within=0.6,
    kept=False,
    notes="did not close",
)
row(
    "no chunk framing after the end",
    lambda w: [*streamed(*w.whole(), last=False), b"\x00\x01 not a chunk\r\n", Then.HOLD],
    outcome="ok",
    text=TEXT,
)
row(
    "garbage behind the last chunk",
    lambda w: [*streamed(*w.whole()), b"\x00\x01garbage", Then.HOLD],
    outcome="ok",
    text=TEXT,
    kept=False,
)
row(
    "an event after the end",
    lambda w: streamed(*w.whole(), Wait(0.005), w.token("late"), Then.HOLD, last=False),
    outcome="ok",
    within=SOON,
)
row(
    "length longer than the body",
    lambda w: [
        head(b"Content-Length: 100000", chunked=False) + b"".join(w.whole()),
        Then.HOLD,
    ],
    outcome="ok",
    text=TEXT,
    within=SOON,
    kept=False,
)
row(
    "no framing, closed at the end",
    lambda w: [head(b"Connection: close", chunked=False), *w.whole(), Then.FIN],
    outcome="ok",
    text=TEXT,
)
row(
    "no framing, open at the end",
    lambda w: [head(chunked=False), *w.whole(), Then.HOLD],
    outcome="ok",
    text=TEXT,
    within=SOON,
)
row("whole body with a length", lambda w: plain(b"".join(w.whole())), outcome="ok", text=TEXT, kept=True)
row(
    "mark cut in two, then open",
    lambda w: streamed(
        *w.tokens(), w.end()[:-9], Wait(0.03), w.end()[-9:-4], Wait(0.03), w.end()[-4:], Then.HOLD, last=False
    ),
    outcome="ok",
    text=TEXT,
    within=SOON,
    output=3,
)
row(
    "every byte a chunk, then open",
    lambda w: streamed(*(bytes([one]) for one in b"".join(w.whole())), Then.HOLD, last=False),
    outcome="ok",
    text=TEXT,
    within=SOON,
)
row(
    "blanks in the mark, then open",
    lambda w: streamed(
        *w.tokens(),
        w.end().replace(b'"done":true', b'"done" : true') if w.is_ollama else w.done() + b"data:[DONE]  \n\n",
        Then.HOLD,
        last=False,
    ),
    outcome="ok",
    within=SOON,
)
row(
    "mark inside a text",
    lambda w: streamed(
        w.token('x "done":true data: [DONE]\ndata: [DONE]\n'),
        Wait(0.3),
        w.token('"finish_reason":"stop"'),
        Wait(0.3),
        w.end(),
    ),
    outcome="ok",
    text='x "done":true data: [DONE]\ndata: [DONE]\n"finish_reason":"stop"',
)
row(
    "last line without a newline, closed",
    lambda w: streamed(*w.tokens(), w.end().rstrip(b"\n"), Then.FIN, last=False),
    outcome="ok",
    text=TEXT,
)
row(
    "lines end in CRLF",
    lambda w: streamed(*(part.replace(b"\n", b"\r\n") for part in w.whole()), Then.HOLD, last=False),
    outcome="ok",
    text=TEXT,
    within=SOON,
)
for word, steps, must in (
    ("framing ends", (), {"kept": True, "notes": None}),
    ("open", (Then.HOLD,), {"output": 3, "within": 1.9, "notes": "did not close"}),
    ("pings", (Every(chunk(b": ping\n\n"), 0.2),), {"within": 1.9}),
    ("reset", (Then.RST,), {"notes": None}),
):
    row(
        f"finish_reason without a mark, {word}",
        lambda w, n, steps=steps: streamed(*w.tokens(), w.done(), *steps, last=not steps),
        **{"dialects": OPENAI, "outcome": "ok", "text": TEXT, **must},
    )
row(
    "counts 300 ms after the finish_reason",
    lambda w: streamed(
        *w.tokens(), w.finish(), Wait(0.3), w.usage({"prompt_tokens": 20, "completion_tokens": 3}), w.mark
    ),
    dialects=OPENAI,
    outcome="ok",
    output=3,
    source="server",
)
row("mark without a finish_reason", lambda w: streamed(*w.tokens(), w.mark), dialects=OPENAI, outcome="truncated")
row(
    "mark without a finish_reason, open",
    lambda w: streamed(*w.tokens(), w.mark, Then.HOLD, last=False),
    dialects=OPENAI,
    outcome="truncated",
    within=SOON,
)
row("framing ends without an end mark", lambda w: streamed(*w.tokens()), outcome="truncated", kept=True)
row("closed without an end mark", lambda w: streamed(*w.tokens(), Then.FIN, last=False), outcome="truncated")
row(
    "a reason with every piece, the last 1.5 s later",
    lambda w: streamed(
        *(re.sub(rb'"finish_reason":null', b'"finish_reason":"stop"', part) for part in w.tokens()[:-1]),
        Wait(1.5),
        re.sub(rb'"finish_reason":null', b'"finish_reason":"stop"', w.tokens()[-1]),
        w.usage({"prompt_tokens": 20, "completion_tokens": 3}),
        w.mark,
    ),
    dialects=OPENAI,
    outcome="ok",
    text="t0 t1 t2 ",
    output=3,
)
row(
    "null finish_reason on every chunk",
    lambda w: streamed(*w.tokens(), w.end()),
    dialects=OPENAI,
    outcome="ok",
    finish="stop",
)

row = rows("reasons to finish")
for good in ("stop", "length", "tool_calls", "function_call", "content_filter"):
    row(
        f"finished by {good}",
        lambda w, n, reason=good: streamed(*w.tokens(), w.end(reason=reason)),
        dialects=OPENAI,
        outcome="ok",
        finish=good,
        odd=None,
    )
for bad in ("abort", "error", "cancelled"):
    row(
        f"finished by {bad}",
        lambda w, n, reason=bad: streamed(*w.tokens(), w.end(reason=reason)),
        dialects=OPENAI,
        outcome="stream_error",
        error=bad,
    )
row(
    "half of the answers aborted",
    lambda w, n: streamed(*w.tokens(), w.end(reason="abort" if n % 2 else "stop")),
    dialects=OPENAI,
    outcomes=["ok"] * 4 + ["stream_error"] * 4,
    level=("suspect", "void"),
)
row(
    "finished by an unknown word",
    lambda w: streamed(*(step for one in w.tokens() for step in (one, Wait(0.01))), w.end(reason="flux_token")),
    dialects=OPENAI,
    outcome="ok",
    doubts="flux_token",
    level=("suspect", "void"),
    reasons="flux_token",
)
row("ended by length", lambda w: streamed(*w.tokens(), w.end(reason="length")), dialects=OLLAMA, outcome="ok")
row("no done_reason", lambda w: streamed(*w.tokens(), w.end(reason=None)), dialects=OLLAMA, outcome="ok")
row(
    "done false to the end",
    lambda w: streamed(*w.tokens(), w.end(done=False)),
    dialects=OLLAMA,
    outcome="truncated",
)
row(
    "framing ends twice",
    lambda w: [*streamed(*w.whole()), LAST, Then.HOLD],
    outcome="ok",
    text=TEXT,
    kept=False,
)

row = rows("named events")
row(
    "a response that failed",
    lambda w: streamed(
        *w.tokens(),
        w.line(
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "x", "message": "fell over"}},
            }
        ),
        Then.HOLD,
        last=False,
    ),
    dialects=NAMED[:1],
    outcome="stream_error",
    error="fell over",
    within=SOON,
)
row(
    "a response cut at its length",
    lambda w: streamed(*w.tokens(), w.end(reason="length"), Then.HOLD, last=False),
    dialects=NAMED[:1],
    outcome="ok",
    finish="length",
    within=SOON,
)
row(
    "a message whose stop_reason came, then nothing",
    lambda w: streamed(*w.tokens(), w.done(), Then.HOLD, last=False),
    dialects=NAMED[1:],
    outcome="ok",
    finish="stop",
    within=1.9,
)
row(
    "message_stop without a stop_reason",
    lambda w: streamed(*w.tokens(), w.mark, Then.HOLD, last=False),
    dialects=NAMED[1:],
    outcome="truncated",
    within=SOON,
)
row(
    "ping events in a message",
    lambda w: streamed(*(part for one in w.tokens() for part in (w.line({"type": "ping"}), one)), w.end()),
    dialects=NAMED[1:],
    outcome="ok",
    text=TEXT,
    chunks=3,
)
row(
    "an overloaded server",
    lambda w: streamed(
        *w.tokens(),
        w.line({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        Then.HOLD,
        last=False,
    ),
    dialects=NAMED[1:],
    outcome="stream_error",
    error="Overloaded",
    within=SOON,
)
row(
    "events without their names",
    lambda w: streamed(*(re.sub(rb"event: .*\n", b"", part) for part in w.whole())),
    dialects=NAMED,
    outcome="ok",
    text=TEXT,
    output=3,
    source="server",
)
