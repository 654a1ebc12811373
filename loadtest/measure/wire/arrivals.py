"""What the wire saw of one request: instants and raw reads, interpreted afterwards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Read:
    """One read of the answer that carried body bytes, HTTP framing removed."""

    t: int  # arrival, monotonic ns: the kernel's stamp, else the time of the read
    lag: int  # client lag, ns: max(handling − stamp, longest gap between two polls since the stream's previous read)
    stamped: bool
    body: bytes
