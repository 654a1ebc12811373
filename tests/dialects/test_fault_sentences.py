"""Sentences on what went wrong: the server's own words, short, on one line, and shown rather than executed."""

from __future__ import annotations

import gzip

import httpx
import orjson
import pytest

from loadtest.dialects.answers.errors.server_errors import ERROR_WITHOUT_TEXT, error_sentence, http_sentence, shorten
from loadtest.text import join_text, shown


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, b'{"error":"server busy, please try again.  maximum pending requests exceeded"}', "again.  maximum"),
        (404, b'{"error":{"message":"model not found","type":"x"}}', "model not found"),
        (400, b'{"object":"error","message":"too long","code":400}', "too long"),
        (404, b'{"detail":"Not Found"}', "Not Found"),
        (422, b'{"detail":[{"loc":["body","stop"],"msg":"bad value"}]}', "body.stop: bad value"),
        (500, b'{"what":1}', '{"what":1}'),
        (500, b'{"error":{"message":"NaN in logits","at":NaN}}', "NaN in logits"),
        (404, b"404 page not found\n", "404 page not found"),
        (403, b"", "HTTP 403 with an empty body"),
        (502, b"<html>\n<h1>Bad Gateway</h1>\n", "HTTP 502 with a web page, titled 'Bad Gateway'"),
        (502, b"<!DOCTYPE html><html><title> 502\n Bad  Gateway </title>", "a web page, titled '502 Bad  Gateway'"),
        (
            503,
            b'<html><head><title>ERROR: No</title></head><blockquote id="error">\n<p><b>Connection to ::1 failed.</b></blockquote>',
            "HTTP 503 with a web page, titled 'ERROR: No': 'Connection to ::1 failed.'",
        ),
        (502, b"<html><title></title><p>x", "HTTP 502 with a web page without a title"),
        (500, b"\xfe\xfd", "HTTP 500 with a body that is no text (2 bytes)"),
        (500, b"{}", "{}"),
        (
            400,
            b'{"statusCode":400,"error":"Bad Request","message":"body/model is missing"}',
            "Bad Request: body/model is",
        ),
        (400, b'{"statusCode":400,"error":"Bad Request","message":["a","b"]}', "Bad Request: a; b"),
        (401, b'{"error":"invalid_token","error_description":"The token expired"}', "invalid_token: The token expired"),
        (500, b'{"error":"out of memory","message":"out of memory"}', "out of memory"),
        (
            502,
            b'{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"{\\"error\\":\\"busy\\"}"}}}',
            "Provider returned error: busy",
        ),
        (500, b"\x1f\x8b\x08\x00", "HTTP 500, in an answer that the server compressed without saying so"),
    ],
)
def test_what_an_error_status_says_of_itself(status: int, body: bytes, said: str) -> None:
    assert said in http_sentence(status, body)


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (
            307,
            b"",
            {"Location": "/v2/"},
            "HTTP 307: the server redirects to /v2/; redirects are not followed, so give that URL",
        ),
        (308, b"moved", {"location": "http://u:p@h:1/x?key=k#f"}, "redirects to http://h:1/x?…;"),
        (308, b"", {"location": "//u:p@h/x/9f8e7d6c5b4a39281706#token=k"}, "redirects to //h/x/##…;"),
        (307, b"", {"location": "http://[u:p@x/?mail=a@b"}, "redirects to http://x/?…;"),
        (
            302,
            b"",
            {"Location": "https://sso.example.org/oauth2/start?rd=/v1/chat/completions"},
            "redirects to https://sso.example.org/oauth2/start?…, where people log in; name the",
        ),
        (303, b"", {"Location": "/login?next=/api/chat"}, "where people log in"),
        (302, b"", {"Location": "https://login.microsoftonline.com/t/saml2"}, "where people log in"),
        (307, b"", {"Location": "https://auth.example.org/v1/chat/completions"}, "so give that URL"),
        (307, b"", {"Location": "https://author.example.org/catalogin/"}, "so give that URL"),
        (302, b"", {}, "HTTP 302 with an empty body"),
        (503, b'{"error":"busy"}', {"Retry-After": "7"}, "busy (retry after 7 s)"),
        (
            429,
            b"",
            {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"},
            "HTTP 429 with an empty body (says when to retry)",
        ),
        (
            429,
            b"",
            {"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"},
            "HTTP 429 with an empty body (retry after 30 s)",
        ),
        (429, b"", {"Retry-After": "1.5"}, "(retry after 1.5 s)"),
        (429, b"", {"Retry-After": "20s"}, "(retry after 20 s)"),
        (429, b"", {"retry-after-ms": "2500"}, "(retry after 2.5 s)"),
        (429, b"", {"Retry-After": "soon"}, "(says when to retry)"),
        (503, b'{"error":"busy"}', {"Content-Encoding": "none"}, "busy"),
        (503, b'{"error":"busy"}', {"Content-Encoding": "gzip"}, "busy"),
        (
            500,
            gzip.compress(b'{"error":"x"}', mtime=0),
            {"Content-Encoding": "gzip"},
            "HTTP 500, in an answer that the server compressed (gzip)",
        ),
        (500, b'{"error":"x"}', {"content-encoding": "Identity"}, "x"),
    ],
)
def test_headers_have_their_say(status: int, body: bytes, headers: dict[str, str], said: str) -> None:
    assert said in http_sentence(status, body, headers)
    assert http_sentence(status, body, httpx.Headers(headers)) == http_sentence(status, body, headers)


