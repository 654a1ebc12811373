"""The sans-IO parser: framing of every kind, whole and byte by byte."""

from __future__ import annotations

import pytest

from loadtest.wire.receiving.parser import AnswerParser

OK = b"HTTP/1.1 200 OK\r\n"

# name: bytes, status, body, complete without EOF, keep-alive
WHOLE = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True, True),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True, True),
    "chunked": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        200,
        b"hello!",
        True,
        True,
    ),
    "extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n000;c\r\n\r\n", 200, b"hello", True, True),
    "trailers": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: 1\r\nB:\r\n\r\n",
        200,
        b"hello",
        True,
        True,
    ),
    "close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True, False),
    "old": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True, False),
    "old, kept": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True, True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True, True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True, True),
    "interim": (
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na",
        200,
        b"a",
        True,
        True,
    ),
    "until close": (OK + b"\r\nabc", 200, b"abc", False, False),
    "no reason": (b"HTTP/1.1 503 \r\nContent-Length: 1\r\n\r\na", 503, b"a", True, True),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_whole_answers(name: str, size: int) -> None:
    data, status, body, complete, keep_alive = WHOLE[name]
    parser = AnswerParser()
    got = b"".join(parser.feed(data[i : i + size]) for i in range(0, len(data), size))
    assert (parser.status, got, parser.complete, parser.keep_alive) == (status, body, complete, keep_alive)
    assert parser.error is None
    assert not parser.excess
    parser.eof()
    assert parser.complete


@pytest.mark.parametrize("name", [name for name, row in WHOLE.items() if row[3]])
def test_is_complete_with_its_last_byte_and_not_before(name: str) -> None:
    data = WHOLE[name][0]
    parser = AnswerParser()
    parser.feed(data[:-1])
    assert not parser.complete
    parser.feed(data[-1:])
    assert parser.complete


def test_headers_come_in_order_stripped_and_without_those_of_interim_answers_and_trailers() -> None:
    parser = AnswerParser()
    parser.feed(WHOLE["interim"][0])
    assert parser.headers == [(b"Content-Length", b"1")]
    parser = AnswerParser()
    parser.feed(OK + b"A:  1 \r\nEmpty:\r\na: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nT: 1\r\n\r\n")
    assert parser.headers == [(b"A", b"1"), (b"Empty", b""), (b"a", b"2"), (b"Transfer-Encoding", b"chunked")]
    assert parser.trailers == ((b"T", b"1"),)


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhel", b"hel"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", b"hel"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", b"hello"),
        (OK + b"Content-Le", b""),
        (b"", b""),
    ],
)
def test_an_end_of_connection_too_early_leaves_the_answer_incomplete(data: bytes, body: bytes) -> None:
    parser = AnswerParser()
    assert parser.feed(data) == body
    parser.eof()
    assert not parser.complete


LENGTH, CODED = b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"2\r\nhi\r\n0\r\n\r\n"

