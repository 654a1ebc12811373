"""A record of one request, as it is kept on disk: the only thing that measuring and analysing share.

Measuring writes these files of a run folder, and analysing reads them (run_folder.py has the writers):

    run.json            what was run, against which server, from which client
    requests-*.jsonl    a header line, then one Record per line; one file per measuring process
    samples-*.jsonl     what the driver and monitors sampled over time
"""

from __future__ import annotations

import builtins
import dataclasses
import json
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import orjson

from loadtest.errors import RunFolderError, os_error_as

SCHEMA = 1
MOST_STARTS = 16  # places on a damaged line at which an object is looked for
MOST_ANCHOR_NS = 1 << 62  # largest instant, so that the difference of two fits 64 bits
NOT_SENT = "not sent"  # begins the error of a request that its open loop left unsent because of --max-in-flight
TURNED_AWAY = (429, 503)  # statuses of servers and gateways that take no more requests now


class Outcome(StrEnum):
    """How a request ended: as exactly one of these."""

    OK = "ok"
    HTTP_ERROR = "http_error"  # a status other than 2xx
    STREAM_ERROR = "stream_error"  # an error object in a stream that began well, or bytes that do not decode
    TRUNCATED = "truncated"  # the stream ended without done:true or finish_reason
    CONNECT_ERROR = "connect_error"
    TIMEOUT = "timeout"
    LEFT = "left"  # the user hung up, or a locustfile's code gave the request up: no error, but no whole answer
    CANCELLED = "cancelled"  # loadtest stopped it
    CLIENT_ERROR = "client_error"  # a bug of loadtest: makes the whole level void


NO_FAILURES = frozenset({Outcome.OK, Outcome.LEFT, Outcome.CANCELLED})


@dataclass(frozen=True, slots=True)
class Clock:
    """The instant that a file's t_* fields count from: one moment on both clocks, in nanoseconds."""

    monotonic_ns: int
    wall_ns: int

    @classmethod
    def now(cls) -> Self:
        """Read both clocks nine times and keep the closest pair of readings: their offset is then right to about 1 µs."""

        def reading() -> tuple[int, int, int]:
            before, wall, after = time.perf_counter_ns(), time.time_ns(), time.perf_counter_ns()
            return after - before, (before + after) // 2, wall

        _, monotonic_ns, wall_ns = min(reading() for _ in range(9))
        return cls(monotonic_ns, wall_ns)


_LEFT_OUT_AT_ZERO = ("target", "connect_us", "send_us", "unsent_tokens")


