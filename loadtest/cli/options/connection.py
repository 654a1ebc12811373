"""Options of the commands that connect to a server, with the same help and checks as in `loadtest run`."""

from __future__ import annotations

from typing import Any

from loadtest import credentials, reach
from loadtest.cli.options.scenario_options import key_options, make_scenario
from loadtest.scenario import ConnectionKeys, Scenario, keys_of

CONNECTION = tuple(key.name for key in keys_of(ConnectionKeys))
SERVER_OPTIONS = ("api", *CONNECTION, "connect_timeout")  # what server is asked, and how it is reached
connection_options = key_options(*CONNECTION)
server_options = key_options(*SERVER_OPTIONS)


def connection_of(values: dict[str, Any]) -> Scenario:
    """Take a connection's options out of a command's options, as a scenario; raise ScenarioError where they make no sense.

    The proxy's user:pass goes into the environment, and the variable that holds the key is remembered as one that does.
    """
    scenario = make_scenario(None, {name: values.pop(name, None) for name in SERVER_OPTIONS})
    if scenario.key_env is not None:
        credentials.keep_secret(scenario.key_env)
    return scenario.by_proxy(reach.proxy_named(scenario))
