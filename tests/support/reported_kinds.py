"""Streams in shapes of gateways, clouds and engines, the fifth part: flags, roles, signs of life, rows of other APIs."""

from __future__ import annotations

import json
from typing import Any

from support.odd_streams import (
    CHAT,
    COUNTS,
    DONE,
    END,
    FAILED,
    MESSAGES,
    SAID,
    V1,
    WHOLE,
    A,
    B,
    C,
    Stream,
    block,
    delta,
    finish,
    last,
    message,
    named,
    ndjson,
    sse,
    start,
    stopped,
    usage,
    with_choice,
)
from support.odd_streams import STOP as STOPPED
from support.reported_shapes import CALL, CALLED, marked
from support.reported_streams import counted

VOICE = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA" * 8
BINARY = ("base64, as audio and images are",)
ANOTHER = ("format of another API",)
LINES = (message("a"), message("b"), message("c"))
AGAIN = ("repeats the whole answer",)


def said_by(role: str, text: str) -> dict[str, Any]:
    return {"model": "m", "message": {"role": role, "content": text}, "done": False}


def at_last(reason: Any = "stop", **said: Any) -> dict[str, Any]:
    """Return a last chunk that repeats the answer as a message."""
    found = {"index": 0, "message": {"role": "assistant", **said}, "finish_reason": reason}
    return {"id": "x", "object": "chat.completion", "choices": [found], "usage": usage()}


def gemini(text: str, **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, **more}]}


def cohere(kind: str, **said: Any) -> dict[str, Any]:
    return {"type": kind, "index": 0, "delta": {"message": said}}


def bedrock(**part: Any) -> dict[str, Any]:
    return {"contentBlockDelta": {"contentBlockIndex": 0, "delta": part}}


def tencent(text: str, reason: str = "") -> dict[str, Any]:
    choice = {"FinishReason": reason, "Delta": {"Role": "assistant", "Content": text}}
    return {"Id": "x", "Choices": [choice], "Usage": {"PromptTokens": 20, "CompletionTokens": 3, "TotalTokens": 23}}


