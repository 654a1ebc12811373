"""What tokens took in energy and cost, a row a level; and in a few words where the watts come from, or why there are none."""

from __future__ import annotations

from typing import Any

from loadtest.analyse.server.energy import NOT_SAMPLED
from loadtest.grid import Grid
from loadtest.scenario.price import Price
from loadtest.text import UNKNOWN, number

ENERGY_FIGURES = (
    ("joules_per_output_token", "J an output token"),
    ("joules_per_output_token_above_idle", "of it above idle"),
    ("joules_per_input_token", "J an input token"),
    ("joules_per_request", "J a request"),
    ("output_tokens_per_s_per_watt", "output tokens/s a watt"),
)
COSTS = (
    ("cost_by_hour", "price_per_hour", "per_million_output_tokens", "1 M output tokens, at {} an hour"),
    ("cost_by_hour", "price_per_hour", "per_million_tokens", "1 M tokens in and out"),
    ("cost_by_kwh", "price_per_kwh", "per_million_output_tokens", "electricity of 1 M output tokens, at {} a kWh"),
    ("cost_by_hour", "price_per_hour", "per_1000_requests", "1000 requests"),
)


def energy_table(summary: dict[str, Any]) -> Grid | None:
    """Return a row a level; None where no watts were sampled and no price was named."""
    levels = summary["levels"]
    sampled = any(level.get("energy") or level.get("energy_reason") not in (None, NOT_SAMPLED) for level in levels)
    if not sampled and not any("cost_by_hour" in level or "cost_by_kwh" in level for level in levels):
        return None
    costs = [(key, part, _cost_head(levels, key, price, head)) for key, price, part, head in COSTS]
    costs = [(key, part, head) for key, part, head in costs if any(key in level for level in levels)]
    wanted = sampled or not any("cost_by_hour" in level for level in levels)  # else the table of the run says it, once
    missing = wanted and any(level.get("energy_reason") for level in levels)
    rows = tuple(_energy_row(level, costs, missing=missing) for level in levels)
    heads = (
        "level",
        "watts",
        "idle watts",
        *(head for _, head in ENERGY_FIGURES),
        *(head for *_, head in costs),
        *(["energy not measured because"] if missing else []),
    )
    return Grid(heads, rows, prose=missing).without_unknown()


def _energy_row(level: dict[str, Any], costs: list[tuple[str, str, str]], *, missing: bool) -> tuple[str, ...]:
    energy = level.get("energy") or {}
    cells = [number(energy.get(name)) for name in ("watts", "idle_watts", *(name for name, _ in ENERGY_FIGURES))]
    for key, part, _ in costs:
        cost = level.get(key) or {}
        amount = cost.get(part)
        cells.append(Price(1.0, cost["currency"]).written(amount) if amount is not None else UNKNOWN)
    return level["label"], *cells, *([level.get("energy_reason") or UNKNOWN] if missing else [])


def _cost_head(levels: list[dict[str, Any]], key: str, price: str, head: str) -> str:
    named = next((level[key] for level in levels if level.get(key)), None)
    return head.format(Price(named[price], named["currency"]).written(named[price]) if named else "the price")


def energy_fact(summary: dict[str, Any]) -> str:
    energy = next((level["energy"] for level in summary["levels"] if level.get("energy")), None)
    if energy:
        mark = "simulated; " if energy["simulated"] else ""
        return f"{mark}of {energy['of']}, by {energy['by']} ({', '.join(energy['watts_by_source'])})"
    reasons = dict.fromkeys(level.get("energy_reason") or NOT_SAMPLED for level in summary["levels"])
    return f"not measured: {'; '.join(reasons) or NOT_SAMPLED}"