# What curl 7.88 or httpx 0.28 take for an answer that says "hi": nearly all of it both.
UNTIDY = {
    "both framings": OK + LENGTH + CODED + b"\r\n" + CHUNKS,
    "both framings, a wrong length": OK + CODED + b"Content-Length: 9\r\n\r\n" + CHUNKS,
    "length twice": OK + LENGTH * 2 + b"\r\nhi",
    "length listed": OK + b"Content-Length: 2, 2\r\n\r\nhi",
    "length with a sign": OK + b"Content-Length: +2\r\n\r\nhi",
    "chunked twice": OK + CODED * 2 + b"\r\n" + CHUNKS,
    "coding identity": OK + b"Transfer-Encoding: identity\r\n" + LENGTH + b"\r\nhi",
    "coding identity, chunked": OK + b"Transfer-Encoding: identity,Chunked\r\n\r\n" + CHUNKS,
    "coding in two headers": OK + b"Transfer-Encoding: identity\r\n" + CODED + b"\r\n" + CHUNKS,
    "coding empty": OK + b"Transfer-Encoding:\r\n" + LENGTH + b"\r\nhi",
    "line feeds": (OK + LENGTH + b"\r\nhi").replace(b"\r\n", b"\n"),
    "line feeds and chunks": (OK + CODED + b"\r\n" + CHUNKS).replace(b"\r\n", b"\n"),
    "line feed after the status": b"HTTP/1.1 200 OK\n" + LENGTH + b"\r\nhi",
    "CR CR LF": OK + b"X: a\r\r\n" + LENGTH + b"\r\nhi",
    "folded": OK + b"X: a\r\n b\r\n\tc\r\n" + LENGTH + b"\r\nhi",
    "no reason": b"HTTP/1.1 200\r\n" + LENGTH + b"\r\nhi",
    "odd reason": b"HTTP/1.1 200 \xe2\x9c\x93\tO\x01\r\n" + LENGTH + b"\r\nhi",
    "two blanks": b"HTTP/1.1  200  OK\r\n" + LENGTH + b"\r\nhi",
    "blank before the colon": OK + b"Content-Length : 2\r\n\r\nhi",
    "odd name": OK + b"X(1)\xe9: a\r\n" + LENGTH + b"\r\nhi",
    "control characters": OK + b"X: a\x01\x7f\r\n" + LENGTH + b"\r\nhi",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n" + LENGTH + b"\r\nhi",
    "HTTP/2": b"HTTP/2 200 OK\r\n" + LENGTH + b"\r\nhi",
    "http": b"http/1.1 200 OK\r\n" + LENGTH + b"\r\nhi",
    "old and chunked": b"HTTP/1.0 200 OK\r\n" + CODED + b"\r\n" + CHUNKS,
    "blanks behind sizes": OK + CODED + b"\r\n2 \t\r\nhi\r\n0  \r\n\r\n",
    "sizes in capitals": OK + CODED + b"\r\n0002\r\nhi\r\n00\r\n\r\n",
    "odd extensions": OK + CODED + b'\r\n2 ; a = "\x01;\r\nhi\r\n0;x\r\n\r\n',
    "trailer with a line feed": OK + CODED + b"\r\n2\r\nhi\r\n0\r\nX: 1\n\n",
    "signed chunks (AWS)": OK
    + CODED
    + b"\r\n2;chunk-signature=ad80c730a21e5b8d\r\nhi\r\n0;chunk-signature=b6c6\r\n\r\n",
    "a quoted extension": OK + CODED + b'\r\n2;a="b;c"\r\nhi\r\n0\r\n\r\n',
    "gRPC's trailers": OK + CODED + b"\r\n2\r\nhi\r\n0\r\ngrpc-status: 0\r\ngrpc-message:\r\n\r\n",
    "early hints with a framing of their own": (  # nginx/nginx#1604
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" * 2
        + OK
        + LENGTH
        + b"\r\nhi"
    ),
    "a 100 in line feeds": b"HTTP/1.1 100 Continue\n\n" + OK + LENGTH + b"\r\nhi",
    "line ends of the answer before": b"\r\n\n\r\n" + OK + LENGTH + b"\r\nhi",
    "blanks before sizes": OK + CODED + b"\r\n  2\r\nhi\r\n 0\r\n\r\n",
    "chunks in line feeds": OK + CODED + b"\r\n2\nhi\n0\n\n",
    "a comma behind chunked": OK + b"Transfer-Encoding: chunked,\r\n\r\n" + CHUNKS,
    "chunked in quotes": OK + b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKS,
    "chunked twice in one header": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS,
    "coding none": OK + b"Transfer-Encoding: none\r\n" + LENGTH + b"\r\nhi",
    "all in small letters": b"http/1.1 200 ok\r\ncontent-length:2\r\n\r\nhi",
    "the length folded": OK + b"Content-Length:\r\n 2\r\n\r\nhi",
    "a header without a name": OK + b": x\r\n" + LENGTH + b"\r\nhi",
    "a return within a header": OK + b"X: a\rb\r\n" + LENGTH + b"\r\nhi",
    "a tab behind the version": b"HTTP/1.1\t200 OK\r\n" + LENGTH + b"\r\nhi",
    "an upgrade on offer": OK + b"Upgrade: h2,h2c\r\nConnection: Upgrade\r\n" + LENGTH + b"\r\nhi",
    "old, kept and chunked": b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n" + CODED + b"\r\n" + CHUNKS,
    "a last use of the connection": OK + b"Keep-Alive: timeout=5, max=0\r\nConnection: close\r\n" + LENGTH + b"\r\nhi",
    "large header": OK + b"X: " + b"a" * 200_000 + b"\r\n" + LENGTH + b"\r\nhi",
}


