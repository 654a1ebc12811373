"""Answers as servers and vendors send them by their own sources and pages, in whole: what each adds to OpenAI's."""

from __future__ import annotations

import json
from typing import Any

from support.odd_streams import (
    CHAT,
    COUNTS,
    DONE,
    END,
    FAILED,
    GENERATE,
    SAID,
    UNCOUNTED,
    V1,
    A,
    B,
    C,
    Stream,
    delta,
    finish,
    last,
    message,
    ndjson,
    sse,
    usage,
    with_choice,
)
from support.reported_deltas import FULL as TALKED
from support.reported_deltas import TALK

GROWING = ("a", "ab", "abc", "abcd", "abcde", "abcdef")
GROWN = "".join(GROWING)
ALL_AGAIN = ("repeats all text",)
# what a model that writes by diffusion sends of one sentence
REFINED = tuple(
    "The quick brown fox jumps over the lazy dog."[:begin].ljust(44, "_") for begin in (4, 10, 16, 20, 26, 31)
)
OF_CLOVA = {"promptTokens": 20, "completionTokens": 3, "totalTokens": 23}
FILTERED: dict[str, Any] = {"content_filter_results": {"hate": {"filtered": False}}}


def piece(
    content: Any, reason: str | None = None, *, beside: dict[str, Any] | None = None, **row: Any
) -> dict[str, Any]:
    """Return a chunk that says its role, as most servers' do; `beside` lies in the choice."""
    choice = {"index": 0, "delta": {"role": "assistant", "content": content}, "finish_reason": reason, **(beside or {})}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **row}


DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")
OF_LEMONADE = {"model": "m", "created_at": "2024-01-01T00:00:00Z", "done": False}  # what it makes of a chunk of counts


def of_lemonade(text: str) -> dict[str, Any]:
    return {**OF_LEMONADE, "message": {"role": "assistant", "content": text}}


def of_lemonade_generate(text: str) -> dict[str, Any]:
    return {**OF_LEMONADE, "response": text}


def of_azure(**choice: Any) -> dict[str, Any]:
    return {
        "id": "",
        "object": "",
        "created": 0,
        "model": "",
        "choices": [{"index": 0, "finish_reason": None, **choice}],
    }


def of_sensenova(text: str, count: int, reason: str = "") -> dict[str, Any]:
    choice = {"index": 0, "role": "assistant", "delta": text, "finish_reason": reason}
    counts = {**usage(count), "knowledge_tokens": 0}
    return {"data": {"choices": [choice], "usage": counts}, "status": {"code": 0, "message": "ok"}}


def of_dashscope(text: str) -> str:
    output = {"session_id": "", "finish_reason": "stop" if text == GROWING[-1] else "null", "text": text}
    return f"event:result\n:HTTP_STATUS/200\ndata:{json.dumps({'output': output, 'usage': {'models': []}})}\n\n"


