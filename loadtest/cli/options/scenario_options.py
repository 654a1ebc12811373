"""Command-line options made from the scenario's own keys, so that keys and options cannot drift apart."""

from __future__ import annotations

import functools
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from loadtest.errors import ScenarioError
from loadtest.scenario import (
    FORMER,
    Key,
    Scenario,
    as_sentence,
    check_lengths_used,
    keys_of,
    parse_whole,
    read_length,
    read_seconds,
    read_share,
    short_repr,
    split_outside_brackets,
)
from loadtest.urls import is_socket, without_secrets


class NumberParam(click.ParamType[Any]):
    """A number; `low` and `high` are its bounds where nobody else checks them, and nan is outside of any."""

    name = "number"
    what = "a number like 0.5"
    read: Callable[[str], Any] = staticmethod(float)

    def __init__(self, low: float | None = None, high: float | None = None) -> None:
        self._bounded = low is not None or high is not None
        self._low, self._high = -math.inf if low is None else low, math.inf if high is None else high

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.read(str(value))
        except (ValueError, OverflowError):
            self.fail(f"{short_repr(value)} is not {self.what}.", param, ctx)
        if self._bounded and not self._low <= number <= self._high:
            finite = math.isfinite(self._high)
            ends = f"from {self._low:.12g} to {self._high:.12g}" if finite else f"{self._low:.12g} or more"
            self.fail(f"{short_repr(number)} is not a number {ends}.", param, ctx)
        return number


class SecondsParam(NumberParam):
    what = "a number of seconds like 0.5 or 90, without a unit"


class WholeParam(NumberParam):
    """A whole number, also written 1e3 or 16.0."""

    name = "n"
    what = "a whole number like 8"
    read = staticmethod(parse_whole)


class ListParam(click.ParamType[tuple[Any, ...]]):
    """Numbers with commas between; `example` is how a list of them looks."""

    def __init__(self, read: Callable[[str], Any], kind: str, example: str) -> None:
        self.name = kind
        self._read, self._example = read, example

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        try:
            return tuple(self._read(item) for item in str(value).split(",") if item.strip())
        except ValueError:
            self.fail(f"{short_repr(value)} is not a list of {self.name} like {self._example}.", param, ctx)


class DrawnParam(click.ParamType[Any]):
    """What a number is, or the distribution that it is drawn from; or several such, where `read` takes a list."""

    def __init__(self, read: Callable[[str], Any], kind: str) -> None:
        self.name = kind
        self._read = read

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(str(value))
        except ScenarioError as error:
            self.fail(as_sentence(error), param, ctx)


def read_lengths(text: str) -> tuple[int | str, ...]:
    """Read lengths with commas between: whole numbers and distributions; raise ScenarioError."""
    return tuple(read_length(item) for item in split_outside_brackets(text, ",") if item.strip())


_VALUES = re.compile(r"[\d.,%]+|\w+=\S*")  # of an option, behind a blank
_HOST_AND_PORT = re.compile(r"localhost|[\w.-]+:\d{1,5}(/\S*)?|\[[0-9a-fA-F:]+\](:\d{1,5})?")


class ShareParam(NumberParam):
    """A share, also written 5%."""

    name = "share"
    what = "a share like 5% or 0.05"
    read = staticmethod(read_share)


PARAM_TYPES: dict[type, click.ParamType[Any]] = {int: WholeParam(), float: NumberParam()}
LISTS_OF = {int: ListParam(parse_whole, "whole numbers", "1,2,4,8"), float: ListParam(float, "numbers", "0.5,1,2")}
LIST_METAVARS = {int: "N,N,…", float: "R,R,…"}


def scenario_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for every key of Scenario, all None by default so that a file's values stand."""
    keys = keys_of(Scenario)
    kinds = {one.name: one.kind for one in keys}
    for former, name in FORMER.items():
        flag = "--" + former.replace("_", "-")
        command = click.option(flag, former, type=PARAM_TYPES.get(kinds[name]), hidden=True)(command)
    for one in reversed(keys):
        command = option_of(one)(command)
    return command


