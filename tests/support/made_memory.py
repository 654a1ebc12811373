"""Models to weigh: published parameter counts, config.json files as Hugging Face has them, and GGUF files written here."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

GIB = 2**30

PUBLISHED_PARAMETERS = {  # weights of the published checkpoints, language part alone
    "llama:7b": 6_738_415_616,
    "llama:13b": 13_015_864_320,
    "llama:30b": 32_528_943_616,
    "llama:65b": 65_285_660_672,
    "llama2:7b": 6_738_415_616,
    "llama2:13b": 13_015_864_320,
    "llama2:70b": 68_976_648_192,
    "llama3:8b": 8_030_261_248,
    "llama3:70b": 70_553_706_496,
    "llama3.1:8b": 8_030_261_248,
    "llama3.1:70b": 70_553_706_496,
    "llama3.1:405b": 405_853_388_800,
    "llama3.2:1b": 1_235_814_400,
    "llama3.2:3b": 3_212_749_824,
    "llama3.3:70b": 70_553_706_496,
    "tinyllama:1.1b": 1_100_048_384,
    "mistral:7b": 7_248_023_552,
    "mistral-nemo:12b": 12_247_782_400,
    "mixtral:8x7b": 46_702_792_704,
    "qwen2.5:0.5b": 494_032_768,
    "qwen2.5:1.5b": 1_543_714_304,
    "qwen2.5:3b": 3_085_938_688,
    "qwen2.5:7b": 7_615_616_512,
    "qwen2.5:14b": 14_770_033_664,
    "qwen2.5:32b": 32_763_876_352,
    "qwen2.5:72b": 72_706_203_648,
    "qwen3:0.6b": 596_049_920,
    "qwen3:1.7b": 1_720_574_976,
    "qwen3:4b": 4_022_468_096,
    "qwen3:8b": 8_190_735_360,
    "qwen3:14b": 14_768_307_200,
    "qwen3:32b": 32_762_123_264,
    "gemma:2b": 2_506_172_416,
    "gemma:7b": 8_537_680_896,
    "gemma2:2b": 2_614_341_888,
    "gemma2:9b": 9_241_705_984,
    "gemma2:27b": 27_227_128_320,
    "gemma3:1b": 999_885_952,
    "gemma3:4b": 3_880_263_168,
    "gemma3:12b": 11_766_034_176,
    "gemma3:27b": 27_009_346_304,
    "phi3:3.8b": 3_821_079_552,
    "phi3:14b": 13_960_238_080,
    "phi4:14b": 14_659_507_200,
    "phi4-mini:3.8b": 3_836_021_760,
    "opt:125m": 125_239_296,
    "opt:1.3b": 1_315_758_080,
    "opt:6.7b": 6_658_473_984,
    "opt:13b": 12_853_473_280,
    "opt:30b": 29_974_540_288,
}

PUBLISHED_FILES = {  # bytes of GGUF files by their publishers (bartowski, Qwen)
    "llama3.1:8b": {
        "Q3_K_S": 3_664_504_224,
        "Q4_0": 4_661_216_672,
        "Q4_K_S": 4_692_673_952,
        "Q4_K_M": 4_920_739_232,
        "Q5_K_S": 5_599_298_976,
        "Q5_K_M": 5_732_992_416,
        "Q6_K": 6_596_011_424,
        "Q8_0": 8_540_775_840,
    },
    "llama3.1:70b": {"Q4_K_M": 42_520_398_400},
    "qwen3:4b": {
        "Q4_K_M": 2_497_280_256,
        "Q5_0": 2_823_710_976,
        "Q5_K_M": 2_889_513_184,
        "Q6_K": 3_306_260_704,
        "Q8_0": 4_280_404_704,
    },
    "qwen3:8b": {
        "Q4_K_M": 5_027_783_488,
        "Q5_0": 5_720_761_152,
        "Q5_K_M": 5_851_112_224,
        "Q6_K": 6_725_899_040,
        "Q8_0": 8_709_518_112,
    },
}

HF_CONFIGS: dict[str, dict[str, Any]] = {
    "llama3.1:70b": {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "max_position_embeddings": 131072,
        "model_type": "llama",
        "num_attention_heads": 64,
        "num_hidden_layers": 80,
        "num_key_value_heads": 8,
        "rope_scaling": {"factor": 8.0, "rope_type": "llama3"},
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 128256,
    },
    "mixtral:8x7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mixtral",
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rope_scaling": None,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "qwen2.5:7b": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "max_position_embeddings": 32768,
        "model_type": "qwen2",
        "num_attention_heads": 28,
        "num_hidden_layers": 28,
        "num_key_value_heads": 4,
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": 152064,
    },
    "gemma2:9b": {
        "head_dim": 256,
        "hidden_size": 3584,
        "intermediate_size": 14336,
        "max_position_embeddings": 8192,
        "model_type": "gemma2",
        "num_attention_heads": 16,
        "num_hidden_layers": 42,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "vocab_size": 256000,
    },
    "opt:30b": {
        "ffn_dim": 28672,
        "hidden_size": 7168,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 56,
        "num_hidden_layers": 48,
        "vocab_size": 50272,
        "word_embed_proj_dim": 7168,
    },
}


def write_gguf(path: Path, *, split: int = 0) -> dict[str, tuple[str, int]]:
    """Write a GGUF of every kind of tensor, in parts of `split` tensors; return (type, bytes) by tensor."""
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split)
    writer.add_name("small")
    writer.add_context_length(4096)
    writer.add_block_count(3)
    writer.add_embedding_length(512)
    writer.add_feed_forward_length(1024)
    writer.add_head_count(8)
    writer.add_head_count_kv([2, 2, 1])
    writer.add_token_list([f"word{number}" for number in range(1000)])
    writer.add_token_scores([0.0] * 5000)
    kinds = gguf.GGMLQuantizationType
    written = {}
    for name, rows, row, kind in [
        ("token_embd", 1000, 512, kinds.F16),
        ("output_norm", 1, 512, kinds.F32),
        ("output", 1000, 512, kinds.Q6_K),
        ("blk.0.attn_q", 512, 512, kinds.Q4_0),
        ("blk.0.attn_k", 128, 512, kinds.Q8_0),
        ("blk.0.attn_v", 128, 512, kinds.Q4_K),
        ("blk.0.ffn_up", 1024, 512, kinds.Q5_1),
        ("blk.0.ffn_down", 512, 1024, kinds.BF16),
    ]:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        data = np.zeros((rows, row // block * size), dtype=np.uint8)
        if kind is kinds.F32:
            writer.add_tensor(f"{name}.weight", np.ones(row, dtype=np.float32))
        else:
            writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        written[f"{name}.weight"] = (kind.name, data.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def figures(loadtest: Callable[..., tuple[int, str, str]], *args: str) -> dict[str, Any]:
    """Return what `loadtest memory` says as JSON."""
    code, out, err = loadtest("memory", *args, "--json")
    assert (code, err) == (0, "")
    body: dict[str, Any] = json.loads(out)
    return body
