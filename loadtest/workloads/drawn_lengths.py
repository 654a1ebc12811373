"""Lengths drawn from distributions: a pure function of seed, level and the session's number, cut to the context."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.scenario import Level, Scenario, file_version, lengths_of
from loadtest.text import percent
from loadtest.workloads.files.data_file import DataFile
from loadtest.workloads.files.trace import Trace
from loadtest.workloads.files.trace_rows import looks_like_trace
from loadtest.workloads.source import seed_from
from loadtest.workloads.tokens import Counter, TokenFit

LARGER_CONTEXT = "give the model a larger context (on Ollama with --num-ctx)"  # other APIs cannot set it
CONTEXT_MARGIN = 32  # tokens of the context that the longest prompt and its answer leave free …
CONTEXT_MARGIN_PART = 64  # … or one part in so many
SHORTEST_PROMPT = 16  # tokens that a drawn prompt keeps, whatever the answer takes
TRIES = 1000  # requests drawn to tell how many the context will cut
LENGTHS_TRIED = 500  # drawn to tell how long the long ones are
MOST_OBSERVED = 5000  # rows of a data file whose tokens are counted for their lengths


@dataclass(frozen=True, slots=True)
class DrawnLengths:
    seed: int | None
    counter: Counter
    fit: TokenFit
    context: int | None = None

    def at(self, level: Level, i: int, *, warmup: bool) -> Level:
        """Return a level with the lengths of its i-th request."""
        if level.input_lengths is None and level.output_lengths is None:
            return level
        wanted = self.uncut(level, i, warmup=warmup)
        return wanted if self.context is None else _cut(level, wanted, self.context)

    def cut_share(self, level: Level) -> float:
        """Return about which share of a level's requests is cut to the context."""
        tries = [(self.uncut(level, i, warmup=False), self.at(level, i, warmup=False)) for i in range(TRIES)]
        return sum(wanted != got for wanted, got in tries) / TRIES

    def uncut(self, level: Level, i: int, *turn: int, warmup: bool) -> Level:
        """Return a level with the lengths of its i-th request, or of a later turn of its i-th session."""
        drawn: dict[str, Any] = {}
        for side, text in (("input", level.input_lengths), ("output", level.output_lengths)):
            if text is None:
                continue
            # A file's prompt and answer are drawn at one `place`: they belong together.
            where = ("lengths", "warm-up" if warmup else "job", self.seed, level.index, i, *turn)
            place = seed_from(*where, "place") / (1 << 53)
            rng = random.Random(seed_from(*where, side))
            observed = functools.partial(observed_lengths, counter=self.counter, fit=self.fit, side=side)
            drawn[f"{side}_tokens"] = lengths_of(text).draw(rng, place, observed)
        return replace(level, **drawn)


def _cut(level: Level, wanted: Level, context: int) -> Level:
    """Return a level whose drawn lengths leave room in the context for prompt and answer."""
    room = context - max(CONTEXT_MARGIN, context // CONTEXT_MARGIN_PART) - (level.system_tokens or 0)
    prompt, answer = wanted.input_tokens or 0, wanted.output_tokens or 0
    if prompt + answer <= room:
        return wanted
    if level.input_lengths is not None:
        prompt = max(room - answer, min(SHORTEST_PROMPT, prompt))
    if level.output_lengths is not None:
        answer = max(min(answer, room - prompt), 1)
    return replace(
        wanted,
        input_tokens=None if wanted.input_tokens is None else prompt,
        output_tokens=None if wanted.output_tokens is None else answer,
    )


def observed_lengths(file: str, counter: Counter, fit: TokenFit, side: str) -> Sequence[int]:
    """Return the lengths of a trace's or a data file's "input" or "output", in its order; empty where it does not say them."""
    return _observed_lengths(file, counter, fit, file_version(Path(file)))[side]


@functools.lru_cache(maxsize=4)
def _observed_lengths(file: str, counter: Counter, fit: TokenFit, _: tuple[int, ...]) -> dict[str, Sequence[int]]:
    path = Path(file)
    if looks_like_trace(path):
        trace = Trace.read(path, timed=False)
        return {"input": trace.input_tokens or (), "output": trace.output_tokens or ()}
    rows = DataFile.read(path, None)
    step = max(len(rows) // MOST_OBSERVED, 1)
    picked = [rows.row(i) for i in range(0, len(rows), step)]
    inputs = [fit.server(counter.count(row.text)) for row in picked]
    answers = [row.output_tokens or (counter.count(row.answer) if row.answer else 0) for row in picked]
    return {"input": inputs, "output": answers if all(answers) else ()}


def check_lengths_files(scenario: Scenario, counter: Counter) -> None:
    """Raise ScenarioError for a file of an empirical distribution that cannot be read, or has not the lengths asked for."""
    for side, values in (("input", scenario.input_tokens), ("output", scenario.output_tokens)):
        for file in (file for value in values if isinstance(value, str) for file in lengths_of(value).files):
            if not observed_lengths(file, counter, TokenFit(), side):
                what = "prompts" if side == "input" else "answers (for every row)"
                raise ScenarioError(f"{side}_tokens: {file} does not say the lengths of {what}; give a file that does.")


def cut_notes(scenario: Scenario, drawn: DrawnLengths) -> Iterator[str]:
    """Yield a sentence for each pair of distributions that the context cuts."""
    said = set()
    for level in scenario.levels():
        pair = (level.input_lengths or level.input_tokens, level.output_lengths or level.output_tokens)
        if pair in said or (level.input_lengths is None and level.output_lengths is None):
            continue
        said.add(pair)
        if (share := drawn.cut_share(level)) > 0:
            what = " and ".join(
                f"{each} {way}" for each, way in zip(pair, ("in", "out"), strict=True) if each is not None
            )
            yield (
                f"{what}: about {percent(share)} of the requests would pass the context of {drawn.context} tokens; their "
                "lengths are cut to fit."
            )


def upper_length(value: int | str, counter: Counter) -> int:
    """Return a length, or the one that one in twenty of a distribution's passes."""
    if isinstance(value, int):
        return value
    rng, lengths = random.Random(0), lengths_of(value)
    fit = TokenFit()
    places = [i / LENGTHS_TRIED for i in range(LENGTHS_TRIED)]
    drawn = [lengths.draw(rng, place, lambda file: observed_lengths(file, counter, fit, "input")) for place in places]
    return sorted(drawn)[LENGTHS_TRIED * 19 // 20]
