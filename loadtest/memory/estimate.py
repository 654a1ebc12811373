"""The memory that a model takes (weights, KV cache and buffers, by slots and context), and what a server reports of it.

It needs no server.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from loadtest.errors import ScenarioError
from loadtest.memory import weights
from loadtest.memory.gguf import KEEP_OTHERS, MOST_OF_MODEL, TYPES, GgufHeader, size_of, whole_numbers
from loadtest.memory.shapes import FULL_EVERY, Shape, find
from loadtest.metrics import highest
from loadtest.text import read_amount

CACHE_DTYPES = {  # bytes a value; the quantised ones store blocks of 32 values
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "fp8": 1.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
}
SIZE_UNITS = {  # bytes, of sizes as people write them
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
OLLAMA_CACHES = {"q8_0": 1.0, "q4_0": 0.5}  # bytes a value that Ollama counts in /api/ps: less than such caches take
DEFAULT_CONTEXT = 4096  # tokens: Ollama's default on small GPUs since 0.6.7
BATCH = 512  # prompt tokens per pass: the default of llama.cpp and Ollama
DRIVER = 457 * 2**20  # bytes of a CUDA context; Ollama reserves as much on every GPU
UNKNOWN_COMPUTE = 512 * 2**20  # bytes allowed for buffers where the model's width is unknown
# GGUF architecture → every n-th layer sees the whole context, where the file does not say which layers do
_WINDOWED = {**FULL_EVERY, "gpt-oss": 2, "gptoss": 2, "cohere2": 4, "phi3": 1}
_PADDING = 256  # to a multiple of which llama.cpp rounds up the cells of a sliding window
MOST_SLOTS = 4096
LONGEST_CONTEXT = 2**24


@dataclass(frozen=True, slots=True)
class KVCache:
    """Values in the KV cache per token: 2 · KV heads · head size, summed over the layers."""

    full: int  # of layers that keep every token
    windowed: int = 0  # of layers that keep only the last `window` tokens
    window: int = 0

    @property
    def of_token(self) -> int:
        return self.full + self.windowed

    def values(self, context: int) -> int:
        """Return the values that a slot of `context` tokens holds; a window has additional room for one batch."""
        cells = min(context, -(-(self.window + BATCH) // _PADDING) * _PADDING)
        return self.full * context + self.windowed * cells


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    name: str
    weights: int  # bytes
    weights_from: str  # the source of that figure, in words
    tensors_only: bool = False  # computed from tensors, without the header that a file has as well
    bound: str = ""  # "about" or "at least", where the figure is no exact one
    parameters: int | None = None
    cache: KVCache | None = None  # None: the layers are unknown
    trained: int | None = None  # context that the model was trained for, tokens
    width: int | None = None
    feed_forward: int | None = None
    heads: int | None = None
    vocabulary: int | None = None
    embedding: int | None = None  # bytes of the input embedding, below 0 where the output shares it; None: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """A model served with a number of slots of a context each."""

    facts: Facts
    context: int = DEFAULT_CONTEXT  # tokens a slot
    slots: int = 1
    cache_dtype: str = "f16"
    flash: bool = True
    buffers: int | None = None  # bytes that replace the allowance …
    buffers_from: str = "as given with --buffers"  # … and why
    gpu: bool = True  # False: the model lies in host memory

    def of_simulated(self) -> Self:
        """Return the plan as a simulated server holds it, which has no engine, and so no buffers, unless they were given."""
        return replace(self, buffers=0, buffers_from="a simulated server has none") if self.buffers is None else self

    @property
    def token_bytes(self) -> float | None:
        """KV cache of one token over all layers, bytes."""
        return None if self.facts.cache is None else self.facts.cache.of_token * CACHE_DTYPES[self.cache_dtype]

    @property
    def kv(self) -> int | None:
        """KV cache of all slots, bytes; servers allocate all of it when they load the model."""
        if self.facts.cache is None:
            return None
        return int(self.facts.cache.values(self.context) * self.slots * CACHE_DTYPES[self.cache_dtype])

    @property
    def compute(self) -> int:
        """Allowance for the buffers of one pass over 512 tokens, bytes.

        With flash attention: 4 · 512 · max(width + vocabulary, 2 · feed-forward + 8 · width) and a mask of
        2 · 512 · context. Without: Ollama's own formula, 4 · 512 · (1 + 4 · width + context of all slots · (1 + heads)).
        """
        facts = self.facts
        if self.buffers is not None:
            return self.buffers
        if not facts.width:
            return UNKNOWN_COMPUTE
        outer = facts.width + (facts.vocabulary or 0)
        if not self.flash and facts.heads:
            return 4 * BATCH * max(outer, 1 + 4 * facts.width + self.context * self.slots * (1 + facts.heads))
        middle = 2 * (facts.feed_forward or 4 * facts.width) + 8 * facts.width
        return 4 * BATCH * max(outer, middle) + 2 * BATCH * self.context

    @property
    def driver(self) -> int:
        return 0 if self.buffers is not None or not self.gpu else DRIVER

    @property
    def loaded(self) -> int:
        """Bytes that a server would report for the loaded model: without the driver's, and without buffers where no GPU is."""
        return self.facts.weights + (self.kv or 0) + (self.compute if self.gpu else 0)

    def left_out(self, size: int) -> int:
        """Return the bytes of the input embedding where a report of `size` comes nearer without them, else 0; below 0: twice counted.

        Ollama leaves them out of /api/ps in its llama engine up to 0.24, and from 0.30 on where all layers are on GPUs. Its own
        engine up to 0.24 (Gemma 3, Qwen 3, …) has an embedding that the output shares twice, and counts both.
        """
        return min(0, self.facts.embedding or 0, key=lambda each: abs(self.loaded - each - size))

    @property
    def total(self) -> int:
        return self.facts.weights + (self.kv or 0) + self.compute + self.driver

    def most_slots(self, gpu: float) -> int | None:
        """Return the most slots of this context that fit; 0 where none does, None where the KV cache is unknown."""
        if self.kv is None:
            return None
        return highest(lambda slots: replace(self, slots=slots).total <= gpu, MOST_SLOTS)

    def most_context(self, gpu: float) -> int | None:
        """Return the longest context of so many slots that fits, at most the one that the model was trained for."""
        if self.kv is None:
            return None
        most = self.facts.trained or LONGEST_CONTEXT
        return highest(lambda context: replace(self, context=context).total <= gpu, most)


