"""Live figures of all processes, added up on the master without loss of precision.

A Board holds figures by request name and by second. A worker hands its figures over as a delta, the master's board takes
deltas in and turns all into rows for tables and points for the live chart. That is plain arithmetic; `listen_to` connects
this process's one `board` to Locust.
"""

from __future__ import annotations

import math
import time
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self

import gevent
from locust.env import Environment
from locust.event import Events
from locust.runners import MasterRunner, Runner, WorkerRunner

from loadtest import dialects, metrics
from loadtest.live import Figures
from loadtest.records import Record
from loadtest.users.processes import recording
from loadtest.users.processes.messages import RESET
from loadtest.users.processes.recording import InFlight

TOTAL_ROW = "Aggregated"  # Locust's own name for the row of all requests
HISTORY_S = 900  # how far back the live chart goes
SMOOTHED_S = 5  # a point's TTFT is the median over this many seconds up to it
RECENT_S = 120  # the longest decode within this many seconds bounds how long tokens may still be unknown
MISSING_S = 10.0  # a worker that has not reported for this long holds no streams; Locust workers report every 3 s


@dataclass(slots=True)
class Second:
    """One second of the wall clock: what arrived in it, and what was in flight at its end."""

    tokens: float = 0.0
    ttft: array[float] = field(default_factory=lambda: array("f"))  # s, of first tokens that arrived in it
    decoding: int = 0
    waiting: int = 0
    longest: float = 0.0  # s, the longest decode of a stream whose last token arrived in it

    def merge(self, other: Second) -> None:
        self.tokens += other.tokens
        self.ttft += other.ttft
        self.decoding += other.decoding
        self.waiting += other.waiting
        self.longest = max(self.longest, other.longest)

    def to_json(self) -> list[Any]:
        return [self.tokens, self.ttft.tolist(), self.decoding, self.waiting, self.longest]

    @classmethod
    def from_json(cls, row: list[Any]) -> Self:
        return cls(row[0], array("f", row[1]), *row[2:])


@dataclass(slots=True)
class WorkerReport:
    live: InFlight
    client: tuple[float, float] | None  # see recording.client_load
    upto: int  # the last second that it sampled
    heard: float  # when, on our monotonic clock


