"""--price-per-hour and --price-per-kwh, of every command that writes a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


def price_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the prices; see `Prices.asked`."""
    command = click.option(
        "--price-per-kwh",
        metavar="PRICE",
        help="What a kWh costs, e.g. 0.30EUR: the report says what electricity a million output tokens take, where watts "
        "were sampled (--monitor nvidia, dcgm=URL, rapl).",
    )(command)
    return click.option(
        "--price-per-hour",
        metavar="PRICE",
        help="What the server costs an hour, e.g. 2.49EUR: the report says what a million output tokens cost at each level.",
    )(command)
