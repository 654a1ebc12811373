"""Abstract Locust users of model servers: subclass one, give it tasks, and send with self.client.

OpenLoopUser sends by an absolute schedule, however many requests are still unanswered. The whole test has one schedule. Every
process makes all of it from the run's seed and sends its share, so the rate does not depend on the number of users or workers.
The schedule begins once all users are running.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import gevent
from gevent.pool import Group
from locust import FastHttpUser, HttpUser, User, task
from locust.exception import StopUser

from loadtest.errors import ScenarioError, refuse
from loadtest.reach import located
from loadtest.scenario import ATTRIBUTE, FORMER, Scenario, check_idle, keys_of
from loadtest.scenario.keys import KEY_OF
from loadtest.urls import default_url, without_secrets
from loadtest.users.answer import CONTROL, say_once
from loadtest.users.client import Client
from loadtest.users.options import Settings
from loadtest.users.processes import recording
from loadtest.users.processes.gevent_hub import sleep_until
from loadtest.wire import now
from loadtest.workloads.schedule import instants

OF_BODIES = ("output_tokens", "input_tokens", "think", "stop", "body", "num_ctx")
USER_KEYS = tuple(key for key in keys_of(Scenario) if ATTRIBUTE in key.locust)


class ModelUser(User):
    """A user of the model server that --host names: of Ollama by its native API, of any other by OpenAI's.

    Class attributes say what is asked for: each key of a scenario that the schema opens to user classes is one of them.
    Options given to Locust (--host, --model, --input-tokens, …) win over the attributes.
    """

    abstract = True

    host: str | None = without_secrets(default_url())  # without a password: Locust shows it and sends it to workers

    api: str
    client: Client

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.client = Client(self)

    @classmethod
    def scenario(cls, settings: Settings, *, host: str | None, name: str, seed: int) -> Scenario:
        """Return what users of this class ask for; `host` is Locust's --host, which wins over the class's.

        Raises ScenarioError or TargetError where the attributes and options make no sense.
        """
        asked_api = settings.keys.get("api", "auto")
        refuse(
            cls.api != "auto" and asked_api not in ("auto", cls.api),
            f"{cls.__name__} speaks the {cls.api} API only; leave --api {asked_api} out.",
        )
        where = f"user class {cls.__name__}"
        over = f"the command line, laid over {where},"
        refuse(not isinstance(cls.host, str | None), f"{where}: host must be text, not {cls.host!r}.")
        refuse(
            {HttpUser, FastHttpUser} & set(cls.__mro__),
            f"{where}: it is also Locust's HttpUser, whose client takes the place of ours; write a class for each, with `weight` "
            "for its part of the users.",
        )
        refuse(
            not callable(cls.stop),
            f"{where}: stop is a method of Locust's users; give --stop, or body = {{'stop': …}} in the class.",
        )
        for other, key in cls._other_names():
            say_once(f"{where} has {other}, which is no key of its requests; what other tools call so is {key}.")
        own = cls.host if cls.host not in (ModelUser.host, OpenAIUser.host) else None
        asked = {**cls._keys(), **settings.keys, "name": name, "seed": seed, "concurrency": [1]}
        asked["url"] = host or own or default_url(api=asked["api"])
        try:
            check_idle(settings.keys, asked, over)
            scenario = located(Scenario.from_dict(asked, where=where, say=say_once))
            refuse(
                scenario.several,
                "it names several servers or models, and a user class has one of each; write a class for each, with "
                "`weight` for its part of the users.",
            )
            return scenario
        except ScenarioError as error:
            if str(error).startswith((where, over)):
                raise
            raise ScenarioError(f"{where}: {error}") from None

    @classmethod
    def _other_names(cls) -> Iterator[tuple[str, str]]:
        """Yield attributes that say how long an answer is or what a body holds under other tools' names, and our keys."""
        theirs = {name for each in cls.__mro__ if ModelUser in each.__mro__[1:] for name in vars(each)}
        yield from ((name, KEY_OF[name]) for name in sorted(theirs & KEY_OF.keys()) if KEY_OF[name] in OF_BODIES)

    @classmethod
    def _keys(cls) -> dict[str, Any]:
        """Return the values of the scenario's keys, under a former name where the class sets that."""
        keys = {key.name: getattr(cls, key.name) for key in USER_KEYS}
        keys = {key.name: keys[key.name] for key in USER_KEYS if not (key.listed and keys[key.name] is None)}
        for former, name in FORMER.items():
            if (value := getattr(cls, former)) is not None:
                if keys[name] == getattr(ModelUser, name):
                    del keys[name]
                keys[former] = value
        return keys


