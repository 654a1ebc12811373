"""Will it fit: weights, KV cache and buffers of a model by slots and context, from facts and without a server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.memory import weights
from loadtest.memory.gguf import GgufHeader
from loadtest.memory.shapes import FULL_EVERY, Shape

CACHE_DTYPES = {  # values a block, bytes a block
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "fp8": (1, 1),
    "q8_0": (32, 34),
    "q5_1": (32, 24),
    "q5_0": (32, 22),
    "q4_1": (32, 20),
    "q4_0": (32, 18),
}
DEFAULT_CONTEXT = 4096  # tokens: what Ollama takes on small GPUs since 0.6.7
BATCH = 512  # prompt tokens a pass: what llama.cpp and Ollama take unless told otherwise
DRIVER = 457 * 2**20  # a CUDA context; Ollama sets this much aside on every GPU
UNKNOWN_COMPUTE = 512 * 2**20  # allowance where the model's width is not known
_WINDOWED = {**FULL_EVERY, "gpt-oss": 2, "gptoss": 2, "cohere2": 4}  # GGUF architecture -> every n-th layer sees all
_PADDING = 256  # llama.cpp rounds a sliding window's cells up to this
MOST_SLOTS = 4096
LEAST_SLOT = 0.02  # of the loaded model: a smaller slot drowns in what the weights' figure may be off by
WHOLE_SLOT_TOLERANCE = 0.1  # of a slot: how near a number of slots must be to a whole one
LONGEST_CONTEXT = 2**24


@dataclass(frozen=True, slots=True)
class Cache:
    """The KV cache of one token in values: 2 · KV heads · head size, summed over the layers."""

    full: int  # in layers that keep every token
    windowed: int = 0  # in layers that keep the last `window` tokens only
    window: int = 0

    def values(self, context: int) -> int:
        """Return the values that one slot of `context` tokens keeps; a window has room for the batch in flight."""
        cells = min(context, -(-(self.window + BATCH) // _PADDING) * _PADDING)
        return self.full * context + self.windowed * cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an estimate stands on."""

    name: str
    weights: int  # bytes
    weights_from: str  # where that figure is from, for the reader
    tensors_only: bool = False  # a file's tensors, worked out: its header is not in the figure
    parameters: int | None = None
    cache: Cache | None = None  # None: the layers are not known
    trained: int | None = None  # tokens
    width: int | None = None
    feed_forward: int | None = None
    heads: int | None = None
    vocabulary: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model served with so many slots of so much context."""

    facts: Facts
    context: int = DEFAULT_CONTEXT  # tokens a slot
    slots: int = 1
    cache_dtype: str = "f16"
    flash: bool = True
    buffers: int | None = None  # bytes, in place of the allowance
    gpu: bool = True  # False: all of it lies in host memory

    @property
    def token_bytes(self) -> float | None:
        """KV cache of one token in all layers that keep it, bytes."""
        block, size = CACHE_DTYPES[self.cache_dtype]
        return None if self.facts.cache is None else (self.facts.cache.full + self.facts.cache.windowed) * size / block

    @property
    def kv(self) -> int | None:
        """KV cache of all slots, bytes: taken when the model is loaded, whether requests fill it or not."""
        if self.facts.cache is None:
            return None
        block, size = CACHE_DTYPES[self.cache_dtype]
        return self.facts.cache.values(self.context) * self.slots * size // block

    @property
    def compute(self) -> int:
        """Allowance for the buffers of a pass over 512 tokens, bytes.

        With flash attention: 4 · 512 · max(width + vocabulary, 2 · feed-forward + 8 · width) and a mask of
        2 · 512 · context. Without: Ollama's own formula, 4 · 512 · (1 + 4 · width + context of all slots · (1 + heads)).
        """
        facts = self.facts
        if self.buffers is not None:
            return self.buffers
        if not facts.width:
            return UNKNOWN_COMPUTE
        ends = facts.width + (facts.vocabulary or 0)
        if not self.flash and facts.heads:
            return 4 * BATCH * max(ends, 1 + 4 * facts.width + self.context * self.slots * (1 + facts.heads))
        middle = 2 * (facts.feed_forward or 4 * facts.width) + 8 * facts.width
        return 4 * BATCH * max(ends, middle) + 2 * BATCH * self.context

    @property
    def driver(self) -> int:
        return 0 if self.buffers is not None or not self.gpu else DRIVER

    @property
    def loaded(self) -> int:
        """Bytes that a server would say the loaded model takes: all but the driver's own; without a GPU no buffers either."""
        return self.facts.weights + (self.kv or 0) + (self.compute if self.gpu else 0)

    @property
    def total(self) -> int:
        return self.facts.weights + (self.kv or 0) + self.compute + self.driver

    def slots_of(self, loaded: int) -> int | None:
        """Return how many slots make `loaded` bytes, where the server counts weights and KV cache alone; None for no number.

        Ollama does so without a GPU. A slot must be more than the weights' own error, and its number whole to a tenth.
        """
        one = (self.kv or 0) / self.slots
        if self.gpu or one < LEAST_SLOT * loaded:
            return None
        slots = (loaded - self.facts.weights) / one
        return round(slots) if round(slots) >= 1 and abs(slots - round(slots)) <= WHOLE_SLOT_TOLERANCE else None

    def most_slots(self, gpu: float) -> int | None:
        """Return the most slots of this context that fit; 0 where not even one does, None where the KV is not known."""
        if self.kv is None:
            return None
        return _largest_fitting(lambda slots: replace(self, slots=slots).total <= gpu, MOST_SLOTS)

    def most_context(self, gpu: float) -> int | None:
        """Return the longest context of this many slots that fits, at most what the model was trained for."""
        if self.kv is None:
            return None
        return _largest_fitting(
            lambda context: replace(self, context=context).total <= gpu, self.facts.trained or LONGEST_CONTEXT
        )


