"""Errors of public reports: the server's own words, short and escaped, and one sentence for one cause."""

from __future__ import annotations

import json

import httpx
import pytest
from support.reported_errors import ALIKE, DIFFERENT, JSON_SHAPES, OTHER_SHAPES

from loadtest.dialects.answers.errors.server_errors import error_sentence, http_sentence, not_a_stream

SHAPES = JSON_SHAPES | OTHER_SHAPES


@pytest.mark.parametrize("name", SHAPES)
def test_an_error_says_what_it_says(name: str) -> None:
    status, body, headers, said = SHAPES[name]
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert http_sentence(status, sent, headers) == said
    assert http_sentence(status, b"\xef\xbb\xbf" + sent, httpx.Headers(headers)) == said


@pytest.mark.parametrize("name", ALIKE)
def test_one_cause_has_one_sentence(name: str) -> None:
    *both, said = ALIKE[name]
    for text in both:
        assert error_sentence({"error": {"message": text}}) == said
        assert http_sentence(500, text.encode()) == said


@pytest.mark.parametrize("text", DIFFERENT)
def test_a_number_that_says_something_stays(text: str) -> None:
    assert error_sentence(text) == text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            b"\x1f\xef\xbf\xbd\x08\xef\xbf\xbd" * 4,
            "the answer is no text: it may be compressed",
        ),  # Wei-Shaw/claude-relay-service#1039
        (b"\xce\xb2\x83\x01\x9f\xf1" * 9, "the answer is no text: it may be compressed"),
        (
            b"\0\0\0w\0\0\0R\x9d\x0b:event-type\x07\0\x0cmessageStart",
            "the answer is no text but binary, with these words in it: ':event-type messageStart'",
        ),  # Bedrock's event stream, which apisix#13307 passes on
        (b"<html><title>Error</title><pre>no", "the answer is a web page, titled 'Error'"),
        (b"hello 17", "the answer is no stream of a model server: it begins with 'hello #'"),
    ],
)
def test_what_is_no_answer_of_a_model_server(body: bytes, said: str) -> None:
    assert not_a_stream(body) == said
