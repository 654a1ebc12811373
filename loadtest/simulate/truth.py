"""What really happened to each request: the log to check a client's figures by."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Any

import orjson

from loadtest.errors import ScenarioError, os_error_as


class TruthLog:
    """Appends one JSON line a request. Instants on both clocks: `monotonic_ns` (perf_counter) and `wall_ns`.

    first_token and last_token are taken just after the write to the kernel; arrived is the kernel's stamp of the request's
    last bytes, where `stamped`; slot_won, prefill_start and slot_freed are the engine's. late_*_us says how late the
    server wrote this request's tokens: where it is large, the server was the bottleneck.
    """

    def __init__(self, path: Path) -> None:
        with os_error_as(ScenarioError, f"cannot write the truth log {path}"):
            self._file: IO[bytes] = path.open("wb", buffering=0)

    def write(self, facts: dict[str, Any], instants: dict[str, int | None]) -> None:
        """Append one request: `facts` as they are, monotonic `instants` on both clocks."""
        offset = time.time_ns() - time.perf_counter_ns()
        known = {name: instant for name, instant in instants.items() if instant is not None}
        wall = {name: instant + offset for name, instant in known.items()}
        self._file.write(orjson.dumps({**facts, "monotonic_ns": known, "wall_ns": wall}) + b"\n")

    def close(self) -> None:
        self._file.close()