def option_of(key: Key) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    declared, kind, default = key.declared, key.kind, key.default
    text = declared.help + (f" [{declared.unit}]" if declared.unit else "")
    if key.listed:
        default = ",".join(map(str, default))
    if default not in (None, "", False):
        text += f"  [default: {default}]"
    if kind is bool:
        return click.option(key.flag, key.name, is_flag=True, default=None, help=text)
    if (between := declared.joined) is not None:
        return click.option(
            key.flag,
            key.name,
            multiple=True,
            metavar=declared.metavar,
            callback=functools.partial(_joined, between),
            help=text,
        )
    if declared.repeat is not None:
        return click.option(
            key.flag,
            key.name,
            multiple=True,
            metavar=declared.repeat,
            callback=lambda _, __, given: given or None,
            help=text,
        )
    taken: Any = (
        click.Choice(declared.choices, case_sensitive=False) if declared.choices else PARAM_TYPES.get(kind, kind)
    )
    if key.many:
        taken = DrawnParam(read_lengths, "lengths") if declared.length else LISTS_OF[kind]
    elif declared.length:
        taken = DrawnParam(read_length, "length")
    elif declared.span:
        taken = DrawnParam(read_seconds, "seconds")
    elif declared.share:
        taken = ShareParam()
    elif declared.unit == "s" and kind is float:
        taken = SecondsParam()
    metavar = LIST_METAVARS[kind] if key.many else declared.metavar
    if metavar is None and not declared.choices and declared.unit == "s" and not declared.span:
        metavar = "SECONDS"
    return click.option(key.flag, key.name, type=taken, default=None, metavar=metavar, help=text)


def _joined(between: str, _: click.Context, option: click.Parameter, given: Sequence[str]) -> str | None:
    """Join the values of an option that was given again; where a blank joins them none may hold one."""
    if between == " " and (odd := next((one for one in given if " " in one.strip(" \t\r\n\"'")), None)):
        raise click.BadParameter(
            f"{short_repr(without_secrets(odd))} holds a blank; give one URL at a time.", param=option
        )
    return between.join(given) or None


def is_url(text: str) -> bool:
    """Whether an argument is a server's URL rather than a file: http://host, host:11434, localhost, unix:/run/x.sock."""
    return "://" in text or is_socket(text) or (_HOST_AND_PORT.fullmatch(text) is not None and not Path(text).exists())


def file_and_url(given: Sequence[str], url: str | None) -> tuple[Path | None, str | None]:
    """Return the scenario file and the URL of `[SCENARIO.toml] [URL]`, in any order; `url` is that of --url.

    Raises ScenarioError for two of a kind.
    """
    urls = [text for text in given if is_url(text)]
    files = [text for text in given if not is_url(text)]
    if stray := next((text for text in files if _VALUES.fullmatch(text) and not Path(text).exists()), None):
        raise ScenarioError(
            f"{short_repr(stray)} is neither a scenario file nor a URL; several values of an option have commas between, and no "
            "blanks: --concurrency 1,2,4."
        )
    if len(files) > 1:
        raise ScenarioError(
            f"{short_repr(files[0])} and {short_repr(files[1])} both name a scenario file: give one; a server's URL begins "
            "with http://."
        )
    if files and not files[0].endswith(".toml") and files[0] and not Path(files[0]).exists():
        raise ScenarioError(
            f"cannot read the scenario {short_repr(files[0])}: there is no such file; a server is written like "
            "http://HOST:11434."
        )
    if len(urls) + (url is not None) > 1:
        raise ScenarioError("two URLs are given: give one, as URL or with --url.")
    return Path(files[0]) if files else None, urls[0] if urls else url


def one_url(argument: str | None, option: str | None) -> str | None:
    """Return the URL of an argument or of --url; raise ScenarioError where both are given."""
    if argument is not None and option is not None:
        raise ScenarioError("URL and --url both name a server: give one.")
    return option if argument is None else argument


def make_scenario(path: Any, values: dict[str, Any]) -> Scenario:
    """Lay the options given over the scenario file, or build a scenario of options alone."""
    given = {key: value for key, value in values.items() if value is not None}
    for key, value in given.items():
        if value == ():
            raise ScenarioError(f"--{key.replace('_', '-')} is empty: name at least one number.")
    if path is not None:
        return Scenario.load(path, say=_warn, **given)
    check_lengths_used(given, given, "the command line")
    return Scenario.from_dict(given, where="the command line", say=_warn)


def _warn(sentence: str) -> None:
    print(f"loadtest: {sentence}", file=sys.stderr)
