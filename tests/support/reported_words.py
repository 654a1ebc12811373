"""Ends and errors in more words of servers, and answers of the named endpoints, the fourth part; what to make of each."""

from __future__ import annotations

import json
from typing import Any

from loadtest.dialects import OllamaEmbed, OpenAIEmbeddings
from support.odd_streams import (
    BLOCKS,
    CHAT,
    COUNTS,
    DONE,
    FAILED,
    MESSAGES,
    PIECES,
    RESPONSES,
    SAID,
    STOP,
    TEXT,
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
    with_choice,
)
from support.reported_endpoints import ITEM, THOUGHT, begin
from support.reported_endpoints import delta as of_block

GOOD = {
    "stop": (
        "finished",
        "DONE",
        "end",
        "stop_token",
        "eos_token_id",
        "stop_words",
        "end_of_text",
        "EndOfSequence",
        "eosFound",
        "endoftext",
        "pause_turn",
    ),
    "length": (
        *("max_new_tokens", "token_limit", "length_limit", "max_completion_tokens", "model_context_window_exceeded"),
        *("max_seq_len", "contextLengthReached", "maxPredictedTokensReached", "maximum_tokens"),
    ),
    "tool_calls": ("tool", "function", "toolCalls"),
    "content_filter": (
        "RECITATION",
        "content_filter: RECITATION",
        "PROHIBITED_CONTENT",
        "BLOCKLIST",
        "blacklist",
        "SPII",
        "refusal",
        "IMAGE_SAFETY",
        "MODEL_ARMOR",
    ),
}
BAD = (
    "interrupted",
    "preempt",
    "modelUnloaded",
    "preempted",
    "server_shutdown",
    "killed",
    "OOM",
    "client_disconnect",
    "terminated",
    "exception",
)
UNKNOWN = ("OTHER", "repetition", "time_limit", "user_stop", "RATE_LIMIT", "max_time", "malformed_tool_call")

ENDS = {
    **{
        f"{good} means {name}": Stream(V1, sse(A, B, C, finish(good), COUNTS) + DONE)
        for name, words in GOOD.items()
        for good in words
    },
    **{
        f"{bad} is a failure": Stream(V1, sse(A, B, C, finish(bad), COUNTS) + DONE, done=False, error=f"'{bad}'")
        for bad in BAD
    },
    **{
        f"{unknown} is no known end": Stream(
            V1, sse(A, B, C, finish(unknown), COUNTS) + DONE, doubts=("which is not known",)
        )
        for unknown in UNKNOWN
    },
    **{
        f"a reason in {json.dumps(reason)}": Stream(V1, sse(A, B, C, finish(reason), COUNTS) + DONE)
        for reason in (["stop"], {"reason": "stop"}, {"name": "stop", "value": 1})
    },
    **{
        f"a choice that says {flag}": Stream(
            V1, sse(A, B, C, with_choice(delta(), finish_reason=None, **{flag: True}), COUNTS) + DONE
        )
        for flag in ("is_finished", "stop")
    },
    "messages: a reason in the event itself": Stream(
        MESSAGES,
        named(
            start(),
            *BLOCKS,
            {"type": "message_delta", "stop_reason": "end_turn", "usage": {"output_tokens": 3}},
            STOP,
        ),
    ),
    "messages: a reason in the last event": Stream(
        MESSAGES, named(start(), *BLOCKS, {**STOP, "stop_reason": "end_turn", "usage": {"output_tokens": 3}})
    ),
    "messages: a reason in the last event's message": Stream(
        MESSAGES,
        named(start(), *BLOCKS, {**STOP, "message": {"stop_reason": "end_turn", "usage": {"output_tokens": 3}}}),
    ),
    "responses: completed, with an error of nothing": Stream(
        RESPONSES, named(*PIECES, completed(error={"code": "", "message": ""}))
    ),
}

