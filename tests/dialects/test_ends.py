"""What one line says of an answer's end, and that every line which says so holds a needle."""

from __future__ import annotations

import json

import pytest
from support import recorded
from support.odd_answers import chunk
from support.odd_streams import A, B, delta, finish, last, message, ndjson, sse, with_choice
from support.received import fed, feed

from loadtest.dialects import (
    AnthropicMessages,
    Dialect,
    End,
    OllamaChat,
    OllamaGenerate,
    OpenAIChat,
    OpenAICompletions,
    OpenAIResponses,
)
from loadtest.records import Outcome

RESPONSES, MESSAGES = OpenAIResponses("m"), AnthropicMessages("m")
MS = 1_000_000
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHAT, GENERATE, V1, COMPLETIONS = OllamaChat("m"), OllamaGenerate("m"), OpenAIChat("m"), OpenAICompletions("m")

LINES: list[tuple[Dialect, str, End | None]] = [
    (V1, "data: [DONE]", End.MARK),
    (V1, "data:[DONE]", End.MARK),
    (V1, "data: [DONE]\r", End.MARK),
    (V1, "data:  [DONE]  ", End.MARK),
    (V1, 'data: "[DONE]"', End.MARK),
    (V1, "[DONE]", End.MARK),
    (V1, "\ufeffdata: [DONE]", End.MARK),
    (V1, "event: done", End.MARK),
    (V1, "event: error", End.FAILED),
    (MESSAGES, "event: error", End.FAILED),
    (RESPONSES, "event: stream_error", End.FAILED),
    (V1, 'error: {"message":"m"}', End.MARK),
    (V1, 'data: {"error":{"message":"m"}}', End.MARK),
    (V1, 'data: {"choices":[{"delta":{"content":"[DONE]"},"finish_reason":null}]}', None),
    (V1, 'data: {"choices":[{"delta":{"content":"data: [DONE]"}}]}', None),
    (V1, 'data: {"choices":[{"delta":{"content":"an error"},"finish_reason":null}],"error":null}', None),
    (V1, 'data: {"choices":[{"delta":{"content":"\\"finish_reason\\": \\"stop\\", _reason\\":\\"x"}}]}', None),
    (V1, ": event: done [DONE] error", None),
    (V1, "id: [DONE]", None),
    (V1, 'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}', End.FINISH),
    (V1, 'data: {"choices":[{"delta":{},"finish_reason": "abort"}]}\r', End.FINISH),
    (V1, '{"choices":[{"delta":{},"finish_reason":"length"}]}', End.FINISH),
    (COMPLETIONS, 'data:{"choices":[{"text":"","finish_reason":"stop"}],"usage":{}}', End.FINISH),
    (V1, 'data: {"choices":[{"delta":{},"finish_reason":"null"}]}', None),
    (V1, 'data: {"choices":[{"delta":{"finish_reason":"stop"}}]}', None),
    (V1, 'data: {"choices":[{"delta":{}}],"finish_reason":"stop"}', End.FINISH),
    (V1, 'data: {"choices":[{"delta":{}}]}{"choices":[{"delta":{},"finish_reason":"stop"}]}', End.FINISH),
    (V1, 'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}', End.FINISH),
    (V1, "data: DONE", End.MARK),
    (V1, "data: [[DONE]]", End.MARK),
    (V1, "data: [done]", End.MARK),
    (V1, "data: WELL DONE", None),
    (V1, "  Data : [DONE]", End.MARK),
    (GENERATE, '{"response":"{\\"done\\":true}","done":false}', None),
    (MESSAGES, "event: message_stop", End.FINISH),
    (MESSAGES, 'data: {"type":"message_stop"}', End.MARK),
    (MESSAGES, "event: content_block_stop", None),
    (RESPONSES, "event: response.completed", End.FINISH),
    (RESPONSES, 'data: {"type":"response.error","message":"m"}', End.MARK),
    (CHAT, '{"message":{"content":"a"},"done":false}{"done":true}', End.MARK),
    (V1, 'data: {"choices":[{"delta":{},"finish_reason":"sto', None),
    (CHAT, '{"message":{"content":""},"done":true}', End.MARK),
    (CHAT, '{"message":{"content":"a"},"done":true}', End.FINISH),
    (GENERATE, '{"response":"a","done":true,"done_reason":"stop"}', End.MARK),
    (CHAT, '{"done" :  true}\r', End.MARK),
    (GENERATE, '{"response":"","done": true,"context":[1]}', End.MARK),
    (CHAT, 'data: {"done":true}', End.MARK),
    (CHAT, '{"error":"m"}', End.MARK),
    (CHAT, '{"message":{"content":"\\"done\\":true"},"done":false}', None),
    (CHAT, '{"message":{"content":"true"},"done":false}', None),
    (CHAT, '{"done":"true"}', End.MARK),
    (CHAT, '{"done":1}', End.MARK),
    (CHAT, '{"message":{"done":true},"done":false}', None),
    (CHAT, '{"done":true', None),
    (CHAT, "true", None),
    (CHAT, "", None),
]


