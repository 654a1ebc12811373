"""What is measured: a server, one of its models, the dialect that requests are written in, how they go there, and what may spoil it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest import credentials, reach
from loadtest.dialects import Dialect, dialect_for
from loadtest.errors import ScenarioError, TargetError, refuse
from loadtest.scenario import ONE_API, ConnectionKeys, ModelShare, Scenario, even_weights
from loadtest.scenario.request_additions import filled_query
from loadtest.targets.server.control import as_count, as_mapping, as_plain, ask
from loadtest.targets.server.model_list import listed_models
from loadtest.targets.server.probe import ServedModel, Server, choose_model, lists_model, probe, with_details
from loadtest.text import shown
from loadtest.urls import base_url, default_url, deployment_of
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
        """Server, model and dialect in one line."""
        return f"{self.server.url}: {self.server.described}, model {shown(self.model.name)}, {self.dialect.name}"


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
    refuse(
        api == "ollama" and server.kind != "ollama",
        f"{server.url} is not an Ollama (it is {server.described}); use --api openai.",
        TargetError,
    )
    endpoint = scenario.endpoint
    if (api, endpoint) in (("ollama", "completions"), ("openai", "generate")):
        other = "generate" if api == "ollama" else "completions"
        raise ScenarioError(
            f"{server.url} speaks the {api} API, which has no {endpoint!r}; use --endpoint chat or {other}."
        )
    refuse(
        scenario.unload and api != "ollama",
        f"{server.url} is not an Ollama (it is {server.described}); only an Ollama unloads a model when asked.",
        TargetError,
    )
    model = with_details(client, server, choose_model(server, scenario.model))
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
    refuse(
        answer.failure is not None, f"{url} does not answer when asked to unload {name}: {answer.failure}.", TargetError
    )
    refuse(
        not answer.ok,
        f"{url} does not unload {name}: it answers with {answer.described}; is it an Ollama?",
        TargetError,
    )


def hazards(
    server: Server,
    model: ServedModel | None,
    *,
    num_ctx: int | None = None,
    keys: ConnectionKeys | None = None,
    slots_found: bool = False,
) -> list[str]:
    """Return what may spoil a measurement of this server: a sentence each, with what to do about it.

    Where its slots were just found, nothing is said about how to find them.
    """
    found = []
    if server.unlisted and model is not None:
        found.append(
            f"The server does not list its models ({server.unlisted}): the model name that you give is used as it is."
        )
    elif model is not None and (unlisted := not_listed(server, model.name)):
        found.append(unlisted)
    if server.cached:
        old = "what it says of models and slots, and what monitors read, may be old; have it pass them on"
        found.append(f"A cache on the way answers questions in the server's place ({server.cached}): {old}.")
    keys = keys or ConnectionKeys()
    open_key = credentials.in_the_clear(server.url, server.native, key_env=keys.key_env)
    found += filter(None, (open_key, reach.note_on_trust(keys, server.url)))
    if keys.proxy is None and (named := reach.ignored_proxies()) and not server.url.startswith("unix:"):
        found.append(f"{' and '.join(named)} in the environment: not used. Give --proxy URL to go through a proxy.")
    if server.kind == "ollama" and not slots_found:
        found.append(
            "Ollama does not say how many requests it handles in parallel (OLLAMA_NUM_PARALLEL; 1 by default since 0.10): "
            "`loadtest check --slots` finds it out, and so does a run with more users than that."
        )
    if server.kind == "ollama":
        found.append(
            "Ollama reloads the model whenever requests alternate between two values of num_ctx (those to /v1 have the server's "
            "own): let nothing else use this server while you measure."
        )
    if model is None:
        return found
    if server.kind == "ollama" and model.loaded is False:
        found.append(
            f"{shown(model.name)} is not loaded: the first request waits for the load. `run` loads it before it measures."
        )
    if model.size and model.size_vram is not None and 0 <= model.size_vram < model.size:
        share = 100 * (model.size - model.size_vram) / model.size
        found.append(f"{share:.0f} % of {shown(model.name)} is in host memory, not on a GPU.")
    if num_ctx is None and server.kind == "ollama" and model.context is None:
        found.append(
            "The context length is the server's default, or the model's own; set it with --num-ctx so that runs can be compared."
        )
    return found


def not_listed(server: Server, name: str) -> str | None:
    """Say that a model asked for is not on the server's list, and which one there may be meant; None where it is."""
    ignores_names = server.kind == "llama.cpp" and len(server.models) == 1
    if not server.models or ignores_names or lists_model(server, name) or deployment_of(server.url) is not None:
        return None
    like = [
        model.name
        for model in server.models
        if model.name.rpartition("/")[2].lower() == name.rpartition("/")[2].lower()
    ]
    meant = f"; perhaps {shown(like[0])} is meant" if like else ""
    return f"The server does not list {shown(name)}{meant}: the name is sent as it is."
