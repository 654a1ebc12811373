"""How a request ended: the outcome of each end of an answer, its error, and whose words say why."""

from __future__ import annotations

import dataclasses
import gc

import pytest
from support import recorded
from support.received import feed
from support.recorded import ANCHOR, DONE, MS, T_SEND, Reads, at, framed, line

from loadtest.dialects import Dialect, OllamaChat, OpenAIChat
from loadtest.measure.failure import Failure
from loadtest.measure.request import LEFT_OPEN, Request
from loadtest.records import Outcome

CHAT = OllamaChat("m")
V1 = OpenAIChat("m")


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
        ("Age: 1", None, None),  # Apache Traffic Server's, of an answer that is not out of its cache
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


@pytest.mark.parametrize(("closed", "notes"), [(9, None), (9000, [LEFT_OPEN])])
def test_done_makes_it_whole_even_when_the_last_chunk_never_came(closed: int, notes: list[str] | None) -> None:
    head, body, end = framed(at((5, line("a")), (6, DONE), (7, b"\n")))
    record, _ = recorded.replay(CHAT, [head, body], T_SEND + closed * MS)
    assert (record.outcome, record.error, record.notes) == (Outcome.OK, None, notes)
    assert record.t_end == T_SEND + 6 * MS - ANCHOR.monotonic_ns  # its end mark's arrival
    assert end


@pytest.mark.parametrize(("status", "outcome"), [("200 OK", Outcome.CLIENT_ERROR), ("503 Full", Outcome.HTTP_ERROR)])
def test_a_refusal_that_comes_before_the_request_was_sent_accuses_no_clock(status: str, outcome: Outcome) -> None:
    """Privoxy and others refuse a connection as soon as it is there, before they have read anything."""
    made = recorded.request(CHAT)
    feed(made.received, framed(at((5, line("a")), (6, DONE)), status=status))
    made.received.early_ns = MS
    assert made.finish().outcome is outcome


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
