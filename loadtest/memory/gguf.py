"""Headers of GGUF files, and ggml's tensor types. Tensor data is never read.

Layout: magic "GGUF", version, tensor count, metadata count; metadata as (key, type, value); then for every tensor its
name, dimensions, type and offset. All little-endian (github.com/ggml-org/ggml, docs/gguf.md).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from loadtest.errors import ScenarioError, os_error_as

TYPES: dict[str, tuple[int, int, int]] = {  # name → (number in the file, values per block, bytes per block)
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q8_1": (9, 32, 40),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "Q8_K": (15, 256, 292),
    "IQ2_XXS": (16, 256, 66),
    "IQ2_XS": (17, 256, 74),
    "IQ3_XXS": (18, 256, 98),
    "IQ1_S": (19, 256, 50),
    "IQ4_NL": (20, 32, 18),
    "IQ3_S": (21, 256, 110),
    "IQ2_S": (22, 256, 82),
    "IQ4_XS": (23, 256, 136),
    "I8": (24, 1, 1),
    "I16": (25, 1, 2),
    "I32": (26, 1, 4),
    "I64": (27, 1, 8),
    "F64": (28, 1, 8),
    "IQ1_M": (29, 256, 56),
    "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36),
    "Q1_0": (41, 128, 18),
}
_TYPE_NAMES = {number: name for name, (number, _, _) in TYPES.items()}
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LONGEST_ARRAY = 4096  # longer arrays are not kept: one value per layer is needed, a vocabulary is not
# Keys of models of which some layers keep something else than keys and values, or only for a part of the context.
KEEP_OTHERS = ("attention.kv_lora_rank", "attention.cross_attention_layers", "attention.chunk_size")
_BY_LAYER = (
    *("attention.head_count", "attention.head_count_kv"),
    *("feed_forward_length", "attention.sliding_window_pattern"),
)
MOST_LAYERS, MOST_OF_MODEL = 10_000, 2**40  # of layers, and of anything else that is counted: more is damage
_SPLIT_NAME = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SHORT = "ends inside its header: it is damaged, or its download is not complete"


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in the file; the first of `dimensions` is the one that varies fastest, as in ggml."""

    name: str
    dimensions: tuple[int, ...]
    type: str

    @property
    def parameters(self) -> int:
        return math.prod(self.dimensions)

    @property
    def bytes(self) -> int:
        """Bytes of its data, without padding."""
        return size_of(self.type, self.parameters)


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """The header of a GGUF file. `metadata` leaves out arrays of strings and arrays longer than 4096."""

    metadata: dict[str, Any]
    tensors: tuple[StoredTensor, ...]
    missing: int  # bytes by which the file is shorter than its header says: an incomplete download

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture") or "")

    @property
    def parameters(self) -> int:
        return sum(item.parameters for item in self.tensors)

    @property
    def weights(self) -> int:
        return sum(item.bytes for item in self.tensors)

    def facts(self) -> dict[str, Any]:
        """Return the keys of the architecture without their prefix, as run.json keeps /api/show's model_info."""
        prefix = self.architecture + "."
        return {key.removeprefix(prefix): value for key, value in self.metadata.items() if key.startswith(prefix)}


