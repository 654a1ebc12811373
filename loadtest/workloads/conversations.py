"""Conversations, made up or played from a data file: what the user says turn by turn, and what stands as the model's answers."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from loadtest.scenario import Level, Scenario, lengths_of
from loadtest.text import percent
from loadtest.workloads.data_source import DataSource
from loadtest.workloads.drawn_lengths import DrawnLengths
from loadtest.workloads.job import History, Job
from loadtest.workloads.messages import answer_message, calls_a_tool, rounds, system_apart, text_of
from loadtest.workloads.shared_prefix import SharedPrefix, behind_prefix
from loadtest.workloads.source import Answered, nonce_of, seed_from, seed_of
from loadtest.workloads.synthetic import made_up, made_up_document
from loadtest.workloads.tokens import Counter, TokenFit

MESSAGE_TOKENS = 8  # that a chat template may put around a message
MOST_PLAYED = 10_000  # turns of a conversation
CONVERSATIONS_DRAWN = 200  # conversations whose lengths are drawn to tell how many end early
PAST_CONTEXT = "would pass the context of"  # in the note of a conversation that ends early
# of what a made-up turn adds, for sure_tokens: vocabularies and templates may count the rest otherwise
SURE_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user says in one turn, and the answer that it asks for."""

    text: str
    tokens: int  # tokens that the text adds to the prompt by the server's count; about so many where the user wrote it
    sure_tokens: int  # how many of those are counted whatever the vocabulary and the template
    seed: int
    input_tokens: int | None  # asked for
    output_tokens: int | None
    messages: Sequence[Mapping[str, Any]] | None = None  # instead of the text
    recorded: Mapping[str, Any] | None = None  # the answer that stands in the history, not the server's own


@dataclass(frozen=True, slots=True)
class Setting:
    """What all turns of a conversation share."""

    level: Level
    session: int
    warmup: bool = False
    system: str | None = None
    system_tokens: int = 0
    context: int | None = None  # of the model, tokens
    endpoint: str = "chat"
    row: str | None = None
    body: Mapping[str, Any] | None = None


class Conversation:
    """Gives the jobs of one conversation.

    It is over behind its last turn, or before the turn that would pass the context: `passed` then says so.
    """

    __slots__ = ("_counted", "_held", "_history", "_next", "_setting", "_spoken", "_turn", "passed")

    def __init__(self, turn: Callable[[int], Turn | None], setting: Setting) -> None:
        """`turn` gives the turn of a number, None behind the last one."""
        self._setting = setting
        self._turn = turn
        self._history = History(setting.system)
        self._next = 0  # number of the turn to come
        self._spoken: Turn | None = None  # the turn before it
        self._held = setting.system_tokens  # tokens of the history, as far as they are known
        self._counted: tuple[int, int] | None = None  # the turn whose prompt the server counted last, and its count
        self.passed: str | None = None

    @property
    def number(self) -> int:
        """Its number among the sessions of its level."""
        return self._setting.session

    @property
    def hears(self) -> bool:
        """Whether the next turn needs the answer before it; where it does not, that answer need not be decoded first."""
        return self._spoken is not None and self._spoken.recorded is None

    def next(self, answer: Answered | None) -> Job | None:
        self.hear(answer)
        turn = self.peek()
        return None if turn is None else self.say(turn)

    def peek(self) -> Turn | None:
        """Return the turn to come; None where the conversation is over, or the context has no room for it."""
        return self.fitting(self._turn(self._next))

    def fitting(self, turn: Turn | None) -> Turn | None:
        """Return `turn` where the context has room for it, else None, and note in `passed` that the conversation ends."""
        context = self._setting.context
        if turn is None or context is None or not self._next:
            return turn
        if self._held + turn.tokens + (turn.output_tokens or 1) <= context:
            return turn
        self.passed = f"the conversation ends here, for its next turn {PAST_CONTEXT} {context} tokens"
        return None

    def say(self, turn: Turn) -> Job:
        """Return the job of a turn."""
        setting, number = self._setting, self._next
        self._history.add(*(turn.messages or ({"role": "user", "content": turn.text},)))
        self._held += turn.tokens
        self._spoken, self._next = turn, number + 1
        asked = turn.input_tokens
        return Job(
            setting.session,
            setting.level.index,
            turn.seed,
            turn.text,
            asked + setting.system_tokens if asked is not None else None,
            turn.output_tokens,
            warmup=setting.warmup,
            session=setting.session,
            turn=number,
            row=setting.row,
            body=setting.body,
            encoded=self._history.encoded(),
            sure_tokens=turn.sure_tokens,
        )

    def hear(self, answer: Answered | None) -> None:
        """Put the answer to the turn before into the history, and take what the server counted."""
        spoken = self._spoken
        if spoken is None:
            return
        recorded = spoken.recorded
        if recorded is None:
            recorded = answer_message("" if answer is None else answer.text, self._setting.endpoint)
        elif not calls_a_tool(recorded):
            recorded = answer_message(text_of([recorded]), self._setting.endpoint)
        self._history.add(recorded)
        output = spoken.output_tokens or 0
        if answer is not None:
            output = output if answer.output_tokens is None else answer.output_tokens
            if answer.prompt_tokens is not None:
                self._held = answer.prompt_tokens
        self._held += output + MESSAGE_TOKENS
        self._spoken = None

    def doubt(self, number: int, prompt_tokens: int, sure_tokens: int) -> str | None:
        """Take the server's count of a turn's prompt, turn after turn; return why it shows that the server cut the history."""
        before, self._counted = self._counted, (number, prompt_tokens)
        if before is None or before[0] + 1 != number:
            return None
        least = before[1] + sure_tokens
        if prompt_tokens >= least:
            return None
        return "the server counted fewer tokens in the prompt than the conversation has: it cut what was said before"