@pytest.mark.parametrize(("dialect", "line", "end"), LINES)
def test_what_a_line_says_of_the_end(dialect: Dialect, line: str, end: End | None) -> None:
    ends = dialect.ends
    assert ends.read(line.encode()) is end
    if end is not None and line not in ("event: done", '{"done":1}'):
        assert any(needle in line.encode() for needle in ends.needles)


@pytest.mark.parametrize("dialect", [V1, RESPONSES, MESSAGES], ids=lambda one: one.name)
def test_what_an_event_named_an_error_says_is_waited_for(dialect: Dialect) -> None:
    """Its data may come in another read than its name, and a machine that is busy may take that later than 50 ms."""
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "too many"}}
    name, data = b"event: error\n", b"data: %b\n\n" % json.dumps(error).encode()
    reads = [
        (1 * MS, HEAD),
        (2 * MS, b"%x\r\n%b\r\n" % (len(name), name)),
        (90 * MS, b"%x\r\n%b\r\n" % (len(data), data)),
    ]
    received, left = fed(reads, is_content=lambda _: False, ends=dialect.ends)
    assert not left
    assert received.marked is End.MARK
    decoder = dialect.decoder()
    decoder.feed(received.reads().body)
    assert "too many" in (decoder.close().error or "")


@pytest.mark.parametrize("dialect", [V1, RESPONSES, MESSAGES, CHAT], ids=lambda one: one.name)
@pytest.mark.parametrize(
    "body",
    [
        'event: error\ndata: {"message":"busy"}\n\n',
        "event: error\ndata: busy\n\n",
        'data: {"code":503,"message":"busy"}\n\n',
        '{"code":503,"message":"busy"}\n',
    ],
)
def test_behind_an_error_no_text_is_waited_for(dialect: Dialect, body: str) -> None:
    """Servers leave open what they have failed; behind a finish_reason before any text, text is waited for for 10 s."""
    received = recorded.request(dialect).received
    received.add(HEAD + b"%x\r\n%b\r\n" % (len(body), body.encode()), [], 0)
    received.look()
    assert received.until == 1000 * MS
    decoder = dialect.decoder()
    decoder.feed(received.reads().body)
    assert decoder.close().error == "busy"


@pytest.mark.parametrize(
    ("words", "until"), [("the model was unloaded in mid-answer", 1000 * MS), ("\x01\x02 is all", None)]
)
def test_words_in_place_of_a_row_are_a_servers_last(words: str, until: int | None) -> None:
    """EricLBuehler/mistral.rs#1874: it says its errors as plain text, and leaves the answer open."""
    received = recorded.request(V1).received
    body = f"data: {words}\n\n".encode()
    received.add(HEAD + b"%x\r\n%b\r\n" % (len(body), body), [], 0)
    received.look()
    assert received.until == until


@pytest.mark.parametrize("dialect", [V1, CHAT], ids=lambda one: one.name)
@pytest.mark.parametrize("body", ['data: {"message":"number 3 in the queue"}\n\n', '{"status":"queued","code":102}\n'])
def test_words_that_are_no_error_end_no_silence(dialect: Dialect, body: str) -> None:
    received = recorded.request(dialect).received
    received.add(HEAD + b"%x\r\n%b\r\n" % (len(body), body.encode()), [], 0)
    assert not received.look()
    assert received.until is None


