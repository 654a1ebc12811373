"""What every wire format gives: a request's path and body, and a decoder from body bytes to events. No I/O here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from loadtest.metrics import NS_PER_S
from loadtest.text import join_text
from loadtest.workloads.synthetic import Job


@dataclass(slots=True)
class Events:
    """The content events of one answer, column by column, one entry an event: text that the user could see or hear of."""

    texts: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # offset in the body behind each: which read it came with
    hidden: set[int] = field(default_factory=set)  # which are no answer text: reasoning, thinking, tool calls
    created: list[int | None] = field(default_factory=list)  # the server's own stamps, wall clock, ns; OpenAI has none

    def add(self, text: str, end: int, *, hidden: bool = False) -> None:
        """Take one event that the body completed at `end`."""
        if hidden:
            self.hidden.add(len(self.texts))
        self.texts.append(text)
        self.ends.append(end)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def first_visible(self) -> int | None:
        """Which event is the first of the answer's text, None where there is none."""
        return next((i for i in range(len(self.texts)) if i not in self.hidden), None)

    @property
    def answer(self) -> str:
        """The answer's text, as far as it came, fit to be encoded."""
        return join_text(text for i, text in enumerate(self.texts) if i not in self.hidden)

    @property
    def said(self) -> str:
        """All that the model wrote, reasoning included, fit to be encoded."""
        return join_text(self.texts)

    def cut(self, length: int) -> None:
        """Keep the first `length` events."""
        for column in (self.texts, self.ends, self.created):
            del column[length:]
        self.hidden = {i for i in self.hidden if i < length}

    def check_stamps(self, *, unknown: bool, sent: bool) -> str | None:
        """Drop the server's stamps unless every event has one and they are instants in order; say what is odd.

        `unknown` says that some event has none, `sent` that the server sent some. Afterwards `created` holds integers only, as many as there are events, or nothing.
        """
        stamps = self.created
        if not stamps:
            return None
        odd = None
        if unknown or len(stamps) != len(self.texts):
            odd = "not every piece of the answer carries an instant of the server's: its stamps are unknown"
        elif sorted(stamps) != stamps:  # type: ignore[type-var]  # no None is among them
            odd = "the server's instants go backwards: its stamps are unknown"
        elif len(stamps) > 1 and not any(stamp % NS_PER_S for stamp in stamps):  # type: ignore[operator]
            odd = "the server's instants are of join_text seconds: its stamps are unknown"
        if odd is not None:
            stamps.clear()
        return odd if sent else None


@dataclass(slots=True)
class Ending:
    """What a stream said besides content."""

    done: bool = False  # done:true, finish_reason: the answer is join_text
    finish_reason: str | None = None
    error: str | None = None  # an error object in the stream, or why its bytes do not decode; one sentence
    hint: str | None = None  # why it may have ended without done, e.g. the repeat guard; one sentence
    prompt_tokens: int | None = None  # the server's counts
    output_tokens: int | None = None
    unsent_tokens: int = 0  # those of them whose text was never sent: hidden reasoning
    server: dict[str, Any] = field(default_factory=dict)  # under the server's own names
    notes: list[str] = field(default_factory=list)  # what is odd in the answer and spoils no figure, a sentence each
    doubts: list[str] = field(default_factory=list)  # what is odd and makes its level suspect, a sentence each


class End(StrEnum):
    """What a line of a body says of the answer's end."""

    MARK = "mark"  # nothing of the answer follows: done:true, [DONE]
    FINISH = "finish"  # the text is over: a finish_reason; counts and a mark may follow


@dataclass(frozen=True, slots=True)
class EndMarks:
    """How a wire format says that an answer is over, for whoever reads bytes and decodes nothing.

    A line that ends an answer holds one of the `needles`, and so may any other line: `read` says which.
    """

    needles: tuple[bytes, ...] = ()
    read: Callable[[bytes], End | None] = lambda line: None  # noqa: ARG005 - given one join_text line without its newline


class Decoder(Protocol):
    """Turns body bytes, cut anywhere, into events; one per answer."""

    @property
    def events(self) -> Events:
        """What came so far; join_text once the decoder is closed."""
        ...

    def feed(self, data: bytes) -> None:
        """Take body bytes; never raises on bad ones (see Ending.error)."""
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

    @property
    def ends(self) -> EndMarks: ...

    def encode(self, job: Job) -> tuple[str, bytes]:
        """Return the path below the base URL, and the JSON body."""
        ...

    def decoder(self) -> Decoder: ...
