"""Frames, ends and errors of streams out of public reports."""

from __future__ import annotations

import json

from support.odd_streams import (
    BLOCKS,
    CHAT,
    COMPLETIONS,
    COUNTS,
    DONE,
    END,
    FAILED,
    GENERATE,
    LATE,
    MESSAGES,
    PIECES,
    RESPONSES,
    SAID,
    STOP,
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
    sse,
    start,
    stopped,
    with_choice,
)
from support.reported_streams import WHOLE

PAGE = "<html>\n<head><title>504 Gateway Time-out</title></head>\n<body></body>\n</html>\n"

LISTED: dict[str, Stream] = {
    "a list, a row a line": Stream(
        V1, "[" + ",\n".join(json.dumps(row) for row in (A, B, C, finish(), COUNTS)) + "]\n"
    ),
    "a list, commas on lines of their own (Vertex)": Stream(
        V1, "[\n" + "\n,\n".join(json.dumps(row) for row in (A, B, C, finish(), COUNTS)) + "\n]\n"
    ),
    "ollama: a list, a row a line": Stream(
        CHAT, "[" + ",\r\n".join(json.dumps(row) for row in (message("a"), message("b"), message("c"), last())) + "]"
    ),
    "ollama: a list, commas first": Stream(
        CHAT, "[\n" + "\n,".join(json.dumps(row) for row in (message("a"), message("b"), message("c"), last())) + "\n]"
    ),
}
FRAMES = {
    **LISTED,
    "events that are set in (LiteLLM)": Stream(V1, (sse(A, B, C) + END).replace("data:", "  data:")),
    "fields in capitals": Stream(V1, (sse(A, B, C) + END).replace("data:", "Data:")),
    "blanks before the colon": Stream(V1, (sse(A, B, C) + END).replace("data:", "data :")),
    "a zero byte first": Stream(V1, "\0" + sse(A, B, C) + END),
    "a sign of life between an event's name and its data (CLIProxyAPI)": Stream(
        MESSAGES,
        named(start())
        + "event: content_block_delta\n: keep-alive\n\n"
        + sse(BLOCKS[0])
        + named(*BLOCKS[1:], stopped(output_tokens=3), STOP),
    ),
    "where the request is, before its first token": Stream(
        V1,
        sse({"status": "queued", "position": 3, "message": "waiting"}, {"code": "InProgress", "message": "reading"}, A)
        + sse({"status": 102, "message": "processing"}, B, C)
        + END,
    ),
    "progress of tools (Hermes)": Stream(
        V1,
        "event: tool.progress\n" + sse({"tool": "search", "status": "running", "label": "x"}) + sse(A, B, C) + END,
    ),
    "completions: llama.cpp's own": Stream(
        COMPLETIONS,
        sse(
            *({"content": text, "stop": False} for text in "abc"),
            {"content": "", "stop": True, "stop_type": "limit", "tokens_predicted": 3, "tokens_evaluated": 20},
        ),
        odd=("another API",),
    ),
    "TGI's own": Stream(
        V1,
        sse(
            *({"token": {"id": 1, "text": text, "special": False}, "generated_text": None} for text in "abc"),
            {
                "token": {"id": 2, "text": "</s>", "special": True},
                "generated_text": "abc",
                "details": {"finish_reason": "eos_token", "generated_tokens": 3},
            },
        ),
        prompt=None,
        odd=("another API",),
    ),
    "objects run together": Stream(V1, sse("".join(map(json.dumps, (A, B, C)))) + END, odd=("not one a line",)),
    "events run together": Stream(V1, sse(json.dumps(A) + "data: " + json.dumps(B), C) + END, odd=("not one a line",)),
    "ollama: objects run together": Stream(
        CHAT, ndjson(message("a"), message("b"), message("c"), last()).replace("\n", "") + "\n", odd=("not one a line",)
    ),
    "ollama: objects run together, two by two": Stream(
        GENERATE,
        ndjson({"response": "a", "done": False}).strip()
        + ndjson({"response": "b", "done": False}, {"response": "c", "done": False})
        + ndjson(last()),
        odd=("not one a line",),
    ),
    "ollama: objects of many lines": Stream(
        CHAT,
        "".join(json.dumps(row, indent=1) + "\n" for row in (message("a"), message("b"), message("c"), last())),
        odd=("not one a line",),
    ),
    "JSON in a text": Stream(
        V1, sse(*(json.dumps(json.dumps(row)) for row in (A, B, C, finish(), COUNTS))) + DONE, odd=("texts of JSON",)
    ),
    "an envelope (Cline)": Stream(V1, json.dumps({"data": WHOLE, "success": True}), odd=("envelope",)),
    "an envelope with a code": Stream(
        V1,
        sse(*({"code": 0, "msg": "ok", "data": row} for row in (A, B, C, finish(), COUNTS))) + DONE,
        odd=("envelope",),
    ),
    "a text in an envelope": Stream(
        V1,
        sse(*({"status": 200, "body": json.dumps(row)} for row in (A, B, C, finish(), COUNTS))) + DONE,
        odd=("envelope",),
    ),
    "counts beside what is in the envelope (DashScope)": Stream(
        V1,
        sse(
            *({"output": {"choices": row["choices"]}, "request_id": "x"} for row in (A, B, C)),
            {"output": {"choices": finish()["choices"]}, "usage": {"input_tokens": 20, "output_tokens": 3}},
        ),
        odd=("envelope",),
    ),
    "an envelope's result (Cloudflare)": Stream(
        V1, json.dumps({"result": WHOLE, "success": True, "errors": [], "messages": []}), odd=("envelope",)
    ),
    "events of other names between (watsonx)": Stream(
        V1,
        "".join(f"id: {i}\nevent: message\n{sse(row)}" for i, row in enumerate((A, B, C, finish(), COUNTS)))
        + "id: 9\nevent: close\ndata: {}\n\n",
    ),
    "figures of the server in comments (Dynamo)": Stream(
        V1, sse(A, B) + 'event: llm_metrics\n: "{\\"input_tokens\\": 20}"\n\n' + sse(C) + END
    ),
    **{
        f"a sign of life: {life}": Stream(V1, f"data: {life}\n\n" + sse(A, B, C) + END)
        for life in ("undefined", "None", "NaN")
    },
}

