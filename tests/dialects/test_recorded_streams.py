"""Every recorded stream gives the Record it must give, however its bytes are cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from support import recorded
from support.places import STREAMS
from support.received import feed
from support.recorded import Reads, Stream

from loadtest.records import Outcome, Record

LENGTH, STOP = "length", "stop"


@dataclass(frozen=True, slots=True)
class Expected:
    """What one recorded answer must become; times in µs since the request was sent."""

    outcome: Outcome = Outcome.OK
    status: int | None = 200
    prompt: int | None = 9
    output: int | None = None
    source: str | None = "server"
    finish: str | None = LENGTH
    chunks: int = 0
    first: int | None = None
    last: int | None = None
    end: int = 0
    reads: int = 0
    coalesced: bool = False
    server_span: int | None = None  # last created_at − first, µs
    error: str | None = None


def failed(status: int | None, error: str, end: int, outcome: Outcome = Outcome.HTTP_ERROR) -> Expected:
    return Expected(outcome, status, None, None, None, None, error=error, end=end)


def cut(error: str, **facts: Any) -> Expected:
    """A 200 answer that is not whole: the server gave no counts, and the chunks are counted."""
    outcome = facts.pop("outcome", Outcome.TRUNCATED)
    return Expected(outcome, 200, None, facts["chunks"], "chunks", None, error=error, **facts)


BUSY = "server busy, please try again.  maximum pending requests exceeded"
DIED = "llama runner process no longer running: -1"
KILLED = "the server closed the connection inside the body of the answer"
ENGINE = "an error was encountered while running the model: unexpected EOF"
GUARD = "Ollama's repeat guard"
V1_DIED = "the engine died"
BROKEN = Outcome.STREAM_ERROR

# fmt: off
EXPECTED: dict[str, list[Expected]] = {
    "chat": [Expected(output=12, chunks=12, first=8196, last=30958, end=31044, reads=9, server_span=22785)],
    "generate": [Expected(output=12, chunks=12, first=6357, last=29991, end=30340, reads=9, server_span=23704)],
    "generate-raw": [Expected(output=12, chunks=12, first=8291, last=30068, end=30330, reads=9, coalesced=True, server_span=21820)],
    "chat-one-token": [Expected(output=1, chunks=1, first=7100, last=7100, end=7252, reads=1, server_span=0)],
    "chat-not-streamed": [Expected(output=12, chunks=1, first=33481, last=33481, end=33481, reads=1, server_span=0)],
    "load-only": [Expected(prompt=None, output=0, source="chunks", finish="load", end=4290)],
    "chat-cold-load": [Expected(output=3, chunks=3, first=309290, last=309290, end=309408, reads=1, coalesced=True, server_span=282)],
    "chat-keepalive": [
        Expected(output=4, chunks=4, first=11422, last=14983, end=14983, reads=3, coalesced=True, server_span=3515),
        Expected(output=4, chunks=4, first=19942, last=28022, end=28104, reads=4, server_span=8327),
    ],
    "chat-cached-prompt": [
        Expected(prompt=81, output=2, chunks=2, first=141943, last=144948, end=144948, reads=2, server_span=3013),
        Expected(prompt=81, output=2, chunks=2, first=150866, last=153317, end=153404, reads=2, server_span=2463),
    ],
    "chat-prompt-truncated": [Expected(prompt=512, output=2, chunks=2, first=1530362, last=1538569, end=1538744, reads=2, server_span=8459)],
    "chat-stopped-by-itself": [Expected(output=93, finish=STOP, chunks=92, first=300753, last=519551, end=519724, reads=71, server_span=218821)],
    "chat-queued-0": [Expected(output=40, chunks=40, first=49617, last=220504, end=220504, reads=34, coalesced=True, server_span=194497)],
    "chat-queued-1": [Expected(output=40, chunks=40, first=39562, last=218341, end=218341, reads=36, server_span=178759)],
    "chat-queued-2": [Expected(output=40, chunks=40, first=212280, last=384358, end=384358, reads=36, coalesced=True, server_span=172087)],
    "chat-queued-3": [Expected(output=40, chunks=40, first=214162, last=382190, end=382190, reads=36, server_span=167996)],
    "chat-queued-4": [Expected(output=40, chunks=40, first=377198, last=466570, end=466753, reads=32, server_span=89389)],
    "chat-busy-0": [Expected(output=4, chunks=4, first=309396, last=316841, end=316841, reads=3, server_span=7516)],
    "chat-busy-1": [Expected(output=4, chunks=4, first=322872, last=329629, end=329735, reads=3, server_span=6769)],
    "chat-busy-2": [failed(503, BUSY, 11707)],
    "chat-busy-3": [failed(503, BUSY, 11656)],
    "chat-silently-truncated": [cut(GUARD, chunks=51, first=12209, last=128221, end=135804, reads=39, server_span=116168)],
    "v1-chat-silently-truncated": [cut(GUARD, chunks=34, first=6490, last=98377, end=98377, reads=28)],
    "chat-runner-died-0": [cut(ENGINE, outcome=BROKEN, chunks=130, first=148557, last=587131, end=590756, reads=88, coalesced=True, server_span=569864)],
    "chat-runner-died-1": [cut(ENGINE, outcome=BROKEN, chunks=110, first=98416, last=537004, end=540554, reads=88, coalesced=True, server_span=509634)],
    "chat-runner-died-2": [failed(500, DIED, 490557)],
    "v1-chat-runner-died-0": [cut(V1_DIED, chunks=126, first=148725, last=584844, end=589798, reads=84, coalesced=True)],
    "v1-chat-runner-died-1": [cut(V1_DIED, chunks=106, first=98638, last=534746, end=539773, reads=84, coalesced=True)],
    "v1-chat-runner-died-2": [failed(500, DIED, 489773)],
    "chat-server-killed-0": [cut(KILLED, chunks=124, first=149879, last=572729, end=581945, reads=82, coalesced=True, server_span=556956)],
    "chat-server-killed-1": [cut(KILLED, chunks=104, first=99775, last=522645, end=531889, reads=82, coalesced=True, server_span=490990)],
    "chat-server-killed-2": [failed(None, "the server closed the connection without an answer", 481733, Outcome.TRUNCATED)],
    "v1-chat": [Expected(output=12, chunks=12, first=6810, last=30740, end=31050, reads=11)],
    "v1-chat-no-usage": [Expected(prompt=None, output=12, source="asked", chunks=12, first=9581, last=33899, end=33899, reads=11)],
    "v1-completions": [Expected(output=12, chunks=12, first=8598, last=30711, end=30997, reads=9, coalesced=True)],
    "unknown-model": [failed(404, "model 'nope' not found", 718)],
    "v1-unknown-model": [failed(404, "model 'nope' not found", 642)],
    "bad-option": [failed(500, 'option "num_predict" must be of type integer', 1161)],
    "bad-json": [failed(400, "invalid character 'b' looking for beginning of object key string", 345)],
    "embed-unknown-model": [failed(404, 'model "nope" not found, try pulling it first', 647)],
    "embed": [Expected(prompt=24, finish=None, end=197766)],
    "llamacpp-embeddings-refused": [failed(501, "This server does not support embeddings. Start it with `--embeddings`", 2728)],
    "llamacpp-embeddings": [Expected(prompt=24, finish=None, end=2668)],
    "llamacpp-messages-cached-prompt": [Expected(prompt=17, output=12, chunks=12, first=1561, last=5396, end=5509, reads=12)],
    "llamacpp-messages-not-streamed": [Expected(prompt=17, output=12, chunks=1, first=6047, last=6047, end=6047, reads=1)],
    "llamacpp-messages-one-token": [Expected(prompt=17, output=1, chunks=1, first=1513, last=1513, end=1554, reads=1)],
    "llamacpp-messages-refused": [failed(500, "'messages' is required", 298)],
    "llamacpp-messages-stop-sequence": [Expected(prompt=17, output=9, finish=STOP, chunks=9, first=4767, last=5636, end=5768, reads=3, coalesced=True)],
    "llamacpp-messages-too-long": [failed(400, "request (6003 tokens) exceeds the available context size (1024 tokens), try increasing it", 1846)],
    "llamacpp-messages": [Expected(prompt=17, output=12, chunks=12, first=1633, last=10666, end=10666, reads=11)],
    "llamacpp-responses-not-streamed": [Expected(prompt=17, output=12, finish=STOP, chunks=1, first=7643, last=7643, end=7643, reads=1)],
    "llamacpp-responses-one-token": [Expected(prompt=17, output=1, finish=STOP, chunks=1, first=1942, last=1942, end=2264, reads=1)],
    "llamacpp-responses-refused": [failed(400, "'input' is required", 614)],
    "llamacpp-responses": [Expected(prompt=17, output=12, finish=STOP, chunks=12, first=5678, last=14761, end=14958, reads=12)],
    "v1-embeddings": [Expected(prompt=24, finish=None, end=244808)],
    "v1-messages-not-streamed": [Expected(prompt=16, output=12, chunks=1, first=140154, last=140154, end=140154, reads=1)],
    "v1-messages-one-token": [Expected(prompt=16, output=1, chunks=1, first=13881, last=13881, end=13881, reads=1)],
    "v1-messages-stop-sequence": [Expected(prompt=16, output=3, finish=STOP, chunks=2, first=4259, last=11645, end=21506, reads=2)],
    "v1-messages-unknown-model": [failed(404, "model 'nope' not found", 1102)],
    "v1-messages": [Expected(prompt=16, output=12, chunks=12, first=19401, last=97302, end=97473, reads=8, coalesced=True)],
    "v1-responses-not-streamed": [Expected(prompt=16, output=12, finish=STOP, chunks=1, first=23044, last=23044, end=23044, reads=1)],
    "v1-responses-one-token": [Expected(prompt=16, output=1, finish=STOP, chunks=1, first=209624, last=209624, end=209624, reads=1)],
    "v1-responses-unknown-model": [failed(404, "model 'nope' not found", 539)],
    "v1-responses": [Expected(prompt=16, output=12, finish=STOP, chunks=12, first=20921, last=99388, end=99697, reads=12)],
}
# fmt: on
CONTROL_PLANE = {"no-such-path", "version", "tags", "ps", "show", "v1-models"}


def seen(record: Record) -> Expected:
    """Return a Record in the terms of the table."""
    since_send = record.t_end + recorded.ANCHOR.monotonic_ns - recorded.T_SEND
    return Expected(
        outcome=record.outcome,
        status=record.status,
        prompt=record.prompt_tokens,
        output=record.output_tokens,
        source=record.token_source,
        finish=record.finish_reason,
        chunks=len(record.chunks),
        first=record.chunks[0] if record.chunks else None,
        last=record.chunks[-1] if record.chunks else None,
        end=since_send // 1000,
        reads=record.reads,
        coalesced=record.first_coalesced,
        server_span=record.server_us[-1] if record.server_us else None,
        error=record.error,
    )


def unmoved(record: Record) -> dict[str, Any]:
    """Return what of a Record may not depend on how the bytes were cut into reads."""
    row = {name: getattr(record, name) for name in Record.__slots__}
    for counted_in_reads in ("arrivals", "lag_mean_us"):
        del row[counted_in_reads]
    return row


def split(reads: Reads, positions: set[int]) -> Reads:
    """Cut the reads at these byte positions of the whole; every byte keeps its time."""
    out: Reads = []
    start = 0
    for t, data in reads:
        inside = sorted(at - start for at in positions if start < at < start + len(data))
        out += [(t, data[a:b]) for a, b in zip([0, *inside], [*inside, len(data)], strict=True)]
        start += len(data)
    return out


def redone(stream: Stream, reads: Reads) -> list[Record]:
    changed = Stream(stream.name, stream.path, stream.answers, reads, stream.t_eof)
    return recorded.records(changed, save_text=True)


def test_every_recorded_stream_is_in_the_table() -> None:
    assert {path.stem for path in STREAMS.glob("*.json")} == set(EXPECTED) | CONTROL_PLANE


@pytest.mark.parametrize("name", EXPECTED)
def test_the_record_of_a_recorded_stream(name: str) -> None:
    for record, expected in zip(recorded.records(recorded.load(name)), EXPECTED[name], strict=True):
        got = seen(record)
        assert (expected.error or "") in (got.error or "")
        assert (got.error is None) == (expected.error is None)
        assert got == Expected(**{f: getattr(expected, f) for f in Expected.__slots__ if f != "error"}, error=got.error)


def test_the_servers_own_facts_and_stamps_are_kept() -> None:
    (record,) = recorded.records(recorded.load("generate"), save_text=True)
    assert record.server == {
        "total_duration": 29959880,
        "load_duration": 1235569,
        "prompt_eval_count": 9,
        "prompt_eval_duration": 2527632,
        "eval_count": 12,
        "eval_duration": 25266275,
    }
    assert record.server_first == 1795199498536337731
    assert record.answer is not None
    assert record.answer.startswith("fr")
    assert record.t_first_token == record.t_first_visible == recorded.T_SEND - recorded.ANCHOR.monotonic_ns + 6357000
    (record,) = recorded.records(recorded.load("v1-completions"))
    assert record.server == {"usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}
    (record,) = recorded.records(recorded.load("chat-one-token"))
    assert record.server is not None
    assert "eval_duration" not in record.server


@pytest.mark.parametrize("name", EXPECTED)
def test_no_cut_changes_the_record(name: str) -> None:
    """Every byte position is a cut in one of these runs, at least once a line."""
    stream = recorded.load(name)
    whole = [unmoved(record) for record in redone(stream, stream.reads)]
    size = sum(len(data) for _, data in stream.reads)
    step = 97
    for offset in range(step):
        reads = split(stream.reads, set(range(offset, size, step)))
        assert [unmoved(record) for record in redone(stream, reads)] == whole, offset
    assert [unmoved(record) for record in redone(stream, split(stream.reads, set(range(size))))] == whole


@pytest.mark.parametrize(
    "name",
    [
        *("chat", "chat-not-streamed", "chat-cold-load", "v1-chat", "v1-completions", "bad-option"),
        *("v1-responses", "llamacpp-responses", "v1-messages", "llamacpp-messages"),
    ],
)
def test_one_cut_anywhere_changes_nothing(name: str) -> None:
    stream = recorded.load(name)
    whole = [unmoved(record) for record in redone(stream, stream.reads)]
    for at in range(1, sum(len(data) for _, data in stream.reads)):
        assert [unmoved(record) for record in redone(stream, split(stream.reads, {at}))] == whole, at


@pytest.mark.parametrize("name", EXPECTED)
def test_joined_into_one_read_only_times_change(name: str) -> None:
    stream = recorded.load(name)
    if not stream.reads:
        return
    last = stream.reads[-1][0]
    joined = redone(stream, [(last, b"".join(data for _, data in stream.reads))])
    for record, before in zip(joined, redone(stream, stream.reads), strict=True):
        assert record.chunks == [(last - recorded.T_SEND) // 1000] * len(before.chunks)
        assert record.reads == min(1, before.reads)
        assert record.first_coalesced == (len(before.chunks) > 1)
        for name_ in ("outcome", "error", "status", "finish_reason", "server", "server_us", "answer", "bytes"):
            assert getattr(record, name_) == getattr(before, name_)
        assert (record.prompt_tokens, record.output_tokens) == (before.prompt_tokens, before.output_tokens)


@pytest.mark.parametrize(
    "name",
    [
        *("v1-chat", "v1-completions", "v1-chat-no-usage", "v1-chat-silently-truncated", "chat"),
        *("v1-responses", "llamacpp-responses", "v1-messages", "llamacpp-messages", "embed"),
    ],
)
def test_line_ends_of_two_bytes_change_nothing(name: str) -> None:
    stream = recorded.load(name)
    made = recorded.request(stream.dialect)
    assert feed(made.received, stream.reads, stream.t_eof) == []
    whole = made.received.reads()
    cuts = zip(whole.t, [0, *whole.ends], whole.ends, strict=False)
    bodies = [(t, whole.body[start:end].replace(b"\n", b"\r\n")) for t, start, end in cuts]
    (before,) = redone(stream, stream.reads)
    reads = recorded.framed(bodies)
    size = sum(len(data) for _, data in reads)
    for positions in (set(), set(range(size)), *(set(range(offset, size, 61)) for offset in range(61))):
        (record,) = redone(stream, split(reads, positions))
        for field in ("outcome", "error", "chunks", "answer", "finish_reason", "server", "server_us", "output_tokens"):
            assert getattr(record, field) == getattr(before, field)


@pytest.mark.parametrize("name", ["chat", "generate", "v1-chat", "v1-completions", "chat-not-streamed"])
def test_cut_off_anywhere_it_is_truncated_until_the_server_said_that_it_was_done(name: str) -> None:
    stream = recorded.load(name)
    text = b"".join(data for _, data in stream.reads)
    outcomes: list[Outcome] = []
    chunks = 0
    for end in range(len(text) + 1):
        reads = [(recorded.T_SEND, text[:end])] if end else []
        record, _ = recorded.replay(stream.dialect, reads, recorded.T_SEND + 1)
        assert record.outcome in (Outcome.TRUNCATED, Outcome.OK)
        assert (record.error is None) == (record.outcome is Outcome.OK)
        assert len(record.chunks) >= chunks
        chunks = len(record.chunks)
        outcomes.append(record.outcome)
    assert outcomes == sorted(outcomes, key=[Outcome.TRUNCATED, Outcome.OK].index)
    assert outcomes[-1] is Outcome.OK
