"""Faults of real servers, injected on purpose; each kind is named after what it does on the wire."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from loadtest.errors import ScenarioError


class FaultKind(StrEnum):
    TRUNCATE = "truncate"  # the connection ends inside the chunked body
    ERROR_LINE = "error-line"  # an error object (on /v1 an empty chunk) inside a 200 stream
    HTTP_500 = "http-500"
    HTTP_503 = "http-503"
    RESET = "reset"  # RST in mid-stream
    STALL = "stall"  # nothing for stall_s, then everything held back
    SILENT_END = "silent-end"  # a clean end without done:true, finish_reason or [DONE]
    REPEAT_GUARD = "repeat-guard"  # 31 equal pieces, then a silent end


EQUAL_PIECES = 31  # Ollama ends a stream after more than 30 equal ones


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One kind of fault, and which requests get it: a share of them, or every nth."""

    kind: FaultKind
    share: float = 0.0
    every: int | None = None
    stall_s: float = 5.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `KIND=SHARE` or `KIND=every:N`, as in truncate=0.05 or http-503=every:10; ScenarioError otherwise."""
        name, _, amount = text.partition("=")
        try:
            kind = FaultKind(name)
            if amount.startswith("every:"):
                fault = cls(kind=kind, every=int(amount.removeprefix("every:")))
            else:
                fault = cls(kind=kind, share=float(amount or 1))
        except ValueError:
            raise ScenarioError(
                f"{text!r} is not a fault; write KIND=SHARE or KIND=every:N with one of {', '.join(FaultKind)}."
            ) from None
        if not 0 <= fault.share <= 1 or (fault.every is not None and fault.every < 1):
            raise ScenarioError(f"fault {text!r}: the share must lie between 0 and 1, every:N at 1 or above.")
        return fault

    def hits(self, ordinal: int, rng: random.Random) -> bool:
        """Whether the request with this ordinal, counted from 1, gets the fault."""
        if self.every is not None:
            return ordinal % self.every == 0
        return rng.random() < self.share
