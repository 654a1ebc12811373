"""Will it fit: weights, KV cache and buffers, on the command line, by config.json and beside a real engine; test_weights.py has the weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import llamacpp
from support.made_memory import GIB, HF_CONFIGS, figures

from loadtest.memory import estimate, report, shapes
from loadtest.memory import gguf as header
from loadtest.memory.estimate import KVCache, MemoryPlan

Call = Callable[..., tuple[int, str, str]]


def plan_of(name: str, quantization: str = "q4_0", **rest: Any) -> MemoryPlan:
    known, shape, _ = shapes.find(name)
    return MemoryPlan(facts=estimate.facts_of_shape(known, shape, quantization=quantization), **rest)


def test_the_rules_of_thumb(loadtest: Call) -> None:
    code, out, _ = loadtest("memory", "--parameters", "7000559616", "--table")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert code == 0
    assert [rows[name][1] for name in ("float32", "fp16", "int8", "int4")] == ["26.08", "13.04", "6.52", "3.26"]
    # 4 + 4 + 8, + 2 and + 4 bytes a parameter
    assert rows["float32"][2:] == ["104.32", "65.20", "78.24"]
    assert rows["int8"][2:] == ["–", "–", "–"]


@pytest.mark.parametrize(("optimizer", "state"), [("adamw", 8), ("adamw-8bit", 2), ("sgd", 4)])
def test_training(loadtest: Call, optimizer: str, state: int) -> None:
    code, out, _ = loadtest("memory", "--parameters", "1e9", "--dtype", "bf16", "--training", optimizer)
    assert code == 0
    assert "Activations are not counted" in out
    total = next(line for line in out.splitlines() if line.startswith(" total"))
    assert f"{(2 + 4 + state) * 1e9 / 1e9:.2f} GB" in total


# --- names and config.json --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known", "quantization"),
    [
        ("llama3.1:70b-instruct-q4_0", "llama3.1:70b", "q4_0"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama3.1:70b", None),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral:7b", None),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen2.5:7b", None),
        ("google/gemma-2-9b-it", "gemma2:9b", None),
        ("facebook/opt-30b", "opt:30b", None),
        ("LLAMA3:8B", "llama3:8b", None),
    ],
)
def test_names_as_people_write_them(name: str, known: str, quantization: str | None) -> None:
    assert shapes.find(name) == (known, shapes.KNOWN_SHAPES[known], quantization)


@pytest.mark.parametrize(("name", "config"), HF_CONFIGS.items())
def test_a_config_gives_the_known_shape(name: str, config: dict[str, Any]) -> None:
    assert shapes.from_config(config, "config.json") == shapes.KNOWN_SHAPES[name]


def test_a_config_of_unknown_layers_needs_its_parameters(loadtest: Call, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(
        json.dumps({"model_type": "novel", "num_hidden_layers": 10, "hidden_size": 640, "num_attention_heads": 10})
    )
    code, _, err = loadtest("memory", "--config", str(path))
    assert code == 2
    assert "add --parameters" in err
    said = figures(loadtest, "--config", str(path), "--parameters", "1e9")
    assert said["weights_bytes"] == 2e9
    assert said["kv_bytes_per_token"] == 2 * 10 * 640 * 2


# --- KV cache, fit ----------------------------------------------------------------------------------------------


def test_a_quantised_cache_counts_its_scales() -> None:
    plan = plan_of("llama3.1:70b", slots=4, context=2048)
    assert plan.kv == 2.5 * GIB
    assert replace(plan, cache_dtype="q8_0").kv == 2.5 * GIB / 2 * 34 / 32
    assert replace(plan, cache_dtype="q4_0").kv == 2.5 * GIB / 2 * 18 / 32


def test_sliding_windows_stop_growing() -> None:
    plan = plan_of("gemma2:9b", context=8192)
    layer = 2 * 8 * 256 * 2
    assert plan.kv == 21 * layer * 8192 + 21 * layer * (4096 + 512)
    assert replace(plan, context=1024).kv == 42 * layer * 1024
    architecture = {
        "block_count": 42,
        "attention.head_count_kv": 8,
        "attention.head_count": 16,
        "attention.key_length": 256,
        "attention.sliding_window": 4096,
    }
    assert estimate.cache_of(architecture, "gemma2") == plan.facts.cache
    assert estimate.cache_of(architecture) is None  # without the family it is not known which layers slide
    uneven = {**architecture, "block_count": 4, "attention.head_count_kv": [8, 2, 8, 2]}
    assert estimate.cache_of(uneven, "gemma2") == KVCache(2 * 256 * 4, 2 * 256 * 16, 4096)  # layers 2 and 4 see all
    assert estimate.cache_of({**architecture, "attention.kv_lora_rank": 512}) is None


def layers_of(layers: int, heads: int, kv_heads: Any, size: int, **more: Any) -> dict[str, Any]:
    """Return GGUF's keys of so many layers; of `more` the names are without "attention."."""
    plain = {"head_count": heads, "head_count_kv": kv_heads, "key_length": size, **more}
    return {"block_count": layers, **{f"attention.{name}": value for name, value in plain.items()}}


