"""Abstract Locust users of model servers: subclass one, give it tasks, and send with self.client."""

from __future__ import annotations

from typing import Any

from locust import User

from loadtest.errors import ScenarioError
from loadtest.measure.target import located
from loadtest.scenario import Scenario
from loadtest.urls import default_url, without_secrets
from loadtest.users.client import Client
from loadtest.users.options import INPUT_TOKENS, OUTPUT_TOKENS, Settings


class ModelUser(User):
    """A user of whatever model server --host names: Ollama by its native API, anything else by OpenAI's.

    Class attributes say what is asked for; --host, --model, --api, --endpoint, --input-tokens and --output-tokens win over
    them. Those that scenario.Scenario has, too, mean the same here.
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
    first_byte_timeout: float = 3600.0  # s; covers the server's whole queue
    idle_timeout: float = 300.0  # s
    total_timeout: float | None = None  # s
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
        api = cls.api if cls.api != "auto" else settings.api
        own = cls.host if cls.host not in (ModelUser.host, OpenAIUser.host) else None
        scenario = Scenario.from_dict(
            {
                "name": name,
                "seed": seed,
                "url": host or own or default_url(api=api),
                "api": api,
                "endpoint": settings.endpoint,
                "model": settings.model or cls.model,
                "concurrency": [1],
                "input_tokens": [settings.input_tokens or cls.input_tokens or INPUT_TOKENS],
                "output_tokens": [settings.output_tokens or cls.output_tokens or OUTPUT_TOKENS],
                "prompt": cls.prompt,
                "warm_cache": cls.warm_cache,
                "num_ctx": cls.num_ctx,
                "temperature": cls.temperature,
                "max_tokens_key": cls.max_tokens_key,
                "warmup": cls.warmup,
                "first_byte_timeout": cls.first_byte_timeout,
                "idle_timeout": cls.idle_timeout,
                "total_timeout": cls.total_timeout,
                "ca_file": cls.ca_file,
                "save_text": cls.save_text,
            },
            where=f"user class {cls.__name__}",
        )
        return located(scenario)


class OllamaUser(ModelUser):
    """A user of an Ollama, by its native API: the one that says how long load, prefill and decode took."""

    abstract = True
    api = "ollama"


class OpenAIUser(ModelUser):
    """A user of an OpenAI-compatible server (llama.cpp, vLLM, Ollama's /v1); OPENAI_API_KEY is its key, OPENAI_BASE_URL its URL."""

    abstract = True
    host = without_secrets(default_url(api="openai"))
    api = "openai"