def test_ids_and_instants_do_not_make_a_sentence_unique() -> None:
    assert (
        http_sentence(500, b'{"error":"request req_0a1B2c3D4e failed at 2026-01-31T12:00:00.123Z"}')
        == "request # failed at #"
    )
    assert error_sentence("trace 4bf92f3577b34da6a3ce929d0e0e4736, 1769860800123 ns") == "trace #, # ns"
    assert (
        error_sentence("model 'llama3.1:70b-instruct-q4_0' needs 40960 tokens")
        == "model 'llama3.1:70b-instruct-q4_0' needs 40960 tokens"
    )


def test_sentences_are_short_and_on_one_line() -> None:
    assert shorten("a\n\n  b  c \n") == "a b  c"
    assert len(error_sentence("x" * 5000)) == 300
    assert error_sentence("") == error_sentence(" \n") == ERROR_WITHOUT_TEXT
    assert error_sentence({"message": ""}) == '{"message":""}'


def test_a_servers_text_is_shown_and_does_not_steer_a_terminal() -> None:
    assert error_sentence("no\x1b[2J such\x07 model") == r"no\x1b[2J such\x07 model"
    assert shown("a\x1b]0;x\x07\u202eb\u200b\ud83d\n") == r"a\x1b]0;x\x07\u202eb\u200b\ud83d\n"
    assert shown("é 漢\u3000\N{GRINNING FACE}\xa0") == "é 漢\u3000\N{GRINNING FACE}\xa0"
    assert shown("\x85\u2028\u2066\x9b") == r"\x85\u2028\u2066\x9b"
    assert shown(shown("\x1b")) == r"\x1b"


def test_halves_of_a_character_are_joined_or_replaced() -> None:
    assert join_text(["\ud83d", "\ude00", "a"]) == "\N{GRINNING FACE}a"
    assert join_text(["\ude00", "\ud83d"]) == "\ufffd\ufffd"
    assert orjson.dumps(join_text(["x\udcff"])) == '"x\ufffd"'.encode()


def test_no_page_makes_a_pattern_backtrack() -> None:
    for body in (b"<title" * 200_000, b"<title>" * 200_000, b"<!-- --> " * 200_000):
        assert "a web page without a title" in http_sentence(500, b"<html>" + body)