class Board:
    """Figures by request name, and what happened second by second.

    A master, or a process alone, shows its board (`rows`, `history`); a worker reports it (`take_delta`). `live` returns
    what this process has in flight now, by name; `client` its own loop gap and CPU use. `generation` counts the resets: a
    report that was on its way during a reset has the old number, and is dropped.
    """

    def __init__(
        self, live: Callable[[], InFlight] = dict, client: Callable[[], tuple[float, float] | None] = lambda: None
    ) -> None:
        self.live, self.client = live, client
        self.generation: int | None = None
        self.reset()

    def reset(self, generation: int | None = None) -> None:
        self.generation = generation
        self._workers: dict[str, WorkerReport] = {}
        self._figures: defaultdict[str, Figures] = defaultdict(Figures)
        self._seconds: defaultdict[int, Second] = defaultdict(Second)
        self._points: dict[int, dict[str, Any]] = {}
        self._upto: int | None = None

    def add(self, name: str, record: Record, zero: float) -> None:
        """Count a finished request of this process; `zero` is the wall time in seconds at which the record's t_* are 0."""
        self._figures[name].add(record, zero)
        self._figures[name].textless += not dialects.has_text(record.dialect)
        if record.t_send is None or record.t_first_token is None or not record.chunks:
            return
        sent = zero + record.t_send * metrics.S_PER_NS
        first, last = sent + record.chunks[0] * 1e-6, sent + record.chunks[-1] * 1e-6
        each = (record.output_tokens or len(record.chunks)) / len(record.chunks)
        before = 0
        for second in range(int(first), int(last) + 1):
            upto = bisect_left(record.chunks, (second + 1 - sent) * 1e6, before)
            self._second(second).tokens += (upto - before) * each
            before = upto
        self._second(int(first)).ttft.append(metrics.ttft(record.t_first_token, record.t_send))
        ended = self._second(int(last))
        ended.longest = max(ended.longest, last - first)

    def overrule(self, name: str, outcome: str, *, failed: bool) -> None:
        """Let the test's own code decide on a measured request that was added before."""
        self._figures[name].overrule(outcome, failed=failed)

    def sample(self, now: float) -> None:
        """Note what is in flight; called at least once a second, with the wall time in seconds."""
        second = int(now) - 1  # the one that is over
        decoding, waiting = recording.total_in_flight(self.live())
        for one in range(self._upto + 1 if self._upto is not None else second, second + 1)[-HISTORY_S:]:
            self._second(one).decoding += decoding  # a late sampler fills in the seconds that it missed
            self._second(one).waiting += waiting
        self._upto = max(second, self._upto or 0)
        self._forget()

    def take_delta(self) -> dict[str, Any]:
        """Hand over all figures as plain JSON, and forget them."""
        delta = {
            "generation": self.generation,
            "names": {name: figures.to_json() for name, figures in self._figures.items()},
            "seconds": {str(second): one.to_json() for second, one in self._seconds.items()},
            "live": self.live(),
            "client": self.client(),
            "upto": self._upto,
        }
        self._figures.clear()
        self._seconds.clear()
        return delta

    def merge(self, delta: dict[str, Any], worker: str) -> None:
        """Add a worker's delta; one from before the last reset is dropped."""
        if delta["generation"] not in (None, self.generation):
            return
        if delta["upto"] is not None:
            self._workers[worker] = WorkerReport(delta["live"], delta["client"], delta["upto"], time.monotonic())
        for name, figures in delta["names"].items():
            self._figures[name].merge(Figures.from_json(figures))
        for second, one in delta["seconds"].items():
            self._second(int(second)).merge(Second.from_json(one))
        self._forget()

    def figures(self) -> dict[str, Figures]:
        """Return the figures by name; they go on changing."""
        return dict(self._figures)

    def clients(self) -> list[tuple[float, float]]:
        """Return (loop gap, CPU cores) of each process with users, as recording.client_load gives them."""
        every = (self.client(), *(worker.client for worker in self._present()))
        return [one for one in every if one is not None]

    def total(self, *, of_text: bool = False) -> Figures:
        """Return the figures of all requests together; `of_text` leaves out names whose answers are none, as embeddings."""
        total = Figures()
        for figures in self._figures.values():
            if figures.has_text or not of_text:
                total.merge(figures)
        return total

    def in_flight(self) -> InFlight:
        """Return what is in flight now in this process and its workers, by name."""
        found: dict[str, tuple[int, int]] = {}
        for live in (self.live(), *(worker.live for worker in self._present())):
            for name, (decoding, waiting) in live.items():
                before = found.get(name, (0, 0))
                found[name] = before[0] + decoding, before[1] + waiting
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Return a flat row of plain values for each name, and one for all together (TOTAL_ROW) last; see Figures.row."""
        flying = self.in_flight()
        names = sorted({*self._figures, *flying})  # a name whose first requests are in flight has no figures yet
        rows = [self._figures.get(name, Figures()).row(name, flying.get(name, (0, 0))) for name in names]
        return [*rows, self.total().row(TOTAL_ROW, recording.total_in_flight(flying))]

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return one point for each second, at most HISTORY_S of them, oldest first.

        A point is {t: wall time in s, ttft_p50: s, over SMOOTHED_S seconds, tokens_per_s, decoding, waiting}. A token
        counts in the second in which it arrived, which is known once its stream has ended. So while streams are decoding,
        tokens_per_s is None in the latest seconds, as many as the longest recent decode took.
        """
        end = self._end()
        if end is None or not self._seconds:
            return []
        recent = [one for second, one in self._seconds.items() if end - RECENT_S < second]
        decoding, _ = recording.total_in_flight(self.in_flight())
        complete = end - math.ceil(max((one.longest for one in recent), default=0.0)) if decoding else end
        first = max(min(self._seconds), end - HISTORY_S + 1)
        points = [self._point(second) for second in range(first, end + 1)]
        return [point if point["t"] <= complete else {**point, "tokens_per_s": None} for point in points]

    def _point(self, second: int) -> dict[str, Any]:
        point = self._points.get(second)
        if point is None:
            ttft = array("f")
            for near in range(second - SMOOTHED_S + 1, second + 1):
                if near in self._seconds:
                    ttft += self._seconds[near].ttft
            one = self._seconds.get(second) or Second()
            point = {
                "t": second,
                "ttft_p50": median(ttft) if ttft else None,
                "tokens_per_s": one.tokens,
                "decoding": one.decoding,
                "waiting": one.waiting,
            }
            self._points[second] = point
        return point

    def _second(self, second: int) -> Second:
        """Return a second to change, and drop the points that were made from it."""
        for later in range(second, second + SMOOTHED_S):
            self._points.pop(later, None)
        return self._seconds[second]

    def _forget(self) -> None:
        for second in sorted(self._seconds)[: -HISTORY_S - SMOOTHED_S]:
            del self._seconds[second]
            self._points.pop(second, None)

    def _present(self) -> list[WorkerReport]:
        now = time.monotonic()
        return [worker for worker in self._workers.values() if now - worker.heard < MISSING_S]

    def _end(self) -> int | None:
        """Return the last second that all present processes have reported."""
        if present := [worker.upto for worker in self._present()]:
            return min(present)
        return max((worker.upto for worker in self._workers.values()), default=self._upto)


