"""Sizes of memory as people write them."""

from __future__ import annotations

from loadtest.errors import ScenarioError

UNITS = {
    "": 1e9,
    "gb": 1e9,
    "g": 1e9,
    "mb": 1e6,
    "tb": 1e12,
    "gib": 2.0**30,
    "gi": 2.0**30,
    "mib": 2.0**20,
    "tib": 2.0**40,
}


def parse_size(text: str, option: str = "--gpu-memory") -> float:
    """Return "80GB" or "24GiB" as bytes (a number alone is GB); raise ScenarioError, which names the option."""
    digits = text.strip().rstrip("GMTgmtIiBb ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = float(digits) * UNITS[unit]
    except (KeyError, ValueError):
        size = 0.0
    if not 0 < size < float("inf"):
        raise ScenarioError(f"{option} is a size like 80GB or 24GiB, not {text!r}.")
    return size