GEMMA_3N = layers_of(35, 8, 2, 256, sliding_window=512, shared_kv_layers=15)
HYBRID = {**layers_of(48, 16, 2, 256), "ssm.state_size": 128}


@pytest.mark.parametrize(
    ("family", "architecture", "mib"),
    [  # of 32,768 tokens in f16, as llama.cpp and Ollama allocate it
        ("gptoss", layers_of(24, 64, 8, 64, sliding_window=128), 786),
        ("gemma3n", {**GEMMA_3N, "attention.sliding_window_pattern": 7 * [True, True, True, True, False]}, 288),
        ("gemma3n", {**GEMMA_3N, "attention.sliding_window_pattern": 5}, 288),  # was 2,240
        ("gemma3n", GEMMA_3N, None),  # which of its layers slide is not known
        ("qwen35", {**HYBRID, "full_attention_interval": 4}, 768),  # was 3,072
        ("qwen3next", HYBRID, None),
        ("granitehybrid", {**HYBRID, "attention.head_count_kv": 4 * [*[0] * 11, 2]}, 256),
        ("phi3", layers_of(32, 32, 32, 96, sliding_window=2047), 12_288),  # Phi's window is not made use of
        ("llama4", layers_of(48, 40, 8, 128, chunk_size=8192), None),
        ("mllama", layers_of(40, 32, 8, 128, cross_attention_layers=[3, 8]), None),
        ("deepseek2", layers_of(61, 128, 1, 576, kv_lora_rank=512), None),
    ],
)
def test_layers_that_keep_less_than_the_whole_context(
    family: str, architecture: dict[str, Any], mib: int | None
) -> None:
    cache = estimate.cache_of(architecture, family)
    assert (None if cache is None else round(2 * cache.values(32_768) / 2**20)) == mib


