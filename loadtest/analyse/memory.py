"""Memory of a run: what the server said that the model takes, beside the estimate, and what more slots would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtest.analyse.estimate import Facts, Plan, cache_of, of_server
from loadtest.analyse.frames import Run
from loadtest.analyse.shapes import Shape, find
from loadtest.analyse.slots import Slots
from loadtest.errors import PredictionError, ScenarioError

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


def granted(run: Run) -> int | None:
    """Return the context that the model was given, tokens: as the server said at the run's end, else before it began."""
    server, loaded = run.facts.get("server") or {}, run.facts.get("server_at_end") or {}
    context = loaded.get("context_length") or server.get("context")
    return int(context) if context else None


def context_sentences(run: Run) -> list[str]:
    """Say what context was asked for and what was granted, where these differ."""
    scenario, server = run.facts.get("scenario") or {}, run.facts.get("server") or {}
    asked, given = server.get("context_asked") or scenario.get("num_ctx"), granted(run)
    if not asked or not given or asked == given:
        return []
    return [f"The model has a context of {given} tokens, by the server's word; --num-ctx asked for {asked}."]


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
    size, context = loaded.get("size"), granted(run)
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
    cache = cache_of(architecture)
    return None if cache is None else (cache.full + cache.windowed) * KV_BYTES


def parse_memory(text: str, option: str = "--gpu-memory") -> float:
    """Read "80GB" or "24GiB" (a bare number: GB) as bytes; raise ScenarioError, which names the option."""
    digits = text.strip().rstrip("GMTgmtIiBb ")
    unit = text.strip()[len(digits) :].strip().lower()
    try:
        size = float(digits) * UNITS[unit]
    except (KeyError, ValueError):
        size = 0.0
    if not 0 < size < float("inf"):
        raise ScenarioError(f"{option} is a size like 80GB or 24GiB, not {text!r}.")
    return size


@dataclass(frozen=True, slots=True)
class Measured:
    """What the server said of the loaded model when it was asked (Ollama: /api/ps), bytes."""

    size: int
    size_vram: int | None

    def beside(self, plan: Plan) -> dict[str, Any]:
        """Return estimate, measured and the difference (measured - estimate, bytes and share of the estimate)."""
        difference = self.size - plan.loaded
        return {
            "estimated_bytes": plan.loaded,
            "measured_bytes": self.size,
            "measured_vram_bytes": self.size_vram,
            "difference_bytes": difference,
            "difference_share": difference / plan.loaded,
        }


def measured(said: Mapping[str, Any] | None) -> Measured | None:
    """Return what a row of /api/ps says; None where there is none or it names no size."""
    size = (said or {}).get("size")
    return Measured(int(size), (said or {}).get("size_vram")) if size else None


def server_facts(name: str, details: Mapping[str, Any], trained: int | None) -> Facts:
    """Return the facts of a server's model; its name gives the shape where the server says too little."""
    shape: tuple[Shape, str] | None = None
    try:
        _, known, tagged = find(name)
        if quantization := details.get("quantization_level") or tagged:
            shape = known, str(quantization)
    except ScenarioError:
        pass  # not among the known: the server's own figures must do
    return of_server(name, details, trained=trained, shape=shape)


def of_run(run: Run, slots: Slots) -> Plan:
    """Return the estimate for what the run measured, with its context and slots; raise PredictionError."""
    server, context = run.facts.get("server") or {}, granted(run)
    said = server.get("facts") or {}
    count = server.get("slots_said") or slots.estimate
    if not context or not count:
        missing = "how long its context is" if not context else "how many slots it has, and none were seen"
        raise PredictionError(f"{run.path} does not say {missing}: estimate with --model, --context and --slots.")
    name = str((run.facts.get("target") or {}).get("model"))
    try:
        facts = server_facts(name, said.get("details") or {}, said.get("trained_context"))
    except ScenarioError as error:
        raise PredictionError(f"{run.path} is not enough to estimate from: {error}") from None
    return Plan(facts=facts, context=int(context), slots=int(count))
