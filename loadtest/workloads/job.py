"""What one request says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.workloads.conversations.history import EncodedMessages


@dataclass(frozen=True, slots=True)
class Job:
    """One request to be sent: a text, or the messages of a conversation."""

    id: int
    level: int
    seed: int
    prompt: str  # what is said, as text
    input_tokens: int | None  # asked for; None with a text of the user's own
    output_tokens: int | None  # asked for; None: the model decides
    warmup: bool = False
    messages: tuple[Mapping[str, Any], ...] | None = None  # sent as they are, instead of `prompt`
    encoded: EncodedMessages | None = None  # likewise, of a conversation: made once
    session: int | None = None  # which session this is a turn of; None: a request by itself
    turn: int | None = None  # in that session, from 0
    sure_tokens: int = 0  # that this turn's own text adds to the prompt, however they are counted
    row: str | None = None  # of the data file that it comes from
    body: Mapping[str, Any] | None = None  # laid over the request's body; None takes a key out
    inputs: tuple[str, ...] = ()  # texts to be embedded in one request, `prompt` among them; empty: `prompt` alone

    @property
    def conversation(self) -> Sequence[Mapping[str, Any]]:
        """The messages to be sent where an endpoint takes messages."""
        if self.encoded is not None:
            return self.encoded.decoded()
        return self.messages or ({"role": "user", "content": self.prompt},)
