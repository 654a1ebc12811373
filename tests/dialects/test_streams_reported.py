"""Streams and error bodies of public reports: what of them is text, how many tokens they have, what is said."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from support.odd_streams import decode, hold
from support.reported_ends import ENDS, ERRORS, FRAMES, LISTED
from support.reported_streams import COUNTED, TEXTS

from loadtest import metrics
from loadtest.dialects import Dialect, OllamaEmbed, OpenAIEmbeddings
from loadtest.dialects.answers.errors.server_errors import http_sentence, undecodable
from loadtest.measure.failure import Failure, with_server_words
from loadtest.records import Outcome

REPORTED = {
    f"{group}: {name}": stream
    for group, streams in (("text", TEXTS), ("counts", COUNTED), ("frame", FRAMES), ("end", ENDS), ("error", ERRORS))
    for name, stream in streams.items()
}


@pytest.mark.parametrize("name", REPORTED)
def test_a_stream(name: str) -> None:
    hold(REPORTED[name])


@pytest.mark.parametrize("name", LISTED)
def test_rows_of_a_list_arrive_one_by_one(name: str) -> None:
    events, _ = decode(LISTED[name].dialect, LISTED[name].body.encode())
    assert len(set(events.ends)) == len(events.ends) == 3


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
    "an empty object": (500, b"{}", {}, "HTTP 500 with a body that says nothing ({})"),
    "null": (500, b"null\n", {}, "HTTP 500 with a body that says nothing (null)"),
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
