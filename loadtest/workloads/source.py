"""What every source of requests gives: sessions, each of which gives one job after the other.

A source's texts are pure functions of the scenario's seed, the level and the session's number, so any process can make
any session, in any order, and gets the same one. Each job has a seed, and each seed a nonce that stands in front of a prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, Self

from loadtest.scenario import Level, Scenario
from loadtest.workloads.job import Job
from loadtest.workloads.tokens import Counter, TokenFit


def seed_from(*parts: object) -> int:
    """Return 53 bits that depend on every part: enough against collisions, and exact in every JSON reader."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 11


def seed_of(scenario: Scenario, level: Level, i: int, *, warmup: bool) -> int:
    """Return the seed of a level's i-th session: with warm_cache the same for all sessions of one length."""
    if scenario.warm_cache:
        return seed_from(scenario.seed, "warm", level.input_tokens, level.words)
    return seed_from(scenario.seed, "warm-up" if warmup else "job", level.index, i)


def nonce_of(seed: int) -> str:
    """Return the nonce in front of the prompt with this seed, e.g. "[402718365129]".

    Vocabularies cut digits evenly (by threes, or one by one), so every nonce has the same number of tokens, 6 in
    cl100k_base and o200k_base. Eight hex digits would have 5 to 10.
    """
    return f"[{seed_from('nonce', seed) % 10**12:012d}]"


def behind_nonce(text: str, scenario: Scenario, seed: int) -> str:
    """Return a text behind its nonce, so that no server has its beginning cached; as it is with warm_cache."""
    return text if scenario.warm_cache else f"{nonce_of(seed)} {text}"


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer's text with the server's counts, None where it sent none."""

    text: str
    prompt_tokens: int | None
    output_tokens: int | None


class Session(Protocol):
    """One user's conversation, or a single request."""

    def next(self, answer: Answered | None) -> Job | None:
        """Return the next turn, given the answer to the one before (None at the first turn); None where it is over.

        A job whose `session` is None is a request by itself: its session is not asked for another.
        """
        ...


class Source(Protocol):
    """Gives the sessions of a scenario."""

    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:
        """Return the source of a scenario, with its files read; None where the scenario asks for another source."""
        ...

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        """Return session i of a level; warm-up sessions are a plan of their own, with texts of their own."""
        ...


class SingleRequest:
    """A session of one request."""

    __slots__ = ("_job",)

    def __init__(self, job: Job) -> None:
        self._job: Job | None = job

    def next(self, answer: Answered | None) -> Job | None:  # noqa: ARG002 - the answer changes nothing
        job, self._job = self._job, None
        return job


def request_of_text(
    scenario: Scenario, level: Level, i: int, text: Callable[[int], str], input_tokens: int | None, *, warmup: bool
) -> SingleRequest:
    """Return the i-th session of a level: one request whose prompt `text` makes of a seed.

    For embeddings it makes as many inputs as the scenario asks for. `input_tokens` are those of one input; the request asks
    for those of all together, as the server counts them.
    """
    seed, count = seed_of(scenario, level, i, warmup=warmup), scenario.inputs_per_request
    job = Job(i, level.index, seed, text(seed), input_tokens, level.output_tokens, warmup=warmup)
    if count > 1:
        more = (seed if scenario.warm_cache else seed_from(seed, "input", number) for number in range(1, count))
        asked = None if input_tokens is None else input_tokens * count
        job = replace(job, inputs=(job.prompt, *map(text, more)), input_tokens=asked)
    return SingleRequest(job)
