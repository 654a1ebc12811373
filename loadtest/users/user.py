"""Abstract Locust users of model servers: subclass one, give it tasks, and send with self.client."""

from __future__ import annotations

import functools
import logging
from typing import Any

from locust import User

from loadtest.errors import ScenarioError
from loadtest.scenario import Scenario
from loadtest.target.target import located
from loadtest.urls import default_url, without_secrets
from loadtest.users.client import Client
from loadtest.users.options import INPUT_TOKENS, OUTPUT_TOKENS, Settings

logger = logging.getLogger(__name__)


class ModelUser(User):
    """A user of whatever model server --host names: Ollama by its native API, anything else by OpenAI's.

    Class attributes say what is asked for; --host, --model, --api, --endpoint, --input-tokens, --output-tokens and
    --stop-after-errors win over them. Those that scenario.Scenario has, too, mean the same here.
    """

    abstract = True

    host: str | None = without_secrets(default_url())  # Locust shows it and sends it to workers
    model: str | None = None
    api: str = "auto"
    input_tokens: int | None = None
    output_tokens: int | None = None
    prompt: str | None = None
    warmup: int = 1  # requests of each user at the start of a level that are kept but not counted
    warm_cache: bool = False
    num_ctx: int | None = None
    temperature: float | None = None
    max_tokens_key: str = "max_tokens"
    first_token_timeout: float = 3600.0  # s; covers the server's whole queue
    first_byte_timeout: float | None = None  # s; former name of first_token_timeout
    idle_timeout: float = 300.0  # s
    total_timeout: float | None = None  # s
    stop_after_errors: int | None = None  # failed requests in a row that end a level
    ca_file: str | None = None
    save_text: bool = False

    client: Client

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.client = Client(self)

    @classmethod
    def scenario(cls, settings: Settings, *, host: str | None, name: str, seed: int) -> Scenario:
        """Return what users of this class ask for; `host` is Locust's --host, which wins.

        Raises ScenarioError or TargetError where that makes no sense.
        """
        if cls.api != "auto" and settings.api not in ("auto", cls.api):
            raise ScenarioError(f"{cls.__name__} speaks the {cls.api} API only; leave --api {settings.api} out.")
        if not isinstance(cls.host, str | None):
            raise ScenarioError(f"user class {cls.__name__}: host must be text, not {cls.host!r}.")
        where = f"user class {cls.__name__}"
        api = cls.api if cls.api != "auto" else settings.api
        own = cls.host if cls.host not in (ModelUser.host, OpenAIUser.host) else None
        try:
            scenario = Scenario.from_dict(
                {
                    "name": name,
                    "seed": seed,
                    "url": host or own or default_url(api=api),
                    "api": api,
                    "endpoint": settings.endpoint,
                    "model": _first(settings.model, cls.model),
                    "concurrency": [1],
                    "input_tokens": [_first(settings.input_tokens, cls.input_tokens, INPUT_TOKENS)],
                    "output_tokens": [_first(settings.output_tokens, cls.output_tokens, OUTPUT_TOKENS)],
                    "prompt": cls.prompt,
                    "warm_cache": cls.warm_cache,
                    "num_ctx": cls.num_ctx,
                    "temperature": cls.temperature,
                    "max_tokens_key": cls.max_tokens_key,
                    "warmup": cls.warmup,
                    **cls._first_token(),
                    "idle_timeout": cls.idle_timeout,
                    "total_timeout": cls.total_timeout,
                    "stop_after_errors": _first(settings.stop_after_errors, cls.stop_after_errors),
                    "ca_file": cls.ca_file,
                    "save_text": cls.save_text,
                },
                where=where,
                say=_say_once,
            )
            return located(scenario)
        except ScenarioError as error:
            if str(error).startswith(where):
                raise
            raise ScenarioError(f"{where}: {error}") from None

    @classmethod
    def _first_token(cls) -> dict[str, Any]:
        """Return first_token_timeout by the name, or names, that the class has for it."""
        new, old = {"first_token_timeout": cls.first_token_timeout}, {"first_byte_timeout": cls.first_byte_timeout}
        if cls.first_byte_timeout is None:
            return new
        return old if cls.first_token_timeout == ModelUser.first_token_timeout else new | old


def _first(*values: Any) -> Any:
    """Return the first value that was given: 0 is one."""
    return next((value for value in values if value is not None), None)


@functools.cache
def _say_once(sentence: str) -> None:
    logger.warning(sentence)


class OllamaUser(ModelUser):
    """A user of an Ollama, by its native API: the one that says how long load, prefill and decode took."""

    abstract = True
    api = "ollama"


class OpenAIUser(ModelUser):
    """A user of an OpenAI-compatible server (llama.cpp, vLLM, Ollama's /v1); OPENAI_API_KEY is its key, OPENAI_BASE_URL its URL."""

    abstract = True
    host = without_secrets(default_url(api="openai"))
    api = "openai"
