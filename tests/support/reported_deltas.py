"""Texts of streams out of public reports, the third part; a number behind "#" is the report's."""

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
    GENERATE,
    LONG,
    PIECES,
    STOP,
    UNCOUNTED,
    V1,
    WORDS,
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
from support.reported_streams import WHOLE

TALK = (" The", " cat", " sat", " on", " the", " mat", ".")
FULL, TALKED = "".join(TALK), tuple(map(delta, TALK))
DOCUMENTS = [{"title": "a page", "url": "https://example.org", "content": "what the page says"}]


def of_model(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {**row, "model": name}


def of_id(row: dict[str, Any], name: str) -> dict[str, Any]:
    return {**row, "id": name}


def chosen(**choice: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "finish_reason": None, **choice}]}


def thinking(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": text}}


TEXTS = {
    "reasoning a provider's own (litellm#8009)": Stream(
        V1, sse(delta(provider_specific_fields={"reasoning_content": "hm"}), A, B, C) + END, hidden="hm"
    ),
    "reasoning once more as a provider's own": Stream(
        V1,
        sse(delta(reasoning_content="hm", provider_specific_fields={"reasoning_content": "hm"}), A, B, C) + END,
        hidden="hm",
    ),
    "thinking blocks of a provider (litellm, Bedrock)": Stream(
        V1,
        sse(
            delta("", provider_specific_fields={"thinking_blocks": [{"type": "thinking", "thinking": "hm"}]}),
            A,
            B,
            C,
        )
        + END,
        hidden="hm",
    ),
    "a provider's own fields hold no text (litellm#7942)": Stream(
        V1,
        sse(
            delta("", provider_specific_fields={"citations": [{"cited_text": "x", "text": "y"}], "refusal": None}),
            *(delta(text, provider_specific_fields={"trace": "t"}) for text in "abc"),
        )
        + END,
    ),
    "all fields of a delta null (litellm)": Stream(
        V1,
        sse(
            *(
                delta(
                    text,
                    provider_specific_fields=None,
                    refusal=None,
                    role=None,
                    function_call=None,
                    tool_calls=None,
                    audio=None,
                )
                for text in "abc"
            )
        )
        + END,
    ),
    **{
        f"documents before the text, as {name}": Stream(V1, sse(delta("", **{name: DOCUMENTS}), A, B, C) + END)
        for name in ("sources", "references", "search_results", "documents", "web_search", "grounding_metadata")
    },
    "documents of a search that the model's tool made (GLM)": Stream(
        V1,
        sse(
            delta(role="tool", tool_calls=[{"type": "web_search", "web_search": {"input": "q", "outputs": DOCUMENTS}}]),
            A,
            B,
            C,
        )
        + END,
    ),
    "what a server's own tools did (Groq's compound)": Stream(
        V1,
        sse(delta(executed_tools=[{"index": 0, "type": "search", "arguments": "{}", "output": "Title"}]), A, B, C)
        + END,
    ),
    **{
        f"text of a {role} before the model's": Stream(
            V1,
            sse(delta("what it found", role=role), *(delta(text, role="assistant") for text in "abc")) + END,
            odd=(f"text of a {role}",),
        )
        for role in ("tool", "function")
    },
    "signs of life as characters without width": Stream(
        V1, sse(delta("\u200b"), delta("\ufeff"), delta("\u200b"), A, B, C) + END, odd=("without width",)
    ),
    "characters without width in the middle": Stream(V1, sse(A, delta("\u200b"), B) + END, "a\u200bb"),
    "annotations beside the text": Stream(
        V1,
        sse(A, B, delta("c", annotations=[{"type": "url_citation", "url_citation": {"content": "x", "title": "y"}}]))
        + END,
    ),
    "the same text under three names (Snowflake)": Stream(
        V1,
        sse(*(delta(text, type="text", content_list=[{"type": "text", "text": text}], text=text) for text in "abc"))
        + END,
    ),
    "a delta that is an object with text": Stream(V1, sse(*(delta(type="text", text=text) for text in "abc")) + END),
    "text in the choice itself": Stream(V1, sse(*(chosen(content=text) for text in "abc")) + END),
    "text in the choice beside an empty delta": Stream(
        V1, sse(*(chosen(delta={}, content=text) for text in "abc")) + END
    ),
    "a message in pieces (DashScope)": Stream(
        V1,
        sse(
            *(
                {
                    "output": {
                        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]
                    },
                    "usage": {"input_tokens": 20, "output_tokens": i, "total_tokens": 20 + i},
                }
                for i, (text, reason) in enumerate((("a", "null"), ("b", "null"), ("c", "stop")), 1)
            )
        ),
        odd=("envelope",),
    ),
    "reasoning as an object with content": Stream(
        V1, sse(delta(reasoning={"content": "hm"}), A, B, C) + END, hidden="hm"
    ),
    "reasoning as parts": Stream(
        V1, sse(delta(reasoning_content=[{"type": "text", "text": "hm"}]), A, B, C) + END, hidden="hm"
    ),
    "reasoning as an object with its signature": Stream(
        V1, sse(delta(thinking={"content": "hm", "signature": "b3Bh"}), A, B, C) + END, hidden="hm"
    ),
    "reasoning in two names and in details (OpenRouter)": Stream(
        V1,
        sse(
            delta(
                "",
                reasoning="hm",
                reasoning_content="hm",
                reasoning_details=[{"type": "reasoning.text", "text": "hm", "format": "unknown", "index": 0}],
            ),
            A,
            B,
            C,
        )
        + END,
        hidden="hm",
    ),
    "a summary beside a text that cannot be read": Stream(
        V1,
        sse(
            delta(
                reasoning_details=[
                    {"type": "reasoning.summary", "summary": "hm"},
                    {"type": "reasoning.encrypted", "data": "b3Bh"},
                ]
            ),
            A,
            B,
            C,
        )
        + END,
        hidden="hm",
    ),
    "reasoning and text in the chunk between them (xinference#3082)": Stream(
        V1, sse(delta(None, reasoning_content="h"), delta("a", reasoning_content="m"), B, C) + END, hidden="hm"
    ),
    "whether it thinks, in every chunk": Stream(V1, sse(*(delta(text, thinking=False) for text in "abc")) + END),
    "a voice beside content that is null": Stream(
        V1, sse(*(chosen(delta={"content": None, "audio": {"transcript": text}}) for text in "abc")) + END
    ),
    "a refusal in pieces": Stream(V1, sse(*(chosen(delta={"content": None, "refusal": text}) for text in "abc")) + END),
    "text of completions in answers of chat (llama.cpp)": Stream(
        V1, sse(*({"object": "text_completion", "choices": [{"index": 0, "text": text}]} for text in "abc")) + END
    ),
    "completions: deltas of chat": Stream(COMPLETIONS, sse(A, B, C) + END),
    "completions: a text that is null at the end": Stream(
        COMPLETIONS,
        sse(
            *({"choices": [{"index": 0, "text": text}]} for text in "abc"),
            {"choices": [{"index": 0, "text": None, "finish_reason": "stop"}], "usage": usage()},
        )
        + DONE,
    ),
    "a delta that is null at the end": Stream(
        V1, sse(A, B, C, chosen(delta=None, finish_reason="stop") | {"usage": usage()}) + DONE
    ),
    "a delta that is a list": Stream(V1, sse(*(chosen(delta=[{"content": text}]) for text in "abc")) + END),
    "an id for every chunk, created in the year 1970": Stream(
        V1, sse(*(row | {"id": f"x{i}", "created": 0} for i, row in enumerate((A, B, C)))) + END
    ),
    "another id from the middle on": Stream(
        V1,
        sse(*(of_id(row, "x" if i < 6 else "y") for i, row in enumerate(map(delta, "abcdefghijkl")))) + END,
        "abcdefghijkl",
        odd=("more than one id", "in more pieces than"),
    ),
    "two ids in turns": Stream(
        V1,
        sse(*(of_id(row, "x" if i % 2 else "y") for i, row in enumerate(map(delta, "abcdefghij"))), finish()) + DONE,
        "abcdefghij",
        **UNCOUNTED,
        doubts=("of two answers",),
    ),
    **{
        f"a thought by a flag {place} ({flag})": Stream(V1, sse(row, A, B, C) + END, hidden="hm")
        for flag in ("thought", "is_thinking")
        for place, row in (
            ("in the choice", with_choice(delta("hm"), **{flag: True})),
            ("in a part", delta([{"type": "text", "text": "hm", flag: True}])),
        )
    },
    "ollama: a thought by a flag in the row": Stream(
        CHAT, ndjson(message("hm") | {"thought": True}, message("a"), message("b"), message("c"), last()), hidden="hm"
    ),
    "begun anew under another id (open-interpreter#291)": Stream(
        V1,
        sse(*map(delta, ("The ", "cat ", "sat ")))
        + sse(*(of_id(delta(text), "y") for text in ("The ", "cat ", "sat ", "down", " and", " slept.")))
        + END,
        "The cat sat The cat sat down and slept.",
        odd=("more than one id", "in more pieces than"),
        doubts=("begins anew",),
    ),
    "a model's name in the first chunk alone (Azure)": Stream(
        V1, sse(of_model(delta(role="assistant"), ""), A, of_model(B, ""), C) + END
    ),
    "an alias first, the model's own name with the text": Stream(
        V1, sse(of_model(delta(role="assistant", content=""), "alias"), A, B, C) + END
    ),
    "two models in one answer": Stream(
        V1, sse(A, of_model(B, "other"), of_model(C, "other")) + END, doubts=("more than one model",)
    ),
    "begun anew, and the second attempt counted (shenyu#6647)": Stream(
        V1,
        sse(*TALKED[:4], *TALKED, finish(usage=usage(7))) + DONE,
        " The cat sat on" + FULL,
        output=7,
        doubts=("begins anew",),
    ),
    "gone on by another server, which counted its own part (aisix#882)": Stream(
        V1,
        sse(*WORDS, finish(usage=usage(25))) + DONE,
        LONG,
        output=25,
        odd=("in more pieces than",),
    ),
    "as many pieces as tokens, or a few more": Stream(V1, sse(*WORDS, finish(usage=usage(34))) + DONE, LONG, output=34),
    "ollama: begun anew, and the second attempt counted": Stream(
        CHAT,
        ndjson(*map(message, TALK[:4]), *map(message, TALK), last(eval_count=8)),
        " The cat sat on" + FULL,
        output=8,
        doubts=("begins anew",),
    ),
    "said twice by the model": Stream(
        V1, sse(*TALKED, *TALKED, finish(usage=usage(14))) + DONE, FULL + FULL, output=14
    ),
    "tokens that are counted before any text comes (FastDeploy#8113)": Stream(
        V1,
        sse(*(delta("") | {"usage": usage(count)} for count in (0, 9, 18)), *TALKED, finish(usage=usage(25))) + DONE,
        FULL,
        output=25,
        doubts=("grew, without text",),
    ),
    "ollama: two models in turns": Stream(
        CHAT,
        ndjson(message("a"), of_model(message("b"), "other"), message("c"), last()),
        doubts=("more than one model",),
    ),
    "a second choice without text": Stream(
        V1, sse(*({**row, "choices": [*row["choices"], {"index": 1, "delta": {}}]} for row in (A, B, C))) + END
    ),
    "a piece in the middle with all before it (TensorRT-LLM#3280)": Stream(
        V1,
        sse(*map(delta, ("The ", "cat ", "sat ", "The cat sat ", "down", "."))) + END,
        "The cat sat The cat sat down.",
        doubts=("repeats all",),
    ),
    "a piece in the middle with all before it, and more": Stream(
        V1,
        sse(*map(delta, ("The ", "cat ", "sat ", "The cat sat down", " and", "."))) + END,
        "The cat sat The cat sat down and.",
        doubts=("repeats all",),
    ),
    "a piece that the next begins with (dbx#6535)": Stream(V1, sse(*map(delta, ("a", "and", " b"))) + END, "aand b"),
    "all reasoning once more, as text (vllm#39091)": Stream(
        V1,
        sse(*(delta(reasoning_content=text) for text in ("The ", "cat ", "sat.")), delta("The cat sat.")) + END,
        "The cat sat.",
        "The cat sat.",
        doubts=("repeats all",),
    ),
    "a full message at the end, behind pieces (hermes-browser-extension#11)": Stream(
        V1,
        sse(A, B, C, chosen(message={"role": "assistant", "content": "abc"}, finish_reason="stop"), COUNTS) + DONE,
        odd=("repeats the whole answer",),
    ),
    "ollama: reasoning_content": Stream(
        CHAT, ndjson(message("", reasoning_content="hm"), message("a"), message("b"), message("c"), last()), hidden="hm"
    ),
    "ollama: a content that is null beside a call": Stream(
        CHAT,
        ndjson(message(None, tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}]), last()),
        "",
        'f{"a":1}',
    ),
    "ollama: rows of a loading model": Stream(
        CHAT, ndjson({"status": "loading model"}, message("a"), message("b"), message("c"), last())
    ),
    "ollama: a whole answer of /v1 (oai2ollama#6)": Stream(CHAT, json.dumps(WHOLE), odd=("another API",)),
    "ollama: a whole answer of /v1, and its message once more": Stream(
        CHAT, json.dumps({"message": {"role": "assistant", "content": "abc"}, **WHOLE}), odd=("another API",)
    ),
    "ollama: thinking in generate": Stream(
        GENERATE,
        ndjson(
            {"response": "", "thinking": "hm", "done": False},
            *({"response": text, "done": False} for text in "abc"),
            last(response=""),
        ),
        hidden="hm",
    ),
    "events of Messages at /v1 chat": Stream(
        V1, named(start(), thinking("hm"), *BLOCKS, stopped(output_tokens=3), STOP), hidden="hm", odd=("another API",)
    ),
    "a whole message of Messages at /v1 chat": Stream(
        V1,
        json.dumps(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "content": [{"type": "text", "text": "abc"}],
                "stop_reason": "end_turn",
                "usage": {"input_tokens": 20, "output_tokens": 3},
            }
        ),
        odd=("another API",),
    ),
    "events of Responses at /v1 chat": Stream(
        V1,
        named({"type": "response.created", "response": {"status": "in_progress"}}, *PIECES, completed()),
        odd=("another API",),
    ),
    "reasoning of Responses at /v1 chat": Stream(
        V1,
        named(response("reasoning_summary_text.delta", delta="hm"), *PIECES, completed()) + DONE,
        hidden="hm",
        odd=("another API",),
    ),
    "a whole response at /v1 completions": Stream(
        COMPLETIONS,
        json.dumps({"object": "response", **completed(output=[{"type": "message", "content": "abc"}])["response"]}),
        odd=("another API",),
    ),
    "ollama: events of Messages": Stream(
        CHAT, named(start(), *BLOCKS, stopped(output_tokens=3), STOP), odd=("another API",)
    ),
}
