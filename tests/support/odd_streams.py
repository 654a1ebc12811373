"""Streams as servers and gateways were reported to send them, with odd counts and odd texts, and what to make of each."""

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
from loadtest.dialects.answers.decoding import StreamDecoder

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


def decode(dialect: Dialect, body: bytes, step: int = 0) -> tuple[ContentEvents, Ending]:
    """Decode a body in pieces of `step` bytes (0: whole)."""
    decoder = dialect.decoder()
    for begin in range(0, len(body), step or len(body) or 1):
        decoder.feed(body[begin : begin + (step or len(body))])
    ending = decoder.close()
    return decoder.events, ending


def lines_looked_at(monkeypatch: pytest.MonkeyPatch, decoder: type[StreamDecoder]) -> list[bytes]:
    """Return a list that fills with the lines at which decoders of this kind look one by one."""
    looked: list[bytes] = []
    line = decoder.line

    def look(self: StreamDecoder, data: bytes) -> bool:
        looked.append(data)
        return line(self, data)

    monkeypatch.setattr(decoder, "line", look)
    return looked


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


def hold(wanted: Stream) -> None:
    """Hold what is made of a stream, however its bytes are cut."""
    for step in (0, 1, 7):
        made = made_of(wanted, step)
        assert (made.seen, made.hidden, made.output, made.prompt, made.done) == (
            wanted.seen,
            wanted.hidden,
            wanted.output,
            wanted.prompt,
            wanted.done,
        ), made
        assert (made.error is None) == (wanted.error is None), made
        assert (wanted.error or "") in (made.error or "")
        for said, parts in ((made.odd, wanted.odd), (made.doubts, wanted.doubts)):
            assert len(said) == len(parts), said
            assert all(part in sentence for part, sentence in zip(parts, said, strict=True)), said


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
FAILED: dict[str, Any] = {"output": None, "prompt": None, "done": False}  # what comes of an answer that is an error
UNCOUNTED: dict[str, Any] = {"output": None, "prompt": None}
LATE = ("with text behind the end",)  # what is doubted where a server goes on behind its mark
SAID = "the prompt is too long"
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
        V1,
        sse(*(row | {"usage": usage(1, 0)} for row in (A, B, C)), finish()) + DONE,
        output=None,
        prompt=None,
        doubts=("do not grow",),
        odd=("no token of the prompt",),
    ),
    "counts of single chunks, then the whole": Stream(
        V1, sse(*(row | {"usage": usage(1, 0)} for row in (A, B, C)), finish(), COUNTS) + DONE
    ),
    "counts of the whole on every chunk": Stream(
        V1, sse(*(row | {"usage": usage()} for row in (A, B, C)), finish()) + DONE
    ),
    "counts before the text alone": Stream(
        V1,
        sse(delta(role="assistant") | {"usage": usage(1)}, A, B, C, finish()) + DONE,
        output=None,
        odd=("before the end of the text",),
    ),
    "counts of none before the text alone": Stream(
        V1,
        sse(delta(role="assistant") | {"usage": usage(0)}, A, B, C, finish()) + DONE,
        output=None,
        odd=("before the end of the text",),
    ),
    "counts in mid-text alone": Stream(
        V1, sse(A, B | {"usage": usage(2)}, C, finish()) + DONE, output=None, odd=("before the end of the text",)
    ),
    "a prompt without tokens behind the counts": Stream(
        V1, sse(A, B, C, finish(), COUNTS, {"choices": [], "usage": usage(3, 0)}) + DONE
    ),
    "counts under newer names beside zeros": Stream(
        V1, sse(A, B, C, finish(usage=usage(0, 0, input_tokens=20, output_tokens=3))) + DONE
    ),
    "one token for forty words": Stream(
        V1, sse(*WORDS, finish(usage=usage(1))) + DONE, LONG, output=None, doubts=("fewer tokens than",)
    ),
    "more tokens than any answer has": Stream(
        V1, sse(A, B, C, finish(usage=usage(2**31 - 1))) + DONE, output=None, odd=("beyond all bounds",)
    ),
    "a token for every letter": Stream(
        V1,
        sse(*map(delta, "abcabcabc"), finish(usage=usage(3))) + DONE,
        "abcabcabc",
        odd=("in more pieces than",),
    ),
    "messages: no count behind the text": Stream(MESSAGES, named(start(), *BLOCKS, stopped(), STOP), output=None),
    "messages: a prompt of none behind the text": Stream(
        MESSAGES, named(start(), *BLOCKS, stopped(input_tokens=0, output_tokens=3), STOP)
    ),
    "messages: the prompt behind the text": Stream(
        MESSAGES, named(start(prompt=0), *BLOCKS, stopped(input_tokens=20, output_tokens=3), STOP)
    ),
    "messages: cached parts behind the text": Stream(
        MESSAGES,
        named(start(prompt=0), *BLOCKS, stopped(input_tokens=5, cache_creation_input_tokens=15, output_tokens=3), STOP),
    ),
    "messages: counts null": Stream(
        MESSAGES, named(start(), *BLOCKS, stopped(input_tokens=None, output_tokens=3), STOP)
    ),
    "responses: counts at the beginning alone": Stream(
        RESPONSES,
        named(
            {"type": "response.created", "response": {"usage": {"input_tokens": 20, "output_tokens": 1}}},
            *PIECES,
            completed(usage=None),
        ),
        output=None,
        odd=("before the end of the text",),
    ),
}