ENDS = {
    **{
        f"the mark {mark}": Stream(V1, sse(A, B, C, finish(), COUNTS) + f"data: {mark}\n\n" + sse(A), doubts=LATE)
        for mark in ("DONE", '"DONE"', "[[DONE]]", "[ DONE ]", "[done]")
    },
    "the mark twice": Stream(V1, sse(A, B, C) + END + DONE),
    "the mark, and a return twice": Stream(V1, sse(A, B, C, finish(), COUNTS) + "data:[DONE]\r\r"),
    "the mark without any line end": Stream(V1, sse(A, B, C, finish(), COUNTS) + "data: [DONE]"),
    "another word behind the finish_reason": Stream(
        V1, sse(A, B, C, finish(), COUNTS, "[END]"), odd=("a line behind its finish_reason that is none of its rows",)
    ),
    "how it finished, in details (gpt-4-vision)": Stream(
        V1, sse(A, B, C, {**with_choice(delta(), finish_details={"type": "stop", "stop": "<|im_end|>"})}, COUNTS) + DONE
    ),
    "a reason in the delta": Stream(V1, sse(A, B, C, delta(finish_reason="stop"), COUNTS) + DONE),
    "a reason in the row (Cloudflare)": Stream(V1, sse(A, B, C, {**delta(), "finish_reason": "stop"}, COUNTS) + DONE),
    "a reason in camel case": Stream(V1, sse(A, B, C, with_choice(delta(), finishReason="STOP"), COUNTS) + DONE),
    **{
        f"{good} is a good end": Stream(V1, sse(A, B, C, finish(good), COUNTS) + DONE)
        for good in ("FinishReason.STOP", "FINISH_REASON_STOP", "tool-calls", "Content_Filter")
    },
    **{
        f"{bad} is a failure": Stream(V1, sse(A, B, C, finish(bad), COUNTS) + DONE, done=False, error=f"'{bad}'")
        for bad in ("FINISH_REASON_ERROR", "USER_CANCEL", "ERROR_TOXIC", "request_aborted", "FinishReason.ABORT")
    },
    **{
        f"{odd} is no known end": Stream(
            V1, sse(A, B, C, finish(odd), COUNTS) + DONE, doubts=(f"finish_reason '{odd}'",)
        )
        for odd in ("sunset", "MALFORMED_FUNCTION_CALL", 1)
    },
    "the reason is number 0 until it ends": Stream(
        V1, sse(*(with_choice(row, finish_reason=0) for row in (A, B, C))) + END
    ),
    "responses: completed, with a status of before": Stream(RESPONSES, named(*PIECES, completed(status="in_progress"))),
    "responses: cut at max_tokens": Stream(
        RESPONSES,
        named(*PIECES, completed("incomplete", status="incomplete", incomplete_details={"reason": "max_tokens"})),
    ),
    "messages: [DONE] behind message_stop (vLLM)": Stream(
        MESSAGES, named(start(), *BLOCKS, stopped(output_tokens=3), STOP) + DONE
    ),
}

