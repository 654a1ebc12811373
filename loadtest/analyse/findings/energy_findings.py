"""What tokens took in energy and cost, in sentences: as measured, or why it was not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from loadtest.analyse.findings.finding import Finding
from loadtest.analyse.run import LevelData, believed, name_among
from loadtest.analyse.server.energy import IN_USE, NOT_SAMPLED
from loadtest.scenario.price import Price
from loadtest.text import capitalised, number, percent

NOT_IN_IT = {
    "nvidia": "Processors, memory, fans and the power supply's losses are not in it.",
    "rapl": "GPUs, fans and the power supply's losses are not in it; this client's own work is, where it ran on the same machine.",
    "both": "Fans and the power supply's losses are not in it.",
}


def energy_findings(summary: dict[str, Any]) -> Iterator[Finding]:
    """Yield what an output token took where it took least and most, what it cost, and what of that was not measured."""
    levels = believed(summary["levels"])
    yield from _energy(levels)
    for key, per in (("cost_by_hour", "an hour"), ("cost_by_kwh", "a kWh")):
        yield from _cost(levels, key, per, " (simulated)" if summary.get("simulated") else "")


def _energy(levels: Sequence[LevelData]) -> Iterator[Finding]:
    told = [level for level in levels if (level.get("energy") or {}).get("joules_per_output_token")]
    reasons = {level["energy_reason"] for level in levels if level.get("energy_reason")} - {NOT_SAMPLED}
    if not told:
        for reason in sorted(reasons):
            yield Finding(f"Energy was not measured: {reason}.")
        return
    least, most = (pick(told, key=_joules) for pick in (min, max))
    mark = " (simulated)" if least["energy"]["simulated"] else ""
    above = least["energy"]["joules_per_output_token_above_idle"]
    more = f", {number(above)} J of it above idle" if above is not None else ""
    said = f"An output token takes {number(_joules(least))} J{mark} at {name_among(least, told)}{more}"
    if most is not least:
        said = f"{said}, and {number(_joules(most))} J at {name_among(most, told)}"
    yield Finding(f"{said}.", _how(least["energy"]))
    use = least["energy"].get("idle_use")
    if use is not None and use > IN_USE:
        yield Finding(
            f"GPUs were at {percent(use)} utilisation{mark} while this client asked nothing, so the joules may hold others' work."
        )


def _joules(level: LevelData) -> float:
    value: float = level["energy"]["joules_per_output_token"]
    return value


def _how(energy: dict[str, Any]) -> str:
    sources = energy["watts_by_source"]
    gpus = any(source != "rapl" for source in sources)
    which = "both" if gpus and "rapl" in sources else "nvidia" if gpus else "rapl"
    idle = (
        f"idle was {number(energy['idle_watts'])} W, {energy['idle_measured']}"
        if energy["idle_watts"] is not None
        else f"idle is unknown: {energy['idle_reason']}"
    )
    return (
        f"{number(energy['watts'])} W on average over the window of the rates, by {energy['by']} of {energy['of']} "
        f"({', '.join(sources)}, {energy['readings']} readings); {idle}. All that they drew counts, whoever used them. "
        f"{NOT_IN_IT[which]}{' ' + capitalised(left) if (left := energy.get('left_out')) else ''}"
    )


def _cost(levels: Sequence[LevelData], key: str, per: str, mark: str) -> Iterator[Finding]:
    asked = [level for level in levels if key in level]
    told = [level for level in asked if (level[key] or {}).get("per_million_output_tokens")]
    if not told:
        if reason := next((level.get(f"{key}_reason") for level in asked if level.get(f"{key}_reason")), None):
            yield Finding(f"What electricity costs was not measured: {reason}.")
        return
    least, most = (pick(told, key=lambda level: level[key]["per_million_output_tokens"]) for pick in (min, max))
    cost = least[key]
    price = Price(cost["price_per_hour" if key == "cost_by_hour" else "price_per_kwh"], cost["currency"])
    said = f"At {price.written(price.amount)} {per}, a million output tokens{mark} cost {_million(least, told, key, price)}"
    if most is not least:
        said = f"{said}, and {_million(most, told, key, price)}"
    if key == "cost_by_hour":
        every = cost["per_million_tokens"]
        how = (
            "Price / 3600 / output tokens/s, all of the price put on output tokens; where the machine is less busy than at this level, "
            "a token costs more."
        )
        also = f" Input and output counted alike, a million tokens cost {price.written(every)}." if every else ""
    else:
        how, also = "Joules an output token (with idle) × price; only what was sampled counts.", ""
    yield Finding(f"{said}.", f"{how}{also}")


def _million(level: LevelData, levels: Sequence[LevelData], key: str, price: Price) -> str:
    return f"{price.written(level[key]['per_million_output_tokens'])} at {name_among(level, levels)}"
