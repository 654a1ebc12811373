"""What the users of one process send through to one server: its wire, its dialects, and requests made ahead."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import httpx

from loadtest.dialects import dialect_for
from loadtest.measure.failure import GivenUpError
from loadtest.measure.request import Request
from loadtest.measure.request_maker import RequestMaker
from loadtest.records import Clock
from loadtest.scenario import EMBEDDINGS, Level, Scenario
from loadtest.urls import endpoint_url, with_keys
from loadtest.users.processes.user_target import UserTarget
from loadtest.wire import Heartbeat, Order, Origin, Received, SyncWire, Timeouts, Waiter
from loadtest.workloads.conversations import Conversation, ConversationSource
from loadtest.workloads.drawn_lengths import DrawnLengths
from loadtest.workloads.job import Job
from loadtest.workloads.literal import LiteralText
from loadtest.workloads.messages import text_of
from loadtest.workloads.shared_prefix import behind_prefix
from loadtest.workloads.source import Source
from loadtest.workloads.workload import Workload

logger = logging.getLogger(__name__)

# generate means completions, too: each API has one of the two
Endpoint = Literal["chat", "generate", "responses", "messages", "embeddings"]
MOST_AHEAD = 1024  # users for whom a request is made before the clock starts
MOST_KINDS = 64  # of requests made ahead: a task that asks for random lengths would add one each time
GREETING_LIMITS = Timeouts(connect=5.0, first_token=5.0, idle=5.0)


@dataclass(frozen=True, slots=True)
class RequestKind:
    endpoint: Endpoint
    input_tokens: int | str | None  # of a made-up prompt; a text is a distribution
    output_tokens: int | str | None
    text: str | None = None  # sent instead of a made-up prompt


# Keys that speak of chats alone, with the values by which embeddings are asked for without them.
NOT_EMBEDDED: dict[str, Any] = {
    **dict.fromkeys(("system", "system_tokens", "prefixes", "prefix_zipf")),
    "output_tokens": (),
}


class Channel:
    """Sends the requests of one UserTarget; shared by all its users in this process, connections too."""

    def __init__(
        self,
        asked: UserTarget,
        waiter: Waiter,
        *,
        clock: Clock,
        heartbeat: Heartbeat,
        numbers: Iterator[int],
    ) -> None:
        """`numbers` gives every request of this process its ordinal, whichever channel sends it."""
        self._asked = asked
        self.scenario = asked.scenario
        self.endpoint = _endpoint_of(asked.scenario)  # of a plain ask()
        self.url = asked.target.server.url
        self.wire = SyncWire.of(asked.scenario, waiter=waiter)
        self._clock, self._heartbeat = clock, heartbeat
        self._counter = asked.counter()
        self._workloads: dict[Endpoint, Workload] = {}
        self._makers: dict[Endpoint, RequestMaker] = {}
        self._numbers = numbers
        self._shelf: dict[RequestKind, deque[Request]] = {}  # the kind asked for last is the last

    def warm_up(self, users: int) -> None:
        """Have connections and requests ready for so many users, and everything imported: untimed, before the clock."""
        count = min(users, MOST_AHEAD)
        plain = self.kind(self.endpoint)
        try:
            headers = self._asked.target.headers
            greeting = httpx.Request("GET", with_keys(endpoint_url(self.url, "/")).url, headers=headers)
            self.wire.fetch(Order.of(greeting, Received(), GREETING_LIMITS, origin=Origin.of(self.url)))
            self.wire.prepare(self.url, count)
        except httpx.HTTPError as error:
            logger.debug("%s does not answer before the test: %s", self.url, error)  # the records will tell
        except GivenUpError as error:  # the test was stopped while it was being prepared
            raise error.thrown from None
        for _ in range(count):
            self.restock(plain)
        inspect.stack()  # Locust's Runner.stop() does: 25 to 45 ms the first time, while streams are in flight

    def kind(
        self,
        endpoint: Endpoint,
        input_tokens: int | str | None = None,
        output_tokens: int | str | None = None,
        text: str | None = None,
    ) -> RequestKind:
        """Return what a user wants sent. A length of None is the scenario's; embeddings have no length of an answer."""
        scenario = self._workload(endpoint).scenario
        output = None if endpoint == EMBEDDINGS else output_tokens or next(iter(scenario.output_tokens), None)
        return RequestKind(endpoint, input_tokens or next(iter(scenario.input_tokens), None), output, text)

    def take(self, kind: RequestKind) -> Request:
        """Return a session's first request, one made ahead where there is one."""
        if (shelf := self._shelf.pop(kind, None)) is None:
            return self._make(kind)
        self._shelf[kind] = shelf
        return shelf.popleft() if shelf else self._make(kind)

    def restock(self, kind: RequestKind, most: int = MOST_AHEAD) -> None:
        """Make one more request ahead, up to `most`. To be called in a quiet moment: a prompt of 128 tokens takes 0.5 ms."""
        if kind not in self._shelf and len(self._shelf) >= MOST_KINDS:
            del self._shelf[next(iter(self._shelf))]
        shelf = self._shelf.setdefault(kind, deque())
        if len(shelf) < most:
            shelf.append(self._make(kind))

    def as_given(self, kind: RequestKind, given: Sequence[Any]) -> Request:
        """Return a request that sends messages, or texts to be embedded, as they are, without a nonce.

        A server may have their prefix cached.
        """
        number, output = next(self._numbers), kind.output_tokens
        if isinstance(output, str):
            output = self._workload(kind.endpoint).lengths.at(self._level(kind), number, warmup=False).output_tokens
        sent: dict[str, Any] = {"inputs" if kind.endpoint == EMBEDDINGS else "messages": tuple(given)}
        text = given[0] if kind.endpoint == EMBEDDINGS else text_of(given)
        return self.maker(kind.endpoint).request(Job(number, 0, number, text, None, output, **sent), number=number)

    def conversation_of(self, scenario: Scenario) -> tuple[Conversation, ConversationSource]:
        """Return a new made-up conversation of `scenario`: this channel's own, but for keys that a UserSession was given."""
        counter, fit = self._counter, self._asked.fit
        lengths = DrawnLengths(scenario.seed, counter, fit, self._asked.context)
        source = ConversationSource(scenario, counter, fit, lengths, behind_prefix(scenario, counter, fit))
        return source.session(scenario.levels()[0], next(self._numbers)), source

    def count_tokens(self, text: str) -> int:
        """Return about how many tokens a text adds to a prompt, by the server's count."""
        return round(self._asked.fit.ratio * self._counter.count(text))

    def maker(self, endpoint: Endpoint) -> RequestMaker:
        if endpoint not in self._makers:
            asked, target = self._asked, self._asked.target
            if endpoint != self.endpoint:
                api = "openai" if target.dialect.api == "anthropic" else target.dialect.api  # it has only messages
                scenario = self._scenario(endpoint)
                dialect = dialect_for(scenario, api=api, model=target.model.name, kind=target.server.kind)
                target = replace(target, dialect=dialect)
            self._makers[endpoint] = RequestMaker(
                self.scenario,
                target.dialect,
                target.posts,
                self._counter,
                clock=self._clock,
                heartbeat=self._heartbeat,
                numbers=self._numbers,
                target=asked.index,
            )
        return self._makers[endpoint]

    def _make(self, kind: RequestKind) -> Request:
        number = next(self._numbers)
        source: Source | None = None
        if kind.text is not None:
            scenario = self._scenario(kind.endpoint)
            source = LiteralText(scenario.replace(inputs_per_request=1), kind.text)
        session = self._workload(kind.endpoint).session(self._level(kind), number, source=source)
        job = session.next(None)
        assert job is not None, "a session has at least one job"
        return self.maker(kind.endpoint).request(job, session, number=number)

    def _workload(self, endpoint: Endpoint) -> Workload:
        if endpoint not in self._workloads:
            scenario = self._scenario(endpoint)
            self._workloads[endpoint] = Workload(scenario, self._counter, self._asked.fit, context=self._asked.context)
        return self._workloads[endpoint]

    def _level(self, kind: RequestKind) -> Level:
        """Return the level of a request of this kind, as sources take it."""
        asked = {"input": kind.input_tokens, "output": kind.output_tokens}
        lengths: dict[str, Any] = {
            f"{side}_lengths" if isinstance(length, str) else f"{side}_tokens": length for side, length in asked.items()
        }
        return Level(index=0, concurrency=1, **lengths, system_tokens=self.scenario.system_tokens, requests=0)

    def _scenario(self, endpoint: Endpoint) -> Scenario:
        """Return the scenario as if all requests went to this endpoint."""
        if endpoint == self.endpoint:
            return self.scenario
        changes: dict[str, Any] = {"endpoint": endpoint, "api": "auto", "inputs_per_request": 1}
        return self.scenario.replace(**changes | (NOT_EMBEDDED if endpoint == EMBEDDINGS else {}))


def _endpoint_of(scenario: Scenario) -> Endpoint:
    """Return what a plain ask() sends to."""
    if scenario.endpoint == "completions":
        return "generate"
    return "messages" if scenario.api == "anthropic" else cast("Endpoint", scenario.endpoint)
