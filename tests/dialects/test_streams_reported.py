"""Streams and error bodies of public reports: what of them is text, how many tokens they have, what is said."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from support import (
    reported_breaks,
    reported_deltas,
    reported_ends,
    reported_kinds,
    reported_places,
    reported_servers,
    reported_shapes,
    reported_streams,
    reported_usages,
    reported_words,
)
from support.odd_streams import (
    CHAT,
    COUNTS,
    SAID,
    V1,
    A,
    B,
    C,
    Stream,
    decode,
    delta,
    finish,
    hold,
    last,
    message,
    sse,
    usage,
)

from loadtest import metrics
from loadtest.dialects import Dialect, OllamaEmbed, OpenAIEmbeddings
from loadtest.dialects.answers.errors.server_errors import http_sentence, undecodable
from loadtest.dialects.base import ONE_PIECE
from loadtest.measure.failure import Failure, with_server_words
from loadtest.records import Outcome

REPORTED = {
    f"{group}: {name}": stream
    for group, tables in (
        (
            "text",
            (
                reported_streams.TEXTS,
                reported_deltas.TEXTS,
                reported_shapes.TEXTS,
                reported_kinds.TEXTS,
                reported_places.TEXTS,
                reported_servers.TEXTS,
            ),
        ),
        (
            "counts",
            (
                reported_streams.COUNTED,
                reported_usages.COUNTED,
                reported_shapes.COUNTED,
                reported_kinds.COUNTED,
            ),
        ),
        ("frame", (reported_ends.FRAMES, reported_breaks.FRAMES, reported_shapes.FRAMES, reported_kinds.FRAMES)),
        (
            "end",
            (reported_ends.ENDS, reported_breaks.ENDS, reported_words.ENDS, reported_kinds.ENDS, reported_places.ENDS),
        ),
        (
            "error",
            (
                reported_ends.ERRORS,
                reported_breaks.ERRORS,
                reported_words.ERRORS,
                reported_kinds.ERRORS,
                reported_places.ERRORS,
                reported_servers.ERRORS,
            ),
        ),
        ("endpoint", (reported_words.ANSWERS,)),
        ("embeddings", (reported_words.EMBEDDINGS,)),
    )
    for table in tables
    for name, stream in table.items()
}
ROWS = (A, B, C, finish(), COUNTS)
LINES = (message("a"), message("b"), message("c"), last())
IN_PARTS = {
    **reported_ends.LISTED,
    "run together": Stream(V1, "".join(map(json.dumps, ROWS))),
    "run together, a newline at the end": Stream(V1, "".join(map(json.dumps, ROWS)) + "\n"),
    "events run together": Stream(V1, "".join(f"data: {json.dumps(row)}" for row in ROWS)),
    "events with escaped ends": Stream(V1, sse(*ROWS).replace("\n", "\\n")),
    "a list in one line": Stream(V1, json.dumps(ROWS)),
    "a list of many lines": Stream(V1, json.dumps(ROWS, indent=1)),
    "ollama: run together": Stream(CHAT, "".join(map(json.dumps, LINES))),
    "ollama: of many lines": Stream(CHAT, "\n".join(json.dumps(row, indent=1) for row in LINES)),
    "ollama: of many lines, empty ones between": Stream(CHAT, "\n\n".join(json.dumps(row, indent=1) for row in LINES)),
}


@pytest.mark.parametrize("name", REPORTED)
def test_a_stream(name: str) -> None:
    hold(REPORTED[name])


@pytest.mark.parametrize("name", reported_places.LAST_WORDS)
def test_the_last_words_of_an_answer_that_is_not_whole_are_quoted(name: str) -> None:
    dialect, body = reported_places.LAST_WORDS[name]
    _, ending = decode(dialect, body.encode())
    assert not ending.done
    assert SAID in f"{ending.error} {ending.hint}"


@pytest.mark.parametrize("name", reported_places.NOT_LAST)
def test_words_before_the_text_say_nothing_of_its_end(name: str) -> None:
    dialect, body = reported_places.NOT_LAST[name]
    _, ending = decode(dialect, body.encode())
    assert (ending.done, ending.error) == (False, None)
    assert SAID not in (ending.hint or "")


@pytest.mark.parametrize("name", IN_PARTS)
def test_rows_that_no_newline_parts_arrive_one_by_one(name: str) -> None:
    body = IN_PARTS[name].body
    for step in (0, 1, 7):
        events, ending = decode(IN_PARTS[name].dialect, body.encode(), step)
        assert (events.answer, ending.done, ending.error) == ("abc", True, None)
        places = [body.index(f'"{text}"') for text in "abc"]
        for place, end, following in zip(places, events.ends, (*places[1:], len(body) + 1), strict=True):
            assert place < end < following  # nothing of the next row is waited for


@pytest.mark.parametrize(
    ("name", "word"), [(name, word) for name, words in reported_breaks.GOOD.items() for word in words]
)
def test_a_reason_has_one_name(name: str, word: str) -> None:
    assert decode(V1, sse(A, finish(word)).encode())[1].finish_reason == name


def whole(*, usage: Any = None, **message: Any) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


THOUGHT = delta(reasoning_content="one two three four")
SPOKEN = delta("one two three four five six seven eight")
PIECES: dict[str, tuple[str, bool]] = {
    "whole, reasoning beside the text": (whole(content="one", reasoning_content="two", usage=usage(12)), True),
    "whole, nothing counted": (whole(**SPOKEN["choices"][0]["delta"]), True),
    "whole, a word": (whole(content="yes"), False),
    "whole, reasoning alone": (whole(content=None, reasoning_content="hm", usage=usage(40)), True),
    "whole, a call": (whole(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}], usage=usage(40)), True),
    "one piece, nothing counted": (sse(SPOKEN, finish()), True),
    "a piece of reasoning, a piece of text (OmniRoute#3112)": (sse(THOUGHT, SPOKEN, finish(usage=usage(12))), True),
    "a word, nothing counted": (sse(delta("yes"), finish()), False),
    "a call": (sse(delta(tool_calls=[{"function": {"name": "f", "arguments": "{}"}}]), finish(usage=usage(40))), False),
    "two pieces": (sse(SPOKEN, SPOKEN, finish(usage=usage(40))), False),
    "reasoning in pieces, then the text": (sse(THOUGHT, THOUGHT, SPOKEN, finish(usage=usage(20))), False),
}


@pytest.mark.parametrize("name", PIECES)
def test_an_answer_in_one_piece_was_not_streamed(name: str) -> None:
    body, doubted = PIECES[name]
    decoder = V1.decoder()
    decoder.feed(body.encode())
    assert (ONE_PIECE in V1.closed(decoder).doubts) is doubted


BODIES: dict[str, tuple[int, bytes, dict[str, str], str]] = {
    "a byte order mark": (400, b'\xef\xbb\xbf{"error":{"message":"busy"}}', {}, "busy"),
    "an event": (500, b'event: error\ndata: {"error":{"message":"busy"}}\n\ndata: [DONE]\n\n', {}, "busy"),
    "an event behind a comment": (429, b': hello\n\ndata: {"code":429,"msg":"busy"}\n\n', {}, "busy"),
    "XML (S3)": (
        403,
        b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>Access &amp; Denied</Message></Error>',
        {},
        "HTTP 403: 'Access & Denied'",
    ),
    "capitals (AWS)": (424, b'{"Message":"busy","OriginalStatusCode":500}', {}, "busy"),
    "problem details": (400, b'{"title":"Bad Request","status":400,"detail":"busy"}', {}, "busy"),
    "fields beside words for nothing (Laravel)": (
        422,
        b'{"message":"The given data was invalid.","errors":{"model":["is required"]}}',
        {},
        'The given data was invalid.: {"model":["is required"]}',
    ),
    "an empty object": (500, b"{}", {}, "HTTP 500 with a body that says nothing ({})"),
    "null": (500, b"null\n", {}, "HTTP 500 with a body that says nothing (null)"),
    "words that are null (API Gateway)": (
        500,
        b'{"message":null}',
        {"x-amzn-ErrorType": "LimitExceededException"},
        "HTTP 500 with a body that says nothing ({\"message\":null}), and the header 'x-amzn-errortype: LimitExceededException'",
    ),
    "an answer that was never made (ogx#2496)": (
        307,
        b'{"id":"","choices":[{"delta":{}}],"created":0}',
        {},
        'HTTP 307 with a body that says nothing ({"id":"","choices":[{"delta":{}}],"created":0})',
    ),
    "a header's reason": (
        429,
        b"",
        {"x-request-dropped-reason": "saturated"},
        "HTTP 429 with an empty body, and the header 'x-request-dropped-reason: saturated'",
    ),
    "a text of JSON": (404, b'"no such model"', {}, "no such model"),
    "milliseconds": (429, b'{"error":"busy"}', {"Retry-After": "500ms"}, "busy (retry after 0.5 s)"),
    "minutes": (429, b'{"error":"busy"}', {"Retry-After": "2m59.5s"}, "busy (retry after 179.5 s)"),
    "a wait said twice": (429, b'{"error":"busy"}', {"Retry-After": "17, 17"}, "busy (retry after 17 s)"),
    "no wait": (429, b'{"error":"busy"}', {"Retry-After": "0"}, "busy (retry after 0 s)"),
    "a word beside milliseconds": (
        429,
        b'{"error":"busy"}',
        {"Retry-After": "soon", "retry-after-ms": "2500"},
        "busy (retry after 2.5 s)",
    ),
    "milliseconds that are none": (
        429,
        b'{"error":"busy"}',
        {"Retry-After": "7", "retry-after-ms": "NaN"},
        "busy (retry after 7 s)",
    ),
    "Azure's milliseconds": (429, b'{"error":"busy"}', {"x-ms-retry-after-ms": "900"}, "busy (retry after 0.9 s)"),
}


@pytest.mark.parametrize("name", BODIES)
def test_an_error_status(name: str) -> None:
    status, body, headers, said = BODIES[name]
    assert http_sentence(status, body, headers) == said


CACHED: dict[str, tuple[dict[str, Any], float]] = {
    "DeepSeek": ({"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 5}, 64),
    "Moonshot": ({"cached_tokens": 64}, 64),
    "details win": ({"prompt_tokens_details": {"cached_tokens": 60}, "prompt_cache_hit_tokens": 64}, 60),
    "details of null": ({"prompt_tokens_details": {"cached_tokens": None}, "cached_tokens": 64}, 64),
    "no details": ({"prompt_tokens_details": None, "prompt_cache_hit_tokens": 0}, 0),
    "through a gateway of Anthropic's, which may count it beside the prompt": (
        {"cache_read_input_tokens": 64},
        math.nan,
    ),
    "Gemini": ({"promptTokenCount": 69, "cachedContentTokenCount": 64}, 64),
    "Mistral": ({"prompt_tokens": 69, "num_cached_tokens": 64}, 64),
    "Mistral's details": ({"prompt_token_details": {"cached_tokens": 64}}, 64),
    "none": ({"prompt_tokens": 69}, math.nan),
}


@pytest.mark.parametrize("name", CACHED)
def test_cached_tokens_under_every_name(name: str) -> None:
    usage, cached = CACHED[name]
    assert metrics.server_said({"usage": usage}).cached_tokens == pytest.approx(cached, nan_ok=True)


NO_VECTORS, SOME = "holds no embedding", "hold no numbers"
VECTORS: dict[str, tuple[Any, bool, str]] = {
    "one": ({"data": [{"embedding": [0.1, 0.2], "index": 0}]}, True, ""),
    "base64": ({"data": [{"embedding": "zczMPQ==", "index": 0}]}, True, ""),
    "by type (Cohere)": ({"embeddings": {"float": [[0.1]], "int8": [[1]]}}, True, ""),
    "one flat": ({"embedding": [0.1, 0.2]}, True, ""),
    "no rows (LM Studio)": ({"object": "list", "data": [], "usage": {}}, False, NO_VECTORS),
    "an empty vector": ({"data": [{"embedding": [], "index": 0}]}, False, NO_VECTORS),
    "a vector that is null": ({"data": [{"embedding": None, "index": 0}]}, False, NO_VECTORS),
    "nulls for numbers (TEI)": ({"embeddings": [[None, None, None]]}, False, NO_VECTORS),
    "one of two null (async-openai)": ({"data": [{"embedding": [0.1]}, {"embedding": None}]}, True, SOME),
    "a code and a message": ({"code": 50508, "message": "busy"}, False, "busy"),
    "detail": ({"detail": "busy"}, False, "busy"),
    "a message and no data": ({"message": "busy", "data": None}, False, "busy"),
    "an error of another name": ({"data": [], "error_message": "busy"}, False, "busy"),
    "in an envelope": ({"success": True, "result": {"data": [{"embedding": [0.1]}]}}, True, "envelope"),
}


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("dialect", [OpenAIEmbeddings("m"), OllamaEmbed("m")], ids=lambda dialect: dialect.name)
def test_embeddings(dialect: Dialect, name: str) -> None:
    row, done, said = VECTORS[name]
    _, ending = decode(dialect, json.dumps(row).encode())
    assert ending.done is done
    assert said in "".join((ending.error or "", *ending.notes, *ending.doubts))
    assert (ending.error is None) == done


@pytest.mark.parametrize(
    ("usage", "prompt"), [({"prompt_tokens": 0, "total_tokens": 5}, 5), ({"prompt_tokens": None, "total_tokens": 5}, 5)]
)
def test_a_prompt_of_none_beside_a_total(usage: dict[str, Any], prompt: int) -> None:
    body = json.dumps({"data": [{"embedding": [0.1]}], "usage": usage}).encode()
    assert decode(OpenAIEmbeddings("m"), body)[1].prompt_tokens == prompt


def test_what_a_server_said_before_it_fell_silent_is_why_a_request_failed() -> None:
    late, cut = Failure(Outcome.TIMEOUT, "stood still"), Failure(Outcome.TRUNCATED, "reset")
    assert with_server_words(late, "busy") == Failure(Outcome.STREAM_ERROR, "busy")
    assert with_server_words(late, None) == with_server_words(late, undecodable(b"?")) == late
    assert with_server_words(cut, "busy") == cut
