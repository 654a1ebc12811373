"""One request on its way through an engine, and what every kind of engine answers to."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What the engine must know of a request: prompt tokens by identity, and when its answer ends.

    `limit` is num_predict; `natural` the text tokens after which the model would end by itself (its end token is
    counted as one more and carries no text), None for never.
    """

    id: int
    prompt: Sequence[Hashable]
    limit: int
    natural: int | None = None
    num_ctx: int = 4096
    load_only: bool = False


class Stage(Enum):
    """Where a stream is on its way."""

    PENDING = auto()  # at the scheduler: model loading, or to be loaded again
    HANDLING = auto()
    QUEUED = auto()  # all slots taken
    HANDOVER = auto()  # has a slot, not yet known to the batch loop
    READY = auto()  # waits for the batch in flight to end
    PREFILL = auto()
    DECODE = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Stream:
    """One request's life; instants in ns, None until reached."""

    request: EngineRequest
    arrived: int
    stage: Stage = Stage.PENDING
    scheduled: int | None = None  # handling over: load_duration ends
    slot_won: int | None = None
    prefill_start: int | None = None
    first: int | None = None
    last: int | None = None  # last token (the end token included)
    ended: int | None = None
    slot: int | None = None
    prompt_tokens: int = 0  # after cutting to the context
    cached: int = 0  # of these, found in the slot's cache
    todo: int = 0  # prompt tokens not yet evaluated
    tokens: int = 0  # made so far, the end token included
    reason: str | None = None  # "stop", "length", "load"; "cancelled" when the client went away
    burst: int = 0

    @property
    def load_ns(self) -> int:
        return (self.scheduled or self.arrived) - self.arrived

    @property
    def prefill_ns(self) -> int:
        """Prompt evaluation as Ollama reports it: first visited by the batch loop → first token."""
        return self.first - self.prefill_start if self.first is not None and self.prefill_start is not None else 0

    @property
    def decode_ns(self) -> int:
        """First token → last token: n − 1 intervals for n tokens."""
        return self.last - self.first if self.last is not None and self.first is not None else 0


class Emission(NamedTuple):
    """One stream's share of one batch: a token with text, the end, or both."""

    stream: Stream
    at: int  # the instant it was due, ns
    text: bool
    done: bool


class EngineProtocol(Protocol):
    """What the live server and the virtual runs drive: Engine, or Metronome."""

    def submit(self, request: EngineRequest, now: int) -> Stream: ...

    def cancel(self, stream: Stream, now: int) -> None: ...

    def due(self) -> int | None: ...

    def advance(self, now: int) -> list[Emission]: ...

    def pending(self) -> int: ...

    def loaded_ctx(self) -> int | None: ...

    def loading(self, now: int) -> tuple[int, float] | None: ...

    def unload(self) -> None: ...
