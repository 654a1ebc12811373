"""GGUF headers: read back exactly, whole, split, cut or damaged; and the tensors of a shape against a file's."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from support import llamacpp
from support.made_memory import write_gguf

from loadtest.errors import ScenarioError
from loadtest.memory import estimate, shapes, weights
from loadtest.memory import gguf as header
from loadtest.memory.estimate import KVCache

Call = Callable[..., tuple[int, str, str]]
GIB = 2**30


def test_types_are_those_of_ggml() -> None:
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        if kind.name in header.TYPES:
            assert header.TYPES[kind.name] == (kind.value, block, size)
    assert {"F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q6_K"} <= set(header.TYPES)


def test_a_file_is_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    written = write_gguf(path)
    read = header.read_gguf(path)
    assert {item.name: (item.type, item.bytes) for item in read.tensors} == written
    assert read.weights == sum(size for _, size in written.values())
    assert read.weights == sum(int(item.n_bytes) for item in gguf.GGUFReader(path).tensors)
    assert read.facts()["attention.head_count_kv"] == [2, 2, 1]
    assert "tokenizer.ggml.tokens" not in read.metadata
    assert read.missing == 0
    facts = estimate.facts_of_gguf(path.name, read)
    assert facts.cache == KVCache(2 * 64 * 5)
    assert facts.vocabulary == 1000


def test_a_split_file_is_summed_over_its_parts(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "whole.gguf")
    write_gguf(tmp_path / "part.gguf", split=2)
    parts = sorted(tmp_path.glob("part-*.gguf"))
    assert len(parts) > 1
    assert {item.name: (item.type, item.bytes) for item in header.read_gguf(parts[-1]).tensors} == whole
    parts[1].unlink()
    with pytest.raises(ScenarioError, match="is not beside it"):
        header.read_gguf(parts[0])


def _missing(path: Path) -> bool:
    """Whether the reader says that the file is damaged or cut; any other exception is the reader's mistake."""
    try:
        return header.read_gguf(path).missing > 0
    except ScenarioError:
        return True


def test_a_file_cut_anywhere_is_said_to_be_cut(tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    write_gguf(path)
    body = path.read_bytes()
    for end in [*range(0, 400, 7), *range(400, len(body), 4099), len(body) - 100]:
        path.write_bytes(body[:end])
        assert _missing(path)
    path.write_bytes(body[:-100])
    assert header.read_gguf(path).missing == 100


def test_rubbish_after_the_magic_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "rubbish.gguf"
    write_gguf(path)
    body = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(300):
        damaged = bytearray(body[:6000])
        damaged[int(rng.integers(4, 3000))] = int(rng.integers(256))
        path.write_bytes(bytes(damaged))
        _missing(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", "three"),
        ("llama.block_count", 2**31),
        ("llama.context_length", 1e300),
        ("llama.attention.key_length", [8, 8]),
        ("llama.embedding_length", 2**62),
    ],
)
def test_values_that_cannot_be_a_models_are_unknown(key: str, value: Any) -> None:
    tensor = header.StoredTensor("token_embd.weight", (64, 100), "F16")
    made = {"general.architecture": "llama", "llama.block_count": 2, "llama.attention.head_count_kv": 1}
    made |= {"llama.attention.head_count": 1, "llama.attention.key_length": 8}
    facts = estimate.facts_of_gguf("x", header.GgufHeader({**made, key: value}, (tensor,), 0))
    plan = estimate.MemoryPlan(facts=facts)
    assert plan.total > facts.weights
    assert (facts.cache is None) == (key in ("llama.block_count", "llama.attention.key_length"))
    assert facts.trained is None


def with_value(path: Path, key: bytes, kind: int, value: bytes) -> Path:
    """Write a file of one value and no tensor."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    path.write_bytes(head + struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value)
    return path


def test_odd_values_of_the_file_itself_are_passed_over_or_one_sentence(tmp_path: Path) -> None:
    for key in (b"general.alignment", b"split.count"):
        assert header.read_gguf(with_value(tmp_path / "x.gguf", key, 8, struct.pack("<Q", 1) + b"x")).missing == 0
    with pytest.raises(ScenarioError, match="holds an array of type 9"):
        header.read_gguf(with_value(tmp_path / "deep.gguf", b"k", 9, struct.pack("<IQ", 9, 1) * 5000))


def test_the_tensors_of_a_shape_are_those_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    llamacpp.write_model(path, width=256, blocks=3)
    read = header.read_gguf(path)
    facts = read.facts()
    vocabulary = next(item.dimensions[1] for item in read.tensors if item.name == "token_embd.weight")
    shape = shapes.Shape("llama", 3, 256, facts["feed_forward_length"], 4, 2, vocabulary)
    assert weights.weigh(shape, "f32") == read.weights
    assert shape.parameters == read.parameters
