"""What each request says: Jobs, made ahead of the clock as a pure function of (seed, i)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be sent."""

    id: int
    level: int
    seed: int
    prompt: str
    input_tokens: int | None  # asked for; None with a literal prompt
    output_tokens: int | None  # asked for; None: the model decides
    warmup: bool = False
