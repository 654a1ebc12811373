"""What more slots cost in memory: the KV cache of every slot holds a whole context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.frames import Run
from loadtest.analyse.slots import Slots
from loadtest.errors import ScenarioError

KV_BYTES = 2  # of a value, f16: what servers keep unless told otherwise
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


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory by slots: what the server says that the loaded model takes, plus KV cache for the slots it lacks."""

    loaded: int  # bytes as measured, with `slots` slots
    slots: int
    context: int  # tokens a slot
    kv_bytes: int  # a token: 2 · layers · KV heads · head size · 2

    def at(self, slots: int) -> float:
        """Return the bytes with so many slots: measured + KV cache of the difference (computed, f16)."""
        return float(self.loaded + (slots - self.slots) * self.context * self.kv_bytes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "loaded_bytes": self.loaded,
            "slots": self.slots,
            "context": self.context,
            "kv_bytes_per_token": self.kv_bytes,
        }


def memory(run: Run, slots: Slots) -> Memory | str:
    """Return what the run's facts say about memory by slots, or one sentence on what is missing."""
    server, loaded = run.facts.get("server") or {}, run.facts.get("server_at_end") or {}
    details = (server.get("facts") or {}).get("details") or {}
    size, context = loaded.get("size"), loaded.get("context_length") or server.get("context")
    kv = kv_bytes(details.get("architecture") or {})
    if not size:
        return "memory unknown: the server does not say what the loaded model takes."
    if slots.estimate is None or not slots.limit:
        return "memory unknown: the slots that share the loaded model's memory were not seen."
    if not context:
        return "memory unknown: the server does not say how long its context is."
    if kv is None:
        return "memory unknown: the run does not hold the model's layers and KV heads."
    return Memory(int(size), slots.estimate, int(context), kv)


def kv_bytes(architecture: Mapping[str, Any]) -> int | None:
    """Return the KV cache's bytes a token from /api/show's model_info without its prefix; None where a fact is missing.

    2 · layers · KV heads · head size · 2 bytes; models whose layers differ (a list of KV heads) add theirs up.
    """
    layers, heads = architecture.get("block_count"), architecture.get("attention.head_count")
    kv_heads = architecture.get("attention.head_count_kv")
    head = architecture.get("attention.key_length")
    if head is None and heads and isinstance(heads, int):
        head = (architecture.get("embedding_length") or 0) // heads
    if not layers or not kv_heads or not head:
        return None
    heads_in_all = sum(kv_heads) if isinstance(kv_heads, list) else layers * kv_heads
    return int(2 * heads_in_all * head * KV_BYTES)


def parse_memory(text: str) -> float:
    """Read "80GB" or "24GiB" (a bare number: GB) as bytes; raise ScenarioError."""
    digits = text.strip().rstrip("GMTgmtIiBb ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = float(digits) * UNITS[unit]
    except (KeyError, ValueError):
        size = 0.0
    if not 0 < size < float("inf"):
        raise ScenarioError(f"--gpu-memory is a size like 80GB or 24GiB, not {text!r}.")
    return size
