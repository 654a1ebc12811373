"""Options of every command that connects to a server, with the same help and checks as in `loadtest run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from loadtest import credentials, reach
from loadtest.cli.options.scenario_options import SecondsParam, option_of
from loadtest.scenario import APIS, ConnectionKeys, Scenario, keys_of

_KEY_HELP = {key.name: key.declared.help for key in keys_of(Scenario)}


def way_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of ConnectionKeys; see `connection_of`."""
    for key in reversed(keys_of(ConnectionKeys)):
        command = option_of(key)(command)
    return command


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --api, --connect-timeout and the options of ConnectionKeys."""
    command = click.option(
        "--connect-timeout",
        type=SecondsParam(low=1e-6),
        default=10.0,
        show_default=True,
        metavar="S",
        help=_KEY_HELP["connect_timeout"],
    )(command)
    command = way_options(command)
    return click.option("--api", type=click.Choice(APIS), default="auto", show_default=True, help=_KEY_HELP["api"])(
        command
    )


def connection_of(values: dict[str, Any]) -> ConnectionKeys:
    """Take the options of ConnectionKeys out of a command's options; raise ScenarioError where they make no sense.

    The proxy's user:pass goes into the environment, and the variable that holds the key is remembered as one that does.
    """
    keys = ConnectionKeys.of({key.name: values.pop(key.name, None) for key in keys_of(ConnectionKeys)})
    if keys.key_env is not None:
        credentials.keep_secret(keys.key_env)
    return keys.by_proxy(reach.proxy_named(keys))
