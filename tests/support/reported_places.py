"""Streams with something unknown in them, the sixth part: text in odd places, and what is no text; what to make of each."""

from __future__ import annotations

import json
from typing import Any

from support.odd_streams import (
    CHAT,
    COMPLETIONS,
    COUNTS,
    DONE,
    END,
    MESSAGES,
    PIECES,
    RESPONSES,
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
    usage,
)
from support.reported_deltas import chosen
from support.reported_shapes import CALLED

AGAIN = ("repeats the whole answer",)
TALK = ("The", " cat", " sat", " on", " the", " mat", ".")
WHOLE_CHOICE = {"index": 0, "delta": {}, "message": {"role": "assistant", "content": "abc"}, "finish_reason": "stop"}


def called(**said: Any) -> dict[str, Any]:
    return delta(tool_calls=[{"index": 0, "function": said}])


TEXTS = {
    "pieces as messages beside an empty delta": Stream(
        V1, sse(*(chosen(delta={}, message={"role": "assistant", "content": text}) for text in "abc")) + END
    ),
    "a whole message beside an empty delta": Stream(V1, json.dumps({"choices": [WHOLE_CHOICE], "usage": usage()})),
    "a whole message beside the last, empty delta": Stream(
        V1, sse(A, B, C, {"id": "x", "choices": [WHOLE_CHOICE]}, COUNTS) + DONE, odd=AGAIN
    ),
    "all of it once more in the row": Stream(V1, sse(A, B, C, finish(content="abc"), COUNTS) + DONE, odd=AGAIN),
    "something else in the row": Stream(
        V1, sse(A, B, C, finish(content="d"), COUNTS) + DONE, "abcd", odd=("text in two places",)
    ),
    **{
        f"text in the choice, under the name {name}": Stream(
            V1, sse(*(chosen(**{name: held(text)}) for text in "abc")) + END, odd=(f"'{name}': counted",)
        )
        for name, held in (
            ("output", str),
            ("token", str),
            ("generated_text", str),
            ("token", lambda text: {"id": 5, "text": text, "special": False}),
        )
    },
    "completions: text in the choice, under the name answer": Stream(
        COMPLETIONS, sse(*(chosen(answer=text) for text in "abc")) + END, odd=("'answer': counted",)
    ),
    "text in the row, under the name output_text": Stream(
        V1,
        sse(*({"object": "chat.completion.chunk", "choices": [], "output_text": text} for text in "abc")) + END,
        odd=("'output_text': counted",),
    ),
    "text of its own beside pieces": Stream(
        V1, sse(chosen(delta={"role": "assistant"}, output="x"), A, B, C) + END, odd=("'output': left out",)
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
        sse(*map(delta, (" The", *TALK[1:])), delta("The cat sat on the mat.")) + sse(finish(usage=usage(7))) + DONE,
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
    "responses: fields of other events, null": Stream(
        RESPONSES,
        named(
            *({**piece, "text": None, "item": None} for piece in PIECES),
            response("output_text.done", text="abc", delta=None),
            response("output_item.done", item={"id": "i", "type": "message", "content": []}, delta=None, text=None),
            completed(),
        ),
    ),
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
    {"usage": None},
    {"object": "progress"},
    {"choices": []},
    {"type": "metadata", "metadata": {"text": "zz"}},
    {"trace_id": "x", "span": 1},
)
