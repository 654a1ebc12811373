"""A conversation that is played turn by turn: what the user says, what stands as the model's answer, and when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from loadtest.scenario import Level
from loadtest.workloads.job import History, Job
from loadtest.workloads.messages import answer_message, calls_a_tool, text_of
from loadtest.workloads.source import Answered

MESSAGE_TOKENS = 8  # that a chat template may put around a message


@dataclass(frozen=True, slots=True)
class Turn:
    """What a user says in one turn, and the answer that it asks for."""

    text: str
    tokens: int  # that the text adds to the prompt, by the server's count; about so many in a text of the user's
    sure_tokens: int  # of them those that no way of counting leaves out
    seed: int
    input_tokens: int | None  # asked for
    output_tokens: int | None
    messages: Sequence[Mapping[str, Any]] | None = None  # instead of the text
    recorded: Mapping[str, Any] | None = None  # the answer that stands in the history, not the server's own


class Script(Protocol):
    """What the user of one conversation says: a turn's text depends on its number alone."""

    def turn(self, number: int) -> Turn | None:
        """Return a turn; None where the conversation is over."""
        ...


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

    __slots__ = ("_counted", "_held", "_history", "_next", "_setting", "_spoken", "_turns", "passed")

    def __init__(self, script: Script, setting: Setting) -> None:
        self._setting = setting
        self._turns = script
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
        """Whether the turn to come depends on the answer before it; otherwise that need not be decoded first."""
        return self._spoken is not None and self._spoken.recorded is None

    def next(self, answer: str | None) -> Job | None:
        self.hear(answer)
        turn = self.peek()
        return None if turn is None else self.say(turn)

    def peek(self) -> Turn | None:
        """Return the turn to come; None where the conversation is over, or the context has no room for it."""
        return self.fitting(self._turns.turn(self._next))

    def fitting(self, turn: Turn | None) -> Turn | None:
        """Return this turn as the one to come; None where there is none, or the context has no room for it."""
        context = self._setting.context
        if turn is None or context is None or not self._next:
            return turn
        if self._held + turn.tokens + (turn.output_tokens or 1) <= context:
            return turn
        self.passed = f"the conversation ends here, for its next turn would pass the context of {context} tokens"
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

    def hear(self, answer: str | None) -> None:
        """Put the answer to the turn before into the history, and take what the server counted."""
        spoken = self._spoken
        if spoken is None:
            return
        recorded = spoken.recorded
        if recorded is None or not calls_a_tool(recorded):
            text = str(answer or "") if recorded is None else text_of([recorded])
            recorded = answer_message(text, self._setting.endpoint)
        self._history.add(recorded)
        output = spoken.output_tokens or 0
        if isinstance(answer, Answered):
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
