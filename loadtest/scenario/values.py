"""What a single value must be: a number within bounds, a text that can be sent, stored and shown."""

from __future__ import annotations

import datetime
import math
import os
import re
import types
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from loadtest.errors import ScenarioError
from loadtest.text import MAYBE_THOUSANDS, encodable, read_amount

MOST_S = 30 * 86_400.0  # of a level, a limit or a trace: 30 days
MOST_REQUESTS = 10_000_000  # of a level: a schedule of them takes 80 MB, their records some 20 GB
MOST_STREAMS = 100_000
TIME_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0}  # seconds
MOST_DIGITS = 40  # of what was given, in a sentence

_WITH_UNIT = re.compile(r"\s*[\d.]+\s*[A-Za-zµ%/]+\s*")
_WRITTEN = {"header": '["Name: value"]', "query": '["name=value"]'}
_KIND_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number.

    With `above_zero` a value of 0 or less is refused as "above 0", and `low` only keeps out what would take for ever.
    """

    low: float
    high: float
    above_zero: bool = False
    instead: str = ""  # what to do for more than `high`

    def check(self, key: str, value: object) -> None:
        """Raise ScenarioError, naming the key, for a `value` that is no number or out of bounds."""
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or (isinstance(value, float) and math.isnan(value))
        ):
            raise ScenarioError(f"{key} must be a number, not {short_repr(value)}.")
        if self.above_zero and value <= 0:
            raise ScenarioError(f"{key} must be above 0, not {short_repr(value)}.")
        if value < self.low:
            more = f"at least {_bound(self.low)}" if self.above_zero else f"{_bound(self.low)} or more"
            raise ScenarioError(f"{key} must be {more}, not {short_repr(value)}.")
        if value > self.high:
            instead = f"; {self.instead}" if self.instead else ""
            raise ScenarioError(f"{key} must be at most {_bound(self.high)}, not {short_repr(value)}{instead}.")


TOKEN_COUNTS = Range(1, 10_000_000)
RATE = Range(1e-6, 1e6, above_zero=True)
SECONDS = Range(1e-6, MOST_S, above_zero=True, instead="2592000 s are 30 days")
BURSTINESS = Range(0.01, 1e6, above_zero=True)


def _bound(value: float) -> str:
    """Return a bound as people write it: a whole number without an exponent."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def short_repr(value: Any) -> str:
    """Return a value as a sentence quotes it, shortened: Python refuses to print a number of thousands of digits."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > MOST_DIGITS * 3:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    if isinstance(value, dict):
        return "a table"
    try:
        text = str(value) if isinstance(value, int | float | datetime.date) else repr(value)
    except (ValueError, RecursionError):  # a list that holds such a number, or itself
        return f"a {type(value).__name__}"
    return text if len(text) <= MOST_DIGITS + 20 else f"{text[:MOST_DIGITS]}… ({len(text)} characters)"


def parse_whole(text: str) -> int:
    """Read a whole number, written as "16", "16.0" or "1e3"; raise ValueError, also for 1.000, which is a thousand to some."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer() or MAYBE_THOUSANDS.search(text):  # is_integer is false for inf and nan, too
            raise ValueError(text) from None
        return int(value)


def read_share(text: str) -> float:
    """Read a share, written as "5%" or "0.05"; raise ValueError."""
    number = text.strip()
    return float(number.removesuffix("%")) / (100 if number.endswith("%") else 1)


def read_seconds(text: str) -> float:
    """Read seconds, written as "90", "1.5m" or "500ms"; raise ValueError."""
    seconds = read_amount(text.strip(), TIME_UNITS)
    return float(text) if math.isnan(seconds) else seconds


def coerce(key: str, value: Any, wanted: Any, where: str) -> Any:
    """Return `value` as a field's type; a single value becomes a list of one. Raise ScenarioError."""
    value = _plain(value)
    origin = get_origin(wanted)
    if origin in (Sequence, tuple):
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(key, item, get_args(wanted)[0], where) for item in items)
    options = get_args(wanted) if origin in (Union, types.UnionType) else (wanted,)
    if value is None and type(None) in options:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if float in options:
            try:
                return float(value)
            except OverflowError:
                raise ScenarioError(f"{where}: {key} is too large: {short_repr(value)}.") from None
        if int in options and isinstance(value, float) and value.is_integer():
            return int(value)
    for option in options:
        if isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    names = " or ".join("nothing" if option is type(None) else _KIND_WORDS[option] for option in options)
    quotes = ""
    if isinstance(value, str) and (int in options or float in options) and reads_as_number(value):
        quotes = "; leave out the quotes"
    elif isinstance(value, str) and _WITH_UNIT.fullmatch(value) and (int in options or float in options):
        quotes = "; write the number alone, without a unit"
    elif isinstance(value, dict) and key in _WRITTEN:
        quotes = f"; write it like {key} = {_WRITTEN[key]}"
    raise ScenarioError(f"{where}: {key} must be {names}, not {short_repr(value)}{quotes}.")


def _plain(value: Any) -> Any:
    """Return what a script gives as a file would: a path as text, a range, numbers of numpy and columns of pandas as Python's own."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, range):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else value


def reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def sendable(text: str) -> bool:
    """Whether a text is UTF-8 and free of control characters."""
    return encodable(text) and not _controls(text)


def _controls(text: str) -> list[str]:
    """Return the characters that a terminal or a page would obey instead of showing them."""
    return [char for char in text if char in _BIDI or unicodedata.category(char) in ("Cc", "Zl", "Zp")]


@dataclass(frozen=True, slots=True)
class Text:
    """What must hold of a text that is sent, written into files and shown."""

    most: int  # bytes in UTF-8
    empty: str  # what to do where it is empty
    lines: bool = False  # whether line ends, tabs and other control characters but NUL are allowed
    blank: bool = False  # whether it may be blanks alone

    def check(self, key: str, text: str) -> None:
        """Raise ScenarioError, naming the key, for a text that cannot be sent, written or shown."""
        if not encodable(text):  # quoting a long text that is right would cost more than looking at it
            raise ScenarioError(f"{key} holds bytes that are not UTF-8 text ({short_repr(text)}); write it in UTF-8.")
        if not (text if self.blank else text.strip()):
            raise ScenarioError(f"{key} is empty; {self.empty}.")
        if "\0" in text:
            raise ScenarioError(f"{key} holds a NUL byte; take it out.")
        if len(text) > self.most or len(text.encode()) > self.most:
            raise ScenarioError(f"{key} is {len(text.encode())} bytes long; make it {self.most} or fewer.")
        if not self.lines and (odd := _controls(text)):
            raise ScenarioError(f"{key} holds a control character ({odd[0]!a}); take it out.")
