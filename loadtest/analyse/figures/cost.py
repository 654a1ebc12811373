"""What tokens cost, from a price that the user names: of the machine by the hour, or of its electricity by the kWh.

a million tokens = price of an hour / 3600 / tokens a second · 10⁶, or joules a token / 3.6 · 10⁶ · price of a kWh · 10⁶
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.scenario.price import PRICE_KEYS, Price

S_PER_HOUR = 3600
J_PER_KWH = 3.6e6
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    hour: Price | None = None
    kwh: Price | None = None

    @classmethod
    def asked(cls, hour: str | None, kwh: str | None) -> Prices:
        """Return what the options --price-per-hour and --price-per-kwh say; raise ScenarioError."""
        return cls(
            None if hour is None else Price.parse(hour, "--price-per-hour"),
            None if kwh is None else Price.parse(kwh, "--price-per-kwh"),
        )

    @classmethod
    def of_run(cls, facts: Mapping[str, Any]) -> Prices:
        """Return the prices that run.json keeps; none where it is damaged there."""
        scenario = facts.get("scenario") or {}
        kept = [scenario.get(name) for name in PRICE_KEYS]
        try:
            return cls.asked(*(one if isinstance(one, str) else None for one in kept))
        except ScenarioError:
            return NO_PRICES

    def before(self, other: Prices) -> Prices:
        """Return these prices, and where there is none the other's."""
        return Prices(self.hour or other.hour, self.kwh or other.kwh)


NO_PRICES = Prices()


def add_cost(summary: dict[str, Any], prices: Prices) -> None:
    """Put `cost` into each level of a summary for each price that was named, or None and why."""
    for level in summary["levels"]:
        if prices.hour is not None:
            level["cost_by_hour"] = by_hour(level, prices.hour)
        if prices.kwh is not None:
            level["cost_by_kwh"] = _by_kwh(level, prices.kwh)
            if level["cost_by_kwh"] is None:
                level["cost_by_kwh_reason"] = level.get("energy_reason") or "no tokens were counted"


def by_hour(level: Mapping[str, Any], price: Price) -> dict[str, Any]:
    """Return what tokens cost at a level's rates, where the whole price is put on them."""
    output, prompts = level.get("output_tokens_per_s"), level.get("input_tokens_per_s")
    every = (output or 0.0) + prompts if prompts else None  # unknown prompts are no free ones

    def million(rate: float | None) -> float | None:
        return price.amount / S_PER_HOUR / rate * MILLION if rate else None

    return {
        "price_per_hour": price.amount,
        "currency": price.currency,
        "per_million_output_tokens": million(output),
        "per_million_tokens": million(every),
        "per_1000_requests": price.amount / S_PER_HOUR / rate * 1e3 if (rate := level.get("requests_per_s")) else None,
    }


def _by_kwh(level: dict[str, Any], price: Price) -> dict[str, Any] | None:
    energy = level.get("energy")
    if not energy:
        return None
    joules = energy.get("joules_per_output_token")
    request = energy.get("joules_per_request")
    return {
        "price_per_kwh": price.amount,
        "currency": price.currency,
        "per_million_output_tokens": joules / J_PER_KWH * price.amount * MILLION if joules else None,
        "per_1000_requests": request / J_PER_KWH * price.amount * 1e3 if request else None,
    }
