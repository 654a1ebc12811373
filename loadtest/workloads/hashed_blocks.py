"""Prompts of a Mooncake trace: block hashes say which beginnings of prompts are the same.

A hash stands for a block of tokens and for all that comes before it, so equal hashes at the beginning of two rows are an
equal beginning of their prompts. Each hash gives a made-up block of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from loadtest.scenario import Level, Scenario
from loadtest.workloads.files.trace import Trace
from loadtest.workloads.job import Job
from loadtest.workloads.nonce import seed_from, seed_of
from loadtest.workloads.schedule import trace_of
from loadtest.workloads.source import Session, SingleRequest
from loadtest.workloads.synthetic import cached_document, made_up_document
from loadtest.workloads.tokens import Counter, TokenFit


@dataclass(frozen=True, slots=True)
class HashedBlocks:
    """Makes up each prompt of blocks that other prompts of the trace begin with, too."""

    scenario: Scenario
    counter: Counter
    fit: TokenFit
    trace: Trace

    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:
        trace = None if scenario.literal or scenario.data is not None else trace_of(scenario)
        return None if trace is None or trace.blocks is None else cls(scenario, counter, fit, trace)

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        seed = seed_of(self.scenario, level, i, warmup=warmup)
        prompt = self.prompt(i, level.input_tokens or 1, warmup=warmup)
        return SingleRequest(Job(i, level.index, seed, prompt, level.input_tokens, level.output_tokens, warmup=warmup))

    def prompt(self, i: int, tokens: int, *, warmup: bool) -> str:
        """Return the prompt of the i-th row; a warm-up has blocks of its own."""
        assert self.trace.blocks is not None
        ours, block = self.fit.ours(tokens), self.fit.ours_added(self.trace.blocks.tokens)
        key = "warm-up block" if warmup else "block"
        texts = []
        hashes = self.trace.blocks[0 if warmup else i]
        for hash_id in hashes:
            length = min(block, ours)
            if length <= 0:
                break
            texts.append(cached_document(length, seed_from(self.scenario.seed, key, hash_id), self.counter))
            ours -= length
        if ours > 0:  # more tokens than blocks: the rest is this request's own
            texts.append(made_up_document(ours, seed_from(self.scenario.seed, key, "rest", i), self.counter))
        return " ".join(texts)
