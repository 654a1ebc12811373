"""Shapes of common language models (layers, heads, matrices), from which weights and KV cache follow exactly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loadtest.errors import ScenarioError
from loadtest.memory.gguf import MOST_LAYERS, MOST_OF_MODEL
from loadtest.scenario import short_repr

MODEL_TYPES = {  # Hugging Face's model_type → layout of the layers
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "gemma3_text": "gemma3",
    "phi3": "phi3",
    "opt": "opt",
}
FULL_EVERY = {"gemma2": 2, "gemma3": 6}  # every n-th layer sees the whole context, the others a sliding window
_COUNTS = ("num_key_value_heads", "head_dim", "max_position_embeddings", "num_local_experts", "sliding_window")
TIED = ("gemma", "gemma2", "gemma3", "opt")  # model types whose config.json need not say that embeddings are tied
PADDED_POSITIONS = 2  # OPT's position table starts with two rows that are never used


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight, or `count` equal ones, of `rows` rows with `row` values each; quantisation cuts rows into blocks."""

    name: str  # as GGUF names it, without "blk.N." and ".weight"
    row: int
    rows: int = 1
    count: int = 1
    layer: int | None = None

    @property
    def parameters(self) -> int:
        return self.row * self.rows * self.count


@dataclass(frozen=True, slots=True)
class Shape:
    """The dimensions of a decoder; `layout` names the family that its layers are like."""

    layout: str
    layers: int
    width: int
    feed_forward: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int | None = None  # tokens it was trained for
    head_size: int = 0  # 0: width / heads
    tied: bool = False  # the output matrix is the token embeddings
    experts: int = 1
    window: int = 0  # tokens that sliding-window layers look back; 0: every layer sees the whole context
    rope_factors: bool = False  # GGUF files of Llama 3.1 and later hold a small table of rotary factors

    @property
    def head(self) -> int:
        return self.head_size or self.width // self.heads

    @property
    def full_layers(self) -> int:
        """Layers whose cache grows with the context."""
        return self.layers // FULL_EVERY[self.layout] if self.window else self.layers

    @property
    def parameters(self) -> int:
        """Parameters as published: tied embeddings count once, tables of constants do not count."""
        return sum(item.parameters for item in tensors_of(self) if item.name != "rope_freqs")


