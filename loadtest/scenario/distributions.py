"""Lengths in tokens, and times in seconds: a number, or a distribution that each request's is drawn from.

lognormal(800, 0.6)      median, standard deviation of the logarithm
normal(500, 100)         mean, standard deviation
uniform(100, 900)        least, most
empirical(prompts.csv)   the lengths in a trace or a data file
200@70%+4000@30%         a mixture; each part is a number or one of the above

Times have no files, and exponential(20) (mean) besides.
"""

from __future__ import annotations

import difflib
import functools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.scenario.files import from_home
from loadtest.scenario.values import (
    TOKEN_COUNTS,
    Range,
    parse_whole,
    read_seconds,
    reads_as_number,
    short_repr,
)

SIGMAS = Range(0, 5)
SPREADS = Range(0, TOKEN_COUNTS.high)
SHARES = Range(0, 100, above_zero=True)
PAUSES = Range(0, 86_400)  # seconds
MOST_LENGTH = int(TOKEN_COUNTS.high)


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """What a distribution is of: what it is called, its bounds, whether it is whole, and its distributions."""

    noun: str
    number: str  # a value of it, for a sentence
    bounds: Range
    whole: bool
    arguments: Mapping[str, tuple[tuple[str, Range], ...]]  # of each distribution: their names and bounds
    examples: Mapping[str, str]

    def mixture(self, value: float | str) -> Mixture:
        """Return the distribution of a value; raise ScenarioError, a phrase on what is wrong with it."""
        return _distribution(value, self) if isinstance(value, str) else Mixture((MixturePart("fixed", (value,)),))

    def read(self, text: str) -> float | str:
        """Return a value as it is stored: a number, or a distribution as users write it; raise ScenarioError."""
        try:
            return parse_whole(text.strip()) if self.whole else read_seconds(text)
        except (ValueError, OverflowError):
            return self.mixture(text).text


LENGTHS = Quantity(
    "length",
    "a whole number",
    TOKEN_COUNTS,
    whole=True,
    arguments={
        "lognormal": (("median", TOKEN_COUNTS), ("sigma", SIGMAS)),
        "normal": (("mean", TOKEN_COUNTS), ("standard deviation", SPREADS)),
        "uniform": (("least", TOKEN_COUNTS), ("most", TOKEN_COUNTS)),
    },
    examples={
        "lognormal": "lognormal(800, 0.6)",
        "normal": "normal(500, 100)",
        "uniform": "uniform(100, 900)",
        "empirical": "empirical(trace.csv)",
    },
)
TIMES = Quantity(
    "time",
    "a number of seconds",
    PAUSES,
    whole=False,
    arguments={
        "lognormal": (("median", PAUSES), ("sigma", SIGMAS)),
        "normal": (("mean", PAUSES), ("standard deviation", PAUSES)),
        "uniform": (("least", PAUSES), ("most", PAUSES)),
        "exponential": (("mean", PAUSES),),
    },
    examples={
        "lognormal": "lognormal(20, 0.8)",
        "normal": "normal(20, 5)",
        "uniform": "uniform(5, 30)",
        "exponential": "exponential(20)",
    },
)
lengths_of, times_of = LENGTHS.mixture, TIMES.mixture

# Given a file's path: its lengths, of which one is drawn.
Observed = Callable[[str], Sequence[int]]


@dataclass(frozen=True, slots=True)
class MixturePart:
    """A distribution by itself, or one of several with its share of the requests."""

    kind: str  # "fixed" or the name of a distribution
    numbers: tuple[float, ...] = ()
    file: str | None = None  # of an empirical distribution
    share: float = 1.0

    @property
    def text(self) -> str:
        if self.kind == "fixed":
            return f"{self.numbers[0]:.10g}"
        inside = self.file if self.file is not None else ", ".join(f"{number:.10g}" for number in self.numbers)
        return f"{self.kind}({inside})"

    def draw(self, rng: random.Random, place: float, observed: Observed) -> int:
        """Return one length; `place`, from 0 to 1, chooses among those of a file."""
        match self.kind:
            case "uniform":
                drawn: float = rng.randint(int(self.numbers[0]), int(self.numbers[1]))
            case "empirical":
                lengths = observed(self.file or "")
                drawn = lengths[int(place * len(lengths))]
            case _:
                drawn = self.value(rng)
        return min(max(round(drawn), 1), MOST_LENGTH)

    def value(self, rng: random.Random) -> float:
        """Return one value of a distribution that comes from no file, as it is drawn."""
        match self.kind:
            case "lognormal":
                return self.numbers[0] * math.exp(self.numbers[1] * rng.gauss(0.0, 1.0))
            case "normal":
                return rng.gauss(*self.numbers)
            case "uniform":
                return rng.uniform(*self.numbers)
            case "exponential":
                return rng.expovariate(1 / self.numbers[0]) if self.numbers[0] else 0.0
        return self.numbers[0]

    @property
    def mean(self) -> float:
        """The mean of a distribution that comes from no file, before what is out of bounds is cut."""
        match self.kind:
            case "lognormal":
                return self.numbers[0] * math.exp(self.numbers[1] ** 2 / 2)
            case "uniform":
                return (self.numbers[0] + self.numbers[1]) / 2
        return self.numbers[0]


