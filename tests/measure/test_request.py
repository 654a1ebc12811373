"""One request's life: instants in, exactly one Record out."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable

import pytest
from support import recorded
from support.received import feed
from support.recorded import ANCHOR, DONE, MS, T_SEND, Reads, at, framed, line

from loadtest.dialects import Dialect, OllamaChat, OpenAIChat, OpenAIEmbeddings
from loadtest.measure.failure import Failure
from loadtest.measure.request import Request
from loadtest.measure.server_figures import LETTERS
from loadtest.records import Outcome

CHAT = OllamaChat("m")
V1 = OpenAIChat("m")


def test_instants_count_from_the_files_anchor() -> None:
    made = recorded.request(CHAT)
    made.received.new_conn = True
    made.received.t_connect = T_SEND - 200
    feed(made.received, framed(at((5, line("a")), (7, DONE))))
    record = made.finish()
    start = T_SEND - ANCHOR.monotonic_ns
    assert record.t_sched == start - 1 * MS
    assert record.t_connect == start - 200
    assert record.t_send == start
    assert record.t_headers == record.t_first_byte == record.t_first_token == record.t_first_visible == start + 5 * MS
    assert record.t_end == start + 7 * MS
    assert record.chunks == [5000]
    assert record.new_conn


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


# ---------------------------------------------------------------- outcomes


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.CANCELLED, Outcome.CONNECT_ERROR])
def test_the_callers_outcome_wins_and_partial_tokens_are_kept(outcome: Outcome) -> None:
    made = recorded.request(CHAT)
    feed(made.received, framed(at((5, line("a")), (6, line("b")))))
    made.failure = Failure(outcome, "why")
    record = made.finish()
    assert (record.outcome, record.error) == (outcome, "why")
    assert record.chunks == [5000, 6000]
    assert (record.output_tokens, record.token_source) == (2, "chunks")


def test_a_request_that_never_left_is_a_record_too() -> None:
    made = Request(recorded.job(), CHAT, ANCHOR, T_SEND)
    made.failure = Failure(Outcome.CONNECT_ERROR, "refused")
    record = made.finish()
    assert (record.t_send, record.status, record.output_tokens, record.token_source) == (None, None, None, None)
    assert record.chunks == []
    assert record.t_end == T_SEND - ANCHOR.monotonic_ns


@pytest.mark.parametrize("reads", [None, at((5, b"")), at((5, line("a"))), at((5, line("a")), (9, DONE))])
def test_a_request_leaves_nothing_to_the_garbage_collector_however_it_ended(reads: Reads | None) -> None:
    """The driver switches collection off while it measures: 100,000 refused connections were 400 MB."""

    def alive() -> int:
        return sum(isinstance(one, Request) for one in gc.get_objects())

    gc.collect()
    gc.disable()
    try:
        before = alive()
        made = Request(recorded.job(), CHAT, ANCHOR, T_SEND)
        if reads is None:
            made.failure = Failure(Outcome.CONNECT_ERROR, "refused")
        else:
            feed(made.received, framed(reads))
        made.finish()
        assert alive() == before + 1
        del made
        assert alive() == before
    finally:
        gc.enable()


def test_an_error_status_says_why_and_has_no_tokens() -> None:
    reads = framed(at((5, b'{"error":'), (6, b'"no such model"}')), status="404 Not Found")
    record, _ = recorded.replay(CHAT, reads, None, count=len)
    assert (record.outcome, record.status, record.error) == (Outcome.HTTP_ERROR, 404, "no such model")
    assert (record.output_tokens, record.prompt_tokens, record.token_source) == (None, None, None)


@pytest.mark.parametrize(
    ("body", "error"), [(b'{"error":"too long"}', "too long"), (b"", "HTTP 413 with an empty body")]
)
def test_an_error_status_counts_though_the_connection_breaks_in_its_body(body: bytes, error: str) -> None:
    """Servers that close a connection whose request they have not read to its end reset it."""
    made = recorded.request(CHAT)
    feed(made.received, at((5, b"HTTP/1.1 413 Too Large\r\nContent-Length: 99\r\n\r\n" + body)))
    made.failure = Failure(Outcome.TRUNCATED, "the connection broke: connection reset by peer")
    made.received.abort(made.failure.sentence, 6 * MS)
    record = made.finish()
    assert (record.outcome, record.status, record.error) == (Outcome.HTTP_ERROR, 413, error)


@pytest.mark.parametrize(
    ("header", "doubt", "note"),
    [
        ("Age: 12", "a cache on the way answered in the server's place (Age: 12)", None),
        ("X-Varnish: 32770 3", "(X-Varnish: 32770 3)", None),
        ("X-Cache: HIT from squid", "(X-Cache: HIT from squid)", None),
        ("X-Cache: TCP_HIT, MISS", "cache on the way", None),
        ("x-portkey-cache-status: SEMANTIC HIT", "cache on the way", None),
        ("Cache-Status: Souin; hit; ttl=299", "cache on the way", None),
        ("X-Cache-Hits: 3", "cache on the way", None),
        ("X-Cache-Status: STALE", "cache on the way", None),
        ("CF-Cache-Status: UPDATING", "cache on the way", None),
        ("cf-aig-step: 1", "fell back to another model or server (cf-aig-step: 1)", None),
        ("x-litellm-cache-key: 1fc51fa0", "(x-litellm-cache-key: 1fc51fa0)", None),
        (
            "x-litellm-attempted-fallbacks: 1",
            "fell back to another model or server (x-litellm-attempted-fallbacks: 1)",
            None,
        ),
        ("x-litellm-attempted-retries: 2", None, "more than once (x-litellm-attempted-retries: 2)"),
        ("X-Envoy-Attempt-Count: 2", None, "more than once"),
        ("X-Envoy-Attempt-Count: 1", None, None),
        ("Set-Cookie: AWSALB=Zm9v; Path=/", None, "balancer's cookie (AWSALB) would keep a user at one server"),
        ("Set-Cookie: session=7; Path=/", None, None),
        ("x-litellm-attempted-retries: None", None, None),
        ("Age: 0", None, None),
        ("X-Varnish: 32770", None, None),
        ("X-Cache: MISS from squid", None, None),
        ("X-Cache-Lookup: HIT from squid:3128", None, None),
        ("Cache-Status: Souin; fwd=uri-miss; stored", None, None),
        ("Cache-Status: Souin; fwd=stale; fwd-status=200", None, None),
        ("cf-aig-step: 0", None, None),
        ("Cache-Control: max-age=60, hit", None, None),
        ("X-Prefix-Cache: hit", None, None),
        ("X-Cache-Hits: 0", None, None),
        ("X-Cache: white", None, None),
    ],
)
def test_headers_say_who_answered(header: str, doubt: str | None, note: str | None) -> None:
    reads = framed(at((5, line("a")), (7, DONE)), status=f"200 OK\r\n{header}")
    record, _ = recorded.replay(CHAT, reads, None)
    assert record.outcome is Outcome.OK
    for said, wanted in ((record.doubts, doubt), (record.notes, note)):
        assert (said is None) if wanted is None else (said is not None and wanted in said[0]), said


@pytest.mark.parametrize(
    ("dialect", "row", "said"),
    [
        (V1, b'data: {"model":"m-2026","choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n', "m-2026"),
        (V1, b'data: {"model":"m","choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n', None),
        (
            V1,  # whose counts a gateway made
            (
                b'data: {"model":"o","choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
                b'data: {"model":"m","choices":[],"usage":{"prompt_tokens":2,"completion_tokens":1}}\n\n'
            ),
            "o",
        ),
        (V1, b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n', None),
        (V1, b'data: {"model":["m"],"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n', None),
        (CHAT, line("a") + b'{"model":"m:latest","done":true}\n', None),
        (CHAT, line("a") + b'{"model":"o\\u001b[2J","done":true}\n', "o\\x1b[2J"),
        (CHAT, line("a") + '{"model":"\ufeffm\u200b","done":true}\n'.encode(), None),  # characters without width
    ],
)
def test_another_model_than_was_asked_for_is_kept(dialect: Dialect, row: bytes, said: str | None) -> None:
    record, _ = recorded.replay(dialect, framed(at((5, row))), None)
    assert (record.outcome, record.said_model) == (Outcome.OK, said)


def test_an_error_in_the_stream_wins_over_done_and_over_the_connections_end() -> None:
    reads = framed(at((5, line("a")), (6, b'{"error":"broken"}\n'), (7, DONE)))
    for cut in (reads, reads[:2]):
        record, _ = recorded.replay(CHAT, cut, T_SEND + 9 * MS)
        assert (record.outcome, record.error) == (Outcome.STREAM_ERROR, "broken")


def test_done_makes_it_whole_even_when_the_last_chunk_never_came() -> None:
    head, body, end = framed(at((5, line("a")), (6, DONE), (7, b"\n")))
    record, _ = recorded.replay(CHAT, [head, body], T_SEND + 9 * MS)
    assert (record.outcome, record.error) == (Outcome.OK, None)
    assert record.t_end == T_SEND + 6 * MS - ANCHOR.monotonic_ns  # its end mark's arrival
    assert end


def test_a_connection_that_ends_inside_an_answer() -> None:
    reads = framed(at((5, line("a")), (6, line("b"))))[:1]
    record, _ = recorded.replay(CHAT, reads, T_SEND + 9 * MS)
    assert record.outcome is Outcome.TRUNCATED
    assert "closed the connection inside the body" in (record.error or "")
    made = recorded.request(CHAT)
    feed(made.received, reads)
    made.received.abort("connection reset by peer", T_SEND + 9 * MS)
    record = made.finish()
    assert (record.outcome, record.error) == (Outcome.TRUNCATED, "connection reset by peer")


def test_a_whole_answer_that_never_said_done() -> None:
    record, _ = recorded.replay(CHAT, framed(at((5, line("a")))), None)
    assert record.outcome is Outcome.TRUNCATED
    assert record.error == "the answer ended without saying that it is whole"


# ---------------------------------------------------------------- tokens


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
TOLD = "the trailer behind the answer says 'grpc-message: the engine fell over'"
TRAILERS: dict[str, tuple[bytes, bytes, Outcome, str | None]] = {  # the body, its trailers, and what is made of them
    "cut off": (PIECE, b"grpc-status: 13\r\nGrpc-Message: the%20engine fell over\r\n", Outcome.STREAM_ERROR, TOLD),
    "nothing but a trailer": (b"", b"grpc-message: the engine fell over\r\n", Outcome.STREAM_ERROR, TOLD),
    "no end": (PIECE, b"grpc-status: 0\r\ngrpc-message: OK\r\n", Outcome.TRUNCATED, "without saying that it is whole"),
    "no cause": (PIECE, b"Server-Timing: x;dur=3\r\n", Outcome.TRUNCATED, "without saying that it is whole"),
    "the mark alone": (
        PIECE + b"data: [DONE]\n\n",
        b"grpc-message: the engine fell over\r\n",
        Outcome.STREAM_ERROR,
        TOLD,
    ),
    "a reason and all": (
        PIECE + b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
        b"X-Error: none\r\n",
        Outcome.OK,
        None,
    ),
}


@pytest.mark.parametrize("name", TRAILERS)
def test_words_in_trailers_say_why_an_answer_is_not_whole(name: str) -> None:
    body, trailers, outcome, said = TRAILERS[name]
    made = recorded.request(V1)
    chunks = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    feed(made.received, [(T_SEND + MS, HEAD + chunks + b"0\r\n" + trailers + b"\r\n")])
    record = made.finish()
    assert (record.outcome, said is None or said in (record.error or "")) == (outcome, True), record.error


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


@pytest.mark.parametrize(("last", "outcome"), [(b"0\r\n\r\n", Outcome.OK), (b"", Outcome.TRUNCATED)])
def test_text_behind_a_finish_reason_needs_an_end_of_its_own(last: bytes, outcome: Outcome) -> None:
    rows = b"".join(
        b'data: {"choices":[{"index":0,"delta":{"%s":"a"},"finish_reason":%s}]}\n\n' % (key, reason)
        for key, reason in ((b"reasoning", b'"stop"'), (b"content", b"null"))
    )
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n%b" % (len(rows), rows, last)
    made = recorded.request(V1)
    made.received.add(raw, [], T_SEND + 5_000_000)
    made.received.eof(T_SEND + 6_000_000)
    record = made.finish()
    assert (record.outcome, len(record.chunks)) == (outcome, 2)


class Listener:
    """A session that goes on with what it is told."""

    number = 0

    def next(self, answer: object) -> None: ...


@pytest.mark.parametrize("text", ["a", "a" * 5000])
def test_an_answer_that_says_an_error_behind_its_text_ends_its_session(text: str) -> None:
    job = dataclasses.replace(recorded.job(), session=0, turn=0)
    made = Request(job, V1, ANCHOR, T_SEND - MS, session=Listener())
    made.received.t_send = T_SEND
    said = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode()
    feed(made.received, framed(at((5, said), (6, b'data: {"error":{"message":"gone"}}\n\n'), (7, b"data: [DONE]\n\n"))))
    assert made.answered() is None
    assert made.finish().outcome is Outcome.STREAM_ERROR