OBJECT = {"message": SAID}
BEHIND = (f"something went wrong: '{SAID}'",)
UNSAID = completed("failed", status="failed", usage=None, error=None)
ERRORS = {
    "behind the mark": Stream(V1, sse(A, B, C, finish(), COUNTS) + DONE + sse({"error": OBJECT}), doubts=BEHIND),
    "behind the mark of an answer without a reason": Stream(
        V1, sse(A) + DONE + sse({"error": OBJECT}), "a", **FAILED, error=SAID
    ),
    "behind the mark alone, without a line's end": Stream(
        V1, DONE + json.dumps({"error": OBJECT}), "", **FAILED, error=SAID
    ),
    "ollama: behind the last line": Stream(
        CHAT, ndjson(message("a"), message("b"), message("c"), last(), {"error": SAID}), doubts=BEHIND
    ),
    "messages: behind the last event": Stream(
        MESSAGES,
        named(start(), *BLOCKS, stopped(output_tokens=3), STOP, {"type": "error", "error": OBJECT}),
        doubts=BEHIND,
    ),
    "responses: behind one that failed without a word (bifrost#6419)": Stream(
        RESPONSES,
        named(PIECES[0], UNSAID, {"type": "error", "error": OBJECT}),
        "a",
        **FAILED,
        error=f"'failed': {SAID}",
    ),
    **{
        f"named {name}": Stream(V1, sse(A, row) + DONE, "a", **FAILED, error=SAID)
        for name, row in (
            ("returnMessage", {"returnCode": 500, "returnMessage": SAID}),
            ("resultMsg", {"resultCode": "ERR", "resultMsg": SAID}),
            ("failure", {"failure": OBJECT}),
            ("error_info", {"error_info": OBJECT}),
            ("errorInfo", {"errorInfo": SAID}),
            ("a header (iFlytek)", {"header": {"code": 10013, "message": SAID, "status": 2}}),
            ("a status that is an object", {"status": {"code": 500, "message": SAID}}),
            ("a flag", {"is_error": True, "content": SAID}),
            *((f"error in {place}", {place: {"error": OBJECT}}) for place in ("data", "meta", "result", "response")),
        )
    },
    "a header of success": Stream(
        V1, sse({"header": {"code": 0, "message": "Success"}}, A, B, C, finish(), COUNTS) + DONE
    ),
    **{
        f"as text: {said}": Stream(
            V1,
            sse(with_choice(delta(said), finish_reason="stop"), COUNTS) + DONE,
            said,
            doubts=("reads like an error",),
        )
        for said in (
            '{"error": {"message": "slot unavailable", "code": 500}}',
            "Error code: 429 - {'error': {'message': 'slot unavailable'}}",
            "litellm.InternalServerError: slot unavailable now",
            "Request failed with status code 500",
            "An error occurred: slot unavailable now",
            "Exception: slot unavailable now",
        )
    },
}


def of_all(*events: dict[str, Any], **more: Any) -> Stream:
    """Return an answer of /v1/responses that ends well behind these events."""
    return Stream(RESPONSES, named(*events, completed()), **more)


def begun(*content: dict[str, Any]) -> dict[str, Any]:
    """Return the beginning of a message that has content already."""
    row = start()
    return {**row, "message": {**row["message"], "content": list(content)}}


STOPPED = (stopped(output_tokens=3), STOP)
BEDROCK = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 20, "outputTokenCount": 3}}
FIRST = {**ITEM, "content": [{"type": "output_text", "text": "a"}]}
ADDED = response("output_item.added", item={**ITEM, "content": []})
KIMI = {**start(), "message": {**start()["message"], "id": "msg_1"}}


def ended(**item: Any) -> dict[str, Any]:
    """Return the event that ends an item."""
    return response("output_item.done", item=item)


def over_with(*events: dict[str, Any], mark: str = "", **more: Any) -> Stream:
    """Return an answer of /v1/responses that ends behind these events, without the one that says so."""
    return Stream(RESPONSES, named(*events) + mark, odd=("behind its last item",), **UNCOUNTED, **more)


def first(name: str) -> dict[str, Any]:
    return {"type": "response.created", "response": {"id": name, "status": "in_progress"}}


ENDED = ended(**ITEM)

