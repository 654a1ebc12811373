"""One cell of a scenario's grid."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.text import counted, rated


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One cell of the grid: what is put on the server at once, and for how many requests."""

    index: int
    concurrency: int | None  # None in an open loop
    input_tokens: int | None = None  # None where a literal prompt decides
    output_tokens: int | None = None  # None where the model decides
    words: int | None = None  # what {words} in a literal prompt stands for
    requests: int  # in all, without warm-up; 0 where the duration decides
    rate: float | None = None  # requests/s, at the start where rate_to differs; None in a closed loop and with a trace
    rate_to: float | None = None  # requests/s at the end
    trace: str | None = None  # name of the file that is replayed
    input_lengths: str | None = None  # the distribution that prompt lengths are drawn from, where input_tokens is None
    output_lengths: str | None = None  # the same of answers
    system_tokens: int | None = None  # of the made-up system prompt in front of each prompt
    turns: str | None = None  # of made-up conversations: how many, a number or a distribution
    sessions: bool = False  # whether requests are turns of conversations
    inputs: int = 1  # texts in each request, input_tokens long each; more than one for embeddings alone

    @property
    def load(self) -> str:
        """Name the level's load: "8 streams", "8 people", "4 requests/s", "1 to 8 requests/s" or "trace day.csv"."""
        if self.trace is not None:
            return f"trace {self.trace}"
        if self.concurrency is None and self.rate is not None:
            what = "session" if self.sessions else "request"
            ramp = self.rate_to is not None
            return f"{self.rate:g} to {self.rate_to:g} {what}s/s" if ramp else rated(self.rate, what)
        if self.sessions:
            return "1 person" if self.concurrency == 1 else f"{self.concurrency or 0} people"
        return counted(self.concurrency or 0, "stream")

    @property
    def label(self) -> str:
        """Name the level as charts and tables do, e.g. "8 streams · 128 in · 64 out"."""
        parts = [self.load]
        if self.turns is not None:
            parts.append(f"{self.turns} turn{'s' * (self.turns != '1')}")
        if self.system_tokens is not None:
            parts.append(f"{self.system_tokens} shared")
        if (input_length := self.input_lengths or self.input_tokens) is not None:
            parts.append(f"{f'{self.inputs} × ' if self.inputs > 1 else ''}{input_length} in")
        if (output_length := self.output_lengths or self.output_tokens) is not None:
            parts.append(f"{output_length} out")
        if self.words is not None:
            parts.append(f"{self.words} words")
        return " · ".join(parts)
