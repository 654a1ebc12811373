"""The very conversations of a run to come: its seed says what people say in each, and how long they think before each turn.

Who holds which depends on when answers end, so the engine hands them out, in order, as a run does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np

from loadtest.analyse.run import FloatArray, RunData
from loadtest.analyse.server.prompt_cache.cache import of_turn_before
from loadtest.analyse.whatif.model.seeded_run import (
    AS_LONG_AS_ASKED,
    COUNTER,
    SeededRun,
    kept_context,
    level_like,
    refusal_of,
    refuse_requests,
)
from loadtest.errors import ScenarioError
from loadtest.scenario import Level, Scenario
from loadtest.simulate.model.virtual import EngineScript, EngineTurn
from loadtest.workloads.conversations import MESSAGE_TOKENS, ConversationSource
from loadtest.workloads.drawn_lengths import DrawnLengths
from loadtest.workloads.schedule import mean_think_time, think_time_of
from loadtest.workloads.tokens import TokenFit

FEWEST_GROWN = 8  # later turns of which the growth of prompts is read


class PromptTokens(NamedTuple):
    """What a server counts in prompts, beyond what was asked for."""

    first: float  # tokens that a first turn's prompt has beyond the text asked for
    later: float  # tokens by which a later turn's prompt grows beyond the text asked for and the answer before it
    answer: float  # share of the answer before it by which the prompt grows

    @classmethod
    def of(cls, run: RunData, scenario: Scenario, level: Level) -> Self:
        """Read them from a level of a run, whose own seed says what was asked for."""
        source = _source_of(scenario, kept_context(run))
        rows = run.good(level.index) | (run.flag("warmup") & run.flag("ok") & (run.column("level") == level.index))
        session, turn = run.column("session")[rows], run.column("turn")[rows]
        asked = np.array(
            [
                source.script(level, int(i), warmup=False).lengths(int(number)).input_tokens or 0
                for i, number in zip(session, turn, strict=True)
            ],
            dtype=np.float64,
        )
        prompt, answer = (of_turn_before(run, run.column(name))[rows] for name in ("prompt_tokens", "output_tokens"))
        more = run.column("prompt_tokens")[rows] - asked
        first = more[(turn == 0) & np.isfinite(more)]
        grown, answer = (each[(turn > 0) & np.isfinite(more - prompt - answer)] for each in (more - prompt, answer))
        share = 1.0
        if len(grown) >= FEWEST_GROWN and answer.std() > 0:
            share = float(np.polyfit(answer, grown, 1)[0])
        return cls(
            float(np.median(first)) if len(first) else 0.0,
            float(np.median(grown - share * answer)) if len(grown) else 0.0,
            share,
        )


@dataclass(frozen=True, slots=True)
class SeededPeople:
    """The conversations of one level of such a run, in the order in which free users take them."""

    run: SeededRun
    scenario: Scenario  # of the run predicted from, with the seed of the one to come
    like: Level  # a level of the run predicted from, with its place in the run to come
    counted: PromptTokens
    answers: FloatArray | None  # to draw from; None where answers are as long as asked for
    context: int | None

    @classmethod
    def of(cls, run: RunData, used: Mapping[str, Any], seeded: SeededRun, place: int) -> Self:
        """Take from a run what its next one keeps; `used` is the first level predicted from. Raises PredictionError."""
        if refusal := refusal_of(run, used) or _refusal(run):
            refuse_requests(refusal)
        used = next(each for each in run.levels if each["index"] == used["index"])  # as it was asked for
        scenario, level = _scenario_of(run), level_like(used, used["index"], seeded.requests)
        good = run.good(level.index)
        outputs, asked = run.column("output_tokens")[good], run.column("asked")[good]
        as_asked = (outputs == asked).mean() >= AS_LONG_AS_ASKED
        return cls(
            seeded,
            scenario.replace(seed=seeded.seed),
            replace(level, index=place),
            PromptTokens.of(run, scenario, level),
            None if as_asked else outputs[np.isfinite(outputs)],
            kept_context(run),
        )

    @property
    def joined_over_s(self) -> float:
        """Over which time people come, one by one."""
        return mean_think_time(self.scenario)

    def conversations(self, turns: int, users: int, draw: random.Random) -> list[EngineScript]:
        """Return the first conversations that hold so many turns, and at least one a person; `draw` gives what is unknown."""
        found: list[EngineScript] = []
        held = 0
        while held < turns or len(found) < users:
            script = tuple(self._turns(len(found), turns, draw))
            found.append(script)
            held += len(script)
        return found

    def _turns(self, session: int, most: int, draw: random.Random) -> Iterator[EngineTurn]:
        """Yield the turns of a conversation, up to `most` and to the one that would pass the context."""
        script = _source_of(self.scenario, self.context).script(self.like, session, warmup=False)
        held, grown = self.counted.first, 0.0
        for number in range(min(script.turns, most)):
            lengths = script.lengths(number)
            asked, answer = lengths.input_tokens or 1, lengths.output_tokens
            if answer is None or self.answers is not None:
                answer = 1 if self.answers is None else int(draw.choice(self.answers))
            if number and self._passes(grown, asked, answer):
                return
            prompt = max(round(held + asked), 1)
            yield EngineTurn(
                prompt, answer, think_time_of(self.scenario, self.like.index, session, number, warmup=False)
            )
            held, grown = prompt + self.counted.answer * answer + self.counted.later, prompt + answer

    def _passes(self, held: float, asked: int, answer: int) -> bool:
        """Whether a later turn would pass the context, as a run reckons it before it sends one."""
        return self.context is not None and held + 2 * MESSAGE_TOKENS + asked + answer > self.context


def _source_of(scenario: Scenario, context: int | None) -> ConversationSource:
    fit = TokenFit()
    return ConversationSource(scenario, COUNTER, fit, DrawnLengths(scenario.seed, COUNTER, fit, context), None)


def _scenario_of(run: RunData) -> Scenario:
    try:
        return Scenario.from_dict(dict(run.scenario), where=str(run.path))
    except ScenarioError as error:
        refuse_requests(f"what {run.path} was asked to do is not known ({error})")


def _refusal(run: RunData) -> str:
    """Say in a clause why the conversations of a next run are not known; empty where they are."""
    if file := run.scenario.get("data"):
        return f"the conversations of {run.path} come from {file}, which may be another file by then"
    if not isinstance(run.scenario.get("seed"), int):
        return f"{run.path} does not say the seed of its conversations"
    return ""
