"""What a run sends: the sessions of a scenario's source, with recorded lengths where the scenario has a trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loadtest.scenario import EMBEDDINGS, Level, Scenario
from loadtest.workloads.job import Job
from loadtest.workloads.literal import LiteralText
from loadtest.workloads.nonce import nonce_of, seed_from
from loadtest.workloads.source import Session, Source
from loadtest.workloads.synthetic import Synthetic, made_up
from loadtest.workloads.tokens import Counter, TokenFit
from loadtest.workloads.trace import Trace

SOURCES: list[type[Source]] = [LiteralText, Synthetic]  # the first that a scenario asks for gives its sessions

FIT_SHORT = (
    32  # tokens of ours: the server's counts of this and of a longer text give the template's overhead and the ratio
)
FIT_LONGEST = 2048  # a longer text would cost the server more than it tells
FIT_ENOUGH = 512  # tokens of long texts whose counts make a mean: unlike vocabularies scatter


class Workload:
    """Gives the sessions of a scenario: session(level, i) in any order, in any process, the same every time.

    The scenario's seed changes every text. A server may still hold the prefixes of an earlier run, so each run has a seed
    of its own unless it was given one. Files are read at once: raises ScenarioError where one cannot be read. Lengths of a
    trace replace the scenario's.
    """

    def __init__(
        self, scenario: Scenario, counter: Counter, fit: TokenFit | None = None, trace: Trace | None = None
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
        self.fit = fit or TokenFit()
        self.source = source_of(scenario, counter, self.fit)

    def fitted(self, fit: TokenFit) -> Workload:
        """Return a workload whose made-up prompts have the length asked for by the server's own count."""
        return Workload(self.scenario, self.counter, fit, self.trace)

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Session:
        """Return the i-th session of a level."""
        if self.trace is not None:
            level = self.trace.with_lengths(level, 0 if warmup else i)
            if self.scenario.endpoint == EMBEDDINGS:
                level = replace(level, output_tokens=None)
        return self.source.session(level, i, warmup=warmup)

    def job(self, level: Level, i: int, *, warmup: bool = False) -> Job:
        """Return the first job of the i-th session of a level."""
        job = self.session(level, i, warmup=warmup).next(None)
        assert job is not None, "a session has at least one job"
        return job

    def fit_job(self, number: int, tokens: int) -> tuple[Job, int]:
        """Return a prompt of so many tokens by our count, to fit counts by, and that count; equal numbers are equal texts."""
        seed = seed_from(self.scenario.seed, "calibration", number)
        text = made_up(tokens, None, seed, self.counter, nonce=f"{nonce_of(seed)} ")
        return Job(number, -1, seed, text, tokens, 1, warmup=True), self.counter.count(text)

    def fit_jobs(self) -> tuple[tuple[Job, int], ...]:
        """Return (job, our count of its prompt) pairs to send once before the clock, for TokenFit.fit.

        Half are short, half as long as the longest prompt asked for: there the counts must agree. Each job asks for one
        token of answer, and is marked as a warm-up.
        """
        longest = min(max(self.scenario.input_tokens, default=256), FIT_LONGEST)
        lengths = (min(FIT_SHORT, max(longest // 2, 1)), longest)
        each = max(1, min(4, FIT_ENOUGH // longest))
        return tuple(self.fit_job(number, tokens) for number, tokens in enumerate(lengths * each))


def source_of(scenario: Scenario, counter: Counter, fit: TokenFit) -> Source:
    """Return what gives a scenario's sessions."""
    found = (kind.of(scenario, counter, fit) for kind in SOURCES)
    return next(source for source in found if source is not None)


def check_files(scenario: Scenario) -> list[str]:
    """Read the files that a scenario names, before anything is sent; return what to say of them, a sentence each.

    Raises ScenarioError where a file cannot be read or makes no sense.
    """
    scenario.prompt_text()
    return [] if scenario.trace is None else Trace.read(Path(scenario.trace)).notes(scenario)