TEXTS = {
    "a number (Cloudflare)": Stream(
        V1, sse(delta("a"), delta(6), delta(0), delta(True)) + END, "a60true", odd=("a number",)
    ),
    "a number in completions": Stream(
        COMPLETIONS, sse({"choices": [{"text": 6}]}, {"choices": [{"text": "b"}]}) + END, "6b", odd=("a number",)
    ),
    "ollama: a number": Stream(CHAT, ndjson(message("a"), message(6), last()), "a6", odd=("a number",)),
    "ollama: a number in generate": Stream(
        GENERATE,
        ndjson({"response": "a", "done": False}, {"response": 6, "done": False}, last()),
        "a6",
        odd=("a number",),
    ),
    "thoughts marked beside the content (Gemini)": Stream(
        V1, sse(delta("hm", extra_content={"google": {"thought": True}}), A, B, C) + END, hidden="hm"
    ),
    "a signature alone (Gemini)": Stream(
        V1, sse(A, B, C, delta(extra_content={"google": {"thought_signature": "AY89"}})) + END
    ),
    "a call without index (Gemini)": Stream(
        V1, sse(delta(tool_calls=[{"id": "1", "function": {"name": "f", "arguments": "{}"}}])) + END, "", "f{}"
    ),
    "a custom tool's call": Stream(
        V1, sse(delta(tool_calls=[{"type": "custom", "custom": {"name": "f", "input": "x"}}])) + END, "", "fx"
    ),
    "a call that is no list": Stream(
        V1, sse(delta(tool_calls={"function": {"name": "f", "arguments": {"a": 1}}})) + END, "", 'f{"a":1}'
    ),
    "a call with its name outside of function": Stream(
        V1, sse(delta(tool_calls=[{"name": "f", "arguments": "{}"}])) + END, "", "f{}"
    ),
    "empty calls beside the content (vLLM)": Stream(V1, sse(*(delta(text, tool_calls=[]) for text in "abc")) + END),
    "a chunk of chat with its text where completions have it": Stream(
        V1, sse(*(with_choice(delta(), text=text) for text in "abc")) + END
    ),
    "an index that counts chunks (TGI)": Stream(
        V1,
        sse(*(with_choice(row, index=i) for i, row in enumerate((A, B, C), 1)), with_choice(finish(), index=3), COUNTS)
        + DONE,
    ),
    "an index that counts chunks, the last with its reason": Stream(
        V1,
        sse(with_choice(A, index=1), with_choice(B, index=2), with_choice(C, index=3, finish_reason="length"), COUNTS)
        + DONE,
    ),
    "two choices in turns": Stream(
        V1, sse(A, with_choice(B, index=1), C, with_choice(A, index=1)) + END, "abca", doubts=("more than one choice",)
    ),
    "two choices one after the other": Stream(
        V1,
        sse(A, with_choice(B, index=1), with_choice(C, index=1), COUNTS, finish()) + DONE,
        doubts=("more than one choice",),
    ),
    "all of it once more, as a piece": Stream(
        V1,
        sse(delta("The "), delta("cat "), delta("sat"), finish(usage=usage()), delta("The cat sat")) + DONE,
        "The cat satThe cat sat",
        output=None,
        odd=("before the end of the text",),
        doubts=("repeats all of it",),
    ),
    "all of it once more, with the reason": Stream(
        V1,
        sse(
            delta("The "),
            delta("cat "),
            delta("sat"),
            with_choice(delta("The cat sat"), finish_reason="stop") | {"usage": usage()},
        )
        + DONE,
        "The cat satThe cat sat",
        doubts=("repeats all of it",),
    ),
    "blanks, then a word": Stream(
        V1, sse(*map(delta, ("  ",) * 4 + ("cat",)), finish(usage=usage(output=5))) + DONE, 8 * " " + "cat", output=5
    ),
    "parts of a content object": Stream(V1, sse(delta({"parts": [{"text": "a"}, {"text": "b"}]}), C) + END),
    "messages: pieces without a type": Stream(
        MESSAGES,
        named(
            start(),
            *({**piece, "delta": {"text": piece["delta"]["text"]}} for piece in BLOCKS),
            stopped(output_tokens=3),
            STOP,
        ),
    ),
    "responses: pieces named text": Stream(
        RESPONSES, named(*(response("output_text.delta", text=text) for text in "abc"), completed())
    ),
    "responses: parts of content (OpenRouter)": Stream(
        RESPONSES, named(*(response("content_part.delta", delta=text) for text in "abc"), completed("done")) + DONE
    ),
    "responses: the text at its end alone": Stream(
        RESPONSES, named(response("output_text.done", text="abc"), completed())
    ),
    "responses: the text at its end alone, of no item": Stream(
        RESPONSES, named({"type": "response.output_text.done", "text": "abc"}, completed())
    ),
    "responses: pieces of no item, said again at the end of one": Stream(
        RESPONSES,
        named(
            *({"type": "response.output_text.delta", "delta": text} for text in "abc"),
            {"type": "response.output_text.done", "text": "abc"},
            completed(),
        ),
    ),
    "responses: the item at its end alone": Stream(
        RESPONSES, named(response("output_item.done", item={"type": "message", "content": [TEXT]}), completed())
    ),
    "responses: all of it said four times": Stream(
        RESPONSES,
        named(
            *PIECES,
            response("output_text.done", text="abc"),
            response("content_part.done", part=TEXT),
            response("output_item.done", item={"id": "i", "type": "message", "content": [TEXT]}),
            completed(output=[{"type": "message", "content": [TEXT]}]),
        ),
    ),
    "responses: done after the first piece (OmniRoute)": Stream(
        RESPONSES, named(PIECES[0], response("output_text.done", text="a"), *PIECES[1:], completed())
    ),
    "responses: arguments at their end alone": Stream(
        RESPONSES,
        named(
            response("output_item.added", item={"type": "function_call", "name": "f"}),
            response("function_call_arguments.done", arguments="{}"),
            completed(),
        ),
        "",
        "f{}",
    ),
    "responses: keepalives": Stream(
        RESPONSES,
        named({"type": "keepalive", "sequence_number": 3}, *PIECES, {"type": "response.keep_alive"}, completed()),
    ),
}
