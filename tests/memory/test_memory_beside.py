"""Will it fit, beside what a server or a run says that a model takes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from support.made_memory import GIB, figures

from loadtest.analyse.server.model_memory.memory_comparison import (
    MemoryComparison,
    MemoryReading,
    difference_sentence,
)
from loadtest.errors import ScenarioError
from loadtest.memory import report
from loadtest.memory.estimate import Facts, KVCache, LoadedMemory, MemoryPlan, facts_of_server

Call = Callable[..., tuple[int, str, str]]


def test_beside_a_server(loadtest: Call, simulated_url: str) -> None:
    model = httpx.get(f"{simulated_url}/api/tags").json()["models"][0]["name"]
    options = {"num_predict": 1, "num_ctx": 4096}
    httpx.post(
        f"{simulated_url}/api/generate", json={"model": model, "prompt": "a", "stream": False, "options": options}
    )
    said = figures(loadtest, "--url", simulated_url, "--slots", "4")
    assert said["simulated"]
    assert said["context"] == 4096
    assert said["measured"]["measured_bytes"] == said["weights_bytes"] + said["kv_bytes"]
    assert said["measured"]["difference_bytes"] == -said["compute_bytes"]
    for whole in ("/v1/chat/completions", "/api/chat"):
        assert figures(loadtest, "--url", simulated_url + whole, "--slots", "4") == said
    _, out, _ = loadtest("memory", "--url", simulated_url, "--slots", "4")
    assert "The simulated server reports" in out
    assert "1 slot is assumed" not in out  # was said beside --slots 4, too
    _, out, _ = loadtest("memory", "--url", simulated_url)
    assert "does not say how many it has" in " ".join(out.split())


def test_a_server_that_says_nothing_of_its_models(loadtest: Call, llamacpp_url: str) -> None:
    code, out, err = loadtest("memory", "--url", llamacpp_url)
    assert (code, out) == (2, "")
    assert "does not say what its models are made of" in err
    code, _, other = loadtest("memory", "--url", f"{llamacpp_url}/below/chat/completions")
    assert (code, "does not say what its models are made of" in other) == (2, True), other


def test_beside_a_run(loadtest: Call, simulated_url: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, _, _ = loadtest(
        "run", "--url", simulated_url, "--concurrency", "6", "--requests", "12", "--output-tokens", "8", "--out", run
    )
    assert code in (0, 3)
    said = figures(loadtest, "--run", str(run))
    at_end = json.loads((run / "run.json").read_bytes())["server_at_end"]
    assert said["slots"] == 4
    assert said["measured"]["measured_bytes"] == at_end["size"]
    assert said["measured"]["difference_bytes"] == -said["compute_bytes"]


def test_a_server_that_says_little_is_filled_from_its_name() -> None:
    facts = facts_of_server("llama3.1:70b", {"quantization_level": "Q4_0"}, None)
    assert facts.weights == 39_961_870_592
    unknown = facts_of_server("mine", {"quantization_level": "Q4_0", "parameter_size": "3.2B"}, None)
    assert unknown.weights == pytest.approx(
        3.2e9 * 18 / 32, rel=0.1
    )  # its embeddings stand for the output, and have more bits
    assert (unknown.bound, "in llama3.2:3b of Q4_0" in unknown.weights_from) == ("about", True)
    with pytest.raises(ScenarioError, match="does not say how large"):
        facts_of_server("mine", {}, None)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({"type": "Q4_K", "values": 512, "shared": False}, 288),
        ({"type": "Q4_K", "values": 512, "shared": True}, -288),
        ({"type": "?", "values": 512, "shared": True}, None),
        ({"type": "F32", "values": 2**70, "shared": True}, None),
        ({"type": "F32", "values": 10**12, "shared": False}, None),  # larger than the model
        (["F32", 512], None),
        (None, None),
    ],
)
def test_an_input_embedding_is_known_or_not(said: object, size: int | None) -> None:
    assert facts_of_server("mine", {"file_size": 10**12, "input_embedding": said}, None).embedding == size


def test_more_slots_are_no_reason_for_less_memory() -> None:
    """Was "16 % less than estimated: the run saw no limit to the slots, and 1 is assumed"."""
    facts = Facts(name="m", weights=10 * GIB, weights_from="", cache=KVCache(2**20), width=4096)
    plan = MemoryPlan(facts=facts, context=4096)
    for size, said in (
        (8, "14.00 GiB estimated."),
        (21, "estimated: the run saw no limit to the slots, and 1 is assumed."),
    ):
        reading = MemoryReading("ollama", "", size * GIB, 14 * GIB, simulated=False)
        sentence = difference_sentence(MemoryComparison(plan, "assumed", (reading,), vram=0, simulated=False))
        assert str(sentence).endswith(said)


def test_without_a_gpu_the_server_counts_weights_and_kv_cache_alone() -> None:
    facts = Facts(name="m", weights=10 * GIB, weights_from="", cache=KVCache(2**20), width=4096)
    plan = MemoryPlan(facts=facts, context=1024)  # 2 GiB a slot
    assert report.estimate_sentences(plan, LoadedMemory(18 * GIB, 0), None)[2:] == [
        "The server reports 18.00 GiB for the loaded model; the estimate of weights and KV cache is 12.00 GiB.",
        "That is 6.00 GiB (50 %) more than estimated.",
        "4 slots (18.00 GiB) would explain what the server reports.",
        "No part of the model is on a GPU.",
    ]
    assert "would explain" not in " ".join(report.estimate_sentences(plan, LoadedMemory(17 * GIB, 0), None))
    # A real Ollama 0.24 leaves the input embedding out, here as large as a slot: 4 slots were "3 slots would explain".
    embedded = replace(plan, facts=replace(facts, embedding=2 * GIB))
    either = "3 slots (16.00 GiB) or 4 slots (16.00 GiB without the input embedding) would explain"
    assert either in " ".join(report.estimate_sentences(embedded, LoadedMemory(16 * GIB, 0), None))
    # Its own engine counts its buffers: of 2 slots it was said that 5 would explain them.
    buffers = report.estimate_sentences(plan, LoadedMemory(12 * GIB + 2**29, 0), None)
    assert (
        "Buffers of 512.0 MiB, which not every Ollama counts without a GPU, would explain what the server reports."
        in buffers
    )
    # Its own engine has one that the output shares twice, of Gemma 3 and Qwen 3: "no other plan", or one that is not.
    shared = report.estimate_sentences(
        replace(plan, facts=replace(facts, embedding=-GIB)), LoadedMemory(13 * GIB, 0), None
    )
    assert "the estimate of weights and KV cache with twice the input embedding is 13.00 GiB." in shared[2]
    assert shared[3] == "Ollama may have, and count, two of the input embedding (1.00 GiB)."
    assert report.estimate_sentences(embedded, LoadedMemory(10 * GIB, 0), None)[2:] == [
        "The server reports 10.00 GiB for the loaded model; the estimate of weights and KV cache without the input embedding is 10.00 GiB.",
        "Ollama does not always count the input embedding (2.00 GiB).",
        "No part of the model is on a GPU.",
    ]
    # A real Ollama with 8 slots of q8_0: "4 slots would explain", and nothing else; it counts a byte a value of such a cache.
    eight = replace(plan, slots=8)
    both = report.estimate_sentences(eight, LoadedMemory(18 * GIB, 0), None)
    assert "4 slots (18.00 GiB) or a KV cache of q8_0 (18.00 GiB) would explain what the server reports." in both
    said = report.estimate_sentences(replace(eight, cache_dtype="q8_0"), LoadedMemory(18 * GIB, 0), None)
    assert "q8_0" not in " ".join(said)
    less = report.estimate_sentences(plan, LoadedMemory(11 * GIB, 11 * GIB), None)
    assert "Weights and KV cache alone are 1.00 GiB more than the server reports." in less
    on_a_gpu = " ".join(report.estimate_sentences(plan, LoadedMemory(18 * GIB, 18 * GIB), None))
    assert (
        "Besides weights and the KV cache of 1 slot, the server counts 6.00 GiB; the allowance for buffers is"
        in on_a_gpu
    )
    assert "allowance for buffers is 129.0 MiB. 4 slots (18.13 GiB) would explain what the server reports." in on_a_gpu
