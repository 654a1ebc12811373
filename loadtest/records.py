"""The one thing that both halves share: a Record per request, and the folder that a run leaves on disk.

Measuring writes, analysing reads, and nothing passes between them but these files:

    run.json            what was run, against what, from where (RunFolder.write_run)
    requests-*.jsonl    a header line, then one Record a line; one file per measuring process (RecordWriter)
    samples-*.jsonl     what monitors and the driver itself saw over time (SampleWriter)
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Self

import orjson

from loadtest.credentials import scrubber
from loadtest.errors import RunFolderError, StorageError

SCHEMA = 1
RESERVE = 1 << 18  # bytes kept for run.json: on a full disk it can still say how the run ended
MOST_STARTS = 16  # of objects that are looked for on a line which does not parse
MOST_NS = 1 << 62  # of an instant: a difference of two still fits 64 bits
NOT_SENT = "not sent"  # how the error of a request begins that was shed: cancelled before it was sent, by its plan
TRIED_BYTES = 1 << 16  # written to see whether a run's folder can be


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
        found = {name: value for name in _FIELDS if (value := getattr(self, name)) is not None}
        for name in _LEFT_OUT_AT_ZERO:
            if not found[name]:
                del found[name]
        return orjson.dumps(found) + b"\n"

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Self:
        """Build a Record from a parsed line; keys of a newer schema are ignored."""
        known = {name: row[name] for name in _FIELDS if name in row}
        known["outcome"] = Outcome(known["outcome"])
        return cls(**known)


_FIELDS = tuple(field.name for field in dataclasses.fields(Record))
_LEFT_OUT_AT_ZERO = ("target", "send_us", "unsent_tokens")


@dataclass(frozen=True, slots=True)
class Header:
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
        if not all(type(row.get(name)) is int and abs(row[name]) < MOST_NS for name in instants):
            return None
        return cls(SCHEMA, *(row[name] for name in (*texts, *instants)))

    @property
    def clock(self) -> Clock:
        return Clock(self.monotonic_ns, self.wall_ns)


class LineFile:
    """A new file of JSON lines, each of them whole or not there at all, whatever becomes of the disk."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Make the file and write its first line; raise StorageError, or FileExistsError where the name is taken."""
        self.path = path
        self._end = 0  # of the last whole line
        self._scrub = scrubber()
        try:
            self._file: IO[bytes] = path.open("xb", buffering=0)
        except FileExistsError:
            raise
        except OSError as error:
            raise _storage_error(path, error) from None
        self.append(orjson.dumps(header) + b"\n")

    @property
    def removed(self) -> bool:
        """Whether no folder holds the file any more: what is written to it is lost when it is closed."""
        return os.fstat(self._file.fileno()).st_nlink == 0

    def append(self, line: bytes) -> None:
        """Write one line, with one write unless that stops short; where it fails, cut the file back and raise StorageError."""
        line = self._scrub(line)
        rest = memoryview(line)
        try:
            while rest:  # a disk with room for a part of the line takes that, and says at the next write what is wrong
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
                self._file.seek(self._end)
            raise _storage_error(self.path, error) from None
        self._end += len(line)

    def close(self) -> None:
        self._file.close()


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write {path}: {(error.strerror or str(error)).lower()}")


class RecordWriter(LineFile):
    """Appends Records to one requests file: one line and one write a record, so that a crash costs at most a line."""

    def __init__(self, path: Path, *, worker: str, driver: str, clock: Clock) -> None:
        self.clock = clock
        header = Header(SCHEMA, worker, platform.node(), driver, clock.monotonic_ns, clock.wall_ns)
        super().__init__(path, dataclasses.asdict(header))

    def write(self, record: Record) -> None:
        """Append a record; raise StorageError where it cannot be kept."""
        self.append(record.to_line())


class SampleWriter(LineFile):
    """Appends samples ({"t": ns since the anchor, ...}) to one samples file, as RecordWriter does records."""

    def __init__(self, path: Path, *, source: str, clock: Clock, facts: dict[str, Any] | None = None) -> None:
        self.clock = clock
        anchor = {"monotonic_ns": clock.monotonic_ns, "wall_ns": clock.wall_ns}
        super().__init__(path, {"schema": SCHEMA, "source": source, "host": platform.node(), **anchor, **(facts or {})})

    def write(self, sample: dict[str, Any]) -> None:
        """Append a sample; raise StorageError where it cannot be kept."""
        self.append(orjson.dumps(sample) + b"\n")


