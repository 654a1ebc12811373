"""Where an answer ends: by its mark, by its finish, by its framing, in every way to wait."""

from __future__ import annotations

import random
import ssl
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.received import Reader, fed
from support.wire_client import WAITERS, ask, trusting
from support.wire_server import CHUNKED, LAST, Peer, chunk, serving

from loadtest.dialects import OpenAIChat
from loadtest.dialects.answers.answer_reader import AnswerReader
from loadtest.dialects.base import End, EndMarks
from loadtest.wire import Received, Timeouts

MS = 1_000_000


def read(line: bytes) -> End | None:
    """As a dialect does: a needle in a text says nothing."""
    line = line.strip(b"\r")
    if line == b"data: [DONE]" or (line.startswith(b"{") and line.endswith(b'"done":true}')):
        return End.MARK
    return End.FINISH if line.startswith(b"data: {") and line.endswith(b'"finish_reason":"stop"}') else None


ENDS = EndMarks((b"[DONE]", b'"done":true', b'"finish_reason":"'), read)
TEXT = chunk(b'data: {"text":"a"}\n\n')
TALK = chunk(b'data: {"text":"say [DONE] or \\"done\\":true or x"}\n\n')  # needles in a text
FINISH = chunk(b'data: {"finish_reason":"stop"}\n\n')
USAGE = chunk(b'data: {"usage":1}\n\n')
DONE = chunk(b"data: [DONE]\n\n")
PING = chunk(b": ping\n\n")


def one(kind: str, *parts: bytes, then: str = "open", **options: Any) -> tuple[Received, httpx.TransportError | None]:
    """Have one answer measured, after which the server does nothing more, closes or resets."""

    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(*parts)
        if then == "reset":
            assert seen.wait(5)
            peer.reset()
        elif then == "open":
            peer.closed_by_client()

    seen = threading.Event()

    def live(body: bytes) -> bool:
        seen.set()
        return b"text" in body

    with serving(handler) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), received=Received(Reader(live, ENDS)), **options)
    return got.received, got.error


@pytest.mark.parametrize("then", ["open", "close", "reset"])
@pytest.mark.parametrize(
    "behind", [(), (PING,), (b"zz\r\n",), (TEXT, PING), (b"1\r\n",)], ids=["none", "ping", "junk", "events", "cut"]
)
@pytest.mark.parametrize("kind", WAITERS)
def test_after_its_mark_an_answer_is_over_whatever_follows(kind: str, behind: tuple[bytes, ...], then: str) -> None:
    received, error = one(kind, CHUNKED, TALK, FINISH, USAGE, DONE, *behind, then=then)
    assert error is None
    assert (received.ended, received.failure, received.marked) == (True, None, End.MARK)
    assert not received.reusable
    assert received.t_end is not None
    assert received.t_over is not None
    assert received.t_end <= received.t_over
    assert received.body().startswith(b'data: {"text":"say')


@pytest.mark.parametrize("kind", WAITERS)
def test_a_mark_s_answer_without_an_end_of_its_framing_is_over_after_50_ms(kind: str) -> None:
    received, _ = one(kind, CHUNKED, TEXT, DONE)
    assert (received.t_over or 0) - (received.t_end or 0) >= 50 * MS
    assert (received.t_over or 0) - (received.t_end or 0) < 1000 * MS  # and not by a limit of the request's


@pytest.mark.parametrize("apart", [True, False], ids=["end by itself", "end with the mark"])
@pytest.mark.parametrize("kind", WAITERS)
def test_a_well_behaved_server_s_connection_is_kept(kind: str, apart: bool) -> None:
    """Most servers send the last chunk by itself, a moment after the mark."""
    marked = threading.Semaphore(0)

    def seen(line: bytes) -> End | None:
        said = read(line)
        if said is End.MARK:
            marked.release()
        return said

    def handler(peer: Peer) -> None:
        while peer.request():
            peer.send(CHUNKED, TEXT, FINISH, USAGE)
            if apart:
                peer.send(DONE)
                assert marked.acquire(timeout=5)
                peer.send(LAST)
            else:
                peer.send(DONE + LAST)

    with serving(handler) as server:
        got = ask(kind, *[httpx.Request("GET", server.url) for _ in range(5)], ends=EndMarks(ENDS.needles, seen))
    assert server.connections == 1
    for request in got:
        assert request.received.complete
        assert request.received.marked is End.MARK
        assert (request.received.t_over != request.received.t_end) is apart


