"""Types of options: numbers within bounds, lists of them, and what a number is drawn from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import click

from loadtest.errors import ScenarioError
from loadtest.scenario import (
    ANY,
    LENGTHS,
    as_sentence,
    parse_whole,
    read_seconds,
    read_share,
    short_repr,
    split_outside_brackets,
)
from loadtest.text import MAYBE_THOUSANDS

# 1,024: a thousand and 24 to many, not 1 and 24
_THOUSANDS = re.compile(r"(?<![\d.])[1-9]\d{0,2}(?:,\d{3})*,0\d\d(?:,\d{3})*(?:\.\d+)?(?!\d)")


class ReadParam(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4 alone
    """A type whose values, or lists of values, `read` makes of the option's text, within `bounds`, which nan is never within.

    The metavar is `kind` in capitals. `wanted` is what a text should have been, where `read` raises no sentence of its own.
    """

    def __init__(self, read: Callable[[str], Any], kind: str, wanted: str = "", bounds: Sequence[float] = ()) -> None:
        self.name = kind
        self._read, self._wanted, self._bounds = read, wanted, bounds

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            found = self._read(str(value))
        except ScenarioError as error:
            self.fail(as_sentence(error), param, ctx)
        except (ValueError, OverflowError):
            maybe = MAYBE_THOUSANDS.search(str(value))
            why = f": {maybe[0]} may be {float(maybe[0]):g} or {maybe[0].replace('.', '')}" if maybe else ""
            self.fail(f"{short_repr(value)} is not {self._wanted}{why}.", param, ctx)
        if found == ():
            self.fail("the list is empty; name at least one number.", param, ctx)
        if self._bounds:
            low, high = self._bounds
            for one in found if isinstance(found, tuple) else (found,):
                if not low <= one <= high:
                    self.fail(f"{short_repr(one)} is not a number from {low:.12g} to {high:.12g}.", param, ctx)
        return found


def number_param(*bounds: float) -> ReadParam:
    return ReadParam(float, "number", "a number like 0.5", bounds)


def seconds_param(*bounds: float) -> ReadParam:
    return ReadParam(read_seconds, "seconds", "a time like 0.5 (seconds), 500ms, 90s, 2m or 1h", bounds)


def whole_param(*bounds: float) -> ReadParam:
    """Return the type of a whole number, also written 1e3 or 16.0."""
    return ReadParam(parse_whole, "n", "a whole number like 8", bounds)


def read_lengths(text: str) -> tuple[float | str, ...]:
    """Read lengths with commas between: whole numbers and distributions, or `any` alone; raise ScenarioError."""
    if text.strip().lower() == ANY:
        return (ANY,)
    return tuple(LENGTHS.read(item) for item in split_outside_brackets(_listed(text), ",") if item.strip())


def _list_of(read: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(read(item) for item in _listed(text).split(",") if item.strip())


def _listed(text: str) -> str:
    """Return a list as it is; raise ScenarioError where a comma in it seems to stand for thousands."""
    if found := _THOUSANDS.search(text):
        raise ScenarioError(
            f"{short_repr(text)} has a comma between two numbers, which makes two of them; write {found[0].replace(',', '')} for one"
        )
    return text


def names_callback(
    known: Collection[str], wanted: str
) -> Callable[[click.Context, click.Parameter, str], tuple[str, ...]]:
    """Return the callback of an option whose text names some of `known`, with commas between; `wanted` says what a text is not."""

    def read(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
        asked = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        wrong = [name for name in asked if name not in known]
        if wrong or not asked:
            raise click.BadParameter(f"{(wrong or [text])[0]!r} is not {wanted}.")
        return asked

    return read


def whole_list(*bounds: float) -> ReadParam:
    return ReadParam(_list_of(parse_whole), "n,n,…", "a list of whole numbers like 1,2,4,8", bounds)


def number_list(*bounds: float) -> ReadParam:
    return ReadParam(_list_of(float), "r,r,…", "a list of numbers like 0.5,1,2 (a second, without the unit)", bounds)


SHARE = ReadParam(read_share, "share", "a share like 5% or 0.05")
PARAM_TYPES: dict[type, click.ParamType[Any]] = {int: whole_param(), float: number_param()}
LISTS_OF = {int: whole_list(), float: number_list()}