@dataclass(slots=True, kw_only=True)  # not frozen: that takes 5 µs more, and each request makes one
class Record:
    """One request as instants and counts, from which loadtest.metrics derives every duration.

    t_* are integer nanoseconds on the monotonic clock since the file's anchor; None where the request did not get so far.
    Absent values are left out of the JSON line.
    """

    id: int  # position in the plan
    level: int  # index of the level
    seed: int  # from which the prompt can be rebuilt
    dialect: str
    model: str
    outcome: Outcome
    t_sched: int  # when it was due
    t_end: int  # when it was over, however it ended
    t_connect: int | None = None  # TCP (and TLS) ready, where a connection was opened for it
    connect_us: int = 0  # time that opening it took
    t_send: int | None = None  # the request's last byte handed to the kernel
    send_us: int = 0  # time that handing it over took: t_send may be off by as much
    resent: int | None = None  # when it was sent again, because a kept connection died without a byte of answer
    t_headers: int | None = None
    t_first_byte: int | None = None
    t_first_token: int | None = None  # first event with any text, reasoning included
    t_first_visible: int | None = None  # first event with answer text
    chunks: list[int] = dataclasses.field(default_factory=list)  # µs from t_send, one per content event
    reads: int = 0  # how many reads those content events came in; reads of one stamp are one
    stamped: int = 0  # how many reads carried a kernel stamp
    arrivals: int = 0  # reads in all: stamped == arrivals means that every stamp is the kernel's
    lag_us: int = 0  # client lag, worst of its reads
    lag_mean_us: int = 0
    # reads whose client lag exceeded the stream's own median token gap; of bursts, also the mean one or 1 ms
    late: int = 0
    late_tokens: int | None = None  # content events with a wrong instant for that; None: no late reads, or not counted
    late_gaps: int | None = None  # gaps that begin or end at such an event
    first_coalesced: bool = False  # the first token came together with a later one
    asked: int | None = None  # output length asked for, tokens
    asked_input: int | None = None  # input length asked for, tokens
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    unsent_tokens: int = 0  # whose text was not sent, or came with the first; decode speed leaves them out
    token_source: str | None = None  # "server", "asked", "tiktoken" or "chunks"
    server: dict[str, Any] | None = None  # what the server said, under the server's own names
    server_us: list[int] | None = None  # created_at of each content event, µs from the first one's
    server_first: int | None = None  # the first one's wall time, ns
    status: int | None = None
    error: str | None = None
    notes: list[str] | None = None  # oddities of the answer that spoil no figure
    doubts: list[str] | None = None  # oddities that make its level suspect
    finish_reason: str | None = None
    said_model: str | None = None  # that the answer names, where it is another one than was asked for
    target: int = 0  # index into run.json's targets
    user: int | None = None  # which user of its level sent it, from 0; None in an open loop
    session: int | None = None  # which session of its level this was a turn of; None: a request by itself
    turn: int | None = None  # in that session, from 0
    row: str | None = None  # of the data file that the request came from
    warmup: bool = False
    new_conn: bool = False
    bytes: int = 0
    prompt: str | None = None  # only with --save-text
    answer: str | None = None  # only with --save-text

    @property
    def failed(self) -> bool:
        """Whether the server or the client failed the request: no user who hung up and no stop of ours is that."""
        return self.outcome not in NO_FAILURES

    @property
    def was_shed(self) -> bool:
        """Whether an open loop left the request unsent because of --max-in-flight."""
        return self.outcome is Outcome.CANCELLED and (self.error or "").startswith(NOT_SENT)

    @property
    def sent_tokens(self) -> int:
        """Output tokens whose text was sent: those that a decode speed counts."""
        return (self.output_tokens or 0) - self.unsent_tokens

    def to_line(self) -> builtins.bytes:
        """Return the record as one JSON line, absent values left out."""
        found = {name: value for name in _RECORD_FIELDS if (value := getattr(self, name)) is not None}
        for name in _LEFT_OUT_AT_ZERO:
            if not found[name]:
                del found[name]
        try:
            return orjson.dumps(found) + b"\n"
        except orjson.JSONEncodeError:  # half a character in what the server said would end the run
            return json.dumps(found, ensure_ascii=False).encode(errors="replace") + b"\n"

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Build a Record from a parsed line; keys of a newer schema are ignored."""
        known = {name: row[name] for name in _RECORD_FIELDS if name in row}
        known["outcome"] = Outcome(known["outcome"])
        return cls(**known)


_RECORD_FIELDS = tuple(field.name for field in dataclasses.fields(Record))


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The first line of a requests file: who wrote the file, and the anchor of its instants."""

    schema: int
    worker: str
    host: str
    driver: str  # "asyncio" or "locust"
    monotonic_ns: int
    wall_ns: int
    simulated: dict[str, Any] | None = None  # profile and speed of a simulated server, for where run.json is lost

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self | None:
        """Read a parsed first line; None where it is not a header."""
        texts, instants = ("worker", "host", "driver"), ("monotonic_ns", "wall_ns")
        if not all(isinstance(row.get(name), str) for name in texts):
            return None
        if not all(type(row.get(name)) is int and abs(row[name]) < MOST_ANCHOR_NS for name in instants):
            return None
        simulated = row.get("simulated")
        values = [
            SCHEMA,
            *(row[name] for name in (*texts, *instants)),
            simulated if isinstance(simulated, dict) else None,
        ]
        return cls(*values)

    @property
    def clock(self) -> Clock:
        return Clock(self.monotonic_ns, self.wall_ns)


def newer(schema: object) -> bool:
    return isinstance(schema, int) and schema > SCHEMA


def read_line(line: bytes) -> tuple[dict[str, Any] | None, bool]:
    """Return the object on a line, and whether part of the line could not be read.

    A full disk may cut off a line, and the next record then follows right behind it; a crashed file system may leave NUL
    bytes. In both cases the object at the end of the line is whole.
    """
    start = 0
    for _ in range(MOST_STARTS):
        try:
            row = orjson.loads(line[start:])
        except orjson.JSONDecodeError:
            start = line.find(b'{"', start + 1)
            if start < 0:
                break
        else:
            return (row, start > 0) if isinstance(row, dict) else (None, True)
    return None, bool(line.strip())


def written_lines(body: bytes) -> list[bytes]:
    """Return the lines of a file.

    A last line without a newline is still being written or was cut off by a kill, and is left out. Where it is whole an
    editor took the newline away.
    """
    *lines, last = body.split(b"\n")
    row, damaged = read_line(last)
    return lines if row is None or damaged else [*lines, last]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a file of JSON lines, and how many lines could not be read.

    A last line that the writer did not finish is left out and not counted. Raises RunFolderError where the file cannot be opened.
    """
    with os_error_as(RunFolderError, f"cannot read {path}"):
        body = path.read_bytes()
    found = [read_line(line) for line in written_lines(body)]
    return [row for row, _ in found if row is not None], sum(damaged for _, damaged in found)