def _largest_fitting(fits: Any, limit: int) -> int:
    """Return the largest whole number up to `limit` that fits: what does not fit does not fit with more either."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def facts_of_shape(name: str, shape: Shape, *, quantization: str | None = None, dtype: str | None = None) -> Facts:
    """Return the facts of a model whose shape is known, as a GGUF file of `quantization` or with weights of `dtype`."""
    if quantization is not None:
        size = weights.weigh(shape, quantization).bytes
        where = f"every tensor as llama.cpp quantises to {weights.recipe(quantization)}"
    else:
        kind = weights.dtype(dtype or "fp16")
        size = weights.by_dtype(shape.parameters, kind)
        where = f"{shape.parameters:,} parameters × {weights.bytes_each(kind)} ({kind})"
    values = 2 * shape.kv_heads * shape.head
    cache = Cache(values * shape.full_layers, values * (shape.layers - shape.full_layers), shape.window)
    return Facts(
        name=name,
        weights=size,
        weights_from=where,
        tensors_only=quantization is not None,
        parameters=shape.parameters,
        cache=cache,
        trained=shape.context,
        width=shape.width,
        feed_forward=shape.feed_forward,
        heads=shape.heads,
        vocabulary=shape.vocabulary,
    )


def facts_of_gguf(name: str, header: GgufHeader) -> Facts:
    """Return the facts of a GGUF file: its tensors' bytes summed exactly."""
    facts = header.facts()
    vocabulary = next((item.dimensions[-1] for item in header.tensors if item.name == "token_embd.weight"), None)
    return _of_architecture(
        {**facts, "vocab_size": vocabulary},
        header.architecture,
        name=name,
        size=header.weights,
        where=f"{len(header.tensors)} tensors in the file, summed",
        parameters=header.parameters,
        trained=facts.get("context_length"),
    )


def facts_of_server(
    name: str,
    details: Mapping[str, Any],
    *,
    trained: int | None = None,
    shape: tuple[Shape, str] | None = None,
) -> Facts:
    """Return the facts that a server gives of its model (Ollama's /api/tags and /api/show); raise ScenarioError.

    `details` as measure.probe keeps them: quantization_level, parameter_size, family, file_size and the architecture.
    Without the file's size the weights follow from `shape` (and its quantisation), else from the parameters.
    """
    architecture = details.get("architecture") or {}
    quantization = str(details.get("quantization_level") or "")
    parameters = architecture.get("parameter_count") or _parameter_size(details.get("parameter_size"))
    if size := details.get("file_size"):
        where = "the model's file on the server"
    elif shape is not None and shape[0].layers == architecture.get("block_count", shape[0].layers):
        size = weights.weigh(shape[0], shape[1]).bytes
        where = f"every tensor as llama.cpp quantises to {weights.recipe(shape[1])}"
    elif parameters and quantization:
        size = weights.rough(parameters, quantization)
        where = f"{parameters / 1e9:.3g} B parameters × the bytes of {quantization}; up to a tenth low"
    else:
        raise ScenarioError(f"the server does not say how large {name} is: give --model, --config or --gguf.")
    return _of_architecture(
        architecture,
        str(details.get("family") or ""),
        name=name,
        size=int(size),
        where=where,
        parameters=parameters,
        trained=trained,
    )


def cache_of(architecture: Mapping[str, Any], family: str = "") -> Cache | None:
    """Return the KV cache of a token from GGUF's keys without their prefix; None where a fact is missing.

    Layers may differ (a list of KV heads). Sliding windows are known for Gemma 2 and 3, gpt-oss and Command R7B; for any
    other family every layer counts as keeping the whole context. Compressed caches (DeepSeek's) are not known.
    """
    layers, heads = architecture.get("block_count"), architecture.get("attention.head_count")
    kv_heads, key = architecture.get("attention.head_count_kv"), architecture.get("attention.key_length")
    if key is None and heads and isinstance(heads, int):
        key = (architecture.get("embedding_length") or 0) // heads
    if not layers or not kv_heads or not key or "attention.kv_lora_rank" in architecture:
        return None
    pair = key + (architecture.get("attention.value_length") or key)
    each = list(kv_heads) if isinstance(kv_heads, list) else [kv_heads] * layers
    window, every = architecture.get("attention.sliding_window") or 0, _WINDOWED.get(family)
    if not window or every is None:
        return Cache(pair * sum(each))
    full = sum(count for layer, count in enumerate(each, start=1) if layer % every == 0)
    return Cache(pair * full, pair * (sum(each) - full), window)


def _of_architecture(
    architecture: Mapping[str, Any],
    family: str,
    *,
    name: str,
    size: int,
    where: str,
    parameters: int | None,
    trained: int | None,
) -> Facts:
    heads, wide = architecture.get("attention.head_count"), architecture.get("feed_forward_length")
    return Facts(
        name=name,
        weights=size,
        weights_from=where,
        parameters=parameters,
        cache=cache_of(architecture, family),
        trained=trained,
        width=architecture.get("embedding_length"),
        feed_forward=max(wide, default=None) if isinstance(wide, list) else wide,
        heads=max(heads, default=None) if isinstance(heads, list) else heads,
        vocabulary=architecture.get("vocab_size"),
    )


def _parameter_size(text: Any) -> int | None:
    """Read Ollama's "70.6B" or "3.41M"."""
    units = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
    try:
        return int(float(str(text)[:-1]) * units[str(text)[-1:].upper()])
    except (KeyError, ValueError):
        return None
