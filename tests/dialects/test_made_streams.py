"""What decoders take of streams that no recording has."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pytest
from support.odd_streams import CHAT, COMPLETIONS, GENERATE, V1, decode

from loadtest.dialects import (
    Dialect,
)
from loadtest.dialects.answers.errors.server_errors import GUARDED_REPEATS


@dataclass(frozen=True, slots=True)
class Case:
    dialect: Dialect
    body: str
    seen: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    finish: str | None = None
    done: bool = True
    prompt: int | None = None
    output: int | None = None
    error: str | None = None  # part of the sentence
    hint: str | None = None


def delta(text: str) -> str:
    return f'{{"model":"m","choices":[{{"index":0,"delta":{{"content":{json.dumps(text, ensure_ascii=False)}}},"finish_reason":null}}]}}'


FINISH = '{"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'
USAGE = '{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}'
DONE = "data: [DONE]\n\n"
OLLAMA_DONE = '{"done":true,"done_reason":"stop","prompt_eval_count":5,"eval_count":2}\n'


def sse(*payloads: str) -> str:
    return "".join(f"data: {payload}\n\n" for payload in payloads)


def chat(text: str) -> str:
    return json.dumps({"message": {"role": "assistant", "content": text}, "done": False}, ensure_ascii=False) + "\n"


CASES = {
    "plain": Case(V1, sse(delta("a"), delta("b"), FINISH, USAGE) + DONE, ["a", "b"], [], "stop", prompt=7, output=2),
    "comments, pings, event names and ids": Case(
        V1,
        ": ping - 2026\n\n:\n\nevent: message\nid: 1\nretry: 5\n" + sse(delta("a")) + ":\n" + sse(FINISH),
        ["a"],
        finish="stop",
    ),
    "no blank after data:": Case(V1, f"data:{delta('a')}\n\ndata:{FINISH}\n\ndata:[DONE]\n\n", ["a"], finish="stop"),
    "several data lines make one event": Case(
        V1, 'data: {"choices":\ndata: [{"delta":\ndata:  {"content":"a"}}]}\n\n' + sse(FINISH), ["a"], finish="stop"
    ),
    "no blank lines between events": Case(V1, f"data: {delta('a')}\ndata: {FINISH}\n", ["a"], finish="stop"),
    "a byte order mark": Case(V1, "\ufeff" + sse(delta("a"), FINISH), ["a"], finish="stop"),
    "role alone, null and empty content are no token": Case(
        V1,
        sse(
            '{"choices":[{"delta":{"role":"assistant","content":null}}]}',
            '{"choices":[{"delta":{"role":"assistant","content":""}}]}',
            '{"choices":[{"delta":{"role":"assistant"}}]}',
            '{"choices":[{"delta":null}]}',
            '{"choices":[null]}',
            delta("a"),
            FINISH,
        ),
        ["a"],
        finish="stop",
    ),
    "choices null, missing, empty": Case(
        V1, sse('{"choices":null}', '{"id":"x"}', '{"choices":[]}', delta("a"), FINISH), ["a"], finish="stop"
    ),
    "reasoning under each name": Case(
        V1,
        sse(
            '{"choices":[{"index":0,"delta":{"reasoning_content":"r1"}}]}',
            '{"choices":[{"index":0,"delta":{"reasoning":"r2","content":""}}]}',
            '{"choices":[{"index":0,"delta":{"thinking":"r3"}}]}',
            '{"choices":[{"index":0,"delta":{"reasoning":"same","reasoning_content":"same"}}]}',
            delta("a"),
            FINISH,
        ),
        ["a"],
        ["r1", "r2", "r3", "same"],
        "stop",
    ),
    "tool calls": Case(
        V1,
        sse(
            '{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}}]}',
            '{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"x\\":1}"}}]}}]}',
            '{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}',
        ),
        [],
        ["f", '{"x":1}'],
        "tool_calls",
    ),
    "text on the finish chunk": Case(
        V1, sse('{"choices":[{"delta":{"content":"end"},"finish_reason":"length"}]}'), ["end"], finish="length"
    ),
    "usage on the finish chunk, no [DONE] (transformers serve)": Case(
        V1,
        sse(
            '{"choices":[{"delta":{"role":"assistant"}}]}',
            delta("a"),
            '{"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}',
        ),
        ["a"],
        finish="stop",
        prompt=3,
        output=1,
    ),
    "usage on every chunk (vLLM continuous_usage_stats)": Case(
        V1,
        sse(
            '{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}',
            '{"choices":[{"delta":{"content":"b"}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
            FINISH,
        ),
        ["a", "b"],
        finish="stop",
        prompt=3,
        output=2,
    ),
    "a zero usage after a real one": Case(
        V1,
        sse(delta("a"), FINISH, USAGE, '{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0}}'),
        ["a"],
        finish="stop",
        prompt=7,
        output=2,
    ),
    "usage null": Case(V1, sse('{"choices":[],"usage":null}', delta("a"), FINISH), ["a"], finish="stop"),
    "llama.cpp: timings without usage": Case(
        V1,
        sse(
            '{"choices":[{"delta":{"role":"assistant","content":null}}]}',
            delta("a"),
            '{"choices":[{"finish_reason":"length","delta":{}}],'
            '"timings":{"cache_n":4,"prompt_n":6,"prompt_ms":12.5,"predicted_n":30,"predicted_ms":300.0}}',
        )
        + DONE,
        ["a"],
        finish="length",
        prompt=10,
        output=30,
    ),
    "an error, then [DONE] (vLLM)": Case(
        V1,
        sse(delta("a"), '{"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}') + DONE,
        ["a"],
        done=False,
        error="EngineCore died",
        hint="without a finish_reason",
    ),
    "an error and the end (llama.cpp)": Case(
        V1, sse(delta("a"), '{"error":{"code":500,"message":"no memory"}}'), ["a"], done=False, error="no memory"
    ),
    "an event named error": Case(
        V1, "event: error\n" + sse('{"message":"overloaded"}'), [], done=False, error="overloaded"
    ),
    "an error object of older vLLM": Case(
        V1, sse('{"object":"error","message":"too long","code":400}'), [], done=False, error="too long"
    ),
    "error null is none": Case(V1, sse('{"error":null,"choices":[]}', delta("a"), FINISH), ["a"], finish="stop"),
    "[DONE] without a finish_reason": Case(
        V1, sse(delta("a")) + DONE, ["a"], done=False, hint="--interrupt_requests false"
    ),
    "a plain JSON error with status 200": Case(
        V1, '{\n  "error": {"message": "busy"}\n}', [], done=False, error="busy"
    ),
    "a whole answer, not streamed": Case(
        V1,
        '{"choices":[{"message":{"content":"all of it"},"finish_reason":"stop"}],'
        '"usage":{"prompt_tokens":1,"completion_tokens":3}}\n',
        ["all of it"],
        finish="stop",
        prompt=1,
        output=3,
    ),
    "a web page": Case(V1, "<html>\nproxy login\n</html>\n", [], done=False, error="the answer is a web page"),
    "garbage in an event": Case(
        V1,
        sse(delta("a"), '{"choices": oops', delta("b"), FINISH),
        ["a", "b"],
        finish="stop",
        error="not a JSON object",
    ),
    "an event that is no object": Case(V1, sse("hello", delta("a"), FINISH), ["a"], finish="stop", error="not a JSON"),
    "an error by its object alone": Case(
        V1,
        sse(delta("a"), '{"object":"error","model":"m","choices":[]}'),
        ["a"],
        done=False,
        error="error",
    ),
    "an empty data line": Case(V1, "data:\n\n" + sse(delta("a"), FINISH), ["a"], finish="stop"),
    "completions": Case(
        COMPLETIONS,
        sse('{"choices":[{"text":"a"}]}', '{"choices":[{"text":"","finish_reason":"stop"}]}', USAGE) + DONE,
        ["a"],
        finish="stop",
        prompt=7,
        output=2,
    ),
    "line separators that are no line ends": Case(
        V1, sse(delta("\u2028\u0085\u2029x"), FINISH), ["\u2028\u0085\u2029x"], finish="stop"
    ),
    "no newline at the very end": Case(V1, sse(delta("a")) + "data: " + FINISH, ["a"], finish="stop"),
    "cut inside an event": Case(V1, sse(delta("a")) + 'data: {"choi', ["a"], done=False, hint="middle of a line"),
    "nothing at all": Case(V1, "", [], done=False, hint="empty"),
    "ollama: thinking, then text": Case(
        CHAT,
        '{"message":{"role":"assistant","content":"","thinking":"hm"},"done":false}\n' + chat("a") + OLLAMA_DONE,
        ["a"],
        ["hm"],
        "stop",
        prompt=5,
        output=2,
    ),
    "ollama: tool calls": Case(
        CHAT,
        '{"message":{"role":"assistant","content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":1}}}]},'
        '"done":false}\n' + OLLAMA_DONE,
        [],
        ['f{"x":1}'],
        "stop",
        prompt=5,
        output=2,
    ),
    "ollama: generate with thinking and empty lines": Case(
        GENERATE,
        '{"response":"","thinking":"hm","done":false}\n{"response":"","done":false}\n\n{"response":"a","done":false}\n'
        + OLLAMA_DONE,
        ["a"],
        ["hm"],
        "stop",
        prompt=5,
        output=2,
    ),
    "ollama: separators, escapes, unknown keys": Case(
        CHAT,
        chat("\u2028x\u0085")
        + '{"message":{"content":"\\u003cb\\u003e"},"logprobs":[{"token":"<"}],"done":false}\n'
        + OLLAMA_DONE,
        ["\u2028x\u0085", "<b>"],
        [],
        "stop",
        prompt=5,
        output=2,
    ),
    "ollama: done_reason before done, 500 kB of context, a newer count": Case(
        GENERATE,
        '{"response":"a","done":false}\n'
        + json.dumps({"done_reason": "length", "done": True, "context": [128_000] * 60_000, "eval_count": 1})
        + "\n",
        ["a"],
        [],
        "length",
        output=1,
    ),
    "ollama 0.3: an error as the only line of a 200": Case(
        CHAT, '{"error":"no slots available after 10 retries"}\n', [], done=False, error="no slots available"
    ),
    "ollama: an error object": Case(CHAT, '{"error":{"message":"m"}}\n', [], done=False, error="m"),
    "ollama: odd types": Case(
        CHAT,
        '{"message":null,"done":false}\n{"message":"x"}\n{"message":{"content":5},"created_at":7}\n'
        '{"done":true,"done_reason":3,"eval_count":"many"}\n',
        ["5"],
    ),
    "ollama: not JSON": Case(CHAT, chat("a") + "oops\n" + OLLAMA_DONE, ["a"], [], "stop", True, 5, 2, "oops"),
    "ollama: no object": Case(CHAT, "[1]\n", done=False, error="it says '[#]'"),
    "ollama: a page without a newline": Case(CHAT, "<html>", done=False, error="a web page without a title"),
    "ollama: cut inside a line": Case(CHAT, chat("a") + '{"mess', ["a"], done=False, hint="middle of a line"),
    "ollama: equal pieces, trimmed": Case(
        CHAT,
        chat("b") + (chat(" a") + chat("a\n")) * GUARDED_REPEATS,
        ["b", *[" a", "a\n"] * GUARDED_REPEATS],
        done=False,
        hint="repeat guard",
    ),
    "ollama: the first error is the cause": Case(
        CHAT, '{"error":"first"}\n{"error":"second"}\n', [], done=False, error="first"
    ),
    "the first error is the cause": Case(
        V1, sse('{"error":"first"}', '{"error":"second"}'), [], done=False, error="first"
    ),
    "cut inside a line behind the finish": Case(V1, sse(delta("a"), FINISH) + "data: {", ["a"], finish="stop"),
    "equal pieces and whole": Case(V1, sse(*[delta("a")] * 40, FINISH), ["a"] * 40, finish="stop"),
    "ollama: too few equal pieces": Case(
        CHAT, chat("b") + chat("a") * (GUARDED_REPEATS - 1), ["b", *["a"] * (GUARDED_REPEATS - 1)], done=False
    ),
    "ollama: equal pieces and whole": Case(
        CHAT, chat("a") * 40 + OLLAMA_DONE, ["a"] * 40, [], "stop", prompt=5, output=None
    ),
}


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("name", CASES)
def test_a_made_stream(name: str, step: int) -> None:
    case = CASES[name]
    bodies = [case.body.encode()]
    if not case.dialect.name.startswith("ollama"):
        bodies.append(bodies[0].replace(b"\n", b"\r\n"))
    for body in bodies:
        events, ending = decode(case.dialect, body, 4096 if step and len(body) > 100_000 else step)
        assert [text for i, text in enumerate(events.texts) if i not in events.hidden] == case.seen
        assert [events.texts[i] for i in sorted(events.hidden)] == case.unseen
        assert events.answer == "".join(case.seen)
        assert (ending.done, ending.finish_reason) == (case.done, case.finish)
        assert (ending.prompt_tokens, ending.output_tokens) == (case.prompt, case.output)
        assert (case.error or "") in (ending.error or "")
        assert (ending.error is None) == (case.error is None)
        assert (case.hint or "") in (ending.hint or "")
        assert (ending.hint is None) == (case.hint is None)


def test_the_servers_own_facts_are_kept_under_its_own_names() -> None:
    timings = {"cache_n": 4, "prompt_n": 6, "prompt_ms": 12.5}
    usage = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}
    _, ending = decode(V1, sse(json.dumps({"choices": [], "usage": usage, "timings": timings})).encode())
    assert ending.server == {"usage": usage, "timings": timings}
    _, ending = decode(CHAT, b'{"done":true,"total_duration":5,"prompt_eval_cached_count":2,"context":[1],"model":"m"}')
    assert ending.server == {"total_duration": 5, "prompt_eval_cached_count": 2}


def test_an_event_is_complete_with_its_line_not_with_the_blank_one_behind_it() -> None:
    decoder = V1.decoder()
    for piece, texts in ((f"data: {delta('a')}", []), ("\n", ["a"]), ("\n", ["a"])):
        decoder.feed(piece.encode())
        assert decoder.events.texts == texts


def test_the_engine_died_only_where_an_earlier_chunk_named_the_model_and_the_last_is_ollamas() -> None:
    nameless = '{"model":"","system_fingerprint":"fp_ollama","choices":[{"delta":{"content":""},"finish_reason":null}]}'
    assert "the engine died" in (decode(V1, sse(delta("a"), nameless).encode())[1].hint or "")
    assert decode(V1, sse(nameless, nameless).encode())[1].hint is None
    assert decode(V1, sse(delta("a"), nameless, FINISH).encode())[1].hint is None
    sign_of_life = '{"model":"","choices":[{"delta":{}}]}'  # a gateway's
    assert decode(V1, sse(delta("a"), sign_of_life).encode())[1].hint is None


@pytest.mark.parametrize("dialect", [CHAT, GENERATE, V1, COMPLETIONS])
def test_no_bytes_make_a_decoder_raise(dialect: Dialect) -> None:
    rng = random.Random(5)
    stock = [case.body.encode() for case in CASES.values() if len(case.body) < 5000]
    stock += [b'data: {"error":' + b'{"error":' * 300 + b"1" + b"}" * 301 + b"\n\n", b"\xff\xfe\n\n", b'{"a":NaN}\n']
    stock += [
        b'{"message":{"content":"","tool_calls":[{"function":{"arguments":' + b"[" * 400 + b"]" * 400 + b"}}]}}\n"
    ]
    for _ in range(1500):
        body = bytearray(rng.choice(stock) + rng.choice(stock))
        for _ in range(rng.randrange(6)):
            at = rng.randrange(len(body) or 1)
            body[at : at + rng.randrange(4)] = rng.choice([b"", b"null", b'"', b"{", b"[", b"\n", b"\r", b"\xc3", b"7"])
        _, ending = decode(dialect, bytes(body), rng.choice([0, 0, 13]))
        assert ending.error is None or "\n" not in ending.error


def test_every_ollama_event_carries_its_stamp() -> None:
    line = b'{"created_at":"2026-11-20T18:31:38.5Z","message":{"content":"a","thinking":"b"},"done":false}\n'
    events, _ = decode(CHAT, line)
    assert events.created == [1795199498_500000000] * 2
