"""What every wire format gives: a request's path and body, and a decoder from body bytes to events. No I/O here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from loadtest.measure.workload import Job


class Event(NamedTuple):
    """One content event of a stream: text that the user could see or hear of."""

    text: str
    end: int  # offset in the body behind the bytes that completed it: which read it came with
    visible: bool = True  # False: reasoning, thinking, tool calls
    created: int | None = None  # the server's own stamp (Ollama's created_at), wall clock, ns


@dataclass(slots=True)
class Ending:
    """What a stream said besides content, complete once the decoder is closed."""

    done: bool = False  # done:true, finish_reason: the answer is whole
    finish_reason: str | None = None
    error: str | None = None  # an error object in the stream, or why its bytes do not decode; one sentence
    hint: str | None = None  # why it may have ended without done, e.g. the repeat guard; one sentence
    last: list[Event] = field(default_factory=list)  # content that only the end completed (no newline after it)
    prompt_tokens: int | None = None  # the server's counts
    output_tokens: int | None = None
    server: dict[str, Any] = field(default_factory=dict)  # under the server's own names


class Decoder(Protocol):
    """Turns body bytes, cut anywhere, into events; one per answer."""

    def feed(self, data: bytes) -> list[Event]:
        """Return the content events that `data` completes; never raises on bad bytes (see Ending.error)."""
        ...

    def close(self) -> Ending:
        """Take the end of the body (a last line may lack its newline) and say how the stream ended."""
        ...


class Dialect(Protocol):
    """One wire format, bound to a model and its options."""

    @property
    def name(self) -> str:
        """ollama-chat, ollama-generate, openai-chat or openai-completions."""
        ...

    @property
    def model(self) -> str: ...

    def encode(self, job: Job) -> tuple[str, bytes]:
        """Return the path below the base URL, and the JSON body."""
        ...

    def decoder(self) -> Decoder: ...
