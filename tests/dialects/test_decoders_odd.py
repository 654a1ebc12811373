"""Answers in shapes that servers in the wild send: what of them is text, whether they are whole, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from support.odd_streams import CHAT, COMPLETIONS, GENERATE, LATE, V1, decode, lines_looked_at

from loadtest.dialects import (
    Dialect,
)
from loadtest.dialects.answers.decoding import StreamDecoder


@dataclass(frozen=True, slots=True)
class Case:
    dialect: Dialect
    body: str
    seen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    done: bool = True
    error: str | None = None  # part of the sentence
    hint: str | None = None
    notes: list[str] = field(default_factory=list)  # part of each
    doubts: list[str] = field(default_factory=list)


def sse(*payloads: str) -> str:
    return "".join(f"data: {payload}\n\n" for payload in payloads)


def delta(**names: Any) -> str:
    return json.dumps({"model": "m", "choices": [{"index": 0, "delta": names, "finish_reason": None}]})


def choice(**names: Any) -> str:
    return json.dumps({"choices": [names]})


def chat(content: Any, **names: Any) -> str:
    row = {"model": "m", "message": {"role": "assistant", "content": content, **names}, "done": False}
    return json.dumps(row) + "\n"


def finish(reason: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


A, STOP, DONE = delta(content="a"), finish("stop"), "data: [DONE]\n\n"
END = '{"model":"m","done":true,"done_reason":"stop"}\n'
BARE = '{"choices":[{"delta":{"reasoning_content":"%s"}}]}'
PART = [{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}]

TEXTS = {
    "parts": Case(V1, sse(delta(content=PART), STOP), ["ab"]),
    "a thinking part": Case(
        V1,
        sse(delta(content=[{"type": "thinking", "thinking": [{"type": "text", "text": "r"}]}]), A, STOP),
        ["a"],
        ["r"],
    ),
    "a reasoning part before text": Case(
        V1, sse(delta(content=[{"type": "reasoning", "text": "r"}, {"type": "text", "text": "a"}]), STOP), ["a"], ["r"]
    ),
    "an object with text": Case(V1, sse(delta(content={"type": "text", "text": "a"}), STOP), ["a"]),
    "a value in an object": Case(V1, sse(delta(content=[{"type": "text", "text": {"value": "a"}}]), STOP), ["a"]),
    "a list of strings": Case(V1, sse(delta(content=["a", "b", None]), STOP), ["ab"]),
    "an image is no text": Case(V1, sse(delta(content=[{"type": "image_url", "image_url": {"url": "x"}}]), STOP)),
    "a number": Case(V1, sse(delta(content=5), A, STOP), ["5", "a"], notes=["a number"]),
    "a delta that is a string": Case(V1, sse(choice(delta="a"), STOP), ["a"]),
    "parts in completions": Case(
        COMPLETIONS, sse(choice(text=PART), choice(text="c", finish_reason="stop")), ["ab", "c"]
    ),
    "parts in a whole answer": Case(
        V1, json.dumps({"choices": [{"message": {"content": PART}, "finish_reason": "stop"}]}), ["ab"]
    ),
    "one choice without a list": Case(V1, sse('{"choices":{"delta":{"content":"a"},"finish_reason":"stop"}}'), ["a"]),
    "a refusal is read": Case(V1, sse(delta(content=None, refusal="no"), STOP), ["no"]),
    "a function call of old": Case(
        V1,
        sse(delta(function_call={"name": "f", "arguments": ""}), delta(function_call={"arguments": "{}"}), STOP),
        [],
        ["f", "{}"],
    ),
    "details of reasoning beside it": Case(
        V1,
        sse(delta(reasoning="r", reasoning_details=[{"type": "reasoning.text", "text": "r"}]), A, STOP),
        ["a"],
        ["r"],
    ),
    "the text under two names": Case(V1, sse(delta(content="a", reasoning_content="a"), STOP), ["a"]),
    "reasoning under an unknown name": Case(
        V1, sse(delta(musing="r"), delta(musing="s"), A, STOP), ["a"], ["r", "s"], notes=["'musing'"]
    ),
    "an unknown mark beside text makes no second piece": Case(
        V1, sse(delta(content="a", language="en"), STOP), ["a"], notes=["'language'"]
    ),
    "names without text": Case(
        V1,
        sse(
            delta(role="assistant", id="x", type="t", name="n", annotations=["x"], audio={"data": "x"}, channel="c"),
            A,
            STOP,
        ),
        ["a"],
    ),
    "the whole answer once more": Case(
        V1,
        sse(A, A, choice(message={"role": "assistant", "content": "aa"}, finish_reason="stop")),
        ["a", "a"],
        notes=["repeats"],
    ),
    "two choices": Case(
        V1, sse(A, choice(index=1, delta={"content": "b"}), STOP), ["a", "b"], doubts=["more than one choice"]
    ),
    "ollama: parts": Case(CHAT, chat(PART) + END, ["ab"]),
    "ollama: a response of parts": Case(GENERATE, json.dumps({"response": PART, "done": False}) + "\n" + END, ["ab"]),
    "ollama: an unknown name": Case(CHAT, chat("", musing="r") + END, [], ["r"], notes=["'musing'"]),
    "ollama: a response where a message is due": Case(CHAT, '{"response":"a","done":false}\n' + END, ["a"]),
    "ollama: a message where a response is due": Case(GENERATE, chat("a") + END, ["a"]),
    "ollama: the whole answer once more": Case(
        CHAT, chat("a") + chat("b") + '{"message":{"content":"ab"},"done":true}\n', ["a", "b"], notes=["repeats"]
    ),
    "halves of a character": Case(
        V1,
        sse(r'{"choices":[{"delta":{"content":"\ud83d"}}]}', r'{"choices":[{"delta":{"content":"\ude00"}}]}', STOP),
        ["\ud83d", "\ude00"],
    ),
    "ollama: halves of a character": Case(
        CHAT,
        '{"message":{"content":"\\ud83d"},"done":false}\n{"message":{"content":"\\ude00"},"done":false}\n' + END,
        ["\ud83d", "\ude00"],
    ),
    "NaN and Infinity": Case(
        V1, sse('{"choices":[{"delta":{"content":"a"},"logprobs":NaN}],"x":-Infinity}', STOP), ["a"]
    ),
    "a number beyond a double": Case(V1, sse('{"choices":[{"delta":{"content":"a"}}],"x":1e400}', STOP), ["a"]),
    "a raw control character": Case(V1, sse('{"choices":[{"delta":{"content":"a\tb"}}]}', STOP), ["a\tb"]),
}

ENDS = {
    **{
        reason: Case(V1, sse(A, finish(reason)) + DONE, ["a"])
        for reason in ("length", "tool_calls", "function_call", "content_filter", "STOP")
    },
    **{
        f"{reason} is a failure": Case(
            V1, sse(A, finish(reason)) + DONE, ["a"], done=False, error=f"'{reason}'", hint="[DONE]"
        )
        for reason in ("abort", "error", "cancelled", "Cancelled", "network_error", "insufficient_system_resource")
    },
    "abort in an object (SGLang)": Case(
        V1, sse(A, finish({"type": "abort", "message": "too busy"})), ["a"], done=False, error="'abort': too busy"
    ),
    "stop in an object": Case(V1, sse(A, finish({"type": "stop", "matched": 2})), ["a"]),
    "an unknown reason": Case(V1, sse(A, finish("sunset")), ["a"], doubts=["'sunset'"]),
    "a text that means none": Case(V1, sse(A, finish("null")), ["a"], done=False),
    "llama-swap loads a model first": Case(
        V1,
        sse(BARE % "llama-swap", BARE % " loading", BARE % ".", delta(role="assistant"), A, STOP),
        ["a"],
        notes=["a gateway wrote into the answer before the model did"],
    ),
    "bare chunks of text alone": Case(V1, sse('{"choices":[{"delta":{"content":"a"}}]}', A, STOP), ["a", "a"]),
    "bare chunks that think": Case(V1, sse(BARE % "b", BARE % "c", STOP), [], ["b", "c"]),
    "[DONE] without a reason": Case(V1, sse(A) + DONE, ["a"], done=False, hint="without a finish_reason"),
    "ollama: abort": Case(
        CHAT, chat("a") + '{"done":true,"done_reason":"abort"}\n', ["a"], done=False, error="'abort'"
    ),
    "ollama: unknown": Case(CHAT, chat("a") + '{"done":true,"done_reason":"dusk"}\n', ["a"], doubts=["'dusk'"]),
    "ollama: no reason": Case(CHAT, chat("a") + '{"done" : true}\n', ["a"]),
    "more after [DONE]": Case(
        V1, sse(A, STOP) + DONE + sse(A, '{"error":"late"}') + ": ping\n\n", ["a"], doubts=[*LATE, "wrong: 'late'"]
    ),
    "more after done": Case(
        CHAT, chat("a") + END + chat("b") + '{"error":"late"}\n', ["a"], doubts=[*LATE, "wrong: 'late'"]
    ),
    "no blank before [DONE]": Case(V1, sse(A, STOP) + "data:[DONE]\r\n\r\n" + sse(A), ["a"], doubts=[*LATE]),
    "[DONE] as a JSON string": Case(V1, sse(A, STOP) + 'data: "[DONE]"\n\n' + sse(A), ["a"], doubts=[*LATE]),
    "an event named done": Case(V1, sse(A, STOP) + "event: done\ndata: bye\n\n" + sse(A), ["a"], doubts=[*LATE]),
    "an event of another name": Case(V1, sse(A) + "event: ping\ndata: ping\n\n" + sse(STOP), ["a"], notes=["'ping'"]),
}

FRAMES = {
    "lines end in returns alone": Case(V1, (sse(A, A, STOP) + DONE).replace("\n", "\r"), ["a", "a"]),
    "ends of lines mixed": Case(V1, f"data: {A}\r\rdata: {A}\r\n\r\ndata: {STOP}\n\n", ["a", "a"]),
    "NDJSON of an OpenAI server": Case(V1, f"{A}\n{A}\n{STOP}\n[DONE]\n{A}\n", ["a", "a"], doubts=[*LATE]),
    "events of an Ollama server": Case(CHAT, sse(chat("a").strip(), chat("b").strip(), END.strip()), ["a", "b"]),
    "Ollama's rows from an OpenAI server": Case(V1, chat("a") + END, ["a"], notes=["another API"]),
    "OpenAI's events from an Ollama server": Case(CHAT, sse(A, STOP) + DONE, ["a"], notes=["another API"]),
    "a whole answer of many lines": Case(
        V1, json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}, indent=1), ["a"]
    ),
    "ollama: a whole answer of many lines": Case(
        CHAT, json.dumps({"message": {"content": "a"}, "done": True}, indent=1) + "\n", ["a"]
    ),
    "ollama: a byte order mark": Case(CHAT, "\ufeff" + chat("a") + END, ["a"]),
    "no blank lines, garbage between": Case(
        V1, f"data: oops\ndata: {A}\n\n" + sse(STOP), ["a"], error="not a JSON object"
    ),
    "nothing": Case(V1, "", done=False, hint="the server's log may say why"),
}

ERRORS = {
    "a field (llama.cpp)": Case(
        V1,
        sse(A, A) + 'error: {"code":500,"message":"out of memory"}\n\n' + DONE,
        ["a", "a"],
        done=False,
        error="out of memory",
        hint="[DONE]",
    ),
    "an event": Case(V1, sse(A) + "event: error\ndata: plain words\n\n", ["a"], done=False, error="plain words"),
    "an event of many lines": Case(V1, 'event: error\ndata: {"message":\ndata: "m"}\n\n', done=False, error="m"),
    "an event without data": Case(V1, sse(A) + "event: error\n\n", ["a"], done=False, error="without a text"),
    "true, and a message": Case(V1, sse('{"error":true,"message":"m"}'), done=False, error="m"),
    "in a choice (OpenRouter)": Case(
        V1,
        sse(A, choice(delta={}, error={"code": 502, "message": "m"}, finish_reason="error")),
        ["a"],
        done=False,
        error="m",
    ),
    "in a list": Case(V1, '[{"error":{"code":400,"message":"m"}}]', done=False, error="m"),
    "code and message": Case(V1, '{"code":50508,"message":"too busy","data":null}', done=False, error="too busy"),
    "success false": Case(CHAT, '{"success":false,"msg":"m"}', done=False, error="m"),
    "errors": Case(V1, '{"errors":[{"message":"m"}],"success":false}\n', done=False, error="m"),
    "detail": Case(CHAT, '{"detail":"Not Found"}', done=False, error="Not Found"),
    "a message alone": Case(V1, '{"message":"no Route matched"}', done=False, error="no Route matched"),
    "MiniMax": Case(V1, '{"choices":null,"base_resp":{"status_code":1008,"status_msg":"m"}}', done=False, error="m"),
    "an envelope after text": Case(
        V1, sse(A, '{"code":500,"msg":"overloaded"}'), ["a"], done=False, error="overloaded"
    ),
    "error_code and text, after text (FastChat)": Case(
        V1,
        sse(A, '{"text":"out of memory","error_code":50002}') + DONE,
        ["a"],
        done=False,
        error="out of memory",
        hint="[DONE]",
    ),
    "text and a code are no error": Case(V1, sse('{"text":"a","code":1}', A, STOP), ["a"]),
    "ollama: an envelope after text": Case(CHAT, chat("a") + '{"code":7,"msg":"m"}\n', ["a"], done=False, error="m"),
    "no error": Case(V1, sse('{"code":0,"message":"ok"}', A, STOP), ["a"]),
    "text": Case(V1, "upstream is down\n", done=False, error="it says 'upstream is down'"),
    "a web page": Case(
        CHAT,
        "<!DOCTYPE html>\n<html><head><title>Sign &amp; in</title>",
        done=False,
        error="a web page, titled 'Sign & in'",
    ),
    "JSON of something else": Case(V1, '{"version":"1"}', done=False, error="""it says '{"version":"#"}'"""),
    "JSON of something else, two rows": Case(
        V1, sse('{"a":"b"}', '{"c":"d"}'), done=False, error="""it says '{"c":"d"}'"""
    ),
    "escapes are shown": Case(
        V1, sse(r'{"error":"\u001b]0;x\u0007\u202e\ud83d"}'), done=False, error=r"\x1b]0;x\x07\u202e"
    ),
}

WORDS = ["The", " cat", " sat", " on", " the", " mat"]
SO_FAR = ["".join(WORDS[:upto]) for upto in range(1, len(WORDS) + 1)]
BROKEN = [*SO_FAR[:3], SO_FAR[3] + "\ufffd", SO_FAR[4] + " ", *(SO_FAR[5] + "!" * n for n in range(9))]
COUNTS = '{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":%d}}'
TWICE = [word for word in WORDS for _ in range(2)]


def deltas(texts: list[str], name: str = "content") -> list[str]:
    return [delta(**{name: text}) for text in texts]


REPEATED = {
    "all text so far in each": Case(V1, sse(*deltas(SO_FAR), STOP), SO_FAR, doubts=["repeats all text before it"]),
    "ollama: all text so far in each": Case(
        CHAT, "".join(map(chat, SO_FAR)) + END, SO_FAR, doubts=["repeats all text before it"]
    ),
    "all text so far, a character cut and pieces that add nothing": Case(
        V1, sse(*deltas([*BROKEN, BROKEN[-1]]), STOP), [*BROKEN, BROKEN[-1]], doubts=["repeats all text before it"]
    ),
    "all reasoning so far, then all text so far": Case(
        V1,
        sse(*deltas(SO_FAR, "reasoning"), *deltas(SO_FAR), STOP),
        SO_FAR,
        SO_FAR,
        doubts=["repeats all text before it"],
    ),
    "each event twice": Case(V1, sse(*deltas(TWICE), STOP, STOP), TWICE, doubts=["was sent twice"]),
    "ollama: each event twice": Case(CHAT, "".join(map(chat, TWICE)) + END + END, TWICE, doubts=["was sent twice"]),
    "reasoning and text, each event twice": Case(
        V1, sse(*deltas(TWICE, "reasoning"), *deltas(TWICE), STOP), TWICE, TWICE, doubts=["was sent twice"]
    ),
    "each event twice, and half as many tokens counted": Case(
        V1, sse(*deltas(TWICE), STOP, COUNTS % 6), TWICE, doubts=["was sent twice"]
    ),
    "a model that says each word twice, by its count": Case(V1, sse(*deltas(TWICE), STOP, COUNTS % 12), TWICE),
    "one text again and again": Case(V1, sse(*deltas(["a "] * 12), STOP), ["a "] * 12),
    "a token that another begins with": Case(
        V1, sse(*deltas(["a", "ab", "c", "cd", "cde", "f"]), STOP), ["a", "ab", "c", "cd", "cde", "f"]
    ),
    "a few words said twice": Case(V1, sse(*deltas(["no", "no", "yes", "yes"]), STOP), ["no", "no", "yes", "yes"]),
    "ever longer pieces": Case(V1, sse(*deltas(["a", "bb", "ccc", "dddd"]), STOP), ["a", "bb", "ccc", "dddd"]),
}

CASES = {
    f"{group}: {name}": case
    for group, cases in (
        ("text", TEXTS),
        ("end", ENDS),
        ("frame", FRAMES),
        ("error", ERRORS),
        ("repeated", REPEATED),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("name", CASES)
def test_a_shape(name: str, step: int) -> None:
    case = CASES[name]
    events, ending = decode(case.dialect, case.body.encode(), step)
    assert [text for i, text in enumerate(events.texts) if i not in events.hidden] == case.seen
    assert [events.texts[i] for i in sorted(events.hidden)] == case.unseen
    assert ending.done == case.done
    for said, expected in ((ending.error, case.error), (ending.hint, case.hint)):
        assert (said is None) == (expected is None), said
        assert (expected or "") in (said or "")
    for sentences, parts in ((ending.notes, case.notes), (ending.doubts, case.doubts)):
        assert len(sentences) == len(parts), sentences
        assert all(part in sentence for part, sentence in zip(parts, sentences, strict=True))


def test_halves_of_a_character_meet_in_the_answer_and_one_alone_is_replaced() -> None:
    events, _ = decode(V1, TEXTS["halves of a character"].body.encode())
    assert (events.answer, events.said) == ("\N{GRINNING FACE}", "\N{GRINNING FACE}")
    events, _ = decode(V1, sse(r'{"choices":[{"delta":{"content":"\ud83d!"}}]}').encode())
    assert orjson.loads(orjson.dumps(events.answer)) == "\ufffd!"


@pytest.mark.parametrize("dialect", [CHAT, V1], ids=lambda dialect: dialect.name)
def test_blank_lines_are_passed_over(dialect: Dialect, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = lines_looked_at(monkeypatch, StreamDecoder)
    text = '{"message":{"content":"a"},"done":false}\n' if dialect is CHAT else sse(*deltas(["a"]))
    events, _ = decode(dialect, b"\n" * 1000 + text.encode())
    assert (events.texts, lines.count(b"")) == (["a"], 0)


def test_equal_failures_read_alike() -> None:
    def sentences(pattern: str) -> set[str | None]:
        return {decode(CHAT, pattern.replace("N", str(n * 7919)).encode())[1].error for n in range(1, 25)}

    assert (
        len(sentences(chat("a") + '{"model":"m","created_at":"2026-01-31T12:00:00.N","id":"chatcmpl-abcdeN","mess\n'))
        == 1
    )
    assert (
        len(sentences('{"error":"request 1e4d9a0c-0d7b-4b57-9f0a-1234567890ab at 2026-01-31T12:00:01.N failed"}\n'))
        == 1
    )
    assert len(sentences("gateway trace N\n")) == 1
    assert sentences('{"error":"the prompt has 5000 tokens, 4096 fit"}\n') == {"the prompt has 5000 tokens, 4096 fit"}


STAMPS = {
    "zero time": (["0001-01-01T00:00:00Z"] * 3, "not every piece"),
    "beyond 64 bits": (["9999-01-01T00:00:00.123456789Z"] * 3, "not every piece"),
    "no instant": (["2026-01-31T12:00:00.1Z", "now", "2026-01-31T12:00:00.3Z"], "not every piece"),
    "no such zone": (["2026-01-31T12:00:00.1+99:99"] * 2, "not every piece"),
    "backwards": (["2026-01-31T12:00:00.300000000Z", "2026-01-31T12:00:00.200000000Z"], "backwards"),
    "one for all": (["2026-01-31T12:00:00.123456789Z"] * 3, "one instant"),
    "whole seconds": (["2026-01-31T12:00:00Z", "2026-01-31T12:00:00Z", "2026-01-31T12:00:01Z"], "whole seconds"),
}


@pytest.mark.parametrize("name", STAMPS)
def test_instants_of_the_server_that_are_none_are_unknown_and_said(name: str) -> None:
    stamps, note = STAMPS[name]
    rows = [{"created_at": stamp, "message": {"content": f"t{i}"}, "done": False} for i, stamp in enumerate(stamps)]
    events, ending = decode(CHAT, "".join(json.dumps(row) + "\n" for row in rows).encode() + END.encode())
    assert len(events) == len(stamps)
    assert events.created == []
    assert [note in said for said in ending.notes] == [True]
    assert (ending.done, ending.error) == (True, None)