@dataclass(frozen=True, slots=True)
class MadeUpScript:
    """What the user of one made-up conversation says: every turn is a pure function of the seed, the session and its number."""

    source: ConversationSource
    level: Level
    session: int
    warmup: bool
    seed: int
    turns: int

    def turn(self, number: int) -> Turn | None:
        return None if number >= self.turns else self.any_turn(number)

    def any_turn(self, number: int) -> Turn:
        """Return a turn, whether the conversation has so many or not."""
        level = self.lengths(number)
        scenario, counter, fit = self.source.scenario, self.source.counter, self.source.fit
        seed = seed_from(self.seed, "turn", number) if number else self.seed
        asked = level.input_tokens or 1
        ours = fit.ours_added(asked) if number else fit.ours(asked)
        nonce = "" if number or scenario.warm_cache else nonce_of(seed)
        text = made_up(ours, level.output_tokens, seed, counter, nonce=nonce)
        return Turn(
            text,
            asked + (MESSAGE_TOKENS if number else 0),
            int(SURE_SHARE * asked),
            seed,
            None if number else asked,
            level.output_tokens,
            recorded=self._recorded(level, seed) if scenario.answers == "recorded" else None,
        )

    def tokens(self, shared: int) -> int:
        """Return about how long the conversation gets, its last answer included, behind `shared` tokens."""
        levels = [self.lengths(number) for number in range(self.turns)]
        said = sum((level.input_tokens or 1) + (level.output_tokens or 0) for level in levels)
        return shared + said + 2 * MESSAGE_TOKENS * (len(levels) - 1)

    def lengths(self, number: int) -> Level:
        """Return the level with what a turn adds to the prompt, and with the length of its answer, as they are asked for."""
        level, warmup = self.level, self.warmup
        if number == 0:
            return self.source.lengths.at(level, self.session, warmup=warmup)
        asked = self.source.scenario.follow_up_tokens
        if isinstance(asked, int):
            level = replace(level, input_tokens=asked, input_lengths=None)
        elif asked is not None:
            level = replace(level, input_tokens=None, input_lengths=asked)
        return self.source.lengths.uncut(level, self.session, number, warmup=warmup)

    def _recorded(self, level: Level, seed: int) -> Mapping[str, Any]:
        ours = self.source.fit.ours_added(level.output_tokens or 1)
        return {"role": "assistant", "content": made_up_document(ours, seed_from(seed, "answer"), self.source.counter)}


def mean_turns(scenario: Scenario) -> float:
    """Return about how many turns a conversation has, before any is made; 1 for requests by themselves."""
    found = ConversationSource.of(scenario, Counter("estimate: before anything is sent"), TokenFit())
    return 1.0 if found is None else found.turns_mean


