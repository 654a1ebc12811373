"""Texts, counts and frames of streams in shapes of gateways and clouds, the fourth part; what to make of each."""

from __future__ import annotations

import json
from typing import Any

from support.odd_streams import (
    CHAT,
    COMPLETIONS,
    COUNTS,
    DONE,
    END,
    GENERATE,
    UNCOUNTED,
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
    ndjson,
    sse,
    usage,
)
from support.reported_deltas import chosen
from support.reported_streams import counted

CALL = {"index": 0, "id": "1", "function": {"name": "f", "arguments": "{}"}}
CALLED = sse(finish("tool_calls"), COUNTS) + DONE
AROUND = ("something else around them",)
ANOTHER = ("the format of another API",)
OVER = {
    "candidates": [{"content": {"parts": []}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 3},
}


def candidate(**content: Any) -> dict[str, Any]:
    return {"candidates": [{"content": content}]}


def of_row(**more: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", **more}


def of_caikit(text: str, count: int, reason: str = "NOT_FINISHED") -> dict[str, Any]:
    details = {"finish_reason": reason, "generated_tokens": count, "seed": None, "input_token_count": 20}
    return {
        "generated_text": text,
        "tokens": [{"text": text, "logprob": -0.1}],
        "details": details,
        "producer_id": None,
    }


def of_tgis(text: str, count: int, reason: str = "NOT_FINISHED") -> dict[str, Any]:
    return {"input_token_count": 20, "generated_token_count": count, "text": text, "stop_reason": reason}


def of_light_llm(text: str, count: int, reason: str | None = None) -> dict[str, Any]:
    token = {"id": 1, "text": text, "special": False, "count_output_tokens": count, "prompt_tokens": 20}
    return {"token": token, "generated_text": None, "finished": reason is not None, "finish_reason": reason}


def marked(mark: str, text: str, **flags: Any) -> Stream:
    """Return an answer whose thoughts differ from its text by a mark alone."""
    return Stream(
        V1,
        sse(delta("hm", **{mark: flags["hidden"]}), *(delta(t, **{mark: flags["seen"]}) for t in text)) + END,
        text,
        "hm",
    )


CITED = {"citationsContent": {"content": [{"text": "abc"}], "citations": [{"title": "t"}]}}
NO_END = {"stop_reason": "not_finished"}
LAST_OF_WATSONX = {"generated_text": "c", "stop_reason": "max_tokens"}


def of_sglang(text: str, reason: Any) -> dict[str, Any]:
    counts = {"prompt_tokens": 20, "completion_tokens": 3, "e2e_latency": 0.5}
    return {"text": text, "meta_info": {"id": "x", "finish_reason": reason, **counts}}


TEXTS = {
    "Caikit's own": Stream(V1, sse(of_caikit("a", 1), of_caikit("b", 2), of_caikit("c", 3, "MAX_TOKENS")), odd=ANOTHER),
    "TGIS's own through a gateway of gRPC": Stream(
        V1,
        ndjson(*({"result": row} for row in (of_tgis("a", 1), of_tgis("b", 2), of_tgis("c", 3, "EOS_TOKEN")))),
        odd=("an envelope", *ANOTHER),
    ),
    "TGIS's own, whole": Stream(V1, json.dumps({"responses": [of_tgis("abc", 3, "MAX_TOKENS")]}), odd=ANOTHER),
    "TGI's own, whole": Stream(
        V1,
        json.dumps({"generated_text": "abc", "details": {"finish_reason": "length", "generated_tokens": 3}}),
        prompt=None,
        odd=ANOTHER,
    ),
    "LightLLM's own": Stream(
        V1, sse(of_light_llm("a", 1), of_light_llm("b", 2), of_light_llm("c", 3, "length")), odd=ANOTHER
    ),
    **{
        f"a reason beside the last piece alone, under {text}": Stream(
            V1, ndjson({text: "a"}, {text: "b"}, {text: "c", reason: "stop"}), **UNCOUNTED, odd=ANOTHER
        )
        for text, reason in (("text", "stop_reason"), ("outputText", "completionReason"), ("text", "stopReason"))
    },
    "a reason beside all of it once more": Stream(
        V1, ndjson({"text": "a"}, {"text": "bc"}, {"text": "abc", "stop_reason": "stop"}), **UNCOUNTED, odd=ANOTHER
    ),
    "a word before pieces with a reason": Stream(
        V1,
        ndjson({"text": "zz"}, {"text": "abc", "stop_reason": None}, {"text": "", "stop_reason": "stop"}),
        **UNCOUNTED,
        odd=ANOTHER,
    ),
    "a call as a part (Gemini)": Stream(
        V1, sse(candidate(parts=[{"functionCall": {"name": "f", "args": {"x": 1}}}]), OVER), "", 'f{"x":1}', odd=ANOTHER
    ),
    "a call that is malformed (Gemini)": Stream(
        V1,
        sse(candidate(), OVER | {"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": "f("}]}),
        "",
        odd=ANOTHER,
        doubts=("is not known",),
    ),
    "a call as a part (Bedrock)": Stream(
        V1,
        sse(
            {"contentBlockStart": {"start": {"toolUse": {"toolUseId": "1", "name": "f"}}}},
            {"contentBlockDelta": {"delta": {"toolUse": {"input": "{}"}}}},
            {"messageStop": {"stopReason": "tool_use"}},
            {"metadata": {"usage": {"inputTokens": 20, "outputTokens": 3}}},
        ),
        "",
        "f{}",
        odd=ANOTHER,
    ),
    "a plan before its calls (Cohere)": Stream(
        V1,
        sse(
            {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "hm"}}},
            {"type": "tool-call-start", "delta": {"message": {"tool_calls": CALL}}},
            {
                "type": "message-end",
                "delta": {"finish_reason": "TOOL_CALL", "usage": {"tokens": {"input_tokens": 20, "output_tokens": 3}}},
            },
        ),
        "",
        "hmf{}",
        odd=ANOTHER,
    ),
    "choices by their number, as PHP writes a list": Stream(
        V1, sse(*(of_row(choices={"0": {"index": 0, "delta": {"content": text}}}) for text in "abc")) + END
    ),
    "a result in the row (Baidu)": Stream(
        V1,
        sse(
            *(
                of_row(object="chat.completion", result=text, is_end=i == 3, finish_reason="normal", usage=usage(i))
                for i, text in enumerate("abc", 1)
            )
        ),
    ),
    "a content in the row, beside no choices": Stream(
        V1, sse(*(of_row(choices=[], content=text) for text in "abc")) + END
    ),
    "a delta in the row": Stream(V1, sse(*(of_row(delta={"content": text}) for text in "abc")) + END),
    "Cloudflare's own": Stream(
        V1,
        sse(*({"response": text, "p": "ab"} for text in "abc"), {"response": "", "usage": usage()}) + DONE,
        odd=("API",),
    ),
    "completions: Cloudflare's own": Stream(
        COMPLETIONS,
        sse(*({"response": text} for text in "abc"), {"response": "", "usage": usage()}) + DONE,
        odd=("API",),
    ),
    "a channel of thoughts (Harmony)": marked("channel", "abc", hidden="analysis", seen="final"),
    "a phase of thoughts": marked("phase", "abc", hidden="thinking", seen="answer"),
    "a thought by its flag": marked("thought", "abc", hidden=True, seen=False),
    "thinking by its flag": marked("thinking", "abc", hidden=True, seen=False),
    "reasoning by its flag": marked("is_reasoning", "abc", hidden=True, seen=False),
    "a delta of the type thinking": marked("type", "abc", hidden="thinking", seen="text"),
    "calls in camel case": Stream(V1, sse(delta(toolCalls=[CALL])) + CALLED, "", "f{}", odd=("'toolCalls'",)),
    "one call": Stream(V1, sse(delta(tool_call=CALL)) + CALLED, "", "f{}", odd=("'tool_call'",)),
    "pieces of calls (LangChain)": Stream(
        V1, sse(delta(tool_call_chunks=[{"name": "f", "args": "{}"}])) + CALLED, "", "f{}", odd=("'tool_call_chunks'",)
    ),
    "arguments as args": Stream(V1, sse(delta(tool_calls=[{"name": "f", "args": {"x": 1}}])) + CALLED, "", 'f{"x":1}'),
    "calls in the choice": Stream(V1, sse(chosen(delta={}, tool_calls=[CALL])) + CALLED, "", "f{}"),
    "calls as a text of JSON": Stream(V1, sse(delta(tool_calls='[{"name":"f"}]')) + CALLED, "", '[{"name":"f"}]'),
    **{
        f"what was searched for, as {name}": Stream(V1, sse(delta("", **{name: said}), A, B, C) + END)
        for name, said in (("search_queries", ["what is a"]), ("search_result", [{"content": "what it says"}]))
    },
    **{
        f"a label beside the role: {', '.join(labels)}": Stream(
            V1,
            sse(delta(content, role="assistant", **dict.fromkeys(labels, "main")), A, B, C) + END,
            odd=tuple(f"'{name}', one word" for name in labels),
        )
        for content, labels in (("", ("agent",)), (None, ("vendor",)), ("", ("speaker", "mode")))
    },
    "a label beside the role of every piece": Stream(
        V1,
        sse(*(delta(text, role="assistant", lang="en") for text in ("", "a", "b", "c"))) + END,
        odd=("one word", "beside its own"),
    ),
    "thoughts under a name that is not known, beside the first role": Stream(
        V1,
        sse(delta("", role="assistant", musings="h"), delta(musings="m"), A, B, C) + END,
        hidden="hm",
        odd=("taken for reasoning",),
    ),
    "a citation as a part": Stream(V1, sse(A, B, C, delta([{"type": "citation", "text": "x", "url": "u"}])) + END),
    **{
        f"what is no text, as {name}": Stream(
            V1, sse(A, delta("", **{name: said}), B, C) + END, odd=(f"'{name}': left out",)
        )
        for name, said in (
            ("footnotes", ["zz"]),
            ("citation", {"text": "zz"}),
            ("suggestions", ["what then?"]),
            ("progress", {"stage": "searching", "text": "zz"}),
        )
    },
    "thoughts that are an object, under a name that is not known": Stream(
        V1, sse(delta(reasoningContent={"text": "hm"}), A, B, C) + END, hidden="hm", odd=("'reasoningContent'",)
    ),
    "thoughts in the row, beside an empty delta": Stream(
        V1, sse({**delta(""), "reasoning_content": "hm"}, A, B, C) + END, hidden="hm"
    ),
    "a content in the row, beside an empty delta": Stream(
        V1, sse(*({**delta(""), "content": text} for text in "abc")) + END
    ),
    **{
        f"ollama: {'generate, ' * (dialect is GENERATE)}the text as {name}": Stream(
            dialect, ndjson(*({"model": "m", name: text, "done": False} for text in "abc"), last())
        )
        for dialect in (CHAT, GENERATE)
        for name in ("content", "text", "delta")
    },
    "ollama: a reason without done (ollama-vscode#61)": Stream(
        CHAT, ndjson(message("a"), message("b"), message("c"), {k: v for k, v in last().items() if k != "done"})
    ),
    "ollama: a reason with a call, then with done (llama-swappo#13)": Stream(
        CHAT,
        ndjson(
            {**message("", tool_calls=[CALL]), "done_reason": "tool_calls"},
            last(done_reason="tool_calls"),
        ),
        "",
        "f{}",
    ),
    "ollama: a message that is a text": Stream(
        CHAT, ndjson(*({"model": "m", "message": text, "done": False} for text in "abc"), last())
    ),
    "ollama: a message in a list": Stream(
        CHAT, ndjson(*({"message": [{"role": "assistant", "content": text}], "done": False} for text in "abc"), last())
    ),
    "ollama: a channel of thoughts": Stream(
        CHAT, ndjson(message("hm", channel="analysis"), message("a"), message("b"), message("c"), last()), hidden="hm"
    ),
    "ollama: done with every piece, then the facts": Stream(
        CHAT, ndjson(*({**message(text), "done": True} for text in "abc"), last())
    ),
    "ollama: done with every piece": Stream(
        CHAT, ndjson(*({**message(text), "done": True} for text in "abc")), **UNCOUNTED
    ),
    "Bedrock's own, whole (Converse)": Stream(
        V1,
        json.dumps(
            {
                "output": {
                    "message": {"role": "assistant", "content": [CITED, {"toolUse": {"name": "f", "input": {}}}]}
                },
                "stopReason": "tool_use",
                "usage": {"inputTokens": 12, "cacheReadInputTokens": 8, "outputTokens": 3, "totalTokens": 23},
            }
        ),
        hidden="f",
        odd=ANOTHER,
    ),
    "watsonx's own": Stream(
        V1,
        sse(
            *(
                {"results": [{"generated_text": text, "generated_token_count": i, "input_token_count": 0, **NO_END}]}
                for i, text in enumerate("ab", 1)
            ),
            {"results": [{**LAST_OF_WATSONX, "generated_token_count": 3, "input_token_count": 20}]},
        ),
        odd=ANOTHER,
    ),
    "SGLang's own": Stream(
        V1,
        sse(*(of_sglang(text, None) for text in "ab"), of_sglang("c", {"type": "length", "length": 3})) + DONE,
        odd=ANOTHER,
    ),
}

