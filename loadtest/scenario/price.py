"""Prices that a user names, in any currency: an amount, with what stands before or behind it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Self

from loadtest.errors import ScenarioError
from loadtest.text import MAYBE_THOUSANDS, UNKNOWN, number

PRICE_KEYS = ("price_per_hour", "price_per_kwh")
# a letter alone behind an amount is no currency: 1k is a thousand
_PRICE = re.compile(
    r"\s*(?P<before>[^\d\s.,+%-]{0,4})\s*(?P<amount>\d+(\.\d+)?|\.\d+)\s*(?![A-Za-z]\s*$)(?P<after>[^\d\s.,+%-]{0,4})\s*"
)


@dataclass(frozen=True, slots=True)
class Price:
    """An amount in a currency of the user's; the currency is only repeated."""

    amount: float
    currency: str = ""

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """Read "2.49", "2.49 EUR" or "$2.49"; raise ScenarioError for anything else."""
        found = _PRICE.fullmatch(text)
        if found and MAYBE_THOUSANDS.fullmatch(digits := found["amount"]):
            raise ScenarioError(
                f"{option} {text!r} may be {float(digits):g} or {digits.replace('.', '')}; write one of these."
            )
        if not found or (found["before"] and found["after"]) or not 0 < (amount := float(found["amount"])) < 1e9:
            raise ScenarioError(f"{option} must be a price above 0 like 2.49, 2.49EUR or $2.49, not {text!r}.")
        return cls(amount, found["before"] or found["after"])

    def written(self, amount: float | None) -> str:
        """Return another amount in the same currency."""
        if amount is None or not math.isfinite(amount):
            return UNKNOWN
        digits = number(amount) if amount >= 0.995 else f"{amount:.3g}" if amount >= 1e-4 else f"{amount:.1e}"
        return f"{digits} {self.currency}".strip()


def price_text(value: Any) -> Any:
    """Return a price as text where a scenario file or a script gives the number alone; anything else as it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:.12g}" if is_number else value
