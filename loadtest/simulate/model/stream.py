"""One request on its way through an engine, and what every kind of engine answers to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from loadtest.simulate.model.prompts import AnswerTokens, Prompt


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What an engine has to know of a request: its prompt, equal where tokens are equal, and its answer's length.

    `limit` is num_predict; `natural` is after how many text tokens the model would end by itself, None for never. The end
    token counts as one more token, and carries no text. `answer` gives the answer's tokens, so that a later prompt that
    holds them finds them cached; None where no prompt ever will.
    """

    id: int
    prompt: Prompt
    limit: int
    natural: int | None = None
    num_ctx: int = 4096
    load_only: bool = False
    answer: AnswerTokens | None = None


class Stage(Enum):
    PENDING = auto()  # at the scheduler: the model is loading, or has to be loaded again
    HANDLING = auto()
    QUEUED = auto()  # waits for a slot
    HANDOVER = auto()  # has a slot, of which the batch loop does not know yet
    READY = auto()  # waits for the present batch to end
    PREFILL = auto()
    DECODE = auto()
    ENDED = auto()


@dataclass(slots=True, eq=False)
class Stream:
    """One request on its way; instants in ns, None until reached."""

    request: EngineRequest
    arrived: int
    stage: Stage = Stage.PENDING
    scheduled: int | None = None  # the end of handling and of load_duration
    slot_won: int | None = None
    prefill_start: int | None = None
    first: int | None = None
    last: int | None = None  # the latest token, the end token too
    ended: int | None = None
    slot: int | None = None
    prompt_tokens: int = 0  # after cutting to the context
    cached: int = 0  # of these, how many the slot's cache held
    restored: int = 0  # tokens that came back from the host cache for it
    todo: int = 0  # prompt tokens not yet evaluated
    tokens: int = 0  # made so far, the end token too
    reason: str | None = None  # "stop", "length", "load"; "cancelled" when the client went away
    burst: int = 0

    @property
    def load_ns(self) -> int:
        return (self.scheduled or self.arrived) - self.arrived

    @property
    def prefill_ns(self) -> int:
        """Prompt evaluation as Ollama reports it: from the batch loop's first visit to the first token."""
        return self.first - self.prefill_start if self.first is not None and self.prefill_start is not None else 0

    @property
    def decode_ns(self) -> int:
        """From the first token to the last: n − 1 intervals for n tokens."""
        return self.last - self.first if self.last is not None and self.first is not None else 0

    def next_token(self, at: int) -> Emission:
        """Make one more token; the caller ends the stream where that was its last."""
        self.stage, self.last, self.tokens = Stage.DECODE, at, self.tokens + 1
        if self.first is None:
            self.first = at
        by_itself = self.request.natural is not None and self.tokens > self.request.natural
        return Emission(self, at, not by_itself, by_itself or self.tokens >= self.request.limit)


class Emission(NamedTuple):
    """What one batch brings one stream: a token with text, the end, or both."""

    stream: Stream
    at: int  # when it was due, ns
    text: bool
    done: bool
