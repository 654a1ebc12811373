"""Rows on what an answer says: text in any shape, counts, durations and stamps of any size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from book import rows
from support.odd_answers import OLLAMA, OPENAI, Wire, plain, streamed
from support.odd_server import Script, Wait

CHAT = ("openai-chat",)
TEXT = "t0 t1 t2 "
ANY = ("valid", "suspect", "void")  # the level is there; a busy machine may void it


def slow(wire: Wire, *parts: bytes) -> Script:
    """Send parts 10 ms apart, so that no level is suspect for tokens that came together."""
    return streamed(*(step for part in parts for step in (part, Wait(0.01))))


row = rows("shapes of text")


def shaped(name: str, *contents: Any, text: str = "abc", **must: Any) -> None:
    row(
        name,
        lambda w, n: streamed(*map(w.token, contents), w.end()),
        **{"dialects": CHAT, "outcome": "ok", "text": text, "ttft": True, "visible": True, "chunks": 3, **must},
    )


def part(text: str, kind: str = "text") -> dict[str, str]:
    return {"type": kind, "text": text}


shaped("content as parts", [part("a")], [part("b")], [part("c")])
shaped(
    "content as output_text parts", [part("a", "output_text")], [part("b", "output_text")], [part("c", "output_text")]
)
shaped("two parts at a time", [part("a"), part("b")], [part("c")], chunks=2)
shaped("content as an object", part("a"), part("b"), part("c"))
shaped(
    "parts of no text beside it",
    [part("a")],
    [{"type": "image_url", "image_url": {"url": "x"}}, part("b")],
    [part("c")],
)
shaped("strings, then parts", "a", "b", [part("c")])
shaped("null, then text", None, "a", "b", "c")
shaped("empty text first", "", "a", "b", "c")
shaped("empty parts first", [], "a", "b", "c")
row(
    "whole answer with parts, not streamed",
    lambda w: plain(
        b'{"id":"x","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":'
        b'[{"type":"text","text":"abc"}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":20,"completion_tokens":3}}'
    ),
    dialects=CHAT,
    outcome="ok",
    text="abc",
    output=3,
)


def hidden(name: str, *deltas: dict[str, Any], chunks: int = 2, **must: Any) -> None:
    row(
        name,
        lambda w, n: streamed(*(w.line(_delta(w, delta)) for delta in deltas), w.token("answer"), w.end()),
        **{"dialects": CHAT, "outcome": "ok", "text": "answer", "ttft": True, "chunks": chunks, **must},
    )


def _delta(wire: Wire, delta: dict[str, Any]) -> dict[str, Any]:
    found = wire.row("")
    found["choices"][0]["delta"] = delta
    return found


hidden("hidden as reasoning_content", {"reasoning_content": "hm"}, odd=None)
hidden("hidden as reasoning", {"reasoning": "hm"}, odd=None)
hidden("hidden as thinking", {"thinking": "hm"}, odd=None)
hidden("hidden under an unknown name", {"musings": "hm"}, odd="musings")
hidden("hidden under two names", {"reasoning": "hm", "reasoning_content": "hm"})
hidden("hidden as details", {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]})
hidden("hidden as an object", {"reasoning": {"text": "hm"}})
hidden("role and id say nothing", {"role": "assistant", "name": "bot", "id": "x1"}, chunks=1)
row(
    "thinking of Ollama's",
    lambda w: streamed(w.token("", thinking="hm"), w.token("answer"), w.end()),
    dialects=("ollama-chat", "ollama-generate"),
    outcome="ok",
    text="answer",
    chunks=2,
)
row(
    "tool call alone",
    lambda w: streamed(
        w.token(None, tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}]),
        w.end(reason="tool_calls"),
    ),
    dialects=CHAT,
    outcome="ok",
    ttft=True,
)
row(
    "counted and not understood",
    lambda w: slow(w, w.token({"blob": [1]}), w.token({"blob": [2]}), w.end(output=5)),
    dialects=CHAT,
    outcome="ok",
    ttft=False,
    level="void",
    reasons="text|understood|token",
)
row(
    "half of the answers empty",
    lambda w, n: slow(w, *w.whole()) if n % 2 else streamed(w.end(output=0)),
    level="void",
    reasons="empty|no token|without a token|without any text",
)
row(
    "one answer of eight empty",
    lambda w, n: slow(w, *w.whole()) if n else streamed(w.end(output=0)),
    level=("suspect", "void"),
    reasons="empty|no token|without a token|without any text",
)

row = rows("JSON that is odd")


def lenient(name: str, *raw: bytes, text: str | tuple[str, ...], **must: Any) -> None:
    """Send OpenAI or Ollama rows with these bytes in the place of a text's JSON."""

    def answer(wire: Wire, n: int) -> Script:
        return streamed(*(wire.token("@").replace(b'"@"', one) for one in raw), wire.end())

    row(name, answer, **{"outcome": "ok", "text": text, **must})


