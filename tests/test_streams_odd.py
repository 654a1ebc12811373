"""Streams as servers and gateways were reported to send them: what of each is text, how many tokens it has, what is said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from loadtest.dialects import (
    AnthropicMessages,
    ContentEvents,
    Dialect,
    Ending,
    OllamaChat,
    OllamaGenerate,
    OpenAIChat,
    OpenAICompletions,
    OpenAIResponses,
)

CHAT, GENERATE, V1, COMPLETIONS = OllamaChat("m"), OllamaGenerate("m"), OpenAIChat("m"), OpenAICompletions("m")
RESPONSES, MESSAGES = OpenAIResponses("m"), AnthropicMessages("m")


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer's bytes, and what must be made of them; an error, notes and doubts are parts of sentences."""

    dialect: Dialect
    body: str
    seen: str = "abc"
    hidden: str = ""
    output: int | None = 3
    prompt: int | None = 20
    done: bool = True
    error: str | None = None
    odd: tuple[str, ...] = ()  # notes
    doubts: tuple[str, ...] = ()


def sse(*rows: Any) -> str:
    return "".join(f"data: {row if isinstance(row, str) else json.dumps(row)}\n\n" for row in rows)


def delta(content: Any = None, **more: Any) -> dict[str, Any]:
    said = {"content": content, **more} if content is not None else more
    return {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": said}]}


def with_choice(row: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {**row, "choices": [{**row["choices"][0], **more}]}


def finish(reason: Any = "stop", **more: Any) -> dict[str, Any]:
    return {**with_choice(delta(), finish_reason=reason), **more}


def usage(output: Any = 3, prompt: Any = 20, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, **more}


A, B, C = (delta(text) for text in "abc")
COUNTS = {"id": "x", "choices": [], "usage": usage()}
DONE = "data: [DONE]\n\n"
END = sse(finish(), COUNTS) + DONE
WHOLE = sse(A, B, C) + END
LONG = "".join(f"word{i:03} " for i in range(40))
WORDS = [delta(f"word{i:03} ") for i in range(40)]


def ndjson(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def message(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "m", "message": {"role": "assistant", "content": content, **more}, "done": False}


def last(**more: Any) -> dict[str, Any]:
    facts = {"total_duration": 10**9, "load_duration": 10**6, "prompt_eval_count": 20, "prompt_eval_duration": 10**8}
    return {"model": "m", "done": True, "done_reason": "stop", **facts, "eval_count": 3, "eval_duration": 10**8} | more


def named(*rows: dict[str, Any]) -> str:
    return "".join(f"event: {row['type']}\ndata: {json.dumps(row)}\n\n" for row in rows)


def block(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def start(output: int = 1, prompt: int = 20, **more: Any) -> dict[str, Any]:
    said = {"input_tokens": prompt, "output_tokens": output, **more}
    return {"type": "message_start", "message": {"type": "message", "content": [], "usage": said}}


def stopped(**counts: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, **({"usage": counts} if counts else {})}


BLOCKS = (block("a"), block("b"), block("c"))
STOP = {"type": "message_stop"}


def response(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 0, "item_id": "i", **more}


def completed(kind: str = "completed", **more: Any) -> dict[str, Any]:
    counts = {"input_tokens": 20, "output_tokens": 3, "total_tokens": 23}
    return {"type": f"response.{kind}", "response": {"status": "completed", "output": [], "usage": counts, **more}}


PIECES = tuple(response("output_text.delta", delta=text) for text in "abc")
TEXT = {"type": "output_text", "text": "abc"}
PRETTY_ERROR = json.dumps({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota"}}, indent=2)
NO_ERROR = {"message": "", "type": "", "param": "", "code": None}

COUNTED = {
    "counts of single chunks (Cloudflare)": Stream(
        V1, sse(*(row | {"usage": usage(1, 0)} for row in (A, B, C)), finish()) + DONE, output=None, prompt=None, doubts=("do not grow",), odd=("no token of the prompt",)
    ),
    "counts of single chunks, then the whole": Stream(
        V1, sse(*(row | {"usage": usage(1, 0)} for row in (A, B, C)), finish(), COUNTS) + DONE
    ),
    "counts of the whole on every chunk": Stream(V1, sse(*(row | {"usage": usage()} for row in (A, B, C)), finish()) + DONE),
    "counts before the text alone": Stream(V1, sse(delta(role="assistant") | {"usage": usage(1)}, A, B, C, finish()) + DONE, output=None, odd=("before the end of the text",)),
    "counts in mid-text alone": Stream(V1, sse(A, B | {"usage": usage(2)}, C, finish()) + DONE, output=None, odd=("before the end of the text",)),
    "a prompt without tokens behind the counts": Stream(V1, sse(A, B, C, finish(), COUNTS, {"choices": [], "usage": usage(3, 0)}) + DONE),
    "counts under newer names beside zeros": Stream(V1, sse(A, B, C, finish(usage=usage(0, 0, input_tokens=20, output_tokens=3))) + DONE),
    "one token for forty words": Stream(V1, sse(*WORDS, finish(usage=usage(1))) + DONE, LONG, output=None, doubts=("fewer tokens than",)),
    "more tokens than any answer has": Stream(
        V1, sse(A, B, C, finish(usage=usage(2**31 - 1))) + DONE, output=None, odd=("beyond all bounds",)
    ),
    "a token for every letter": Stream(V1, sse(*map(delta, "abcabcabc"), finish(usage=usage(3))) + DONE, "abcabcabc", odd=("more than twice as many pieces",)),
    "messages: no count behind the text": Stream(MESSAGES, named(start(), *BLOCKS, stopped(), STOP), output=None),
    "messages: a prompt of none behind the text": Stream(MESSAGES, named(start(), *BLOCKS, stopped(input_tokens=0, output_tokens=3), STOP)),
    "messages: the prompt behind the text": Stream(MESSAGES, named(start(prompt=0), *BLOCKS, stopped(input_tokens=20, output_tokens=3), STOP)),
    "messages: cached parts behind the text": Stream(
        MESSAGES, named(start(prompt=0), *BLOCKS, stopped(input_tokens=5, cache_creation_input_tokens=15, output_tokens=3), STOP)
    ),
    "messages: counts null": Stream(MESSAGES, named(start(), *BLOCKS, stopped(input_tokens=None, output_tokens=3), STOP)),
    "responses: counts at the beginning alone": Stream(
        RESPONSES, named({"type": "response.created", "response": {"usage": {"input_tokens": 20, "output_tokens": 1}}}, *PIECES, completed(usage=None)), output=None, odd=("before the end of the text",)
    ),
}  # fmt: skip

DURATIONS: dict[str, tuple[dict[str, Any], str | None]] = {
    "as they are": ({}, None),
    "milliseconds but for the whole (rkllama)": ({"eval_duration": 60, "prompt_eval_duration": 350}, "too short for its tokens"),
    "constants": (dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 1), "too short for its tokens"),
    "zeros": (dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 0), "too short for its tokens"),
    "a prefill of a few ns": ({"prompt_eval_duration": 350}, "prompt_eval_duration is too short"),
    "parts longer than the whole": ({"load_duration": 10**9, "prompt_eval_duration": 10**9}, "longer than the whole"),
    "one token": ({"eval_count": 1, "eval_duration": 0}, None),
    "a whole of nothing else": ({"load_duration": None, "prompt_eval_duration": None, "eval_duration": None}, None),
}  # fmt: skip

TEXTS = {
    "a number (Cloudflare)": Stream(V1, sse(delta("a"), delta(6), delta(0), delta(True)) + END, "a60true", odd=("a number",)),
    "a number in completions": Stream(COMPLETIONS, sse({"choices": [{"text": 6}]}, {"choices": [{"text": "b"}]}) + END, "6b", odd=("a number",)),
    "ollama: a number": Stream(CHAT, ndjson(message("a"), message(6), last()), "a6", odd=("a number",)),
    "ollama: a number in generate": Stream(GENERATE, ndjson({"response": "a", "done": False}, {"response": 6, "done": False}, last()), "a6", odd=("a number",)),
    "thoughts marked beside the content (Gemini)": Stream(V1, sse(delta("hm", extra_content={"google": {"thought": True}}), A, B, C) + END, hidden="hm"),
    "a signature alone (Gemini)": Stream(V1, sse(A, B, C, delta(extra_content={"google": {"thought_signature": "AY89"}})) + END),
    "a call without index (Gemini)": Stream(V1, sse(delta(tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}])) + END, "", "f{}"),
    "a custom tool's call": Stream(V1, sse(delta(tool_calls=[{"type": "custom", "custom": {"name": "f", "input": "x"}}])) + END, "", "fx"),
    "a call that is no list": Stream(V1, sse(delta(tool_calls={"function": {"name": "f", "arguments": {"a": 1}}})) + END, "", 'f{"a":1}'),
    "a call with its name outside of function": Stream(V1, sse(delta(tool_calls=[{"name": "f", "arguments": "{}"}])) + END, "", "f{}"),
    "empty calls beside the content (vLLM)": Stream(V1, sse(*(delta(text, tool_calls=[]) for text in "abc")) + END),
    "a chunk of chat with its text where completions have it": Stream(V1, sse(*(with_choice(delta(), text=text) for text in "abc")) + END),
    "an index that counts chunks (TGI)": Stream(V1, sse(*(with_choice(row, index=i) for i, row in enumerate((A, B, C), 1)), with_choice(finish(), index=3), COUNTS) + DONE),
    "an index that counts chunks, the last with its reason": Stream(V1, sse(with_choice(A, index=1), with_choice(B, index=2), with_choice(C, index=3, finish_reason="length"), COUNTS) + DONE),
    "two choices in turns": Stream(V1, sse(A, with_choice(B, index=1), C, with_choice(A, index=1)) + END, "abca", doubts=("more than one choice",)),
    "two choices one after the other": Stream(V1, sse(A, with_choice(B, index=1), with_choice(C, index=1), COUNTS, finish()) + DONE, doubts=("more than one choice",)),
    "all of it once more, as a piece": Stream(
        V1, sse(delta("The "), delta("cat "), delta("sat"), finish(usage=usage()), delta("The cat sat")) + DONE,
        "The cat satThe cat sat", output=None, odd=("before the end of the text",), doubts=("repeats all of it",),
    ),
    "all of it once more, with the reason": Stream(
        V1, sse(delta("The "), delta("cat "), delta("sat"), with_choice(delta("The cat sat"), finish_reason="stop") | {"usage": usage()}) + DONE,
        "The cat satThe cat sat", doubts=("repeats all of it",),
    ),
    "parts of a content object": Stream(V1, sse(delta({"parts": [{"text": "a"}, {"text": "b"}]}), C) + END),
    "messages: pieces without a type": Stream(MESSAGES, named(start(), *({**piece, "delta": {"text": piece["delta"]["text"]}} for piece in BLOCKS), stopped(output_tokens=3), STOP)),
    "responses: pieces named text": Stream(RESPONSES, named(*(response("output_text.delta", text=text) for text in "abc"), completed())),
    "responses: parts of content (OpenRouter)": Stream(RESPONSES, named(*(response("content_part.delta", delta=text) for text in "abc"), completed("done")) + DONE),
    "responses: the text at its end alone": Stream(RESPONSES, named(response("output_text.done", text="abc"), completed())),
    "responses: the item at its end alone": Stream(RESPONSES, named(response("output_item.done", item={"type": "message", "content": [TEXT]}), completed())),
    "responses: all of it said four times": Stream(
        RESPONSES, named(*PIECES, response("output_text.done", text="abc"), response("content_part.done", part=TEXT), response("output_item.done", item={"id": "i", "type": "message", "content": [TEXT]}), completed(output=[{"type": "message", "content": [TEXT]}]))
    ),
    "responses: done after the first piece (OmniRoute)": Stream(RESPONSES, named(PIECES[0], response("output_text.done", text="a"), *PIECES[1:], completed())),
    "responses: arguments at their end alone": Stream(
        RESPONSES, named(response("output_item.added", item={"type": "function_call", "name": "f"}), response("function_call_arguments.done", arguments="{}"), completed()), "", "f{}"
    ),
    "responses: keepalives": Stream(RESPONSES, named({"type": "keepalive", "sequence_number": 3}, *PIECES, {"type": "response.keep_alive"}, completed())),
}  # fmt: skip

FRAMES = {
    "comments framed as data (OpenRouter behind a gateway)": Stream(V1, "data: : OPENROUTER PROCESSING\n\n" * 2 + sse(A) + "data: : OPENROUTER PROCESSING\n\n" + sse(B, C) + END),
    "framed twice": Stream(V1, WHOLE.replace("data: ", "data: data: "), odd=("more than once",)),
    **{f"a sign of life: {life}": Stream(V1, f"data: {life}\n\n" + sse(A) + f"data: {life}\n\n" + sse(B, C) + f"data: {life}\n\n" + END) for life in ("null", '""', "{}", "[]", "ping", "[PING]", '"keep-alive"', "heartbeat", "2024-04-07 20:20:50.554328", '{"type":"ping"}', '{"event": "heartbeat"}', "")},
    "an instant between events (ChatGPT)": Stream(V1, sse(A) + "2024-04-07 20:20:50.554328\n" + sse(B, C) + END, odd=("neither an event's nor JSON",)),
    "chunks framed twice": Stream(V1, "".join(f"{len(part):x}\n{part}\n" for part in (sse(A), sse(B), sse(C), sse(finish()), sse(COUNTS), DONE)), odd=("neither an event's nor JSON",)),
    "fields nobody knows": Stream(V1, sse(A) + "x-trace: 7\nmeta\n" + sse(B, C) + END, odd=("neither an event's nor JSON",)),
    "names of fields without a colon": Stream(V1, sse(A) + "data\nid\n\n" + sse(B, C) + END),
    "blanks where an empty line is due": Stream(V1, WHOLE.replace("\n\n", "\n \n\n")),
    "blanks until the answer is there (DeepSeek)": Stream(V1, " \n" * 5 + json.dumps({"choices": [{"message": {"content": "abc"}, "finish_reason": "stop"}], "usage": usage()})),
    "ollama: lines set in": Stream(CHAT, "".join(f"  {line}\n" for line in ndjson(message("a"), message("b"), message("c"), last()).splitlines())),
    "a list of rows in an event": Stream(V1, sse([A, B], [C, finish()]) + sse(COUNTS) + DONE),
    "a list of rows and nothing else": Stream(V1, json.dumps([A, B, C, finish(), COUNTS], indent=1)),
    "an object of many lines between events": Stream(V1, sse(A) + json.dumps(B, indent=1) + "\n" + sse(C) + END),
    "a mark between quotes": Stream(V1, sse(A, B, C, finish(), COUNTS) + 'data: "[DONE]"\n\n' + sse(A)),
}  # fmt: skip

ENDS = {
    "a reason with every piece": Stream(V1, sse(*(with_choice(row, finish_reason="stop") for row in (A, B, C)), COUNTS)),
    "empty reasons (Ollama of old)": Stream(V1, sse(*(with_choice(row, finish_reason="") for row in (A, B, C))) + END),
    **{f"finished by {bad}": Stream(V1, sse(A, B, C, finish(bad), COUNTS) + DONE, done=False, error=f"'{bad}'") for bad in ("timeout", "engine_overloaded", "server_error")},
}  # fmt: skip

ERRORS = {
    "an error of nothing with every chunk (one-api)": Stream(V1, sse(*(row | {"error": NO_ERROR} for row in (A, B, C, finish(), COUNTS))) + DONE),
    "an error of code 0": Stream(V1, sse(*(row | {"error": {"code": 0, "message": "success"}} for row in (A, B, C))) + END),
    "an error called none": Stream(V1, sse(*(row | {"error": "None"} for row in (A, B, C))) + END),
    "an error of a code alone": Stream(V1, sse(A, {"error": {"code": 500}}), "a", output=None, prompt=None, done=False, error='{"code":500}'),
    "in x_groq": Stream(V1, sse(A, {"id": "x", "choices": [], "x_groq": {"error": "over capacity"}}) + DONE, "a", output=None, prompt=None, done=False, error="over capacity"),
    "of many lines, outside of all events (Gemini)": Stream(V1, sse(A) + PRETTY_ERROR + "\n", "a", output=None, prompt=None, done=False, error="quota"),
    "a list of many lines, outside of all events (Gemini)": Stream(V1, sse(A) + f"[{PRETTY_ERROR}\n]\n", "a", output=None, prompt=None, done=False, error="quota"),
    "in a list": Stream(V1, sse(A, [{"error": {"message": "quota"}}]), "a", output=None, prompt=None, done=False, error="quota"),
    "behind half an event (sub2api)": Stream(V1, sse(A) + 'data: {"choices":[{"del\n{"type":"error","message":"stream_read_error"}\n\n', "a", output=None, prompt=None, done=False, error="stream_read_error"),
    "in the event of half another": Stream(V1, sse(A) + 'data: {"choices":[{"del\ndata: {"error":{"message":"stream_read_error"}}\n\n', "a", output=None, prompt=None, done=False, error="stream_read_error"),
    "text between events, then nothing": Stream(V1, sse(A) + "Internal Server Error\n", "a", output=None, prompt=None, done=False, odd=("neither an event's nor JSON",), error="'Internal Server Error'"),
    "text as data": Stream(V1, sse(A, "error: out of memory") + DONE, "a", output=None, prompt=None, done=False, error="out of memory"),
    "half an object, then the end": Stream(CHAT, ndjson(message("a")) + '{"mess\n' + ndjson(last()), "a", done=False, error="not a JSON object"),
    "messages: without its name (sub2api)": Stream(MESSAGES, sse({"type": "ping"}, {"type": "error", "error": {"message": "Concurrency limit"}}), "", output=None, prompt=None, done=False, error="Concurrency limit"),
}  # fmt: skip

STREAMS = {
    f"{group}: {name}": stream
    for group, streams in (("counts", COUNTED), ("text", TEXTS), ("frame", FRAMES), ("end", ENDS), ("error", ERRORS))
    for name, stream in streams.items()
}


def decode(dialect: Dialect, body: bytes, step: int = 0) -> tuple[ContentEvents, Ending]:
    """Decode a body in pieces of `step` bytes (0: whole)."""
    decoder = dialect.decoder()
    for begin in range(0, len(body), step or len(body) or 1):
        decoder.feed(body[begin : begin + (step or len(body))])
    ending = decoder.close()
    return decoder.events, ending


def made_of(stream: Stream, step: int = 0) -> Stream:
    """Return what is made of a stream, its sentences whole."""
    events, ending = decode(stream.dialect, stream.body.encode(), step)
    hidden = "".join(events.texts[i] for i in sorted(events.hidden))
    counts = ending.output_tokens, ending.prompt_tokens
    odd, doubts = tuple(ending.notes), tuple(ending.doubts)
    done = ending.done and ending.error is None
    return Stream(
        stream.dialect, stream.body, events.answer, hidden, *counts, done, ending.error, odd=odd, doubts=doubts
    )


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name: str) -> None:
    wanted = STREAMS[name]
    for step in (0, 1, 7):
        made = made_of(wanted, step)
        assert (made.seen, made.hidden, made.output, made.prompt, made.done) == (wanted.seen, wanted.hidden, wanted.output, wanted.prompt, wanted.done), made  # fmt: skip
        assert (made.error is None) == (wanted.error is None), made
        assert (wanted.error or "") in (made.error or "")
        for said, parts in ((made.odd, wanted.odd), (made.doubts, wanted.doubts)):
            assert len(said) == len(parts), said
            assert all(part in sentence for part, sentence in zip(parts, said, strict=True)), said


@pytest.mark.parametrize("name", DURATIONS)
def test_durations_that_cannot_be_true_are_unknown_and_doubted(name: str) -> None:
    more, doubt = DURATIONS[name]
    _, ending = decode(CHAT, ndjson(message("a"), message("b"), message("c"), last(**more)).encode())
    assert any(key.endswith("_duration") for key in ending.server) == (doubt is None)
    assert [doubt is not None and doubt in said for said in ending.doubts] == [True] * (doubt is not None)
    assert ending.prompt_tokens == 20


def test_text_behind_a_finish_reason_is_known() -> None:
    _, ending = decode(V1, sse(A, finish(), B, C).encode())
    assert (ending.done, ending.went_on) == (True, True)
    for body in (sse(A, B, finish(), COUNTS), sse(A, finish(), B) + DONE):
        assert not decode(V1, body.encode())[1].went_on


@pytest.mark.parametrize(
    ("prompt_ms", "predicted_ms", "known"), [(30.5, 9.1, True), (0.0, 0.0, False), (30.5, 0.0, False)]
)
def test_timings_of_nothing_are_unknown_and_doubted(prompt_ms: float, predicted_ms: float, known: bool) -> None:
    timings = {"prompt_n": 20, "prompt_ms": prompt_ms, "predicted_n": 3, "predicted_ms": predicted_ms}
    _, ending = decode(V1, sse(A, B, C, finish(timings=timings)).encode())
    assert ("prompt_ms" in ending.server["timings"]) is known
    assert ["timings are unknown" in said for said in ending.doubts] == [True] * (not known)
    assert (ending.prompt_tokens, ending.output_tokens) == (20, 3)
