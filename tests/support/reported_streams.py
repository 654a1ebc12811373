"""More streams out of public reports: each is what a server or gateway was said to send, with what must be made of it."""

from __future__ import annotations

import json
from typing import Any

from support.odd_streams import (
    BLOCKS,
    CHAT,
    COMPLETIONS,
    COUNTS,
    DONE,
    END,
    MESSAGES,
    PIECES,
    RESPONSES,
    STOP,
    UNCOUNTED,
    V1,
    A,
    B,
    C,
    Stream,
    block,
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


def counted(**counts: Any) -> str:
    """Return an answer whose last chunk has these counts, whatever their names."""
    return sse(A, B, C, finish(), {"choices": [], "usage": counts}) + DONE


def spoken(text: str) -> dict[str, Any]:
    return delta(audio={"id": "v", "transcript": text, "data": "AAAA"})


def on_own_data(text: str, **more: Any) -> dict[str, Any]:
    said = {"index": 0, "delta": {"content": text}, "end_turn": False}
    return {"id": "x", "choices": [{"index": 0, "messages": [said], "finish_reason": None, **more}]}


def typeless(*rows: dict[str, Any]) -> str:
    """Frame events whose data leave out the type, which the event's name says."""
    return "".join(
        f"event: {row['type']}\ndata: {json.dumps({key: row[key] for key in row if key != 'type'})}\n\n" for row in rows
    )


WHOLE = {"choices": [{"index": 0, "message": {"content": "abc"}, "finish_reason": "stop"}], "usage": usage()}

TEXTS = {
    "what a voice says (gpt-4o-audio)": Stream(V1, sse(*map(spoken, "abc")) + END),
    "a voice without words": Stream(
        V1, sse(A, B, C, delta(audio={"data": "AAAA"}), delta(audio={"expires_at": 7})) + END
    ),
    "thoughts that nobody can read (Copilot)": Stream(
        V1, sse(delta(reasoning_text="hm"), A, B, C, delta(reasoning_opaque="b3BhcXVl")) + END, hidden="hm"
    ),
    "encrypted details": Stream(
        V1, sse(A, B, C, delta(reasoning_details=[{"type": "reasoning.encrypted", "data": "b3Bh"}])) + END
    ),
    "a list of messages in a choice (Azure, own data)": Stream(V1, sse(*map(on_own_data, "abc")) + END),
    "the same piece twice in such a list": Stream(V1, sse(*map(on_own_data, "aab")) + END, "aab"),
    "both a delta and a message (Foundry Local)": Stream(
        V1,
        sse(*(with_choice(delta(text), message={"role": "assistant", "content": text}) for text in "abc")) + END,
    ),
    "all of it so far in the message (Perplexity)": Stream(
        V1,
        sse(
            *(
                with_choice(delta(text), message={"role": "assistant", "content": "abc"[: i + 1]})
                for i, text in enumerate("abc")
            )
        )
        + END,
    ),
    "one piece, then the whole message (MiniMax)": Stream(
        V1,
        sse(
            delta("Hello"),
            {"object": "chat.completion", **WHOLE}
            | {
                "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}]
            },
        )
        + DONE,
        "Hello",
        odd=("repeats the whole answer",),
    ),
    "completions: reasoning beside the text": Stream(
        COMPLETIONS,
        sse(
            {"choices": [{"index": 0, "text": "", "reasoning": "hm"}]},
            {"choices": [{"index": 0, "text": "abc"}]},
            {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}], "usage": usage()},
        )
        + DONE,
        hidden="hm",
    ),
    "reasoning in the choice, beside an empty delta": Stream(
        V1, sse(with_choice(delta(""), reasoning_content="hm"), A, B, C) + END, hidden="hm"
    ),
    "summaries of reasoning as parts (Databricks)": Stream(
        V1,
        sse(delta([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}]), A, B, C) + END,
        hidden="hm",
    ),
    "thinking parts of parts (Magistral)": Stream(
        V1,
        sse(delta([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}]), A, B, C) + END,
        hidden="hm",
    ),
    "a part that refers to a source (Mistral)": Stream(
        V1, sse(A, delta([{"type": "reference", "reference_ids": [1]}]), B, C) + END
    ),
    "steps of reasoning (Perplexity)": Stream(
        V1,
        sse(delta("", reasoning_steps=[{"thought": "hm", "type": "web_search"}]), A, B, C) + END,
        hidden="hm",
        odd=("'reasoning_steps'",),
    ),
    "nothing but filters first (Azure)": Stream(
        V1,
        sse({"id": "", "object": "", "model": "", "choices": [], "prompt_filter_results": [{"prompt_index": 0}]}, A, B)
        + sse({"choices": [{"index": 0, "finish_reason": None, "content_filter_offsets": {"end_offset": 44}}]}, C)
        + END,
    ),
    "sources first (Open WebUI)": Stream(
        V1, sse({"sources": [{"source": {"name": "x"}}]}, {"selected_model_id": "m"}, A, B, C) + END
    ),
    "arguments that are null": Stream(
        V1,
        sse(
            delta(tool_calls=[{"index": 0, "id": "1", "function": {"name": "f", "arguments": None}}]),
            delta(tool_calls=[{"index": 0, "function": {"arguments": "{}"}}]),
        )
        + END,
        "",
        "f{}",
    ),
    "content null beside empty reasoning (DeepSeek)": Stream(
        V1,
        sse(delta(None, reasoning_content="hm"), *(delta(text, reasoning_content=None) for text in "abc")) + END,
        hidden="hm",
    ),
    "ollama: reasoning beside an empty content": Stream(
        CHAT, ndjson(message("", thinking="hm"), message("a"), message("b"), message("c"), last()), hidden="hm"
    ),
    "ollama: the last piece with done": Stream(
        CHAT, ndjson(message("a"), message("b"), last(message={"role": "assistant", "content": "c"}))
    ),
    "responses: a voice's transcript": Stream(
        RESPONSES, named(*(response("output_audio_transcript.delta", delta=text) for text in "abc"), completed())
    ),
    "responses: events without a type": Stream(RESPONSES, typeless(*PIECES, completed())),
    "responses: thoughts in events without a type": Stream(
        RESPONSES, typeless(response("reasoning_text.delta", delta="hm"), *PIECES, completed()), hidden="hm"
    ),
    "responses: deltas that are objects": Stream(
        RESPONSES, named(*(response("output_text.delta", delta={"text": text}) for text in "abc"), completed())
    ),
    "responses: all of it in an output that is a text": Stream(RESPONSES, named(completed(output="abc"))),
    "responses: all of it in output_text": Stream(RESPONSES, named(completed(output_text="abc"))),
    "responses: the last piece alone in the end (vLLM)": Stream(
        RESPONSES,
        named(
            *PIECES,
            completed(output=[{"type": "message", "content": [{"type": "output_text", "text": "c"}]}]),
        ),
    ),
    "messages: events without a type": Stream(MESSAGES, typeless(start(), *BLOCKS, stopped(output_tokens=3), STOP)),
    "messages: a whole one without a type": Stream(
        MESSAGES,
        json.dumps(
            {
                "id": "msg_1",
                "role": "assistant",
                "content": [{"type": "text", "text": "abc"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 20, "output_tokens": 3},
            }
        ),
    ),
    "messages: the text in the block's beginning": Stream(
        MESSAGES,
        named(
            start(),
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}},
            *BLOCKS[1:],
            stopped(output_tokens=3),
            STOP,
        ),
    ),
    "messages: in another stream's events": Stream(
        MESSAGES,
        sse(*({"type": "stream_event", "event": row} for row in (start(), *BLOCKS, stopped(output_tokens=3), STOP))),
        odd=("envelope",),
    ),
}