lenient("lone surrogates", rb'"\ud83d"', rb'"\ude00"', text="\U0001f600")
lenient("lone surrogates twice", rb'"a\ud83d"', rb'"\ude00b\ud83d"', rb'"\ude00"', text="a\U0001f600b\U0001f600")
lenient("surrogates that stay lone", rb'"a\ud83d"', rb'"b"', text="a\ufffdb")
lenient("escaped slashes and unicode", rb'"\u0061\/"', rb'"b"', text="a/b")
lenient("raw control character in a text", b'"a\tb"', text=("a\tb", ""), outcome=("ok", "stream_error"))
row(
    "NaN in logprobs",
    lambda w: streamed(*(part.replace(b'"created":1', b'"created":NaN') for part in w.whole())),
    dialects=OPENAI,
    outcome="ok",
    text=TEXT,
)
row(
    "Infinity in durations",
    lambda w: streamed(*w.tokens(), w.end().replace(b"9000000", b"Infinity")),
    dialects=OLLAMA,
    outcome="ok",
    text=TEXT,
)
row(
    "bytes that are no UTF-8 in a text",
    lambda w: streamed(w.token("@").replace(b"@", b"\xff\xfe"), *w.whole()),
    outcome=("ok", "stream_error"),
)
row(
    "lines that no one can read",
    lambda w, n: streamed(w.token("a"), w.raw(b'{"created_at":"2026-01-01T00:00:0%d.%09dZ","x":' % (n % 8, n) + b"}")),
    outcome="stream_error",
    classes=1,
    level="void",
)
row("a deep nest", lambda w: streamed(w.raw(b"[" * 5000 + b"]" * 5000), *w.whole()), outcome=("ok", "stream_error"))

row = rows("counts and durations")
row(
    "counts alone, no durations",
    lambda w: slow(
        w,
        *w.tokens(),
        w.end(load_duration=..., prompt_eval_duration=..., eval_duration=...),
    ),
    dialects=OLLAMA,
    outcome="ok",
    output=3,
    queue_wait="unknown",
    load="unknown",
    prefill="unknown",
    level=ANY,
)
row(
    "no prompt duration alone",
    lambda w: slow(w, *w.tokens(), w.end(prompt_eval_duration=...)),
    dialects=OLLAMA,
    outcome="ok",
    prefill="unknown",
    queue_wait="unknown",
    level=ANY,
)
row("no eval_count", lambda w: streamed(*w.tokens(), w.end(output=...)), dialects=OLLAMA, outcome="ok", source="chunks")
row(
    "total that contradicts its parts",
    lambda w: slow(w, *w.tokens(), w.end(total_tokens=99)),
    dialects=OPENAI,
    outcome="ok",
    doubts=r"\b99\b|total",
    level=("suspect", "void"),
    reasons=r"\b99 tokens|total",
)


def used(name: str, *parts: Any, **must: Any) -> None:
    row(name, lambda w, n: streamed(*parts[0](w)), **{"dialects": OPENAI, "outcome": "ok", "output": 3, **must})


THOUGHT = {"completion_tokens_details": {"reasoning_tokens": 6}}


def thought(name: str, completion: int, reasoning: Mapping[str, Any], **must: Any) -> None:
    """Add an answer to a prompt of 15 tokens, of six reasoning tokens and two others."""
    usage = {"prompt_tokens": 15, "completion_tokens": completion, "total_tokens": 23, **reasoning}
    used(name, lambda w: [*w.tokens(), w.finish(), w.usage(usage), w.mark], output=8, **must)


