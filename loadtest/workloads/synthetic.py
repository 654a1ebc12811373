"""Made-up prompts of exactly the length asked for: a text of its own for each, or blocks that several begin with.

A prompt can be rebuilt from its seed, so records need not hold it. Servers keep the prefixes of earlier prompts and would
use them instead of reading ours, so every prompt begins with a nonce drawn from its seed.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Self

from loadtest.scenario import Level, Scenario
from loadtest.workloads.files.trace import Blocks
from loadtest.workloads.job import Job
from loadtest.workloads.schedule import trace_of
from loadtest.workloads.source import Session, SingleRequest, nonce_of, request_of_text, seed_from, seed_of
from loadtest.workloads.tokens import Counter, TokenFit


@dataclass(frozen=True, slots=True)
class Synthetic:
    """Makes up a text for each request; with warm_cache one text for all of a length, so that the prefix cache answers."""

    scenario: Scenario
    counter: Counter
    fit: TokenFit

    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:
        return cls(scenario, counter, fit)

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        made = functools.partial(self.prompt, level)
        return request_of_text(self.scenario, level, i, made, level.input_tokens, warmup=warmup)

    def prompt(self, level: Level, seed: int) -> str:
        nonce = "" if self.scenario.warm_cache else nonce_of(seed)
        return made_up(self.fit.ours(level.input_tokens or 1), level.output_tokens, seed, self.counter, nonce=nonce)


# Every word is one token with the blank before it, in cl100k_base, o200k_base and so in Llama 3's vocabulary: a test
# holds that. So a text of k words and full stops has k tokens, whatever the words.
_ADJECTIVES = """old young small large quiet loud warm cold bright dark early late long short deep high open strong simple
careful happy silent golden green blue white black heavy gentle brave clever honest distant ancient modern famous"""
_NOUNS = """river mountain village teacher doctor captain farmer soldier artist writer child mother father brother sister
friend stranger garden forest island city bridge station window letter picture story song machine engine ship train
market school library museum kitchen winter summer morning evening storm cloud wind fire stone road field horse bird
dog cat king queen merchant traveler gold silver"""
_VERBS = """found followed watched carried chased forgot painted visited opened closed crossed reached promised built
joined saved helped called picked loved wanted needed lost kept gave showed told heard"""
_WORD_COLUMNS = [words.split() for words in (_ADJECTIVES, _NOUNS, _VERBS, _ADJECTIVES, _NOUNS)]
_SENTENCE = 8  # tokens: The … … … the … … .


def _filler(tokens: int, rng: random.Random) -> str:
    """Return sentences of exactly `tokens` tokens (two or more), to be put after a text that does not end in a blank."""
    count = -(-tokens // _SENTENCE)
    columns = [rng.choices(words, k=count) for words in _WORD_COLUMNS]
    pieces: list[str] = []
    for first, subject, verb, second, thing in zip(*columns, strict=True):
        pieces += (" The", f" {first}", f" {subject}", f" {verb}", " the", f" {second}", f" {thing}", ".")
    pieces = pieces[:tokens]
    if tokens % _SENTENCE == 1:
        pieces[-1] = " Now"  # two full stops in a row would be one token
    elif tokens:
        pieces[-1] = "."
    return "".join(pieces)


def made_up(tokens: int, output_tokens: int | None, seed: int, counter: Counter, *, nonce: str) -> str:
    """Return a prompt of exactly `tokens` tokens by `counter`: nonce, sentences, and a request for a long answer.

    The request keeps models from stopping early: it asks for at least as many words as the answer shall have tokens (a
    word is one token or more). Where there is no room for it (below about 20 tokens) a shorter one is taken, then none;
    a length that cannot be met (shorter than the nonce) gives the shortest text there is.
    """
    asks = (f" Write a story of at least {max(output_tokens or 0, 100)} words.", " Tell a long story.", "")
    for ask in asks:
        start = nonce or "Read:"
        room = tokens - counter.count(start + ask)
        if room >= 0:
            break
    else:
        return nonce or "Read"
    return _filled(tokens, start, ask, room, seed, counter)


def _filled(tokens: int, start: str, end: str, room: int, seed: int, counter: Counter) -> str:
    """Return start, sentences and end, of `tokens` tokens in all; `room` is what start and end, counted apart, leave.

    The sum of the parts is the whole for our words, but vocabularies may join the nonce's end to what follows, so the
    whole is counted, and the sentences are made longer or shorter by the difference.
    """
    filler, text = max(room, 0), start + end
    for _ in range(6):
        text = start + _filler(filler, random.Random(seed)) + end
        off = tokens - counter.count(text)
        if off == 0:
            break
        filler = max(0, filler + off)
    return text


def made_up_document(tokens: int, seed: int, counter: Counter) -> str:
    """Return a text of about `tokens` tokens by `counter` that asks for nothing: a nonce of its own, then sentences."""
    nonce = nonce_of(seed)
    return _filled(tokens, nonce, "", tokens - counter.count(nonce), seed, counter)


cached_document = functools.lru_cache(maxsize=4096)(made_up_document)  # for a text that many prompts share


@dataclass(frozen=True, slots=True)
class HashedBlocks:
    """Makes up each prompt of blocks that other prompts of a Mooncake trace begin with, too.

    A hash of the trace stands for a block of tokens and for all that comes before it, so equal hashes at the beginning of
    two rows are an equal beginning of their prompts. Each hash gives a made-up block of its own.
    """

    scenario: Scenario
    counter: Counter
    fit: TokenFit
    blocks: Blocks

    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:
        trace = None if scenario.literal or scenario.data is not None else trace_of(scenario)
        return None if trace is None or trace.blocks is None else cls(scenario, counter, fit, trace.blocks)

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        seed = seed_of(self.scenario, level, i, warmup=warmup)
        prompt = self.prompt(i, level.input_tokens or 1, warmup=warmup)
        return SingleRequest(Job(i, level.index, seed, prompt, level.input_tokens, level.output_tokens, warmup=warmup))

    def prompt(self, i: int, tokens: int, *, warmup: bool) -> str:
        """Return the prompt of the i-th row; a warm-up has blocks of its own."""
        ours, block = self.fit.ours(tokens), self.fit.ours_added(self.blocks.tokens)
        key = "warm-up block" if warmup else "block"
        texts = []
        for hash_id in self.blocks[0 if warmup else i]:
            length = min(block, ours)
            if length <= 0:
                break
            texts.append(cached_document(length, seed_from(self.scenario.seed, key, hash_id), self.counter))
            ours -= length
        if ours > 0:  # more tokens than blocks: the rest is this request's own
            texts.append(made_up_document(ours, seed_from(self.scenario.seed, key, "rest", i), self.counter))
        return " ".join(texts)
