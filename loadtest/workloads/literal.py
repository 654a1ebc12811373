"""Prompts that the user wrote: one text for all requests, each time behind a nonce of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from loadtest.scenario import Level, Scenario
from loadtest.workloads.job import Job
from loadtest.workloads.source import Session, SingleRequest, behind_nonce, seed_of, with_inputs
from loadtest.workloads.tokens import Counter, TokenFit


@dataclass(frozen=True, slots=True)
class LiteralText:
    """Sends one text; {words} in it becomes the level's number of words."""

    scenario: Scenario
    text: str

    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:  # noqa: ARG003
        text = scenario.prompt_text()
        return None if text is None else cls(scenario, text)

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        seed = seed_of(self.scenario, level, i, warmup=warmup)
        job = Job(i, level.index, seed, self.prompt(level, seed), None, level.output_tokens, warmup=warmup)
        return SingleRequest(with_inputs(job, self.scenario, lambda each: self.prompt(level, each)))

    def prompt(self, level: Level, seed: int) -> str:
        text = self.text if level.words is None else self.text.replace("{words}", str(level.words))
        return behind_nonce(text, self.scenario, seed)
