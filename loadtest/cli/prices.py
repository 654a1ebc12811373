"""--price-per-hour and --price-per-kwh, of every command that writes a report."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from loadtest.analyse.figures.cost import Prices


def price_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the prices, as `prices`."""

    @functools.wraps(command)
    def with_prices(*given: Any, price_per_hour: str | None, price_per_kwh: str | None, **others: Any) -> Any:
        return command(*given, prices=Prices.asked(price_per_hour, price_per_kwh), **others)

    with_kwh = click.option(
        "--price-per-kwh",
        metavar="PRICE",
        help="What a kWh costs, e.g. 0.30EUR: the report says what electricity a million output tokens take, where watts "
        "were sampled (--monitor nvidia, dcgm=URL, rapl).",
    )(with_prices)
    return click.option(
        "--price-per-hour",
        metavar="PRICE",
        help="What the server costs an hour, e.g. 2.49EUR: the report says what a million output tokens cost at each level.",
    )(with_kwh)
