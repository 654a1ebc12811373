"""What a server reports of the memory that its loaded model takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.memory.estimate import MemoryPlan


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
