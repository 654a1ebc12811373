"""What a model's weights take: parameters and files as published, and which type llama.cpp gives each tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.made_memory import GIB, PUBLISHED_FILES, PUBLISHED_PARAMETERS, figures

from loadtest.memory import shapes, weights

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED_PARAMETERS.items())
def test_parameters_are_those_published(name: str, parameters: int) -> None:
    assert shapes.KNOWN_SHAPES[name].parameters == parameters


def test_every_known_model_is_held_to_a_published_count() -> None:
    assert set(shapes.KNOWN_SHAPES) == set(PUBLISHED_PARAMETERS)


@pytest.mark.parametrize("model", PUBLISHED_FILES)
def test_published_files_are_the_weights_and_one_header(model: str) -> None:
    """Whatever the quantisation, the same vocabulary is left: a single wrong tensor type would show."""
    headers = [size - weights.weigh(shapes.KNOWN_SHAPES[model], name) for name, size in PUBLISHED_FILES[model].items()]
    assert max(headers) - min(headers) < 4096
    assert 4e6 < min(headers) < 9e6


def test_llama_70b_as_ollama_served_it(loadtest: Call) -> None:
    said = figures(loadtest, "--model", "llama3.1:70b", "--quantization", "q4_0", "--context", "2048", "--slots", "4")
    output, norms = 8192 * 128_256, (2 * 80 + 1) * 8192
    matrices = 70_553_706_496 - output - norms
    by_hand = matrices * 18 // 32 + output * 210 // 256 + (norms + 64) * 4  # 64: rotary factors
    assert said["weights_bytes"] == by_hand == 39_961_870_592
    assert f"{said['weights_bytes'] / 1e9:.2f}" == "39.96"
    assert said["kv_bytes_per_token"] == 320 * 1024
    assert said["kv_bytes"] == 2.5 * GIB
    assert said["total_bytes"] == sum(
        said[key] for key in ("weights_bytes", "kv_bytes", "compute_bytes", "driver_bytes")
    )


def test_bytes_a_parameter(loadtest: Call) -> None:
    sizes = {
        name: f"{figures(loadtest, '--parameters', '7000559616', '--dtype', name)['weights_bytes'] / GIB:.2f}"
        for name in ("float32", "fp16", "bf16", "int8", "int4")
    }
    assert sizes == {"float32": "26.08", "fp16": "13.04", "bf16": "13.04", "int8": "6.52", "int4": "3.26"}


@pytest.mark.parametrize(
    ("model", "dtype", "size"),
    [("llama3.1:8b", "int4", 5.73e9), ("qwen2.5:7b", "int4", 5.57e9), ("llama3.1:8b", "int8", 9.08e9)],
)
def test_checkpoints_keep_embeddings_in_fp16(loadtest: Call, model: str, dtype: str, size: float) -> None:
    """Published AWQ and W8A8 checkpoints; 4.02 GB were said of the first."""
    said = figures(loadtest, "--model", model, "--dtype", dtype)
    assert said["weights_bytes"] == pytest.approx(size, rel=0.003)
    _, out, _ = loadtest("memory", "--parameters", "8e9", "--dtype", dtype)
    assert "The weights are at least" in out


@pytest.mark.parametrize("model", PUBLISHED_FILES)
def test_of_an_unknown_shape_the_nearest_known_one_tells_the_bytes(model: str) -> None:
    parameters = PUBLISHED_PARAMETERS[model]
    for quantization, size in PUBLISHED_FILES[model].items():
        assert weights.rough(round(1.01 * parameters), quantization)[0] == pytest.approx(1.01 * size, rel=0.02)
    assert weights.rough(494_000_000, "Q4_K_M")[0] == pytest.approx(398e6, rel=0.03)  # was 278 MB, "up to a tenth low"


def test_the_mixture_of_q4_k_m() -> None:
    shape = shapes.KNOWN_SHAPES["llama3.1:8b"]
    kinds = {(item.name, item.layer): weights.type_of(item, shape, "Q4_K_M") for item in shapes.tensors_of(shape)}
    better = [layer for layer in range(32) if kinds["ffn_down", layer] == "Q6_K"]
    assert better == [layer for layer in range(32) if layer < 4 or layer >= 28 or (layer - 4) % 3 == 2]
    assert [layer for layer in range(32) if kinds["attn_v", layer] == "Q6_K"] == better
    assert kinds["output", None] == "Q6_K"
    assert kinds["token_embd", None] == kinds["attn_q", 0] == kinds["ffn_down", 4] == "Q4_K"
    assert kinds["attn_norm", 0] == "F32"


@pytest.mark.parametrize(
    ("model", "tensor", "quantization", "kind"),
    [
        ("llama3.1:70b", "attn_v", "Q4_K_S", "Q5_K"),  # 70B: shared among eight heads
        ("mixtral:8x7b", "attn_v", "Q4_0", "Q8_0"),  # eight experts
        ("mixtral:8x7b", "attn_k", "Q4_0", "Q8_0"),
        ("mixtral:8x7b", "ffn_gate_inp", "Q4_0", "F32"),
        ("qwen2.5:0.5b", "ffn_up", "Q4_K_M", "Q5_0"),  # rows of 896 are no whole blocks of 256
        ("qwen2.5:0.5b", "token_embd", "Q4_K_M", "Q8_0"),  # tied: stands for the output
        ("gemma2:9b", "token_embd", "Q4_0", "Q6_K"),
        ("phi3:3.8b", "attn_qkv", "Q4_K_M", "Q5_K"),
        ("llama3.1:8b", "output", "Q8_0", "Q8_0"),
        ("llama3.1:8b", "output", "F16", "F16"),
    ],
)
def test_types_that_llama_cpp_gives(model: str, tensor: str, quantization: str, kind: str) -> None:
    shape = shapes.KNOWN_SHAPES[model]
    found = next(item for item in shapes.tensors_of(shape) if item.name == tensor and item.layer in (None, 31, 12))
    assert weights.type_of(found, shape, quantization) == kind


@pytest.mark.parametrize("name", weights.RECIPES)
def test_every_quantisation_weighs_every_model(name: str) -> None:
    for shape in shapes.KNOWN_SHAPES.values():
        if shape.layout != "opt":
            assert weights.weigh(shape, name) > shape.parameters * 2.5 / 8
