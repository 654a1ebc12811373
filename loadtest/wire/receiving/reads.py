"""What the wire hands on of an answer: its body, and when each part of the body arrived."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads that carried body bytes, in columns with an entry for each read."""

    body: bytes  # the bodies of all reads, joined, without HTTP framing
    ends: Sequence[int]  # where in the body each read's bytes end
    t: Sequence[int]  # arrival, monotonic ns: the kernel's stamp, else the time of the read
    # client lag, ns: max(handling − stamp, longest gap between polls since the stream's previous read)
    lag: Sequence[int]

    def __len__(self) -> int:
        return len(self.t)
