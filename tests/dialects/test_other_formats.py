"""Answers in the format of another API than was asked for: each format through each dialect, in each frame."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.odd_streams import (
    BLOCKS,
    CHAT,
    COMPLETIONS,
    COUNTS,
    DONE,
    GENERATE,
    MESSAGES,
    PIECES,
    RESPONSES,
    STOP,
    V1,
    A,
    B,
    C,
    Stream,
    completed,
    decode,
    finish,
    last,
    made_of,
    message,
    named,
    ndjson,
    sse,
    start,
    stopped,
    usage,
)
from support.reported_kinds import bedrock, cohere, gemini

from loadtest.dialects import Dialect

Rows = list[dict[str, Any]]


def llamas(text: str, count: int, reason: str | None = None) -> dict[str, Any]:
    prompt = 20 if count == 1 else None
    return {
        "generation": text,
        "prompt_token_count": prompt,
        "generation_token_count": count,
        "stop_reason": reason,
    }


def titans(text: str, **more: Any) -> dict[str, Any]:
    return {
        "outputText": text,
        "index": 0,
        "totalOutputTextTokenCount": None,
        "completionReason": None,
        "inputTextTokenCount": 20,
    } | more


DIALECTS = (V1, COMPLETIONS, CHAT, GENERATE, RESPONSES, MESSAGES)
COHERES = {"tokens": {"input_tokens": 20, "output_tokens": 3}}
GEMINIS = {"usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 3}}
WITH_TOOLS = {
    "usageMetadata": {
        "promptTokenCount": 5,
        "toolUsePromptTokenCount": 15,
        "candidatesTokenCount": 2,
        "thoughtsTokenCount": 1,
        "totalTokenCount": 23,
    }
}
FORMATS: dict[str, Rows] = {
    "chat": [A, B, C, finish(), COUNTS],
    "completions": [
        *({"choices": [{"index": 0, "text": text}]} for text in "abc"),
        {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": usage()},
    ],
    "Ollama's chat": [message("a"), message("b"), message("c"), last()],
    "Ollama's generate": [*({"response": text, "done": False} for text in "abc"), last(response="")],
    "Responses": [*PIECES, completed()],
    "Messages": [start(), *BLOCKS, stopped(output_tokens=3), STOP],
    "Gemini's": [gemini("a"), gemini("b"), gemini("c", finishReason="STOP") | GEMINIS],
    "Code Assist's": [
        {"response": gemini("a"), "traceId": "x"},
        {"response": gemini("b")},
        {"response": gemini("c", finishReason="STOP") | WITH_TOOLS},
    ],
    "Cohere's": [
        *(cohere("content-delta", content={"text": text}) for text in "abc"),
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": COHERES}},
    ],
    "Bedrock's": [
        *(bedrock(text=text) for text in "abc"),
        {"messageStop": {"stopReason": "end_turn"}},
        {"metadata": {"usage": {"inputTokens": 20, "outputTokens": 3}}},
    ],
    "Llama's at Bedrock": [
        *(llamas(text, n) for n, text in enumerate("abc", 1)),
        llamas("", 3, "stop"),
    ],
    "Titan's at Bedrock": [*map(titans, "ab"), titans("c", totalOutputTextTokenCount=3, completionReason="FINISH")],
    "llama.cpp's": [
        *({"content": text, "stop": False} for text in "abc"),
        {"content": "", "stop": True, "stop_type": "limit", "tokens_predicted": 3, "tokens_evaluated": 20},
    ],
}
SAID = [{"type": "text", "text": "abc"}]
WHOLE: dict[str, Rows] = {
    "chat": [{"choices": [{"message": {"content": "abc"}, "finish_reason": "stop"}], "usage": usage()}],
    "Ollama's chat": [last(message={"role": "assistant", "content": "abc"})],
    "Gemini's": [gemini("abc", finishReason="STOP") | GEMINIS],
    "Llama's at Bedrock": [llamas("abc", 3, "stop") | {"prompt_token_count": 20}],
    "Titan's at Bedrock": [
        {
            "inputTextTokenCount": 20,
            "results": [{"tokenCount": 3, "outputText": "abc", "completionReason": "LENGTH"}],
        }
    ],
    "Cohere's": [{"finish_reason": "COMPLETE", "message": {"role": "assistant", "content": SAID}, "usage": COHERES}],
}
NAMES = (*FORMATS, *(f"{name}, whole" for name in WHOLE))
CASES = [(dialect, name) for dialect in DIALECTS for name in NAMES]
FRAMES: dict[str, Callable[[Rows], str]] = {
    "events": lambda rows: sse(*rows) + DONE,
    "lines": lambda rows: ndjson(*rows),
    "a list": json.dumps,
    "a list of many lines": lambda rows: json.dumps(rows, indent=1),
    "a list, a row a line": lambda rows: "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n",
    "named events": lambda rows: named(*rows) if all("type" in row for row in rows) else sse(*rows),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize(("dialect", "name"), CASES, ids=lambda one: getattr(one, "name", one))
def test_an_answer_in_any_format(dialect: Dialect, name: str, frame: str) -> None:
    rows = FORMATS[name] if name in FORMATS else WHOLE[name.removesuffix(", whole")]
    made = made_of(Stream(dialect, FRAMES[frame](rows)))
    assert (made.seen, made.hidden, made.output, made.prompt, made.done) == ("abc", "", 3, 20, True), made


PIECES_ALONE: dict[str, Stream] = {
    **{
        f"{name}, then a mark": Stream(V1, sse(*({name: text} for text in "abc")) + DONE)
        for name in ("token", "content", "text", "delta", "completion", "text_output")
    },
    "a reason with the last (KoboldCpp)": Stream(
        V1, sse(*({"token": text, "finish_reason": "stop" if text == "c" else None} for text in "abc"))
    ),
    "no mark": Stream(V1, sse(*({"content": text} for text in "abc")), done=False),
    "an event named done": Stream(
        V1, "".join(f"event: token\n{sse({'text': text})}" for text in "abc") + 'event: done\ndata: {"sources":[]}\n\n'
    ),
    "of Messages": Stream(MESSAGES, sse(*({"text": text} for text in "abc")) + DONE),
    "beside other facts (Triton, triton_cli#86)": Stream(
        V1,
        sse(*({"model_name": "e", "sequence_id": 0, "output_log_probs": [0.1], "text_output": text} for text in "abc")),
        done=False,
    ),
    "deep inside (watsonx)": Stream(
        V1, sse(*({"results": [{"generated_text": text, "stop_reason": "no"}]} for text in "abc")) + DONE
    ),
    "all of it once more (Coze)": Stream(
        V1,
        sse(*({"type": "answer", "content": text, "content_type": "text"} for text in ("a", "b", "c", "abc"))) + DONE,
    ),
    **{
        f"ended by a row named {last['type']} ({whose})": Stream(
            V1, sse(*({"type": kind, "content": text} for text in "abc"), last)
        )
        for whose, kind, last in (
            ("LM Studio", "message.delta", {"type": "chat.end", "result": {"output": [{"content": "abc"}]}}),
            ("Mistral's agents", "message.output.delta", {"type": "conversation.response.done"}),
            ("AG-UI", "TEXT_MESSAGE_CONTENT", {"type": "RUN_FINISHED", "runId": "r"}),
            ("n8n", "item", {"type": "end", "metadata": {}}),
        )
    },
    "ended by an event in a row (Dify)": Stream(
        V1, sse(*({"event": "message", "answer": text} for text in "abc"), {"event": "message_end", "id": "x"})
    ),
    **{
        f"no end, but one of {kind}": Stream(
            V1, sse(*({"content": text} for text in "abc"), {"type": kind}), done=False
        )
        for kind in ("reasoning.end", "tool_call.end", "STEP_FINISHED", "content.part.end")
    },
    "of Vercel's": Stream(V1, sse(*({"type": "text-delta", "textDelta": text} for text in "abc")) + DONE),
}


@pytest.mark.parametrize("name", PIECES_ALONE)
def test_rows_of_a_piece_alone_are_an_answer(name: str) -> None:
    made = made_of(PIECES_ALONE[name])
    assert (made.seen, made.done, made.error) == ("abc", PIECES_ALONE[name].done, None)
    assert made.odd == ("the server answers in the format of another API",)


def test_rows_of_a_piece_that_a_chunk_says_again_are_the_models() -> None:
    """Friendli's completions: the tokens as they are sampled, then all of them."""
    sampled = [{"event": "token_sampled", "index": 0, "text": text, "token": 5} for text in "abc"]
    body = sse(*sampled, {"event": "complete", "choices": [{"text": "abc", "finish_reason": "stop"}], "usage": usage()})
    events, ending = decode(COMPLETIONS, body.encode())
    assert (events.texts, ending.done, ending.output_tokens, ending.notes) == (["a", "b", "c"], True, 3, [])


def test_rows_of_a_piece_before_chunks_are_a_gateways() -> None:
    made = made_of(Stream(V1, sse({"content": "Searching"}, A, B, C, finish(), COUNTS) + DONE))
    assert (made.seen, made.done, made.odd) == ("abc", True, ())


def test_an_error_behind_rows_of_a_piece_fails_the_answer() -> None:
    made = made_of(Stream(V1, sse({"content": "a"}, {"error": "slot unavailable"}) + DONE))
    assert (made.seen, made.done, made.error) == ("a", False, "slot unavailable")