TEXTS = {
    **{
        f"Lemonade: {dialect.name}, the end once more behind it, with the counts": Stream(
            dialect,
            ndjson(*map(piece_of, "abc"), {**piece_of(""), "done": True, "done_reason": "length"}, OF_LEMONADE)
            + ndjson({**piece_of(""), **last(**dict.fromkeys(DURATIONS, 0))}),
            odd=("one instant",),
        )
        for dialect, piece_of in ((CHAT, of_lemonade), (GENERATE, of_lemonade_generate))
    },
    "exo: all thoughts once more beside the call at the end": Stream(
        CHAT,
        ndjson(*(message("", thinking=text) for text in ("we ", "think ", "it ", "over ")))
        + ndjson(
            {
                **message("", thinking="we think it over ", tool_calls=[{"function": {"name": "f", "arguments": {}}}]),
                **last(done_reason="tool_call", eval_count=12),
            }
        ),
        "",
        "we think it over f",
        output=12,
        odd=("repeats the thoughts",),
    ),
    "Portkey: thoughts in blocks, and text in both": Stream(
        V1,
        sse(*(delta(content_blocks=[{"index": 0, "delta": {"thinking": text}}]) for text in ("h", "m")))
        + sse(delta(content_blocks=[{"index": 0, "delta": {"signature": "EuYB"}}]))
        + sse(*(delta(text, content_blocks=[{"index": 1, "delta": {"text": text}}]) for text in "abc"))
        + END,
        hidden="hm",
    ),
    "TensorZero: thoughts beside the content": Stream(
        V1,
        sse(
            *(
                delta(tensorzero_extra_content=[{"type": "thought", "insert_index": 0, "id": "0", "text": text}])
                for text in ("h", "m")
            )
        )
        + sse(A, B, C)
        + END,
        hidden="hm",
    ),
    "text in blocks alone": Stream(
        V1, sse(*(delta(content_blocks=[{"type": "text", "text": text}]) for text in "abc")) + END
    ),
    "LMDeploy: counts with every piece": Stream(
        V1,
        sse(*(piece(text, usage=usage(i, 20, total_tokens=20 + i)) for i, text in enumerate("abc", 1)))
        + sse(piece("", "length", usage=usage(3, 20, total_tokens=23)))
        + DONE,
    ),
    "TensorRT-LLM: how its batches went": Stream(
        V1,
        sse(*(piece(text, beside={"disaggregated_params": None, "avg_decoded_tokens_per_iter": 1.0}) for text in "abc"))
        + END,
    ),
    "Ray Serve: the mark twice": Stream(V1, sse(A, B, C) + END + DONE),
    "TabbyAPI: the reason once more with the counts": Stream(
        V1,
        sse(A, B, C, finish(), finish(usage=usage(3, 20, completion_time=0.1, completion_tokens_per_sec=30.0))) + DONE,
    ),
    "mistral.rs: signs of life, and speeds": Stream(
        V1,
        ":keep-alive-text\n\n"
        + sse(A)
        + ":keep-alive-text\n\n"
        + sse(B, C)
        + sse(finish(usage=usage(3, 20, avg_compl_tok_per_sec=30.0, total_completion_time_sec=0.8)))
        + DONE,
    ),
    "Higress: out of its cache": Stream(V1, sse(piece("abc", "stop", usage=usage(0, 0))) + DONE, **UNCOUNTED),
    "Azure: a filter beside the stream": Stream(
        V1,
        sse(A, of_azure(**FILTERED, content_filter_offsets={"check_offset": 44}), B, C, finish())
        + sse(of_azure(**FILTERED, content_filter_offsets={"check_offset": 198}), COUNTS)
        + DONE,
    ),
    "Together: the text twice, and its token": Stream(
        V1,
        sse(
            *(
                {**delta(t), "choices": [{"index": 0, "text": t, "seed": None, "delta": {"token_id": 5, "content": t}}]}
                for t in "abc"
            )
        )
        + END,
    ),
    "Fireworks: figures of the server": Stream(
        V1, sse(A, B, C, finish(usage=usage(), perf_metrics={"prompt-tokens": 9, "generated-tokens": 9})) + DONE
    ),
    "LiteLLM: a block of thoughts again, whole, beside its signature (open-webui#29860)": Stream(
        V1,
        sse(
            *(delta(reasoning_content=text) for text in ("we ", "think ", "it ", "over ")),
            delta("", thinking_blocks=[{"type": "thinking", "thinking": "we think it over ", "signature": "EuYB"}]),
            A,
            finish(usage=usage(5)),
        )
        + DONE,
        "a",
        "we think it over ",
        output=5,
    ),
    "Hunyuan: whether it thinks, beside every piece": Stream(
        V1, sse(*(delta(text, think_state="done") for text in "abc")) + END
    ),
    "xAI: thoughts that are counted apart": Stream(
        V1,
        sse(
            A,
            B,
            C,
            finish(),
            {**COUNTS, "usage": usage(3, 20, total_tokens=30, completion_tokens_details={"reasoning_tokens": 7})},
        )
        + DONE,
        output=10,
        odd=("sent no text of them",),
    ),
    "MiniMax: thoughts and text, each with all before": Stream(
        V1,
        sse(*(delta(reasoning_details=[{"type": "reasoning.text", "id": "r", "text": text}]) for text in GROWING))
        + sse(*map(delta, GROWING), finish(usage=usage(12)))
        + DONE,
        GROWN,
        GROWN,
        output=12,
        doubts=ALL_AGAIN,
    ),
    "DashScope: each piece with all before": Stream(
        V1, sse(*map(delta, GROWING), finish(usage=usage(6))) + DONE, GROWN, output=6, doubts=ALL_AGAIN
    ),
    "DashScope's own, each piece with all before": Stream(
        V1, "".join(map(of_dashscope, GROWING)), GROWN, odd=("another API",), doubts=ALL_AGAIN, **UNCOUNTED
    ),
    "an error deep in a row of no answer's, which a tool of the server's may have met": Stream(
        V1, sse(A, {"event": {"data": {"output": {"error": SAID}}}}, B, C) + END, doubts=(f"went wrong: '{SAID}'",)
    ),
    "Lambda: a prelude and zeros before the first event (langwatch#3568)": Stream(
        V1, json.dumps({"statusCode": 200, "headers": {}}) + "\0" * 8 + sse(A, B, C) + END, odd=("not one a line",)
    ),
    "Perplexity: steps of a search, then all of it once more": Stream(
        V1,
        sse({**piece(""), "object": "chat.reasoning"}, A, B, C)
        + sse({**of_azure(delta={"content": ""}, message={"content": "abc"}, finish_reason="stop"), "usage": usage()})
        + DONE,
        odd=("repeats the whole answer",),
    ),
    "SenseNova: an envelope, the delta a text": Stream(
        V1,
        sse(*(of_sensenova(text, i) for i, text in enumerate("abc", 1)), of_sensenova("", 3, "stop")) + DONE,
        odd=("envelope",),
    ),
    "KoboldCpp's own: tokens": Stream(
        V1,
        "".join(f"event: message\ndata: {json.dumps({'token': t, 'finish_reason': None})}\n\n" for t in "abc")
        + 'event: message\ndata: {"token":"","finish_reason":"stop"}\n\n',
        odd=("another API",),
        **UNCOUNTED,
    ),
    "OpenAI: a moderation that failed is no failure": Stream(
        V1, sse(A, B, C, finish(), {**COUNTS, "moderation": {"output": {"type": "error", "message": SAID}}}) + DONE
    ),
    "APISIX: a verdict beside counts of nothing (apisix#13922)": Stream(
        V1, sse(A, B, C, finish(), COUNTS, {"choices": [], "usage": usage(0, 0), "risk_level": "high"}) + DONE
    ),
    "Portkey: hooks behind the mark": Stream(
        V1, sse(A, B, C) + END + sse({"hook_results": {"checks": [{"error": SAID}]}})
    ),
    "vLLM: tokens without text": Stream(
        V1, sse(*({"choices": [{"index": 0, "token_ids": [i]}]} for i in range(3)), finish("length"), COUNTS) + DONE, ""
    ),
    "Open WebUI: sources and a status first": Stream(
        V1,
        sse({"sources": [{"document": ["x"]}]}, {"event": {"type": "status", "data": {"done": False}}}, A, B, C) + END,
    ),
    "LM Studio: nothing for a prompt beyond the context (lmstudio-bug-tracker#2339)": Stream(
        V1, sse(delta("", role="assistant"), finish(usage=usage(5, 36000))) + DONE, "", output=5, prompt=36000
    ),
    "CLOVA's own: all of it in the last event": Stream(
        V1,
        "".join(
            f"event: token\ndata: {json.dumps({'message': {'content': t}, 'finishReason': None})}\n\n" for t in "abc"
        )
        + f"event: result\ndata: {json.dumps({'message': {'content': 'abc'}, 'finishReason': 'stop', 'usage': OF_CLOVA})}\n\n",
        odd=("another API", "repeats the whole answer"),
    ),
    "CLOVA's own: an answer of one piece": Stream(
        V1,
        f"event: token\ndata: {json.dumps({'message': {'content': 'abc'}, 'finishReason': None})}\n\n"
        f"event: result\ndata: {json.dumps({'message': {'content': 'abc'}, 'finishReason': 'stop', 'usage': OF_CLOVA})}\n\n",
        odd=("another API", "repeats the whole answer"),
    ),
    "Volcengine: success in capitals in a row of its own": Stream(
        V1, sse(A, B, C, {"ResponseMetadata": {"Error": {"Code": "0", "Message": "success"}}}) + END
    ),
    "RAGFlow: all of it once more, with its sources in it (infiniflow/ragflow#15286)": Stream(
        V1,
        sse(*map(delta, TALK), delta(" The cat sat [ID:0] on the mat. [ID:1]"), finish(usage=usage(7))) + DONE,
        f"{TALKED} The cat sat [ID:0] on the mat. [ID:1]",
        output=7,
        doubts=("repeats all of it",),
    ),
    "RAGFlow: all of it once more under another name (infiniflow/ragflow#15443)": Stream(
        V1,
        sse(*map(delta, TALK), with_choice(delta(final_content=TALKED), finish_reason="stop") | {"usage": usage(7)}),
        TALKED,
        output=7,
        odd=("repeats the whole answer",),
    ),
    "OCI: pieces alone, then all of them with the reason": Stream(
        V1,
        sse(*({"apiFormat": "COHERE", "text": text, "pad": "aaa"} for text in "abc"))
        + sse({"apiFormat": "COHERE", "text": "abc", "chatHistory": [{"message": "hi"}], "finishReason": "COMPLETE"}),
        odd=("another API",),
        **UNCOUNTED,
    ),
    "Inception: every piece is the text so far, some of it still to be written": Stream(
        V1,
        sse(*map(delta, REFINED), finish(usage=usage(10))) + DONE,
        "".join(REFINED),
        output=None,
        doubts=("fewer tokens than the answer's text can have",),
    ),
    "iFlytek: a code and a word of success with every piece": Stream(
        V1,
        sse(*({**row, "code": 0, "message": "Success", "sid": "x"} for row in (A, B, C, finish())))
        + sse(COUNTS)
        + DONE,
    ),
}

