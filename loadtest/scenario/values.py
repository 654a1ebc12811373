"""What a single value must be: numbers within bounds, texts that can be sent, written and shown."""

from __future__ import annotations

import math
import types
import typing
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.errors import ScenarioError

MOST_S = 30 * 86_400.0  # of a level, a limit or a trace: 30 days
MOST_REQUESTS = 10_000_000  # of a level: a schedule of them takes 80 MB, their records some 20 GB
MOST_STREAMS = 100_000
MOST_DIGITS = 40  # of what was given, in a sentence

_NAMES: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number; `above_zero` words a low bound that only keeps out what would never end."""

    low: float
    high: float
    above_zero: bool = False
    instead: str = ""  # what to do where more is wanted

    def check(self, key: str, value: float) -> None:
        """Raise ScenarioError, naming the key, where `value` is no number or out of bounds."""
        if isinstance(value, float) and math.isnan(value):
            raise ScenarioError(f"{key} must be a number, not {value}.")
        if self.above_zero and value <= 0:
            raise ScenarioError(f"{key} must be above 0, not {said(value)}.")
        if value < self.low:
            more = f"at least {plain(self.low)}" if self.above_zero else f"{plain(self.low)} or more"
            raise ScenarioError(f"{key} must be {more}, not {said(value)}.")
        if value > self.high:
            instead = f"; {self.instead}" if self.instead else ""
            raise ScenarioError(f"{key} must be at most {plain(self.high)}, not {said(value)}{instead}.")


TOKENS = Range(1, 10_000_000)
RATE = Range(1e-6, 1e6, above_zero=True)
SECONDS = Range(1e-6, MOST_S, above_zero=True, instead="2592000 s are 30 days")
BURSTINESS = Range(0.01, 1e6, above_zero=True)


def plain(value: float) -> str:
    """Return a bound as people write it: whole numbers without an exponent."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def said(value: Any) -> str:
    """Return a value as a sentence quotes it, short: a number of thousands of digits cannot even be printed."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > MOST_DIGITS * 3:
        return f"a number of about {round(value.bit_length() * 0.30103)} digits"
    if isinstance(value, dict):
        return "a table"
    try:
        text = str(value) if isinstance(value, int | float) else repr(value)
    except (ValueError, RecursionError):  # a list that holds such a number, or itself
        return f"a {type(value).__name__}"
    return text if len(text) <= MOST_DIGITS + 20 else f"{text[:MOST_DIGITS]}… ({len(text)} characters)"


def whole(text: str) -> int:
    """Read a whole number, written "16", "16.0" or "1e3"; raise ValueError."""
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not value.is_integer():  # False of inf and nan, too
            raise ValueError(text) from None
        return int(value)


def number(text: str) -> float:
    """Read a number; nan and inf are numbers here, for their bounds refuse them. Raise ValueError."""
    return float(text)


def coerce(key: str, value: Any, wanted: Any, where: str) -> Any:
    """Return `value` as the type that the field wants; a lone number is a list of one. Raise ScenarioError."""
    origin = typing.get_origin(wanted)
    if origin is Sequence:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(coerce(key, item, typing.get_args(wanted)[0], where) for item in items)
    options = typing.get_args(wanted) if origin in (typing.Union, types.UnionType) else (wanted,)
    if value is None and type(None) in options:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if float in options:
            try:
                return float(value)
            except OverflowError:
                raise ScenarioError(f"{where}: {key} must be a number of use, not {said(value)}.") from None
        if int in options and isinstance(value, float) and value.is_integer():
            return int(value)
    for option in options:
        if isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    names = " or ".join("nothing" if option is type(None) else _NAMES[option] for option in options)
    quotes = ""
    if isinstance(value, str) and (int in options or float in options) and _reads(value):
        quotes = "; leave the quotes away"
    raise ScenarioError(f"{where}: {key} must be {names}, not {said(value)}{quotes}.")


def _reads(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def encodable(text: str) -> bool:
    """Whether a text is one in UTF-8; a command line's other bytes arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def sendable(text: str) -> bool:
    """Whether a text is UTF-8 and free of control characters."""
    return encodable(text) and not _controls(text)


def _controls(text: str) -> list[str]:
    """Return what a terminal or a page would execute instead of showing it."""
    return [char for char in text if char in _BIDI or unicodedata.category(char) in ("Cc", "Zl", "Zp")]


def check_text(key: str, text: str, *, most: int, empty: str, lines: bool = False) -> None:
    """Raise ScenarioError, naming the key, for a text that cannot be sent, written or shown.

    Args:
        most: bytes in UTF-8.
        empty: what to do instead where it is empty.
        lines: line ends, tabs and other control characters but NUL may be in it.
    """
    if not encodable(text):
        raise ScenarioError(f"{key} holds bytes that are not UTF-8 text ({said(text)}); write it in UTF-8.")
    if not text.strip():
        raise ScenarioError(f"{key} is empty; {empty}.")
    if "\0" in text:
        raise ScenarioError(f"{key} holds a NUL byte; take it out.")
    if len(text) > most or len(text.encode()) > most:
        raise ScenarioError(f"{key} is {len(text.encode())} bytes long; make it {most} or fewer.")
    if not lines and (odd := _controls(text)):
        raise ScenarioError(f"{key} holds a control character ({odd[0]!a}); take it out.")