TEXTS = {
    **{
        f"text of a {role} before the model's": Stream(
            V1,
            sse(delta("what was asked", role=role), delta("", role="assistant"), A, B, C) + END,
            odd=(f"of a {role}",),
        )
        for role in ("user", "system")
    },
    "text of a user behind the model's": Stream(V1, sse(A, B, C, delta("and?", role="user")) + END, odd=("of a user",)),
    "all of the answer has the role of a user": Stream(V1, sse(*(delta(text, role="user") for text in "abc")) + END),
    "ollama: text of a user before the model's": Stream(
        CHAT, ndjson(said_by("user", "what was asked"), *LINES, last()), odd=("of a user",)
    ),
    "ollama: text of a tool": Stream(
        CHAT, ndjson(message("a"), said_by("tool", "what it found"), *LINES[1:], last()), odd=("of a tool",)
    ),
    "ollama: all of the answer has the role of a user": Stream(
        CHAT, ndjson(*(said_by("user", t) for t in "abc"), last())
    ),
    "a voice as content (vLLM-Omni)": Stream(V1, sse(A, B, C, delta(VOICE) | {"modality": "audio"}) + END, odd=BINARY),
    "a voice as a URL of data": Stream(V1, sse(delta("data:audio/wav;base64," + VOICE), A, B, C) + END, odd=BINARY),
    "an image under a name that is not known": Stream(
        V1, sse(A, B, C, delta("", image_url="data:image/png;base64," + VOICE)) + END
    ),
    "a voice in a part": Stream(V1, sse(A, B, C, delta([{"type": "audio_url", "content": VOICE}])) + END),
    "a long word that is text": Stream(V1, sse(delta("ab" * 200)) + END, "ab" * 200),
    "calls by their number, as PHP writes a list": Stream(V1, sse(delta(tool_calls={"0": CALL})) + CALLED, "", "f{}"),
    "a full message without the answer's first blank": Stream(
        V1, sse(delta(" a"), B, C, at_last(content="abc")) + DONE, " abc", odd=AGAIN
    ),
    "a full message with its reasoning": Stream(
        V1,
        sse(delta(reasoning_content="hm"), A, B, C, at_last(content="abc", reasoning_content="hm")) + DONE,
        hidden="hm",
        odd=AGAIN,
    ),
    "a full message of calls": Stream(
        V1,
        sse(
            delta(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": ""}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
            at_last("tool_calls", content=None, tool_calls=[CALL]),
        )
        + DONE,
        "",
        "f{}",
        odd=AGAIN,
    ),
    "Gemini's own": Stream(
        V1,
        sse(
            {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}}]},
            *map(gemini, "ab"),
            gemini("c", finishReason="STOP") | {"usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 3}},
        ),
        hidden="hm",
        odd=ANOTHER,
    ),
    "Cohere's own": Stream(
        V1,
        named(
            cohere("message-start", role="assistant", content=[]),
            cohere("content-start", content={"type": "text", "text": ""}),
            *(cohere("content-delta", content={"text": text}) for text in "abc"),
            {"type": "content-end", "index": 0},
            {
                "type": "message-end",
                "delta": {
                    "finish_reason": "COMPLETE",
                    "usage": {"billed_units": {"output_tokens": 3}, "tokens": {"input_tokens": 20, "output_tokens": 3}},
                },
            },
        ),
        odd=ANOTHER,
    ),
    **{
        f"choices that are no list's, a {key}": Stream(
            V1,
            sse(
                *({"index": 0, key: {"content": text}, "finish_reason": None} for text in "abc"),
                {"index": 0, key: {}, "finish_reason": "stop", "usage": usage()},
            )
            + DONE,
            odd=ANOTHER,
        )
        for key in ("delta", "message")
    },
    "what was asked, under a name of tokens (FastDeploy)": Stream(
        V1,
        sse(
            delta("", role="assistant", prompt_tokens="what was asked"),
            *(delta(t, completion_tokens=t) for t in "abc"),
        )
        + END,
    ),
    "Cohere's own, whole": Stream(
        V1,
        json.dumps(
            {
                "id": "x",
                "finish_reason": "COMPLETE",
                "message": {"role": "assistant", "content": [{"type": "text", "text": "abc"}]},
                "usage": {"tokens": {"input_tokens": 20, "output_tokens": 3}},
            }
        ),
        odd=ANOTHER,
    ),
    "Bedrock's own (Converse)": Stream(
        V1,
        sse(
            {"messageStart": {"role": "assistant"}},
            bedrock(reasoningContent={"text": "hm"}),
            *(bedrock(text=text) for text in "abc"),
            {"contentBlockStop": {"contentBlockIndex": 0}},
            {"messageStop": {"stopReason": "end_turn"}},
            {"metadata": {"usage": {"inputTokens": 20, "outputTokens": 3, "totalTokens": 23}}},
        ),
        hidden="hm",
        odd=ANOTHER,
    ),
    **{
        f"thoughts in a part without a type, as {next(iter(part))}": Stream(
            V1, sse(delta([part]), A, B, C) + END, hidden="hm"
        )
        for part in (
            {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "x"}}},
            {"reasoning_content": "hm"},
            {"thinking": "hm"},
        )
    },
    **{
        f"thoughts by {mark}": marked(mark, "abc", hidden="thinking", seen="text")
        for mark in ("content_type", "message_type", "kind")
    },
    "ollama: a message that is a text, with an error": Stream(
        CHAT, ndjson(message("a"), {"status": "error", "message": SAID}), "a", **FAILED, error=SAID
    ),
    "names in capitals (Tencent)": Stream(V1, sse(*map(tencent, "abc"), tencent("", "stop")), odd=ANOTHER),
    "ollama: names in capitals": Stream(CHAT, sse(*map(tencent, "abc"), tencent("", "stop")), odd=ANOTHER),
    **{
        f"messages: pieces with {name}": Stream(
            MESSAGES,
            named(start(), *map(piece, "abc"), stopped(output_tokens=3), STOPPED),
        )
        for name, piece in (
            ("a text and no delta", lambda text: {"type": "content_block_delta", "index": 0, "text": text}),
            ("a delta in a list", lambda text: {**block(text), "delta": [block(text)["delta"]]}),
        )
    },
}

COUNTED = {
    f"counts named {prompt} and {output}": Stream(V1, counted(**{prompt: 20, output: 3}))
    for prompt, output in (
        ("input_length", "output_length"),
        ("num_prompt_tokens", "num_generated_tokens"),
        ("prompt_tokens", "generation_tokens"),
        ("n_prompt_tokens", "n_completion_tokens"),
        ("inputTokens", "totalOutputTokens"),
        ("prompt_tokens", "response_tokens"),
    )
} | {
    "tokens in the row": Stream(
        V1, sse(A, B, C, finish(), {"choices": [], "tokens": {"prompt": 20, "completion": 3, "total": 23}}) + DONE
    ),
    "a usage in a usage": Stream(V1, sse(A, B, C, finish(usage={"usage": usage()})) + DONE),
    "speeds and costs are no counts": Stream(
        V1,
        counted(
            **usage(),
            completion_tokens_per_second=90,
            prompt_cost=1,
            output_image_tokens=7,
            cached_prompt_tokens=16,
            response={"prompt": 1},
        ),
    ),
}