@dataclass(frozen=True, slots=True)
class LoadedMemory:
    """What the server reported of the loaded model (Ollama: /api/ps), bytes."""

    size: int
    size_vram: int | None

    def beside(self, plan: MemoryPlan) -> dict[str, Any]:
        """Return estimate, measurement and difference (measured − estimated; bytes, and share of the estimate)."""
        estimated = plan.loaded - plan.left_out(self.size)
        difference = self.size - estimated
        return {
            "estimated_bytes": estimated,
            "measured_bytes": self.size,
            "measured_vram_bytes": self.size_vram,
            "difference_bytes": difference,
            "difference_share": difference / estimated,
        }


def loaded_memory(row: Mapping[str, Any] | None) -> LoadedMemory | None:
    """Return the sizes in a row of /api/ps; None without a row or a size."""
    size = (row or {}).get("size")
    return LoadedMemory(int(size), (row or {}).get("size_vram")) if size else None


def facts_of_shape(name: str, shape: Shape, *, quantization: str | None = None, dtype: str | None = None) -> Facts:
    """Return the facts of a model of known shape, as a GGUF file of `quantization` or with weights of `dtype`."""
    if quantization is not None:
        size = weights.weigh(shape, quantization)
        where = weights.quantised_source(quantization)
    else:
        size, where = weights.of_dtype(shape, dtype or "fp16")
    values = 2 * shape.kv_heads * shape.head
    cache = KVCache(values * shape.full_layers, values * (shape.layers - shape.full_layers), shape.window)
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


def facts_of_server(name: str, details: Mapping[str, Any], trained: int | None) -> Facts:
    """Return the facts that a server reports of its model (Ollama's /api/tags and /api/show); raise ScenarioError.

    `details` are as targets/server/probe.py keeps them: quantization_level, parameter_size, family, file_size and architecture.
    Where the file's size is missing, the weights follow from the shape that the model's name tells, else from the parameters.
    """
    architecture, bound = details.get("architecture") or {}, ""
    quantization = str(details.get("quantization_level") or "")
    parameters = architecture.get("parameter_count") or _parameter_size(details.get("parameter_size"))
    if size := details.get("file_size"):
        where = "the model's file on the server"
    elif (known := _shape_by_name(name, quantization)) is not None and known[0].layers == architecture.get(
        "block_count", known[0].layers
    ):
        size = weights.weigh(*known)
        where = weights.quantised_source(known[1])
    elif parameters and quantization:
        size, where = weights.rough(parameters, quantization)
        bound = "about"
    else:
        raise ScenarioError(f"the server does not say how large {name} is: give --model, --config or --gguf.")
    found = _of_architecture(
        architecture,
        str(details.get("family") or ""),
        name=name,
        size=int(size),
        where=where,
        parameters=parameters,
        trained=trained,
    )
    embedding = _embedding(details.get("input_embedding"))
    possible = embedding is not None and abs(embedding) < found.weights
    return replace(found, bound=bound, embedding=embedding if possible else None)


