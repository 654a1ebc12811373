"""A scenario's URLs taken apart into base, API and endpoint; what is secret in them goes into the environment."""

from __future__ import annotations

from typing import Any

from loadtest import credentials
from loadtest.errors import ScenarioError
from loadtest.reach.proxy import proxy_named
from loadtest.scenario import ONE_API, Scenario
from loadtest.scenario.request_additions import templates_of
from loadtest.urls import default_url, parse_url


def located(scenario: Scenario) -> Scenario:
    """Return the scenario with its URL taken apart: the base as url, and api and endpoint where the URL names them.

    What is secret in the URL, the proxy's URL, headers, query and body goes into the environment, where child processes find it:
    call this before they start. Raises TargetError for a text that is not a URL, ScenarioError where the URL's endpoint
    contradicts api or endpoint, or a header, query or body needs a variable that is not set.
    """
    scenario = secrets_apart(scenario)
    if len(scenario.urls) > 1:
        return _each_located(scenario)
    given = scenario.url if scenario.url is not None else default_url(api=scenario.api)
    address = parse_url(given)
    credentials.keep_apart(address)
    api, endpoint = address.asks
    changes: dict[str, Any] = {} if scenario.url is None else {"url": address.base}
    changes |= templates_of(scenario.header, scenario.query, scenario.body)
    if api is not None and endpoint is not None:
        fits = scenario.api in ("auto", api) or endpoint in ONE_API
        if not fits or scenario.endpoint not in ("chat", endpoint):
            raise ScenarioError(
                f"the URL ends in {address.endpoint}, which is the {api} API's {endpoint}, but --api {scenario.api} "
                f"--endpoint {scenario.endpoint} was asked for; give the base URL {address.base}."
            )
        if address.path is not None and scenario.path not in (None, address.path):
            raise ScenarioError(
                f"the URL ends in {address.path}, and --path {scenario.path} was asked for; give the base URL "
                f"{address.base}, or leave out --path."
            )
        named = {} if address.path is None else {"path": address.path}
        changes |= {"api": api if scenario.api == "auto" else scenario.api, "endpoint": endpoint, **named}
    return scenario.replace(**changes) if changes else scenario


def _each_located(scenario: Scenario) -> Scenario:
    """Return the scenario with each of its URLs taken apart; they must name the same API and endpoint, and no server twice."""
    found = [located(scenario.replace(url=url)) for url in scenario.urls]
    asked = {(one.api, one.endpoint, one.path) for one in found}
    if len(asked) > 1:
        asked_for = " and ".join(
            sorted(f"--api {api} --endpoint {name}" + (f" --path {path}" if path else "") for api, name, path in asked)
        )
        raise ScenarioError(
            f"the URLs ask for {asked_for}, and a run has one of them; give base URLs, without an endpoint."
        )
    return found[0].replace(url=" ".join(str(one.url) for one in found))


def secrets_apart(scenario: Scenario) -> Scenario:
    """Return the scenario without its proxy's user:pass, which goes into the environment; the key's variable is remembered."""
    if scenario.key_env is not None:
        credentials.keep_secret(scenario.key_env)
    return scenario.by_proxy(proxy_named(scenario))
