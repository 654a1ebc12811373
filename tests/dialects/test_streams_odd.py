"""Streams as servers and gateways were reported to send them: what of each is text, how many tokens it has, what is said."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from support.odd_streams import (
    CHAT,
    COUNTED,
    COUNTS,
    DONE,
    END,
    LATE,
    MESSAGES,
    NO_ERROR,
    PRETTY_ERROR,
    RESPONSES,
    TEXTS,
    V1,
    WHOLE,
    A,
    B,
    C,
    Stream,
    completed,
    decode,
    finish,
    hold,
    last,
    message,
    named,
    ndjson,
    sse,
    usage,
    with_choice,
)

from loadtest.dialects import base, responses
from loadtest.text import join_text

FRAMES = {
    "comments framed as data (OpenRouter behind a gateway)": Stream(
        V1, "data: : OPENROUTER PROCESSING\n\n" * 2 + sse(A) + "data: : OPENROUTER PROCESSING\n\n" + sse(B, C) + END
    ),
    "framed twice": Stream(V1, WHOLE.replace("data: ", "data: data: "), odd=("more than once",)),
    **{
        f"a sign of life: {life}": Stream(
            V1, f"data: {life}\n\n" + sse(A) + f"data: {life}\n\n" + sse(B, C) + f"data: {life}\n\n" + END
        )
        for life in (
            "null",
            '""',
            "{}",
            "[]",
            "ping",
            "[PING]",
            '"keep-alive"',
            "heartbeat",
            "2024-04-07 20:20:50.554328",
            '{"type":"ping"}',
            '{"event": "heartbeat"}',
            "",
        )
    },
    "an instant between events (ChatGPT)": Stream(
        V1, sse(A) + "2024-04-07 20:20:50.554328\n" + sse(B, C) + END, odd=("neither an event's nor JSON",)
    ),
    "chunks framed twice": Stream(
        V1,
        "".join(f"{len(part):x}\n{part}\n" for part in (sse(A), sse(B), sse(C), sse(finish()), sse(COUNTS), DONE)),
        odd=("neither an event's nor JSON",),
    ),
    "fields nobody knows": Stream(
        V1, sse(A) + "x-trace: 7\nmeta\n" + sse(B, C) + END, odd=("neither an event's nor JSON",)
    ),
    "names of fields without a colon": Stream(V1, sse(A) + "data\nid\n\n" + sse(B, C) + END),
    "blanks where an empty line is due": Stream(V1, WHOLE.replace("\n\n", "\n \n\n")),
    "blanks until the answer is there (DeepSeek)": Stream(
        V1,
        " \n" * 5
        + json.dumps({"choices": [{"message": {"content": "abc"}, "finish_reason": "stop"}], "usage": usage()}),
    ),
    "ollama: lines set in": Stream(
        CHAT, "".join(f"  {line}\n" for line in ndjson(message("a"), message("b"), message("c"), last()).splitlines())
    ),
    "a list of rows in an event": Stream(V1, sse([A, B], [C, finish()]) + sse(COUNTS) + DONE),
    "a list of rows and nothing else": Stream(V1, json.dumps([A, B, C, finish(), COUNTS], indent=1)),
    "an object of many lines between events": Stream(V1, sse(A) + json.dumps(B, indent=1) + "\n" + sse(C) + END),
    "a mark between quotes": Stream(V1, sse(A, B, C, finish(), COUNTS) + 'data: "[DONE]"\n\n' + sse(A), doubts=LATE),
}

ENDS = {
    "a reason with every piece": Stream(
        V1, sse(*(with_choice(row, finish_reason="stop") for row in (A, B, C)), COUNTS)
    ),
    "empty reasons (Ollama of old)": Stream(V1, sse(*(with_choice(row, finish_reason="") for row in (A, B, C))) + END),
    **{
        f"finished by {bad}": Stream(V1, sse(A, B, C, finish(bad), COUNTS) + DONE, done=False, error=f"'{bad}'")
        for bad in ("timeout", "engine_overloaded", "server_error")
    },
}

ERRORS = {
    "an error of nothing with every chunk (one-api)": Stream(
        V1, sse(*(row | {"error": NO_ERROR} for row in (A, B, C, finish(), COUNTS))) + DONE
    ),
    "an error of code 0": Stream(
        V1, sse(*(row | {"error": {"code": 0, "message": "success"}} for row in (A, B, C))) + END
    ),
    "an error called none": Stream(V1, sse(*(row | {"error": "None"} for row in (A, B, C))) + END),
    "an error of a code alone": Stream(
        V1, sse(A, {"error": {"code": 500}}), "a", output=None, prompt=None, done=False, error='{"code":500}'
    ),
    "in x_groq": Stream(
        V1,
        sse(A, {"id": "x", "choices": [], "x_groq": {"error": "over capacity"}}) + DONE,
        "a",
        output=None,
        prompt=None,
        done=False,
        error="over capacity",
    ),
    "of many lines, outside of all events (Gemini)": Stream(
        V1, sse(A) + PRETTY_ERROR + "\n", "a", output=None, prompt=None, done=False, error="quota"
    ),
    "a list of many lines, outside of all events (Gemini)": Stream(
        V1, sse(A) + f"[{PRETTY_ERROR}\n]\n", "a", output=None, prompt=None, done=False, error="quota"
    ),
    "in a list": Stream(
        V1, sse(A, [{"error": {"message": "quota"}}]), "a", output=None, prompt=None, done=False, error="quota"
    ),
    "behind half an event (sub2api)": Stream(
        V1,
        sse(A) + 'data: {"choices":[{"del\n{"type":"error","message":"stream_read_error"}\n\n',
        "a",
        output=None,
        prompt=None,
        done=False,
        error="stream_read_error",
    ),
    "in the event of half another": Stream(
        V1,
        sse(A) + 'data: {"choices":[{"del\ndata: {"error":{"message":"stream_read_error"}}\n\n',
        "a",
        output=None,
        prompt=None,
        done=False,
        error="stream_read_error",
    ),
    "text between events, then nothing": Stream(
        V1,
        sse(A) + "Internal Server Error\n",
        "a",
        output=None,
        prompt=None,
        done=False,
        odd=("neither an event's nor JSON",),
        error="'Internal Server Error'",
    ),
    "text as data": Stream(
        V1, sse(A, "error: out of memory") + DONE, "a", output=None, prompt=None, done=False, error="out of memory"
    ),
    "half an object, then the end": Stream(
        CHAT, ndjson(message("a")) + '{"mess\n' + ndjson(last()), "a", done=False, error="not a JSON object"
    ),
    "messages: without its name (sub2api)": Stream(
        MESSAGES,
        sse({"type": "ping"}, {"type": "error", "error": {"message": "Concurrency limit"}}),
        "",
        output=None,
        prompt=None,
        done=False,
        error="Concurrency limit",
    ),
}

STREAMS = {
    f"{group}: {name}": stream
    for group, streams in (("counts", COUNTED), ("text", TEXTS), ("frame", FRAMES), ("end", ENDS), ("error", ERRORS))
    for name, stream in streams.items()
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream(name: str) -> None:
    hold(STREAMS[name])


def test_text_behind_a_finish_reason_is_known() -> None:
    _, ending = decode(V1, sse(A, finish(), B, C).encode())
    assert (ending.done, ending.went_on) == (True, True)
    for body in (sse(A, B, finish(), COUNTS), sse(A, finish(), B) + DONE):
        assert not decode(V1, body.encode())[1].went_on


def test_a_piece_is_compared_with_all_before_it_only_where_it_may_be_all_of_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 10,000 pieces that would take seconds; so would items of /v1/responses of one piece, ended under other ids."""
    joined: list[str] = []

    def join(texts: Iterable[str]) -> str:
        joined.append(text := join_text(texts))
        return text

    for module in (base, responses):
        monkeypatch.setattr(module, "join_text", join, raising=False)
    texts = [f"w{i} " for i in range(200)]
    pieces = [{"choices": [{"message": {"content": text}}]} for text in texts]
    events, _ = decode(V1, (sse(*pieces) + END).encode())
    assert len(events) == 200
    assert len(joined) < 20
    joined.clear()
    items = [
        row
        for i, text in enumerate(texts)
        for row in (
            {"type": "response.output_text.delta", "item_id": f"d{i}", "delta": text},
            {
                "type": "response.output_item.done",
                "item": {"id": f"i{i}", "type": "message", "content": [{"text": text}]},
            },
        )
    ]
    events, _ = decode(RESPONSES, named(*items, completed()).encode())
    assert events.texts == texts
    assert sum(map(len, joined)) < 10 * sum(map(len, texts))
