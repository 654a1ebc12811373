"""What is measured: a server, one of its models, the dialect that requests are written in, and how they go there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest.dialects import Dialect, dialect_for
from loadtest.errors import ScenarioError, TargetError
from loadtest.scenario import ONE_API, ModelShare, Scenario, even_weights
from loadtest.scenario.request_additions import filled_query
from loadtest.targets.server.control import as_count, as_mapping, as_plain, ask
from loadtest.targets.server.model_list import listed_models
from loadtest.targets.server.probe import ServedModel, Server, choose_model, lists_model, probe, with_details
from loadtest.text import shown
from loadtest.urls import base_url, default_url
from loadtest.wire import Posts

_COUNTS_OF_PS = ("size", "size_vram", "context_length")  # of /api/ps: as_plain would keep any value of them


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured: a server, one of its models, one wire format."""

    server: Server
    model: ServedModel
    dialect: Dialect

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request; credentials come from this process's environment."""
        return self.dialect.headers(self.server.url)

    @property
    def posts(self) -> Posts:
        return Posts(self.server.url, self.headers, filled_query(self.dialect.query))

    @property
    def facts(self) -> dict[str, Any]:
        """Server, model and dialect for run.json."""
        api, dialect = self.dialect.api, self.dialect.name
        return {"url": self.server.url, "api": api, "dialect": dialect, "model": self.model.name}

    @property
    def described(self) -> str:
        return f"{self.server.url}: {self.server.described}, model {self.model.called}, {self.dialect.name}"


def find_targets(
    client: httpx.Client, scenario: Scenario, say: Callable[[str], object]
) -> tuple[tuple[Target, int], ...]:
    """Probe every server of the scenario and choose its models; return each target with its part of the users.

    Of several models a server is asked for those that it lists; `say` is told where it lacks some that another has. Raises
    TargetError for the first server that cannot be measured, and for a model that none has.
    """
    bases = [base_url(url or default_url(api=scenario.api)) for url in scenario.urls]
    asked = [
        (url, probe(client, base, api=scenario.api, path=scenario.path))
        for url, base in zip(scenario.urls, bases, strict=True)
    ]
    shares = [_models_at(server, scenario) for _, server in asked]
    whole = ModelShare(scenario.model)
    for one in scenario.models if all(share != [whole] for share in shares) else ():
        if not any(one in share for share in shares):
            name = shown(one.name or "")
            raise TargetError(f"none of the {len(asked)} servers lists the model {name}; name those that they have.")
    for (_, server), share in zip(asked, shares, strict=True):
        left = [shown(one.name or "") for one in scenario.models if one not in share]
        if left and len(left) < len(scenario.models):
            present = ", ".join(shown(one.name or "") for one in share)
            say(f"{server.url} does not list {', '.join(left)}: its users ask for {present} alone.")
    weights = even_weights([[one.weight for one in share] for share in shares])
    targets = [
        _target_at(client, scenario.replace(url=url, model=one.name), server)
        for (url, server), share in zip(asked, shares, strict=True)
        for one in share
    ]
    return tuple(zip(targets, weights, strict=True))


def _models_at(server: Server, scenario: Scenario) -> list[ModelShare]:
    """Return the models that are asked of a server: a name that it lists may hold commas."""
    every = list(scenario.models)
    if len(every) == 1 or lists_model(server, scenario.model or ""):
        return [ModelShare(scenario.model)]
    if len(scenario.urls) == 1:
        return every
    return [one for one in every if lists_model(server, one.name or "")] or every


def _target_at(client: httpx.Client, scenario: Scenario, server: Server) -> Target:
    """Choose model and dialect of a server; raises TargetError or ScenarioError where it cannot."""
    api = server.api(scenario.api)
    if api == "ollama" and server.kind != "ollama":
        raise TargetError(f"{server.url} is not an Ollama (it is {server.described}); use --api openai.")
    endpoint = scenario.endpoint
    if (api, endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if api == "ollama" else "completions"
        raise ScenarioError(
            f"{server.url} speaks the {api} API, which has no {endpoint!r}; use --endpoint chat or {other}."
        )
    if scenario.unload and api != "ollama":
        raise TargetError(
            f"{server.url} is not an Ollama (it is {server.described}); only an Ollama unloads a model when asked."
        )
    model = with_details(client, server, choose_model(server, scenario.model, endpoint))
    check_num_ctx(scenario, api, model.context)
    return target_of(server, model, scenario)


def target_of(server: Server, model: ServedModel, scenario: Scenario) -> Target:
    """Return a model of a server, asked as the scenario says; raise ScenarioError for an option that its wire format lacks."""
    dialect = dialect_for(scenario, api=server.api(scenario.api), model=model.name, kind=server.kind)
    return Target(server, model, dialect)


def check_num_ctx(scenario: Scenario, api: str, context: int | None) -> None:
    """Raise ScenarioError where a context is asked for that requests of this API cannot ask for, and the model lacks."""
    asked = scenario.num_ctx
    if asked is None or (api == "ollama" and scenario.endpoint not in ONE_API) or (context or 0) >= asked:
        return
    through, instead = "the OpenAI API", "--api ollama"
    if scenario.endpoint in ONE_API:
        through, instead = scenario.endpoint, "--endpoint chat"
    has = "" if context is None else f"the model has a context of {context} tokens, not {asked}, and "
    raise ScenarioError(
        f"{has}num_ctx cannot be set through {through}; on an Ollama use {instead}, elsewhere set the context on the server."
    )


def reread(client: httpx.Client, target: Target) -> Target:
    """Return the target with what the server says of the model now that it is loaded: its context and its size."""
    server = probe(client, target.server.url, api=target.dialect.api, path=target.dialect.other_path)
    if server.kind != target.server.kind:
        return target  # its control plane failed this time: its earlier answers stand
    model = with_details(client, server, choose_model(server, target.model.name))
    return Target(server, model, target.dialect)


def loaded_facts(client: httpx.Client, target: Target) -> dict[str, Any] | None:
    """Return what Ollama's /api/ps says of the loaded model; None where the model is not loaded."""
    if target.server.kind != "ollama":
        return None
    try:
        listed = listed_models(ask(client, target.server.url, "/api/ps").json()) or []
    except TargetError:
        return None  # the server is gone: the records say how it ended
    name = target.model.name.removesuffix(":latest")
    found = next((row for row in listed if row["name"].removesuffix(":latest") == name), None)
    if found is None:
        return None
    facts = {**as_mapping(as_plain(found)), **{key: as_count(found.get(key)) for key in _COUNTS_OF_PS}}
    return {key: value for key, value in facts.items() if value is not None}


def ask_to_unload(client: httpx.Client, target: Target) -> None:
    """Ask Ollama to drop the model now; it is gone once loaded_facts returns None. Raises TargetError if Ollama refuses."""
    url, name = f"{target.server.url}/api/generate", shown(target.model.name)
    answer = ask(client, target.server.url, "/api/generate", {"model": target.model.name, "keep_alive": 0})
    if answer.failure is not None:
        raise TargetError(f"{url} does not answer when asked to unload {name}: {answer.failure}.")
    if not answer.ok:
        raise TargetError(f"{url} does not unload {name}: it answers with {answer.described}; is it an Ollama?")
