"""The way from the users of one process to one server: wire, wire formats, and requests made ahead of their release."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import httpx
import orjson

from loadtest.dialects import Dialect, dialect_for
from loadtest.measure.failure import GivenUpError
from loadtest.measure.request import Exchange
from loadtest.records import Clock
from loadtest.scenario import Level
from loadtest.target.settle import timeouts_of, trust
from loadtest.users.arguments import Messages, text_of
from loadtest.users.tryout import UserTarget
from loadtest.wire import Order, Posts, SyncWire, Waiter, now
from loadtest.workloads.synthetic import Job, Workload, nonce_of

logger = logging.getLogger(__name__)

Endpoint = Literal["chat", "generate"]  # generate stands for completions, too: each API has one of the two
MOST_AHEAD = 1024  # users that requests are made ready for before the clock
MOST_KINDS = 64  # of requests that are made ahead: a task that asks for random lengths would have one more each time
PATIENCE_S = 5.0


@dataclass(frozen=True, slots=True)
class Ask:
    """What a user wants sent."""

    endpoint: Endpoint
    input_tokens: int | None  # of a made-up prompt
    output_tokens: int | None
    text: str | None = None  # sent instead of a made-up prompt


@dataclass(frozen=True, slots=True)
class Ready:
    """A request made ahead: all but when it is due and in which level it counts."""

    exchange: Exchange
    order: Order
    path: str


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
        self._workload = Workload(scenario, counter, settled.calibration)
        endpoints: tuple[Endpoint, ...] = ("chat", "generate")
        self._dialects: dict[Endpoint, Dialect] = {
            endpoint: dialect_for(
                scenario.replace(endpoint=endpoint, api="auto"), api=settled.api, model=target.model.name
            )
            for endpoint in endpoints
        }
        self.wire = SyncWire(timeouts=timeouts_of(scenario), verify=trust(scenario.ca_file), waiter=waiter)
        self._http = httpx.Client(transport=self.wire, timeout=None, trust_env=False, headers=target.headers)
        self._posts = Posts(self._http, self.url)
        self._numbers = numbers
        self._shelf: dict[Ask, deque[Ready]] = {}  # the one asked for last is the last

    def warm_up(self, users: int) -> None:
        """Have connections and requests ready for so many users, and everything imported: untimed, before the clock."""
        count = min(users, MOST_AHEAD)
        plain = Ask(self.endpoint, self.scenario.input_tokens[0], self.scenario.output_tokens[0])
        try:
            self._http.get(f"{self.url}/", timeout=PATIENCE_S)
            self.wire.prepare(self.url, count)
        except httpx.HTTPError as error:
            logger.debug("%s does not answer before the test: %s", self.url, error)  # the records will tell
        except GivenUpError as error:  # the test is stopped before it has begun
            raise error.thrown from None
        for _ in range(count):
            self.restock(plain)
        inspect.stack()  # Locust's Runner.stop() does: 25 to 45 ms the first time, while streams are in flight

    def take(self, ask: Ask) -> Ready:
        """Return a request, one made ahead where there is one."""
        if (shelf := self._shelf.pop(ask, None)) is None:
            return self._make(ask)
        self._shelf[ask] = shelf
        return shelf.popleft() if shelf else self._make(ask)

    def restock(self, ask: Ask) -> None:
        """Make one more request ahead: for a quiet moment, as a prompt of 128 tokens takes half a millisecond."""
        if ask not in self._shelf and len(self._shelf) >= MOST_KINDS:
            del self._shelf[next(iter(self._shelf))]
        self._shelf.setdefault(ask, deque()).append(self._make(ask))

    def conversation(self, messages: Messages, ask: Ask) -> Ready:
        """Return a request that sends these messages as they are: a conversation may well meet its cached prefix."""
        dialect = self._dialects["chat"]
        number = next(self._numbers)
        job = Job(number, 0, number, text_of(messages), None, ask.output_tokens)
        path, body = dialect.encode(job)
        return self._ready(job, dialect, path, orjson.dumps({**orjson.loads(body), "messages": messages}))

    def _make(self, ask: Ask) -> Ready:
        dialect = self._dialects[ask.endpoint]
        number = next(self._numbers)
        level = Level(
            index=0,
            concurrency=1,
            input_tokens=ask.input_tokens,
            output_tokens=ask.output_tokens,
            words=None,
            requests=0,
        )
        job = self._workload.job(level, number)
        if ask.text is not None:
            nonce = "" if self.scenario.warm_cache else f"{nonce_of(job.seed)} "
            job = dataclasses.replace(job, prompt=nonce + ask.text, input_tokens=None)
        return self._ready(job, dialect, *dialect.encode(job))

    def _ready(self, job: Job, dialect: Dialect, path: str, body: bytes) -> Ready:
        exchange = Exchange(
            job,
            dialect,
            self._clock,
            now(),  # job and t_sched are completed at its release
            count=self._count,
            save_text=self.scenario.save_text,
            target=self._target,
        )
        return Ready(exchange, self._posts.order(path, body, exchange.arrivals), path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
