"""Command-line options made from the scenario's own fields, so that keys and options cannot drift apart."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

import click

from loadtest.errors import ScenarioError
from loadtest.scenario import APIS, ARRIVALS, ENDPOINTS, FORMER, MAX_TOKENS_KEYS, Scenario, number, said, whole

CHOICES = {"api": APIS, "endpoint": ENDPOINTS, "arrivals": ARRIVALS, "max_tokens_key": MAX_TOKENS_KEYS}


class Whole(click.ParamType[int]):
    """A whole number, also written 1e3 or 16.0; `low` and `high` are its bounds where nobody else checks them."""

    name = "integer"

    def __init__(self, low: int | None = None, high: int | None = None) -> None:
        self._low, self._high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            read = value if isinstance(value, int) else whole(str(value))
        except ValueError:
            self.fail(f"{said(value)} is not a whole number like 8.", param, ctx)
        _bounded(self, read, self._low, self._high, param, ctx)
        return read


class Number(click.ParamType[float]):
    """A number; `low` and `high` are its bounds where nobody else checks them, and nan is outside of any."""

    name = "float"

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        self._low, self._high = low, high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            read = float(value) if isinstance(value, int | float) else number(str(value))
        except (ValueError, OverflowError):
            self.fail(f"{said(value)} is not a number like 0.5.", param, ctx)
        _bounded(self, read, self._low, self._high, param, ctx)
        return read


def _bounded(
    kind: click.ParamType[Any],
    value: float,
    low: float | None,
    high: float | None,
    param: click.Parameter | None,
    ctx: click.Context | None,
) -> None:
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if (low is not None or high is not None) and not least <= value <= most:
        ends = f"from {least:.12g} to {most:.12g}" if math.isfinite(most) else f"{least:.12g} or more"
        kind.fail(f"{said(value)} is not a number {ends}.", param, ctx)


def numbers(text: str) -> tuple[int, ...]:
    """Read a list of whole numbers, "1,2,4,8"."""
    try:
        return tuple(whole(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise click.BadParameter(f"{said(text)} is not a list of whole numbers like 1,2,4,8.") from None


def rates(text: str) -> tuple[float, ...]:
    """Read a list of numbers, "0.5,1,2"."""
    try:
        return tuple(number(item) for item in text.split(",") if item.strip())
    except ValueError:
        raise click.BadParameter(f"{said(text)} is not a list of numbers like 0.5,1,2.") from None


KINDS: dict[Any, click.ParamType[Any]] = {int: Whole(), float: Number()}


def scenario_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for every field of Scenario, all None by default so that a file's values stand."""
    hints = typing.get_type_hints(Scenario)
    for former, name in FORMER.items():
        flag, taken = "--" + former.replace("_", "-"), KINDS.get(_scalar(hints[name]))
        command = click.option(flag, former, type=taken, default=None, hidden=True)(command)
    for spec in reversed(dataclasses.fields(Scenario)):
        unit = spec.metadata.get("unit")
        text = spec.metadata["help"] + (f" [{unit}]" if unit else "")
        default = spec.default if spec.default is not dataclasses.MISSING else None
        if default is None and spec.default_factory is not dataclasses.MISSING:
            default = ",".join(map(str, spec.default_factory()))
        if default not in (None, "", False):
            text += f"  [default: {default}]"
        flag = "--" + spec.name.replace("_", "-")
        kind: Any = KINDS.get(_scalar(hints[spec.name]), _scalar(hints[spec.name]))
        if typing.get_origin(hints[spec.name]) is Sequence:
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
        return Scenario.load(path, say=_say, **given)
    return Scenario.from_dict(given, where="the command line", say=_say)


def _say(sentence: str) -> None:
    print(f"loadtest: {sentence}", file=sys.stderr)
