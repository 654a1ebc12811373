"""Types of options: numbers within bounds, lists of them, and what a number is drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import click

from loadtest.errors import ScenarioError
from loadtest.scenario import (
    as_sentence,
    parse_whole,
    read_length,
    read_share,
    short_repr,
    split_outside_brackets,
)


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


class ShareParam(NumberParam):
    """A share, also written 5%."""

    name = "share"
    what = "a share like 5% or 0.05"
    read = staticmethod(read_share)


class ReadParam(click.ParamType[Any]):
    """What `read` makes of a text, such as lengths; `wanted` says what a text is not where the reader does not say it."""

    def __init__(self, read: Callable[[str], Any], kind: str, wanted: str = "") -> None:
        self.name = kind
        self._read, self._wanted = read, wanted

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(str(value))
        except ScenarioError as error:
            self.fail(as_sentence(error), param, ctx)
        except ValueError:
            self.fail(f"{short_repr(value)} is not {self._wanted}.", param, ctx)


def read_lengths(text: str) -> tuple[int | str, ...]:
    """Read lengths with commas between: whole numbers and distributions; raise ScenarioError."""
    return tuple(read_length(item) for item in split_outside_brackets(text, ",") if item.strip())


def _list_of(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(read(item) for item in text.split(",") if item.strip())


PARAM_TYPES: dict[type, click.ParamType[Any]] = {int: WholeParam(), float: NumberParam()}
LISTS_OF = {
    int: ReadParam(_list_of(parse_whole), "whole numbers", "a list of whole numbers like 1,2,4,8"),
    float: ReadParam(_list_of(float), "numbers", "a list of numbers like 0.5,1,2"),
}
LIST_METAVARS = {int: "N,N,…", float: "R,R,…"}