@dataclass(frozen=True, slots=True)
class Mixture:
    """A distribution of lengths or of times: parts, of which each draw takes one by its share."""

    parts: tuple[MixturePart, ...]

    @property
    def text(self) -> str:
        """Name the distribution as users write it."""
        if len(self.parts) == 1:
            return self.parts[0].text
        return "+".join(f"{part.text}@{part.share * 100:.10g}%" for part in self.parts)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(part.file for part in self.parts if part.file is not None)

    def draw(self, rng: random.Random, place: float, observed: Observed) -> int:
        return self._one_part(rng).draw(rng, place, observed)

    def seconds(self, rng: random.Random) -> float:
        """Return one time, from 0 to a day."""
        return min(max(self._one_part(rng).value(rng), PAUSES.low), PAUSES.high)

    def _one_part(self, rng: random.Random) -> MixturePart:
        if len(self.parts) == 1:
            return self.parts[0]
        return rng.choices(self.parts, [each.share for each in self.parts])[0]

    @property
    def mean(self) -> float:
        return sum(part.share * part.mean for part in self.parts)


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Return the parts of a text between separators that stand outside brackets."""
    parts, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == separator and depth <= 0:
            parts.append(text[begin:at])
            begin = at + 1
    return [*parts, text[begin:]]


def as_sentence(error: ScenarioError) -> str:
    """Return the sentence that tells what is wrong with a distribution."""
    return str(error) if str(error).endswith("?") else f"{error}."


def as_users_write(key: str, value: Any, of: Quantity) -> Any:
    """Return a key's value as it is stored, a distribution as users write it; raise ScenarioError, naming the key."""
    if not isinstance(value, str):
        return value
    if reads_as_number(value):
        quoted = f"{short_repr(value)}; leave out the quotes" if not of.whole or float(value).is_integer() else value
        raise ScenarioError(f"{key} must be {of.number}, not {quoted}.")
    return distribution_text(key, value, of)


def distribution_text(key: str, value: str, of: Quantity = LENGTHS) -> str:
    """Return a distribution as it is stored, of lengths unless `of` says otherwise; raise ScenarioError, naming the key."""
    try:
        return _distribution(value, of).text
    except ScenarioError as error:
        raise ScenarioError(f"{key}: {as_sentence(error)}") from None


def whole_lengths(values: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(value for value in values if isinstance(value, int))


@functools.lru_cache(maxsize=256)
def _distribution(text: str, of: Quantity) -> Mixture:
    parts = tuple(_part(part, text, of) for part in split_outside_brackets(text, "+"))
    shares = [part.share for part in parts]
    if len(parts) > 1 and (0 in shares or abs(sum(shares) - 1) > 1e-4):
        raise ScenarioError(
            f"{short_repr(text)} is no mixture of {of.noun}s: give each part its share, 100 % in all, like 200@70%+4000@30%"
        )
    if len(parts) == 1 and shares[0] not in (0, 1):
        raise ScenarioError(f"{short_repr(text)} gives its only {of.noun} {shares[0]:.0%}; leave the share out")
    return Mixture(parts if len(parts) > 1 else (replace(parts[0], share=1.0),))


def _part(text: str, whole: str, of: Quantity) -> MixturePart:
    """Return one part of a mixture; its share is 0 where it has none."""
    body, at, share_text = text.strip().rpartition("@")
    share = 0.0
    if not at or not share_text.rstrip().endswith("%"):
        body = text.strip()
    else:
        share = _number(share_text.strip().rstrip("%"), "share", SHARES, whole, of) / 100
    name, bracket, rest = body.partition("(")
    name = name.strip().lower()
    if not bracket:
        return MixturePart("fixed", (_number(body, of.noun, of.bounds, whole, of),), share=share)
    if not rest.rstrip().endswith(")"):
        raise ScenarioError(f"{short_repr(whole)} lacks a closing bracket")
    inside = rest.rstrip()[:-1].strip()
    if name == "empirical" and name in of.examples:
        if not inside:
            raise ScenarioError(f"{short_repr(whole)} names no file; write {of.examples[name]}")
        return MixturePart(name, file=from_home(inside), share=share)
    if name not in of.arguments:
        near = difflib.get_close_matches(name, of.examples, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(of.examples)}"
        raise ScenarioError(f"{short_repr(whole)} names no distribution of {of.noun}s; {hint}")
    given, asked = inside.split(","), of.arguments[name]
    if len(given) != len(asked):
        many = "two numbers" if len(asked) > 1 else "one number"
        raise ScenarioError(f"{short_repr(whole)} must have {many}, like {of.examples[name]}")
    numbers = tuple(_number(one, what, bounds, whole, of) for one, (what, bounds) in zip(given, asked, strict=True))
    broken = of.whole and any(not number.is_integer() for number in numbers)
    if name == "uniform" and (numbers[0] > numbers[1] or broken):
        what = "two whole numbers" if of.whole else "two numbers"
        raise ScenarioError(f"{short_repr(whole)} must have {what}, the smaller one first")
    return MixturePart(name, numbers, share=share)


def _number(text: str, what: str, bounds: Range, whole: str, of: Quantity) -> float:
    try:
        if of.whole and bounds.high == MOST_LENGTH and re.fullmatch(r"\s*[1-9]\d{0,2}\.\d{3}\s*", text):
            raise ValueError  # 4.096 tokens: thousands
        number = float(text)
    except ValueError:
        raise ScenarioError(
            f"{short_repr(whole)} is no {of.noun}: give {of.number} or a distribution like {of.examples['lognormal']}"
        ) from None
    try:
        bounds.check(f"the {what}", number)
    except ScenarioError as error:
        raise ScenarioError(f"{short_repr(whole)} cannot be: {str(error).rstrip('.')}") from None
    return number
