"""--price-per-hour and --price-per-kwh of a command that reports on a run: they win over those that run.json keeps."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from loadtest.analyse.figures.cost import Prices
from loadtest.scenario import Scenario, keys_of
from loadtest.scenario.price import PRICE_KEYS


def price_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the prices, as `prices`; their help is that of the scenario's keys."""

    @functools.wraps(command)
    def with_prices(*given: Any, price_per_hour: str | None, price_per_kwh: str | None, **others: Any) -> Any:
        return command(*given, prices=Prices.asked(price_per_hour, price_per_kwh), **others)

    given: Callable[..., Any] = with_prices
    for key in reversed([key for key in keys_of(Scenario) if key.name in PRICE_KEYS]):
        text = f"{key.declared.help}  [default: as the run was told]"
        given = click.option(key.flag, metavar="PRICE", help=text)(given)
    return given