def tensors_of(shape: Shape) -> Iterator[Tensor]:
    yield Tensor("token_embd", shape.width, shape.vocabulary)
    if shape.layout == "opt" and shape.context:
        yield Tensor("position_embd", shape.width, shape.context + PADDED_POSITIONS)
    yield Tensor("output_norm", shape.width * (2 if shape.layout == "opt" else 1))
    if not shape.tied:
        yield Tensor("output", shape.width, shape.vocabulary)
    if shape.rope_factors:
        yield Tensor("rope_freqs", shape.head // 2)
    for layer in range(shape.layers):
        for item in _layer(shape):
            yield replace(item, layer=layer)


def _layer(shape: Shape) -> Iterator[Tensor]:
    width, wide = shape.width, shape.feed_forward
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    if shape.layout == "opt":
        yield from (Tensor(name, width, width) for name in ("attn_q", "attn_k", "attn_v", "attn_output"))
        yield from (Tensor("ffn_up", width, wide), Tensor("ffn_down", wide, width))
        yield Tensor("biases", 4 * width + wide + width)
        yield Tensor("norms", 4 * width)
        return
    yield Tensor("attn_norm", width)
    if shape.layout == "phi3":
        yield Tensor("attn_qkv", width, queries + 2 * keys)
    else:
        yield Tensor("attn_q", width, queries)
        yield from (Tensor("attn_k", width, keys), Tensor("attn_v", width, keys))
    yield Tensor("attn_output", queries, width)
    if shape.layout == "qwen2":
        yield Tensor("attn_bias", queries + 2 * keys)
    if shape.layout in ("qwen3", "gemma3"):
        yield Tensor("attn_q_norm", shape.head, count=2)  # and attn_k_norm
    yield Tensor("ffn_norm", width)
    if shape.layout in ("gemma2", "gemma3"):
        yield Tensor("post_norm", width, count=2)  # after attention and after the feed-forward part
    if shape.experts > 1:
        yield Tensor("ffn_gate_inp", width, shape.experts)
    if shape.layout == "phi3":
        yield Tensor("ffn_up", width, 2 * wide)
    else:
        yield from (Tensor(name, width, wide, shape.experts) for name in ("ffn_gate", "ffn_up"))
    yield Tensor("ffn_down", wide, width, shape.experts)


_L31: dict[str, Any] = {"context": 131_072, "rope_factors": True}
_Q25: dict[str, Any] = {"vocabulary": 151_936, "context": 32_768, "tied": True}
_Q25_LARGE: dict[str, Any] = {"vocabulary": 152_064, "context": 32_768}
_Q3: dict[str, Any] = {"vocabulary": 151_936, "context": 40_960, "head_size": 128}
_G2: dict[str, Any] = {"vocabulary": 256_000, "context": 8192, "tied": True, "window": 4096}
_G3: dict[str, Any] = {"vocabulary": 262_208, "context": 131_072, "tied": True, "window": 1024}


_LLAMA3_70B = Shape("llama", 80, 8192, 28_672, 64, 8, vocabulary=128_256, context=8192)
KNOWN_SHAPES: dict[str, Shape] = {
    "llama:7b": Shape("llama", 32, 4096, 11_008, 32, 32, vocabulary=32_000, context=2048),
    "llama:13b": Shape("llama", 40, 5120, 13_824, 40, 40, vocabulary=32_000, context=2048),
    "llama:30b": Shape("llama", 60, 6656, 17_920, 52, 52, vocabulary=32_000, context=2048),
    "llama:65b": Shape("llama", 80, 8192, 22_016, 64, 64, vocabulary=32_000, context=2048),
    "llama2:7b": Shape("llama", 32, 4096, 11_008, 32, 32, vocabulary=32_000, context=4096),
    "llama2:13b": Shape("llama", 40, 5120, 13_824, 40, 40, vocabulary=32_000, context=4096),
    "llama2:70b": Shape("llama", 80, 8192, 28_672, 64, 8, vocabulary=32_000, context=4096),
    "llama3:8b": Shape("llama", 32, 4096, 14_336, 32, 8, vocabulary=128_256, context=8192),
    "llama3:70b": _LLAMA3_70B,
    "llama3.1:8b": Shape("llama", 32, 4096, 14_336, 32, 8, vocabulary=128_256, **_L31),
    "llama3.1:70b": replace(_LLAMA3_70B, context=131_072, rope_factors=True),
    "llama3.1:405b": Shape("llama", 126, 16_384, 53_248, 128, 8, vocabulary=128_256, **_L31),
    "llama3.2:1b": Shape("llama", 16, 2048, 8192, 32, 8, vocabulary=128_256, tied=True, **_L31),
    "llama3.2:3b": Shape("llama", 28, 3072, 8192, 24, 8, vocabulary=128_256, tied=True, **_L31),
    "llama3.3:70b": replace(_LLAMA3_70B, context=131_072, rope_factors=True),
    "tinyllama:1.1b": Shape("llama", 22, 2048, 5632, 32, 4, vocabulary=32_000, context=2048),
    "mistral:7b": Shape("llama", 32, 4096, 14_336, 32, 8, vocabulary=32_768, context=32_768),
    "mistral-nemo:12b": Shape("llama", 40, 5120, 14_336, 32, 8, vocabulary=131_072, context=131_072, head_size=128),
    "mixtral:8x7b": Shape("llama", 32, 4096, 14_336, 32, 8, vocabulary=32_000, context=32_768, experts=8),
    "qwen2.5:0.5b": Shape("qwen2", 24, 896, 4864, 14, 2, **_Q25),
    "qwen2.5:1.5b": Shape("qwen2", 28, 1536, 8960, 12, 2, **_Q25),
    "qwen2.5:3b": Shape("qwen2", 36, 2048, 11_008, 16, 2, **_Q25),
    "qwen2.5:7b": Shape("qwen2", 28, 3584, 18_944, 28, 4, **_Q25_LARGE),
    "qwen2.5:14b": Shape("qwen2", 48, 5120, 13_824, 40, 8, **_Q25_LARGE),
    "qwen2.5:32b": Shape("qwen2", 64, 5120, 27_648, 40, 8, **_Q25_LARGE),
    "qwen2.5:72b": Shape("qwen2", 80, 8192, 29_568, 64, 8, **_Q25_LARGE),
    "qwen3:0.6b": Shape("qwen3", 28, 1024, 3072, 16, 8, tied=True, **_Q3),
    "qwen3:1.7b": Shape("qwen3", 28, 2048, 6144, 16, 8, tied=True, **_Q3),
    "qwen3:4b": Shape("qwen3", 36, 2560, 9728, 32, 8, tied=True, **_Q3),
    "qwen3:8b": Shape("qwen3", 36, 4096, 12_288, 32, 8, **_Q3),
    "qwen3:14b": Shape("qwen3", 40, 5120, 17_408, 40, 8, **_Q3),
    "qwen3:32b": Shape("qwen3", 64, 5120, 25_600, 64, 8, **_Q3),
    "gemma:2b": Shape("gemma", 18, 2048, 16_384, 8, 1, vocabulary=256_000, context=8192, head_size=256, tied=True),
    "gemma:7b": Shape("gemma", 28, 3072, 24_576, 16, 16, vocabulary=256_000, context=8192, head_size=256, tied=True),
    "gemma2:2b": Shape("gemma2", 26, 2304, 9216, 8, 4, head_size=256, **_G2),
    "gemma2:9b": Shape("gemma2", 42, 3584, 14_336, 16, 8, head_size=256, **_G2),
    "gemma2:27b": Shape("gemma2", 46, 4608, 36_864, 32, 16, head_size=128, **_G2),
    "gemma3:1b": Shape(
        "gemma3", 26, 1152, 6912, 4, 1, vocabulary=262_144, context=32_768, head_size=256, tied=True, window=512
    ),
    "gemma3:4b": Shape("gemma3", 34, 2560, 10_240, 8, 4, head_size=256, **_G3),
    "gemma3:12b": Shape("gemma3", 48, 3840, 15_360, 16, 8, head_size=256, **_G3),
    "gemma3:27b": Shape("gemma3", 62, 5376, 21_504, 32, 16, head_size=128, **_G3),
    "phi3:3.8b": Shape("phi3", 32, 3072, 8192, 32, 32, vocabulary=32_064, context=131_072),
    "phi3:14b": Shape("phi3", 40, 5120, 17_920, 40, 10, vocabulary=32_064, context=131_072),
    "phi4:14b": Shape("phi3", 40, 5120, 17_920, 40, 10, vocabulary=100_352, context=16_384),
    "phi4-mini:3.8b": Shape("phi3", 32, 3072, 8192, 24, 8, vocabulary=200_064, context=131_072, tied=True),
    "opt:125m": Shape("opt", 12, 768, 3072, 12, 12, vocabulary=50_272, context=2048, tied=True),
    "opt:1.3b": Shape("opt", 24, 2048, 8192, 32, 32, vocabulary=50_272, context=2048, tied=True),
    "opt:6.7b": Shape("opt", 32, 4096, 16_384, 32, 32, vocabulary=50_272, context=2048, tied=True),
    "opt:13b": Shape("opt", 40, 5120, 20_480, 40, 40, vocabulary=50_272, context=2048, tied=True),
    "opt:30b": Shape("opt", 48, 7168, 28_672, 56, 56, vocabulary=50_272, context=2048, tied=True),
}
SIGHTED = ("gemma3:4b", "gemma3:12b", "gemma3:27b")  # their vision part, about 0.4 B parameters, is not in the shape
_QUANTIZED = re.compile(r"[-_:](q\d(?:_\w+)?|fp16|f16|bf16|f32)$", re.IGNORECASE)
_MANNERS = re.compile(r"-(instruct|chat|text|it|base|pt|hf|v0\.\d|mini-4k|mini-128k|\d+k)(?=-|$)")
_LATEST = {"mistral": "mistral:7b", "mixtral": "mixtral:8x7b", "phi4": "phi4:14b", "phi4-mini": "phi4-mini:3.8b"}


def find(name: str) -> tuple[str, Shape, str | None]:
    """Return the known name, the shape, and the quantisation in the tag (else None) of a model.

    `name` may be an Ollama tag ("llama3.1:70b-instruct-q4_0") or a Hugging Face name ("meta-llama/Llama-3.1-70B-Instruct").
    Raises ScenarioError, which names the nearest known models.
    """
    quantization = None
    text = name.strip()
    if match := _QUANTIZED.search(text):
        text, quantization = text[: match.start()], match.group(1)
    wanted = _plain_name(text)
    plain = {_plain_name(known): known for known in KNOWN_SHAPES} | _LATEST
    if wanted in plain:
        known = plain[wanted]
        return known, KNOWN_SHAPES[known], quantization
    family = [known for known in KNOWN_SHAPES if known.partition(":")[0] == wanted]
    near = family or [plain[key] for key in difflib.get_close_matches(wanted, plain, n=4, cutoff=0.6)]
    families = dict.fromkeys(known.partition(":")[0] for known in KNOWN_SHAPES)
    hint = f"near are {', '.join(near)}" if near else f"known are {', '.join(families)}"
    raise ScenarioError(
        f"model {name!r} is not among those whose shape is known; {hint}. Any other model: --gguf FILE, "
        "--config config.json, or --parameters with --layers, --kv-heads and --head-size."
    )


def _plain_name(name: str) -> str:
    text = name.lower().rpartition("/")[2].removeprefix("meta-").replace(":", "-").replace("_", "-")
    while (shorter := _MANNERS.sub("", text)) != text:
        text = shorter
    text = re.sub(r"^(llama|qwen|gemma|phi)-(?=\d)", r"\1", text)
    return text.removesuffix("-latest")


def from_config(config: Mapping[str, Any], where: str) -> Shape | None:
    """Return the shape that a Hugging Face config.json describes; None for a model type with unknown layers.

    Raises ScenarioError where a number is missing.
    """
    body = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else config
    assert isinstance(body, Mapping)
    kind = str(body.get("model_type") or config.get("model_type") or "")
    layout = MODEL_TYPES.get(kind)
    if layout is None or body.get("word_embed_proj_dim", body.get("hidden_size")) != body.get("hidden_size"):
        return None  # embeddings of another width, which are projected: only OPT-350m has them
    wide = "ffn_dim" if layout == "opt" else "intermediate_size"
    needed = ("num_hidden_layers", "hidden_size", wide, "num_attention_heads", "vocab_size")
    for key in (*needed, *_COUNTS):
        value, most = body.get(key), MOST_LAYERS if key == "num_hidden_layers" else MOST_OF_MODEL
        if (key in needed or value) and not (type(value) is int and 0 < value <= most):
            has = "no whole number" if value is None else f"{short_repr(value)} for"
            raise ScenarioError(f"{where} has {has} {key!r}, which the size of the model follows from.")
    layers, width, feed_forward, heads, vocabulary = map(body.__getitem__, needed)
    windowed, rope = layout in FULL_EVERY, body.get("rope_scaling")
    return Shape(
        layout,
        layers,
        width,
        feed_forward,
        heads,
        body.get("num_key_value_heads") or heads,
        vocabulary,
        context=body.get("max_position_embeddings") or None,
        head_size=body.get("head_dim") or 0,
        tied=bool(body.get("tie_word_embeddings", config.get("tie_word_embeddings", kind in TIED or windowed))),
        experts=(body.get("num_local_experts") or 1) if kind == "mixtral" else 1,
        window=(body.get("sliding_window") or 0) if windowed else 0,
        rope_factors=isinstance(rope, Mapping) and rope.get("rope_type") == "llama3",
    )