FRAMES = {
    "a JSON sequence (RFC 7464)": Stream(
        V1, "".join(f"\x1e{json.dumps(row)}\n" for row in (A, B, C, finish(), COUNTS))
    ),
    "ollama: a JSON sequence": Stream(CHAT, "".join(f"\x1e{json.dumps(row)}\n" for row in (*LINES, last()))),
    "a time to reconnect first, and ids between": Stream(
        V1, "retry: 3000\n\nid: 1\n\n" + sse(A) + " ID : 2\nretry\n\n" + sse(B, C) + END
    ),
    "nothing but a time to reconnect": Stream(V1, "retry: 3000\n\n", "", **FAILED),
    "what a gateway's hooks found (Portkey)": Stream(
        V1, "event: hook_results\n" + sse({"hook_results": {"before": [{"checks": [{"error": None}]}]}}) + WHOLE
    ),
    **{
        f"a sign of life: {life}": Stream(V1, f"data: {life}\n\n" + sse(A, B) + f"data: {life}\n\n" + sse(C) + END)
        for life in (
            "heartbeat 12",
            "keepalive: 3",
            "stream started",
            "still working...",
            "waiting... 3s",
            "Loading model... 50%",
            "generating",
            "-",
        )
    },
    **{
        f"ollama: a sign of life: {life}": Stream(
            CHAT, ndjson(message("a")) + f"{life}\n" + ndjson(*LINES[1:], last()), odd=("neither an event's nor JSON",)
        )
        for life in ("ping", "waiting for a slot")
    },
    "a word that is no sign of life": Stream(V1, sse("hello", A) + END, "a", done=False, error="not a JSON object"),
}

ENDS = {
    **{
        f"ollama: done is {said!r}, before it {before!r}": Stream(
            CHAT, ndjson(*(row | {"done": before} for row in LINES), last(done=said))
        )
        for said, before in (("true", "false"), ("True", False), (1, 0), (1.0, 0.0))
    },
    "a choice that says done as a text": Stream(
        V1,
        sse(*(with_choice(row, done="false") for row in (A, B, C)), with_choice(delta(), done="true"), COUNTS) + DONE,
    ),
    "Gemini's own, refused": Stream(
        V1,
        sse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 20}}),
        "",
        output=None,
        odd=ANOTHER,
    ),
    "a row that says it is the last (Baidu)": Stream(
        V1, sse(*({"object": "chat.completion", "result": t, "is_end": t == "c", "usage": usage()} for t in "abc"))
    ),
    "ollama: a finish_reason": Stream(CHAT, ndjson(*LINES, {"model": "m", "finish_reason": "stop", "usage": usage()})),
    **{
        f"a choice with {json.dumps(said)}": Stream(V1, sse(A, B, C, with_choice(delta(), **said), COUNTS) + DONE)
        for said in ({"stopReason": "stop"}, {"finish_reasons": ["stop"]}, {"is_final": True})
    },
    "a reason that is true": Stream(V1, sse(A, B, C, finish(True), COUNTS) + DONE),
    **{
        f"{good} means {name}": Stream(V1, sse(A, B, C, finish(good), COUNTS) + DONE)
        for name, words in {
            "stop": (
                "REASON_STOP",
                "natural_stop",
                "eog",
                "end_of_generation",
                "EOS_TOKEN_REACHED",
                "STOP_REASON_END_TURN",
            ),
            "length": (
                "REASON_MAX_LEN",
                "STOP_REASON_MAX_TOKENS",
                "truncation",
                "context_overflow",
                "generation_limit",
            ),
            "tool_calls": ("REASON_TOOL_CALLS", "function_calls"),
            "content_filter": ("blocked", "content_policy_violation"),
        }.items()
        for good in words
    },
}

ERRORS = {
    **{
        f"then a good end: {json.dumps(said)}": Stream(
            V1, sse(A, {**said, "message": SAID}, finish(), COUNTS) + DONE, "a", done=False, error=SAID
        )
        for said in (
            {"state": "FAILED"},
            {"status": "aborted"},
            {"type": "stream_error"},
            {"event": "error"},
            {"object": "chat.completion.error"},
            {"failed": True},
            {"__type": "ThrottlingException"},
            {"success": 0},
            {"success": "false"},
        )
    },
    "an event's error in its data": Stream(
        V1, sse(A, {"event": "error", "data": {"message": SAID}}, finish(), COUNTS) + DONE, "a", done=False, error=SAID
    ),
    **{
        f"a reason of error, and why {place}": Stream(V1, sse(A, row) + DONE, "a", **FAILED, error=f"'error': {SAID}")
        for place, row in (
            ("in the row", finish("error", message=SAID)),
            ("in details", with_choice(finish("error"), finish_details={"message": SAID})),
        )
    },
    **{
        f"ollama: text under a name of the answer's: {json.dumps(said)}": Stream(
            CHAT, ndjson(message("a"), said), "a", **FAILED, error=SAID
        )
        for said in (
            {"type": "error", "content": SAID},
            {"error": True, "text": SAID},
            {"state": "error", "text": SAID},
        )
    },
    **{
        f"behind half an event{end!r} (dativo-io/talon#393)": Stream(
            V1,
            sse(A) + 'data: {"choices":[{"delta":{"content":"b' + end + sse({"error": {"message": SAID}}),
            "a",
            **FAILED,
            error=SAID,
        )
        for end in ("", "\n", "\nevent: error\n")
    },
    "an event whose data comes before its name": Stream(
        V1, sse(A) + f"data: {json.dumps({'message': SAID})}\nevent: error\n\n" + END, "a", done=False, error=SAID
    ),
    "errors that are none": Stream(
        V1,
        sse(*(row | {"error": none, "errors": None} for row, none in zip((A, B, C), (False, 0, []), strict=True)))
        + END,
    ),
}
