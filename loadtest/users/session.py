"""One conversation of a Locust user: each turn is sent with all that was said before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.users.arguments import checked_length, checked_prompt
from loadtest.users.channel import Channel, Endpoint
from loadtest.workloads.conversations import MESSAGE_TOKENS, Turn
from loadtest.workloads.source import behind_nonce, seed_from

if TYPE_CHECKING:
    from loadtest.users.answer import Answer
    from loadtest.users.client import Client

MESSAGES: tuple[Endpoint, ...] = ("chat", "responses", "messages")
NOT_OF_SESSIONS: dict[str, Any] = {"data": None, "data_column": None, "prompt": None, "inputs_per_request": 1}


class UserSession:
    """A conversation.

        session = self.client.session(turns=4)
        while not session.over:
            session.chat()

    `chat()` says the next made-up turn, `chat("text")` a text of your own. The keys are those of a scenario: turns,
    input_tokens, follow_up_tokens, output_tokens, think_time, answers, system and so on; default: the user's.
    """

    def __init__(self, client: Client, channel: Channel, **keys: Any) -> None:
        own = channel.scenario
        endpoint: Endpoint = channel.endpoint if channel.endpoint in MESSAGES else "chat"
        for side in ("input_tokens", "output_tokens"):
            if (length := checked_length(side, keys.get(side))) is not None:
                keys[side] = [length]
        self._endless = keys.get("turns", own.turns) is None
        asked = {"turns": own.turns or 1, "endpoint": endpoint, "api": "auto" if endpoint != own.endpoint else own.api}
        self._scenario: Scenario = own.replace(**{**NOT_OF_SESSIONS, **asked, **keys})
        self._client, self._channel, self._endpoint = client, channel, endpoint
        self._session, source = channel.conversation_of(self._scenario)
        self._script = source.script(self._scenario.levels()[0], self._session.number, warmup=False)
        self._failed = False
        self._sent = 0
        self._coming = self._next()

    @property
    def over(self) -> bool:
        """Whether the conversation has had its turns, a turn failed or was given up, or the next one would pass the context."""
        return self._failed or self._coming is None

    def chat(self, prompt: str | None = None, *, name: str | None = None, catch_response: bool = False) -> Answer:
        """Send the next turn and return its answer; with the arguments of Client.chat.

        Raises ScenarioError where the conversation is over.
        """
        text = checked_prompt(prompt, messages_allowed=False)
        turn = self._coming if text is None else self._own(str(text))
        if turn is None or self._failed:
            raise ScenarioError("the conversation is over: begin another one with self.client.session().")
        request = self._channel.maker(self._endpoint).request(self._session.say(turn), self._session)
        self._sent += 1
        self._failed = True  # where the task gives the turn up, which leaves nothing to go on from
        answer, heard = self._client.send_turn(request, self._scenario, name)
        self._failed = heard is None
        if heard is not None:
            self._session.hear(heard)
            self._coming = self._next()
        request.remark = self._session.passed
        self._client.take_turn_end(answer, over=self.over, catch_response=catch_response)
        return answer

    ask = chat

    def _next(self) -> Turn | None:
        """Return the made-up turn to come."""
        return self._session.fitting(self._script.any_turn(self._sent)) if self._endless else self._session.peek()

    def _own(self, text: str) -> Turn:
        made_up = self._script.any_turn(self._sent)
        if not self._sent:
            text = behind_nonce(text, self._scenario, made_up.seed)
        tokens = self._channel.count_tokens(text) + MESSAGE_TOKENS
        seed = seed_from(made_up.seed, "own words")
        return Turn(text, tokens, 0, seed, None, made_up.output_tokens, recorded=made_up.recorded)
