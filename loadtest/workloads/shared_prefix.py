"""What prompts share: a system prompt of the user's, or made-up ones of which each request draws one."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadtest.scenario import Level, Scenario
from loadtest.workloads.job import Job
from loadtest.workloads.source import Answered, Session, seed_from
from loadtest.workloads.synthetic import cached_document, made_up_document
from loadtest.workloads.tokens import Counter, TokenFit

BETWEEN = "\n\n"  # system prompt and prompt, where an endpoint takes one text
FIT_SYSTEM = 32  # tokens of the system prompt in the requests from which the token counts are fitted


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Puts a system prompt in front of jobs; every nonce stands behind it, so that a prefix cache may hold it."""

    scenario: Scenario
    counter: Counter
    fit: TokenFit

    def fit_job(self, job: Job) -> tuple[Job, int]:
        """Return a job to fit counts by, with a system prompt of its own, and our count of that."""
        text = made_up_document(FIT_SYSTEM, job.seed, self.counter)
        return prefixed(job, text, None), self.counter.count(text)

    @property
    def literal_tokens(self) -> int:
        """How many tokens the user's own system prompt has, about."""
        text = self.scenario.system_text()
        return 0 if text is None else round(self.counter.count(text) * self.fit.ratio)

    def drawn(self, level: Level, i: int, *, warmup: bool) -> tuple[str, int]:
        """Return a session's system prompt, and the server's count of it."""
        scenario = self.scenario
        if scenario.system_tokens is None:
            return scenario.system_text() or "", self.literal_tokens
        count, which = scenario.prefixes or 1, 0
        if count > 1:
            rng = random.Random(seed_from("prefix", scenario.seed, level.index, i, warmup))
            weights = None if scenario.prefix_zipf is None else _weights(count, scenario.prefix_zipf)
            which = rng.randrange(count) if weights is None else rng.choices(range(count), cum_weights=weights)[0]
        ours = self.fit.ours_added(scenario.system_tokens)
        return cached_document(ours, seed_from("system", scenario.seed, which), self.counter), scenario.system_tokens


@functools.lru_cache(maxsize=4)
def _weights(count: int, zipf: float) -> Sequence[float]:
    return tuple(itertools.accumulate((k + 1) ** -zipf for k in range(count)))


class PrefixedSession:
    """A session whose turns begin with a system prompt."""

    __slots__ = ("_session", "_text", "_tokens")

    def __init__(self, session: Session, text: str, tokens: int) -> None:
        self._session, self._text, self._tokens = session, text, tokens

    def next(self, answer: Answered | None) -> Job | None:
        job = self._session.next(answer)
        return None if job is None else prefixed(job, self._text, self._tokens)


def prefixed(job: Job, text: str, tokens: int | None) -> Job:
    asked = job.input_tokens
    return replace(
        job,
        prompt=f"{text}{BETWEEN}{job.prompt}",
        messages=({"role": "system", "content": text}, *job.conversation),
        input_tokens=asked + tokens if asked is not None and tokens is not None else asked,
    )


def behind_prefix(scenario: Scenario, counter: Counter, fit: TokenFit) -> SharedPrefix | None:
    return SharedPrefix(scenario, counter, fit) if scenario.shares_prefix else None
