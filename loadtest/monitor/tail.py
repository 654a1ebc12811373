"""A run folder that is read while it is written: each record once, and the driver's latest samples."""

from __future__ import annotations

import contextlib
import math
import platform
import threading
import time
from collections import defaultdict
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

READ_LIMIT_S = 0.5  # that one answer may spend on reading; what is left is read for the next answer
FRESH_S = 5.0  # the driver writes a sample every second; an older one than this is out of date
END_BYTES = 4096  # of a samples file: many lines


class Tail:
    """Figures of a run's records, level by level; several threads may ask."""

    def __init__(self, folder: Path, *, limit: float = READ_LIMIT_S) -> None:
        """`limit` is how long one `seen` may read, in seconds."""
        self._folder = RunFolder(folder.absolute())
        self._limit = limit
        self._files: dict[Path, _Requests] = {}
        self._levels: defaultdict[int, Figures] = defaultdict(Figures)
        self._lock = threading.Lock()

    def seen(self) -> RunState:
        """Read on and return the run's state; later files are found, and a last line is read once it is complete."""
        with self._lock:
            self._read()
            facts = self._facts()
            return RunState(self._folder.path.name, facts, self._named(facts), self._client())

    def _read(self) -> None:
        for path in sorted(self._folder.path.glob("requests-*.jsonl")):
            self._files.setdefault(path, _Requests(path))
        deadline = time.monotonic() + self._limit
        left = len(self._files)
        for file in self._files.values():
            now = time.monotonic()
            for record in file.read(now + (deadline - now) / left):  # each file gets its share of the time
                self._levels[record.level].add(record, file.zero)
            left -= 1

    def _facts(self) -> dict[str, Any]:
        try:
            return self._folder.read_run()
        except (OSError, RunFolderError):
            return {}

    def _named(self, facts: dict[str, Any]) -> dict[str, Figures]:
        """Return figures by the levels' labels; levels with the same label are added up."""
        labels = {level["index"]: level["label"] for level in facts.get("levels") or () if level.get("label")}
        named: dict[str, Figures] = {}
        for index, figures in sorted(self._levels.items()):
            merged = Figures()  # a copy, for other threads read on while the answer is written
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
    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.zero = 0.0  # wall time in seconds that its t_* count from

    def read(self, deadline: float) -> Iterator[Record]:
        """Yield the records of complete lines written since: at least one, and more until `deadline`, a monotonic instant."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                header = self._offset == 0
                self._offset += len(line)
                # The report names broken lines.
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    row = orjson.loads(line)
                    if header:
                        self.zero = row["wall_ns"] * S_PER_NS
                    else:
                        yield Record.from_json(row)
                if time.monotonic() > deadline:
                    return


def _latest_sample(path: Path) -> dict[str, Any] | None:
    """Return the last sample of a file, None where it is out of date."""
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
