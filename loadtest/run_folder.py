"""The folder of a run on disk: its files are written and read here."""

from __future__ import annotations

import codecs
import dataclasses
import datetime
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

import orjson

from loadtest.credentials import scrubber
from loadtest.errors import RunFolderError, StorageError, os_error_as
from loadtest.records import SCHEMA, Clock, FileHeader, Record, newer, read_lines

RESERVED_BYTES = 1 << 18  # kept for run.json, which says on a full disk as well how the run ended
_TAKEN = ("run.json", "run.json.partial", "requests-*.jsonl")  # what a run has made in its folder
TRIED_BYTES = 1 << 16  # written on trial, to find a full disk before the run begins


def utc_now() -> str:
    """Return the time of day as files say it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def write_whole(path: Path, body: bytes) -> Path:
    """Write a file whole or not at all; a device or a pipe, which a new file would take the place of, is written to as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(body)
        return path
    with opened_whole(path) as file:
        file.write(body)
    return path


@contextmanager
def opened_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `path` at the end, and leaves nothing behind where something fails."""
    target = path.resolve()  # a link goes on leading to the file
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")  # two reports at once must not share one
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(target)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(target)  # a failed write names none
        raise


class LineFile:
    """A new file of JSON lines; a line is written whole or, where the disk fails, not at all."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Create the file and write its header line; raise StorageError, or FileExistsError where the name is taken."""
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
        """Whether the file was deleted, so that what is written to it is lost."""
        return os.fstat(self._file.fileno()).st_nlink == 0

    def append(self, line: bytes) -> None:
        """Write one line; where that fails, cut the file back to its last whole line and raise StorageError."""
        line = self._scrub(line)
        rest = memoryview(line)
        try:
            while rest:  # a disk that fills up takes part of the line, and the next write says why
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
    """Appends Records to a requests file with one write each, so that a crash loses at most one line."""

    def __init__(
        self, path: Path, *, worker: str, driver: str, clock: Clock, simulated: dict[str, Any] | None = None
    ) -> None:
        self.clock = clock
        header = FileHeader(SCHEMA, worker, platform.node(), driver, clock.monotonic_ns, clock.wall_ns, simulated)
        super().__init__(path, {key: value for key, value in dataclasses.asdict(header).items() if value is not None})

    def write(self, record: Record) -> None:
        self.append(record.to_line())


class SampleWriter(LineFile):
    """Appends samples ({"t": ns since the anchor, ...}) to a samples file, with one write each."""

    def __init__(self, path: Path, *, source: str, clock: Clock, facts: dict[str, Any] | None = None) -> None:
        self.clock = clock
        anchor = {"monotonic_ns": clock.monotonic_ns, "wall_ns": clock.wall_ns}
        super().__init__(path, {"schema": SCHEMA, "source": source, "host": platform.node(), **anchor, **(facts or {})})

    def write(self, sample: dict[str, Any]) -> None:
        self.append(orjson.dumps(sample) + b"\n")


def default_folder(name: str) -> Path:
    """Return runs/<time>-<name>, relative to the working directory."""
    safe = "".join(char if char.isalnum() or char in "-_." else "-" for char in name)
    return Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{safe}"


class NoFactsError(RunFolderError):
    """There is no run.json that can be read; records may still be."""


