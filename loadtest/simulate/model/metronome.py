"""A server without an engine, for benchmarks of clients: every stream sends tokens at its own phase.

The first token's time is drawn, then a token follows each step time, whatever other streams do. With timing.aligned each
token waits for the next instant of a common grid, so that the tokens of all streams come together.
"""

from __future__ import annotations

import heapq
import itertools
import random

from loadtest.simulate.model.prompts import token_count
from loadtest.simulate.model.stream import Emission, EngineRequest, Stage, Stream
from loadtest.simulate.model.timing import NS_PER_S, Timing


class Metronome:
    """An engine without slots, whose streams are independent. Needs timing.first_token_s; a step is timing.step of one stream."""

    def __init__(self, timing: Timing, *, seed: int = 0) -> None:
        if timing.first_token_s is None:
            raise ValueError("a metronome needs first_token_s")
        self._mean, self._deviation = timing.first_token_s
        self._step_ns = round(timing.step.values(1)[0] * NS_PER_S)
        self._grid_ns = self._step_ns if timing.aligned else 1
        self._random = random.Random(seed)
        self._ticks: list[tuple[int, int, Stream]] = []
        self._order = itertools.count()
        self.loaded: int | None = None  # the context length last asked for

    def submit(self, request: EngineRequest, now: int) -> Stream:
        """Start a stream at `now`, without waiting."""
        stream = Stream(request, now, Stage.PREFILL)
        stream.scheduled = stream.slot_won = stream.prefill_start = now
        stream.prompt_tokens = min(token_count(request.prompt), request.num_ctx)
        self.loaded = request.num_ctx
        wait = 0.0 if request.load_only else max(self._random.gauss(self._mean, self._deviation), 0.0)
        self._later(stream, now + round(wait * NS_PER_S))
        return stream

    def cancel(self, stream: Stream, now: int) -> None:
        if stream.stage is not Stage.ENDED:
            stream.stage, stream.ended, stream.reason = Stage.ENDED, now, "cancelled"

    def due(self) -> int | None:
        return self._ticks[0][0] if self._ticks else None

    def advance(self, now: int) -> list[Emission]:
        out: list[Emission] = []
        while self._ticks and self._ticks[0][0] <= now:
            at, _, stream = heapq.heappop(self._ticks)
            if stream.stage is Stage.ENDED:
                continue
            emission = self._tick(stream, at)
            out.append(emission)
            if not emission.done:
                self._later(stream, at + self._step_ns)
        return out

    def pending(self) -> int:
        return 0

    def loading(self, now: int) -> tuple[int, float] | None:  # noqa: ARG002 - the engine's signature
        return None

    def unload(self) -> None:
        self.loaded = None

    def _later(self, stream: Stream, at: int) -> None:
        heapq.heappush(self._ticks, (-(-at // self._grid_ns) * self._grid_ns, next(self._order), stream))

    def _tick(self, stream: Stream, at: int) -> Emission:
        if stream.request.load_only:
            stream.stage, stream.ended, stream.reason = Stage.ENDED, at, "load"
            return Emission(stream, at, text=False, done=True)
        token = stream.next_token(at)
        if token.done:
            stream.stage, stream.ended, stream.reason = Stage.ENDED, at, "length" if token.text else "stop"
        return token