BILLED = {"billed_units": {"input_tokens": 5, "output_tokens": 3}, "tokens": {"input_tokens": 20, "output_tokens": 3}}

COUNTED = {
    "what is billed and what is counted (Cohere)": Stream(V1, counted(**BILLED)),
    **{
        f"counts in {name}": Stream(V1, sse(A, B, C, finish(**{name: {**usage(), "e2e_latency": 0.1}})) + DONE)
        for name in ("stats", "meta_info", "Usage")
    },
    "counts in the last chunk itself": Stream(V1, sse(A, B, C, finish(prompt_tokens=20, completion_tokens=3)) + DONE),
    "tokens in meta": Stream(
        V1, sse(A, B, C, finish(meta={"tokens": {"input_tokens": 20, "output_tokens": 3}})) + DONE
    ),
    "a usage in a list": Stream(V1, sse(A, B, C, finish(usage=[usage()])) + DONE),
    "a usage as a text of JSON": Stream(V1, sse(A, B, C, finish(usage=json.dumps(usage()))) + DONE),
    **{
        f"counts named {prompt} and {output}": Stream(V1, counted(**{prompt: 20, output: 3, total: 23}))
        for prompt, output, total in (
            ("input_token_count", "output_token_count", "total_token_count"),
            ("tokens_prompt", "tokens_completion", "total"),
            ("prompt", "completion", "total"),
            ("input", "output", "total"),
            ("PromptTokens", "CompletionTokens", "TotalTokens"),
        )
    },
    "ollama: counts under the names of /v1": Stream(
        CHAT,
        ndjson(message("a"), message("b"), message("c"), {"done": True, "prompt_tokens": 20, "completion_tokens": 3}),
    ),
}


