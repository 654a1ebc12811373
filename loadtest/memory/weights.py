"""Bytes of a model's weights: parameters × bytes of a dtype, or tensor by tensor as llama.cpp quantises them."""

from __future__ import annotations

import math

from loadtest.errors import ScenarioError
from loadtest.memory.gguf import TYPES, size_of
from loadtest.memory.shapes import KNOWN_SHAPES, Shape, Tensor, tensors_of

DTYPES = {"float32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0, "int4": 0.5}  # bytes a parameter
# of the layers' matrices, with a scale of two bytes and a zero of half a byte for each 128 of AWQ and GPTQ; the rest stays fp16
QUANTISED_DTYPES = {"int8": 1.0, "int4": 66.5 / 128}
_DTYPE_NAMES = {
    "fp32": "float32",
    "f32": "float32",
    "float16": "fp16",
    "f16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
}
OPTIMIZERS = {"adamw": 8, "adamw-8bit": 2, "sgd": 4}  # bytes of state a parameter; sgd: with momentum
GRADIENTS = 4  # bytes per parameter: float32 for weights of any dtype
RECIPES = {  # quantisation → the type of most matrices
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_K_M": "Q5_K",
    "Q5_K_S": "Q5_K",
    "Q5_1": "Q5_1",
    "Q5_0": "Q5_0",
    "Q4_K_M": "Q4_K",
    "Q4_K_S": "Q4_K",
    "Q4_1": "Q4_1",
    "Q4_0": "Q4_0",
    "Q3_K_L": "Q3_K",
    "Q3_K_M": "Q3_K",
    "Q3_K_S": "Q3_K",
    "Q2_K": "Q2_K",
}
_ALIASES = {"FP16": "F16", "FP32": "F32", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q3_K": "Q3_K_M"}
_KEPT_FLOAT32 = ("ffn_gate_inp", "position_embd")  # matrices that stay float32
_FALLBACK = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}


def is_dtype(name: str) -> bool:
    return _DTYPE_NAMES.get(name.lower(), name.lower()) in DTYPES


def dtype(name: str) -> str:
    """Return the dtype's name in DTYPES; raise ScenarioError for an unknown one."""
    if not is_dtype(name):
        raise ScenarioError(f"--dtype is one of {', '.join(DTYPES)}, not {name!r}.")
    return _DTYPE_NAMES.get(name.lower(), name.lower())


def dtype_source(parameters: int, name: str) -> str:
    """Say how weights of a dtype are computed, "7,000,000,000 parameters × 2 bytes (fp16)"."""
    kind = dtype(name)
    return f"{parameters:,} parameters × {DTYPES[kind]:g} byte{'' if DTYPES[kind] == 1 else 's'} ({kind})"


def recipe(name: str) -> str:
    """Return the quantisation's name in RECIPES; raise ScenarioError for an unknown one."""
    known = {key.upper(): key for key in RECIPES} | _ALIASES
    if name.upper() not in known:
        raise ScenarioError(
            f"--quantization is one of {', '.join(key.lower() for key in RECIPES)}, not {name!r}; "
            "for a file of any other type: --gguf FILE."
        )
    return known[name.upper()]


def quantised_source(quantization: str) -> str:
    return f"every tensor as llama.cpp quantises to {recipe(quantization)}"


def weigh(shape: Shape, quantization: str) -> int:
    """Return the bytes of all tensors of a GGUF file with this shape and quantisation, by llama.cpp's rules.

    The header of a file (its vocabulary) adds some MB. It holds for files made without an importance matrix and without
    types chosen by hand. Raises ScenarioError.
    """
    if shape.layout == "opt":
        raise ScenarioError("no GGUF server runs OPT models: give --dtype instead of --quantization.")
    name = recipe(quantization)
    return sum(size_of(type_of(item, shape, name), item.parameters) for item in tensors_of(shape))


def rough(parameters: int, quantization: str) -> tuple[int, str]:
    """Return the bytes of a model of unknown shape, at those a parameter that the known one of nearest size has; and the source."""
    shapes = {known: shape for known, shape in KNOWN_SHAPES.items() if shape.layout != "opt" and shape.experts == 1}
    like = min(shapes, key=lambda known: abs(math.log(shapes[known].parameters / parameters)))
    size = round(parameters * weigh(shapes[like], quantization) / shapes[like].parameters)
    return size, f"{parameters / 1e9:.3g} B parameters × the bytes that one has in {like} of {quantization}"


def type_of(item: Tensor, shape: Shape, name: str) -> str:
    """Return the ggml type that llama.cpp's quantize gives a tensor (llama-quant.cpp, llama_tensor_get_type)."""
    base = RECIPES[name]
    if item.rows == 1 or item.name in _KEPT_FLOAT32:
        return "F32"
    if base in ("F32", "F16", "BF16"):
        return base
    if item.name == "output" or (shape.tied and item.name == "token_embd"):
        kind = "Q8_0" if base == "Q8_0" or item.row % TYPES[base][1] else "Q6_K"
    else:
        kind = _raised(item, shape, name, base)
    if item.row % TYPES[kind][1]:
        kind = _FALLBACK.get(kind, "F16")
    return kind if item.row % TYPES[kind][1] == 0 else "F16"


def _raised(item: Tensor, shape: Shape, name: str, base: str) -> str:
    """Return `base`, or the larger type that K mixtures (Q4_K_M, …) use for the tensors that matter most."""
    if item.name == "attn_v":
        if shape.experts == 8:
            return "Q8_0"
        q2 = "Q4_K" if shape.heads // shape.kv_heads >= 4 else "Q3_K"
        kind = _raised_by_layer(item, shape, name, base, q2=q2, first=(2, 4))
        # 70B models share each attn_v among eight heads: more bits cost them little.
        seventy = shape.layers == 80 and shape.kv_heads < shape.heads
        return "Q5_K" if seventy and kind in ("Q3_K", "Q4_K") else kind
    if item.name == "attn_k" and shape.experts == 8:
        return "Q8_0"
    if item.name == "ffn_down":
        return _raised_by_layer(item, shape, name, base, q2="Q3_K", first=(shape.layers // 16, shape.layers // 8))
    if item.name == "attn_output":
        if shape.experts == 8:
            return "Q5_K" if name in ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M") else base
        return {"Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(name, base)
    if item.name == "attn_qkv":
        return {"Q3_K_M": "Q4_K", "Q3_K_L": "Q4_K", "Q4_K_M": "Q5_K", "Q5_K_M": "Q6_K"}.get(name, base)
    return base


def _raised_by_layer(item: Tensor, shape: Shape, name: str, base: str, *, q2: str, first: tuple[int, int]) -> str:
    """Return the type of a tensor that has more bits in some layers: in the first so many with Q3_K_M, and with Q4_K_S."""
    layer, layers = item.layer or 0, shape.layers
    if name == "Q2_K":
        return q2
    if name == "Q3_K_M":
        return "Q5_K" if layer < first[0] else "Q4_K"
    if name == "Q3_K_L" or (name == "Q4_K_S" and layer < first[1]):
        return "Q5_K"
    eighth = layers // 8
    more_bits = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return "Q6_K" if name in ("Q4_K_M", "Q5_K_M") and more_bits else base


def by_dtype(parameters: int, name: str) -> int:
    return int(parameters * DTYPES[dtype(name)])


def of_dtype(shape: Shape, name: str) -> tuple[int, str]:
    """Return the bytes of a model's weights in a dtype, and how they are computed; of int8 and int4 what stays fp16 counts so."""
    kind = dtype(name)
    if kind not in QUANTISED_DTYPES:
        return by_dtype(shape.parameters, kind), dtype_source(shape.parameters, kind)
    small = sum(item.parameters for item in tensors_of(shape) if item.layer is not None and item.rows > 1)
    rest, each = shape.parameters - small, QUANTISED_DTYPES[kind]
    width = "1 byte" if each == 1 else f"{each:.3g} bytes"
    return int(small * each + rest * 2), f"{small:,} parameters × {width} ({kind}) and {rest:,} × 2 (fp16)"


def training(parameters: int, optimizer: str) -> dict[str, int]:
    """Return the bytes that training adds to the weights: optimizer states and gradients, without activations."""
    return {"optimizer": parameters * OPTIMIZERS[optimizer], "gradients": parameters * GRADIENTS}
