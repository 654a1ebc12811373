"""Answers of /v1/responses and /v1/messages as vendors and gateways were reported to send them, and what to make of each."""

from __future__ import annotations

import json
from typing import Any

from support.odd_streams import (
    BLOCKS,
    DONE,
    FAILED,
    MESSAGES,
    PIECES,
    RESPONSES,
    SAID,
    STOP,
    TEXT,
    UNCOUNTED,
    Stream,
    block,
    completed,
    named,
    response,
    start,
    stopped,
)

ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "content": [TEXT]}
THOUGHT = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
CREATED = {"type": "response.created", "response": {"object": "response", "status": "in_progress", "usage": None}}


def of_item(item_id: str, index: int, kind: str, **more: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "item_id": item_id, "output_index": index, **more}


def begin(**what: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": 0, "content_block": what}


def delta(kind: str, **what: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": kind, **what}}


def whole(**more: Any) -> dict[str, Any]:
    counts = {"input_tokens": 20, "output_tokens": 3}
    return {"id": "r", "object": "response", "status": "completed", "output": [ITEM], "usage": counts, **more}


ANSWERS = {
    "queued first (openai-php/client#712)": Stream(
        RESPONSES,
        named(
            CREATED,
            {"type": "response.queued", "response": {"object": "response", "status": "queued"}},
            {"type": "response.in_progress", "response": {"object": "response", "status": "in_progress"}},
            *PIECES,
            completed(),
        ),
    ),
    "thoughts and the answer, every end said (OpenAI)": Stream(
        RESPONSES,
        named(
            CREATED,
            of_item("rs_1", 0, "output_item.added", item={"id": "rs_1", "type": "reasoning", "summary": []}),
            of_item("rs_1", 0, "reasoning_summary_part.added", part={"type": "summary_text", "text": ""}),
            of_item("rs_1", 0, "reasoning_summary_text.delta", delta="h", summary_index=0),
            of_item("rs_1", 0, "reasoning_summary_text.delta", delta="m", summary_index=0),
            of_item("rs_1", 0, "reasoning_summary_text.done", text="hm", summary_index=0),
            of_item("rs_1", 0, "reasoning_summary_part.done", part={"type": "summary_text", "text": "hm"}),
            of_item("rs_1", 0, "output_item.done", item=THOUGHT),
            of_item("msg_1", 1, "content_part.added", part={"type": "output_text", "text": ""}),
            *(of_item("msg_1", 1, "output_text.delta", delta=text) for text in "abc"),
            of_item("msg_1", 1, "output_text.done", text="abc"),
            of_item("msg_1", 1, "content_part.done", part=TEXT),
            of_item("msg_1", 1, "output_item.done", item=ITEM),
            completed(output=[THOUGHT, ITEM]),
        ),
        hidden="hm",
    ),
    "reasoning parts of vLLM's (vllm-project/vllm#24938)": Stream(
        RESPONSES,
        named(
            response("reasoning_part.added", part={"type": "reasoning_text", "text": ""}),
            response("reasoning_text.delta", delta="hm"),
            response("reasoning_text.done", text="hm"),
            response("reasoning_part.done", part={"type": "reasoning_text", "text": "hm"}),
            *(of_item("m", 1, "output_text.delta", delta=text) for text in "abc"),
            completed(),
        ),
        hidden="hm",
    ),
    "an item's end under another id (Oaklight/llm-rosetta#56)": Stream(
        RESPONSES,
        named(
            *({"type": "response.output_text.delta", "item_id": "msg_0", "delta": text} for text in "abc"),
            of_item("msg_9", 1, "output_text.done", text="abc"),
            {"type": "response.output_item.done", "output_index": 1, "item": ITEM},
            completed(),
        ),
    ),
    "an item's end with a number, its pieces without": Stream(
        RESPONSES,
        named(
            *({"type": "response.output_text.delta", "delta": text} for text in "abc"),
            {"type": "response.output_item.done", "output_index": 1, "item": ITEM},
            completed(),
        ),
    ),
    "all items of number 0, the answer at its end alone": Stream(
        RESPONSES,
        named(
            of_item("rs_1", 0, "reasoning_text.delta", delta="hm"),
            of_item("msg_1", 0, "output_text.done", text="abc"),
            completed(),
        ),
        hidden="hm",
    ),
    "items at their ends alone, thoughts first (bytedance/deer-flow#1928)": Stream(
        RESPONSES,
        named(
            {"type": "response.output_item.done", "output_index": 0, "item": THOUGHT},
            {"type": "response.output_item.done", "output_index": 1, "item": ITEM},
            completed(output=[]),
        ),
        hidden="hm",
    ),
    "the answer in the last event alone, thoughts in pieces (Soju06/codex-lb#504)": Stream(
        RESPONSES,
        named(response("reasoning_summary_text.delta", delta="hm"), completed(output=[THOUGHT, ITEM])),
        hidden="hm",
    ),
    "two calls without arguments, said at their ends": Stream(
        RESPONSES,
        named(
            *(
                {
                    "type": "response.output_item.done",
                    "output_index": i,
                    "item": {"id": f"f{i}", "type": "function_call", "name": f"f{i}", "arguments": "{}"},
                }
                for i in (0, 1)
            ),
            completed(),
        ),
        "",
        "f0{}f1{}",
    ),
    "completed, though cut at its length (vllm-project/agentic-api#273)": Stream(
        RESPONSES,
        named(*PIECES, completed(status="incomplete", incomplete_details={"reason": "max_output_tokens"})),
    ),
    "incomplete without a reason (vllm-project/vllm#24184)": Stream(
        RESPONSES, named(*PIECES, completed("incomplete", status="incomplete", incomplete_details=None))
    ),
    "counts of nothing (vllm-project/vllm#24184)": Stream(
        RESPONSES,
        named(*PIECES, completed(usage={"input_tokens": 0, "output_tokens": 0, "total_tokens": 0})),
        **UNCOUNTED,
    ),
    "completed without a response": Stream(RESPONSES, named(*PIECES, {"type": "response.completed"}), **UNCOUNTED),
    "completed, laid flat": Stream(
        RESPONSES,
        named(
            *PIECES,
            {"type": "response.completed", "status": "completed", "usage": {"input_tokens": 20, "output_tokens": 3}},
        ),
    ),
    "done without a status": Stream(RESPONSES, named(*PIECES, completed("done", status=None))),
    "failed without a response": Stream(
        RESPONSES, named(PIECES[0], {"type": "response.failed"}), "a", **FAILED, error="'failed'"
    ),
    "failed, laid flat": Stream(
        RESPONSES, named(PIECES[0], {"type": "response.failed", "error": {"message": SAID}}), "a", **FAILED, error=SAID
    ),
    "cancelled": Stream(
        RESPONSES,
        named(PIECES[0], completed("cancelled", status="cancelled", usage=None)),
        "a",
        **FAILED,
        error="'cancelled'",
    ),
    "an error event with an object (OpenAI)": Stream(
        RESPONSES,
        named(
            PIECES[0],
            {"type": "error", "error": {"type": "server_error", "code": "x", "message": SAID}, "sequence_number": 3},
        ),
        "a",
        **FAILED,
        error=SAID,
    ),
    "an error with the response that failed": Stream(
        RESPONSES,
        named(
            CREATED,
            completed("failed", status="failed", usage=None, error={"code": "rate_limit_exceeded", "message": SAID}),
        ),
        "",
        **FAILED,
        error=SAID,
    ),
    "limits of Codex's between": Stream(
        RESPONSES,
        named(
            {"type": "codex.rate_limits", "plan_type": "pro", "rate_limits": {"primary": {"used_percent": 1}}},
            *PIECES,
            completed(),
        ),
    ),
    "searches of the server's between": Stream(
        RESPONSES,
        named(
            response("output_item.added", item={"type": "web_search_call", "id": "ws", "status": "in_progress"}),
            response("web_search_call.searching"),
            response("output_item.done", item={"type": "web_search_call", "id": "ws", "action": {"query": "x"}}),
            *(of_item("m", 1, "output_text.delta", delta=text) for text in "abc"),
            response("output_text.annotation.added", annotation={"type": "url_citation", "title": "x"}),
            completed(),
        ),
    ),
    "tools that the server lists": Stream(
        RESPONSES,
        named(
            {"type": "response.mcp_list_tools.completed", "output_index": 0, "item_id": "l"},
            {
                "type": "response.output_item.done",
                "output_index": 0,
                "item": {"id": "l", "type": "mcp_list_tools", "server_label": "docs", "tools": [{"name": "f"}]},
            },
            *(of_item("m", 1, "output_text.delta", delta=text) for text in "abc"),
            completed(),
        ),
    ),
    "a whole response": Stream(RESPONSES, json.dumps(whole())),
    "a whole response that failed": Stream(
        RESPONSES,
        json.dumps(whole(status="failed", output=[], usage=None, error={"message": SAID})),
        "",
        **FAILED,
        error=SAID,
    ),
    "padding, and [DONE] behind it": Stream(
        RESPONSES,
        named(
            *(piece | {"sequence_number": i, "obfuscation": "x" * i} for i, piece in enumerate(PIECES, 4)), completed()
        )
        + DONE,
    ),
    "the output's tokens hold the thoughts": Stream(
        RESPONSES,
        named(
            response("reasoning_text.delta", delta="hm"),
            *(of_item("m", 1, "output_text.delta", delta=text) for text in "abc"),
            completed(usage={"input_tokens": 20, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}}),
        ),
        hidden="hm",
        output=5,
    ),
    "messages: usage null behind the text (earendil-works/pi#6567)": Stream(
        MESSAGES,
        named(start(), *BLOCKS, {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": None}, STOP),
        output=None,
    ),
    "messages: output alone behind the text (karthink/gptel#1331)": Stream(
        MESSAGES, named(start(2, cache_creation_input_tokens=0), *BLOCKS, stopped(output_tokens=3), STOP)
    ),
    "messages: another delta without a reason (use-agent-os/agent-os#1854)": Stream(
        MESSAGES,
        named(start(), *BLOCKS, stopped(output_tokens=3), {"type": "message_delta", "delta": {}, "usage": None}, STOP),
    ),
    "messages: zeros behind good counts (farion1231/cc-switch#2485)": Stream(
        MESSAGES,
        named(start(), *BLOCKS, stopped(output_tokens=3), {**STOP, "usage": {"input_tokens": 0, "output_tokens": 0}}),
    ),
    "messages: cached parts at the beginning (Anthropic)": Stream(
        MESSAGES,
        named(
            start(
                prompt=5,
                cache_read_input_tokens=10,
                cache_creation_input_tokens=5,
                cache_creation={"ephemeral_5m_input_tokens": 5},
            ),
            *BLOCKS,
            stopped(output_tokens=3),
            STOP,
        ),
    ),
    "messages: thoughts, a signature, and thoughts that nobody can read": Stream(
        MESSAGES,
        named(
            start(),
            begin(type="thinking", thinking="", signature=""),
            delta("thinking_delta", thinking="hm"),
            delta("signature_delta", signature="EqQBCgIYAh"),
            {"type": "content_block_stop", "index": 0},
            begin(type="redacted_thinking", data="EmwKAhgBEgy3va3pzix/LafPsn4a"),
            begin(type="text", text=""),
            *BLOCKS,
            stopped(output_tokens=3),
            STOP,
        ),
        hidden="hm",
    ),
    "messages: a search that the server ran": Stream(
        MESSAGES,
        named(
            start(),
            begin(type="server_tool_use", id="x", name="web_search", input={}),
            delta("input_json_delta", partial_json='{"query":"x"}'),
            begin(
                type="web_search_tool_result",
                tool_use_id="x",
                content=[{"type": "web_search_result", "title": "T", "url": "u"}],
            ),
            *BLOCKS,
            delta("citations_delta", citation={"cited_text": "T"}),
            stopped(output_tokens=3, server_tool_use={"web_search_requests": 1}),
            STOP,
        ),
        hidden='web_search{"query":"x"}',
    ),
    "messages: what a tool of the server's gave back": Stream(
        MESSAGES,
        named(
            start(),
            begin(type="mcp_tool_use", id="x", name="f", input={}, server_name="s"),
            begin(type="mcp_tool_result", tool_use_id="x", content=[{"type": "text", "text": "not the model's"}]),
            *BLOCKS,
            stopped(output_tokens=3),
            STOP,
        ),
        hidden="f",
    ),
    "messages: begun a second time": Stream(
        MESSAGES,
        named(start(), block("x"), start(), *BLOCKS, stopped(output_tokens=4), STOP),
        "xabc",
        output=4,
        doubts=("begins a second time",),
    ),
    "messages: begun a second time before any text": Stream(
        MESSAGES, named(start(), {"type": "ping"}, start(), *BLOCKS, stopped(output_tokens=3), STOP)
    ),
    "messages: overloaded, with a request's id (karthink/gptel#1512)": Stream(
        MESSAGES,
        named(
            BLOCKS[0],
            {
                "type": "error",
                "error": {"details": None, "type": "overloaded_error", "message": "Overloaded"},
                "request_id": "req_011Ce3HwQb6",
            },
        ),
        "a",
        **FAILED,
        error="Overloaded",
    ),
    "messages: closed behind the reason": Stream(MESSAGES, named(start(), *BLOCKS, stopped(output_tokens=3))),
    "messages: pieces without a blank behind the colon (DashScope)": Stream(
        MESSAGES,
        named(start(), *BLOCKS, stopped(output_tokens=3), STOP).replace(": {", ":{", 99).replace("data: ", "data:"),
    ),
    "messages: a text that is null": Stream(
        MESSAGES, named(start(), delta("text_delta", text=None), *BLOCKS, stopped(output_tokens=3), STOP)
    ),
    "messages: the context is full": Stream(
        MESSAGES,
        named(
            start(),
            *BLOCKS,
            {
                "type": "message_delta",
                "delta": {"stop_reason": "model_context_window_exceeded"},
                "usage": {"output_tokens": 3},
            },
            STOP,
        ),
    ),
    "messages: a whole one with a tool's result": Stream(
        MESSAGES,
        json.dumps(
            {
                "type": "message",
                "role": "assistant",
                "content": [
                    {"type": "server_tool_use", "id": "x", "name": "f", "input": {}},
                    {"type": "code_execution_tool_result", "content": {"type": "text", "text": "not the model's"}},
                    {"type": "text", "text": "abc"},
                ],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 20, "output_tokens": 3},
            }
        ),
        hidden="f",
    ),
}
