"""Options of every command that connects to a server, with the same help and checks as in `loadtest run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from loadtest.scenario import APIS, Scenario, keys_of

_KEY_HELP = {key.name: key.declared.help for key in keys_of(Scenario)}


def ca_file_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --ca-file."""
    return click.option("--ca-file", metavar="FILE", help=_KEY_HELP["ca_file"])(command)


def connection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --api, --ca-file and --connect-timeout."""
    command = click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        metavar="S",
        help=_KEY_HELP["connect_timeout"],
    )(command)
    command = ca_file_option(command)
    return click.option("--api", type=click.Choice(APIS), default="auto", show_default=True, help=_KEY_HELP["api"])(
        command
    )
