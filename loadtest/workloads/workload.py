"""What a run sends: the sessions of a scenario's source, with lengths drawn or recorded, behind what all prompts share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Self

from loadtest.errors import ScenarioError
from loadtest.scenario import EMBEDDINGS, Level, Scenario
from loadtest.text import counted
from loadtest.workloads.conversations import ConversationSource
from loadtest.workloads.data_source import DataSource, check_rows_fit, data_file, data_notes
from loadtest.workloads.drawn_lengths import DrawnLengths, check_lengths_files, cut_notes, upper_length
from loadtest.workloads.job import Job
from loadtest.workloads.literal import LiteralText
from loadtest.workloads.schedule import trace_of
from loadtest.workloads.shared_prefix import PrefixedSession, behind_prefix
from loadtest.workloads.source import Session, Source, nonce_of, seed_from
from loadtest.workloads.synthetic import HashedBlocks, Synthetic, made_up
from loadtest.workloads.tokens import Counter, TokenFit

# the first that a scenario asks for gives its sessions
SOURCES: list[type[Source]] = [ConversationSource, LiteralText, DataSource, HashedBlocks, Synthetic]

# by our own count: what the server counts of so short a text and of a longer one gives the template's overhead and the ratio
FIT_SHORT = 32
FIT_LONGEST = 2048  # a longer text would cost the server more than it tells
FIT_ENOUGH = 512  # tokens of long texts whose counts make a mean: unlike vocabularies scatter


class Workload:
    """Gives the sessions of a scenario: session(level, i) in any order, in any process, the same every time.

    The scenario's seed changes every text. A server may still hold the prefixes of an earlier run, so each run has a seed
    of its own unless it was given one. Files are read at once: raises ScenarioError where one cannot be read. Lengths of a
    trace or a data file replace the scenario's. Drawn lengths are cut to `context`, where it is known.
    """

    def __init__(
        self, scenario: Scenario, counter: Counter, fit: TokenFit | None = None, context: int | None = None
    ) -> None:
        self.trace = trace_of(scenario)
        self.scenario = scenario = as_files_say(scenario)
        self.counter = counter
        self.fit = fit or TokenFit()
        found = (kind.of(scenario, counter, self.fit) for kind in SOURCES)
        self.source = next(source for source in found if source is not None)
        self.lengths = DrawnLengths(scenario.seed, counter, self.fit, context)
        self.prefix = behind_prefix(scenario, counter, self.fit)
        if isinstance(self.source, ConversationSource):
            self.source = replace(self.source, lengths=self.lengths)

    def fitted(self, fit: TokenFit, context: int | None = None) -> Self:
        """Return a workload whose prompts have the length asked for by the server's own count, and fit its context."""
        return type(self)(self.scenario, self.counter, fit, context)

    def session(self, level: Level, i: int, *, warmup: bool = False, source: Source | None = None) -> Session:
        """Return the i-th session of a level; `source` says what instead of the scenario's own."""
        source = source or self.source
        if isinstance(source, ConversationSource):
            return source.session(level, i, warmup=warmup)
        if self.trace is not None:
            level = self.trace.with_lengths(level, 0 if warmup else i)
            if self.scenario.endpoint == EMBEDDINGS:
                level = replace(level, output_tokens=None)
        level = self.lengths.at(level, i, warmup=warmup)
        session = source.session(level, i, warmup=warmup)
        if self.prefix is None:
            return session
        return PrefixedSession(session, *self.prefix.drawn(level, i, warmup=warmup))

    @property
    def turns_mean(self) -> float:
        return self.source.turns_mean if isinstance(self.source, ConversationSource) else 1.0

    def fit_job(self, number: int, tokens: int) -> tuple[Job, int]:
        """Return a request to fit token counts by, whose prompt has `tokens` tokens by our count, and that count.

        Behind the nonce, equal numbers give equal texts in every run. The fit of a few texts is off by some percent where
        the server's vocabulary splits our words. With equal texts all runs are off by the same, and can be compared.
        """
        seed = seed_from(self.scenario.seed, "calibration", number)
        text = made_up(tokens, None, seed_from("calibration", number), self.counter, nonce=nonce_of(seed))
        job, ours = Job(number, -1, seed, text, tokens, 1, warmup=True), self.counter.count(text)
        if self.prefix is None:
            return job, ours
        job, shared = self.prefix.fit_job(job)
        return job, ours + shared

    def fit_jobs(self) -> tuple[tuple[Job, int], ...]:
        """Return (job, our count of its prompt) pairs to send once before the clock, for TokenFit.fit.

        Half are short, half as long as the longest prompt asked for: there the counts must agree. Each job asks for one
        token of answer, and is marked as a warm-up.
        """
        asked = (upper_length(value, self.counter) for value in self.scenario.input_tokens)
        longest = min(max(asked, default=256), FIT_LONGEST)
        lengths = (min(FIT_SHORT, max(longest // 2, 1)), longest)
        each = max(1, min(4, FIT_ENOUGH // longest))
        return tuple(self.fit_job(number, tokens) for number, tokens in enumerate(lengths * each))

    def check_context(self) -> None:
        """Raise ScenarioError for a row of a data file that does not fit the context, where that is known."""
        context, file = self.lengths.context, data_file(self.scenario)
        if file is not None and context is not None:
            check_rows_fit(file, self.scenario, self.counter, self.fit, context)

    def notes(self) -> Iterator[str]:
        """Yield what a user should know of lengths that were cut to the context, a sentence each."""
        if isinstance(self.source, ConversationSource):
            yield from self.source.early_notes()
        elif self.lengths.context is not None and not self.scenario.literal:
            yield from cut_notes(self.scenario, self.lengths)


def as_files_say(scenario: Scenario) -> Scenario:
    """Return a scenario without the lengths that its files replace, and with as many requests as data_once asks for."""
    if (trace := trace_of(scenario)) is not None:
        scenario = scenario.replace(
            input_tokens=scenario.input_tokens if trace.input_tokens is None else (),
            output_tokens=scenario.output_tokens if trace.output_tokens is None else (),
        )
    file = data_file(scenario)
    if file is None:
        return scenario
    if file.own_lengths == len(file):
        scenario = scenario.replace(output_tokens=())
    if not scenario.data_once:
        return scenario
    if (most := max(scenario.concurrency, default=1)) > len(file):
        raise ScenarioError(
            f"{counted(len(file), 'row')} of {file.path} cannot keep {most} streams busy; ask for {len(file)} or fewer."
        )
    return scenario.replace(requests=len(file))


def check_files(scenario: Scenario) -> list[str]:
    """Read the files that a scenario names, before anything is sent; return what to say of them, a sentence each.

    Raises ScenarioError where a file cannot be read or makes no sense.
    """
    scenario.prompt_text()
    scenario.system_text()
    if scenario.data_once and scenario.requests is not None:
        raise ScenarioError("data_once says how many requests a level has; leave out requests.")
    check_lengths_files(scenario, Counter("estimate: before anything is sent"))
    found, trace, file = as_files_say(scenario), trace_of(scenario), data_file(scenario)
    notes = [] if trace is None else list(trace.notes(scenario))
    return notes if file is None else [*notes, *data_notes(file, found)]
