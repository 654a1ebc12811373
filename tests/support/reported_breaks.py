"""Frames, ends and errors of streams out of public reports, the third part; a number behind "#" is the report's."""

from __future__ import annotations

import json
from typing import Any

from support.odd_streams import (
    BLOCKS,
    CHAT,
    COUNTS,
    DONE,
    END,
    FAILED,
    MESSAGES,
    SAID,
    STOP,
    V1,
    WHOLE,
    A,
    B,
    C,
    Stream,
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

UNENDED: dict[str, Any] = {"output": None, "prompt": None, "done": False}
RAW = "".join(
    f'data: {{"choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}\n\n' for text in ("é", "漢", "😀\u2028")
)
HEADS = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
QUOTES = 'Expected all tensors to be on the same device, but got mat2 on "cpu", and the others on "cuda:0" (in addmm)'
MESSAGE = {"role": "assistant", "content": "abc"}

FRAMES = {
    **{
        f"a sign of life: {life}": Stream(V1, f"data: {life}\n\n" * 2 + sse(A, B) + f"data: {life}\n\n" + sse(C) + END)
        for life in (
            "[PROCESSING]",
            "[WAITING]",
            "[QUEUED]",
            "[THINKING]",
            "[START]",
            "processing",
            "connected",
            "<keepalive>",
            '{"keepalive":true}',
            '{"type":"heartbeat","timestamp":"2025-10-31T11:30:41.100Z"}',
        )
    },
    **{
        f"{what} under the name of an error": Stream(V1, sse(A, said, B, C) + END)
        for what, said in (
            ("a number", {"metrics": {"draft": {"error": 0.02, "accepted": 5}}}),
            ("a word", {"config": {"log": {"level": {"error": "on"}}}}),
            ("a schema", {"tool": {"schema": {"properties": {"error": {"type": "string"}}}}}),
        )
    },
    "signs of life as comments of HTML": Stream(
        V1,
        "<!-- keepalive -->\n" + sse(A) + "<!-- keepalive -->\n\n" + sse(B, C) + END,
        odd=("neither an event's nor JSON",),
    ),
    "a comment of HTML before a whole answer": Stream(
        V1,
        "<!-- cached -->\n"
        + json.dumps({"choices": [{"message": MESSAGE, "finish_reason": "stop"}], "usage": usage()}),
        odd=("neither an event's nor JSON",),
    ),
    "ends of lines that are escaped": Stream(V1, WHOLE.replace("\n\n", "\\n\\n"), odd=("not one a line",)),
    "ends of lines that are escaped beside true ones": Stream(
        V1, WHOLE.replace("\n\n", "\\n\n\n"), odd=("not one a line",)
    ),
    "commas behind the objects": Stream(V1, WHOLE.replace("}\n\n", "},\n\n"), odd=("not one a line",)),
    "a sign of life within an event's line (os-clovy#659)": Stream(
        V1,
        sse(A) + 'data: {"choices":[{"delta":{"con: keep-alive\n\ntent":"b"}}]}\n\n' + sse(C) + END,
        "ac",
        done=False,
        error="not a JSON object",
        odd=("neither an event's nor JSON",),
    ),
    "a sign of life within an event of many lines": Stream(
        V1, 'data: {"choices":\n: ping\ndata: [{"delta":{"content":"a"}}]}\n\n' + sse(B, C) + END
    ),
    "an object of many lines behind one data:": Stream(
        V1, "".join(f"data: {json.dumps(row, indent=2)}\n\n" for row in (A, B, C, finish(), COUNTS)) + DONE
    ),
    "an object over three data lines, a whole row in its midst": Stream(
        V1,
        "".join(f'data: {{"data":\ndata: {json.dumps(row)}\ndata: }}\n\n' for row in (A, B, C, finish(), COUNTS))
        + DONE,
        odd=("in an envelope",),
    ),
    "messages: an object over three data lines, one in its midst": Stream(
        MESSAGES,
        f'data: {{"type": "message_start", "message":\ndata: {json.dumps(start()["message"])}\ndata: }}\n\n'
        + named(*BLOCKS, stopped(output_tokens=3), STOP),
    ),
    "no blank lines, and an empty event (one-api#277, wave-agent#1326)": Stream(
        V1, (sse(A) + "data:\n" + sse(B, C) + END).replace("\n\n", "\n")
    ),
    "every field of an event": Stream(
        V1, "".join(f"id: {i}\nevent: chunk\nretry: 10\n{sse(row)}" for i, row in enumerate((A, B, C))) + END
    ),
    "pings as events with data": Stream(
        V1, 'event: ping\ndata: {"time": 17}\n\n' + sse(A) + "event: ping\ndata: {}\n\n" + sse(B, C) + END
    ),
    "letters of several bytes, unescaped": Stream(V1, RAW + END, "é漢😀\u2028"),
    "headers once more in the body": Stream(V1, HEADS + WHOLE),
    "empty lines first": Stream(V1, "\r\n\n\r\n" + WHOLE),
    "a mark of byte order before every event": Stream(V1, WHOLE.replace("data: ", "\ufeffdata: ")),
    "no blank, ends of Windows": Stream(V1, WHOLE.replace("data: ", "data:").replace("\n", "\r\n")),
    "tabs behind the colon": Stream(V1, WHOLE.replace("data: ", "data:\t")),
    "a zero byte behind every object": Stream(V1, WHOLE.replace("}\n\n", "}\0\n\n"), odd=("not one a line",)),
    "an object of an end behind the reason": Stream(
        V1, sse(A, B, C, finish(), COUNTS, {"done": True}), odd=("another API",)
    ),
    "objects in Python's words": Stream(
        V1, f"data: {A!s}\n\n" + sse(B) + END, "b", done=False, error="not a JSON object"
    ),
    "ollama: events with ids": Stream(
        CHAT,
        "".join(
            f"id: {i}\nevent: message\n{sse(row)}"
            for i, row in enumerate((message("a"), message("b"), message("c"), last()))
        ),
    ),
    "ollama: events, and the other API's mark": Stream(
        CHAT, sse(message("a"), message("b"), message("c"), last()) + DONE
    ),
}

GOOD = {
    "stop": ("eos", "EOS", "eos_token", "end_turn", "stop_sequence", "COMPLETE", "normal", "STOP", "FinishReason.STOP"),
    "length": ("max_tokens", "MAX_TOKENS", "model_length", "LENGTH", "max_length", "FINISH_REASON_MAX_TOKENS"),
    "tool_calls": ("tool_use", "TOOL_CALL", "tool-calls"),
    "content_filter": ("sensitive", "SAFETY", "content_filtered", "guardrail_intervened", "Content_Filter"),
}
NONE_YET = ("NULL", "None", "not_finished", "FINISH_REASON_UNSPECIFIED", " ")

ENDS = {
    **{
        f"{good} means {name}": Stream(V1, sse(A, B, C, finish(good), COUNTS) + DONE)
        for name, words in GOOD.items()
        for good in words
    },
    **{
        f"{none!r} means none yet": Stream(V1, sse(*(with_choice(row, finish_reason=none) for row in (A, B, C))) + END)
        for none in NONE_YET
    },
    "a provider's own reason alone": Stream(
        V1, sse(A, B, C, with_choice(delta(), finish_reason=None, native_finish_reason="stop"), COUNTS) + DONE
    ),
    "a provider's own reason that is a failure": Stream(
        V1,
        sse(A, B, C, with_choice(finish("stop"), native_finish_reason="abort"), COUNTS) + DONE,
        done=False,
        error="'abort'",
    ),
    "a provider's own reason of another name": Stream(
        V1, sse(A, B, C, with_choice(finish("stop"), native_finish_reason="STOP_ODDLY"), COUNTS) + DONE
    ),
    "a stop_reason in the choice": Stream(
        V1, sse(A, B, C, with_choice(delta(), stop_reason="end_turn"), COUNTS) + DONE
    ),
    "a token's number as stop_reason (vLLM)": Stream(
        V1, sse(A, B, C, with_choice(finish(), stop_reason=128001), COUNTS) + DONE
    ),
    "a reason with no choices": Stream(V1, sse(A, B, C, {"choices": [], "finish_reason": "stop"}, COUNTS) + DONE),
    "done with a chunk": Stream(V1, sse(A, B, C, {**delta(), "done": True, "usage": usage()})),
    "a whole answer without a reason (KoboldCpp, AIShell#350)": Stream(
        V1, json.dumps({"object": "chat.completion", "choices": [{"index": 0, "message": MESSAGE}], "usage": usage()})
    ),
    "a whole answer in an event, its reason null": Stream(
        V1,
        sse({"object": "chat.completion", "choices": [{"message": MESSAGE, "finish_reason": None}], "usage": usage()})
        + DONE,
    ),
    "nothing but the mark (vllm#40986)": Stream(V1, DONE, "", **UNENDED),
    "no reason on a natural stop (vllm-mlx#628)": Stream(V1, sse(A, B, C, delta(), COUNTS) + DONE, done=False),
    "no reason and no mark (opencode#43379)": Stream(V1, sse(A, B, C, COUNTS), done=False),
    **{
        f"ollama: {good} is a good end": Stream(
            CHAT, ndjson(message("a"), message("b"), message("c"), last(done_reason=good))
        )
        for good in ("eos", "max_tokens", "STOP", "")
    },
}

ERRORS = {
    "an error deep in a row that has a title (grok2api)": Stream(
        V1,
        sse(A, {"title": "Searching the web", "result": {"response": {"error": {"message": SAID}}}}),
        "a",
        **FAILED,
        error=SAID,
        doubts=("beside the answer",),
    ),
    **{
        f"a text without a blank line behind it, {word}": Stream(
            V1,
            (sse(A) + f"data: sorry: {SAID}\n" + more).replace("\n\n", "\n"),
            "a" + text,
            **{**FAILED, **counts},
            error=f"sorry: {SAID}",
        )
        for word, more, text, counts in (
            ("then the mark", DONE, "", {}),
            ("then the rest", sse(B, finish(usage=usage(2))) + DONE, "b", {"output": 2, "prompt": 20}),
        )
    },
    "a text and an error in one event": Stream(
        V1, f"data: sorry\ndata: {json.dumps({'error': {'message': SAID}})}\n\n", "", **FAILED, error=SAID
    ),
    "a text in the delta": Stream(V1, sse(A, delta(error=SAID), finish()) + DONE, "a", **FAILED, error=SAID),
    "an object in the delta": Stream(
        V1, sse(A, delta("", error={"message": SAID, "code": 500}), finish()) + DONE, "a", **FAILED, error=SAID
    ),
    "in a whole message": Stream(
        V1,
        json.dumps({"choices": [{"message": {"content": None, "error": SAID}, "finish_reason": "stop"}]}),
        "",
        **FAILED,
        error=SAID,
    ),
    "with quotes that are not escaped (transformers serve)": Stream(
        V1, sse(A) + f'data: {{"error": "{QUOTES}"}}\n\n', "a", **FAILED, error=QUOTES
    ),
    "none in the delta": Stream(V1, sse(*(delta(text, error=None) for text in "abc")) + END),
    **{
        f"an event named {name}": Stream(
            V1, sse(A) + f"event: {name}\n" + sse({"text": SAID, "message": SAID}) + DONE, "a", **FAILED, error=SAID
        )
        for name in ("stream_error", "error_event", "chat.completion.error", "exception")
    },
    "a text as an event named stream_error": Stream(
        V1, sse(A) + f"event: stream_error\ndata: {SAID}\n\n" + DONE, "a", **FAILED, error=SAID
    ),
    **{
        f"named {name}": Stream(V1, sse(A, row, finish(), COUNTS) + DONE, "a", output=3, done=False, error=SAID)
        for name, row in (
            ("errorMessage (Lambda)", {"errorMessage": SAID, "errorType": "E"}),
            ("modelStreamErrorException (goose#9579)", {"modelStreamErrorException": {"message": SAID}}),
            ("throttlingException", {"throttlingException": {"message": SAID}}),
            ("fault (Apigee)", {"fault": {"faultstring": SAID, "detail": {"errorcode": "x"}}}),
            ("exception", {"exception": SAID}),
            ("err", {"err": SAID}),
            ("Error", {"Error": {"Message": SAID}}),
            ("error of Anthropic's", {"type": "error", "error": {"type": "overloaded_error", "message": SAID}}),
            ("error with status 200 (SambaNova)", {"status_code": 200, "error": {"message": SAID}}),
            ("message with a gRPC code", {"code": 13, "message": SAID, "details": []}),
            ("detail with a status", {"status": 429, "title": "Too Many Requests", "detail": SAID}),
            ("message beside an empty error", {"error": "", "code": 500, "message": SAID}),
            ("error of a status text (ollama's client)", {"StatusCode": 500, "Status": "500", "error": SAID}),
        )
    },
    "an error, then success (ragflow#19870)": Stream(
        V1, sse(A, {"code": 500, "message": SAID}, {"code": 0, "data": True}) + DONE, "a", **FAILED, error=SAID
    ),
    "of Responses at /v1 chat": Stream(
        V1,
        sse(A, {"type": "response.failed", "response": {"status": "failed", "error": {"message": SAID}}}) + DONE,
        "a",
        **FAILED,
        odd=("another API",),
        error=SAID,
    ),
    "between the reason and the mark": Stream(
        V1, sse(A, B, C, finish(), {"error": {"message": SAID}}, COUNTS) + DONE, done=False, error=SAID
    ),
    "beside text and a good reason": Stream(
        V1,
        sse(A, {**with_choice(B, finish_reason="stop"), "error": {"message": SAID}}) + DONE,
        "ab",
        **FAILED,
        error=SAID,
    ),
    "a message in the choice that failed": Stream(
        V1,
        sse(A, with_choice(finish("error"), error_message=SAID)) + DONE,
        "a",
        **FAILED,
        error=SAID,
    ),
    **{
        f"beside choices: {name}": Stream(V1, sse(A, finish(**beside), COUNTS) + DONE, "a", done=False, error=SAID)
        for name, beside in (
            ("a code", {"code": 500, "msg": SAID}),
            ("a status code", {"status_code": 503, "message": SAID}),
            ("a status that failed", {"status": "failed", "message": SAID}),
            ("success that is none", {"success": False, "message": SAID}),
            ("errors", {"errors": [{"message": SAID}]}),
        )
    },
    "a gateway's own word for a code beside choices": Stream(
        V1, sse(*(row | {"code": "A00000", "message": "success", "status": 200} for row in (A, B, C))) + END
    ),
    "a gateway's own code beside choices": Stream(
        V1, sse(*(row | {"code": 10000, "message": "well", "status": "running"} for row in (A, B, C))) + END
    ),
    "an event named error with empty data": Stream(
        V1, sse(A) + "event: error\ndata:\n\n" + sse(finish()) + DONE, "a", **FAILED, error="without a text"
    ),
    "a plain text (mistral.rs#1874)": Stream(
        V1, sse("Number of choices must be greater than 0."), "", **FAILED, error="Number of choices"
    ),
    "a word in brackets": Stream(V1, sse(A, "[ERROR]") + DONE, "a", **FAILED, error="[ERROR]"),
    "a word in brackets, then what": Stream(V1, sse(A, f"[ERROR] {SAID}") + DONE, "a", **FAILED, error=SAID),
    "another word in brackets": Stream(V1, sse(A, "[CANCELLED]") + DONE, "a", **FAILED, error="[CANCELLED]"),
    "a word of an exception before it (Portkey#1047)": Stream(
        V1, f'exception{{"message":"{SAID}"}}', "", **FAILED, error=SAID
    ),
    "behind a place in a queue": Stream(
        V1, sse({"status": "queued", "message": "waiting"}, {"message": SAID}), "", **FAILED, error=SAID
    ),
    **{
        f"as text, with a good reason: {said}": Stream(
            V1,
            sse(*before, with_choice(delta(said), finish_reason="stop"), COUNTS) + DONE,
            "".join(row["choices"][0]["delta"]["content"] for row in before) + said,
            output=output,
            doubts=(f"reads like an error: '{said[:30]}",),
        )
        for before, said, output in (
            ((), "Internal error: rpc error: code = Unknown desc = unexpected EOF", 3),
            ((A, B), "[Proxy Error] This model's maximum context length is 128 tokens", 3),
            ((A, B), "\n\n[Stream Error] the connection broke"[2:], 3),
            ((), "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE.**", 3),
            ((A, B), "Error: upstream timed out", 3),
        )
    },
    "a model's own words on errors": Stream(
        V1, sse(*map(delta, ("Error", ":", " an", " error", " is", " one"))) + END, "Error: an error is one"
    ),
    "no error but a warning": Stream(V1, sse(*(row | {"warnings": ["old"], "errors": []} for row in (A, B, C))) + END),
    "codes of success (Baidu)": Stream(V1, sse(*(row | {"error_code": 0, "error_msg": ""} for row in (A, B, C))) + END),
    "a status of 200 in every chunk (Cerebras)": Stream(
        V1, sse(*(row | {"status_code": 200} for row in (A, B, C))) + END
    ),
    "ollama: an object in an object": Stream(
        CHAT, ndjson(message("a"), {"error": {"error": {"message": SAID}}}), "a", **FAILED, error=SAID
    ),
    "ollama: in the message": Stream(
        CHAT, ndjson(message("a"), message("", error=SAID), last()), "a", output=3, done=False, error=SAID
    ),
    "ollama: in a status of the client": Stream(
        CHAT, ndjson(message("a"), {"StatusCode": 500, "Status": "500", "error": SAID}), "a", **FAILED, error=SAID
    ),
    "a filter that did not run is no error (Azure)": Stream(
        V1,
        sse(
            A,
            B,
            with_choice(
                C, content_filter_result={"error": {"code": "content_filter_error", "message": "not filtered"}}
            ),
        )
        + END,
    ),
}
