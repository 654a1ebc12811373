"""Received: no end is ever missed, little is parsed before it, and stamps become instants."""

from __future__ import annotations

import gc
import socket
import struct
from collections import Counter
from itertools import combinations, pairwise

import pytest
from support.received import Reader, fed
from support.wire_server import chunk

from loadtest.dialects.base import End, EndMarks
from loadtest.wire import LagLog, Received, WallClock
from loadtest.wire.clock import SO_TIMESTAMPNS, Ancillary
from loadtest.wire.receiving.received import MOST_WAITING

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
S = 1_000_000_000
MS = 1_000_000

# every way for an answer to end by itself, with contents that look like an end
ANSWERS = {
    "length": (OK + b"Content-Length: 12\r\n\r\nhello\r\n0\r\n\r\n", b"hello\r\n0\r\n\r\n"),
    "length, nothing like an end": (OK + b"Content-Length: 9\r\n\r\nhello you", b"hello you"),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "chunked": (CHUNKED + b"6\r\nhello\n\r\n7\r\nworld!\n\r\n0\r\n\r\n", b"hello\nworld!\n"),
    "one empty chunk": (CHUNKED + b"0\r\n\r\n", b""),
    "zeros": (CHUNKED + b"0006\r\nhello\n\r\n00000\r\n\r\n", b"hello\n"),
    "extensions": (CHUNKED + b"6;a=0\r\nhello\n\r\n0;b=0\r\n\r\n", b"hello\n"),
    "trailers": (CHUNKED + b"6\r\nhello\n\r\n0\r\nA: b\r\nC: 0\r\n\r\n", b"hello\n"),
    "0 in the text": (CHUNKED + b"8\r\n\n0\r\n\r\n\n0\r\n2\r\n0\r\r\n1\r\n\n\r\n0\r\n\r\n", b"\n0\r\n\r\n\n00\r\n"),
    "SSE with CRLF": (CHUNKED + b"b\r\ndata: x\r\n\r\n\r\n0\r\n\r\n", b"data: x\r\n\r\n"),
    "interim": (b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
}


def run(parts: list[bytes], *, live_until: int | None) -> Received:
    """Feed the parts; `live` asks for bytes until it has seen `live_until` of them (None: no live)."""
    seen = 0

    def live(body: bytes) -> bool:
        nonlocal seen
        seen += len(body)
        return live_until is not None and seen >= live_until

    received = Received(Reader(live if live_until is not None else None))
    for i, part in enumerate(parts):
        assert not received.ended, "ended before its last byte"
        woke = received.add(part, [], i)
        assert woke or not received.ended
    return received


@pytest.mark.parametrize("live_until", [None, 1, 1000])
@pytest.mark.parametrize("name", ANSWERS)
def test_the_end_is_seen_with_the_last_byte_wherever_the_reads_are_cut(name: str, live_until: int | None) -> None:
    data, body = ANSWERS[name]
    header = data.index(b"\r\n\r\n") + 4
    single = [(cut,) for cut in range(1, len(data))]
    double = list(combinations(range(header, len(data)), 2))
    for cuts in [(), *single, *double]:
        edges = [0, *cuts, len(data)]
        parts = [data[a:b] for a, b in pairwise(edges) if a < b]
        received = run(parts, live_until=live_until)
        assert received.ended, cuts
        assert received.complete
        assert received.reusable
        assert received.body() == body
        assert received.t_end == len(parts) - 1


@pytest.mark.parametrize("live_until", [None, 1, 1000])
@pytest.mark.parametrize("name", ANSWERS)
def test_byte_by_byte(name: str, live_until: int | None) -> None:
    data, body = ANSWERS[name]
    received = run([data[i : i + 1] for i in range(len(data))], live_until=live_until)
    assert received.complete
    assert received.reads().body == body


def test_live_is_given_bytes_until_it_has_seen_an_event() -> None:
    seen: list[bytes] = []

    def live(body: bytes) -> bool:
        seen.append(body)
        return body == b"event"

    received = Received(Reader(live))
    assert not received.add(CHUNKED, [], 1)
    assert not received.add(b"4\r\nping\r\n", [], 2)
    assert not received.add(b"5\r\nevent\r\n", [], 3)
    for i in range(1000):
        assert not received.add(b"5\r\ntoken\r\n", [], 4 + i)
    assert seen == [b"ping", b"event"]
    assert not received.add(b"100000\r\n" + b"x" * 0x90000, [], 2000)
    assert received.add(b"x" * 0x70000 + b"\r\n0\r\n\r\n", [], 2001)
    assert received.complete
    assert len(received.body()) == 4 + 5 + 5000 + 0x100000


def test_reads_that_came_are_no_work_for_the_garbage_collector() -> None:
    def objects(reads: int) -> int:
        received = Received()
        received.add(CHUNKED, stamp(1), 1)
        for i in range(reads):
            received.add(b"5\r\ntoken\r\n", stamp(2 + i), 2 + i)
        gc.collect()
        assert received.read_count == reads + 1
        return len(gc.get_objects())

    objects(10)
    assert abs(objects(1000) - objects(10)) < 10


def test_instants_and_counts_of_a_replayed_stream() -> None:
    reads = [
        (10, b"HTTP/1.1 200"),
        (20, b" OK\r\nTransfer-Encoding: chunked\r\nX-Y: z\r\n\r\n2\r\nhi\r\n"),
        (30, b"2\r\n"),
        (40, b"ho\r\n0"),
        (50, b"\r\n\r\n"),
    ]
    received, rest = fed(reads, t_send=5)
    assert rest == []
    assert (received.t_send, received.t_first_byte, received.t_headers, received.t_end) == (5, 10, 20, 50)
    assert (received.status, received.headers["x-y"], received.new_conn) == (200, "z", False)
    got = received.reads()
    assert (got.body, list(got.ends), list(got.t), list(got.lag)) == (b"hiho", [2, 4], [20, 40], [0, 0])
    assert (received.read_count, received.stamped_count, received.last_read) == (5, 0, 50)


@pytest.mark.parametrize("cut", [None, 0, 3])
def test_replay_stops_at_the_answer_s_end_and_gives_the_rest_back(cut: int | None) -> None:
    one, two = CHUNKED + b"3\r\none\r\n0\r\n\r\n", CHUNKED + b"3\r\ntwo\r\n0\r\n\r\n"
    reads = [(1, one + two)] if cut is None else [(1, one + two[:cut]), (2, two[cut:])]
    first, rest = fed(reads)
    assert (first.body(), first.complete, first.reusable) == (b"one", True, True)
    second, rest = fed(rest)
    assert (second.body(), second.complete, rest) == (b"two", True, [])


@pytest.mark.parametrize(
    ("data", "complete", "failure"),
    [
        (OK + b"\r\nabc", True, None),
        (OK + b"Content-Length: 5\r\n\r\nabc", False, "inside the body"),
        (CHUNKED + b"3\r\nabc\r\n", False, "inside the body"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n", False, "inside the body"),
        (b"HTTP/1.1 2", False, "inside the headers"),
        (b"", False, "without an answer"),
    ],
)
def test_the_end_of_the_connection(data: bytes, complete: bool, failure: str | None) -> None:
    received, _ = fed([(1, data)] if data else [], t_eof=9)
    assert received.ended
    assert (received.complete, received.t_end) == (complete, 9)
    assert (failure is None and received.failure is None) or (failure or "?") in (received.failure or "")
    assert not received.reusable
    assert received.body() == (b"abc" if b"abc" in data else b"")


def test_garbage_ends_the_answer_and_keeps_what_came_before() -> None:
    received, _ = fed([(1, CHUNKED + b"3\r\nabc\r\n"), (2, b"0zz\r\n")])
    assert received.ended
    assert received.malformed
    assert "not valid HTTP" in (received.failure or "")
    assert (received.body(), received.t_end) == (b"abc", 2)


def test_giving_up_keeps_what_came() -> None:
    received = Received()
    received.add(CHUNKED + b"3\r\nabc\r\n", [], 1)
    received.add(b"3\r\ndef\r\n", [], 2)
    received.abort("too slow", 7)
    received.abort("again", 8)
    assert (received.ended, received.complete, received.failure, received.t_end) == (True, False, "too slow", 7)
    assert received.body() == b"abcdef"


def stamp(wall_ns: int) -> Ancillary:
    return [(socket.SOL_SOCKET, SO_TIMESTAMPNS, struct.pack("@qq", *divmod(wall_ns, S)))]


def test_stamps_move_instants_to_the_arrival_and_lag_says_how_late_we_were() -> None:
    wall = WallClock()
    offset, base = wall._offsets[-1], wall._at[-1] + S
    lag = LagLog()
    lag.add(end=base + 300 * MS, gap=100 * MS)
    received = Received()
    received.t_send = base
    for handled, stamped, data in [
        (100, 99, CHUNKED),
        (201, 200, b"1\r\na\r\n"),  # 1 ms late, before the gap
        (301, 290, b"1\r\nb\r\n"),  # merged over 100 ms, stamped by its last part
        (330, None, b"1\r\nc\r\n"),  # unstamped
        (341, 340, b"0\r\n\r\n"),
    ]:
        received.add(data, [] if stamped is None else stamp(base + stamped * MS + offset), base + handled * MS)
    reads = received.reads(wall, lag)
    assert reads.body == b"abc"
    assert [((t - base) / MS, lag / MS) for t, lag in zip(reads.t, reads.lag, strict=True)] == [
        (200, 1),
        (290, 99),
        (330, 0),  # unstamped
    ]
    assert (received.t_headers, received.t_first_byte, received.t_end) == (
        base + 99 * MS,
        base + 99 * MS,
        base + 340 * MS,
    )
    assert (received.read_count, received.stamped_count) == (5, 4)
    assert list(received.reads().t) == [base + t * MS for t in (201, 301, 330)]


def test_instants_of_a_stream_never_go_back() -> None:
    wall = WallClock()
    offset, base = wall._offsets[-1], wall._at[-1]
    received = Received()
    received.add(CHUNKED + b"1\r\na\r\n", stamp(base + 2000 + offset), base + 5000)
    received.add(b"1\r\nb\r\n", stamp(base + 1000 + offset), base + 6000)
    assert list(received.reads(wall).t) == [base + 2000] * 2


ALIKE = EndMarks((b"[DONE]",), lambda line: End.MARK if line == b"[DONE]" else None)
PIECE = b'{"text":"a"}\n'


@pytest.mark.parametrize("count", [1, 2, *MOST_WAITING, 3 * max(MOST_WAITING) + 5])
@pytest.mark.parametrize("given_up", [True, False])
@pytest.mark.parametrize("head", [CHUNKED, OK + b"\r\n"], ids=["chunked", "until the connection ends"])
def test_reads_that_wait_for_their_framing_are_not_lost_when_the_answer_breaks_off(
    count: int, given_up: bool, head: bytes
) -> None:
    received = Received(Reader(ends=ALIKE))
    received.add(head, [], 0)
    for i in range(count):
        received.add(chunk(PIECE) if head is CHUNKED else PIECE, [], MS * (i + 1))
    if given_up:
        received.abort("nobody waits", MS * 1000)
    else:
        received.eof(MS * 1000)
    reads = received.reads()
    assert reads.body == PIECE * count
    assert list(reads.t) == [MS * (i + 1) for i in range(count)]
    assert received.complete == (head is not CHUNKED and not given_up)


@pytest.mark.parametrize("count", [3, max(MOST_WAITING) + 9])
def test_an_answer_of_known_length_is_over_with_a_last_read_like_any_other(count: int) -> None:
    received = Received(Reader(ends=ALIKE))
    received.add(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * len(PIECE)), [], 0)
    over = [received.add(PIECE, [], MS * (i + 1)) for i in range(count)]
    assert over == [False] * (count - 1) + [True]
    assert received.complete
    assert received.t_end == MS * count


def test_framing_that_breaks_among_reads_that_wait_fails_the_answer_and_keeps_what_came() -> None:
    received = Received(Reader(ends=ALIKE))
    received.add(CHUNKED, [], 0)
    for i in range(20):
        received.add(chunk(PIECE), [], MS * (i + 1))
    received.add(b"zz\r\n" + PIECE + b"\r\n", [], MS * 21)
    assert received.failure is None
    assert received.look()
    assert "is no length of a chunk" in (received.failure or "")
    assert received.reads().body == PIECE * 20


def test_answers_that_begin_together_are_not_all_taken_out_of_their_framing_in_the_same_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken = Counter[int]()
    unframe = Received._unframe
    monkeypatch.setattr(Received, "_unframe", lambda self: (taken.update([self.read_count]), unframe(self))[1])
    answers = [Received(Reader(ends=ALIKE)) for _ in range(340)]
    for received in answers:
        for data in (CHUNKED, *[chunk(PIECE)] * (max(MOST_WAITING) + 9)):
            received.add(data, [], 0)
    assert 0 < max(count for at, count in taken.items() if at > min(MOST_WAITING)) <= len(answers) // 10


def test_reads_wait_whatever_text_their_lines_end_with_and_an_end_among_them_is_found_at_once() -> None:
    ends = EndMarks((b"stop_reason",), lambda line: End.FINISH if b"stop_reason" in line else None)
    received = Received(Reader(ends=ends))
    received.add(CHUNKED, [], 0)
    pieces = [chunk(b'{"delta":{"text":"piece %d"}}\n' % i) for i in range(9)]
    assert not any(received.add(piece, [], 1 + i) for i, piece in enumerate(pieces))
    assert len(received._waiting) == len(pieces) - 1
    assert received.add(chunk(b'{"delta":{"stop_reason":"end"}}\n'), [], 10)
    assert received.marked is End.FINISH
