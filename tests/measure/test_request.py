"""One request's life: instants in, exactly one Record out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support import recorded
from support.received import feed
from support.recorded import ANCHOR, DONE, MS, T_SEND, at, framed, line

from loadtest.dialects import OllamaChat, OpenAIChat, OpenAIEmbeddings
from loadtest.measure.request import Request
from loadtest.measure.server_figures import LETTERS
from loadtest.records import Outcome
from loadtest.wire import Heartbeat

CHAT = OllamaChat("m")
V1 = OpenAIChat("m")


def test_instants_count_from_the_files_anchor() -> None:
    made = recorded.request(CHAT)
    made.received.new_conn = True
    made.received.t_connect = T_SEND - 200
    made.received.connect_ns = 150_000
    feed(made.received, framed(at((5, line("a")), (7, DONE))))
    record = made.finish()
    start = T_SEND - ANCHOR.monotonic_ns
    assert record.t_sched == start - 1 * MS
    assert record.t_connect == start - 200
    assert record.connect_us == 150
    assert record.t_send == start
    assert record.t_headers == record.t_first_byte == record.t_first_token == record.t_first_visible == start + 5 * MS
    assert record.t_end == start + 7 * MS
    assert record.chunks == [5000]
    assert record.new_conn


def test_what_the_client_lets_lie_of_a_connection_is_its_own_lag() -> None:
    """A client that stood still while connections were opened passed as one in time."""
    beat = Heartbeat()
    beat.lag.add(end=T_SEND - 300, gap=60 * MS)
    made = recorded.request(CHAT, heartbeat=beat)
    made.received.new_conn = True
    made.received.t_connect, made.received.connect_ns = T_SEND - 200, 58 * MS
    feed(made.received, framed(at((5, line("a")), (7, DONE))))
    assert made.finish().connect_us == 0


def test_the_job_is_named_in_the_record() -> None:
    record, _ = recorded.replay(CHAT, framed(at((5, line("a") + DONE))), None)
    job = recorded.job()
    assert (record.id, record.level, record.seed, record.warmup) == (job.id, job.level, job.seed, False)
    assert (record.asked, record.asked_input) == (job.output_tokens, job.input_tokens)
    assert (record.dialect, record.model) == ("ollama-chat", "m")
    assert record.prompt is None
    assert record.answer is None


def test_reasoning_is_a_token_but_not_a_visible_one() -> None:
    thinking = b'{"message":{"content":"","thinking":"hm"},"done":false}\n'
    record, _ = recorded.replay(CHAT, framed(at((5, thinking), (8, line("a")), (9, DONE))), None, save_text=True)
    assert record.t_first_token is not None
    assert record.t_first_visible == record.t_first_token + 3 * MS
    assert record.chunks == [5000, 8000]
    assert record.answer == "a"
    assert record.prompt == recorded.job().prompt
    record, _ = recorded.replay(CHAT, framed(at((5, thinking), (9, DONE))), None)
    assert record.t_first_token is not None
    assert record.t_first_visible is None


def test_an_event_belongs_to_the_read_that_completed_it() -> None:
    text = line("abc")
    record, _ = recorded.replay(CHAT, framed(at((5, text[:9]), (6, text[9:] + text + text[:5]), (9, text[5:]))), T_SEND)
    assert record.chunks == [6000, 6000, 9000]
    assert (record.reads, record.arrivals) == (2, 3)
    assert record.first_coalesced


def test_a_first_token_alone_in_its_read_is_not_coalesced() -> None:
    record, _ = recorded.replay(CHAT, framed(at((5, line("a")), (6, line("b") * 2), (7, DONE))), None)
    assert record.chunks == [5000, 6000, 6000]
    assert not record.first_coalesced


def test_the_servers_count_wins_then_the_tokenizers_then_chunks() -> None:
    said = b'{"done":true,"done_reason":"stop","eval_count":9,"prompt_eval_count":4}\n'
    for end, count, expected in (
        (said, len, ("server", 9, 4)),
        (DONE, len, ("tiktoken", 4, len(recorded.job().prompt))),
        (DONE, None, ("chunks", 2, None)),
    ):
        record, _ = recorded.replay(CHAT, framed(at((5, line("aa") + line("bb") + end))), None, count=count)
        assert (record.token_source, record.output_tokens, record.prompt_tokens) == expected


@pytest.mark.parametrize(
    ("pieces", "reason", "count", "expected"),
    [
        (["one "] * 12, "length", None, ("asked", 12)),
        (["one two "] * 6, "length", None, ("asked", 12)),  # two tokens in each, as FastChat sends them
        (["one two "] * 6, "length", len, ("asked", 12)),
        (["one "] * 3, "length", None, ("chunks", 3)),  # the context was full
        (["one two "] * 6, "stop", None, ("chunks", 6)),
        (["one "] * 13, "length", None, ("chunks", 13)),
    ],
)
def test_an_answer_that_ends_for_its_length_has_what_was_asked_for(
    pieces: list[str], reason: str, count: Callable[[str], int] | None, expected: tuple[str, int]
) -> None:
    end = b'{"done":true,"done_reason":"%b"}\n' % reason.encode()
    record, _ = recorded.replay(
        CHAT, framed(at((5, b"".join(line(piece) for piece in pieces) + end))), None, count=count
    )
    assert (record.token_source, record.output_tokens) == expected


@pytest.mark.parametrize(
    ("pieces", "end", "doubted"),
    [
        (list("one two three four"), DONE, True),
        (list("one two three four"), b'{"done":true,"done_reason":"stop","eval_count":5}\n', False),
        (["one ", "two ", "three "] * 4, DONE, False),
        (list("一二三四五六七八九十一二三四"), DONE, False),  # of which each may be a token
        (list("1234567890123456"), DONE, False),
    ],
)
def test_letters_are_no_tokens(pieces: list[str], end: bytes, doubted: bool) -> None:
    """Of a mock that types its answers 48 tokens were 48 letters."""
    record, _ = recorded.replay(CHAT, framed(at((5, b"".join(map(line, pieces)) + end))), None)
    assert (record.doubts == [LETTERS]) == doubted


@pytest.mark.parametrize(("count", "known"), [(17, None), (16, 16), (18, 18)])
def test_a_count_of_the_prompts_characters_is_none_of_its_tokens(count: int, known: int | None) -> None:
    """Infinity counts so unless it is told otherwise: its input tokens/s were five times too many."""
    assert len(recorded.job().prompt) == 17
    said = b'{"data":[{"embedding":[1.0]}],"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (count, count)
    record, _ = recorded.replay(OpenAIEmbeddings("m"), framed(at((5, said))), None)
    assert (record.outcome, record.prompt_tokens, record.doubts) == (Outcome.OK, known, None)
    assert bool(record.notes) == (known is None)


# ---------------------------------------------------------------- the server's clock, and life while it streams


def test_server_stamps_are_kept_only_where_every_event_has_one() -> None:
    stamped = b'{"created_at":"2026-11-20T18:31:38.%sZ","message":{"content":"a"},"done":false}\n'
    first, second = stamped % b"5", stamped % b"500250999"
    record, _ = recorded.replay(CHAT, framed(at((5, first + second))), None)
    assert (record.server_us, record.server_first) == ([0, 250], 1795199498_500000000)
    record, _ = recorded.replay(CHAT, framed(at((5, first + line("a") + second))), None)
    assert (record.server_us, record.server_first) == (None, None)


def test_decoding_is_known_while_the_answer_comes() -> None:
    made = Request(recorded.job(), V1, ANCHOR, T_SEND)
    made.received.t_send = T_SEND
    role = b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n'
    text = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    reads = framed(at((1, role), (2, text[:20]), (3, text[20:]), (4, text), (5, b"data: [DONE]\n\n")))
    seen = []
    for read in reads:
        feed(made.received, [read])
        seen.append(made.received.began)
    assert seen == [False, False, True, True, True]
    record = made.finish()
    assert record.chunks == [3000, 4000]


def test_an_error_page_is_never_decoding() -> None:
    made = recorded.request(CHAT)
    feed(made.received, framed(at((1, line("a"))), status="500 Internal Server Error"))
    assert not made.received.began


def test_an_answer_compressed_unasked_is_named() -> None:
    raw = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x07"
    record, _ = recorded.replay(CHAT, [(T_SEND + 5_000_000, raw)], None, count=len)
    assert record.outcome is Outcome.STREAM_ERROR
    assert record.error == "the server compressed the answer (gzip), which it was asked not to do"


@pytest.mark.parametrize("coding", ["none", "utf-8", "gzip"])
def test_an_answer_that_only_says_it_is_compressed_is_read(coding: str) -> None:
    """Servers of events say "none" so that nothing on the way compresses; a proxy unpacks and keeps the header."""
    body = line("a") + DONE
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    record, _ = recorded.replay(CHAT, [(T_SEND + 5_000_000, head + body)], None, count=len)
    assert (record.outcome, record.error, len(record.chunks)) == (Outcome.OK, None, 1)