@pytest.mark.parametrize("size", [1, 5000])
@pytest.mark.parametrize("cut", [False, True])
def test_lines_that_end_in_a_return_alone_are_asked_one_by_one(cut: bool, size: int) -> None:
    """One read may bring a finish_reason and the counts behind it; the decoder reads such lines, too."""
    piece: dict[str, object] = {"choices": [{"delta": {"content": "a" * size}}]}
    counts: dict[str, object] = {"choices": [], "usage": {}}
    last: dict[str, object] = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    body = b"".join(b"data: %b\r\r" % json.dumps(row).encode() for row in (piece, last, counts))
    reads = [body[i : i + 1] for i in range(len(body))] if cut else [body]
    received, _ = fed(
        [(0, b"HTTP/1.1 200 OK\r\n\r\n"), *((i, data) for i, data in enumerate(reads))], 10**6, ends=V1.ends
    )
    assert received.marked is End.FINISH


def gemini(text: str, **more: str) -> dict[str, object]:
    return {"candidates": [{"content": {"parts": [{"text": text}]}, **more}]}


WHOLE, OPEN = ndjson(message("a"), message("b"), last()), sse(A, B)
SILENT = {
    **{f"done is {said}": (CHAT, WHOLE.replace("true", said), True) for said in ("1", '"True"', "1.0")},
    "finishReason (Gemini)": (V1, sse(gemini("a"), gemini("b"), gemini("", finishReason="STOP")), True),
    "an envelope": (V1, sse({"data": A}, {"data": B}, {"data": finish()}), True),
    "a flag in the choice": (V1, sse(A, B, with_choice(delta(), is_end=True)), True),
    "llama.cpp's own": (V1, sse({"content": "a", "stop": False}, {"content": "", "stop": True}), True),
    "no end": (V1, OPEN, False),
    "a whole message, of which more may come": (V1, sse({"choices": [{"message": {"content": "a"}}]}), False),
    "a reason with every piece": (V1, sse(*(gemini(text, finishReason="STOP") for text in "abc")), False),
}


@pytest.mark.parametrize("name", SILENT)
def test_an_end_that_no_needle_finds_is_found_in_a_silence(name: str) -> None:
    dialect, body, over = SILENT[name]
    made = recorded.request(dialect)
    received, begin = made.received, recorded.T_SEND
    received.add(HEAD, [], begin)
    lines = body.encode().splitlines(keepends=True)
    for i, line in enumerate(lines):
        received.add(chunk(line), [], begin + i * MS)
    while received.look_at is not None and received.look_at <= begin + 2000 * MS:
        received.look()
    assert (received.marked is End.FINISH) is over
    assert received.until is None or received.until <= begin + (1000 + len(lines)) * MS
    assert over is (received.until is not None and received.expire(begin + 2000 * MS))
    if over:
        assert (made.finish().outcome, received.failure) == (Outcome.OK, None)


def test_pieces_of_text_hold_no_needle() -> None:
    piece = json.dumps({"choices": [{"index": 0, "delta": {"content": " the"}, "finish_reason": None}]}).encode()
    assert not any(needle in piece for needle in V1.ends.needles)
    line = json.dumps({"message": {"role": "assistant", "content": " the"}, "done": False}).encode()
    assert not any(needle in line for needle in CHAT.ends.needles)


@pytest.mark.parametrize(
    "name", ["chat", "generate", "generate-raw", "chat-one-token", "chat-runner-died-0", "v1-chat", "v1-completions"]
)
def test_a_recorded_stream_has_its_mark_in_its_last_line(name: str) -> None:
    found = recorded.load(name)
    made = recorded.request(found.dialect)
    feed(made.received, found.reads, found.t_eof)
    lines = [line for line in made.received.reads().body.split(b"\n") if line]
    ends = found.dialect.ends
    said = [ends.read(line) for line in lines]
    assert said[-1] is End.MARK
    assert said.count(End.MARK) == 1
    assert said.count(End.FINISH) == (1 if name.startswith("v1") else 0)
