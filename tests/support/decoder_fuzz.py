"""Inputs for decoders that no server sends: recorded streams and made rows, cut, flipped, doubled and mixed.

    PYTHONPATH=.:tests python -m support.decoder_fuzz 1000000 [seed]

decodes so many of them by every dialect in turn; each must raise nothing, end in one sentence at most and come out the
same however it is cut.
"""

from __future__ import annotations

import json
import random
import sys
import time
from typing import Any

import orjson

from loadtest.dialects import DIALECTS as KINDS
from loadtest.dialects import Dialect
from loadtest.text import shown
from support.places import STREAMS

DIALECTS: list[Dialect] = [kind("m") for kind in KINDS.values()]
BYTES = [
    b"",
    b"null",
    b'"',
    b"{",
    b"[",
    b"}",
    b"]",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\xc3",
    b"\xed\xa0\x80",
    b"7",
    b"-",
]
BYTES += [
    b"\xef\xbb\xbf",
    b"\\ud83d",
    b"\\ude00",
    b"NaN",
    b"1e400",
    b"\0",
    b"\x1b",
    b"data:",
    b"event: error\n",
    b"[DONE]",
]
BYTES += [
    b"data: [DONE]\n\n",
    b'"done":true',
    b'"finish_reason":"stop"',
    b"18446744073709551615",
    b":",
    b"error: {}",
    b",",
]
KEYS = (
    "choices delta message content text role reasoning thinking tool_calls function name arguments index finish_reason "
)
KEYS += (
    "usage prompt_tokens completion_tokens total_tokens completion_tokens_details reasoning_tokens timings predicted_n "
)
KEYS += "error code msg detail errors success object type model response done done_reason eval_count total_duration "
KEYS += "delta item output part input_tokens output_tokens input_tokens_details stop_reason incomplete_details data "
KEYS += "content_block text thinking partial_json sequence_number embedding embeddings prompt_eval_count "
KEYS += "created_at x_groq value base_resp status refusal function_call loc"
LEAVES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    7,
    -1,
    2**63,
    2**64 - 1,
    2**70,
    1.5,
    12.0,
    1e308,
    float("nan"),
    float("inf"),
    "",
]
LEAVES += [
    "a",
    "stop",
    "abort",
    "error",
    "null",
    "\ud83d",
    "\ude00",
    "\x1b[2J\u202e",
    "0001-01-01T00:00:00Z",
    "[DONE]",
    "x" * 300,
]
LEAVES += [
    "2026-01-31T12:00:00.123456789Z",
    "2026-01-31T12:00:00.5+99:99",
    "chat.completion.chunk",
    "thinking",
    "text",
    "response.output_text.delta",
    "response.completed",
    "response.failed",
    "content_block_delta",
    "message_start",
    "message_stop",
    "text_delta",
    [],
    {},
]


def bodies() -> list[bytes]:
    """Return the bodies of the recorded streams, as they were sent, chunk sizes and all, and stripped of those."""
    found = []
    for path in sorted(STREAMS.glob("*.json")):
        raw = "".join(data for _, data in json.loads(path.read_text())["reads"] if data != "!EOF").encode("latin-1")
        body = raw.partition(b"\r\n\r\n")[2][:3000]
        found += [body, b"".join(line + b"\n" for line in body.split(b"\n") if line[:1] in (b"{", b"d", b""))]
    return found


def value(rng: random.Random, depth: int) -> Any:
    """Make JSON of any shape out of the names and values that dialects know."""
    keys = KEYS.split()
    match rng.randrange(6) if depth else 0:
        case 1 | 2 | 3:
            return {rng.choice(keys): value(rng, depth - 1) for _ in range(rng.randrange(5))}
        case 4:
            return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return rng.choice(LEAVES)


