"""The beat of a monitor: each source is sampled on its own thread, at whole multiples of the interval from the start.

A source that fails spoils its own samples only. Its sentence is printed once and written as a gap; the source is tried again
at growing intervals, and nothing is written in between, for a zero would be false.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from loadtest.errors import LoadTestError, RunFolderError, StorageError
from loadtest.records import Clock
from loadtest.run_folder import SampleWriter
from loadtest.scenario import ConnectionKeys

LONGEST_RETRY_S = 30.0
PLAIN = ConnectionKeys()  # how a source reaches a server, unless told otherwise


class SourceError(LoadTestError):
    """A source cannot be sampled now. The text is the sentence for the user and for the gap."""


class SampledSource(Protocol):
    @property
    def name(self) -> str:
        """Names its file: samples-<name>.jsonl."""

    def open(self) -> dict[str, Any]:
        """Get ready and return facts that do not change while the source is open; raise SourceError. May be called again.

        The fact `note` is a sentence that the user should see.
        """

    def sample(self) -> dict[str, Any]:
        """Return the present values without unknown ones; raise SourceError."""

    def close(self) -> None:
        """Let go of everything; never raises."""


class Watch:
    """Watches one source: opens it, samples it on the beat, writes gaps and tries again."""

    def __init__(self, source: SampledSource, writer: SampleWriter, every: float, say: Callable[[str], None]) -> None:
        self._source = source
        self._writer = writer
        self._every = every
        self._say = say
        self._told: set[str] = set()
        self._open = False
        self._gap: str | None = None
        self._failures = 0

    def run(self, stop: threading.Event) -> None:
        """Sample until `stop` is set. A missed beat is left out, so that late samples do not come in a burst."""
        start = time.perf_counter()
        while not stop.is_set():
            hold = self.beat()
            beats = int((time.perf_counter() - start + hold) / self._every) + 1
            stop.wait(max(start + beats * self._every - time.perf_counter(), 0.0))
        self._source.close()
        self._writer.close()

    def beat(self) -> float:
        """Take one sample, or write a gap; return how many seconds to wait beyond the next beat."""
        before = time.perf_counter_ns()
        try:
            if not self._open:
                facts = self._source.open()
                self._open = True
                self._write(before, {"facts": facts})
                if note := facts.get("note"):
                    self._tell(note)
            values = self._source.sample()
        except SourceError as error:
            return self._failed(before, str(error))
        except Exception as error:  # noqa: BLE001 - a source's own fault must not end the other sources
            return self._failed(before, f"{self._source.name} cannot be sampled: {error!r}.")
        # The values were true at some instant between question and answer.
        self._write((before + time.perf_counter_ns()) // 2, values)
        self._gap, self._failures = None, 0
        return 0.0

    def _failed(self, at: int, sentence: str) -> float:
        if self._gap is None:
            self._write(at, {"gap": sentence})
        self._gap = sentence
        self._tell(sentence)
        if self._open:
            self._source.close()
            self._open = False
        self._failures += 1
        return min(float(self._every * (2 ** min(self._failures - 1, 20) - 1)), LONGEST_RETRY_S)

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._say(sentence)

    def _write(self, at: int, values: dict[str, Any]) -> None:
        """Write a sample, or leave it out where the disk is full."""
        try:
            self._writer.write({"t": at - self._writer.clock.monotonic_ns, **values})
        except StorageError as error:
            self._tell(f"{error}: samples are missing.")


def writer_for(folder: Path, source: str, every: float) -> SampleWriter:
    """Return a new samples file of `source`: samples-<source>.jsonl, or the next free number of it; RunFolderError."""
    clock = Clock.now()
    for number in range(1, 1000):
        path = folder / f"samples-{source}{f'-{number}' if number > 1 else ''}.jsonl"
        try:
            return SampleWriter(path, source=source, clock=clock, facts={"every": every})
        except FileExistsError:
            continue
        except StorageError as error:
            raise RunFolderError(f"{error}; choose another --out.") from None
    raise RunFolderError(f"{folder} already holds a thousand sample files of {source}; choose another --out.")


def watch_all(
    sources: Iterable[SampledSource], folder: Path, *, every: float, stop: threading.Event, say: Callable[[str], None]
) -> list[threading.Thread]:
    """Start a thread for each source, so that a slow one delays no other; they end when `stop` is set."""
    threads = []
    with contextlib.ExitStack() as undo:
        for source in sources:
            writer = writer_for(folder, source.name, every)
            undo.callback(writer.close)
            watch = Watch(source, writer, every, say)
            threads.append(threading.Thread(target=watch.run, args=(stop,), name=source.name, daemon=True))
        undo.pop_all()
    for thread in threads:
        thread.start()
    return threads
