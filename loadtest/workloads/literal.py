"""Prompts that the user wrote: one text for all requests, each time behind a nonce of its own."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Self

from loadtest.scenario import Level, Scenario
from loadtest.workloads.source import Session, behind_nonce, request_of_text
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
        return request_of_text(self.scenario, level, i, functools.partial(self.prompt, level), None, warmup=warmup)

    def prompt(self, level: Level, seed: int) -> str:
        text = self.text if level.words is None else self.text.replace("{words}", str(level.words))
        return behind_nonce(text, self.scenario, seed)