def test_a_config_says_which_layers_slide(loadtest: Call, tmp_path: Path) -> None:
    """gpt-oss-20b: half of its layers look back 128 tokens, and were counted with the whole context."""
    said: dict[str, Any] = {"model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "head_dim": 64}
    said |= {"num_attention_heads": 64, "num_key_value_heads": 8, "sliding_window": 128}
    path = tmp_path / "config.json"
    for layers, mib in (
        (24 * ["sliding_attention"], 36),
        (12 * ["sliding_attention", "full_attention"], 114),
        (None, None),
    ):
        path.write_text(json.dumps(said | ({"layer_types": layers} if layers else {})))
        body = figures(loadtest, "--config", str(path), "--parameters", "20.9e9", "--context", "4096")
        assert body["kv_bytes"] == (None if mib is None else mib * 2**20)
        assert ("The KV cache is not counted" in " ".join(body["notes"])) is (mib is None)


@pytest.mark.parametrize("gpu", [8e9, 24e9, 48 * GIB, 80e9])
@pytest.mark.parametrize("model", ["llama3.1:70b", "gemma2:9b", "qwen2.5:7b"])
def test_the_most_that_fits_fits_and_one_more_does_not(model: str, gpu: float) -> None:
    plan = plan_of(model, context=3000, slots=3)
    slots, context = plan.most_slots(gpu), plan.most_context(gpu)
    assert slots is not None
    assert context is not None
    assert not slots or replace(plan, slots=slots).total <= gpu
    assert replace(plan, slots=slots + 1).total > gpu
    assert not context or replace(plan, context=context).total <= gpu
    assert context == plan.facts.trained or replace(plan, context=context + 1).total > gpu


def test_the_verdict_in_words(loadtest: Call) -> None:
    base = ("memory", "--model", "llama3.1:70b", "--quantization", "q4_0", "--slots", "4")
    _, out, _ = loadtest(*base, "--context", "2048", "--gpu-memory", "80GB")
    assert "This fits on 80 GB (74.51 GiB)" in out
    assert re.search(r"; 4 slots can have \d\d,\d{3} tokens each", " ".join(out.split()))
    _, one, _ = loadtest(*base[:-2], "--context", "2048", "--gpu-memory", "80GB")
    assert re.search(r"; 1 slot can have \d+,\d{3} tokens( \(|\.)", " ".join(one.split()))  # "each" of one slot
    assert "2.50 GiB" in out
    assert max(map(len, out.splitlines())) <= 80
    _, out, _ = loadtest(*base, "--context", "131072", "--gpu-memory", "80GB")
    assert "does not fit on 80 GB" in out
    assert "no slot fits" in out
    _, out, _ = loadtest(*base, "--gpu-memory", "24GB")
    assert "Weights and buffers alone are too much" in out
    _, out, _ = loadtest(*base, "--context", "32768", "--gpu-memory", "64GB")
    assert "A KV cache of q8_0 would fit" in " ".join(out.split())


def test_a_fit_within_the_error_of_the_buffers_says_so() -> None:
    """It said "This fits: 1 MiB is left", by an allowance that a real engine's buffers were half or twice of."""
    plan = plan_of("llama3:8b")
    for spare, hangs in (2**20, True), (-(2**20), True), (2 * plan.compute, False), (-plan.compute, False):
        assert ("hangs on the buffers" in " ".join(report.estimate_sentences(plan, None, plan.total + spare))) is hangs
    given = replace(plan, buffers=GIB)
    assert "hangs on" not in " ".join(report.estimate_sentences(given, None, given.total + 1))


def test_buffers_given_stand_for_the_allowance(loadtest: Call) -> None:
    said = figures(loadtest, "--model", "llama3:8b", "--buffers", "1GiB")
    assert (said["compute_bytes"], said["driver_bytes"]) == (GIB, 0)
    flash, plain = plan_of("llama3:8b", context=8192), plan_of("llama3:8b", context=8192, flash=False)
    assert plain.compute == 4 * 512 * (1 + 4 * 4096 + 8192 * 33) > flash.compute
    assert replace(plain, slots=2).compute == 4 * 512 * (1 + 4 * 4096 + 2 * 8192 * 33)
    assert replace(flash, slots=2).compute == flash.compute


@pytest.mark.parametrize(("written", "count"), [("7B", 7e9), ("7b", 7e9), ("350m", 350e6), ("8.03e9", 8.03e9)])
def test_parameters_may_be_written_as_models_are_named(loadtest: Call, written: str, count: float) -> None:
    assert figures(loadtest, "--parameters", written, "--table")["parameters"] == count


@pytest.mark.parametrize("written", ["7", "7x", "nan", "-7B", "B"])
def test_what_is_no_number_of_parameters_is_refused(loadtest: Call, written: str) -> None:
    code, out, err = loadtest("memory", "--parameters", written, "--table")
    assert (code, out) == (2, "")
    assert f"'{written}' is not a number of parameters like 7B or 7e9" in err


def test_without_layers_the_kv_cache_is_not_guessed(loadtest: Call) -> None:
    _, out, _ = loadtest("memory", "--parameters", "7e9", "--gpu-memory", "24GB")
    assert "The KV cache is not counted" in out
    assert "This fits" not in out
    said = figures(loadtest, "--parameters", "7e9", "--layers", "32", "--kv-heads", "8", "--head-size", "128")
    assert said["kv_bytes_per_token"] == 131_072


def test_a_real_engine_takes_what_is_estimated(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    llamacpp.write_model(path)
    program = (
        "import sys, time, xllamacpp\n"
        "params = xllamacpp.CommonParams()\n"
        "params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[1], 16384, 4, 0\n"
        "params.warmup, params.verbosity = False, 5\n"
        "server = xllamacpp.Server(params)\n"
        "time.sleep(60)\n"  # its end may hang: killed below
    )
    said = ""
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as engine:
        assert engine.stdout is not None
        for line in engine.stdout:
            said += line
            if "model loaded" in line:
                break
        engine.kill()
    sizes = {
        name: max(map(float, re.findall(rf"CPU {name} buffer size = +([\d.]+) MiB", said)))
        for name in ("KV", "compute")
    }
    plan = MemoryPlan(facts=estimate.facts_of_gguf("tiny", header.read_gguf(path)), context=4096, slots=4)
    assert plan.kv == sizes["KV"] * 2**20
    assert 0.5 < plan.compute / (sizes["compute"] * 2**20) < 2  # an allowance, not a promise


LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"num_hidden_layers": "2"}, "has '2' for 'num_hidden_layers'"),
        ({"num_hidden_layers": 10**9}, "has 1000000000 for 'num_hidden_layers'"),
        ({"num_key_value_heads": "x"}, "has 'x' for 'num_key_value_heads'"),
        ({"max_position_embeddings": "8192"}, "has '8192' for 'max_position_embeddings'"),
        ({"head_dim": -1}, "has -1 for 'head_dim'"),
        ({"torch_dtype": "auto"}, "is of dtype 'auto', which is not known here: add --dtype"),
        ({"rope_scaling": "linear", "torch_dtype": "torch.bfloat16"}, None),
        ({"model_type": "other", "num_hidden_layers": "2", "max_position_embeddings": "x"}, None),
        ({"model_type": "other", "num_hidden_layers": 10**9, "num_key_value_heads": 1, "head_dim": 8}, None),
    ],
)
def test_a_config_with_odd_values_is_read_or_one_sentence(
    loadtest: Call, tmp_path: Path, odd: dict[str, Any], words: str | None
) -> None:
    path = tmp_path / "config.json"
    path.write_text("\ufeff" + json.dumps(LLAMA | odd))
    known = ("--parameters", "1e6") if "model_type" in odd else ()
    code, out, err = loadtest("memory", "--config", path, *known)
    assert code == (0 if words is None else 2)
    assert (words or "total") in (err if words else out)


