"""Memory of a run's model: the context that it was given, what more slots would cost, and the estimate for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loadtest.analyse.run import RunData
from loadtest.analyse.server.queue.slots import Slots
from loadtest.errors import PredictionError, ScenarioError
from loadtest.memory.estimate import Facts, KVCache, MemoryPlan, cache_of, facts_of_server
from loadtest.text import binary_size, counted

F16 = 2  # bytes a value of the KV cache, by the default of servers
SMALLER = 0.25  # of a cache of f16, by which one of q8_0, the next smaller type, is smaller at least
WEIGHTS_OFF = 0.02  # by which weights may be estimated too high


def granted_context(run: RunData) -> int | None:
    """Return the context of the model in tokens, as the server reported it at the run's end, else before it."""
    context = run.fact("server_at_end", "context_length") or run.fact("server", "context")
    return int(context) if context else None


def context_sentence(run: RunData) -> str | None:
    """Say that the server granted another context than was asked for; None where it did not."""
    asked, given = run.fact("server", "context_asked") or run.fact("scenario", "num_ctx"), granted_context(run)
    if not asked or not given or asked == given:
        return None
    return f"The model has a context of {given} tokens, by the server's word; --num-ctx asked for {asked}."


@dataclass(frozen=True, slots=True)
class MemoryBySlots:
    """Memory by slots: what the server reports for the loaded model, plus the KV cache of additional slots."""

    loaded: int  # bytes as measured, with `slots` slots
    slots: int
    context: int  # tokens per slot
    cache: KVCache

    @property
    def slot_bytes(self) -> int:
        """The KV cache (f16) of one slot."""
        return F16 * self.cache.values(self.context)

    def at(self, slots: int) -> float:
        """Return the bytes with so many slots: measured + computed KV cache (f16) of the additional slots."""
        return float(self.loaded + (slots - self.slots) * self.slot_bytes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "loaded_bytes": self.loaded,
            "slots": self.slots,
            "context": self.context,
            "kv_bytes_per_token": F16 * self.cache.of_token,
            "kv_bytes_per_slot": self.slot_bytes,
        }


def memory_by_slots(run: RunData, slots: Slots) -> MemoryBySlots | str:
    """Return memory by slots from the facts of a run, or a sentence on what is missing."""
    size = run.fact("server_at_end", "size")
    if not size:
        return "memory unknown: the server does not say what the loaded model takes."
    if slots.estimate is None or not slots.limit:
        return "memory unknown: the slots that share the loaded model's memory were not seen."
    context = granted_context(run)
    if not context:
        return "memory unknown: the server does not say how long its context is."
    details = run.fact("server", "facts", "details") or {}
    cache = cache_of(details.get("architecture") or {}, str(details.get("family") or ""))
    if cache is None:
        return "memory by slots unknown: what the run holds of the model's layers does not tell what a slot's KV cache takes."
    found = MemoryBySlots(int(size), slots.estimate, context, cache)
    try:
        facts = _facts(run)
        weights = facts.weights - max(facts.embedding or 0, 0)
    except ScenarioError:
        weights = 0
    f16 = found.slots * found.slot_bytes
    if weights + f16 - found.loaded > SMALLER * f16 + WEIGHTS_OFF * weights:
        return (
            f"memory by slots unknown: the server reports {binary_size(found.loaded)}, less than weights and a KV cache of f16 in "
            f"{counted(found.slots, 'slot')} take, so its cache is of a smaller type."
        )
    return found


def _facts(run: RunData) -> Facts:
    """Return what the run holds of its model; raise ScenarioError where that is not enough."""
    said = run.fact("server", "facts") or {}
    name = str(run.fact("target", "model") or "unknown model")
    return facts_of_server(name, said.get("details") or {}, said.get("trained_context"))


def plan_of_run(run: RunData, slots: Slots) -> MemoryPlan:
    """Return the estimate for the run's model with its context and slots; raise PredictionError."""
    context, count = granted_context(run), run.fact("server", "slots_said") or slots.estimate
    if not context or not count:
        missing = "how long its context is" if not context else "how many slots it has, and none were seen"
        raise PredictionError(f"{run.path} does not say {missing}: estimate with --model, --context and --slots.")
    try:
        facts = _facts(run)
    except ScenarioError as error:
        raise PredictionError(f"{run.path} is not enough to estimate from: {error}") from None
    return MemoryPlan(facts=facts, context=int(context), slots=int(count))
