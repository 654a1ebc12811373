"""The control plane: what Ollama says of itself and its models, and what exporters say of its machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from loadtest.simulate.api.answer_formats import created_at
from loadtest.simulate.api.request_bodies import full_name
from loadtest.simulate.model.stream import Stage, Stream
from loadtest.simulate.profiles import ModelFacts, Profile

IMITATED_VERSION = "0.24.0"  # the Ollama that is imitated
_MODIFIED_NS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000_000 + 123_456_789
_KEEP_ALIVE_NS = 300 * 1_000_000_000
_TEMPLATE = (
    "{{ range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)


def api_version() -> dict[str, Any]:
    return {"version": IMITATED_VERSION}


def api_tags(profile: Profile) -> dict[str, Any]:
    model = profile.model
    entry = {
        "name": full_name(model.name),
        "model": full_name(model.name),
        "modified_at": created_at(_MODIFIED_NS).decode(),
        "size": model.size,
        "digest": _model_digest(model),
        "details": _ollama_details(model, parent=""),
    }
    return {"models": [entry]}


def api_ps(profile: Profile, *, num_ctx: int | None, wall_ns: int) -> dict[str, Any]:
    """Return /api/ps: the loaded model, with the KV cache of all slots; no model while `num_ctx` is None."""
    if num_ctx is None:
        return {"models": []}
    model = profile.model
    size = loaded_size(profile, num_ctx)
    entry = {
        "name": full_name(model.name),
        "model": full_name(model.name),
        "size": size,
        "digest": _model_digest(model),
        "details": _ollama_details(model, parent=""),
        "expires_at": created_at(wall_ns + _KEEP_ALIVE_NS).decode(),
        "size_vram": size if model.on_gpu else 0,
        "context_length": num_ctx,
    }
    return {"models": [entry]}


def loaded_size(profile: Profile, num_ctx: int) -> int:
    """Return the loaded model's bytes: its file and the KV cache of all slots, which is allocated when the model is loaded."""
    return profile.model.size + num_ctx * (profile.slots or 1) * profile.model.kv_bytes_per_token


def _watts(streams: int) -> int:
    """Return what a simulated GPU draws: 60 W idle, from 190 W up to 300 W at work. Nobody measured these."""
    return min(180 + 10 * streams, 300) if streams else 60


def metrics_page(
    profile: Profile, *, num_ctx: int | None, loading: tuple[int, float] | None = None, streams: Iterable[Stream]
) -> str:
    """Return a Prometheus page that agrees with /api/ps: a GPU as DCGM's exporter shows it, slots as llama.cpp does.

    The memory in use stays the same while a model is loaded, as with llama.cpp; the KV cache's use is what active streams
    hold of it. During a load (`loading`: context length, share done) the weights come in at a steady rate, then the cache
    at once. Utilisation is 100 while a batch runs, else 0; power is made up likewise, more with more streams. No request is
    ever "deferred", because requests wait in front of the engine, as with Ollama.
    """
    working = [stream for stream in streams if stream.stage in (Stage.PREFILL, Stage.DECODE)]
    lines = []
    if profile.model.on_gpu:
        labels = f'{{gpu="0",device="nvidia0",modelName="simulated {profile.name}",Hostname="simulated"}}'
        used = loaded_size(profile, num_ctx) if num_ctx is not None else 0.0
        if loading is not None:
            used = profile.model.size * loading[1]
        gauges = (
            ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", round(used / 2**20)),
            ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", 100 if working else 0),
            ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", _watts(len(working))),
        )
        for name, text, value in gauges:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name}{labels} {value}"]
    held = sum(stream.prompt_tokens - stream.todo + stream.tokens for stream in working)
    room = (num_ctx or 0) * (profile.slots or max(len(working), 1))
    figures = (
        ("llamacpp:requests_processing", "Number of requests processing.", len(working)),
        ("llamacpp:requests_deferred", "Number of requests deferred.", 0),
        (
            "llamacpp:kv_cache_usage_ratio",
            "KV-cache usage. 1 means 100 percent usage.",
            round(held / room, 6) if room else 0,
        ),
    )
    for name, text, number in figures:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {number}"]
    return "\n".join(lines) + "\n"


def api_show(profile: Profile) -> dict[str, Any]:
    model = profile.model
    blob = f"/usr/share/ollama/.ollama/models/blobs/sha256-{hashlib.sha256(model.name.encode()).hexdigest()}"
    return {
        "modelfile": f'# Modelfile generated by "ollama show"\nFROM {blob}\nTEMPLATE """{_TEMPLATE}"""\n',
        "parameters": 'stop                           "<|eot_id|>"',
        "template": _TEMPLATE,
        "details": _ollama_details(model, parent=blob),
        "model_info": {
            "general.architecture": model.family,
            "general.file_type": model.file_type,
            "general.parameter_count": model.parameters,
            "llama.attention.head_count": model.heads,
            "llama.attention.head_count_kv": model.kv_heads,
            "llama.attention.layer_norm_rms_epsilon": 0.00001,
            "llama.block_count": model.layers,
            "llama.context_length": model.context_length,
            "llama.embedding_length": model.width,
            "llama.feed_forward_length": model.feed_forward,
            "llama.rope.dimension_count": model.width // model.heads,
            "llama.rope.freq_base": 500000,
            "llama.vocab_size": model.vocabulary,
            "tokenizer.ggml.add_bos_token": True,
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 1,
            "tokenizer.ggml.merges": None,
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.token_type": None,
            "tokenizer.ggml.tokens": None,
        },
        "tensors": _tensor_list(model),
        "capabilities": ["completion"],
        "modified_at": created_at(_MODIFIED_NS).decode(),
    }


def v1_models(profile: Profile) -> dict[str, Any]:
    created = _MODIFIED_NS // 1_000_000_000
    entry = {"id": full_name(profile.model.name), "object": "model", "created": created, "owned_by": "library"}
    return {"object": "list", "data": [entry]}


def _model_digest(model: ModelFacts) -> str:
    return hashlib.sha256(f"{model.name} {model.parameters}".encode()).hexdigest()


def _ollama_details(model: ModelFacts, *, parent: str) -> dict[str, Any]:
    return {
        "parent_model": parent,
        "format": "gguf",
        "family": model.family,
        "families": [model.family],
        "parameter_size": model.parameter_size,
        "quantization_level": model.quantization,
    }


def _tensor_list(model: ModelFacts) -> list[dict[str, Any]]:
    width, kv = model.width, model.kv_heads * (model.width // model.heads)
    block: dict[str, list[int]] = {
        "attn_norm": [width],
        "attn_q": [width, width],
        "attn_k": [width, kv],
        "attn_v": [width, kv],
        "attn_output": [width, width],
        "ffn_norm": [width],
        "ffn_gate": [width, model.feed_forward],
        "ffn_up": [width, model.feed_forward],
        "ffn_down": [model.feed_forward, width],
    }
    shapes = {"token_embd.weight": [width, model.vocabulary]}
    shapes |= {f"blk.{n}.{name}.weight": shape for n in range(model.layers) for name, shape in block.items()}
    shapes |= {"output_norm.weight": [width], "output.weight": [width, model.vocabulary]}
    kind = model.quantization
    return [{"name": name, "type": kind if len(shape) > 1 else "F32", "shape": shape} for name, shape in shapes.items()]
