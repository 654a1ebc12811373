"""Abstract Locust users of model servers: subclass one, give it tasks, and send with self.client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from locust import FastHttpUser, HttpUser, User

from loadtest.errors import ScenarioError, refuse
from loadtest.reach import located
from loadtest.scenario import ATTRIBUTE, FORMER, Scenario, check_idle, keys_of
from loadtest.urls import default_url, without_secrets
from loadtest.users.answer import say_once
from loadtest.users.client import Client
from loadtest.users.options import Settings

USER_KEYS = tuple(key for key in keys_of(Scenario) if ATTRIBUTE in key.locust)


class ModelUser(User):
    """A user of the model server that --host names: of Ollama by its native API, of any other by OpenAI's.

    Class attributes say what is asked for: each key of a scenario that the schema opens to user classes is one of them.
    Options given to Locust (--host, --model, --input-tokens, …) win over the attributes.
    """

    abstract = True

    host: str | None = without_secrets(default_url())  # without a password: Locust shows it and sends it to workers

    # Declared for type checkers; the defaults are set below, from the scenario's keys.
    model: str | None
    api: str
    endpoint: str  # of a plain ask()
    inputs_per_request: int  # texts in a request for embeddings
    input_tokens: int | str | None  # a text is a distribution, such as "lognormal(800, 0.6)"
    output_tokens: int | str | None
    prompt: str | None
    data: str | None  # a file whose rows are sent
    data_column: str | None
    system: str | None
    system_tokens: int | None
    prefixes: int | None
    prefix_zipf: float | None
    turns: int | str | None  # of made-up conversations, which asks then hold; a text is a distribution
    follow_up_tokens: int | str | None
    answers: str | None  # "server" or "recorded"
    think_time: float | str  # s; between an answer and the user's next request, beside Locust's wait_time
    warmup: int  # requests of each user at the start of a level that are kept but not counted
    warm_cache: bool
    num_ctx: int | None
    temperature: float | None
    max_tokens_key: str
    header: Sequence[str]  # "Name: value"; ${NAME} in a value is filled in from the environment
    body: str | Mapping[str, Any] | None  # laid over every body; ${NAME} as in a header
    query: Sequence[str]
    path: str | None
    top_p: float | None
    top_k: int | None
    think: str | None
    keep_alive: str | None
    ignore_eos: bool
    sampling_seed: int | None
    first_token_timeout: float  # s; covers the server's whole queue
    first_byte_timeout: float | None  # s; former name of first_token_timeout
    idle_timeout: float  # s
    total_timeout: float | None  # s
    patience: float | str | None  # s, or a distribution: how long users wait for the first token before they hang up
    leave: float | str | None  # share of the answers in whose middle users hang up
    stop_after_errors: int | None  # failed requests in a row that end a level
    key_env: str | None  # the variable that holds the key
    ca_file: str | None
    insecure: bool
    cert: str | None
    cert_key: str | None
    proxy: str | None
    no_proxy: str | Sequence[str] | None
    save_text: bool

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
