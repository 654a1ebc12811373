"""The very requests of a run to come: its seed says when each is sent and how long it is, before any is.

Close to what a server can do, the figures of a few hundred requests depend on when these came and on which of them were
long. A run with the seed that was predicted sends the requests that were predicted.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from loadtest.analyse.run import RunData
from loadtest.errors import PredictionError, ScenarioError
from loadtest.metrics import NS_PER_S
from loadtest.scenario import Level, lengths_of
from loadtest.workloads.drawn_lengths import DrawnLengths
from loadtest.workloads.schedule import instants
from loadtest.workloads.tokens import Counter, TokenFit

COUNTER = Counter("none: distributions of files, which need one, are refused")
AS_LONG_AS_ASKED = 0.95  # of the answers: the others are then as long as asked, too


@dataclass(frozen=True, slots=True)
class SeededRun:
    """A run to come: how many requests it sends to each load, and the seed that it draws them from."""

    requests: int
    seed: int


def new_seed() -> int:
    return random.SystemRandom().getrandbits(31)


@dataclass(frozen=True, slots=True)
class SeededRequests:
    """When the requests of one level of such a run are due, and how long they are."""

    run: SeededRun
    place: int  # of the level in it
    like: Level  # a level of the run predicted from: its lengths
    template_tokens: int  # a prompt's tokens that were read, less those asked for
    output_as_asked: bool
    context: int | None
    arrivals: str
    burstiness: float | None

    @classmethod
    def of(cls, run: RunData, used: Mapping[str, Any], seeded: SeededRun, place: int) -> Self:
        """Take from a run what its next one keeps; `used` is the first level predicted from. Raises PredictionError."""
        used = next(each for each in run.levels if each["index"] == used["index"])  # as it was asked for
        if refusal := _refusal(run, used):
            raise PredictionError(f"--requests says which requests are predicted, and {refusal}; leave it out.")
        good = run.flag("ok") & ~run.flag("warmup")
        more = (run.uncached_tokens - run.column("asked_input"))[good]
        as_asked = run.column("output_tokens")[good] == run.column("asked")[good]
        return cls(
            seeded,
            place,
            Level(
                index=place,
                concurrency=None,
                requests=seeded.requests,
                input_tokens=used.get("input_tokens"),
                output_tokens=used.get("output_tokens"),
                input_lengths=used.get("input_lengths"),
                output_lengths=used.get("output_lengths"),
            ),
            template_tokens=round(float(np.median(more[np.isfinite(more)]))) if np.isfinite(more).any() else 0,
            output_as_asked=bool(as_asked.mean() >= AS_LONG_AS_ASKED),
            context=run.fact("tokens", "context"),
            arrivals=str(run.scenario.get("arrivals") or "poisson"),
            burstiness=run.scenario.get("burstiness"),
        )

    def instants_s(self, rate: float) -> Iterator[float]:
        """Yield when the requests of an open loop are due, seconds after its start."""
        every = instants(rate, self.arrivals, f"{self.run.seed} {self.place}", burstiness=self.burstiness)
        return (at / NS_PER_S for at in itertools.islice(every, self.run.requests))

    def lengths(self, drawn: list[tuple[int, int]], *, warmups: int) -> list[tuple[int, int]]:
        """Return prompt and output tokens of each request in order, warm-ups first; `drawn` takes the place of what is unknown."""
        level = self.like
        if level.input_lengths is None and level.output_lengths is None:
            return drawn
        said = DrawnLengths(self.run.seed, COUNTER, TokenFit(), self.context)
        every = [said.at(level, i, warmup=True) for i in range(warmups)]
        every += [said.at(level, i, warmup=False) for i in range(self.run.requests)]
        return [
            (
                prompt if one.input_tokens is None else max(one.input_tokens + self.template_tokens, 1),
                one.output_tokens if one.output_tokens and self.output_as_asked else output,
            )
            for one, (prompt, output) in zip(every, drawn, strict=True)
        ]


def _refusal(run: RunData, used: Mapping[str, Any]) -> str:
    """Say in a clause why the requests of a next run are not known; empty where they are."""
    if run.facts.get("driver") != "asyncio":
        return f"{run.path} was made by Locust, whose users come in another order each time"
    if used.get("sessions") or used.get("turns"):
        return f"the people of {run.path} hold conversations, whose next turn comes after the last answer"
    if used.get("trace") or run.scenario.get("trace") or run.scenario.get("duration"):
        return f"{run.path} took its requests from a trace or for a time"
    try:
        texts = [text for key in ("input_lengths", "output_lengths") if (text := used.get(key))]
        files = [file for text in texts for file in lengths_of(text).files]
    except ScenarioError as error:
        return str(error)
    return f"the lengths of {run.path} come from {files[0]}, which may be another file by then" if files else ""
