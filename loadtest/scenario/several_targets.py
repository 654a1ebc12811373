"""Several servers and several models in one scenario: how they are written, and who is sent to which of them.

The keys `url` and `model` hold one text each, in run.json too: URLs with blanks between, models with commas between, and
behind a model its weight where it has one ("a=3,b=1").
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.errors import ScenarioError
from loadtest.scenario.values import short_repr
from loadtest.urls import BLANKS_AND_QUOTES

MOST_TARGETS = 64  # combinations of a server and a model in one run
MOST_WEIGHT = 1000

_BETWEEN_URLS = re.compile(r"\s*,\s*(?=\w+://)|\s+")
_WEIGHTED = re.compile(r"(?P<name>.*\S)\s*=\s*(?P<weight>-?\d+(\.\d+)?)")


@dataclass(frozen=True, slots=True)
class ModelShare:
    """A model's name, None for the one that the server has, and its part of a server's users."""

    name: str | None
    weight: int = 1


def urls_in(text: str | None) -> tuple[str | None, ...]:
    """Return the URLs that a text names; (None,) where none is given. Blanks and quotes around the text or a URL go."""
    if text is None:
        return (None,)
    urls = (url.strip(BLANKS_AND_QUOTES) for url in _BETWEEN_URLS.split(text.strip(BLANKS_AND_QUOTES)))
    return tuple(url for url in urls if url) or (text,)


def models_in(text: str | None) -> tuple[ModelShare, ...]:
    """Return the models that a text names, with their weights; without a comma the text is one name, whatever it holds.

    Raises ScenarioError for a name given twice, a name that is missing, and a weight that is no whole number above 0.
    """
    if text is None or "," not in text:
        return (ModelShare(text),)
    found = []
    for entry in text.split(","):
        match = _WEIGHTED.fullmatch(entry.strip())
        name, weight = (match["name"], match["weight"]) if match else (entry.strip(), "1")
        if not name:
            raise ScenarioError(f"model = {short_repr(text)} lacks a name beside a comma; write a,b or a=3,b=1.")
        if not weight.isdigit() or not 1 <= int(weight) <= MOST_WEIGHT:
            raise ScenarioError(
                f"model: the weight of {name} must be a whole number from 1 to {MOST_WEIGHT}, not {short_repr(weight)}; "
                "write a=3,b=1."
            )
        found.append(ModelShare(name, int(weight)))
    names = [one.name for one in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ScenarioError(
            f"model names {twice} twice; give it once, with a weight where it has more users: {twice}=2."
        )
    return tuple(found)


def even_weights(models_of_servers: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the weight of each model of each server, so that every server has as many users as any other."""
    totals = [sum(weights) for weights in models_of_servers]
    whole = math.lcm(*totals)
    weights = [weight * whole // total for own, total in zip(models_of_servers, totals, strict=True) for weight in own]
    common = math.gcd(*weights)
    return tuple(weight // common for weight in weights)


def rotation(weights: Sequence[int]) -> tuple[int, ...]:
    """Return whose turn it is, by index, over one round in which each has as many turns as its weight, spread evenly.

    User j and arrival j are the target's whose turn is the j-th, round after round.
    """
    credit = [0] * len(weights)
    turns = []
    for _ in range(sum(weights)):
        credit = [have + weight for have, weight in zip(credit, weights, strict=True)]
        chosen = credit.index(max(credit))
        credit[chosen] -= sum(weights)
        turns.append(chosen)
    return tuple(turns)
