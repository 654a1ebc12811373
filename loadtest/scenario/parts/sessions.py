"""Sessions: users who hold conversations, turn after turn."""

from __future__ import annotations

from dataclasses import dataclass

from loadtest.scenario.keys import ATTRIBUTE, OPTION, key
from loadtest.scenario.values import TOKEN_COUNTS, Range

TABLE = "sessions"
ANSWERS = ("server", "recorded")
MOST_TURNS = 10_000  # of a conversation


@dataclass(frozen=True, kw_only=True)
class SessionKeys:
    """Keys that make requests the turns of conversations; `think_time` is a key of every closed loop."""

    turns: int | str | None = key(
        "Let users hold made-up conversations of this many turns, one after another; a number or a distribution such as "
        "uniform(2, 6). With --data: at most this many turns of each conversation.",
        None,
        bounds=Range(1, MOST_TURNS),
        length=True,
        table=TABLE,
        locust=(ATTRIBUTE, OPTION),
    )
    follow_up_tokens: int | str | None = key(
        "Length of what a user says in each turn after the first, or a distribution; default: --input-tokens.",
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
