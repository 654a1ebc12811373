"""What is known of a level while it runs, and what a person sees of it."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from loadtest import metrics
from loadtest.records import Outcome, Record
from loadtest.scenario import Level

# fields that Progress takes from Tally as they are
_OF_TALLY = ("level", "done", "failed", "planned", "released", "shed", "left", "textless")
_SUMMED = (  # what several processes say of the same level adds up
    *("done", "failed", "planned", "in_flight", "decoding", "released", "shed", "left"),
    *("tokens_per_s", "input_tokens_per_s"),
)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a person wants to see while a level runs."""

    level: Level
    levels: int  # 0 where it is not known how many there will be
    done: int
    failed: int
    planned: int  # 0 with a duration
    in_flight: int
    decoding: int
    ttfts: Sequence[float]  # s, of the last requests
    tokens_per_s: float
    elapsed: float  # s, in this level
    eta: float | None  # s, to the end of this level
    due: int | None = None  # open loop: requests that are due by now
    released: int = 0  # of those due, the ones that were sent or shed
    shed: int = 0  # of those released, the ones that --max-in-flight kept back
    left: int = 0  # users who hung up
    textless: bool = False  # answers have no text, as those of embeddings
    e2es: Sequence[float] = ()  # s, of the last answers without text
    input_tokens_per_s: float = 0.0  # of answers without text: tokens of the texts sent

    @property
    def e2e_p50(self) -> float | None:
        return statistics.median(self.e2es) if self.e2es else None

    @property
    def ttft_p50(self) -> float | None:
        return statistics.median(self.ttfts) if self.ttfts else None

    @property
    def waiting(self) -> int:
        """Requests without a content event yet."""
        return self.in_flight - self.decoding

    @property
    def behind(self) -> int:
        """Requests of an open loop that are due and still unsent."""
        return max((self.due or 0) - self.released, 0)

    @classmethod
    def together(cls, parts: Sequence[Self], *, levels: int) -> Self:
        """Add up what several processes say of the same level; at least one part."""
        etas = [part.eta for part in parts if part.eta is not None]
        return replace(
            parts[0],
            levels=levels,
            ttfts=[ttft for part in parts for ttft in part.ttfts],
            e2es=[e2e for part in parts for e2e in part.e2es],
            elapsed=max(part.elapsed for part in parts),
            eta=max(etas, default=None),
            due=None if parts[0].due is None else sum(part.due or 0 for part in parts),
            **{name: sum(getattr(part, name) for part in parts) for name in _SUMMED},
        )


@dataclass(slots=True)
class Tally:
    """What is known of a level while it runs."""

    level: Level
    planned: int
    started: int  # ns
    counted_from: int | None = None  # ns: release of the first request that is not warm-up
    schedule: Sequence[int] | None = None  # open loop: ns after counted_from
    textless: bool = False  # answers have no text, as those of embeddings
    released: int = 0  # of the schedule
    shed: int = 0
    left: int = 0  # users who hung up
    done: int = 0
    failed: int = 0
    given_up: str | None = None  # why the level was ended before its plan was
    output_tokens: int = 0
    ttfts: deque[float] = field(default_factory=lambda: deque(maxlen=400))
    input_tokens: int = 0  # of answers without text, as of embeddings
    e2es: deque[float] = field(default_factory=lambda: deque(maxlen=400))

    def add(self, record: Record) -> None:
        self.done += 1
        self.failed += record.failed
        self.left += record.outcome is Outcome.LEFT
        self.output_tokens += record.output_tokens or 0
        if record.t_first_token is not None and not record.warmup:
            self.ttfts.append(metrics.ttft(record.t_first_token, record.t_send))
        if record.output_tokens is None and record.outcome is Outcome.OK and record.t_send is not None:
            self.input_tokens += record.prompt_tokens or 0
            self.e2es.append(metrics.e2e(record.t_end, record.t_send))

    def count_from(self, t: int) -> bool:
        """Take the release of a counted request, perhaps another process's first; return whether it is the first heard of."""
        first = self.counted_from is None
        self.counted_from = min(t, self.counted_from or t)
        return first

    def over(self, t: int, duration: float | None) -> bool:
        """Whether a level of this duration, seconds, has had its time."""
        if duration is None or self.counted_from is None:
            return False
        return t >= self.counted_from + int(duration * metrics.NS_PER_S)

    def progress(self, t: int, *, levels: int, in_flight: int, decoding: int, duration: float | None) -> Progress:
        """Say where the level stands at `t`, monotonic ns; `duration` of a closed loop by time, seconds."""
        elapsed = (t - self.started) * metrics.S_PER_NS
        counted = (t - (self.counted_from or t)) * metrics.S_PER_NS
        eta: float | None = None
        if self.schedule is not None:
            eta = max(0.0, self.schedule[-1] * metrics.S_PER_NS - counted) if self.schedule else 0.0
        elif duration is not None:
            eta = max(0.0, duration - counted)
        elif self.done:
            eta = max(0.0, elapsed / self.done * (self.planned - self.done))  # people end their conversations
        return Progress(
            **{name: getattr(self, name) for name in _OF_TALLY},
            levels=levels,
            in_flight=in_flight,
            decoding=decoding,
            ttfts=tuple(self.ttfts),
            tokens_per_s=self.output_tokens / elapsed if elapsed > 0 else 0.0,
            elapsed=elapsed,
            eta=eta,
            due=self._due(t),
            e2es=tuple(self.e2es),
            input_tokens_per_s=self.input_tokens / elapsed if elapsed > 0 else 0.0,
        )

    def _due(self, t: int) -> int | None:
        if self.schedule is None:
            return None
        return 0 if self.counted_from is None else bisect_right(self.schedule, t - self.counted_from)


@dataclass(frozen=True, slots=True)
class LevelSpan:
    """When a level ran, ns since the run's anchor."""

    level: Level
    started_ns: int
    ended_ns: int
    given_up: str | None = None  # why it was ended before its plan was
