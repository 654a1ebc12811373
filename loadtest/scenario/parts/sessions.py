"""Sessions: users who hold conversations, turn after turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from loadtest.errors import ScenarioError
from loadtest.scenario.keys import ATTRIBUTE, OPTION, key
from loadtest.scenario.parts.request import EMBEDDINGS
from loadtest.scenario.values import TOKEN_COUNTS, Range

if TYPE_CHECKING:
    from loadtest.scenario.schema import Scenario

TABLE = "sessions"
ANSWERS = ("server", "recorded")
MOST_TURNS = 10_000


@dataclass(frozen=True, kw_only=True)
class SessionKeys:
    """Keys that make requests the turns of conversations; `think_time` is a key of every closed loop."""

    turns: int | str | None = key(
        "Let users hold made-up conversations of so many turns, one after another; a number or a distribution such as "
        "uniform(2, 6). With --data: at most so many turns of each conversation.",
        None,
        bounds=Range(1, MOST_TURNS),
        length=True,
        table=TABLE,
        locust=(ATTRIBUTE, OPTION),
    )
    follow_up_tokens: int | str | None = key(
        "Length of what a user says in each turn after the first, or a distribution; default: input_tokens.",
        None,
        unit="tokens",
        bounds=TOKEN_COUNTS,
        length=True,
        table=TABLE,
        locust=(ATTRIBUTE, OPTION),
    )
    answers: str | None = key(
        "What stands in a conversation as the model's answers: the server's own, or recorded ones (made up where nothing "
        "is recorded). With --data: play its conversations turn by turn.  [default: server]",
        None,
        choices=ANSWERS,
        table=TABLE,
        locust=(ATTRIBUTE, OPTION),
    )

    @property
    def has_sessions(self) -> bool:
        """Whether requests are turns of conversations, made up or from the data."""
        return self.turns is not None or self.answers is not None


def check_sessions(scenario: Scenario) -> None:
    """Raise ScenarioError for conversations that cannot be held."""
    alone = "follow_up_tokens" if scenario.turns is None and scenario.follow_up_tokens is not None else None
    if scenario.turns is None and scenario.data is None and scenario.answers is not None:
        alone = "answers"
    if alone is not None:
        raise ScenarioError(f"{alone} shapes conversations, and there are none; add turns, e.g. turns = 4.")
    if not scenario.has_sessions:
        if scenario.open_loop and scenario.think_time:
            raise ScenarioError("think_time slows the streams of a closed loop; leave it out in an open loop.")
        return
    if isinstance(scenario.turns, int) and scenario.turns > MOST_TURNS:
        raise ScenarioError(f"turns must be at most {MOST_TURNS}, not {scenario.turns}.")
    if scenario.endpoint in ("generate", "completions", EMBEDDINGS):
        raise ScenarioError(
            f"a conversation is made of messages, and {scenario.endpoint} takes none; use chat, responses or messages, or "
            "leave out turns and answers."
        )
    if scenario.literal:
        raise ScenarioError(
            "turns makes up conversations, which begin with no prompt of yours; leave out prompt, or turns."
        )
    for name in ("trace", "unload", "data_once", "up_to_context"):
        if getattr(scenario, name):
            raise ScenarioError(f"{name} is for requests by themselves, not for turns of conversations; leave out one.")
    if scenario.data is not None and scenario.follow_up_tokens is not None:
        raise ScenarioError("follow_up_tokens is for made-up turns, and the data has its own; leave it out.")