@dataclass(frozen=True, slots=True)
class ConversationSource:
    scenario: Scenario
    counter: Counter
    fit: TokenFit
    lengths: DrawnLengths
    prefix: SharedPrefix | None  # what all conversations begin with
    rows: DataSource | None = None  # of a data file; None: they are made up

    @classmethod
    def of(cls, scenario: Scenario, counter: Counter, fit: TokenFit) -> Self | None:
        if not scenario.has_sessions:
            return None
        lengths, prefix = DrawnLengths(scenario.seed, counter, fit), behind_prefix(scenario, counter, fit)
        return cls(scenario, counter, fit, lengths, prefix, DataSource.of(scenario, counter, fit))

    def session(self, level: Level, i: int, *, warmup: bool = False) -> Conversation:
        system, tokens = (None, 0) if self.prefix is None else self.prefix.drawn(level, i, warmup=warmup)
        setting = Setting(level, i, warmup, system, tokens, self.lengths.context, self.scenario.endpoint)
        if self.rows is not None:
            return self._from_data(self.rows, setting)
        return Conversation(self.script(level, i, warmup=warmup).turn, setting)

    def script(self, level: Level, i: int, *, warmup: bool) -> MadeUpScript:
        seed = seed_of(self.scenario, level, i, warmup=warmup)
        return MadeUpScript(self, level, i, warmup, seed, self._turns(seed))

    def _turns(self, seed: int) -> int:
        turns = self.scenario.turns
        if not isinstance(turns, str):
            return turns or MOST_PLAYED
        rng = random.Random(seed_from(seed, "turns"))
        return min(lengths_of(turns).draw(rng, 0.0, lambda _: (1,)), MOST_PLAYED)

    @property
    def turns_mean(self) -> float:
        turns = self.scenario.turns
        most = turns if isinstance(turns, int) else MOST_PLAYED if turns is None else round(lengths_of(turns).mean)
        if self.rows is None:
            return most
        file = self.rows.file
        some = range(0, len(file), max(len(file) // 100, 1))
        counts = [len(rounds(system_apart(row.transcript)[1], alone=row.questions)) for row in map(file.row, some)]
        return sum(min(count, most) for count in counts) / len(counts)

    def early_share(self, level: Level) -> float:
        """Return about which share of a level's made-up conversations ends before its last turn, for want of context."""
        context = self.lengths.context
        if context is None or self.rows is not None:
            return 0.0
        shared = 0 if self.prefix is None else self.scenario.system_tokens or self.prefix.literal_tokens
        scripts = (self.script(level, i, warmup=False) for i in range(CONVERSATIONS_DRAWN))
        return sum(script.tokens(shared) > context for script in scripts) / CONVERSATIONS_DRAWN

    def early_notes(self) -> Iterator[str]:
        """Yield a sentence for each kind of conversation of which some end early."""
        said = set()
        for level in self.scenario.levels():
            kind = level.label.partition(" · ")[2]
            if kind not in said and (share := self.early_share(level)) > 0:
                said.add(kind)
                yield (
                    f"{kind}: about {percent(share)} of the conversations end before their last turn, which would pass the "
                    f"context of {self.lengths.context} tokens."
                )

    def _from_data(self, rows: DataSource, setting: Setting) -> Conversation:
        level, i = setting.level, setting.session
        number = rows.number(level, i, warmup=setting.warmup)
        row = rows.file.row(number)
        seed = seed_of(self.scenario, level, i, warmup=setting.warmup)
        lengths = functools.partial(self.lengths.uncut, level, i, warmup=setting.warmup)

        system, transcript = system_apart(row.transcript)
        if system is not None:
            setting = replace(setting, system=system, system_tokens=self._count(system))
        played = rounds(transcript, alone=row.questions)[: self._turns(seed)]

        def turn(number: int) -> Turn | None:
            if number >= len(played):
                return None
            said, answer = played[number]
            text = text_of(said)
            # a recorded call of a tool is kept in any case: the tool's recorded answer follows it
            kept = answer is not None and (self.scenario.answers == "recorded" or calls_a_tool(answer))
            return Turn(
                text,
                self._count(text) + MESSAGE_TOKENS * len(said),
                0,
                seed_from(seed, "turn", number) if number else seed,
                None,
                row.output_tokens if row.output_tokens is not None else lengths(number).output_tokens,
                messages=said,
                recorded=answer if kept else None,
            )

        row_id = row.id if row.id is not None else str(number + 1)
        return Conversation(turn, replace(setting, row=row_id, body=row.body))

    def _count(self, text: str) -> int:
        return round(self.fit.ratio * self.counter.count(text))