board = Board(recording.live, recording.client_load)


def listen_to(events: Events) -> None:
    """Connect `board` to Locust: each test resets it, workers report it, the master merges it. To be called once."""
    recording.record_listeners.append(_count_record)
    events.init.add_listener(_connect_board)  # type: ignore[no-untyped-call]


def _count_record(name: str, record: Record) -> None:
    recorder = recording.current_test.recorder
    assert recorder is not None  # it is where the record comes from
    board.add(name, record, recorder.clock.wall_ns * metrics.S_PER_NS)


def _overrule(name: str, context: dict[str, Any] | None = None, exception: Exception | None = None, **_: Any) -> None:
    """Follow the test's own code (catch_response) on whether a request failed; its record was counted before."""
    if context and "dialect" in context and not context["warmup"]:
        board.overrule(name, context["outcome"], failed=exception is not None)


def _connect_board(environment: Environment, runner: Runner | None, **_: Any) -> None:
    if runner is None:  # run_single_user
        return
    events: Any = environment.events  # untyped in Locust, as is gevent
    events.request.add_listener(_overrule)
    runner.register_message(RESET, lambda msg, **_: board.reset(msg.data["generation"]))
    if isinstance(runner, WorkerRunner):
        events.report_to_master.add_listener(lambda data, **_: data.update(loadtest=board.take_delta()))
    else:
        events.test_start.add_listener(lambda **_: _reset(runner))
        events.reset_stats.add_listener(lambda **_: _reset(runner))
        events.spawning_complete.add_listener(lambda **_: _reset(runner) if environment.reset_stats else None)
    if isinstance(runner, MasterRunner):
        events.worker_report.add_listener(_merge)
        return
    sampler: list[gevent.Greenlet[[], None]] = []
    events.test_start.add_listener(lambda **_: sampler.append(gevent.spawn(_sample_each_second)))
    events.test_stop.add_listener(lambda **_: gevent.killall([sampler.pop() for _ in list(sampler)], block=False))


def _reset(runner: Runner) -> None:
    generation = (board.generation or 0) + 1
    board.reset(generation)
    runner.send_message(RESET, {"generation": generation})


def _merge(client_id: str, data: dict[str, Any], **_: Any) -> None:
    if "loadtest" in data:
        board.merge(data["loadtest"], client_id)


def _sample_each_second() -> None:
    while True:
        gevent.sleep(1.0 - time.time() % 1.0)
        board.sample(time.time())
