"""What each request says: Jobs, made ahead of the clock as a pure function of (seed, i).

A job's prompt is rebuilt from its seed on demand, so records need not hold it. Every prompt starts with a nonce drawn
from that seed: servers keep the prefixes of earlier prompts, and would answer for them instead of reading ours.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from pathlib import Path

from loadtest.scenario import Level, Scenario
from loadtest.workloads.tokens import Calibration, Counter
from loadtest.workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be sent."""

    id: int
    level: int
    seed: int
    prompt: str
    input_tokens: int | None  # asked for; None with a literal prompt
    output_tokens: int | None  # asked for; None: the model decides
    warmup: bool = False


CALIBRATION_SHORT = 32  # tokens of ours: with a longer text's, its server count gives template overhead and ratio
CALIBRATION_LONGEST = 2048  # a longer one would cost the server more than it tells
CALIBRATION_ENOUGH = 512  # tokens of long texts over which counts are a mean, for unlike vocabularies scatter


class Workload:
    """Makes the jobs of a scenario: job(level, i) in any order, in any process, the same every time.

    The scenario's seed changes every text: a server may still hold the prefixes of an earlier run, so each run has a
    seed of its own unless it was given one. With warm_cache the nonce is left out and all jobs of one length say the
    same, so that the prefix cache can answer.

    Reads the prompt file and the trace at once: raises ScenarioError when that cannot be. Lengths that a trace has take
    the place of the scenario's.
    """

    def __init__(
        self,
        scenario: Scenario,
        counter: Counter,
        calibration: Calibration | None = None,
        trace: Trace | None = None,
    ) -> None:
        if trace is None and scenario.trace is not None:
            trace = Trace.read(Path(scenario.trace))
            scenario = scenario.replace(
                input_tokens=scenario.input_tokens if trace.input_tokens is None else (),
                output_tokens=scenario.output_tokens if trace.output_tokens is None else (),
            )
        self.trace = trace
        self.scenario = scenario
        self.counter = counter
        self.calibration = calibration or Calibration()
        self._text = scenario.prompt_text()

    def calibrated(self, calibration: Calibration) -> Workload:
        """Return a workload whose made-up prompts are of the length asked for by the server's own count."""
        return Workload(self.scenario, self.counter, calibration, self.trace)

    def job(self, level: Level, i: int, *, warmup: bool = False) -> Job:
        """Return the i-th job of a level; warm-up jobs are a plan of their own, with prompts of their own."""
        if self.trace is not None:
            level = self._traced(level, self.trace, 0 if warmup else i)
        seed = self._seed(level, i, warmup=warmup)
        return Job(
            id=i,
            level=level.index,
            seed=seed,
            prompt=self.prompt(level, seed),
            input_tokens=level.input_tokens if self._text is None else None,
            output_tokens=level.output_tokens,
            warmup=warmup,
        )

    def _traced(self, level: Level, trace: Trace, i: int) -> Level:
        """Return the level with the lengths of the trace's i-th request."""
        return replace(
            level,
            input_tokens=level.input_tokens if trace.input_tokens is None else trace.input_tokens[i],
            output_tokens=level.output_tokens if trace.output_tokens is None else trace.output_tokens[i],
        )

    def prompt(self, level: Level, seed: int) -> str:
        """Return the text of the job (of this level, with its own lengths where a trace has them) that has this seed."""
        nonce = "" if self.scenario.warm_cache else f"{nonce_of(seed)} "
        if self._text is not None:
            text = self._text if level.words is None else self._text.replace("{words}", str(level.words))
            return nonce + text
        target = self.calibration.ours(level.input_tokens or 1)
        return made_up(target, level.output_tokens, seed, self.counter, nonce=nonce)

    def calibration_job(self, number: int, tokens: int) -> tuple[Job, int]:
        """Return a prompt of so many tokens by our count, to calibrate by, and that count; equal numbers are equal texts."""
        seed = _digest(self.scenario.seed, "calibration", number)
        text = made_up(tokens, None, seed, self.counter, nonce=f"{nonce_of(seed)} ")
        return Job(number, -1, seed, text, tokens, 1, warmup=True), self.counter.count(text)

    def calibration_jobs(self) -> tuple[tuple[Job, int], ...]:
        """Return (job, our count of its prompt) pairs to send once before the clock, for Calibration.fit.

        Half are short, half as long as the longest prompt asked for: there the counts must agree. Each asks for one
        token of answer, and is marked as a warm-up.
        """
        longest = min(max(self.scenario.input_tokens, default=256), CALIBRATION_LONGEST)
        lengths = (min(CALIBRATION_SHORT, max(longest // 2, 1)), longest)
        each = max(1, min(4, CALIBRATION_ENOUGH // longest))
        return tuple(self.calibration_job(number, tokens) for number, tokens in enumerate(lengths * each))

    def _seed(self, level: Level, i: int, *, warmup: bool) -> int:
        if self.scenario.warm_cache:
            return _digest(self.scenario.seed, "warm", level.input_tokens, level.words)
        return _digest(self.scenario.seed, "warm-up" if warmup else "job", level.index, i)


def check_files(scenario: Scenario) -> list[str]:
    """Read the files that a scenario names, before anything is sent; return what to say of them, a sentence each.

    Raises ScenarioError where one cannot be read or makes no sense.
    """
    scenario.prompt_text()
    return [] if scenario.trace is None else Trace.read(Path(scenario.trace)).notes(scenario)


def _digest(*parts: object) -> int:
    """Return 53 bits that depend on every part: enough against collisions, and exact in every JSON reader."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 11


def nonce_of(seed: int) -> str:
    """Return the nonce in front of the prompt with this seed, e.g. "[402718365129]".

    Digits, since vocabularies cut them evenly (by threes, or one by one): every nonce has the same number of tokens, 6
    in cl100k_base and o200k_base. Letters would not: eight hex digits have 5 to 10.
    """
    return f"[{_digest('nonce', seed) % 10**12:012d}]"


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
_COLUMNS = [words.split() for words in (_ADJECTIVES, _NOUNS, _VERBS, _ADJECTIVES, _NOUNS)]
_SENTENCE = 8  # tokens: The … … … the … … .


def _filler(tokens: int, rng: random.Random) -> str:
    """Return sentences of exactly `tokens` tokens (two or more), to be put after a text that does not end in a blank."""
    count = -(-tokens // _SENTENCE)
    columns = [rng.choices(words, k=count) for words in _COLUMNS]
    pieces: list[str] = []
    for first, subject, verb, second, thing in zip(*columns, strict=True):
        pieces += (" The", f" {first}", f" {subject}", f" {verb}", " the", f" {second}", f" {thing}", ".")
    pieces = pieces[:tokens]
    if tokens % _SENTENCE == 1:
        pieces[-1] = " Now"  # a lone full stop would melt into one token with the one before it
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
        start = nonce.rstrip() or "Read:"
        room = tokens - counter.count(start + ask)
        if room >= 0:
            break
    else:
        return nonce.rstrip() or "Read"
    # The sum of the parts is the whole for our words, but vocabularies may join the nonce's end to what follows, so the
    # whole is counted, and corrected by what it is off.
    filler = room
    text = start + ask
    for _ in range(6):
        text = start + _filler(filler, random.Random(seed)) + ask
        off = tokens - counter.count(text)
        if off == 0:
            break
        filler = max(0, filler + off)
    return text