def whole_numbers(architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return what can be a model's of values under GGUF's keys: whole numbers, and lists of those where layers differ."""

    def can_be(key: str, value: Any) -> bool:
        if key in KEEP_OTHERS:
            return True
        if isinstance(value, list):
            return key in _BY_LAYER and all(isinstance(one, int) for one in value)
        return isinstance(value, int) and 0 <= value <= (MOST_LAYERS if key == "block_count" else MOST_OF_MODEL)

    return {key: value for key, value in architecture.items() if can_be(key, value)}


def size_of(kind: str, values: int) -> int:
    """Return the bytes of so many values of a type, in rows of whole blocks."""
    _, block, size = TYPES[kind]
    return values // block * size


def read_gguf(path: Path) -> GgufHeader:
    """Read the header of a GGUF file, or of all parts of a split one; raise ScenarioError."""
    first = _read_one(path)
    parts = _count(first.metadata, "split.count", 1)
    match = _SPLIT_NAME.search(path.name)
    if parts == 1 or match is None:
        return first
    others = [
        path.with_name(f"{path.name[: match.start()]}-{number:05}-of-{match.group(2)}.gguf")
        for number in range(1, int(match.group(2)) + 1)
    ]
    for other in others:
        if not other.is_file():
            raise ScenarioError(f"{path} is one of {len(others)} parts, and {other.name} is not beside it.")
    headers = [_read_one(other) for other in others]
    return GgufHeader(
        headers[0].metadata,
        tuple(item for header in headers for item in header.tensors),
        sum(header.missing for header in headers),
    )


def _read_one(path: Path) -> GgufHeader:
    with os_error_as(ScenarioError, f"cannot read {path}"), path.open("rb") as file:
        return _parse_header(_HeaderReader(file, path))


class _HeaderReader:
    """Reads little-endian values; every length is checked against the file's, because damage shows as a huge length."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self._path = file, path
        self.size = path.stat().st_size

    def refuse(self, wrong: object, what: str) -> None:
        """Raise ScenarioError where the file is wrong; `what` follows its name."""
        if wrong:
            raise ScenarioError(f"{self._path} {what}.")

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.size else b""
        self.refuse(len(data) != count, _SHORT)
        return data

    def skip(self, count: int) -> None:
        self.refuse(self.file.tell() + count > self.size, _SHORT)
        self.file.seek(count, 1)

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        """Return a value; None for an array that is not kept."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        self.refuse(kind != _ARRAY, f"holds a value of unknown type {kind}: it is damaged, or newer than this program")
        return self._array(self.number("I"), self.number("Q"))

    def _array(self, kind: int, count: int) -> list[Any] | None:
        if kind in _SCALARS:
            width = struct.calcsize(_SCALARS[kind])
            if count > _LONGEST_ARRAY:
                self.skip(count * width)
                return None
            return list(struct.unpack(f"<{count}{_SCALARS[kind]}", self.take(count * width)))
        self.refuse(kind != _STRING, f"holds an array of type {kind}: it is damaged, or newer than this program")
        self.refuse(count > self.size, _SHORT)
        for _ in range(count):
            self.skip(self.number("Q"))
        return None


def _parse_header(reader: _HeaderReader) -> GgufHeader:
    reader.refuse(
        reader.size < 24 or reader.take(4) != b"GGUF",
        "is no GGUF file: it does not begin with GGUF",
    )
    version = reader.number("I")
    reader.refuse(version == 1, "is GGUF version 1, which no server loads any more")
    reader.refuse(
        version not in (2, 3),
        "is a GGUF file for big-endian machines or of a version newer than 3",
    )
    tensor_count, key_count = reader.number("Q"), reader.number("Q")
    metadata = {}
    for _ in range(key_count):
        key = reader.text()
        if (value := reader.value(reader.number("I"))) is not None:
            metadata[key] = value
    placed = [_tensor(reader) for _ in range(tensor_count)]
    alignment = _count(metadata, "general.alignment", 32)
    data = -(-reader.file.tell() // alignment) * alignment
    missing = max((data + offset + tensor.bytes - reader.size for tensor, offset in placed), default=0)
    return GgufHeader(metadata, tuple(tensor for tensor, _ in placed), max(missing, 0))


def _count(metadata: Mapping[str, Any], key: str, usual: int) -> int:
    found = metadata.get(key)
    return found if isinstance(found, int) and found > 0 else usual


def _tensor(reader: _HeaderReader) -> tuple[StoredTensor, int]:
    """Return a tensor, and where its data begin behind the header."""
    name, depth = reader.text(), reader.number("I")
    reader.refuse(depth > 8, f"says that tensor {name[:40]!r} has {depth} dimensions: it is damaged")
    dimensions = tuple(reader.number("Q") for _ in range(depth))
    number = reader.number("I")
    reader.refuse(
        number not in _TYPE_NAMES,
        f"stores tensor {name[:40]!r} in type {number}, which is not known here",
    )
    kind, row = _TYPE_NAMES[number], dimensions[0] if dimensions else 1
    block = TYPES[kind][1]
    reader.refuse(
        row % block,
        f"says that tensor {name[:40]!r} is {kind}, but rows of {row} cannot be cut into blocks of {block}: it is damaged",
    )
    return StoredTensor(name, dimensions, kind), reader.number("Q")
