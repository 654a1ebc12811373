"""The one thing that both halves share: a Record per request, and the folder that a run leaves on disk.

Measuring writes, analysing reads, and nothing passes between them but these files:

    run.json            what was run, against what, from where (RunFolder.write_run)
    requests-*.jsonl    a header line, then one Record a line; one file per measuring process (RecordWriter)
    samples-*.jsonl     what monitors and the driver itself saw over time (SampleWriter)
"""

from __future__ import annotations

import builtins
import dataclasses
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

import orjson

from loadtest.errors import RunFolderError

SCHEMA = 1
MOST_STARTS = 16  # of objects that are looked for on a line which does not parse
MOST_ANCHOR_NS = 1 << 62  # of an instant: a difference of two still fits 64 bits
NOT_SENT = "not sent"  # how the error of a request begins that was shed: cancelled before it was sent, by its plan


class Outcome(StrEnum):
    """How a request ended; every request ends as exactly one of these."""

    OK = "ok"
    HTTP_ERROR = "http_error"  # a status other than 2xx
    STREAM_ERROR = "stream_error"  # an error object inside a stream that began well, or bytes that do not decode
    TRUNCATED = "truncated"  # the stream ended without done:true or finish_reason
    CONNECT_ERROR = "connect_error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"  # we stopped it
    CLIENT_ERROR = "client_error"  # loadtest itself failed over it: no figure of its level can be believed


@dataclass(frozen=True, slots=True)
class Clock:
    """The instant that a file's t_* fields count from: one moment on both clocks, in nanoseconds."""

    monotonic_ns: int
    wall_ns: int

    @classmethod
    def now(cls) -> Self:
        """Read both clocks, keeping the tightest of several pairs so that their offset is good to about 1 µs."""
        best: tuple[int, int, int] | None = None
        for _ in range(9):
            before = time.perf_counter_ns()
            wall = time.time_ns()
            after = time.perf_counter_ns()
            if best is None or after - before < best[0]:
                best = (after - before, (before + after) // 2, wall)
        assert best is not None
        return cls(monotonic_ns=best[1], wall_ns=best[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One request, as instants and counts; every duration is derived from these by loadtest.metrics.

    t_* are integer nanoseconds on the monotonic clock since the file's anchor; None where the request did not get
    that far. Absent values are left out of the JSON line.
    """

    id: int  # ordinal in the plan
    level: int  # index of the level (grid cell)
    seed: int  # from which the prompt can be rebuilt
    dialect: str
    model: str
    outcome: Outcome
    t_sched: int  # when it should have been sent
    t_end: int  # when it was over, however it ended
    t_connect: int | None = None  # TCP (and TLS) ready, where a connection was opened for it
    t_send: int | None = None  # the request's last byte handed to the kernel
    send_us: int = 0  # between the stamps before and after that: t_send may be off by as much
    resent: int | None = None  # when it was sent once more, after a kept connection died without a byte of answer
    t_headers: int | None = None
    t_first_byte: int | None = None
    t_first_token: int | None = None  # first event with any text, reasoning included
    t_first_visible: int | None = None  # first event with answer text
    chunks: list[int] = dataclasses.field(default_factory=list)  # µs from t_send, one per content event
    reads: int = 0  # how many reads those content events came in
    stamped: int = 0  # how many reads carried a kernel stamp
    arrivals: int = 0  # reads in all: stamped == arrivals means that every stamp is the kernel's
    lag_us: int = 0  # client lag, worst of its reads
    lag_mean_us: int = 0
    late: int = 0  # reads whose client lag was above the stream's own median token gap
    late_tokens: int | None = None  # content events whose instant that spoilt; None: no late reads, or not counted
    late_gaps: int | None = None  # gaps between content events that begin or end with one of those
    first_coalesced: bool = False  # the first token shared its read with a later one
    asked: int | None = None  # output length asked for, tokens
    asked_input: int | None = None  # input length asked for, tokens
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    unsent_tokens: int = 0  # of output_tokens, those whose text was never sent: no decode speed can hold them
    token_source: str | None = None  # "server", "tiktoken" or "chunks"
    server: dict[str, Any] | None = None  # what the server said, under the server's own names
    server_us: list[int] | None = None  # created_at of each content event, µs from the first one's
    server_first: int | None = None  # the first one's wall time, ns
    status: int | None = None
    error: str | None = None
    notes: list[str] | None = None  # what was odd in the answer and spoils no figure
    doubts: list[str] | None = None  # what was odd in it and makes its level suspect
    finish_reason: str | None = None
    target: int = 0  # index into run.json's targets
    session: int | None = None  # which session of its level this was a turn of; None: a request by itself
    turn: int | None = None  # in that session, from 0
    row: str | None = None  # of the data file that the request came from
    warmup: bool = False
    new_conn: bool = False
    bytes: int = 0
    prompt: str | None = None  # only with --save-text
    answer: str | None = None  # only with --save-text

    @property
    def was_shed(self) -> bool:
        """Whether an open loop left the request unsent, for --max-in-flight others were in flight."""
        return self.outcome is Outcome.CANCELLED and (self.error or "").startswith(NOT_SENT)

    @property
    def sent_tokens(self) -> int:
        """Output tokens that the answer's text is of: those that a decode speed is over."""
        return (self.output_tokens or 0) - self.unsent_tokens

    def to_line(self) -> builtins.bytes:
        """Return the record as one JSON line, absent values left out."""
        found = {name: value for name in _RECORD_FIELDS if (value := getattr(self, name)) is not None}
        for name in _LEFT_OUT_AT_ZERO:
            if not found[name]:
                del found[name]
        return orjson.dumps(found) + b"\n"

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Build a Record from a parsed line; keys of a newer schema are ignored."""
        known = {name: row[name] for name in _RECORD_FIELDS if name in row}
        known["outcome"] = Outcome(known["outcome"])
        return cls(**known)


_RECORD_FIELDS = tuple(field.name for field in dataclasses.fields(Record))
_LEFT_OUT_AT_ZERO = ("target", "send_us", "unsent_tokens")


@dataclass(frozen=True, slots=True)
class FileHeader:
    """First line of a requests file: who wrote it, and the anchor of its instants."""

    schema: int
    worker: str
    host: str
    driver: str  # "asyncio" or "locust"
    monotonic_ns: int
    wall_ns: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> Self | None:
        """Take a parsed first line; None where it is no header."""
        texts, instants = ("worker", "host", "driver"), ("monotonic_ns", "wall_ns")
        if not all(isinstance(row.get(name), str) for name in texts):
            return None
        if not all(type(row.get(name)) is int and abs(row[name]) < MOST_ANCHOR_NS for name in instants):
            return None
        return cls(SCHEMA, *(row[name] for name in (*texts, *instants)))

    @property
    def clock(self) -> Clock:
        return Clock(self.monotonic_ns, self.wall_ns)


def newer(schema: object) -> bool:
    """Whether a file's schema is one that this version does not know."""
    return isinstance(schema, int) and schema > SCHEMA


def read_line(line: bytes) -> tuple[dict[str, Any] | None, bool]:
    """Return the object that a line holds, and whether something on the line could not be read.

    A write that a full disk cut off leaves half a line, and the next record stands right behind it. A crashed file system
    leaves NUL bytes. The object at the end of such a line is whole.
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


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a file of JSON lines, and how many of its lines could not be read.

    A last line without its end is still being written, or was cut off by a kill: it is left out and not counted. Raises
    RunFolderError where the file cannot be opened.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}.") from None
    found = [read_line(line) for line in body.split(b"\n")[:-1]]
    return [row for row, _ in found if row is not None], sum(damaged for _, damaged in found)