class RunFolder:
    """A run on disk. Made with `create` by whoever measures, opened with `open` by whoever reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raise RunFolderError when `path` holds a run, is no folder or cannot be written to; leave nothing behind."""
        if path.absolute() == Path(path.absolute().anchor):
            raise RunFolderError(f"{path} is the root of the file system; choose another --out.")
        try:
            if path.exists() and not path.is_dir():
                raise RunFolderError(f"{path} is a file, not a folder; choose another --out.")
            if path.is_dir() and ((path / "run.json").exists() or any(path.glob("requests-*.jsonl"))):
                raise RunFolderError(f"{path} already holds a run; choose another --out or remove it.")
            if path.is_symlink() and not path.exists():
                raise RunFolderError(f"{path} is a link that leads to no folder; choose another --out.")
            nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
            if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
                raise RunFolderError(f"cannot write to {nearest}; choose another --out.")
            _try(path.absolute(), nearest)
        except (OSError, ValueError) as error:  # ValueError: a NUL byte, or what is no text
            why = getattr(error, "strerror", None) or "its name is no path"
            shown = ascii(str(path))[1:-1]
            shown = shown if len(shown) <= 200 else f"{shown[:80]}… ({len(shown)} characters)"
            raise RunFolderError(f"cannot write to {shown}: {why}; choose another --out.") from None

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the folder (parents too); raise RunFolderError when it cannot be, or already holds a run."""
        cls.check_free(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "run.json.partial").write_bytes(b"")
        except OSError as error:
            raise RunFolderError(f"cannot write to {path}: {error.strerror}; choose another --out.") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder that holds a run, be it records alone; raise RunFolderError when it does not."""
        try:
            known = (path / "run.json").is_file() or any(path.glob("requests-*.jsonl"))
        except OSError as error:
            raise RunFolderError(f"cannot read {path}: {error.strerror}.") from None
        if not known:
            raise RunFolderError(f"{path} is not a run folder: it has no run.json.")
        return cls(path)

    @property
    def name(self) -> str:
        return self.path.name

    def write_run(self, facts: dict[str, Any]) -> None:
        """Write run.json whole or not at all, at the start and, with how the run ended, again; raise StorageError.

        It is written over a file that was made beforehand, so that a disk that filled up meanwhile has room for it.
        """
        body = orjson.dumps({"schema": SCHEMA, **facts}, option=orjson.OPT_INDENT_2)
        partial = self.path / "run.json.partial"
        try:
            with partial.open("r+b" if partial.exists() else "xb") as file:
                file.write(scrubber()(body) + b"\n")
                file.truncate()
            partial.replace(self.path / "run.json")
        except OSError as error:
            raise _storage_error(self.path / "run.json", error) from None
        if facts.get("state") == "running":
            self._reserve()

    def _reserve(self) -> None:
        """Keep room on the disk for the next run.json."""
        with suppress(OSError), (self.path / "run.json.partial").open("xb") as file:
            file.write(bytes(RESERVE))

    def read_run(self) -> dict[str, Any]:
        """Return run.json; raise RunFolderError when it cannot be read, does not parse or is of a newer schema."""
        try:
            facts = orjson.loads((self.path / "run.json").read_bytes())
        except orjson.JSONDecodeError:
            raise RunFolderError(f"{self.path / 'run.json'} does not parse as JSON.") from None
        except OSError as error:
            raise RunFolderError(f"cannot read {self.path / 'run.json'}: {error.strerror}.") from None
        if not isinstance(facts, dict):
            raise RunFolderError(f"{self.path / 'run.json'} is not a JSON object.")
        _check_schema(self.path, facts)
        return facts

    def record_writer(self, clock: Clock, *, worker: str = "0", driver: str = "asyncio") -> RecordWriter:
        return RecordWriter(self.path / f"requests-{worker}.jsonl", worker=worker, driver=driver, clock=clock)

    def sample_writer(self, clock: Clock, *, source: str) -> SampleWriter:
        return SampleWriter(self.path / f"samples-{source}.jsonl", source=source, clock=clock)

    def requests(self) -> Iterator[tuple[Header, list[dict[str, Any]]]]:
        """Yield every requests file as (header, parsed lines); lines that cannot be read are left out.

        Raises RunFolderError for a file whose first line is no header, or of a newer schema.
        """
        for path in sorted(self.path.glob("requests-*.jsonl")):
            rows, _ = read_lines(path)
            if rows:
                _check_schema(path, rows[0])
                header = Header.of(rows[0])
                if header is None:
                    raise RunFolderError(f"the first line of {path} is no header.")
                yield header, rows[1:]

    def records(self) -> Iterator[Record]:
        """Yield every Record of every file, in the order written; an id that came before, or no record, is left out."""
        seen: set[int] = set()
        for _, rows in self.requests():
            for row in rows:
                try:
                    record = Record.from_json(row)
                    again = record.id in seen
                except (KeyError, TypeError, ValueError):
                    continue
                if not again:
                    seen.add(record.id)
                    yield record

    def samples(self, source: str) -> list[dict[str, Any]]:
        """Return the samples of one source (header first), empty where there are none that can be read."""
        path = self.path / f"samples-{source}.jsonl"
        return read_lines(path)[0] if path.is_file() else []


def newer(schema: object) -> bool:
    """Whether a file's schema is one that this version does not know."""
    return isinstance(schema, int) and schema > SCHEMA


def _try(path: Path, nearest: Path) -> None:
    """Make the folder below `nearest`, which is there, write a file of 64 KiB and remove all of it: a full disk shows."""
    made = [folder for folder in (path, *path.parents) if nearest in folder.parents]  # the deepest first
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".loadtest-", buffering=0) as file:
            left = TRIED_BYTES
            while left:  # a write that the disk has not all the room for is short; the next one says why
                left -= file.write(bytes(left))
    finally:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _check_schema(path: Path, facts: dict[str, Any]) -> None:
    if newer(schema := facts.get("schema")):
        raise RunFolderError(f"{path} was written by a newer loadtest (schema {schema}); update.")


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