for _key in USER_KEYS:
    setattr(ModelUser, _key.name, None if _key.many else _key.default)  # a user has one value, not a list
for _former in FORMER:
    setattr(ModelUser, _former, None)


class OllamaUser(ModelUser):
    """A user of Ollama by its native API, which says how long load, prefill and decode took."""

    abstract = True
    api = "ollama"


class OpenAIUser(ModelUser):
    """A user of an OpenAI-compatible server (llama.cpp, vLLM, Ollama's /v1), by OPENAI_BASE_URL and OPENAI_API_KEY."""

    abstract = True
    host = without_secrets(default_url(api="openai"))
    api = "openai"


LATE_NS = 5_000_000  # a request sent later than this after its instant counts as late
SHARE_POLL_S = 0.01

logger = logging.getLogger(__name__)


class OpenLoopUser(ModelUser):
    """Sends `rate` requests a second by the schedule, over all users and workers together.

    Override `arrive` to send something other than a plain ask(); it must pass `t_sched` on. One user of each process
    keeps the schedule, the others do nothing.
    """

    abstract = True

    warmup = 0
    rate: float | str = 1.0  # requests/s, or its text as the environment has it
    arrivals: Literal["poisson", "constant", "gamma"] = "poisson"
    burstiness: float | None = None  # of gamma arrivals: 1 is Poisson, below 1 requests come in bursts

    @classmethod
    def schedule(cls, seed: int | None) -> Iterator[int]:
        """Yield when requests are due, ns from the beginning of the schedule; raise ScenarioError."""
        return instants(cls.requests_per_s(), cls.arrivals, seed, burstiness=cls.burstiness)

    @classmethod
    def requests_per_s(cls) -> float:
        """Return `rate` as a number; raise ScenarioError where it is not one."""
        try:
            return float("no" if isinstance(cls.rate, bool) else cls.rate)
        except (TypeError, ValueError, OverflowError):
            raise ScenarioError(f"rate must be a number of requests/s, not {cls.rate!r}.") from None

    @classmethod
    def scenario(cls, settings: Settings, *, host: str | None, name: str, seed: int) -> Scenario:
        try:
            next(cls.schedule(seed))
        except ScenarioError as error:
            raise ScenarioError(f"user class {cls.__name__}: {error}") from None
        return super().scenario(settings, host=host, name=name, seed=seed)

    def arrive(self, t_sched: int) -> None:
        """Send the request that was due at `t_sched` (monotonic ns)."""
        self.client.ask(t_sched=t_sched)

    @task
    def keep_schedule(self) -> None:
        """Send this process's share of the schedule until the test stops."""
        recorder = recording.current_test.recorder
        assert recorder is not None
        with recorder.one_schedule:
            while (share := recording.current_test.share) is None:
                gevent.sleep(SHARE_POLL_S)
            in_flight = Group()
            try:
                self._keep(recorder, share, in_flight)
            finally:
                in_flight.kill(recording.Stopped)

    def _keep(self, recorder: recording.Recorder, share: recording.ScheduleShare, in_flight: Group) -> None:
        start, mine = now() + share.start - time.time_ns(), share.part
        for offset in islice(self.schedule(self.client.seed), mine.worker, None, mine.of):
            due = start + offset
            sleep_until(due)
            if recording.current_test.share != share:  # workers came or went: the schedule begins anew, in other shares
                return
            recorder.released += 1
            recorder.late += now() - due > LATE_NS
            recorder.seen.add((recorder.current_level().level, "rate", self.requests_per_s()))
            in_flight.spawn(self._arrive, due)

    def _arrive(self, due: int) -> None:
        """Send the request that is due; what a locustfile's own `arrive` raises, Locust hears of as from a task."""
        events: Any = self.environment.events  # untyped in Locust
        try:
            self.arrive(due)
        except CONTROL:
            pass  # these steer a task, and an arrival is none
        except Exception as error:
            with contextlib.suppress(StopUser):  # where the test ends by it
                events.user_error.fire(user_instance=self, exception=error, tb=error.__traceback__)
                logger.exception("arrive() failed")
