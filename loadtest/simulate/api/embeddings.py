"""Embeddings: /api/embed and /v1/embeddings as Ollama answers them. A vector depends on its text alone."""

from __future__ import annotations

import base64
import math
import random
import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from loadtest.simulate.api import text
from loadtest.simulate.api.answer_formats import AnswerFormat
from loadtest.simulate.api.request_bodies import GenerationRequest, RefusedError, check_model
from loadtest.simulate.model.stream import Stream
from loadtest.simulate.profiles import Profile

DIMENSIONS = 256


def read_embedding_request(endpoint: str, fields: dict[str, Any], profile: Profile) -> GenerationRequest:
    """Return what /api/embed or /v1/embeddings asks for; raise RefusedError where Ollama answers with an error."""
    model = check_model(fields, profile, required=True)
    given = fields.get("input", "")
    inputs = [given] if isinstance(given, str) and given else given or []
    if not isinstance(inputs, list) or not all(isinstance(one, str) for one in inputs):
        raise RefusedError(400, "invalid input type")
    if endpoint == "v1-embeddings" and not inputs:
        raise RefusedError(400, "invalid input")
    options = fields.get("options") or {}
    prompts = tuple(tuple(text.pieces(one)) for one in inputs)
    return GenerationRequest(
        endpoint=endpoint,
        model=model,
        opening=inputs[0][:80] if inputs else "",
        prompt=prompts[0] if prompts else (),
        more_prompts=prompts[1:],
        inputs=tuple(inputs),
        limit=1,
        natural=None,
        num_ctx=int(options.get("num_ctx") or profile.num_ctx) if endpoint == "embed" else profile.num_ctx,
        stream=False,
        load_only=not inputs,
        packed=fields.get("encoding_format") == "base64",
    )


@lru_cache(maxsize=256)
def vector(said: str) -> tuple[float, ...]:
    """Return the made-up embedding of a text, of length one."""
    rng = random.Random(said)
    values = [rng.gauss(0, 1) for _ in range(DIMENSIONS)]
    length = math.sqrt(sum(value * value for value in values))
    return tuple(round(value / length, 9) for value in values)


class EmbeddingsFormat(AnswerFormat):
    """Both answers; nothing of them comes before the whole."""

    def __init__(self, request: GenerationRequest, rng: random.Random) -> None:
        super().__init__(request, rng)
        if request.endpoint == "embed":
            self.content_type_whole = "application/json; charset=utf-8"

    def whole(self, _text: str, streams: Sequence[Stream], _wall_ns: int, total_ns: int) -> bytes:
        tokens = sum(stream.prompt_tokens for stream in streams)
        vectors = [vector(one) for one in self._request.inputs]
        if self._request.endpoint == "embed":
            said: dict[str, Any] = {"model": self._request.model, "embeddings": vectors}
            if vectors:
                load = max(stream.load_ns for stream in streams)
                said |= {"total_duration": total_ns, "load_duration": load, "prompt_eval_count": tokens}
            return orjson.dumps(said)
        data = [
            {"object": "embedding", "embedding": _packed(one) if self._request.packed else one, "index": i}
            for i, one in enumerate(vectors)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return orjson.dumps({"object": "list", "data": data, "model": self._request.model, "usage": usage}) + b"\n"


def _packed(values: Sequence[float]) -> str:
    """Return a vector as OpenAI's own client asks for it: floats of 32 bits in base64."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")