ERRORS = {
    "LMDeploy: its words as text": Stream(
        V1,
        sse(A, piece("internal error happened", "error")) + DONE,
        "ainternal error happened",
        error="'error'",
        **FAILED,
    ),
    "exo: its words as text": Stream(
        CHAT,
        ndjson(message("a"), {**message(SAID), "done": True, "done_reason": "error"}),
        f"a{SAID}",
        error=f"'error': {SAID}",
        **FAILED,
    ),
    "a word of the model's beside a reason of error": Stream(
        V1, sse(A, piece("b", "error")) + DONE, "ab", error="finish_reason 'error'", **FAILED
    ),
    "OVMS: an object of its own at the end": Stream(
        V1, sse(A) + json.dumps({"error": SAID}), "a", error=SAID, **FAILED
    ),
    "DashScope's own, behind its status": Stream(
        V1,
        f"event:error\n:HTTP_STATUS/400\ndata:{json.dumps({'code': 'InvalidParameter', 'message': SAID})}\n\n",
        "",
        error=SAID,
        **FAILED,
    ),
    "Zhipu: its network": Stream(V1, sse(A, finish("network_error")) + DONE, "a", error="network_error", **FAILED),
    **{
        f"events of a native API's ({whose})": Stream(
            V1,
            "".join(f"event: {name}\ndata: {text}\n\n" for text in ("Hello", " world")) + end,
            "",
            odd=odd,
            error=f"named '{name}' hold no text that loadtest reads",
            **FAILED,
        )
        for whose, name, end, odd in (
            ("Replicate", "output", "event: done\ndata: {}\n\n", ("events named 'output'",)),
            ("Gradio", "generating", 'event: complete\ndata: ["Hello world"]\n\n', ("'generating'", "'complete'")),
        )
    },
    "words in an event of another name alone": Stream(
        V1, f"event: status\ndata: {SAID}\n\n", "", odd=("events named 'status'",), error=f"behind '{SAID}'", **FAILED
    ),
    "a status between an event's name and its data": Stream(
        V1, sse(A) + f'event: error status: 500 data: "{SAID}"\n\n', "a", error=SAID, **FAILED
    ),
}
