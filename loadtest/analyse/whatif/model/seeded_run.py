"""The very requests of a run to come: its seed says when each is sent and how long it is, before any is.

Close to what a server can do, the figures of a few hundred requests depend on when these came and on which of them were
long. A run with the seed that was predicted sends the requests that were predicted.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Self

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
        if used.get("sessions") or used.get("turns"):
            refuse_requests(
                f"the people of {run.path} hold conversations, while a rate is predicted of single requests"
            )
        if refusal := refusal_of(run, used):
            refuse_requests(refusal)
        good = run.flag("ok") & ~run.flag("warmup")
        more = (run.uncached_tokens - run.column("asked_input"))[good]
        as_asked = run.column("output_tokens")[good] == run.column("asked")[good]
        return cls(
            seeded,
            place,
            level_like(used, place, seeded.requests),
            template_tokens=round(float(np.median(more[np.isfinite(more)]))) if np.isfinite(more).any() else 0,
            output_as_asked=bool(as_asked.mean() >= AS_LONG_AS_ASKED),
            context=kept_context(run),
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


def kept_context(run: RunData) -> int | None:
    """Return the context that a run cuts its lengths to, and ends its conversations before, in tokens; None where none was known."""
    context = run.fact("server", "context") or run.fact("server", "facts", "trained_context")
    return None if context is None else int(context)


def level_like(used: Mapping[str, Any], place: int, requests: int) -> Level:
    """Return a level at this place of a run that draws lengths as `used` did."""
    keys = ("input_tokens", "output_tokens", "input_lengths", "output_lengths", "system_tokens")
    lengths: dict[str, Any] = {key: used.get(key) for key in keys}
    return Level(index=place, concurrency=None, requests=requests, **lengths)


def refuse_requests(why: str) -> NoReturn:
    """Raise PredictionError: the requests of a next run are not known, as a clause says."""
    raise PredictionError(f"--requests says which requests are predicted, and {why}; leave it out.") from None


def refusal_of(run: RunData, used: Mapping[str, Any]) -> str:
    """Say in a clause why neither requests nor conversations of a next run are known; empty where they are."""
    if run.facts.get("driver") != "asyncio":
        return f"{run.path} was made by Locust, whose users come in another order each time"
    if used.get("trace") or run.scenario.get("trace") or run.scenario.get("duration"):
        return f"{run.path} took its requests from a trace or for a time"
    try:
        texts = [text for key in ("input_lengths", "output_lengths") if (text := used.get(key))]
        texts += [text for key in ("follow_up_tokens", "turns") if isinstance(text := run.scenario.get(key), str)]
        files = [file for text in texts for file in lengths_of(text).files]
    except ScenarioError as error:
        return str(error)
    return f"the lengths of {run.path} come from {files[0]}, which may be another file by then" if files else ""