def sizes(*parts: str) -> str:
    """Return a body in which the sizes of chunks stand as lines."""
    return "".join(f"{len(part.encode()):x}\r\n{part}\r\n" for part in parts) + "0\r\n\r\n"


ROWS = (A, B, C, finish(), COUNTS)
FRAMES = {
    **{
        f"an envelope: {name}": Stream(V1, sse(*map(packed, ROWS)) + DONE, odd=("envelope",))
        for name, packed in (
            ("message", lambda row: {"type": "chunk", "message": row}),
            ("json", lambda row: {"event": "chunk", "json": row}),
            ("one in another", lambda row: {"code": 0, "data": {"result": row}}),
            ("a list of one", lambda row: {"data": [row]}),
        )
    },
    "a line's end in a text (one blank behind data: is none of it)": Stream(
        V1, sse(A) + 'data: {"choices":[{"delta":{"content":"b\ndata: c"}}]}\n\n' + END, "ab\nc"
    ),
    "event and data in one line": Stream(V1, WHOLE.replace("data: ", "event: message data: ")),
    **{
        f"objects with {name}": Stream(V1, WHOLE.replace(old, new), odd=AROUND)
        for name, old, new in (
            ("another field's name before", "data: ", "message: "),
            ("another name behind data:", "data: {", "data: json: {"),
            ("an equals sign before", "data: ", "data="),
            ("a semicolon behind", "}\n\n", "};\n\n"),
        )
    },
    "bytes as Python writes them": Stream(
        V1, "".join(f"b'{event}\\n\\n'\n" for event in WHOLE.strip().split("\n\n")), odd=AROUND
    ),
    "objects in quotes": Stream(
        V1, "".join(f"data: '{json.dumps(row)}'\n\n" for row in (A, B, C, finish(), COUNTS)) + DONE, odd=AROUND
    ),
    "objects with their number before": Stream(
        V1, "".join(f"{i}:{json.dumps(row)}\n" for i, row in enumerate((A, B, C, finish(), COUNTS))), odd=AROUND
    ),
    "an event in a text of an event": Stream(
        V1,
        "".join(f"data: {json.dumps('data: ' + json.dumps(row))}\n\n" for row in (A, B, C, finish(), COUNTS)) + DONE,
        odd=("texts of JSON",),
    ),
    "ollama: sizes of chunks in the body": Stream(
        CHAT,
        sizes(*(json.dumps(row) + "\n" for row in (message("a"), message("b"), message("c"))), json.dumps(last())),
        odd=("neither an event's nor JSON",),
    ),
    **{
        f"a sign of life: {life}": Stream(V1, f"data: {life}\n\n" + sse(A, B) + f"data: {life}\n\n" + sse(C) + END)
        for life in ("1", "0", ".", "true", "ok", "1769930000.123", "loading model", "waiting for a slot")
    },
    "a state that is a failure": Stream(
        V1, sse(A) + "data: loading failed\n\n", "a", output=None, prompt=None, done=False, error="loading failed"
    ),
}
