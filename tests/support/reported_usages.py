"""Counts of streams out of public reports, the second part; a number behind "#" is the report's."""

from __future__ import annotations

from support.odd_streams import (
    CHAT,
    COUNTS,
    DONE,
    END,
    LATE,
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
from support.reported_streams import counted

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
}