ERRORS = {
    "beside a finish_reason of error (OpenRouter)": Stream(
        V1, sse(A, {**finish("error"), "error": {"code": 502, "message": SAID}}) + DONE, "a", **FAILED, error=SAID
    ),
    "ollama: beside a done_reason of error": Stream(
        CHAT, ndjson(message("a"), {"done": True, "done_reason": "error", "error": SAID}), "a", **FAILED, error=SAID
    ),
    "messages: beside a stop_reason of error": Stream(
        MESSAGES,
        named(BLOCKS[0], {"type": "message_delta", "delta": {"stop_reason": "error"}, "error": {"message": SAID}}),
        "a",
        **FAILED,
        error=SAID,
    ),
    "in the details of a last token (DJL)": Stream(
        V1,
        ndjson({"token": {"text": "a"}}, {"token": {"text": ""}, "details": {"finish_reason": "error"}}),
        "a",
        **FAILED,
        odd=("another API",),
        error="finish_reason 'error'",
    ),
    "a message in capitals, its code a word (SageMaker)": Stream(
        V1, json.dumps({"ErrorCode": "CLIENT_ERROR", "Message": SAID}), "", **FAILED, error=SAID
    ),
    "a page between events": Stream(
        V1, sse(A) + PAGE, "a", **FAILED, odd=("neither an event's",), error="titled '504 Gateway Time-out'"
    ),
    "a page of many lines amid rows (nginx)": Stream(
        CHAT, ndjson(message("a")) + PAGE, "a", **FAILED, error="titled '504 Gateway Time-out'"
    ),
    "ollama: a page between rows": Stream(
        CHAT, ndjson(message("a")) + PAGE.replace("\n", ""), "a", **FAILED, error="titled '504 Gateway Time-out'"
    ),
    "a sign of life between an error's name and its data": Stream(
        V1, f"event: error\n: keep-alive\n\n{sse({'message': SAID})}", "", **FAILED, error=SAID
    ),
    "a status code and a message": Stream(V1, sse(A, {"statusCode": 429, "message": SAID}), "a", **FAILED, error=SAID),
    "llama.cpp's own, in the middle": Stream(
        V1,
        sse({"content": "a", "stop": False}, {"error": {"message": SAID}}),
        "a",
        **FAILED,
        odd=("another API",),
        error=SAID,
    ),
    "choices null and a message of another name (DeepInfra)": Stream(
        V1,
        sse({"id": "x", "object": "chat.completion.chunk", "choices": None, "error_type": "E", "error_message": SAID})
        + DONE,
        "",
        **FAILED,
        error=SAID,
    ),
    "such a message with success": Stream(
        V1, sse(*(row | {"choices": row["choices"], "error_msg": "success"} for row in (A, B, C))) + END
    ),
    "no choices, a code and a message": Stream(
        V1, sse(A, {"choices": [], "code": 500, "message": SAID}) + DONE, "a", **FAILED, error=SAID
    ),
    "a text with an error's code (FastChat)": Stream(
        V1, sse({"text": SAID, "error_code": 50001}) + DONE, "", **FAILED, error=SAID
    ),
    "in comments (Dynamo)": Stream(V1, f"event: error\n: {SAID}\n\n", "", **FAILED, error=SAID),
    "in comments after text": Stream(
        V1, sse(A) + f"event: error\n: {SAID}\n: and so on\n\n", "a", **FAILED, error=f"{SAID} and so on"
    ),
    "in capitals (Tencent)": Stream(
        V1,
        json.dumps({"Response": {"Error": {"Code": "X", "Message": SAID}, "RequestId": "x"}}),
        "",
        **FAILED,
        error=SAID,
    ),
    "a message in capitals, with a status (AWS)": Stream(
        V1, json.dumps({"Message": SAID, "StatusCode": 424}), "", **FAILED, error=SAID
    ),
    "of the framework, without a frame or a line end (NeMo)": Stream(
        V1,
        sse(A) + json.dumps({"code": 500, "message": SAID, "details": "ValueError"}),
        "a",
        **FAILED,
        error=SAID,
    ),
    "an event of Dify's": Stream(
        V1,
        sse({"event": "error", "status": 400, "code": "invalid_param", "message": SAID}),
        "",
        **FAILED,
        error=SAID,
    ),
    "in Spring's words": Stream(
        V1,
        json.dumps({"timestamp": "2026-01-01T00:00:00Z", "status": 404, "error": "Not Found", "path": "/v1/x"}),
        "",
        **FAILED,
        error="Not Found",
    ),
    "XML": Stream(
        V1,
        f'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>{SAID}</Message></Error>',
        "",
        **FAILED,
        error=SAID,
    ),
    "an error without a message": Stream(
        V1,
        json.dumps({"error": {"type": "rate_limit_exceeded", "code": "x1"}}),
        "",
        **FAILED,
        error="rate_limit_exceeded",
    ),
    "a status that is a text": Stream(V1, sse(A, {"status": "error", "message": SAID}), "a", **FAILED, error=SAID),
    "responses: response.error": Stream(
        RESPONSES, named(PIECES[0], {"type": "response.error", "code": "x", "message": SAID}), "a", **FAILED, error=SAID
    ),
    "responses: response.error of a response": Stream(
        RESPONSES, named({"type": "response.error", "response": {"error": {"message": SAID}}}), "", **FAILED, error=SAID
    ),
    "responses: failed, and why in last_error": Stream(
        RESPONSES,
        named(PIECES[0], completed("failed", status="failed", usage=None, last_error={"message": SAID})),
        "a",
        **FAILED,
        error=SAID,
    ),
    "responses: failed, and why in details": Stream(
        RESPONSES,
        named(PIECES[0], completed("failed", status="failed", usage=None, status_details={"error": {"message": SAID}})),
        "a",
        **FAILED,
        error=SAID,
    ),
    "responses: failed without a word": Stream(
        RESPONSES,
        named(PIECES[0], completed("failed", status="failed", error=None, usage=None)),
        "a",
        **FAILED,
        error="failed",
    ),
    "responses: an error without a type, by its event's name": Stream(
        RESPONSES,
        named(PIECES[0]) + f"event: error\ndata: {json.dumps({'message': SAID})}\n\n",
        "a",
        **FAILED,
        error=SAID,
    ),
    "messages: an envelope between events of a type": Stream(
        MESSAGES, named(BLOCKS[0]) + sse({"code": 500, "message": SAID}), "a", **FAILED, error=SAID
    ),
    "behind the finish_reason, as a word": Stream(
        V1, sse(A, B, C, finish(), COUNTS, "error: out of memory"), done=False, error="out of memory"
    ),
}
