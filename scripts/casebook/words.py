"""Rows on statuses, headers and what a server says when something is wrong."""

from __future__ import annotations

import gzip
from typing import Any

from book import rows
from support.odd_answers import OPENAI, Wire, chunk, head, json, plain, streamed
from support.odd_server import Every, Script, Then, Wait

TEXT = "t0 t1 t2 "
PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign in to Example</title></head><body><p>"
    + b"x" * 3000
    + b"</p></body></html>"
)
HTML = b"Content-Type: text/html; charset=utf-8"

row = rows("statuses and headers")
for status in (
    b"201 Created",
    b"202 Accepted",
    b"203 Non-Authoritative Information",
    b"206 Partial Content",
    b"299 Odd",
    b"200 ",
):
    row(
        f"status {status.decode().strip()}",
        lambda w, n, status=status: streamed(*w.whole(), status=status),
        outcome="ok",
        text=TEXT,
        output=3,
        status=int(status[:3]),
    )
row("a 100 before it", lambda w: [b"HTTP/1.1 100 Continue\r\n\r\n", *w.good()], outcome="ok", text=TEXT)
row(
    "a 103 before it", lambda w: [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", *w.good()], outcome="ok", text=TEXT
)
row(
    "HTTP/1.0, closed at the end",
    lambda w: [b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n", *w.whole(), Then.FIN],
    outcome="ok",
    text=TEXT,
)
for coding in (b"identity", b"Identity", b"", b"identity, identity", b" identity "):
    row(
        f"Content-Encoding {coding.decode()!r}",
        lambda w, n, coding=coding: streamed(*w.whole(), headers=[b"Content-Encoding: " + coding]),
        outcome="ok",
        text=TEXT,
    )
row(
    "compressed answer",
    lambda w: plain(gzip.compress(b"".join(w.whole())), b"Content-Encoding: gzip"),
    outcome="stream_error",
    error="compress.*gzip|gzip.*compress",
)
row(
    "compressed and streamed",
    lambda w: streamed(gzip.compress(b"".join(w.whole())), headers=[b"Content-Encoding: br"]),
    outcome="stream_error",
    error="compress",
)
row(
    "both framing headers",
    lambda w: streamed(*w.whole(), headers=[b"Content-Length: 5"]),
    outcome="ok",
    text=TEXT,
)
row(
    "the same length twice",
    lambda w: plain(b"".join(w.whole()), b"Content-Length: %d" % len(b"".join(w.whole()))),
    outcome="ok",
    text=TEXT,
)
row(
    "header names in lower case",
    lambda w: [
        part.replace(b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked") if isinstance(part, bytes) else part
        for part in w.good()
    ],
    outcome="ok",
    text=TEXT,
    kept=True,
)
row(
    "chunk extensions and trailers",
    lambda w: [
        head(b"Trailer: X-Odd"),
        *(chunk(part).replace(b"\r\n", b";a=b\r\n", 1) for part in w.whole()),
        b"0\r\nX-Odd: 1\r\n\r\n",
    ],
    outcome="ok",
    text=TEXT,
)
row(
    "headers without end", lambda w: streamed(*w.whole(), headers=[b"X-Odd: " + b"x" * 400_000]), outcome="stream_error"
)
row(
    "a hundred thousand bytes of headers",
    lambda w: streamed(*w.whole(), headers=[b"X-Odd: " + b"x" * 100_000]),
    outcome="ok",
    text=TEXT,
)
row(
    "not HTTP",
    lambda w: [b"SSH-2.0-OpenSSH_9.6\r\n", Wait(0.05), Then.FIN],
    outcome=("stream_error", "truncated", "connect_error"),
    error=r"\w",
)

row = rows("errors inside an answer")
SAID = "slot unavailable"


def inside(name: str, parts: Any, *, dialects: Any = OPENAI, error: str | None = SAID, **must: Any) -> None:
    row(
        name,
        lambda w, n: streamed(*parts(w)),
        **{"dialects": dialects, "outcome": "stream_error", "error": error, **must},
    )


BOTH = ("ollama-chat", "ollama-generate", *OPENAI)
inside(
    "error: field", lambda w: [*w.tokens(), b'error: {"code":500,"message":"%b"}\n\n' % SAID.encode(), w.mark], chunks=3
)
inside("error: field alone", lambda w: [b'error: {"code":500,"message":"%b"}\n\n' % SAID.encode()])
inside("error: field with text", lambda w: [*w.tokens(), b"error: %b\n\n" % SAID.encode(), w.mark])
inside("event: error", lambda w: [*w.tokens(), b'event: error\ndata: {"message":"%b"}\n\n' % SAID.encode()])
inside("event: error with text", lambda w: [*w.tokens(), b"event: error\ndata: %b\n\n" % SAID.encode()])
inside("error object", lambda w: [*w.tokens(), w.line(w.error_row(SAID))], dialects=BOTH)
inside("error object, then the end", lambda w: [*w.tokens(), w.line(w.error_row(SAID)), w.end()], dialects=BOTH)
inside("error object, open", lambda w: [*w.tokens(), w.line(w.error_row(SAID)), Then.FIN], dialects=BOTH)
inside("error as a text", lambda w: [*w.tokens(), w.line({"error": SAID})], dialects=BOTH)
inside("error without framing", lambda w: [*w.tokens(), b'{"error":{"message":"%b"}}\n' % SAID.encode()], dialects=BOTH)
inside("detail of FastAPI's", lambda w: [*w.tokens(), w.line({"detail": SAID})], dialects=BOTH)
inside("object error", lambda w: [*w.tokens(), w.line({"object": "error", "message": SAID, "code": 500})])
inside("error in a choice", lambda w: [*w.tokens(), w.line({**w.row(""), "error": {"message": SAID}})])
inside(
    "empty error is none",
    lambda w: [*w.tokens(), w.line({**w.row(""), "error": None}), w.end()],
    outcome="ok",
    error=None,
    dialects=BOTH,
)

row = rows("error with status 200")


def instead(name: str, body: Any, *headers: bytes, error: str | None = SAID, **must: Any) -> None:
    row(
        name,
        lambda w, n: json(body) if not isinstance(body, bytes) else plain(body, *headers),
        **{"outcome": ("stream_error", "truncated"), "error": error, **must},
    )


instead("200 with an error object", {"error": {"message": SAID}})
instead("200 with an error text", {"error": SAID})
instead("200 with code and message", {"code": 50508, "message": SAID, "data": None})
instead("200 with detail", {"detail": SAID})
instead("200 with a list of errors", {"success": False, "errors": [{"code": 1, "message": SAID}]})
instead("200 with msg", {"status": "fail", "msg": SAID})
instead("200 with a login page", PAGE, HTML, error="Sign in to Example", unsaid="<html|<title|xxxx")
instead("200 with plain text", SAID.encode(), b"Content-Type: text/plain")
instead("200 and nothing", b"", error=r"\w")
row(
    "200 with an error in a stream's frame",
    lambda w: streamed(w.line({"error": {"message": SAID, "type": "server_error"}}), w.mark),
    outcome="stream_error",
    error=SAID,
)
row(
    "200 with an error, eight times by two streams",
    lambda w, n: json({"code": 50508, "message": SAID}),
    drivers=("run",),
    level="void",
    classes=1,
)

row = rows("error statuses")


def refused(name: str, status: bytes, body: Any, *headers: bytes, error: str, **must: Any) -> None:
    def answer(wire: Wire, n: int) -> Script:
        packed = body if isinstance(body, bytes) else None
        return plain(packed, *headers, status=status) if packed is not None else json(body, *headers, status=status)

    row(name, answer, **{"outcome": "http_error", "status": int(status[:3]), "error": error, **must})


refused("307 to another path", b"307 Temporary Redirect", b"", b"Location: /v2/", error=r"307.*/v2/.*(URL|url)")
refused(
    "301 to another host",
    b"301 Moved Permanently",
    b"",
    b"Location: https://example.com/x",
    error=r"https://example\.com/x",
)
refused(
    "302 with a page", b"302 Found", PAGE, HTML, b"Location: /login?next=x", error="redirects to /login", unsaid="xxxx"
)
refused("308 without a Location", b"308 Permanent Redirect", b"", error="308")
refused(
    "500 compressed",
    b"500 Internal Server Error",
    gzip.compress(b'{"error":"x"}'),
    b"Content-Encoding: gzip",
    error=r"500.*compress|compress.*500",
    raw="",
    unsaid="\ufffd",
)
refused(
    "500 compressed without saying so",
    b"500 Internal Server Error",
    gzip.compress(b'{"error":"x"}'),
    error="500",
    raw="",
)
refused("500 with nothing", b"500 Internal Server Error", b"", error="500")
refused("500 with an error object", b"500 Internal Server Error", {"error": {"message": SAID}}, error=SAID)
refused("500 with a text", b"500 Internal Server Error", SAID.encode(), error=SAID)
refused("502 with a page", b"502 Bad Gateway", PAGE, HTML, error="Sign in to Example", unsaid="<html|<title|xxxx")
refused(
    "429 with Retry-After",
    b"429 Too Many Requests",
    {"error": {"message": SAID}},
    b"Retry-After: 17",
    error=rf"{SAID}.*17|17.*{SAID}",
)
refused(
    "503 with Retry-After and nothing", b"503 Service Unavailable", b"", b"Retry-After: 17", error=r"503.*17|17.*503"
)
refused(
    "422 of FastAPI's", b"422 Unprocessable Entity", {"detail": [{"loc": ["body", "model"], "msg": SAID}]}, error=SAID
)
refused("401 with nothing", b"401 Unauthorized", b"", b"WWW-Authenticate: Bearer", error="401")
refused("404 of Ollama's", b"404 Not Found", {"error": "model 'm' not found"}, error="not found")
refused(
    "error with ESC and BEL",
    b"500 Internal Server Error",
    {"error": "a\x1b]0;owned\x07b\u202ec"},
    error="owned",
    raw="",
)
refused("error of a megabyte", b"400 Bad Request", {"error": SAID + " x" * 500_000}, error=SAID)
row(
    "500 that says a stream",
    lambda w: streamed(w.line(w.error_row(SAID)), status=b"500 Internal Server Error"),
    outcome="http_error",
    error=SAID,
)
row(
    "500 cut inside its body",
    lambda w: [*streamed(b'{"error":"' + SAID.encode(), status=b"500 Internal Server Error", last=False), Then.FIN],
    outcome="http_error",
    error=r"500|" + SAID,
)

row = rows("connections")
ENDS = (("reset", Then.RST), ("closed", Then.FIN))
NO_ANSWER = ("truncated", "connect_error")
for word, end in ENDS:
    row(f"{word} before the headers", lambda w, n, end=end: [Wait(0.4), end], outcome=NO_ANSWER, error=r"\w", asked=1)
    row(
        f"{word} 1 s after the request, then well",
        lambda w, n, end=end: w.good() if n else [Wait(1.0), end],
        outcome=NO_ANSWER,
        asked=1,
    )
    row(
        f"{word} inside the headers",
        lambda w, n, end=end: [b"HTTP/1.1 200 OK\r\nContent-Ty", Wait(0.02), end],
        outcome="truncated",
        asked=1,
    )
row(
    "kept connection closed at once, then well",
    lambda w, n: w.good() if n else [Then.FIN],
    drivers=("run",),
    outcome="ok",
    resent=True,
    asked=2,
)
row(
    "closed at once, twice",
    lambda w, n: w.good() if n > 1 else [Then.FIN],
    drivers=("run",),
    outcome=("truncated", "connect_error"),
    asked=2,
)
row(
    "reset inside the body",
    lambda w: streamed(*w.tokens(), Wait(0.02), Then.RST, last=False),
    outcome="truncated",
    text=TEXT,
)
row(
    "closed inside a line",
    lambda w: streamed(w.token("a"), w.token("b")[:20], Then.FIN, last=False),
    outcome="truncated",
    text="a",
)

row = rows("waiting limits")


def late(name: str, parts: Any, *, error: str = "first|token", **must: Any) -> None:
    """Add an answer that begins like this and never ends."""
    row(name, lambda w, n: streamed(*parts(w), last=False), **{"outcome": "timeout", "error": error, **must})


def pings(wire: Wire) -> Every:
    return Every(chunk(b"\n" if wire.is_ollama else b": ping\n\n"), 0.2)


row("silent for ever", lambda w: [Then.HOLD], outcome="timeout", error="first|byte|token")
late("headers, then silent", lambda w: [Then.HOLD])
late("headers and pings, no token", lambda w: [pings(w)], within=3.5)
late("a role, then pings", lambda w: [w.token(""), pings(w)], within=3.5)
late("silent after a token", lambda w: [w.token("a"), Then.HOLD], error="idle|still", text="a")
late("pings after a token", lambda w: [w.token("a"), pings(w)], error="idle|still", within=3.5)
late("tokens for ever", lambda w: [Every(chunk(w.token("a")), 0.3)], error="total")
row(
    "slow, then well",
    lambda w: [Wait(0.6), *streamed(*(s for p in w.whole() for s in (Wait(0.3), p)))],
    outcome="ok",
    text=TEXT,
)