@pytest.mark.parametrize("then", ["open", "close", "reset"])
@pytest.mark.parametrize("kind", ["sync", "asyncio", "gevent"])
def test_after_its_finish_an_answer_is_over_with_the_connection_or_after_a_second_of_comments(
    kind: str, then: str
) -> None:
    received, error = one(kind, CHUNKED, TEXT, FINISH, USAGE, PING, PING, then=then)
    assert error is None
    assert (received.failure, received.marked) == (None, End.FINISH)
    waited = (received.t_over or 0) - (received.t_end or 0)
    assert waited >= 1000 * MS if then == "open" else waited < 1000 * MS


@pytest.mark.parametrize(
    "framing",
    [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 99\r\n"],
    ids=["to the end", "chunks", "length"],
)
@pytest.mark.parametrize("kind", ["sync", "asyncio", "gevent"])
def test_an_error_that_is_left_open_is_over_after_a_second(kind: str, framing: bytes) -> None:
    """Neither its framing nor an end mark says that its body is whole."""
    words = (chunk(b"too "), chunk(b"busy")) if b"chunked" in framing else (b"too ", b"busy")
    received, error = one(kind, b"HTTP/1.1 503 Busy\r\n" + framing + b"\r\n", *words)
    assert (error, received.failure, received.status) == (None, None, 503)
    assert received.body() == b"too busy"
    assert not received.reusable


@pytest.mark.parametrize("kind", ["sync", "uvloop", "gevent"])
def test_limits_after_the_end_was_said_are_no_failures(kind: str) -> None:
    received, error = one(kind, CHUNKED, TEXT, FINISH, timeouts=Timeouts(connect=5, first_token=5, idle=0.05))
    assert (error, received.failure, received.marked) == (None, None, End.FINISH)


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
def test_marks_work_under_tls(kind: str, certificate: Path) -> None:
    def handler(peer: Peer) -> None:
        peer.request()
        peer.send(CHUNKED, TEXT, DONE[:9], DONE[9:])
        peer.closed_by_client()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    with serving(handler, tls=context) as server:
        (got,) = ask(kind, httpx.Request("GET", server.url), verify=trusting(certificate), ends=ENDS)
    assert (got.error, got.received.marked, got.received.failure) == (None, End.MARK, None)


WHOLE = (
    b'data: {"text":"[DONE]"}\n\n: [DONE]\n\ndata: {"finish_reason":"stop"}\n\ndata: {"usage":1}\n\ndata: [DONE]\n\n'
)
NATIVE = b'{"text":"\\"done\\":true","done":false}\n{"done":true,"text":"x"}\n{"text":"","done":true}\n'


@pytest.mark.parametrize("newline", [True, False], ids=["newline", "no newline"])
@pytest.mark.parametrize("body", [WHOLE, NATIVE, WHOLE.replace(b"\n", b"\r\n")], ids=["sse", "ndjson", "crlf"])
def test_a_mark_is_found_wherever_chunks_and_reads_are_cut(body: bytes, newline: bool) -> None:
    body = body if newline else body.rstrip()
    mark = len(body.rstrip()) - 1 + (2 if newline and b"\r\n" in body else 1 if newline else 0)
    rng = random.Random(1)
    sizes = [1, 2, 3, 7, len(body)]
    for size in [*sizes, *[0] * 40]:
        parts, i = [], 0
        while i < len(body):
            step = size or rng.randint(1, 40)
            parts.append(chunk(body[i : i + step]))
            i += step
        data = CHUNKED + b"".join(parts)
        cuts = sorted({0, len(data), *(rng.randrange(len(data)) for _ in range(rng.randint(0, 60)))})
        received = Received(Reader(ends=ENDS))
        seen = None
        for t, (a, b) in enumerate(pairwise(cuts)):
            received.add(data[a:b], [], t)
            if received.marked is End.MARK and seen is None:
                seen = t
                assert len(received.body()) >= mark - 1, (size, cuts)
        assert seen is not None, (size, cuts)
        assert received.until == seen + 50 * MS
        assert not received.expire(seen + 50 * MS - 1)
        assert received.expire(seen + 50 * MS)
        assert (received.t_end, received.t_over, received.failure) == (seen, seen + 50 * MS, None)


def test_a_mark_is_found_where_lines_end_in_carriage_returns_alone() -> None:
    received = Received(Reader(ends=ENDS))
    received.add(CHUNKED, [], 0)
    for t in range(1000):
        received.add(chunk(b'data: {"text":"a"}\r\r'), [], 1 + t)
    received.add(chunk(b"data: [DONE]\r\r"), [], 2000)
    assert (received.marked, received.until) == (End.MARK, 2000 + 50 * MS)


def test_a_needle_in_a_long_line_costs_little_and_is_read_with_its_newline() -> None:
    asked: list[int] = []

    def counting(line: bytes) -> End | None:
        asked.append(len(line))
        return read(line)

    received = Received(Reader(ends=EndMarks(ENDS.needles, counting)))
    received.add(CHUNKED, [], 0)
    received.add(chunk(b'{"text":"' + b"[DONE]" * 1000), [], 1)
    for t in range(1000):
        received.add(chunk(b"[DONE]" * 1000), [], 2 + t)
    assert len(asked) <= 1
    received.add(chunk(b'","done":true}\n'), [], 9999)
    assert (received.marked, received.until) == (End.MARK, 9999 + 50 * MS)


def test_a_needle_far_from_its_line_s_end_is_remembered_until_the_newline_comes() -> None:
    said = EndMarks(
        ENDS.needles, lambda line: End.FINISH if b'"finish_reason":"' in line and line.endswith(b"}") else None
    )
    received = Received(Reader(ends=said))
    received.add(CHUNKED, [], 0)
    received.add(chunk(b'data: {"text":"a"}\n\ndata: {"finish_reason":"stop","more":"' + b"x" * 100), [], 1)
    received.add(chunk(b"x" * 100 + b'"}\n\n'), [], 2)
    assert (received.marked, received.until) == (End.FINISH, 2 + 1000 * MS)


ALIKE = [CHUNKED, *[chunk(b'{"done":false,"text":"a","more":{"x":[]}}\n')] * 9]
ODD_END = chunk(b'{"done":true,"text":"a","more":{"x":[]}}\n')
ODD = EndMarks(ENDS.needles, lambda line: End.MARK if line.startswith(b'{"done":true') else None)


def test_an_end_that_looks_like_any_line_is_found_when_nothing_comes() -> None:
    received = Received(Reader(ends=ODD))
    for t, part in enumerate([*ALIKE, ODD_END]):
        received.add(part, [], t)
    assert (received.until, received.look_at) == (None, 10 + 1000 * MS)
    assert received.look()
    assert (received.until, received.look_at) == (10 + 50 * MS, None)
    assert received.expire(1001 * MS)
    assert (received.t_end, received.failure) == (10, None)


PIECE = chunk(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n')
BUSY = chunk(b'data: {"code":500,"message":"busy"}\n\n')


@pytest.mark.parametrize("before", [(), (PIECE, PIECE)], ids=["before any text", "behind text"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("ping", [PING, chunk(b": OPENROUTER PROCESSING\n\n")], ids=["short", "long"])
def test_signs_of_life_do_not_put_off_the_look_for_such_an_end(
    before: tuple[bytes, ...], apart: bool, ping: bytes
) -> None:
    """With a sign of life each half a second an error lasted to the limit: up to an hour before the first token."""
    received = Received(AnswerReader(OpenAIChat("m")))
    for part in (CHUNKED, *before, *([BUSY[:9], BUSY[9:]] if apart else [BUSY])):
        received.add(part, [], 0)
    for t in range(100, 1001, 300):
        received.add(ping, [], t * MS)
        assert received.look_at == 1000 * MS
    assert received.look()
    assert (received.until, received.look_at) == (1000 * MS, None)
    received.add(ping, [], 1300 * MS)
    assert received.expire(1300 * MS)


def test_a_silence_is_looked_at_once_whatever_signs_of_life_follow() -> None:
    received = Received(Reader(ends=ODD))
    for t, part in enumerate([*ALIKE, *[PING] * 3]):
        received.add(part, [], t)
    assert not received.look()
    assert received.look_at is None
    received.add(PING, [], 2000 * MS)
    assert received.look_at is None
    received.add(ALIKE[-1], [], 2001 * MS)
    assert received.look_at == 3001 * MS


@pytest.mark.parametrize("then", ["open", "close", "reset"])
@pytest.mark.parametrize("kind", WAITERS)
def test_an_end_that_looks_like_any_line_is_one_whatever_follows(kind: str, then: str) -> None:
    got = threading.Event()

    def handler(peer: Peer) -> None:
        peer.request()
        for part in ALIKE:
            peer.send(part)
            got.wait(0.002)
        peer.send(ODD_END)
        if then == "reset":
            got.wait(0.05)
            peer.reset()
        elif then == "open":
            peer.closed_by_client()

    with serving(handler) as server:
        (one,) = ask(kind, httpx.Request("GET", server.url), ends=ODD)
    assert (one.error, one.received.failure, one.received.marked) == (None, None, End.MARK)


def test_only_data_move_the_end_after_a_finish() -> None:
    received = Received(Reader(ends=ENDS))
    for t, part in [(0, CHUNKED), (10, TEXT), (20, FINISH), (30, PING), (800, USAGE), (900, PING), (1500, PING)]:
        received.add(part, [], t * MS)
    assert (received.marked, received.until) == (End.FINISH, 1020 * MS)
    assert not received.expire(1020 * MS)
    assert received.until == 1800 * MS
    assert not received.expire(1799 * MS)
    assert received.expire(1801 * MS)
    assert (received.t_end, received.t_over, received.failure) == (20 * MS, 1801 * MS, None)


@pytest.mark.parametrize(("finishes", "quiet_s"), [(1, 1), (2, 2), (3, 3), (40, 10)])
def test_the_more_pieces_have_a_reason_the_longer_the_next_is_waited_for(finishes: int, quiet_s: int) -> None:
    received = Received(Reader(ends=ENDS))
    for part in (CHUNKED, *(FINISH for _ in range(finishes))):
        received.add(part, [], 0)
    assert not received.expire(quiet_s * 1000 * MS - 1)
    assert received.expire(quiet_s * 1000 * MS)


def test_a_reason_before_any_text_is_waited_behind_as_long_as_data_without_text() -> None:
    received = Received(Reader(lambda _: False, ENDS))
    for part in (CHUNKED, FINISH):
        received.add(part, [], 0)
    assert not received.expire(9999 * MS)
    assert received.expire(10000 * MS)


@pytest.mark.parametrize("more", [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 99\r\n"])
def test_a_status_of_an_error_is_enough(more: bytes) -> None:
    received = Received(Reader(ends=ENDS))
    received.add(b"HTTP/1.1 503 Busy\r\n" + more + b"\r\n", [], 0)
    assert not received.expire(1000 * MS - 1)
    assert received.expire(1000 * MS)
    assert (received.status, received.success, received.failure) == (503, False, None)


def test_signs_of_life_behind_an_error_do_not_put_off_its_end() -> None:
    received = Received(Reader(ends=ENDS))
    head, error = CHUNKED.replace(b"200 OK", b"503 Busy"), chunk(b'data: {"message":"busy"}\n\n')
    for t, part in ((0, head), (500, error), (900, PING), (1400, PING)):
        received.add(part, [], t * MS)
    assert not received.expire(1500 * MS - 1)
    assert received.expire(1500 * MS)


def test_a_mark_after_a_finish_is_the_end() -> None:
    received = Received(Reader(ends=ENDS))
    for t, part in [(0, CHUNKED), (10, TEXT), (20, FINISH), (30, DONE + LAST)]:
        received.add(part, [], t)
    assert (received.complete, received.marked, received.t_end, received.t_over) == (True, End.MARK, 30, 30)
    assert received.reusable


@pytest.mark.parametrize("last", [b"data: [DONE]", b'{"x":1,"done":true}'])
def test_a_last_line_without_its_newline_is_read_when_the_connection_ends(last: bytes) -> None:
    received, _ = fed([(1, b"HTTP/1.1 200 OK\r\n\r\n" + TEXT), (2, last)], 9, ends=ENDS)
    assert (received.marked, received.failure, received.t_end) == (End.MARK, None, 2)


def test_a_replayed_answer_is_over_50_ms_after_its_mark() -> None:
    reads = [(0, CHUNKED + TEXT), (1 * MS, DONE), (70 * MS, PING)]
    received, rest = fed(reads, 99 * MS, ends=ENDS)
    assert (received.failure, received.t_end, received.t_over, rest) == (None, 1 * MS, 51 * MS, reads[2:])
