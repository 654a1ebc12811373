"""Streams with something unknown in them, the sixth part: text in odd places, and what is no text; what to make of each."""

from __future__ import annotations

import json
from typing import Any

from loadtest.dialects import OpenAIEmbeddings
from support.odd_streams import (
    BLOCKS,
    CHAT,
    COMPLETIONS,
    COUNTS,
    DONE,
    END,
    FAILED,
    MESSAGES,
    PIECES,
    RESPONSES,
    SAID,
    STOP,
    UNCOUNTED,
    V1,
    A,
    B,
    C,
    Stream,
    completed,
    delta,
    finish,
    last,
    message,
    named,
    ndjson,
    response,
    sse,
    start,
    stopped,
    usage,
    with_choice,
)
from support.reported_deltas import TALK, chosen
from support.reported_kinds import ANOTHER, VOICE
from support.reported_shapes import CALLED, of_sglang
from support.reported_usages import GUARDED, WARNED

AGAIN = ("repeats the whole answer",)
WHOLE_CHOICE = {"index": 0, "delta": {}, "message": {"role": "assistant", "content": "abc"}, "finish_reason": "stop"}


def called(**said: Any) -> dict[str, Any]:
    return delta(tool_calls=[{"index": 0, "function": said}])


TEXTS = {
    "thoughts in pieces of another API (AI SDK)": Stream(
        V1,
        sse({"type": "reasoning-delta", "delta": "hm"}, *({"type": "text-delta", "delta": text} for text in "abc"))
        + DONE,
        hidden="hm",
        **UNCOUNTED,
        odd=("another API",),
    ),
    "a text in an output (DashScope)": Stream(
        V1,
        sse(
            *({"output": {"text": text, "finish_reason": "null"}} for text in "ab"),
            {"output": {"text": "c", "finish_reason": "stop"}, "usage": {"input_tokens": 20, "output_tokens": 3}},
        ),
        odd=("another API",),
    ),
    "messages: a summary of the turns before (Anthropic)": Stream(
        MESSAGES,
        named(
            start(),
            {"type": "content_block_delta", "index": 0, "delta": {"type": "compaction_delta", "content": "hm"}},
            *BLOCKS,
            stopped(output_tokens=4),
            STOP,
        ),
        hidden="hm",
        output=4,
    ),
    "pieces as messages beside an empty delta": Stream(
        V1, sse(*(chosen(delta={}, message={"role": "assistant", "content": text}) for text in "abc")) + END
    ),
    "a whole message beside an empty delta": Stream(V1, json.dumps({"choices": [WHOLE_CHOICE], "usage": usage()})),
    "a whole message beside the last, empty delta": Stream(
        V1, sse(A, B, C, {"id": "x", "choices": [WHOLE_CHOICE]}, COUNTS) + DONE, odd=AGAIN
    ),
    "all of it once more in the row": Stream(V1, sse(A, B, C, finish(content="abc"), COUNTS) + DONE, odd=AGAIN),
    "all of it once more as a message that is a text": Stream(
        V1, sse(A, B, C, chosen(message="abc", finish_reason="stop"), COUNTS) + DONE, odd=AGAIN
    ),
    "something else in the row": Stream(
        V1, sse(A, B, C, finish(content="d"), COUNTS) + DONE, "abcd", odd=("text in two places",)
    ),
    **{
        f"text in the choice, under the name {name}": Stream(
            V1, sse(*(chosen(**{name: held(text)}) for text in "abc")) + END, odd=(f"'{name}'",)
        )
        for name, held in (
            ("output", str),
            ("token", str),
            ("generated_text", str),
            ("token", lambda text: {"id": 5, "text": text, "special": False}),
        )
    },
    "completions: text in the choice, under the name answer": Stream(
        COMPLETIONS, sse(*(chosen(answer=text) for text in "abc")) + END, odd=("'answer'",)
    ),
    "text in the row, under the name output_text": Stream(
        V1,
        sse(*({"object": "chat.completion.chunk", "choices": [], "output_text": text} for text in "abc")) + END,
        odd=("'output_text'",),
    ),
    "choices that are lists": Stream(
        V1,
        sse({"id": "x", "choices": [[{"index": 0, "delta": {"content": "z"}}]]}, A, B, C) + END,
        doubts=("choices that are no objects",),
    ),
    "text of its own beside pieces": Stream(
        V1, sse(chosen(delta={"role": "assistant"}, output="x"), A, B, C) + END, odd=("'output'",)
    ),
    **{
        f"thoughts that may be anything, as {name}": Stream(
            V1, sse(delta(**{name: said}), A, B, C) + END, odd=(f"'{name}': left out",)
        )
        for name, said in (("monologue", {"text": "hm"}), ("plan", [{"type": "text", "text": "hm"}]))
    },
    **{
        f"arguments as {name}": Stream(
            V1,
            sse(called(name="f"), called(**{name: '{"x"'}), called(**{name: ":1}"})) + CALLED,
            "",
            'f{"x":1}',
        )
        for name in ("parameters", "partial_json", "arguments_delta")
    },
    "all of it once more, without the first blank": Stream(
        V1,
        sse(*map(delta, TALK), delta("The cat sat on the mat.")) + sse(finish(usage=usage(7))) + DONE,
        " The cat sat on the mat.The cat sat on the mat.",
        output=7,
        doubts=("repeats all of it",),
    ),
    "ollama: all of it once more, without the blanks around": Stream(
        CHAT,
        ndjson(message(" a"), message("b"), message("c "), last(message={"content": "abc"})),
        " abc ",
        odd=("repeats",),
    ),
    **{
        f"ollama: a row that is none of the answer's: {json.dumps(row)}": Stream(
            CHAT, ndjson(row, message("a"), row, message("b"), message("c"), last())
        )
        for row in (
            {"status": "processing", "message": "please wait"},
            {"message": "please wait"},
            {"code": 0, "message": "ok"},
            {"type": "status", "content": "zz"},
            {"queue_position": 3, "message": "in queue"},
        )
    },
    "messages: a text block whose other fields are null": Stream(
        MESSAGES,
        json.dumps(
            {
                "type": "message",
                "content": [{"type": "text", "text": "abc", "name": None, "input": None, "id": None}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 20, "output_tokens": 3},
            }
        ),
    ),
    **{
        f"an echo of a {role}": Stream(
            V1, sse(delta("what was asked", role=role), delta("", role="ai"), A, B, C) + END, odd=(role.lower(),)
        )
        for role in ("human", "USER")
    },
    "responses: a whole one without a status": Stream(
        RESPONSES,
        json.dumps({"object": "response", "output": "abc", "usage": {"input_tokens": 20, "output_tokens": 3}}),
    ),
    "responses: an event without a type, still in progress": Stream(
        RESPONSES,
        sse({"type": None, "response": {"object": "response", "status": "in_progress", "output": []}})
        + named(*PIECES, completed()),
        odd=("envelope",),
    ),
    "responses: fields of other events, null": Stream(
        RESPONSES,
        named(
            *({**piece, "text": None, "item": None} for piece in PIECES),
            response("output_text.done", text="abc", delta=None),
            response("output_item.done", item={"id": "i", "type": "message", "content": []}, delta=None, text=None),
            completed(),
        ),
    ),
    "responses: labels of items (OpenAI)": Stream(
        RESPONSES,
        named(
            response("output_item.added", item={"type": "tool_search_call", "execution": "server", "call_id": "c"}),
            response(
                "output_item.done", item={"type": "image_generation_call", "output_format": "png", "result": VOICE}
            ),
            *PIECES,
            completed(),
        ),
    ),
    "responses: nothing but a call without a name (OpenAI)": Stream(
        RESPONSES,
        named(completed(output=[{"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}}])),
        "",
        '{"commands":["ls"]}',
    ),
    "responses: the code of a call at its end": Stream(
        RESPONSES,
        named(
            response("output_item.done", item={"type": "code_interpreter_call", "container_id": "c", "code": "1+1"}),
            completed(),
        ),
        "",
        "1+1",
    ),
    "responses: items of text (Roo-Code)": Stream(
        RESPONSES,
        named(*(response("output_item.added", item={"type": "text", "text": text}) for text in "abc"), completed()),
    ),
}

ENDS = {
    f"{reason} on every piece, then stop": Stream(
        V1, sse(*(with_choice(row, finish_reason=reason) for row in (A, B, C)), finish(), COUNTS) + DONE
    )
    for reason in ("in_progress", "generating", "continue")
}

UNENDED: dict[str, Any] = {**FAILED, "error": SAID}
ABORTED = {"type": "abort", "message": SAID, "status_code": 503}
ERRORS = {
    **{
        f"{begin}in an event named {name}": Stream(
            dialect, said + f"event: {name}\ndata: {SAID}\n\n", "a", **{**UNENDED, "prompt": prompt}
        )
        for begin, dialect, said, prompt in (
            ("", V1, sse(A), None),
            ("messages: ", MESSAGES, named(start(), BLOCKS[0]), 20),
            ("responses: ", RESPONSES, named(PIECES[0]), None),
        )
        for name in ("failed", "timeout", "run.aborted")
    },
    "named errorText (AI SDK)": Stream(V1, sse(A, {"type": "error", "errorText": SAID}), "a", **UNENDED),
    **{
        f"a guardrail's warning, {word} (fms-guardrails)": Stream(V1, body, "", **{**UNENDED, **counts})
        for word, body, counts in (
            ("no choices", sse(GUARDED) + DONE, {}),
            ("not streamed", json.dumps({**GUARDED, "usage": usage(0)}), {"output": 0, "prompt": 20}),
            ("none of OpenAI's names", json.dumps({"input_token_count": 20, "warnings": WARNED}), {}),
        )
    },
    "in an envelope, in capitals (Volcengine)": Stream(
        V1, sse(A, {"ResponseMetadata": {"Error": {"Code": "Busy", "Message": SAID}}}, finish()) + DONE, "a", **UNENDED
    ),
    "deep in envelopes, in Chinese": Stream(
        V1,
        sse(A, {"result": {"response": {"error": {"message": "额度不足"}}}}),
        "a",
        doubts=("beside the answer",),
        **{**UNENDED, "error": "额度不足"},
    ),
    "deep in envelopes (grok2api)": Stream(
        V1,
        sse(A, {"result": {"response": {"error": {"message": SAID}, "isThinking": False}}}),
        "a",
        doubts=("beside the answer",),
        **UNENDED,
    ),
    "SGLang's own, aborted": Stream(
        V1,
        sse(of_sglang("a", ABORTED)) + DONE,
        "a",
        odd=ANOTHER,
        **{**UNENDED, "output": 3, "prompt": 20},
    ),
    "ollama: beside a reason of error, in the row": Stream(
        CHAT, ndjson(message("a"), {"finish_reason": "error", "message": SAID}), "a", **UNENDED
    ),
    **{
        f"embeddings: {json.dumps(row)}": Stream(OpenAIEmbeddings("m"), json.dumps(row), "", **UNENDED)
        for row in ({"abort": SAID}, {"cause": SAID}, {"trace": [SAID]})
    },
}

LAST_WORDS = {  # of answers that end without a word of an error, and what must be quoted
    **{
        f"a row: {json.dumps(row)}": (V1, sse(A, row))
        for row in ({"traceback": f"Traceback\n  File\n{SAID}"}, {"abort": SAID}, {"body": SAID}, {"cause": SAID})
    },
    "a row, then the mark": (V1, sse(A, {"abort": SAID}) + DONE),
    "a comment": (V1, sse(A) + f": {SAID}\n\n"),
    "an event of another name": (V1, sse(A) + f"event: bye\ndata: {SAID}\n\n"),
    "a comment alone": (V1, f": {SAID}\n\n"),
    "ollama: a row": (CHAT, ndjson(message("a"), {"abort": SAID})),
    "messages: a row": (MESSAGES, named(start(), BLOCKS[0]) + sse({"abort": SAID})),
    "responses: a comment": (RESPONSES, named(PIECES[0]) + f": {SAID}\n\n"),
}
NOT_LAST = {  # words before text say nothing of the end
    "a row": (V1, sse({"message": SAID}, A)),
    "a comment": (V1, f": {SAID}\n\n" + sse(A)),
    "ollama: a row": (CHAT, ndjson({"message": SAID}, message("a"))),
}

STRANGERS: tuple[Any, ...] = (  # rows that say nothing of the answer
    {"info": "x"},
    {"progress": 0.5},
    {"message": "please wait"},
    {"code": 0, "message": "ok"},
    {"code": 1, "msg": "success"},
    {"status": 1, "msg": "ok"},
    {"status": "completed"},
    {"status": "done", "message": "finished"},
    {"error": None},
    {"text": "zz"},
    {"content": "zz"},
    {"data": {"text": "zz"}},
    {"hook_results": {"before": {"error": None, "checks": [{"error": {"message": "late"}}]}}},  # Portkey's
    {"usage": None},
    {"object": "progress"},
    {"choices": []},
    {"type": "metadata", "metadata": {"text": "zz"}},
    {"trace_id": "x", "span": 1},
)
