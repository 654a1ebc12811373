"""Embeddings: Ollama's /api/embed and OpenAI's /v1/embeddings. An answer has vectors, no text, and comes in one piece."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from loadtest.dialects.answers.decoded import Rows
from loadtest.dialects.answers.decoding import StreamDecoder
from loadtest.dialects.answers.errors import error_rows, server_errors
from loadtest.dialects.answers.lines.lenient_json import parse_json
from loadtest.dialects.answers.rows.counts import (
    PROMPT,
    TOTAL,
    durations_and_counts,
    first_count,
    storable,
)
from loadtest.dialects.base import Dialect, Said, field_named
from loadtest.workloads.job import Job

NO_VECTORS = "the answer holds no embedding"
EMPTY_VECTORS = "some of the answer's embeddings hold no numbers"
ZEROS = "some of the answer's embeddings hold nothing but zeros"
MOST_LOOKED_AT = 16  # numbers of a vector
# Names under which vectors come: of the answer's own, and of objects on the way to the numbers (Gemini, Vertex, DashScope)
_NAMES = ("embeddings", "embedding", "data", "vectors", "vector", "predictions", "results")
_WITHIN = (*_NAMES, "values", "dense", "float")
_COUNTS = ("total_tokens", "input_token_count", "prompt_eval_count")  # of the prompt, in the answer itself
_DEEPEST = 4  # objects around numbers


@dataclass(frozen=True, slots=True)
class _Embeddings(Dialect):
    """What both have in common: texts in, vectors out."""

    endpoint: ClassVar[str] = "embeddings"
    streams: ClassVar[bool] = False

    def said(self, job: Job) -> dict[str, Any]:
        return {"input": job.inputs or (job.prompt,)}

    def decoder(self) -> EmbeddingsDecoder:
        return EmbeddingsDecoder(EmbeddingRows)


@dataclass(frozen=True, slots=True)
class OllamaEmbed(_Embeddings):
    """POST /api/embed."""

    name: ClassVar[str] = "ollama-embeddings"
    api: ClassVar[str] = "ollama"
    path: ClassVar[str] = "/api/embed"
    says: ClassVar[Mapping[str, Said]] = {"keep_alive": field_named("keep_alive")}
    num_ctx: int | None = None

    def fixed(self, output_tokens: int | None) -> dict[str, Any]:  # noqa: ARG002 - an answer has no length
        return {"options": {"num_ctx": self.num_ctx}} if self.num_ctx is not None else {}


@dataclass(frozen=True, slots=True)
class OpenAIEmbeddings(_Embeddings):
    """POST /v1/embeddings; the base URL is the one without /v1."""

    name: ClassVar[str] = "openai-embeddings"
    api: ClassVar[str] = "openai"
    path: ClassVar[str] = "/v1/embeddings"


class EmbeddingsDecoder(StreamDecoder):
    """Decodes one JSON object."""

    __slots__ = ()
    others = ()  # text of whatever format holds no vectors

    def _whole(self, body: bytes) -> None:
        """Take a list of vectors, or of objects with one each (TEI, llama.cpp), as if it had a name."""
        value = parse_json(body) if body.lstrip().startswith(b"[") else None
        if isinstance(value, list):
            self._row({"data": value})
        else:
            super()._whole(body)


class EmbeddingRows(Rows):
    """Takes the answer of /api/embed, /api/embeddings or /v1/embeddings, which is whole once it can be read."""

    __slots__ = ()

    def knows(self, row: dict[str, Any]) -> bool:
        return any(isinstance(row.get(key), list) for key in _NAMES[:3])

    def take(self, row: dict[str, Any]) -> bool:
        answer, ending, note = self._answer, self._answer.ending, self._answer.note
        name = next((key for key in _NAMES if row.get(key)), "")
        value = row.get(name)
        full, empty = _count_vectors(value)
        said = error_rows.error_in_row(row) or (
            None if full else error_rows.error_in_envelope(row) or error_rows.message_alone(row)
        )
        if said is not None:
            answer.fail(said)
        elif not full:
            answer.fail(
                f"{NO_VECTORS}: it begins with {server_errors.quoted_beginning(server_errors.as_json(row), 160)}"
            )
        elif empty:
            answer.doubt(EMPTY_VECTORS)
        elif isinstance(value, list) and any(map(_is_zero, value)):
            answer.doubt(ZEROS)
        if name != "embedding" and isinstance(value, list) and not _is_number(value[0]):
            ending.vectors = len(value)
        ending.done = ending.error is None
        usage = row.get("usage")
        if isinstance(usage, dict):
            ending.server["usage"] = storable(usage, "usage", note)
        elif isinstance(meta := row.get("meta"), dict):  # Cohere's
            usage = meta.get("billed_units")
        counts = usage if isinstance(usage, dict) else {name: row[name] for name in _COUNTS if name in row}
        ending.prompt_tokens = first_count(counts, PROMPT, note) or first_count(counts, TOTAL, note) or None
        ending.server |= durations_and_counts(row, note)
        answer.over = True
        return False


def _count_vectors(value: Any) -> tuple[int, int]:
    """Return how many vectors of an answer have a number or are base64, and how many are empty or nothing but null."""
    if isinstance(value, dict):  # one, or Cohere's lists by type, null where a type was not asked for
        value = [value] if not value.keys().isdisjoint(_WITHIN) else [one for one in value.values() if one is not None]
    vectors = value if isinstance(value, list) and value and not _is_number(value[0]) else [value]
    found = [_has_numbers(_numbers_in(one)) for one in vectors]
    return sum(found), len(found) - sum(found)


def _numbers_in(vector: Any, depth: int = _DEEPEST) -> Any:
    """Return what holds a vector's numbers, out of the objects around it."""
    if not isinstance(vector, dict) or not depth:
        return vector
    inner = next((vector[name] for name in _WITHIN if vector.get(name)), None)
    return _numbers_in(inner, depth - 1)


def _has_numbers(vector: Any) -> bool:
    if isinstance(vector, list):
        return any(_is_number(one) or _has_numbers(_numbers_in(one)) for one in vector[:MOST_LOOKED_AT])
    return isinstance(vector, str) and bool(vector)


def _is_zero(vector: Any) -> bool:
    vector = _numbers_in(vector)
    return isinstance(vector, list) and not any(vector)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
