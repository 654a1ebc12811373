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


CHARSETS = {
    "utf-16": "Das Modell lädt noch",
    "utf-16-le": "Das Modell lädt noch",
    "iso-8859-1": "Das Modell lädt noch",
    "gbk": "模型不存在",
    "shift_jis": "モデルが見つかりません",
    "iso-2022-jp": "モデルが見つかりません",
    "windows-1251": "Модель не найдена",
}
IN_FRAMES = {
    '{{"error": {{"message": "{}"}}}}': "{}",
    "{}": "{}",
    'data: {{"error": "{}"}}\n\n': "{}",
    "<html><title>{}</title>": "HTTP 500 with a web page, titled '{}'",
    "<Error><Message>{}</Message></Error>": "HTTP 500: '{}'",
}


@pytest.mark.parametrize("frame", IN_FRAMES)
@pytest.mark.parametrize("charset", CHARSETS)
def test_an_error_is_read_in_the_charset_that_its_content_type_names(charset: str, frame: str) -> None:
    said, words = {"Content-Type": f"text/x; Charset={charset}"}, CHARSETS[charset]
    expected = IN_FRAMES[frame].format(words)
    assert http_sentence(500, frame.format(words).encode(charset), said) == expected
    assert http_sentence(500, frame.format(words).encode(), said) == expected  # some servers name one and send UTF-8


@pytest.mark.parametrize("charset", ["gbk", "shift_jis"])
@pytest.mark.parametrize("frame", ['{{"error":{{"message":"{}"}}}}', '{{"detail": "{}"}}'])
def test_words_in_a_charset_that_nobody_names_are_not_guessed(charset: str, frame: str) -> None:
    body = frame.format(
        "\u6a21\u578b\u4e0d\u5b58\u5728"
        if charset == "gbk"
        else "\u30e2\u30c7\u30eb\u304c\u3042\u308a\u307e\u305b\u3093"
    )
    assert http_sentence(400, body.encode(charset)) == (
        "HTTP 400 with words in a charset that the server does not name"
    )


def test_the_words_of_a_long_error_in_xml_are_found() -> None:
    head = "<soap:Header>" + "<h>x</h>" * 400 + "</soap:Header>"
    fault = "<soap:Body><soap:Fault><faultstring>engine died</faultstring></soap:Fault></soap:Body>"
    body = f"<?xml version='1.0'?><soap:Envelope>{head}{fault}</soap:Envelope>".encode()
    assert http_sentence(500, body) == "HTTP 500: 'engine died'"
    assert not_a_stream(body) == "the answer is an error in XML: 'engine died'"


@pytest.mark.parametrize(
    ("page", "charset", "title"),
    [
        ('<html><meta charset="gbk"><title>模型不存在</title>', "gbk", "模型不存在"),
        ("<html><meta content='text/html; charset=GB2312'><title>模型不存在</title>", "gbk", "模型不存在"),
        ("<?xml version='1.0' encoding='iso-8859-1'?><html><title>lädt</title>", "latin-1", "lädt"),
        ("<html><title>lädt</title>", "utf-16", "lädt"),
        *(
            (f"<html><meta charset={name}><title>lädt</title>", "latin-1", "l\ufffddt")
            for name in ("hex", "idna", "none")
        ),
    ],
)
def test_a_page_is_read_in_the_charset_that_it_names(page: str, charset: str, title: str) -> None:
    assert not_a_stream(page.encode(charset)) == f"the answer is a web page, titled '{title}'"
    assert http_sentence(502, page.encode(charset)) == f"HTTP 502 with a web page, titled '{title}'"


def test_a_key_is_hidden_in_any_charset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0123456789")
    for charset in ("utf-16", "utf-16-be"):
        body = "no: Bearer sk-0123456789".encode(charset)
        assert http_sentence(401, body, {"content-type": f"a; charset={charset}"}) == "no: Bearer <OPENAI_API_KEY>"


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
        (b"hello 17", "the answer is no stream of a model server: it says 'hello #'"),
    ],
)
def test_what_is_no_answer_of_a_model_server(body: bytes, said: str) -> None:
    assert not_a_stream(body) == said