@pytest.mark.parametrize("name", UNTIDY)
def test_untidy_answers_are_taken_wherever_they_are_cut(name: str) -> None:
    data = UNTIDY[name]
    for size in (1, 2, 3, 5, len(data)) if len(data) < 1000 else (999, len(data)):
        parser = AnswerParser()
        got = b"".join(parser.feed(data[i : i + size]) for i in range(0, len(data), size))
        assert (parser.error, parser.status, got, parser.complete) == (None, 200, b"hi", True), size
        assert not parser.excess


@pytest.mark.parametrize(
    ("headers", "packed"),
    [
        (b"", None),
        (b"Content-Encoding: identity\r\n", None),
        (b"Content-Encoding:  Identity \r\n", None),
        (b"content-encoding: identity, IDENTITY\r\n", None),
        (b"Content-Encoding:\r\n", None),
        (b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n", "gzip"),
        (b"Content-Encoding: GZIP, br\r\n", "gzip, br"),
        (b"Transfer-Encoding: gzip, chunked\r\n", "gzip"),
    ],
)
def test_any_spelling_of_identity_is_identity(headers: bytes, packed: str | None) -> None:
    parser = AnswerParser()
    parser.feed(OK + headers + b"\r\n")
    assert parser.packed == packed
    assert parser.error is None


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi", "two lengths"),
        (OK + b"Content-Length: -1\r\n\r\n", "'-1' is no length"),
        (OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "is no length"),
        (OK + b"no colon\r\n\r\n", "'no colon' is no header"),
        (OK + b" X: y\r\n\r\n", "begins with a blank"),
        (OK + b"X: \0\r\n\r\n", "zero byte"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "is no status"),
        (b"ICY 200 OK\r\n", "it begins with 'ICY"),
        (OK + CODED + b"\r\n0x2\r\nhi", "is no length of a chunk"),
        (OK + CODED + b"\r\n-2\r\nhi", "is no length of a chunk"),
        (OK + CODED + b"\r\n2\r\nhi0\r\n\r\n", "longer than it says"),
        (OK + CODED + b"\r\n2\r\nhix", "longer than it says"),
        (b"HTTP/1.1 \x1b]0;x\x07\r\n\r\n", "\\x1b"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not valid HTTP"),
        (OK + b"Content-Length: x\r\n\r\n", "is no length"),
        (OK + b"Content-Length:\r\n\r\n", "is no length"),
        (OK + b"Content-Length: 2, 3\r\n\r\nhi", "two lengths"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "it is TLS: the port speaks https"),
        (b"\x16\x03\x03\x00\x7a\x02\x00", "it is TLS: the port speaks https"),
        (b"\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\1", "it is HTTP/2"),
        (b"PROXY TCP4 1.1.1.1 1.1.1.1 1 2\r\n" + OK, "it begins with 'PROXY"),
        (b"<html>hi", "it begins with '<html>hi'"),
        (OK + CODED + b"\r\n1\r\nh\r\n\r\n1\r\ni\r\n0\r\n\r\n", "'' is no length of a chunk"),  # as curl has it
        (OK + CODED + b"\r\nFFFFFFFFFFFFFFFFFF\r\n", "is no length of a chunk"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "no length of a chunk"),
        (b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "101"),
    ],
)
def test_garbage_is_an_error_in_words_and_never_an_exception(data: bytes, word: str) -> None:
    parser = AnswerParser()
    parser.feed(data)
    assert word in (parser.error or "")
    assert not parser.complete
    assert parser.feed(b"more") == b""


def test_bytes_after_the_end_make_the_connection_unfit_and_are_not_body() -> None:
    first = OK + b"Content-Length: 5\r\n\r\nhello"
    for more in (first, OK + b"X: y\r\n"):
        parser = AnswerParser()
        assert parser.feed(first + more) == b"hello"
        assert parser.complete
        assert parser.excess
        assert parser.extra == len(more)
    closing = OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello"
    parser = AnswerParser()
    assert parser.feed(closing + b"more") == b"hello"
    assert parser.excess
    assert parser.error is None
    parser = AnswerParser()
    parser.feed(first)
    parser.feed(b"late")
    assert parser.excess
