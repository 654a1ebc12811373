"""Command-line options made from the scenario's own fields, so that keys and options cannot drift apart."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any

import click

from loadtest.errors import ScenarioError
from loadtest.scenario import APIS, ARRIVALS, ENDPOINTS, Scenario

CHOICES = {
    "api": APIS,
    "endpoint": ENDPOINTS,
    "arrivals": ARRIVALS,
    "max_tokens_key": ("max_tokens", "max_completion_tokens"),
}


def numbers(text: str) -> tuple[int, ...]:
    """Read a list of whole numbers, "1,2,4,8"."""
    try:
        return tuple(int(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of whole numbers like 1,2,4,8.") from None


def rates(text: str) -> tuple[float, ...]:
    """Read a list of numbers, "0.5,1,2"."""
    try:
        return tuple(float(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of numbers like 0.5,1,2.") from None


def scenario_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for every field of Scenario, all None by default so that a file's values stand."""
    hints = typing.get_type_hints(Scenario)
    for spec in reversed(dataclasses.fields(Scenario)):
        unit = spec.metadata.get("unit")
        text = spec.metadata["help"] + (f" [{unit}]" if unit else "")
        default = spec.default if spec.default is not dataclasses.MISSING else None
        if default is None and spec.default_factory is not dataclasses.MISSING:
            default = ",".join(map(str, spec.default_factory()))
        if default not in (None, "", False):
            text += f"  [default: {default}]"
        flag = "--" + spec.name.replace("_", "-")
        kind: Any = _scalar(hints[spec.name])
        if typing.get_origin(hints[spec.name]) is tuple:
            kind = rates if float in typing.get_args(hints[spec.name]) else numbers
        if spec.name in CHOICES:
            kind = click.Choice(CHOICES[spec.name])
        if kind is bool:
            command = click.option(flag, spec.name, is_flag=True, default=None, help=text)(command)
        else:
            metavar = {numbers: "N,N,…", rates: "R,R,…"}.get(kind)
            command = click.option(flag, spec.name, type=kind, default=None, metavar=metavar, help=text)(command)
    return command


def _scalar(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
    return hint


def make_scenario(path: Any, values: dict[str, Any]) -> Scenario:
    """Lay the options given over the scenario file, or build a scenario of options alone."""
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        if value == ():
            raise ScenarioError(f"--{key.replace('_', '-')} is empty: name at least one number.")
    if path is not None:
        return Scenario.load(path, **given)
    return Scenario.from_dict(given, where="the command line")