def row(rng: random.Random) -> Any:
    """Make a row that is nearly one of a dialect's."""
    match rng.randrange(7):
        case 5:
            kind = rng.choice(["response.output_text.delta", "response.reasoning_text.delta", "response.completed"])
            said = {"status": value(rng, 0), "usage": value(rng, 2), "output": value(rng, 2), "error": value(rng, 1)}
            return {"type": kind, "delta": value(rng, 1), "sequence_number": value(rng, 0), "response": said}
        case 6:
            kind = rng.choice(["content_block_delta", "message_delta", "message_start", "message_stop", "message"])
            delta = {
                "type": rng.choice(["text_delta", "thinking_delta", "x"]),
                rng.choice(["text", "y"]): value(rng, 1),
            }
            return {"type": kind, "delta": delta | {"stop_reason": value(rng, 0)}, "usage": value(rng, 2)}
        case 0:
            piece = {rng.choice(["content", "reasoning", "x", "tool_calls"]): value(rng, 2), "role": "assistant"}
            choice = {"index": rng.choice([0, 0, 0, 1]), "delta": piece, "finish_reason": value(rng, 0)}
            return {"model": "m", "choices": [choice], rng.choice(["usage", "x"]): value(rng, 2)}
        case 1:
            message = {
                "role": "assistant",
                "content": value(rng, 2),
                rng.choice(["thinking", "tool_calls"]): value(rng, 2),
            }
            return {"created_at": value(rng, 0), "message": message, "done": rng.choice([False, False, True])} | (
                {rng.choice(["eval_count", "done_reason", "error"]): value(rng, 0)}
            )
        case 2:
            return {"response": value(rng, 1), "done": value(rng, 0)}
    return value(rng, 4)


def made(rng: random.Random, stock: list[bytes]) -> bytes:
    """Make one body."""
    if rng.random() < 0.5:
        body = bytearray()
        for _ in range(rng.randrange(1, 6)):
            text = json.dumps(row(rng), ensure_ascii=rng.random() < 0.7).encode(errors="surrogatepass")
            frame = rng.choice(
                [
                    *(b"data: %b\n\n", b"data: %b\n\n", b"%b\n", b"%b\n", b"data:%b\r\n\r\n", b"data: %b\r\r", b"%b"),
                    *(b"event: response.x\ndata: %b\n\n", b"event: content_block_delta\r\ndata: %b\r\n\r\n"),
                ]
            )
            body += frame % text.replace(b"%", b"")
        if rng.random() < 0.5:
            return bytes(body)
    else:
        body = bytearray(rng.choice(stock))
        start = rng.randrange(max(1, len(body)))
        del body[start + rng.randrange(1500) :]
        del body[: rng.randrange(start + 1) if rng.random() < 0.5 else 0]
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(body) or 1)
        if rng.random() < 0.3 and body:
            body[at % len(body)] ^= 1 << rng.randrange(8)
        else:
            body[at : at + rng.randrange(4)] = rng.choice(BYTES)
    return bytes(body)


def decoded(dialect: Dialect, body: bytes, cuts: list[int]) -> tuple[Any, ...]:
    decoder = dialect.decoder()
    for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
        decoder.feed(body[start:end])
    ending = decoder.close()
    return decoder.events, ending


def check(dialect: Dialect, body: bytes, rng: random.Random) -> None:
    """Raise AssertionError where a body does not come out as it must."""
    cuts = [sorted(rng.sample(range(1, len(body)), min(rng.randrange(1, 9), len(body) - 1))) if len(body) > 1 else []]
    cuts += [list(range(1, len(body)))] if len(body) < 400 and rng.random() < 0.2 else []
    events, ending = whole = decoded(dialect, body, [])
    for cut in cuts:
        assert decoded(dialect, body, cut) == whole, (dialect.name, body, cut)
    said = [ending.error, ending.hint, ending.finish_reason, *ending.notes, *ending.doubts]
    assert all(text is None or (shown(text) == text and len(text) < 500) for text in said), said
    assert events.created == [] or len(events.created) == len(events)
    assert events.ends == sorted(events.ends)
    assert all(0 < end <= len(body) for end in events.ends)
    counts = (ending.prompt_tokens, ending.output_tokens)
    assert all(count is None or (type(count) is int and 0 <= count < 2**33) for count in counts), counts
    orjson.dumps([ending, events.answer, events.said, events.created])
    for line in body.split(b"\n"):
        dialect.ends.read(line)


def main(count: int, seed: int) -> None:
    rng, stock, slowest = random.Random(seed), bodies(), 0.0
    for i in range(count):
        body = made(rng, stock)
        begin = time.perf_counter()
        check(DIALECTS[i % len(DIALECTS)], body, rng)
        slowest = max(slowest, time.perf_counter() - begin)
    print(
        f"{count:,} bodies, seed {seed}: none raised, none depended on its cuts; the slowest took {slowest * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
