"""What Ollama's /api/show says of a model's shape, from which memory is estimated."""

from __future__ import annotations

import math
from typing import Any

from loadtest.targets.server.control import as_count, as_mapping, as_positive, as_text


def architecture_of(info: dict[str, Any]) -> dict[str, Any]:
    """Return what decides the sizes of weights and KV cache, under GGUF's names without the family's prefix."""
    names = (
        *("block_count", "embedding_length", "attention.head_count", "attention.head_count_kv"),
        *("attention.key_length", "attention.value_length", "attention.sliding_window"),
        *("attention.sliding_window_pattern", "attention.key_length_swa", "attention.value_length_swa"),
        *("attention.shared_kv_layers", "attention.cross_attention_layers", "attention.chunk_size"),
        *("attention.kv_lora_rank", "full_attention_interval", "ssm.state_size", "feed_forward_length"),
        *("vocab_size", "parameter_count"),
    )
    found = {}
    for key, value in info.items():
        if (name := key.partition(".")[2]) in names:
            one = (
                [as_count(int(item) if isinstance(item, bool) else item) for item in value]
                if isinstance(value, list)
                else as_count(value)
            )
            if one is not None and not (isinstance(one, list) and None in one):  # a list has a number for each layer
                found[name] = one
    return found


def input_embedding(tensors: Any) -> dict[str, Any] | None:
    """Return type and values of the input embedding, and whether it is the output's too; None where that is not known."""
    rows = {as_text(row.get("name")): row for row in map(as_mapping, tensors if isinstance(tensors, list) else [])}
    row = rows.get("token_embd.weight", {})
    kind, sizes = as_text(row.get("type")), row.get("shape")
    counts = [as_positive(size) for size in sizes] if isinstance(sizes, list) else []
    if kind is None or not counts or None in counts:
        return None
    if (values := as_positive(math.prod(count for count in counts if count))) is None:
        return None
    return {"type": kind, "values": values, "shared": "output.weight" not in rows}
