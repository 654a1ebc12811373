"""What the users of one process send through to one server: its wire, its dialects, and requests made ahead."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import httpx

from loadtest.dialects import Dialect, dialect_for
from loadtest.measure.failure import GivenUpError
from loadtest.measure.request import Request
from loadtest.records import Clock
from loadtest.scenario import Level
from loadtest.target.connect import way_of
from loadtest.urls import endpoint_url, with_keys
from loadtest.users.arguments import Messages
from loadtest.users.tryout import UserTarget
from loadtest.wire import LagLog, Order, Origin, Received, SyncWire, Timeouts, Waiter, WallClock
from loadtest.workloads.data import data_file
from loadtest.workloads.job import Job
from loadtest.workloads.literal import LiteralText
from loadtest.workloads.messages import text_of
from loadtest.workloads.source import Session
from loadtest.workloads.workload import Workload

logger = logging.getLogger(__name__)

Endpoint = Literal["chat", "generate"]  # generate means completions, too: each API has one of the two
MOST_AHEAD = 1024  # users for whom a request is made before the clock starts
MOST_KINDS = 64  # of requests made ahead: a task that asks for random lengths would add one each time
GREETING = Timeouts(connect=5.0, first_token=5.0, idle=5.0)


@dataclass(frozen=True, slots=True)
class RequestKind:
    """What a user wants sent."""

    endpoint: Endpoint
    input_tokens: int | str | None  # of a made-up prompt; a text is a distribution
    output_tokens: int | str | None
    text: str | None = None  # sent instead of a made-up prompt


def length_facts(side: str, asked: int | str | None) -> dict[str, Any]:
    """Return a level's fields for a length, a number or a distribution."""
    return {f"{side}_lengths" if isinstance(asked, str) else f"{side}_tokens": asked}


class Channel:
    """Sends the requests of one UserTarget; shared by all its users in this process, connections too."""

    def __init__(self, settled: UserTarget, waiter: Waiter, *, clock: Clock, numbers: Iterator[int]) -> None:
        """`numbers` gives every request of this process its ordinal, whichever channel sends it."""
        scenario, target = settled.scenario, settled.target
        self.scenario = scenario
        self.endpoint: Endpoint = "chat" if scenario.endpoint == "chat" else "generate"  # of a plain ask()
        self._clock = clock
        self.url = target.server.url
        counter = settled.counter()
        self._count = counter.count if counter.exact else None
        self._target = settled.index
        self._workload = Workload(scenario, counter, settled.fit, context=settled.context)
        self._api, self._model, self._kind = settled.api, target.model.name, target.server.kind
        self._dialects: dict[Endpoint, Dialect] = {}
        self.wire = SyncWire(**way_of(scenario), waiter=waiter)
        self._headers, self._posts = target.headers, target.posts
        self._numbers = numbers
        self._shelf: dict[RequestKind, deque[Request]] = {}  # the kind asked for last is the last

    def warm_up(self, users: int) -> None:
        """Have connections and requests ready for so many users, and everything imported: untimed, before the clock."""
        count = min(users, MOST_AHEAD)
        plain = RequestKind(self.endpoint, *self.usual_lengths)
        try:
            greeting = httpx.Request("GET", with_keys(endpoint_url(self.url, "/")).url, headers=self._headers)
            self.wire.fetch(Order.of(greeting, Received(), GREETING, origin=Origin.of(self.url)))
            self.wire.prepare(self.url, count)
        except httpx.HTTPError as error:
            logger.debug("%s does not answer before the test: %s", self.url, error)  # the records will tell
        except GivenUpError as error:  # the test is stopped before it has begun
            raise error.thrown from None
        for _ in range(count):
            self.restock(plain)
        inspect.stack()  # Locust's Runner.stop() does: 25 to 45 ms the first time, while streams are in flight

    @property
    def usual_lengths(self) -> tuple[int | str | None, int | str | None]:
        """What is asked for where a task says nothing."""
        inputs, outputs = self._workload.scenario.input_tokens, self._workload.scenario.output_tokens
        return next(iter(inputs), None), next(iter(outputs), None)

    @property
    def rows(self) -> int:
        """How many rows the data file has; 0 without one."""
        file = data_file(self.scenario)
        return 0 if file is None else len(file)

    def take(self, kind: RequestKind) -> Request:
        """Return a session's first request, one made ahead where there is one."""
        if (shelf := self._shelf.pop(kind, None)) is None:
            return self._make(kind)
        self._shelf[kind] = shelf
        return shelf.popleft() if shelf else self._make(kind)

    def restock(self, kind: RequestKind, most: int = MOST_AHEAD) -> None:
        """Make one more request ahead, unless `most` are: for a quiet moment, as a prompt of 128 tokens takes 0.5 ms."""
        if kind not in self._shelf and len(self._shelf) >= MOST_KINDS:
            del self._shelf[next(iter(self._shelf))]
        shelf = self._shelf.setdefault(kind, deque())
        if len(shelf) < most:
            shelf.append(self._make(kind))

    def conversation(self, messages: Messages, kind: RequestKind) -> Request:
        """Return a request that sends these messages as they are, without a nonce: a server may have their prefix cached."""
        number = next(self._numbers)
        output = kind.output_tokens
        if isinstance(output, str):
            output = self._workload.lengths.at(self._level(kind), number, warmup=False).output_tokens
        job = Job(number, 0, number, text_of(messages), None, output, messages=tuple(messages))
        return self._request(job, number, self._dialect(kind.endpoint))

    def following(self, request: Request, wall: WallClock, lag: LagLog) -> Request | None:
        """Return the next turn of a session, now that the answer before it is there; None where the session is over."""
        job = request.following_job(wall, lag)
        if job is None:
            return None
        return self._request(job, next(self._numbers), request.dialect, request.session)

    def _make(self, kind: RequestKind) -> Request:
        number = next(self._numbers)
        source = None if kind.text is None else LiteralText(self.scenario, kind.text)
        session = self._workload.session(self._level(kind), number, source=source)
        job = session.next(None)
        assert job is not None, "a session has at least one job"
        return self._request(job, number, self._dialect(kind.endpoint), session)

    def _level(self, kind: RequestKind) -> Level:
        """Return the level of a request of this kind, as sources take it."""
        return Level(
            index=0,
            concurrency=1,
            **length_facts("input", kind.input_tokens),
            **length_facts("output", kind.output_tokens),
            system_tokens=self.scenario.system_tokens,
            words=None,
            requests=0,
        )

    def _dialect(self, endpoint: Endpoint) -> Dialect:
        if endpoint not in self._dialects:
            scenario = self.scenario.replace(endpoint=endpoint, api="auto")
            self._dialects[endpoint] = dialect_for(scenario, api=self._api, model=self._model, kind=self._kind)
        return self._dialects[endpoint]

    def _request(self, job: Job, number: int, dialect: Dialect, session: Session | None = None) -> Request:
        """Make a request; its level and t_sched are set at its release."""
        return Request(
            job,
            dialect,
            self._clock,
            0,
            number=number,
            posts=self._posts,
            session=session,
            count=self._count,
            save_text=self.scenario.save_text,
            target=self._target,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()
