"""A run folder that is being written, read as it grows: every record once, the driver's samples as they are now."""

from __future__ import annotations

import contextlib
import math
import platform
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from loadtest.errors import RunFolderError
from loadtest.live import Figures
from loadtest.metrics import S_PER_NS
from loadtest.monitor.export import ClientState, RunState
from loadtest.records import Record
from loadtest.run_folder import RunFolder

READ_LIMIT_S = 0.5  # of reading an answer may cost; what is left is read for the next one
FRESH_S = 5.0  # the driver writes a sample a second; an older one is not of now
END_BYTES = 4096  # of a samples file: many lines


class Tail:
    """What the records of a run come to, level by level; may be asked by several threads."""

    def __init__(self, folder: Path, *, limit: float = READ_LIMIT_S) -> None:
        """`limit` is how long one `seen` may read, in seconds."""
        self._folder = RunFolder(folder.absolute())
        self._limit = limit
        self._files: dict[Path, _Requests] = {}
        self._levels: dict[int, Figures] = {}
        self._lock = threading.Lock()

    def seen(self) -> RunState:
        """Read on, and return what the run comes to; files that appear later are found, a cut last line is waited for."""
        with self._lock:
            self._read()
            facts = self._facts()
            return RunState(self._folder.name, facts, self._named(facts), self._client())

    def _read(self) -> None:
        for path in sorted(self._folder.path.glob("requests-*.jsonl")):
            self._files.setdefault(path, _Requests(path))
        deadline = time.monotonic() + self._limit
        left = len(self._files)
        for file in self._files.values():
            now = time.monotonic()
            for record in file.read(now + (deadline - now) / left):  # no file waits for the others to end
                self._levels.setdefault(record.level, Figures()).add(record, file.zero)
            left -= 1

    def _facts(self) -> dict[str, Any]:
        try:
            return self._folder.read_run()
        except (OSError, RunFolderError):
            return {}

    def _named(self, facts: dict[str, Any]) -> dict[str, Figures]:
        """Return the figures by the levels' labels; levels of one label are added up."""
        labels = {level["index"]: level["label"] for level in facts.get("levels") or () if level.get("label")}
        named: dict[str, Figures] = {}
        for index, figures in sorted(self._levels.items()):
            merged = Figures()  # a copy too: the answer is written while others read on
            merged.merge(figures)
            label = labels.get(index, f"level {index}")
            if label in named:
                merged.merge(named[label])
            named[label] = merged
        return named

    def _client(self) -> ClientState | None:
        now = [
            sample
            for path in self._folder.path.glob("samples-driver*.jsonl")
            if (sample := _latest_sample(path)) is not None
        ]
        if not now:
            return None
        return ClientState(
            decoding=sum(sample["decoding"] for sample in now),
            waiting=sum(sample["waiting"] for sample in now),
            loop_gap_s=max(sample["loop_gap_us"] for sample in now) * 1e-6,
            cpu_cores=math.fsum(sample["cpu"] for sample in now),
        )


class _Requests:
    """One requests file and how far it has been read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.zero = 0.0  # wall time in seconds that its t_* count from

    def read(self, deadline: float) -> Iterator[Record]:
        """Yield the records of the whole lines written since; at least one, then until `deadline` on the monotonic clock."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                header = self._offset == 0
                self._offset += len(line)
                # A broken line is not ours to judge: the report will say so.
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    row = orjson.loads(line)
                    if header:
                        self.zero = row["wall_ns"] * S_PER_NS
                    else:
                        yield Record.from_json(row)
                if time.monotonic() > deadline:
                    return


def _latest_sample(path: Path) -> dict[str, Any] | None:
    """Return the last sample of a file, None where it is not of now."""
    with path.open("rb") as file:
        first = file.readline()
        file.seek(max(file.seek(0, 2) - END_BYTES, len(first)))
        lines = [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]
    if not lines:
        return None
    try:
        header, sample = orjson.loads(first), orjson.loads(lines[-1])
    except orjson.JSONDecodeError:
        return None
    here = header["host"] == platform.node()
    now = time.perf_counter_ns() - header["monotonic_ns"] if here else time.time_ns() - header["wall_ns"]
    return sample if 0 <= now - sample["t"] <= FRESH_S / S_PER_NS else None
