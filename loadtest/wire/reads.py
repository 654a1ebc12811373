"""What the wire hands on of an answer: its body and when each part of it arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads that carried body bytes, column by column: one entry a read."""

    body: bytes  # of all reads, HTTP framing removed
    ends: Sequence[int]  # where in the body each read's bytes end
    t: Sequence[int]  # arrival, monotonic ns: the kernel's stamp, else the time of the read
    lag: Sequence[
        int
    ]  # client lag, ns: max(handling − stamp, longest gap between polls since the stream's previous read)

    def __len__(self) -> int:
        return len(self.t)
