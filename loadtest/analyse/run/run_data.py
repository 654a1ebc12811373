"""A run that was read: its facts, a table of its requests, and every chunk's arrival."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from loadtest import metrics
from loadtest.analyse.run.arrays import BoolArray, FloatArray, IntArray
from loadtest.analyse.run.event_times import Delays, EventGaps, Ragged
from loadtest.analyse.run.files.samples import Machine, Zero
from loadtest.analyse.run.levels import LevelData
from loadtest.records import NOT_SENT, Outcome
from loadtest.urls import loopback, origin


@dataclass(frozen=True, slots=True)
class RunData:
    """A run folder that was read: what was run, and the outcome of every request.

    `requests` has one row per request in the order sent; loadtest.analyse.run.request_columns lists its columns.
    """

    path: Path
    facts: dict[str, Any]  # run.json
    levels: list[LevelData]  # of run.json, and those that appear in records alone
    requests: pd.DataFrame
    chunks: Ragged  # arrival of content events, µs since the request's t_send
    server_chunks: Ragged  # created_at of content events, where the server stamps them, µs since the first one's
    itl: EventGaps
    server_itl: EventGaps
    delivery: Delays
    samples: pd.DataFrame  # of the driver: `t` in seconds since the run's first t_sched, `file` the process
    machine: Machine  # what monitors sampled beside the run
    zero: Zero
    whole: RunData | None = None  # the whole run, where this is its part for one model at one server
    trouble: list[str] = field(default_factory=list)  # one sentence on each thing that could not be read
    lost: int = 0  # how many records are missing for that, at least

    @property
    def entire(self) -> RunData:
        """The whole run: all of its parts load the client and its machine."""
        return self.whole or self

    @property
    def name(self) -> str:
        return str(self.facts.get("name") or self.path.name)

    @property
    def simulated(self) -> dict[str, Any] | None:
        """Profile and speed of the simulated server; None for a real one."""
        found: dict[str, Any] | None = self.fact("server", "simulated")
        return found

    @property
    def speed(self) -> float:
        """By how much a simulated server goes faster than what it simulates; 1 for a real one."""
        return float((self.simulated or {}).get("speed") or 1)

    @property
    def scenario(self) -> dict[str, Any]:
        """What the run was asked to do; empty where run.json does not say."""
        return self.facts.get("scenario") or {}

    @property
    def has_turns(self) -> bool:
        """Whether requests follow one another in conversations."""
        return bool((np.nan_to_num(self.column("turn")) > 0).any())

    @property
    def shares_prefix(self) -> bool:
        """Whether prompts begin alike, as they were asked to."""
        return bool(self.fact("comparability", "shared_prefix"))

    @property
    def prompts_as_asked(self) -> bool:
        """Whether the server counts no prompts, so that what is known of their lengths is what was asked for."""
        known = np.isfinite(self.column("prompt_tokens")).any()
        return bool(not known and np.isfinite(self.column("asked_input")).any() and not self.has_turns)

    @property
    def uncached_tokens(self) -> FloatArray:
        """Each request's prompt tokens less those that the prefix cache held; nan unknown.

        Where the server never says how many were cached, they are none, unless prompts share a prefix or for later turns:
        nobody knows then. Where it counts no prompts, they are as long as was asked for.
        """
        cached = self.column("cached_tokens")
        if np.isfinite(cached).any() or not (self.shares_prefix or self.has_turns):
            cached = np.nan_to_num(cached)
        elif not self.shares_prefix:
            cached = np.where(np.nan_to_num(self.column("turn")) > 0, np.nan, 0.0)
        return self.column("asked_input" if self.prompts_as_asked else "prompt_tokens") - cached

    @property
    def last_end(self) -> float:
        """When the last request ended, seconds; 0 where none did."""
        end = self.requests["end"].max() if len(self.requests) else 0.0
        return float(end) if np.isfinite(end) else 0.0

    def fact(self, *keys: str) -> Any:
        """Return the value of run.json that these keys lead to, one inside the other; None where one is missing."""
        found: Any = self.facts
        for key in keys:
            found = (found or {}).get(key)
        return found

    def on_servers_machine(self, host: str) -> bool:
        """Whether what was sampled on `host` may be of the server's machine; the client's is not that of a remote server."""
        url, client = str(self.fact("target", "url") or ""), self.fact("client", "host")
        return host != client or loopback(url) or (origin(url) or ("", None))[1] == client

    def column(self, name: str) -> FloatArray:
        return self.requests[name].to_numpy(dtype=np.float64)

    def flag(self, name: str) -> BoolArray:
        """Return a column of `requests` that says yes or no: `ok`, `left`, `warmup`."""
        return self.requests[name].to_numpy(dtype=np.bool_)

    def one_of(self, name: str, *values: object) -> BoolArray:
        """Mark every request whose value in a column of `requests` is one of these."""
        return self.requests[name].isin(values).to_numpy(dtype=np.bool_)

    def shows_prefill(self) -> BoolArray:
        """Mark the requests of which nothing says that TTFT holds the decode of tokens that were not sent."""
        late = [any(metrics.MAY_BE_LATE in doubt for doubt in said) for said in self.requests["doubts"]]
        return ~(np.array(late, dtype=np.bool_) | (self.column("unsent_tokens") > 0))

    def made_at(self, row: IntArray, place: IntArray) -> FloatArray:
        """Return when the server made the events at `place` in `chunks.flat`, of requests `row`; by arrival where it does not say."""
        return self.column("send")[row] + self.chunks.flat[place] * metrics.S_PER_US - self.delivery.at(row, place)

    def of_level(self, *levels: int) -> BoolArray:
        """Mark every request of a level, or of any of several, warm-ups and failures included."""
        return self.one_of("level", *levels)

    def measured(self, *levels: int) -> BoolArray:
        """Mark the measured requests of a level: those that were not warm-ups."""
        return self.of_level(*levels) & ~self.flag("warmup")

    def sent(self, level: int) -> BoolArray:
        """Mark the measured requests of a level without those that loadtest cancelled; a failed one counts."""
        return self.measured(level) & ~self.one_of("outcome", Outcome.CANCELLED)

    def left(self, *levels: int) -> BoolArray:
        """Mark the measured requests of a level whose user hung up."""
        return self.measured(*levels) & self.flag("left")

    def good(self, *levels: int) -> BoolArray:
        """Mark the requests that figures come from: measured ones that ended well."""
        return self.measured(*levels) & self.flag("ok")

    def tokens_a_piece(self, rows: BoolArray) -> float:
        """Return how many tokens a piece of text holds in the median answer of these requests; nan where no answer tells it."""
        sent = (self.column("output_tokens") - self.column("unsent_tokens"))[rows]
        held = sent[sent > 0] / np.maximum(self.chunks.counts[rows][sent > 0], 1)
        return float(np.median(held)) if len(held) else float("nan")

    def shed(self, level: int) -> int:
        """Return how many requests of a level were not sent because of --max-in-flight."""
        stopped = self.requests["error"][self.measured(level) & self.one_of("outcome", Outcome.CANCELLED)]
        return sum(str(error).startswith(NOT_SENT) for error in stopped)

    def due_per_s(self, level: int) -> float | None:
        """Return the rate at which measured requests of a level were due; None for fewer than two."""
        due = self.column("sched")[self.measured(level)]
        seconds = float(np.ptp(due)) if len(due) > 1 else 0.0
        return (len(due) - 1) / seconds if seconds > 0 else None

    def only(self, rows: BoolArray) -> RunData:
        chunks, server_chunks = self.chunks.only(rows), self.server_chunks.only(rows)
        return replace(
            self,
            requests=self.requests[rows].reset_index(drop=True),
            chunks=chunks,
            server_chunks=server_chunks,
            itl=EventGaps(chunks),
            server_itl=EventGaps(server_chunks),
            delivery=self.delivery.only(rows, chunks, server_chunks),
        )

    def without_levels(self, levels: Collection[int]) -> RunData:
        """Return the run without levels of these numbers, as if they had not been measured."""
        rows = ~self.one_of("level", *levels)
        kept = [level for level in self.levels if level["index"] not in levels]
        return replace(self.only(rows), levels=kept)