thought("reasoning beside completion", 2, THOUGHT)
thought("reasoning beside completion, flat", 2, {"reasoning_tokens": 6})
thought("reasoning inside completion", 8, THOUGHT, odd=None)
USAGE = {"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23}
used("usage in the last choice", lambda w: [*w.tokens(), _with(w, usage=USAGE), w.mark], source="server")
used("usage beside the finish_reason", lambda w: [*w.tokens(), w.finish(usage=USAGE), w.mark], source="server")
used("usage before the finish_reason", lambda w: [*w.tokens(), w.usage(USAGE), w.finish(), w.mark], source="server")
used("usage under x_groq", lambda w: [*w.tokens(), w.finish(x_groq={"usage": USAGE}), w.mark], source="server")
used(
    "usage that grows on every chunk",
    lambda w: [
        *(w.line({**w.row("t"), "usage": {"prompt_tokens": 20, "completion_tokens": i}}) for i in (1, 2, 3)),
        w.finish(),
        w.mark,
    ],
)
used(
    "null usage last",
    lambda w: [*w.tokens(), w.finish(), w.usage(USAGE), w.line({**w.row(""), "usage": None}), w.mark],
)
used("no usage at all", lambda w: [*w.tokens(), w.finish(), w.mark], source="chunks")


def _with(wire: Wire, **beside: Any) -> bytes:
    found = wire.row("")
    found["choices"][0] |= {"finish_reason": "stop", **beside}
    return wire.line(found)


for label, value in (
    ("2^64-1", 2**64 - 1),
    ("2^70", b"1180591620717411303424"),
    ("minus one", -1),
    ("a word", "three"),
    ("a list", [3]),
    ("null", None),
    ("true", True),
    ("1e400", b"1e400"),
    ("NaN", b"NaN"),
):

    def answer(wire: Wire, n: int, value: Any = value) -> Script:
        if isinstance(value, bytes):
            return slow(wire, *wire.tokens(), wire.end(output=777777).replace(b"777777", value))
        return slow(wire, *wire.tokens(), wire.end(output=value))

    said = {"odd": r"."} if label in ("2^64-1", "2^70", "minus one") else {}
    row(f"output count is {label}", answer, outcome="ok", text=TEXT, level=ANY, **said)
row(
    "output count is 3.0",
    lambda w: streamed(*w.tokens(), w.end(output=3.0)),
    outcome="ok",
    output=3,
)
for label, value in (("2^64-1", 2**64 - 1), ("minus one", -1), ("a word", "soon"), ("null", None)):
    row(
        f"durations are {label}",
        lambda w, n, value=value: slow(
            w,
            *w.tokens(),
            w.end(total_duration=value, load_duration=value, prompt_eval_duration=value, eval_duration=value),
        ),
        dialects=OLLAMA,
        outcome="ok",
        output=3,
        text=TEXT,
        queue_wait="unknown",
        level=ANY,
    )

row = rows("text said again")
row(
    "every piece repeats all text before it",
    lambda w, n: slow(w, *(w.token(TEXT[: 3 * upto]) for upto in (1, 2, 3)), w.token(TEXT + "t3 "), w.end(output=4)),
    outcome="ok",
    chunks=4,
    doubts="repeats all text before it",
)
row(
    "every piece is sent twice",
    lambda w, n: slow(w, *(part for part in w.tokens(5) for _ in range(2)), w.end(output=5)),
    outcome="ok",
    chunks=10,
    doubts="sent twice",
)

row = rows("server stamps")
for label, value in (
    ("year one", b'"0001-01-01T00:00:00Z"'),
    ("year 9999", b'"9999-12-31T23:59:59Z"'),
    ("a word", b'"yesterday"'),
    ("a number", b"1767225600"),
    ("null", b"null"),
    ("empty", b'""'),
):

    def stamped(wire: Wire, n: int, value: bytes = value) -> Script:
        from support.odd_answers import STAMP

        found = [wire.token(f"t{i} ", at=7) for i in range(3)]
        old = b'"' + (STAMP % 7).encode() + b'"'
        return streamed(*(part.replace(old, value) for part in found), wire.end())

    known = label == "year 9999"
    row(
        f"created_at is {label}",
        stamped,
        dialects=OLLAMA,
        outcome="ok",
        text=TEXT,
        **({} if known else {"stamps": False}),
    )
