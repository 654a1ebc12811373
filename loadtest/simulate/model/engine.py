"""A batching model server without a clock of its own: slots, queue, batches, prefix cache and model load.

The live simulated server and all predictions use this model. Instants are integer nanoseconds on the caller's clock; `due`
says when something happens next, and `advance` makes it happen. The way of a request:

    submit → (model load) → handling → slot queue → slot won → handover → next batch: prefill → tokens → done

Where prompts are evaluated beside the batches, or streams have a clock each (timing.prefill_way, own_clocks), a prompt or a
token ends at an instant of its own.

All randomness comes from `seed`, so that equal calls give equal results.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadtest.simulate.model.prefix_cache import HostCache, PrefixCache, Slot
from loadtest.simulate.model.prompts import token_count
from loadtest.simulate.model.stream import Emission, EngineRequest, Stage, Stream
from loadtest.simulate.model.timing import BEFORE, BESIDE, NS_PER_S, Timing, pass_sizes

# requests closer together than this are one burst; requests 15 ms apart were seen to start in order
BURST_NS = 10_000_000
STRETCH = 50  # steps that are taken in the order observed, on average
APART_S = 1e-6  # by this much later than another, a stream misses that one's batch

_WORKING = frozenset({Stage.PREFILL, Stage.DECODE})
_HOLDS_SLOT = frozenset({Stage.HANDOVER, Stage.READY, Stage.PREFILL, Stage.DECODE})


@dataclass(slots=True)
class _Batch:
    end: int
    decoding: list[Stream]
    prompts: list[tuple[Stream, int]] = field(default_factory=list)  # each with the number of its tokens in the batch


class Engine:
    """The batching server. `slots` None: no limit (vLLM-like, and then no prefix cache).

    `host` keeps copies of slots in host memory; what that means, and what `scatter` does, prefix_cache.py says.
    """

    def __init__(
        self,
        timing: Timing,
        *,
        slots: int | None,
        seed: int = 0,
        lifo: bool = False,
        loaded: int | None = None,
        scatter: bool = False,
        host: HostCache | None = None,
    ) -> None:
        self.timing = timing
        self._limit = slots
        self._lifo = lifo
        self._random = random.Random(seed)
        self.loaded = loaded  # context length of the loaded model; None while there is none
        self._load_end: int | None = None
        self._load_ctx = 0
        self._timed: list[tuple[int, int, Stream]] = []  # HANDLING and HANDOVER, by the instant they end
        self._order = itertools.count()
        self._pending: deque[Stream] = deque()
        self._queue: deque[Stream] = deque()
        self._ready: list[Stream] = []
        self._cache = PrefixCache([Slot() for _ in range(slots or 0)], host, self._random, scatter)
        self._active: list[Stream] = []
        self._batch: _Batch | None = None
        self._granted = -1  # when a slot was last given to a stream
        self._handover = 0.0  # how long that stream's handover took, s
        self._pause = 0.0  # that the batch loop makes before the next batch
        self._tickets = 0  # slots in use, as counted in front of the batch loop
        self._held = 0  # tokens of prompts and answers of the streams that have slots
        self._alive = 0  # streams that have passed the scheduler and not ended
        self._burst, self._last_arrival = 0, -BURST_NS
        self._step_values: dict[int, tuple[float, ...]] = {}
        self._step_places: dict[int, int] = {}  # by streams: which of the values was drawn last
        self._ended = False  # whether a stream has ended since the last batch began
        self._out: list[Emission] = []

    def submit(self, request: EngineRequest, now: int) -> Stream:
        """Take a request at `now`, up to which the caller has advanced."""
        stream = Stream(request, now)
        self._burst += now - self._last_arrival > BURST_NS
        stream.burst, self._last_arrival = self._burst, now
        stream.prompt_tokens = min(token_count(request.prompt), request.num_ctx)
        self._pending.append(stream)
        self._schedule(now)
        return stream

    def cancel(self, stream: Stream, now: int) -> None:
        """Drop a stream whose client is gone: its place in the queue is freed at once, its slot after the batch."""
        if stream.stage is Stage.ENDED:
            return
        for stage, waiting in ((Stage.PENDING, self._pending), (Stage.QUEUED, self._queue), (Stage.READY, self._ready)):
            if stream.stage is stage:
                waiting.remove(stream)
        self._end(stream, now, "cancelled")

    def due(self) -> int | None:
        """Return the next instant at which something happens, ns; None when all is done."""
        due = self._load_end
        if self._batch is not None and (due is None or self._batch.end < due):
            due = self._batch.end
        if self._timed and (due is None or self._timed[0][0] < due):
            due = self._timed[0][0]
        return due

    def advance(self, now: int) -> list[Emission]:
        """Let everything happen that is due by `now`; return tokens and ends in order."""
        while (at := self.due()) is not None and at <= now:
            self._turn(at)
        out, self._out = self._out, []
        return out

    def pending(self) -> int:
        """Return how many requests wait at the scheduler, of which OLLAMA_MAX_QUEUE allows so many."""
        return len(self._pending)

    def loading(self, now: int) -> tuple[int, float] | None:
        """Return the context length of a model that is being loaded and the share that is loaded; None where none is."""
        whole = round(self.timing.load_s * NS_PER_S)
        if self._load_end is None or not whole:
            return None
        return self._load_ctx, min(max(1 - (self._load_end - now) / whole, 0.0), 1.0)

    def unload(self) -> None:
        """Drop the model if no request runs on it; the next request loads it again."""
        if self._alive == 0 and self._load_end is None:
            self.loaded = None

    # -- one instant ------------------------------------------------------------------------------------------------

    def _turn(self, at: int) -> None:
        if self._load_end == at:
            self._load_end, self.loaded = None, self._load_ctx
            self._schedule(at)
        while self._timed and self._timed[0][0] <= at:
            stream = heapq.heappop(self._timed)[2]
            if stream.stage is Stage.HANDLING:
                self._enqueue(stream, at)
            elif stream.stage is Stage.HANDOVER:
                self._make_ready(stream)
            elif stream.stage in _WORKING:
                stream.todo = 0  # beside the batches a prompt is evaluated as a whole
                self._token(stream, at)
                if self.timing.own_clocks and stream.stage is Stage.DECODE:
                    self._later(stream, Stage.DECODE, at, self._jittered(self._draw(self._tickets)))
        if self._batch is not None and self._batch.end == at:
            self._finish_batch(self._batch)
        if self._batch is None:
            self._start_batch(at)

    def _schedule(self, now: int) -> None:
        """Pass pending requests on while they suit the loaded model; if one does not and all is idle, start to load the one asked for."""
        while self._pending and self._load_end is None:
            stream = self._pending[0]
            if stream.request.num_ctx != self.loaded:
                if self._alive == 0:
                    self.loaded, self._load_ctx = None, stream.request.num_ctx
                    self._load_end = now + round(self.timing.load_s * NS_PER_S)
                    self._cache.clear()
                return
            self._pending.popleft()
            self._alive += 1
            self._later(stream, Stage.HANDLING, now, self.timing.handling_s)

    def _later(self, stream: Stream, stage: Stage, now: int, seconds: float) -> None:
        stream.stage = stage
        at = now + round(seconds * NS_PER_S)
        if self.timing.aligned and stage in _WORKING:
            grid = round(self._draw(1) * NS_PER_S)
            at = -(-at // grid) * grid
        heapq.heappush(self._timed, (at, next(self._order), stream))

    def _enqueue(self, stream: Stream, at: int) -> None:
        stream.scheduled = at
        if stream.request.load_only:
            self._end(stream, at, "load")
            self._out.append(Emission(stream, at, text=False, done=True))
            return
        stream.stage = Stage.QUEUED
        place = len(self._queue)
        while self._lifo and place and self._queue[place - 1].burst == stream.burst:
            place -= 1
        self._queue.insert(place, stream)
        self._grant(at)

    def _grant(self, at: int, *, ended: bool = False, beside: bool = False) -> None:
        """Give free slots to queued streams; `ended`: at a batch's end, `beside`: while other streams decode on."""
        timing = self.timing
        while self._queue and self._room(self._queue[0]):
            stream = self._queue.popleft()
            self._tickets += 1
            self._held += _tokens_held(stream)
            stream.slot_won = at
            handover = self._handed_over(at, ended=ended, beside=beside)
            if timing.apart and not beside and self._granted == at and self._random.random() < timing.apart:
                handover += APART_S
            self._granted = at
            if handover > 0:
                self._later(stream, Stage.HANDOVER, at, handover)
            else:
                self._make_ready(stream)

    def _handed_over(self, at: int, *, ended: bool, beside: bool) -> float:
        """Return how long after `at` the batch loop sees a stream that got a slot then: it sees all of these at once."""
        if self._granted != at:
            timing = self.timing
            self._handover = self._random.choice(timing.handovers) if timing.handovers else timing.handover_s
            caught = bool(beside and timing.caught and self._random.random() < timing.caught)
            if caught or (ended and not beside and timing.relays):
                self._handover = 0.0
                self._pause = self._random.choice(timing.relays) if timing.relays else 0.0
        return self._handover

    def _room(self, stream: Stream) -> bool:
        if self._limit is not None and self._tickets >= self._limit:
            return False
        most = self.timing.kv_tokens
        return most is None or not self._tickets or self._held + _tokens_held(stream) <= most

    def _make_ready(self, stream: Stream) -> None:
        stream.stage = Stage.READY
        self._ready.append(stream)

    def _end(self, stream: Stream, at: int, reason: str) -> None:
        stage, stream.stage, stream.ended, stream.reason = stream.stage, Stage.ENDED, at, reason
        self._alive -= stage is not Stage.PENDING
        self._ended = True
        if stage in _HOLDS_SLOT:
            self._tickets -= 1
            self._held -= _tokens_held(stream)
            if self._batch is None or self._batch.end != at:
                self._grant(at)
        self._schedule(at)

    # -- batches ----------------------------------------------------------------------------------------------------

    def _start_batch(self, at: int) -> None:
        if self._ended:
            self._ended = False
            self._active = [stream for stream in self._active if stream.stage is not Stage.ENDED]
            self._cache.release(at)
        if self._pause:
            at, self._pause = at + round(self._pause * NS_PER_S), 0.0
        while self._ready and self._assign(self._ready[0], at):
            stream = self._ready.pop(0)
            if self._beside:
                self._later(stream, Stage.PREFILL, at, self._prompt_alone(stream))
            if not self.timing.own_clocks:
                self._active.append(stream)
        if not self._active:
            return
        decoding = [stream for stream in self._active if stream.stage is Stage.DECODE]
        prompts: list[tuple[Stream, int]] = []
        if len(decoding) < len(self._active) and not self._beside:
            room = None if self.timing.n_batch is None else max(self.timing.n_batch - len(decoding), 1)
            prompts = list(_batch_prompts(self._active, room))
        if prompts and self.timing.prefill_way == BEFORE:
            decoding = []
        if not decoding and not prompts:
            return
        seconds = self._jittered(self._batch_seconds(decoding, prompts))
        self._batch = _Batch(at + max(round(seconds * NS_PER_S), 1), decoding, prompts)

    @property
    def _beside(self) -> bool:
        return self.timing.own_clocks or self.timing.prefill_way == BESIDE

    def _prompt_alone(self, stream: Stream) -> float:
        """Return how long a prompt takes that is evaluated beside everything else."""
        timing = self.timing
        seconds = timing.prompt_s + self._prompt_seconds(stream, stream.todo) + timing.beside_s * (self._tickets - 1)
        seconds *= self._prompt_factor()
        return seconds if timing.own_clocks else max(seconds, self._draw(1))

    def _prompt_seconds(self, stream: Stream, tokens: int) -> float:
        """Return how long the next `tokens` of a stream's prompt take."""
        timing = self.timing
        seconds = tokens * timing.prefill_s
        if timing.context_prefill_s:
            seconds += timing.context_prefill_s * tokens * (stream.prompt_tokens - stream.todo + tokens / 2)
        return seconds

    def _prompt_factor(self) -> float:
        timing = self.timing
        if timing.prompt_factors:
            return self._random.choice(timing.prompt_factors)
        return max(self._random.gauss(1.0, timing.prompt_jitter), 0.1) if timing.prompt_jitter else 1.0

    def _jittered(self, seconds: float) -> float:
        if self.timing.jitter:
            seconds *= max(self._random.gauss(1.0, self.timing.jitter), 0.1)
        return seconds

    def _assign(self, stream: Stream, at: int) -> bool:
        """Give a ready stream a slot and reuse what that slot has cached; False when no slot is idle."""
        if self._limit is not None and not self._cache.give(stream):
            return False
        stream.todo = stream.prompt_tokens - stream.cached
        stream.stage, stream.prefill_start = Stage.PREFILL, at
        return True

    def _batch_seconds(self, decoding: list[Stream], prompts: list[tuple[Stream, int]]) -> float:
        alone = self._step(decoding)
        if self.timing.context_s and decoding:
            held = sum(stream.prompt_tokens + stream.tokens for stream in decoding)
            alone += self.timing.context_s * held
        if not prompts:
            return alone
        timing = self.timing
        evaluated = sum(self._prompt_seconds(stream, tokens) for stream, tokens in prompts)
        if timing.prompt_s or timing.restore_s:
            new = [stream for stream, _ in prompts if stream.todo == stream.prompt_tokens - stream.cached]
            evaluated += len(new) * timing.prompt_s + sum(stream.restored for stream in new) * timing.restore_s
        evaluated *= self._prompt_factor()
        return max(alone + evaluated, self._draw(len(decoding) + len(prompts)))

    def _step(self, decoding: list[Stream]) -> float:
        if not self.timing.neighbours:
            return self._draw(len(decoding))
        slots = tuple(stream.slot for stream in decoding if stream.slot is not None)
        return sum(map(self._draw, _pass_sizes(slots))) if slots else self._draw(len(decoding))

    def _draw(self, streams: int) -> float:
        values = self._step_values.get(streams)
        if values is None:
            values = self._step_values[streams] = self.timing.step.values(streams)
        if len(values) == 1:
            return values[0]
        if not self.timing.step.in_order:
            return self._random.choice(values)
        place = self._step_places.get(streams)
        stays = place is not None and self._random.random() * STRETCH >= 1
        place = (place + 1) % len(values) if stays and place is not None else self._random.randrange(len(values))
        self._step_places[streams] = place
        return values[place]

    def _finish_batch(self, batch: _Batch) -> None:
        for stream in batch.decoding:
            self._token(stream, batch.end)
        for stream, tokens in batch.prompts:
            stream.todo -= tokens
            if stream.todo == 0:
                self._token(stream, batch.end)
        self._batch = None
        if self._queue:  # only now is it known whether others decode on beside the streams that get the freed slots
            beside = any(stream.stage in _WORKING for stream in self._active)
            self._grant(batch.end, ended=True, beside=beside)

    def _token(self, stream: Stream, at: int) -> None:
        if stream.stage is Stage.ENDED:  # cancelled while the batch ran
            return
        token = stream.next_token(at)
        self._out.append(token)
        if token.done:
            self._end(stream, at, "length" if token.text else "stop")


_pass_sizes = functools.lru_cache(4096)(pass_sizes)  # the same slots decode together for many steps


def _tokens_held(stream: Stream) -> int:
    """Return how many tokens a stream will hold in the end."""
    request = stream.request
    return stream.prompt_tokens + (request.limit if request.natural is None else min(request.natural, request.limit))


def _batch_prompts(active: Iterable[Stream], room: int | None) -> Iterable[tuple[Stream, int]]:
    """Yield each prompt in prefill with the number of its tokens in the batch, in order of arrival, `room` in all."""
    for stream in active:
        if stream.stage is not Stage.PREFILL:
            continue
        if room is None:
            yield stream, stream.todo
        elif room > 0:
            tokens = min(stream.todo, room)
            room -= tokens
            yield stream, tokens