ANSWERS = {
    "lines of Ollama's": Stream(
        RESPONSES, ndjson(message("a"), message("b"), message("c"), last()), odd=("another API",)
    ),
    "messages: lines of Ollama's": Stream(
        MESSAGES, ndjson(message("a"), message("b"), message("c"), last()), odd=("another API",)
    ),
    "counts beside the response": Stream(
        RESPONSES,
        named(*PIECES, {**completed(usage=None), "usage": {"input_tokens": 20, "output_tokens": 3}}),
    ),
    "the first piece with its item": of_all(response("output_item.added", item=FIRST), *PIECES[1:]),
    "the first piece with its part": of_all(
        response("content_part.added", part={"type": "output_text", "text": "a"}), *PIECES[1:]
    ),
    "all of it with its part": of_all(response("content_part.added", part=TEXT)),
    "all of it with its item, and again at its end": of_all(
        response("output_item.added", item=ITEM), response("output_item.done", item=ITEM)
    ),
    **{
        f"pieces named {kind}": of_all(*(response(kind, delta=text) for text in "abc"))
        for kind in ("output.delta", "chunk", "message.delta")
    },
    "thoughts in pieces that are objects": of_all(
        response("reasoning.delta", delta={"text": "hm"}), *PIECES, hidden="hm"
    ),
    "a piece that is a number": of_all(PIECES[0], response("output_text.delta", delta=6), seen="a6", odd=("a number",)),
    "messages: all of it in the beginning": Stream(MESSAGES, named(begun({"type": "text", "text": "abc"}), *STOPPED)),
    "messages: the first piece in the beginning": Stream(
        MESSAGES, named(begun({"type": "text", "text": "a"}), *BLOCKS[1:], *STOPPED)
    ),
    "messages: pieces that are no objects": Stream(
        MESSAGES,
        named(start(), *({"type": "content_block_delta", "index": 0, "delta": text} for text in "abc"), *STOPPED),
    ),
    "messages: arguments that are an object": Stream(
        MESSAGES,
        named(
            start(),
            begin(type="tool_use", name="f", input={}),
            of_block("input_json_delta", partial_json={"x": 1}),
            *STOPPED,
        ),
        "",
        'f{"x":1}',
    ),
    "over with its last item (moeru-ai/airi#2589)": over_with(ADDED, *PIECES, ENDED),
    "over with its last item, and [DONE]": over_with(ADDED, *PIECES, ENDED, mark=DONE),
    "over with an item that was cut short": over_with(ADDED, *PIECES, ended(**ITEM, status="incomplete")),
    "over with a call": over_with(ended(type="function_call", name="f", arguments="{}"), seen="", hidden="f{}"),
    "cut behind its thoughts": Stream(RESPONSES, named(ended(**THOUGHT)), "", "hm", **FAILED),
    "cut in its second item": Stream(RESPONSES, named(ADDED, *PIECES, ENDED, ADDED), **FAILED),
    "cut in the text of its second item": Stream(
        RESPONSES, named(ADDED, *PIECES, ENDED, response("output_text.delta", delta="d")), "abcd", **FAILED
    ),
    "begun a second time": Stream(
        RESPONSES,
        named(first("r1"), *PIECES, first("r2"), *PIECES, completed()),
        "abcabc",
        doubts=("begins a second time",),
    ),
    "messages: its beginning before every piece (MoonshotAI/Kimi-K2.5#33)": Stream(
        MESSAGES, named(*(row for piece in BLOCKS for row in (KIMI, piece)), *STOPPED)
    ),
    "messages: Bedrock's counts alone": Stream(MESSAGES, named(start(0, 0), *BLOCKS, stopped(), {**STOP, **BEDROCK})),
}

VECTOR = [0.1, 0.2]


def vectors(row: Any, prompt: int | None = None) -> Stream:
    return Stream(OpenAIEmbeddings("m"), json.dumps(row), "", output=None, prompt=prompt)


EMBEDDINGS = {
    "a list of vectors (TEI)": vectors([VECTOR, VECTOR]),
    "one vector": vectors(VECTOR),
    "a list of objects (llama.cpp)": vectors(
        [{"index": 0, "embedding": [VECTOR]}, {"index": 1, "embedding": [VECTOR]}]
    ),
    "values (Gemini)": vectors({"embeddings": [{"values": VECTOR}, {"values": VECTOR}]}),
    "predictions (Vertex)": vectors({"predictions": [{"embeddings": {"values": VECTOR, "statistics": {}}}]}),
    "vectors (MiniMax)": vectors({"vectors": [VECTOR], "total_tokens": 20, "base_resp": {"status_code": 0}}, 20),
    "results (watsonx)": vectors({"results": [{"embedding": VECTOR}], "input_token_count": 20}, 20),
    "a vector": vectors({"vector": VECTOR}),
    "what is billed (Cohere)": vectors(
        {"embeddings": {"float": [VECTOR]}, "meta": {"billed_units": {"input_tokens": 20}}}, 20
    ),
    "a vector a token": vectors({"data": [{"embeddings": [VECTOR, VECTOR]}], "usage": {"prompt_tokens": 20}}, 20),
    "pooled (vLLM)": vectors({"data": [{"object": "pooling", "data": [VECTOR]}], "usage": {"prompt_tokens": 20}}, 20),
    "scores are none": Stream(
        OpenAIEmbeddings("m"),
        json.dumps({"results": [{"index": 0, "relevance_score": 0.5}]}),
        "",
        **FAILED,
        error="no embedding",
    ),
    "ollama: a list of nothing": Stream(OllamaEmbed("m"), "[]", "", **FAILED, error="no embedding"),
}
