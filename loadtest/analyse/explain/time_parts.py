"""What an explanation consists of: the parts of a request's time, and the requests that caused them."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEAST_S = 0.001  # a cause that took less is not named

# Parts of the time to the first token, in the order in which they are told.
CLIENT, CONNECT, RESENT, HANDLING, MODEL_LOAD, TURN = "client", "connect", "resent", "handling", "load", "turn"
BEHIND = "behind_later_ones"
CONNECTION_WAIT = "connection_wait"
SLOT, WAIT, PROMPTS, SILENT, STEP = "slot_wait", "wait", "others_prompts", "silent", "step"
PAUSE = "pause"  # of the decode as well
REREAD, OWN, SLOW, REST = "reread", "own_prompt", "slower", "unexplained"
QUEUE = "queue"  # how a request that is over caused a wait: the queue is from its time
# Parts of the time from the first token to the last.
STEPS, SHARED, STALL = "own_steps", "shared_steps", "stalled_by_prompts"


@dataclass(frozen=True, slots=True)
class Cause:
    """A request that caused some of a part."""

    row: int
    id: int
    seconds: float
    tokens: int | None  # of its prompt
    how: str  # SLOT, PROMPTS, SILENT, MODEL_LOAD, REREAD or QUEUE
    held_s: float  # how long it was at work itself
    output: int | None = None  # its output tokens, where it ended well
    over: float = math.inf  # when it was over, on the run's axis


@dataclass(frozen=True, slots=True)
class TimePart:
    """Some of a request's time, and whose doing it was, the greatest cause first."""

    name: str
    seconds: float
    causes: tuple[Cause, ...] = ()
    inferred: bool = False  # from slots, order and the run's law of prompts, not from the server's durations
    tokens: int | None = None  # of the request's own prompt, where the part is reading it
    streams: int | None = None  # how many decoded beside it
    ahead: int = 0  # of a slot wait: how many others were waiting already


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a request's time; those to the first token add up to `total_s`, those after it to `decode_s`."""

    total_s: float  # from when it was due to its first token, or to its end where none came
    first: tuple[TimePart, ...]
    decode_s: float
    decode: tuple[TimePart, ...]
    lost: LostCache | None = None

    def share(self, *names: str) -> float:
        """Return the share of the time to the first token that these parts take."""
        return sum(part.seconds for part in self.first if part.name in names) / self.total_s if self.total_s else 0.0


@dataclass(frozen=True, slots=True)
class LostCache:
    """Prompt tokens that the server had read before and read again."""

    tokens: int
    of: int  # that it had
    before: Cause  # the request that had left them in the cache
    # requests whose prompts were read in between, in slots that held another conversation; the longest first
    since: tuple[Cause, ...]
    # the first of that chain: requests that found nothing of their own in the cache, or that took the others' place there
    newcomers: tuple[Cause, ...]