COUNTED = {
    "Ollama's names (Open WebUI)": Stream(V1, counted(prompt_eval_count=20, eval_count=3, **{"response_token/s": 9.5})),
    "JavaScript's names": Stream(V1, counted(promptTokens=20, completionTokens=3, totalTokens=23)),
    "Bedrock's names": Stream(V1, counted(inputTokens=20, outputTokens=3, totalTokens=23)),
    "Gemini's names under Gemini's": Stream(
        V1,
        sse(
            A,
            B,
            C,
            finish(
                usageMetadata={
                    "promptTokenCount": 20,
                    "candidatesTokenCount": 3,
                    "thoughtsTokenCount": 2,
                    "totalTokenCount": 25,
                }
            ),
        )
        + DONE,
        output=5,
        odd=("sent no text of them",),
    ),
    "usage_metadata": Stream(V1, sse(A, B, C, finish(usage_metadata={"input_tokens": 20, "output_tokens": 3})) + DONE),
    "token_usage": Stream(V1, sse(A, B, C, finish(token_usage=usage())) + DONE),
    "in the delta": Stream(V1, sse(A, B, C, with_choice(finish(), delta={"usage": usage()})) + DONE),
    "in meta": Stream(V1, sse(A, B, C, finish(meta={"usage": usage()})) + DONE),
    "on a chunk with an empty choice (mlx-dspark)": Stream(
        V1, sse(A, B, C, finish(), {**delta(), "usage": usage()}) + DONE
    ),
    "on the chunk that says the role again": Stream(
        V1,
        sse(A, B, C, with_choice(finish(), delta={"role": "assistant", "content": None}) | {"usage": usage()}) + DONE,
    ),
    "a total of nothing (9router)": Stream(V1, counted(prompt_tokens=20, completion_tokens=3, total_tokens=0)),
    "a total that is null": Stream(V1, counted(prompt_tokens=20, completion_tokens=3, total_tokens=None)),
    "details that are null (vLLM)": Stream(
        V1,
        counted(
            prompt_tokens=20,
            completion_tokens=3,
            total_tokens=23,
            prompt_tokens_details=None,
            completion_tokens_details=None,
        ),
    ),
    "reasoning null in the details, a number beside them": Stream(
        V1,
        counted(
            prompt_tokens=15,
            completion_tokens=3,
            total_tokens=20,
            reasoning_tokens=2,
            completion_tokens_details={"reasoning_tokens": None},
        ),
        prompt=15,
        output=5,
        odd=("sent no text of them",),
    ),
    "usage as a text": Stream(V1, sse(A, B, C, finish(usage="none")) + DONE, **UNCOUNTED),
    "usage as a list": Stream(V1, sse(A, B, C, finish(usage=[])) + DONE, **UNCOUNTED),
    "usage null on every chunk but the last": Stream(
        V1, sse(*(row | {"usage": None} for row in (A, B, C, finish())), COUNTS) + DONE
    ),
    "more cached than the prompt has (DeepSeek's names)": Stream(
        V1,
        counted(prompt_tokens=20, completion_tokens=3, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=0),
        doubts=("more cached tokens",),
    ),
    "nothing but a total (MiniMax)": Stream(V1, counted(total_tokens=23), **UNCOUNTED),
    "messages: counts in the delta": Stream(
        MESSAGES,
        named(
            start(),
            *BLOCKS,
            {"type": "message_delta", "delta": {"stop_reason": "end_turn", "usage": {"output_tokens": 3}}},
            STOP,
        ),
    ),
    "messages: counts with message_stop alone (LiteLLM)": Stream(
        MESSAGES,
        named(start(0, 0), *BLOCKS, stopped(), {**STOP, "usage": {"input_tokens": 20, "output_tokens": 3}}),
    ),
    "messages: cached tokens that are part of the input (DashScope)": Stream(
        MESSAGES,
        named(
            start(prompt=24),
            *BLOCKS,
            stopped(cache_read_input_tokens=20, prompt_tokens_details={"cached_tokens": 20}, output_tokens=3),
            STOP,
        ),
        prompt=24,
    ),
    "messages: OpenAI's names": Stream(
        MESSAGES, named(start(0, 0), *BLOCKS, stopped(prompt_tokens=20, completion_tokens=3, total_tokens=23), STOP)
    ),
    "messages: counts with every piece (Dynamo)": Stream(
        MESSAGES,
        named(
            start(),
            *({**block(text), "usage": {"input_tokens": 20, "output_tokens": i}} for i, text in enumerate("abc", 1)),
            stopped(input_tokens=20, output_tokens=3),
            STOP,
        ),
    ),
    "responses: OpenAI's older names": Stream(RESPONSES, named(*PIECES, completed(usage=usage()))),
}