# --- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "say which model"),
        (("--model", "lama3.1:70b"), "near are llama3.1:70b"),
        (("--model", "llama3.1"), "llama3.1:8b, llama3.1:70b, llama3.1:405b"),
        (("--model", "llama3:8b", "--gguf", "x"), "give one of them"),
        (("--model", "llama3:8b", "--quantization", "q9"), "--quantization is one of"),
        (("--model", "llama3:8b", "--dtype", "int3"), "--dtype is one of"),
        (("--model", "llama3:8b", "--dtype", "int8", "--quantization", "q4_0"), "give one of them"),
        (("--model", "llama3:8b", "--cache-dtype", "q3"), "--cache-dtype is one of"),
        (("--model", "llama3:8b", "--gpu-memory", "lots"), "--gpu-memory is a size like"),
        (("--model", "llama3:8b", "--buffers", "lots"), "--buffers is a size like"),
        (("--model", "opt:30b", "--quantization", "q4_0"), "give --dtype instead"),
        (("--model", "llama3:8b", "--training", "sgd", "--quantization", "q4_0"), "go by dtype"),
        (("--gguf", "/nonexistent.gguf"), "cannot read /nonexistent.gguf"),
        (("--gguf", __file__), "is no GGUF file"),
        (("--gguf", __file__, "--dtype", "fp16"), "--gguf says what the weights are"),
        (("--config", __file__), "is not JSON"),
        (("--parameters", "nan"), "like 7B or 7e9"),
        (("--run", "/nonexistent"), "/nonexistent"),
    ],
)
def test_mistakes(loadtest: Call, args: tuple[str, ...], words: str) -> None:
    code, out, err = loadtest("memory", *args)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.strip().splitlines()) == 1