def _embedding(said: Any) -> int | None:
    match said:
        case {"type": str(kind), "values": int(values), "shared": shared} if (
            kind in TYPES and 0 < values <= MOST_OF_MODEL
        ):
            return size_of(kind, values) * (-1 if shared else 1)
    return None


def _shape_by_name(name: str, quantization: str) -> tuple[Shape, str] | None:
    """Return the shape of a model that is known by name, and its quantisation; None where either is unknown."""
    try:
        _, shape, tagged = find(name)
    except ScenarioError:
        return None
    return (shape, known) if (known := quantization or tagged) else None


def cache_of(architecture: Mapping[str, Any], family: str = "") -> KVCache | None:
    """Return the KV cache of a token from GGUF's keys without their prefix; None where they do not tell it.

    A list of KV heads means that layers differ. Compressed caches (DeepSeek's) are not supported.
    """
    architecture = whole_numbers(architecture)
    heads, key = architecture.get("attention.head_count"), architecture.get("attention.key_length")
    if key is None and heads and isinstance(heads, int):
        key = (architecture.get("embedding_length") or 0) // heads
    each = _kv_heads(architecture)
    slides = _sliding(architecture, family, len(each))
    if not each or not key or slides is None:
        return None
    pair = key + (architecture.get("attention.value_length") or key)
    swa_key = architecture.get("attention.key_length_swa")
    swa_pair = swa_key + (architecture.get("attention.value_length_swa") or swa_key) if swa_key else pair
    full = sum(count for count, slide in zip(each, slides, strict=True) if not slide)
    return KVCache(
        pair * full, swa_pair * (sum(each) - full), architecture["attention.sliding_window"] if any(slides) else 0
    )


def _kv_heads(architecture: Mapping[str, Any]) -> list[int]:
    """Return the KV heads of each layer, 0 where it keeps none or an earlier layer's; empty where that is not known."""
    layers, heads = architecture.get("block_count"), architecture.get("attention.head_count_kv")
    every, shared = architecture.get("full_attention_interval"), architecture.get("attention.shared_kv_layers") or 0
    states = any(name.startswith("ssm.") for name in architecture) and not every
    if not layers or not heads or any(name in architecture for name in KEEP_OTHERS):
        return []
    if not isinstance(heads, list):
        heads = [] if states else [0 if every and layer % every else heads for layer in range(1, layers + 1)]
    return [0 if layer >= layers - shared else count for layer, count in enumerate(heads)]


def _sliding(architecture: Mapping[str, Any], family: str, layers: int) -> list[bool] | None:
    """Return of each layer whether it keeps a window of the last tokens alone; None where that is not known."""
    if not architecture.get("attention.sliding_window"):
        return [False] * layers
    pattern = architecture.get("attention.sliding_window_pattern") or _WINDOWED.get(family)
    if isinstance(pattern, list):
        return [bool(slides) for slides in pattern] if len(pattern) == layers else None
    return [layer % pattern > 0 for layer in range(1, layers + 1)] if pattern else None


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
    architecture = whole_numbers({**architecture, "context_length": trained})
    heads, wide = architecture.get("attention.head_count"), architecture.get("feed_forward_length")
    return Facts(
        name=name,
        weights=size,
        weights_from=where,
        parameters=parameters,
        cache=cache_of(architecture, family),
        trained=architecture.get("context_length"),
        width=architecture.get("embedding_length"),
        feed_forward=max(wide, default=None) if isinstance(wide, list) else wide,
        heads=max(heads, default=None) if isinstance(heads, list) else heads,
        vocabulary=architecture.get("vocab_size"),
    )


def _parameter_size(text: Any) -> int | None:
    """Read Ollama's "70.6B" or "3.41M"."""
    size = _parameters(str(text))
    return int(size) if math.isfinite(size) else None


def _parameters(text: str) -> float:
    return read_amount(text.strip().upper(), {"": 1.0, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12})


def parse_parameters(text: str) -> float:
    """Return "7B" or "7e9" as a number; raise ScenarioError for one that no model has, such as 7."""
    count = _parameters(text)
    if not 1e5 <= count < 1e15:
        raise ScenarioError(f"{text!r} is not a number of parameters like 7B or 7e9.")
    return count


def parse_size(text: str, option: str = "--gpu-memory") -> float:
    """Return "80GB" or "24GiB" as bytes (a number alone is GB); raise ScenarioError, which names the option."""
    size = read_amount(text.strip().lower(), SIZE_UNITS)
    if not 0 < size < math.inf:
        raise ScenarioError(f"{option} is a size like 80GB or 24GiB, not {text!r}.")
    return size
