"""Abstract Locust users of model servers: subclass one, give it tasks, and send with self.client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from locust import FastHttpUser, HttpUser, User

from loadtest.errors import ScenarioError
from loadtest.reach import located
from loadtest.scenario import ATTRIBUTE, FORMER, Scenario, check_idle, keys_of, laid_over
from loadtest.scenario.keys import KEY_OF
from loadtest.urls import default_url, without_secrets
from loadtest.users.answer import say_once
from loadtest.users.client import Client
from loadtest.users.options import Settings

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

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("model", *OF_BODIES):
            say_once(
                f"{type(self).__name__} sets self.{name}, which changes no request: what is sent was settled by its class."
            )
        super().__setattr__(name, value)

    @classmethod
    def scenario(cls, settings: Settings, *, host: str | None, name: str, seed: int) -> Scenario:
        """Return what users of this class ask for; `host` is Locust's --host, which wins over the class's.

        Raises ScenarioError or TargetError where the attributes and options make no sense.
        """
        asked_api = settings.keys.get("api", "auto")
        if cls.api != "auto" and asked_api not in ("auto", cls.api):
            raise ScenarioError(f"{cls.__name__} speaks the {cls.api} API only; leave --api {asked_api} out.")
        where = f"user class {cls.__name__}"
        over = f"the command line, laid over {where},"
        if not isinstance(cls.host, str | None):
            raise ScenarioError(f"{where}: host must be text, not {cls.host!r}.")
        if {HttpUser, FastHttpUser} & set(cls.__mro__):
            raise ScenarioError(
                f"{where}: it is also Locust's HttpUser, whose client takes the place of ours; write a class for each, with `weight` "
                "for its part of the users."
            )
        if not callable(cls.stop):
            raise ScenarioError(
                f"{where}: stop is a method of Locust's users; give --stop, or body = {{'stop': …}} in the class."
            )
        for other, key in cls._other_names():
            say_once(f"{where} has {other}, which is no key of its requests; what other tools call so is {key}.")
        own = cls.host if cls.host not in (ModelUser.host, OpenAIUser.host) else None
        asked = {**laid_over(cls._keys(), settings.keys), "name": name, "seed": seed, "concurrency": [1]}
        asked["url"] = host or own or default_url(api=asked["api"])
        try:
            check_idle(settings.keys, asked, over)
            scenario = located(Scenario.from_dict(asked, where=where, say=say_once))
            if scenario.several:
                raise ScenarioError(
                    "it names several servers or models, and a user class has one of each; write a class for each, with "
                    "`weight` for its part of the users."
                )
            return scenario
        except ScenarioError as error:
            if str(error).startswith((where, over)):
                raise
            raise ScenarioError(f"{where}: {error}") from None

    @classmethod
    def _other_names(cls) -> Iterator[tuple[str, str]]:
        """Yield (attribute, our key) where a class sets what a body holds, such as max_tokens, under another tool's name."""
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
