"""Counts of streams out of public reports, the second part; a number behind "#" is the report's."""

from __future__ import annotations

from support.odd_streams import (
    BLOCKS,
    CHAT,
    COUNTS,
    DONE,
    END,
    LATE,
    MESSAGES,
    SAID,
    STOP,
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
    named,
    ndjson,
    sse,
    start,
    stopped,
    usage,
    with_choice,
)
from support.reported_deltas import TALK
from support.reported_streams import counted

WARNED = [{"type": "UNSUITABLE_INPUT", "message": SAID}]
GUARDED = {"id": "x", "object": "", "model": "m", "choices": [], "detections": {"input": []}, "warnings": WARNED}
FULL = "".join(TALK).strip()
TALKED = tuple(map(delta, ("The", *TALK[1:])))
THOUGHTS = tuple(delta(reasoning_content=f"thought{i} ") for i in range(9))
THOUGHT = "".join(f"thought{i} " for i in range(9))

COUNTED = {
    "behind the mark": Stream(V1, sse(A, B, C, finish()) + DONE + sse(COUNTS)),
    "behind the mark, with a mark of their own": Stream(V1, sse(A, B, C, finish()) + DONE + sse(COUNTS) + DONE),
    "others behind the mark": Stream(V1, sse(A, B, C) + END + sse({"choices": [], "usage": usage(9, 9)})),
    "text behind the mark is none": Stream(
        V1,
        sse(A, B, C, finish()) + DONE + sse(A | {"usage": usage(4)}),
        **UNCOUNTED,
        doubts=LATE,
    ),
    "ollama: text behind the mark is none": Stream(
        CHAT,
        ndjson(message("a"), message("b"), message("c"), last(), message("d"), last(eval_count=4)),
        doubts=LATE,
    ),
    "in the choice and in the row (bifrost#191)": Stream(
        V1, sse(A, B, C, with_choice(finish(), usage=usage()), COUNTS) + DONE
    ),
    "twice, the second with details (oh-my-pi#5022)": Stream(
        V1,
        sse(
            A,
            B,
            C,
            finish(usage=usage()),
            {"choices": [], "usage": usage(prompt_tokens_details={"cached_tokens": 16})},
        )
        + DONE,
    ),
    "Mistral's cached tokens (vercel/ai#14382)": Stream(
        V1,
        counted(
            prompt_tokens=20,
            completion_tokens=3,
            total_tokens=23,
            num_cached_tokens=16,
            prompt_token_details={"cached_tokens": 16},
        ),
    ),
    "more of Mistral's cached tokens than the prompt has": Stream(
        V1, counted(prompt_tokens=20, completion_tokens=3, num_cached_tokens=64), doubts=("more cached tokens",)
    ),
    "cached tokens beside the prompt's (Portkey#1210)": Stream(
        V1,
        counted(prompt_tokens=4, completion_tokens=3, total_tokens=7, cache_read_input_tokens=16),
        prompt=4,
        doubts=("more cached tokens",),
    ),
    "cached tokens beside the prompt's, in the total": Stream(
        V1, counted(prompt_tokens=4, completion_tokens=3, total_tokens=23, cache_read_input_tokens=16)
    ),
    "cached and written tokens beside the prompt's, in the total": Stream(
        V1,
        counted(
            prompt_tokens=4,
            completion_tokens=3,
            total_tokens=23,
            cache_read_input_tokens=10,
            cache_creation_input_tokens=6,
        ),
    ),
    "cached tokens in the prompt's, not in the total (browser-use#4294)": Stream(
        V1, counted(prompt_tokens=20, completion_tokens=3, total_tokens=7, cache_read_input_tokens=16)
    ),
    "cached tokens in the prompt's (litellm)": Stream(
        V1,
        counted(
            prompt_tokens=20,
            completion_tokens=3,
            total_tokens=23,
            cache_read_input_tokens=16,
            prompt_tokens_details={"cached_tokens": 16},
        ),
    ),
    "Bedrock's metrics (langchain#14120)": Stream(
        V1,
        sse(
            A,
            B,
            C,
            finish(
                **{
                    "amazon-bedrock-invocationMetrics": {
                        "inputTokenCount": 20,
                        "outputTokenCount": 3,
                        "invocationLatency": 4151,
                    }
                }
            ),
        )
        + DONE,
    ),
    "in an event of their own": Stream(
        V1,
        sse(A, B, C, finish())
        + "event: usage\n"
        + sse({"prompt_tokens": 20, "completion_tokens": 3, "total_tokens": 23})
        + DONE,
    ),
    "counts that are texts": Stream(
        V1,
        counted(prompt_tokens="20", completion_tokens="3", total_tokens="23"),
        **UNCOUNTED,
        odd=("'prompt_tokens' is a text", "'completion_tokens' is a text"),
    ),
    "half tokens": Stream(
        V1, counted(prompt_tokens=20, completion_tokens=2.5), output=None, odd=("'completion_tokens' is a fraction",)
    ),
    "less than none": Stream(
        V1, counted(prompt_tokens=-1, completion_tokens=3), prompt=None, odd=("'prompt_tokens' is negative",)
    ),
    "none on every chunk (LocalAI#1744)": Stream(
        V1, sse(*(row | {"usage": usage(0, 0, total_tokens=0)} for row in (A, B, C, finish()))) + DONE, **UNCOUNTED
    ),
    "an empty usage on every chunk but the last": Stream(
        V1, sse(*(row | {"usage": {}} for row in (A, B, C, finish())), COUNTS) + DONE
    ),
    "the prompt's with the first chunk, the output's with the last": Stream(
        V1,
        sse(delta(role="assistant") | {"usage": {"prompt_tokens": 20}}, A, B, C)
        + sse(finish(usage={"completion_tokens": 3}))
        + DONE,
    ),
    "on every chunk, without a reason until the end (alfredapp#52)": Stream(
        V1,
        sse(*(row | {"usage": usage(i), "search_info": {"mindmap": {}}} for i, row in enumerate((A, B, C), 1)))
        + sse(finish(usage=usage()))
        + DONE,
    ),
    "timings of other tokens than counted": Stream(
        V1,
        sse(A, B, C, finish(usage=usage(), timings={"predicted_n": 300, "predicted_ms": 90.0, "prompt_n": 20})) + DONE,
        doubts=("another number of tokens",),
    ),
    "a prompt and a total": Stream(V1, counted(prompt_tokens=20, total_tokens=23), output=None),
    "speeds and counts (LM Studio)": Stream(
        V1, sse(A, B, C, finish(usage=usage(), stats={"tokens_per_second": 50.1}, model_info={"arch": "x"})) + DONE
    ),
    "counts of billing alone (Cohere)": Stream(
        V1, counted(billed_units={"input_tokens": 20, "output_tokens": 3}, cached_tokens=None), **UNCOUNTED
    ),
    "figures of SambaNova's": Stream(
        V1,
        counted(
            prompt_tokens=20,
            completion_tokens=3,
            total_tokens=23,
            time_to_first_token=0.05,
            is_last_response=True,
            total_tokens_per_sec=115.1,
        ),
    ),
    "a search's reasoning beside the output (Perplexity)": Stream(
        V1,
        counted(prompt_tokens=20, completion_tokens=3, total_tokens=23, citation_tokens=900, reasoning_tokens=800),
        doubts=("more reasoning tokens",),
    ),
    "ollama: counts that are texts": Stream(
        CHAT,
        ndjson(message("a"), message("b"), message("c"), last(eval_count="3", prompt_eval_count="20")),
        **UNCOUNTED,
        odd=("'prompt_eval_count' is a text", "'eval_count' is a text"),
    ),
    "ollama: a usage as /v1 has it": Stream(
        CHAT,
        ndjson(
            message("a"),
            message("b"),
            message("c"),
            {"model": "m", "done": True, "done_reason": "stop", "usage": usage()},
        ),
    ),
    "one token for twenty short pieces": Stream(
        V1,
        sse(*map(delta, ["ab "] * 20), finish(usage=usage(1))) + DONE,
        "ab " * 20,
        output=None,
        doubts=("fewer tokens",),
    ),
    "the text without its reasoning": Stream(
        V1,
        sse(*THOUGHTS, *TALKED, finish(usage=usage(7))) + DONE,
        FULL,
        THOUGHT,
        output=None,
        doubts=("without those of its reasoning",),
    ),
    "as many tokens as letters, reasoning among them (Gemini, OpenAI)": Stream(
        V1,
        sse(delta(FULL), finish(usage=usage(23, completion_tokens_details={"reasoning_tokens": 9}))) + DONE,
        FULL,
        output=23,
        odd=("sent no text of them",),
    ),
    "the text and its reasoning": Stream(
        V1, sse(*THOUGHTS, *TALKED, finish(usage=usage(16))) + DONE, FULL, THOUGHT, output=16
    ),
    "letters": Stream(
        V1, sse(*TALKED, finish(usage=usage(len(FULL)))) + DONE, FULL, output=None, doubts=("counts the letters",)
    ),
    "as many tokens as letters, of an alphabet in which each may be one": Stream(
        V1, sse(*map(delta, ["一二三四"] * 5), finish(usage=usage(20))) + DONE, "一二三四" * 5, output=20
    ),
    **{  # of vLLM with n-grams ahead, which sends what a step brings
        f"of a model that repeats {said!r}, several a piece": Stream(
            V1, sse(*map(delta, [said * 4] * 15), finish(usage=usage(60))) + DONE, said * 60, output=60
        )
        for said in ("{", "0", "gs")
    },
    "of a model that repeats one word, more of it a piece, uncounted": Stream(
        V1, sse(*(delta("events" * n) for n in (1, 2, 3, 4, 5, 5)), finish()) + DONE, "events" * 20, **UNCOUNTED
    ),
    "all text again and again, which begins with blank lines": Stream(
        V1,
        sse(*(delta("\n\n\nThe cat sat"[:n]) for n in (1, 2, 3, 6, 10, 14)), finish()) + DONE,
        "\n" * 6 + "\n\n\nThe" + "\n\n\nThe cat" + "\n\n\nThe cat sat",
        doubts=("every piece of the answer repeats",),
        **UNCOUNTED,
    ),
    "the same, at first one a piece": Stream(
        V1, sse(*(delta("events" * n) for n in (1, 1, 1, 4, 5)), finish()) + DONE, "events" * 12, **UNCOUNTED
    ),
    "counts of single chunks, one token or two": Stream(
        V1,
        sse(*(row | {"usage": usage(1 + i % 2)} for i, row in enumerate(TALKED)), finish()) + DONE,
        FULL,
        output=None,
        doubts=("fell from one chunk", "do not grow"),
    ),
    "twice behind the text, and not the same": Stream(
        V1,
        sse(A, B, C, finish(usage=usage()), {"choices": [], "usage": usage(14, 90)}) + DONE,
        output=14,
        prompt=90,
        doubts=("prompt tokens grew, without text", "output tokens grew, without text"),
    ),
    "the sum of all counts so far (vllm-omni#2313)": Stream(
        V1,
        sse(*TALKED, *TALKED, finish(usage=usage(105))) + DONE,
        FULL + FULL,
        output=105,
        doubts=("more tokens than a text like the answer's",),
    ),
    **{
        f"under a name that is not known, as {name}": Stream(V1, sse(A, B, C, finish(**{name: said})) + DONE)
        for name, said in (
            ("metrics", {"input_tokens": 20, "output_tokens": 3, "ttft": 0.1}),
            ("perf", {"promptTokens": 20, "generatedTokens": 3}),
        )
    },
    "beside the prompt itself (llama.cpp's __verbose)": Stream(
        V1,
        sse(A, B, C, finish(__verbose={"tokens_predicted": 3, "tokens_evaluated": 20, "prompt": "Tell the tale."}))
        + DONE,
    ),
    "under such a name beside a usage": Stream(
        V1, sse(A, B, C, finish(usage=usage(), metrics={"output_tokens": 1})) + DONE
    ),
    "no counts: costs and speeds": Stream(
        V1,
        sse(A, B, C, finish(cost={"input": 1, "output": 2}, speed={"output_tokens_per_second": 9})) + DONE,
        **UNCOUNTED,
    ),
    "a guardrail's warnings beside and behind the text (fms-guardrails)": Stream(
        V1, sse(GUARDED, A, B, {**C, "warnings": ["old"]}) + sse(finish(), COUNTS, {**COUNTS, **GUARDED}) + DONE
    ),
    "the last token behind the text": Stream(V1, sse(A, B, C | {"usage": usage(2)}, finish(usage=usage())) + DONE),
    "thoughts in the total alone (Gemini, mozilla-ai/any-llm#1290)": Stream(
        V1,
        sse(A, B, C, finish(usage=usage(total_tokens=300))) + DONE,
        doubts=("is in no count, and TTFT may hold its time",),
    ),
    "the same, thoughts sent as text": Stream(
        V1,
        sse(delta(reasoning="hm"), A, B, C, finish(usage=usage(total_tokens=300))) + DONE,
        hidden="hm",
        doubts=("more than prompt and output",),
    ),
    "messages: thoughts, counted and not sent (anthropics/anthropic-sdk-python#1017)": Stream(
        MESSAGES,
        named(start(), *BLOCKS, stopped(output_tokens=63, output_tokens_details={"thinking_tokens": 60}), STOP),
        output=63,
        odd=("sent no text of them",),
    ),
}