class RunFolder:
    """A run on disk: `create` makes one to measure into, `open` opens one to read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def check_free(cls, path: Path) -> None:
        """Raise RunFolderError where `path` holds a run, is not a folder or cannot be written to; leave nothing behind."""
        if path.parts and path.parts[0].startswith("~"):
            raise RunFolderError(
                f"{path} begins with ~, which the shell left as it is; write $HOME, or --out and a blank before it."
            )
        # Every sentence on the folder would print them.
        if any(char < " " or char == "\x7f" for char in str(path).replace("\0", "")):
            raise RunFolderError(f"{str(path)!a} holds a control character; choose another --out.")
        check_writable(path)  # finds as well that the working directory is gone, without which nothing is absolute
        if path.absolute() == Path(path.absolute().anchor):
            raise RunFolderError(f"{path} is the root of the file system; choose another --out.")
        if path.is_dir() and any(next(path.glob(sign), None) for sign in _TAKEN):
            raise _taken(path)

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create the folder and its parents; raise RunFolderError where that fails or it already holds a run."""
        cls.check_free(path)
        with os_error_as(RunFolderError, f"cannot write to {path}", "; choose another --out"):
            path.mkdir(parents=True, exist_ok=True)
            try:
                (path / "run.json.partial").open("xb").close()
            except FileExistsError:  # another run has taken the folder since it was looked at
                raise _taken(path) from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder with run.json or requests files; raise RunFolderError where it has neither."""
        with os_error_as(RunFolderError, f"cannot read {path}"):
            known = (path / "run.json").is_file() or any(path.glob("requests-*.jsonl"))
        if not known:
            raise RunFolderError(f"{path} is not a run folder: {_why_none(path)}.")
        return cls(path)

    def write_run(self, facts: dict[str, Any]) -> None:
        """Write run.json, whole or not at all; raise StorageError.

        It is written at the start, and again at the end with how the run ended. It is written over a file that was reserved
        before, so that there is room for it on a disk that has filled up meanwhile.
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
            with suppress(OSError), partial.open("xb") as file:  # room on the disk for the next run.json
                file.write(bytes(RESERVED_BYTES))

    def read_run(self) -> dict[str, Any]:
        """Return run.json; raise RunFolderError where it cannot be opened or has a newer schema, NoFactsError where it says nothing."""
        path = self.path / "run.json"
        try:
            facts = orjson.loads(path.read_bytes().removeprefix(codecs.BOM_UTF8))
        except FileNotFoundError:
            raise NoFactsError(f"{path} is missing.") from None
        except orjson.JSONDecodeError:
            raise NoFactsError(f"{path} does not parse as JSON.") from None
        except OSError as error:
            raise RunFolderError(f"cannot read {path}: {error.strerror}.") from None
        if not isinstance(facts, dict):
            raise NoFactsError(f"{path} is not a JSON object.")
        _check_schema(self.path, facts)
        return facts

    def digest(self) -> str:
        """Return the SHA-256 of what was measured: run.json and every requests file, by name; raise RunFolderError."""
        found = hashlib.sha256()
        for path in sorted([*self.path.glob("run.json"), *self.path.glob("requests-*.jsonl")]):
            with os_error_as(RunFolderError, f"cannot read {path}"), path.open("rb") as file:
                found.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return found.hexdigest()

    def record_writer(
        self, clock: Clock, *, worker: str = "0", driver: str = "asyncio", simulated: dict[str, Any] | None = None
    ) -> RecordWriter:
        path = self.path / f"requests-{worker}.jsonl"
        return RecordWriter(path, worker=worker, driver=driver, clock=clock, simulated=simulated)

    def write_probe(self, records: Iterable[Record], clock: Clock) -> None:
        """Write the records of the slot probe, which are of level -1 and no part of the run, into probe-slots.jsonl."""
        writer = RecordWriter(self.path / "probe-slots.jsonl", worker="probe", driver="asyncio", clock=clock)
        for record in records:
            writer.write(record)
        writer.close()

    def sample_writer(self, clock: Clock, *, source: str) -> SampleWriter:
        return SampleWriter(self.path / f"samples-{source}.jsonl", source=source, clock=clock)

    def requests(self) -> Iterator[tuple[FileHeader, list[dict[str, Any]]]]:
        """Yield the header and the parsed lines of every requests file; lines that cannot be read are left out.

        Raises RunFolderError for a file without a header, or of a newer schema.
        """
        for path in sorted(self.path.glob("requests-*.jsonl")):
            rows, _ = read_lines(path)
            if rows:
                _check_schema(path, rows[0])
                header = FileHeader.of(rows[0])
                if header is None:
                    raise RunFolderError(f"the first line of {path} is no header.")
                yield header, rows[1:]

    def records(self) -> Iterator[Record]:
        """Yield every Record of every file in the order written; lines that are no record are left out."""
        for _, rows in self.requests():
            for row in rows:
                try:
                    record = Record.from_json(row)
                except (KeyError, TypeError, ValueError):
                    continue
                yield record


def _taken(path: Path) -> RunFolderError:
    return RunFolderError(f"{path} already holds a run; choose another --out or remove it.")


def _why_none(path: Path) -> str:
    """Say why a path is no run folder, and what to give instead where that is known."""
    if path.is_dir():
        inside = sorted(each.parent for each in path.glob("*/run.json"))
        no_run = "it has no run.json; give a folder that `loadtest run` made"
        return f"it holds some; give one of them, such as {inside[0]}" if inside else no_run
    if not path.exists():
        return "there is nothing of that name; `loadtest ls` lists the runs"
    if (path.parent / "run.json").is_file():
        return f"it is a file of one; give the folder, {path.parent}"
    return "it is a file; unpack it where it holds a run, and give the folder"


def check_writable(path: Path, option: str = "--out") -> None:
    """Raise RunFolderError where `path` is no folder, or cannot be made or written into; leave nothing behind."""
    try:
        if path.exists() and not path.is_dir():
            raise RunFolderError(f"{path} is a file, not a folder; choose another {option}.")
        if path.is_symlink() and not path.exists():
            raise RunFolderError(f"{path} is a link that leads to no folder; choose another {option}.")
        nearest = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise RunFolderError(f"cannot write to {nearest}; choose another {option}.")
        _try(path.absolute(), nearest)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte, or what is no text
        why = getattr(error, "strerror", None) or "its name is no path"
        shown = ascii(str(path))[1:-1]
        shown = shown if len(shown) <= 200 else f"{shown[:80]}… ({len(shown)} characters)"
        raise RunFolderError(f"cannot write to {shown}: {why}; choose another {option}.") from None


def check_file_writable(path: Path, option: str = "--out") -> None:
    """Raise RunFolderError where the file, or the folder that is to hold it, cannot be written; leave nothing behind."""
    if path.is_dir():
        raise RunFolderError(f"{path} is a folder; name a file with {option}.")
    check_writable(path.absolute().parent, option)


def _try(path: Path, nearest: Path) -> None:
    """Create the folder below `nearest`, which exists, write 64 KiB into it and remove everything: finds a full disk."""
    made = [folder for folder in (path, *path.parents) if nearest in folder.parents]  # the deepest first
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".loadtest-", buffering=0) as file:
            left = TRIED_BYTES
            while left:  # a disk that fills up takes part of it, and the next write says why
                left -= file.write(bytes(left))
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def _check_schema(path: Path, facts: dict[str, Any]) -> None:
    if newer(schema := facts.get("schema")):
        raise RunFolderError(f"{path} was written by a newer loadtest (schema {schema}); update.")
