"""What a server reports of its loaded model, and sizes as people write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.memory.estimate import Facts, MemoryPlan, cache_of, facts_of_server
from loadtest.memory.shapes import Shape, find

KV_BYTES = 2  # per value: f16, the default of servers
MEMORY_UNITS = {
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


def kv_bytes(architecture: Mapping[str, Any]) -> int | None:
    """Return the KV cache's bytes per token: 2 · layers · KV heads · head size · 2; None where a fact is missing.

    The facts come from /api/show's model_info without its prefix. Layers that differ (a list of KV heads) are added up.
    """
    cache = cache_of(architecture)
    return None if cache is None else (cache.full + cache.windowed) * KV_BYTES


def parse_memory(text: str, option: str = "--gpu-memory") -> float:
    """Return "80GB" or "24GiB" as bytes (a number alone is GB); raise ScenarioError, which names the option."""
    digits = text.strip().rstrip("GMTgmtIiBb ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = float(digits) * MEMORY_UNITS[unit]
    except (KeyError, ValueError):
        size = 0.0
    if not 0 < size < float("inf"):
        raise ScenarioError(f"{option} is a size like 80GB or 24GiB, not {text!r}.")
    return size


@dataclass(frozen=True, slots=True)
class LoadedMemory:
    """What the server reported of the loaded model (Ollama: /api/ps), bytes."""

    size: int
    size_vram: int | None

    def beside(self, plan: MemoryPlan) -> dict[str, Any]:
        """Return estimate, measurement and difference (measured − estimated; bytes, and share of the estimate)."""
        difference = self.size - plan.loaded
        return {
            "estimated_bytes": plan.loaded,
            "measured_bytes": self.size,
            "measured_vram_bytes": self.size_vram,
            "difference_bytes": difference,
            "difference_share": difference / plan.loaded,
        }


def loaded_memory(said: Mapping[str, Any] | None) -> LoadedMemory | None:
    """Return the sizes in a row of /api/ps; None without a row or a size."""
    size = (said or {}).get("size")
    return LoadedMemory(int(size), (said or {}).get("size_vram")) if size else None


def server_facts(name: str, details: Mapping[str, Any], trained: int | None) -> Facts:
    """Return the facts of a server's model; where the server reports too little, the shape comes from the model's name."""
    shape: tuple[Shape, str] | None = None
    try:
        _, known, tagged = find(name)
        if quantization := details.get("quantization_level") or tagged:
            shape = known, str(quantization)
    except ScenarioError:
        pass  # an unknown name: only the server's own figures are left
    return facts_of_server(name, details, trained=trained, shape=shape)
