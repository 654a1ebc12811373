"""What one measuring process keeps: its requests in flight, the work that waits, its records and samples."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from loadtest.errors import StorageError
from loadtest.measure.backlog import Backlog
from loadtest.measure.failure import failure_of
from loadtest.measure.request import Request
from loadtest.records import Record
from loadtest.run_folder import RecordWriter, SampleWriter
from loadtest.wire import now

logger = logging.getLogger(__name__)

OnRecord = Callable[[str, Record], object]  # given the request's name and its record, once that is on disk


class Ledger:
    """All requests of this process from release to record, for both drivers.

    A fault in one request costs that request alone. A fault of the disk ends the run: `broken` says why, and `on_broken`
    is told, once. `stops` are the exceptions with which the driver ends a request.
    """

    def __init__(
        self,
        backlog: Backlog,
        *,
        records: RecordWriter | None,
        samples: SampleWriter | None,
        stops: tuple[type[BaseException], ...],
        on_record: Iterable[OnRecord] = (),
        on_broken: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.backlog = backlog
        self.broken: str | None = None
        self.lost = 0  # records that could not be written
        self.peak = 0  # the most requests that were ever in flight
        # longest gap between polls, s, and CPU, cores, at the last sample
        self.client: tuple[float, float] | None = None
        self._records = records
        self._samples = samples
        self._stops = stops
        self._on_record = on_record
        self._on_broken = on_broken
        self._active: dict[Request, str] = {}
        self._looked = time.process_time_ns(), now()

    @property
    def in_flight(self) -> int:
        return len(self._active)

    @property
    def decoding(self) -> int:
        """How many of the requests in flight have their first token."""
        return sum(request.received.began for request in self._active)

    def by_name(self) -> dict[str, tuple[int, int]]:
        """Return what is in flight by name: how many are (decoding, waiting for their first token)."""
        found: dict[str, tuple[int, int]] = {}
        for request, name in self._active.items():
            decoding, waiting = found.get(name, (0, 0))
            began = request.received.began
            found[name] = decoding + began, waiting + (not began)
        return found

    @property
    def failure(self) -> str | None:
        """Return one sentence on why this process could not keep all it measured; None where it could."""
        if self.broken is None:
            return None
        lost = f"; {self.lost} record{'s were' if self.lost != 1 else ' was'} lost" if self.lost else ""
        return f"{self.broken}{lost}."

    def begin(self, request: Request, name: str = "") -> None:
        self._active[request] = name
        self.peak = max(self.peak, len(self._active))
        self.backlog.released(now())

    def end(self, request: Request, error: BaseException | None = None) -> None:
        """Take a request whose answer is over, or whose sending raised `error`."""
        self._active.pop(request, None)
        if error is not None:
            request.failure = failure_of(error, self._stops)

    def record(self, request: Request, name: str = "") -> Record:
        """Make the request's record, write it and tell the listeners; to be called once per request."""
        record = request.finish()
        if self._records is not None:
            try:
                self._records.write(record)
            except StorageError as error:
                self.lost += 1
                self._break(str(error))
        for listener in self._on_record:
            try:
                listener(name, record)
            except Exception:
                logger.exception("a listener failed over a record")
        return record

    def skip_cpu(self) -> None:
        """Leave the CPU used so far out of the next sample: nothing was measured meanwhile."""
        self._looked = time.process_time_ns(), now()

    def sample(self, level: int, loop_gap: int) -> None:
        """Write what this process sees of itself, once a second; `loop_gap` is the longest time between polls, ns."""
        (cpu, at), self._looked = self._looked, (time.process_time_ns(), now())
        cpu_now, t = self._looked
        used = round((cpu_now - cpu) / (t - at), 4)
        self.client = loop_gap // 1000 * 1e-6, used
        decoding, in_flight = self.decoding, self.in_flight
        if self._samples is None:
            return
        try:
            self._samples.write(
                {
                    "t": t - self._samples.clock.monotonic_ns,
                    "level": level,
                    "in_flight": in_flight,
                    "decoding": decoding,
                    "waiting": in_flight - decoding,
                    "loop_gap_us": loop_gap // 1000,
                    "cpu": used,
                }
            )
        except StorageError as error:
            self._break(str(error))
        if self._records is not None and self._records.removed:
            self._break(f"{self._records.path.parent} was removed while the run wrote to it")

    def _break(self, sentence: str) -> None:
        if self.broken is None:
            self.broken = sentence
            self._on_broken(sentence)
